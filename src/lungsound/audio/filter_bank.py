"""Log-mel filter banks as batched torch modules, Kaldi's and EfficientAT's, and their normalisation."""

import math
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lungsound.errors import AudioError, SettingsError

FilterBank = Literal["kaldi", "efficientat"]

AUDIOSET_MEAN = -4.2677393
AUDIOSET_STD = 4.5689974
# Mean and deviation with which weights were trained on AudioSet; EfficientAT's (x + 4.5) / 5 in AST's convention.
AUDIOSET_STATISTICS: dict[FilterBank, tuple[float, float]] = {
    "kaldi": (AUDIOSET_MEAN, AUDIOSET_STD),
    "efficientat": (-4.5, 2.5),
}

EFFICIENTAT_RATE_HZ = 32000
EFFICIENTAT_TOP_HZ = 15000.0
EFFICIENTAT_OFFSET = 1e-5  # added to the power: silence gives log(1e-5) = -11.512925

FRAME_MS, HOP_MS = 25, 10
PREEMPHASIS = 0.97
LOG_FLOOR = 1.1920929e-07  # the float32 epsilon: silence gives log(2 ** -23) = -15.942385
BLOCK_MELS = 16  # of one product on the CPU: few bins have weight in all of them


class LogMel(nn.Module):
    """Waveform (batch, samples), full scale 1, to log-mel filter bank (batch, time, mel) before normalisation.

    Kaldi's recipe: whole frames only; of each frame the mean is removed, then pre-emphasis .97 (its first sample
    with itself), a symmetric Hann window, zeros up to a power of two, power spectrum, triangles that are linear in
    mel = 1127 ln(1 + f / 700), natural logarithm with a floor. No dither, no scaling to 16-bit integers.

    At 16 kHz with 128 mels filter 3 catches no FFT bin and is always at the floor; pretrained weights expect that.
    `high_hz` None means the Nyquist frequency. Call it outside autocast: bfloat16 is too coarse for the logarithm.
    AudioError for a waveform shorter than one frame.
    """

    window: Tensor
    mel_banks: Tensor
    paired_banks: Tensor

    num_edge_frames = 0

    def __init__(
        self, *, sample_rate_hz: int = 16000, num_mels: int = 128, low_hz: float = 20.0, high_hz: float | None = None
    ) -> None:
        super().__init__()
        self.frame_size, self.hop_size = (int(sample_rate_hz * each_ms / 1000) for each_ms in (FRAME_MS, HOP_MS))
        if self.frame_size < 2 or self.hop_size < 1:
            raise SettingsError(f"frames of {FRAME_MS} ms every {HOP_MS} ms are too short at {sample_rate_hz} Hz")
        self.reach_size = self.frame_size
        self.fft_size = 1 << (self.frame_size - 1).bit_length()
        banks = mel_banks(
            num_mels, fft_size=self.fft_size, sample_rate_hz=sample_rate_hz, low_hz=low_hz, high_hz=high_hz
        )
        # In the working precision, not rounded from float64: the last digit decides bins close to the floor.
        self.register_buffer("window", torch.hann_window(self.frame_size, periodic=False), persistent=False)
        self.register_buffer("mel_banks", banks.T.to(torch.get_default_dtype()).contiguous(), persistent=False)
        # A row for the real and one for the imaginary part of each bin: a sum of squares without a pass of its own.
        self.register_buffer("paired_banks", self.mel_banks.repeat_interleave(2, dim=0), persistent=False)
        # Neighbouring mels, and the rows of the banks in which one of them has weight.
        self._blocks: list[tuple[slice, slice]] = []
        for first in range(0, num_mels, BLOCK_MELS):
            mels = slice(first, first + BLOCK_MELS)
            rows = self.paired_banks[:, mels].any(dim=1).nonzero()
            self._blocks.append((slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 1), mels))

    def num_frames(self, num_samples: int) -> int:
        """Frames in a waveform of this many samples; 0 when it is shorter than one frame."""
        return max(0, 1 + (num_samples - self.frame_size) // self.hop_size)

    def forward(self, waveform: Tensor) -> Tensor:
        return _clip_by_clip(self._log_mel, waveform, least=self.frame_size)

    def _log_mel(self, waveform: Tensor) -> Tensor:
        # In the recipe's order, on whose rounding bins close to the floor depend, but without copies: frames are made
        # where their zeros are. The window begins with 0: the first sample of a frame does not count.
        frames = waveform.unfold(-1, self.frame_size, self.hop_size)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        padded = frames.new_zeros(*frames.shape[:-1], self.fft_size)
        inside = padded[..., 1 : self.frame_size]
        torch.mul(frames[..., :-1], PREEMPHASIS, out=inside)
        torch.sub(frames[..., 1:], inside, out=inside).mul_(self.window[1:])
        spectrum: Tensor = torch.fft.rfft(padded)
        squares = torch.view_as_real(spectrum).square_().flatten(-2)
        if squares.device.type != "cpu" or torch.compiler.is_compiling():
            energies = squares @ self.paired_banks
        else:
            parts = [squares[..., bins] @ self.paired_banks[bins, mels] for bins, mels in self._blocks]
            energies = torch.cat(parts, dim=-1)
        return energies.clamp_(min=LOG_FLOOR).log_()


class EfficientATLogMel(nn.Module):
    """Waveform (batch, samples), full scale 1, to EfficientAT's filter bank (batch, time, mel) before normalisation.

    The recipe of its program in evaluation: pre-emphasis .97 of the whole waveform (one sample shorter), frames of
    1024 samples every 320 that are centred, with the waveform mirrored at both ends, a symmetric Hann window over the
    middle 800 of each, power spectrum, Kaldi's triangles from 0 to 15000 Hz, natural logarithm of power + 1e-5.

    The weights were trained on this at 32 kHz: another rate is a SettingsError. Call it outside autocast. AudioError
    for a waveform that is too short to be mirrored.
    """

    window: Tensor
    mel_banks: Tensor

    fft_size, window_size, hop_size = 1024, 800, 320
    least_samples = fft_size // 2 + 2  # what mirroring both ends needs
    num_edge_frames = 2  # into which the beginning is mirrored
    reach_size = least_samples

    def __init__(self, *, sample_rate_hz: int = EFFICIENTAT_RATE_HZ, num_mels: int = 128) -> None:
        super().__init__()
        if sample_rate_hz != EFFICIENTAT_RATE_HZ:
            raise SettingsError(
                f"EfficientAT's filter bank is made for {EFFICIENTAT_RATE_HZ} Hz, not {sample_rate_hz} Hz: "
                f"set audio.sample_rate_hz to {EFFICIENTAT_RATE_HZ}, or audio.filter_bank to kaldi"
            )
        banks = mel_banks(
            num_mels, fft_size=self.fft_size, sample_rate_hz=sample_rate_hz, low_hz=0.0, high_hz=EFFICIENTAT_TOP_HZ
        )
        self.register_buffer("window", torch.hann_window(self.window_size, periodic=False), persistent=False)
        self.register_buffer("mel_banks", banks.T.to(torch.get_default_dtype()).contiguous(), persistent=False)

    def num_frames(self, num_samples: int) -> int:
        """Frames in a waveform of this many samples; 0 when it is too short to be mirrored at its ends."""
        return 0 if num_samples < self.least_samples else 1 + (num_samples - 1) // self.hop_size

    def forward(self, waveform: Tensor) -> Tensor:
        return _clip_by_clip(self._log_mel, waveform, least=self.least_samples)

    def _log_mel(self, waveform: Tensor) -> Tensor:
        emphasised = waveform[..., 1:] - PREEMPHASIS * waveform[..., :-1]
        margin = self.fft_size // 2
        frames = F.pad(emphasised, (margin, margin), mode="reflect").unfold(-1, self.fft_size, self.hop_size)
        rest = (self.fft_size - self.window_size) // 2  # on each side of the window, where it is 0
        spectrum: Tensor = torch.fft.rfft(frames[..., rest : rest + self.window_size] * self.window, n=self.fft_size)
        power: Tensor = spectrum.real.square() + spectrum.imag.square()
        return (power @ self.mel_banks + EFFICIENTAT_OFFSET).log()


@torch.no_grad()
def mean_spectrum(
    log_mel: LogMel | EfficientATLogMel, waveform: NDArray[np.float32], *, piece_frames: int
) -> NDArray[np.float32]:
    """Mean (mel,) over the frames of a waveform (samples,) of any length, so many of them at a time.

    A piece begins with frames into which its edge would be mirrored, which are left out, and ends as far as its last
    frame reaches: every frame is that of the whole. Summed in float64, it does not depend on pieces and threads.
    """
    num_frames, hop = log_mel.num_frames(len(waveform)), log_mel.hop_size
    total = torch.zeros(log_mel.mel_banks.shape[1], dtype=torch.float64)
    for first in range(0, max(1, num_frames), piece_frames):  # one too short for a frame is an error of the filter bank
        begin, end = max(0, first - log_mel.num_edge_frames), first + piece_frames
        piece = torch.from_numpy(waveform[begin * hop : (end - 1) * hop + log_mel.reach_size])
        total += log_mel(piece[None])[0, first - begin : end - begin].sum(dim=0, dtype=torch.float64)
    return (total / num_frames).numpy().astype(waveform.dtype)


def _clip_by_clip(log_mel: Callable[[Tensor], Tensor], waveform: Tensor, *, least: int) -> Tensor:
    """Filter banks of a batch of waveforms, on the CPU one at a time: more would fall out of the processor's cache."""
    if waveform.shape[-1] < least:
        raise AudioError(
            f"a waveform of {waveform.shape[-1]} samples is shorter than the {least} that a filter bank needs; "
            "take a longer one, or fit it to a duration first"
        )
    if waveform.device.type == "cpu" and not torch.compiler.is_compiling():
        return torch.cat([log_mel(clip) for clip in torch.split(waveform, 1)])
    return log_mel(waveform)


def mel_banks(
    num_mels: int, *, fft_size: int, sample_rate_hz: int, low_hz: float = 20.0, high_hz: float | None = None
) -> Tensor:
    """Weights (mel, fft_size / 2 + 1), float64, of triangles that are linear in mel and have height 1.

    Their corners are spaced evenly in mel from `low_hz` to `high_hz`. The bin at the Nyquist frequency has weight 0.
    """
    nyquist_hz = sample_rate_hz / 2
    top_hz = nyquist_hz if high_hz is None else high_hz
    if num_mels < 1 or not 0 <= low_hz < top_hz <= nyquist_hz:
        raise SettingsError(
            f"{num_mels} mels from {low_hz:g} to {top_hz:g} Hz: at least one mel is needed, "
            f"and 0 <= low < high <= {nyquist_hz:g} Hz at {sample_rate_hz} Hz"
        )
    corners = torch.linspace(_mel(low_hz), _mel(top_hz), num_mels + 2, dtype=torch.float64).unsqueeze(1)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    bins = torch.tensor([_mel(k * sample_rate_hz / fft_size) for k in range(fft_size // 2 + 1)], dtype=torch.float64)
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0)


def _mel(frequency_hz: float) -> float:
    return 1127 * math.log(1 + frequency_hz / 700)


def normalize(fbank: Tensor, *, mean: float, std: float) -> Tensor:
    """(fbank - mean) / (2 * std): AST's convention, which gives a standard deviation of one half."""
    return (fbank - mean) / (2 * std)


def fbank_sums(fbank: Tensor) -> tuple[int, float, float]:
    """Number of values, their sum and that of their squares; the last digits may depend on torch's threads."""
    values = fbank.double().flatten()
    return values.numel(), float(values.sum()), float(values @ values)


def fbank_statistics(sums: Iterable[tuple[int, float, float]]) -> tuple[float, float]:
    """Mean and standard deviation of all values of some filter banks, from their `fbank_sums`."""
    count, total, total_squares = 0, 0.0, 0.0
    for one_count, one_total, one_squares in sums:
        count, total, total_squares = count + one_count, total + one_total, total_squares + one_squares
    if count == 0:
        raise AudioError("no filter banks to take the mean and the standard deviation of; give at least one")
    mean = total / count
    std = math.sqrt(max(0.0, total_squares / count - mean * mean))
    if std < 1e-6:
        raise AudioError(f"all filter bank values are {mean:g} (silence?): they cannot be normalised")
    return mean, std
