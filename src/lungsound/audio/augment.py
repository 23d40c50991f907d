"""Augmentation of training cycles: changes of the waveform; on the filter bank another stethoscope, and SpecAugment.

All draw first, then apply the draw to a copy. The published program draws one of nlpaug's changes of the waveform;
SpecAugment is that of Park et al., 2019.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lungsound.config import AugmentSettings
from lungsound.config import WaveformChange as Kind
from lungsound.extras import load


@dataclass(frozen=True)
class SpecAugmentDraw:
    """The masks for one filter bank: bins of an axis; an empty slice masks nothing."""

    frequency: tuple[slice, ...] = ()
    time: tuple[slice, ...] = ()


def draw_specaugment(
    num_frames: int, num_mels: int, settings: AugmentSettings, *, num_encoded: int | None, generator: torch.Generator
) -> SpecAugmentDraw:
    """Draw whether to mask, then for each mask its width and its start, frequency masks first.

    Where only the first `num_encoded` frames are encoded, time masks lie in them, and are shorter in proportion:
    one made for the complete input may hide all of a short cycle. A width is int(U(0, max)), max at most the length
    of the axis; the start is any at which the mask fits (the published program draws it with random.randint).
    `generator` is one of the CPU's.
    """
    if settings.gate == "published":
        is_applied = torch.randn((), generator=generator).item() <= 1
    else:
        is_applied = torch.rand((), generator=generator).item() < settings.probability
    if not is_applied:
        return SpecAugmentDraw()

    def draw_masks(number: int, size: int, max_width: int) -> tuple[slice, ...]:
        masks = []
        for _ in range(number):
            width = int(torch.rand((), generator=generator, dtype=torch.float64).item() * min(max_width, size))
            start = int(torch.randint(size - width + 1, (), generator=generator).item())
            masks.append(slice(start, start + width))
        return tuple(masks)

    num_maskable = num_frames if num_encoded is None else num_encoded
    max_time_width = round(settings.max_time_width * num_maskable / num_frames)
    return SpecAugmentDraw(
        frequency=draw_masks(settings.num_frequency_masks, num_mels, settings.max_frequency_width),
        time=draw_masks(settings.num_time_masks, num_maskable, max_time_width),
    )


def apply_specaugment(fbank: Tensor, draw: SpecAugmentDraw, *, fill: Literal["mean", "zero"]) -> Tensor:
    """Copy of the filter bank (time, mel) with the drawn masks filled in.

    "mean" fills frequency masks with the mean of the whole input, time masks with the mean after the frequency masks.
    """
    masked = fbank.clone()
    for axis, masks in ((masked.T, draw.frequency), (masked, draw.time)):
        value = masked.mean() if fill == "mean" else masked.new_zeros(())
        for mask in masks:
            axis[mask] = value
    return masked


RESPONSE_POINTS = 5  # of a random frequency response, evenly spaced over the mels


def draw_response(num_mels: int, settings: AugmentSettings, *, generator: torch.Generator) -> Tensor:
    """Frequency response (mel,) in dB of another stethoscope: a smooth random curve, and a gain on all mels.

    The curve goes from one normal value to the next by raised cosines whose squares sum to one at each mel, so that its
    deviation is `response_db` everywhere. `generator` is one of the CPU's.
    """
    points, gain = torch.randn(RESPONSE_POINTS, generator=generator), torch.randn((), generator=generator)
    places = torch.linspace(0, RESPONSE_POINTS - 1, num_mels).unsqueeze(1)
    weights = 1 + torch.cos(torch.pi * (places - torch.arange(RESPONSE_POINTS)).abs().clamp(max=1))
    return settings.response_db * functional.normalize(weights, dim=1) @ points + settings.gain_db * gain


def apply_response(fbank: Tensor, response_db: Tensor, *, std: float) -> Tensor:
    """Copy of a filter bank (time, mel), normalised with `std`, as heard with this response (mel,)."""
    return fbank + response_db * (math.log(10) / 10) / (2 * std)


# Unit of `WaveformChange.amount`, and the range from which it is drawn evenly. Loudness, pitch and warp have the
# published ranges. nlpaug's speeds, half to double, would make another breath of a cycle.
RANGES: dict[Kind, tuple[float, float]] = {
    "noise": (5.0, 40.0),  # signal-to-noise ratio in dB
    "speed": (0.8, 1.25),  # times as fast, at the same pitch
    "loudness": (0.5, 2.0),  # factor of the amplitude
    "pitch": (-1.0, 3.0),  # semitones, at the same length
    "warp": (0.9, 1.1),  # factor alpha of the lower frequencies, at the same length
}
STRETCHED: frozenset[Kind] = frozenset({"speed", "pitch", "warp"})

WARP_LIMIT = 0.3  # of the sample rate, 4800 Hz at 16 kHz: about where a warp stops to multiply frequencies


@dataclass(frozen=True)
class WaveformChange:
    """One drawn change; the unit of `amount` is that of the kind in `RANGES`. `noise_seed` gives the noise."""

    kind: Kind
    amount: float
    noise_seed: int = 0


def draw_waveform_change(
    kinds: Sequence[Kind], *, generator: torch.Generator, probability: float
) -> WaveformChange | None:
    """With `probability` one of `kinds`, each as likely, and its amount; else None. `generator` is one of the CPU's."""
    if torch.rand((), generator=generator, dtype=torch.float64).item() >= probability:
        return None
    kind = kinds[int(torch.randint(len(kinds), (), generator=generator).item())]
    low, high = RANGES[kind]
    amount = low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()
    return WaveformChange(kind, amount, noise_seed=int(torch.randint(2**62, (), generator=generator).item()))


def change_waveform(waveform: Tensor, change: WaveformChange, *, sample_rate_hz: int) -> Tensor:
    """Changed copy of a waveform (samples,), float32 on the CPU; only "speed" gives another length.

    "warp" moves frequencies as another length of the vocal tract would (Jaitly & Hinton, 2013): up to `WARP_LIMIT`
    * rate / sqrt(alpha) they are multiplied by alpha, above it moved as far as there. Theirs compresses or spreads
    what is above, so that the Nyquist frequency stays; here that may be lost, or nothing may come there.
    """
    if change.kind == "noise":
        # White Gaussian; its expected power is that of the waveform divided by 10 ** (dB / 10).
        generator = torch.Generator().manual_seed(change.noise_seed)
        noise = torch.randn(waveform.shape, generator=generator, dtype=waveform.dtype)
        return waveform + noise * (waveform.square().mean().sqrt() * 10 ** (-change.amount / 20))
    if change.kind == "loudness":
        return waveform * change.amount
    seed = 0  # without one it takes one from the system
    stretch = load("python_stretch", extra="augment").Signalsmith.Stretch(seed)
    stretch.preset(1, sample_rate_hz)
    if change.kind == "speed":
        stretch.setTimeFactor(change.amount)
    elif change.kind == "pitch":
        stretch.setTransposeSemitones(change.amount)
    else:
        stretch.setTransposeFactor(change.amount, WARP_LIMIT)
    return torch.from_numpy(stretch.process(waveform.numpy()[np.newaxis])[0])


def check_installed(kinds: Sequence[Kind]) -> None:
    """SettingsError when one of `kinds` needs a package that is not installed."""
    if STRETCHED & set(kinds):
        load("python_stretch", extra="augment")
