"""Waveforms resampled, faded, cut into cycles and fitted to a length.

The published order: read and `resample`, `fade` the complete recording, `cut` a cycle out of it, `fit` the cycle.
"""

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lungsound.errors import AudioError, SettingsError

Padding = Literal["repeat", "zero"]

ZERO_CROSSINGS = 6
ROLLOFF = 0.99
BLOCK_PHASES = 16  # output samples of one product: more need more taps that are 0, fewer leave the processor idle


def resample(waveform: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Waveform (samples,) at another rate: (ceil(samples * to_hz / from_hz),), zeros beyond its ends.

    Band-limited interpolation with a Hann-windowed sinc, the resampler of the published program. No gradients.
    """
    if from_hz == to_hz:
        return waveform
    step, num_phases = _reduced(from_hz, to_hz)
    num_periods, kernels = _block_kernels(from_hz, to_hz)
    row_step, row_phases = num_periods * step, num_periods * num_phases
    num_resampled = -(-len(waveform) * num_phases // step)
    num_rows = -(-num_resampled // row_phases)
    width = _kernel_width(step, num_phases)
    padded = F.pad(waveform, (width, num_rows * row_step + width + 1 - len(waveform)))
    rows = waveform.new_empty(num_rows, row_phases)
    for block, kernel in enumerate(kernels):
        first = block * BLOCK_PHASES
        samples = padded.as_strided((num_rows, len(kernel)), (row_step, 1), first * step // num_phases)
        torch.mm(samples, kernel.to(waveform), out=rows[:, first : first + kernel.shape[1]])
    return rows.view(-1)[:num_resampled]


@lru_cache(maxsize=8)
def _block_kernels(from_hz: int, to_hz: int) -> tuple[int, list[Tensor]]:
    """Kernels (tap, phase) of the blocks of a row of output samples, and the periods in a row.

    One kernel of all 160 phases of 44.1 -> 16 kHz would be zeros for nine tenths. A row is as long as the taps of a
    block at least: samples of neighbouring rows are then a matrix that needs no copy.
    """
    step, num_phases = _reduced(from_hz, to_hz)
    most_taps = (BLOCK_PHASES - 1) * step // num_phases + 2 * _kernel_width(step, num_phases) + 2
    num_periods = -(-most_taps // step)
    end = num_periods * num_phases
    kernels = [
        resample_kernel(from_hz, to_hz, first_phase=first, num_phases=min(BLOCK_PHASES, end - first))[:, 0].T
        for first in range(0, end, BLOCK_PHASES)
    ]
    return num_periods, kernels


def resample_kernel(from_hz: int, to_hz: int, *, first_phase: int = 0, num_phases: int | None = None) -> Tensor:
    """Kernels (phase, 1, tap) in float64 of some output phases from `first_phase` on; default: one period, to_hz / gcd.

    Output sample i stands at input time i * from_hz / to_hz; that is its phase. The cut-off is .99 of the lower
    Nyquist frequency, the Hann window spans 6 zero crossings of the sinc on each side.
    """
    step, period = _reduced(from_hz, to_hz)
    cutoff = ROLLOFF * min(1.0, period / step)
    width = _kernel_width(step, period)
    end_phase = first_phase + (period if num_phases is None else num_phases)
    first_tap = first_phase * step // period - width
    last_tap = (end_phase - 1) * step // period + width
    taps = torch.arange(first_tap, last_tap + 1, dtype=torch.float64)
    centres = torch.arange(first_phase, end_phase, dtype=torch.float64).unsqueeze(1) * step / period
    offset = ((taps - centres) * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = torch.cos(offset * (math.pi / (2 * ZERO_CROSSINGS))) ** 2
    return (torch.sinc(offset) * window * cutoff).unsqueeze(1)


def _reduced(from_hz: int, to_hz: int) -> tuple[int, int]:
    """Input and output samples of one period, after which the places of both meet again."""
    common = math.gcd(from_hz, to_hz)
    return from_hz // common, to_hz // common


def _kernel_width(step: int, num_phases: int) -> int:
    """Input samples on each side of an output sample that have weight."""
    return math.ceil(ZERO_CROSSINGS * step / (ROLLOFF * min(step, num_phases)))


def fade(waveform: Tensor, *, num_samples: int, is_in: bool = True, is_out: bool = True) -> Tensor:
    """Copy of the waveform (..., samples) with a linear fade from 0 at its start and to 0 at its end.

    A fade longer than the waveform is shortened to it (the published program fails on such a recording).
    """
    faded = waveform.clone()
    num_faded = min(num_samples, waveform.shape[-1])
    if num_faded > 0:
        ramp = torch.linspace(0, 1, num_faded, dtype=waveform.dtype, device=waveform.device)
        if is_in:
            faded[..., :num_faded] *= ramp
        if is_out:
            faded[..., -num_faded:] *= 1 - ramp
    return faded


def cut(waveform: Tensor, *, start_s: float, end_s: float, sample_rate_hz: int) -> Tensor:
    """View of the samples [int(start_s * rate), int(end_s * rate)) of a waveform (..., samples), ends truncated.

    What lies beyond the end of the waveform is left out, as published. Raises AudioError when nothing is left.
    """
    part = waveform[..., max(0, int(start_s * sample_rate_hz)) : max(0, int(end_s * sample_rate_hz))]
    if start_s < 0 or part.shape[-1] == 0:
        length_s = waveform.shape[-1] / sample_rate_hz
        raise AudioError(
            f"no samples from {start_s:g} s to {end_s:g} s of a recording of {length_s:g} s: "
            "the start must be 0 or more, before the end, and within the recording"
        )
    return part


def fit(waveform: Tensor, num_samples: int, *, padding: Padding, fade_samples: int) -> Tensor:
    """Waveform (samples,) brought to `num_samples`, by the published rules.

    A longer one gives its first part, without a fade. Otherwise, equality included, "repeat" tiles it, cuts the tiles
    to length and fades out the last `fade_samples`; "zero" puts it in the middle of zeros, without a fade.
    """
    length = len(waveform)
    if length == 0:
        raise AudioError("a waveform of 0 samples cannot be repeated or padded; leave this cycle out")
    if length > num_samples:
        return waveform[:num_samples]
    if padding == "repeat":
        tiled = waveform.repeat(math.ceil(num_samples / length))[:num_samples]
        return fade(tiled, num_samples=fade_samples, is_in=False)
    if padding == "zero":
        before = (num_samples - length) // 2
        return F.pad(waveform, (before, num_samples - length - before))
    raise SettingsError(f"unknown padding '{padding}': use 'repeat' or 'zero'")
