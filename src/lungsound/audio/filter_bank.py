"""Log-mel filter banks, Kaldi's and EfficientAT's, and their normalisation."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from lungsound.errors import AudioError, SettingsError

FilterBank = Literal["kaldi", "efficientat"]
Values = NDArray[Any]  # float32 or float64

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
BLOCK_MELS = 16  # of one product: few bins have weight in all of them
BLOCK_FRAMES = 128  # at a time: memory for more is asked of the system anew each time, which took most of the time


class LogMel:
    """Waveform (batch, samples), full scale 1, to log-mel filter bank (batch, time, mel) before normalisation.

    Kaldi's recipe: whole frames only; of each frame the mean is removed, then pre-emphasis .97 (its first sample
    with itself), a symmetric Hann window, zeros up to a power of two, power spectrum, triangles that are linear in
    mel = 1127 ln(1 + f / 700), natural logarithm with a floor. No dither, no scaling to 16-bit integers.

    At 16 kHz with 128 mels filter 3 catches no FFT bin and is always at the floor; pretrained weights expect that.
    `high_hz` None means the Nyquist frequency; `dtype` is what it computes in. AudioError for a waveform shorter than
    one frame.
    """

    num_edge_frames = 0

    def __init__(
        self,
        *,
        sample_rate_hz: int = 16000,
        num_mels: int = 128,
        low_hz: float = 20.0,
        high_hz: float | None = None,
        dtype: type[np.floating[Any]] = np.float32,
    ) -> None:
        self.frame_size, self.hop_size = (int(sample_rate_hz * each_ms / 1000) for each_ms in (FRAME_MS, HOP_MS))
        if self.frame_size < 2 or self.hop_size < 1:
            raise SettingsError(f"frames of {FRAME_MS} ms every {HOP_MS} ms are too short at {sample_rate_hz} Hz")
        self.reach_size = self.frame_size
        self.fft_size = 1 << (self.frame_size - 1).bit_length()
        banks = mel_banks(
            num_mels, fft_size=self.fft_size, sample_rate_hz=sample_rate_hz, low_hz=low_hz, high_hz=high_hz
        )
        self.window = np.hanning(self.frame_size).astype(dtype)
        self.mel_banks: Values = np.ascontiguousarray(banks.T.astype(dtype))  # (bin, mel)
        # A row for the real and one for the imaginary part of each bin: a sum of squares without a pass of its own.
        self.paired_banks = self.mel_banks.repeat(2, axis=0)
        # Neighbouring mels, and the rows of the banks in which one of them has weight.
        self._blocks: list[tuple[slice, slice]] = []
        for first in range(0, num_mels, BLOCK_MELS):
            mels = slice(first, first + BLOCK_MELS)
            rows = np.flatnonzero((self.paired_banks[:, mels] > 0).any(axis=1))
            self._blocks.append((slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 1), mels))

    def num_frames(self, num_samples: int) -> int:
        """Frames in a waveform of this many samples; 0 when it is shorter than one frame."""
        return max(0, 1 + (num_samples - self.frame_size) // self.hop_size)

    def __call__(self, waveform: Values) -> Values:
        return _clip_by_clip(self._log_mel, waveform, least=self.frame_size)

    def _log_mel(self, waveform: Values) -> Values:
        # In the recipe's order, on whose rounding bins close to the floor depend, but without copies: frames are made
        # where their zeros are. The window begins with 0: the first sample of a frame does not count.
        every = np.lib.stride_tricks.sliding_window_view(waveform, self.frame_size)[:: self.hop_size]
        energies = np.empty((len(every), self.mel_banks.shape[1]), waveform.dtype)
        for first in range(0, len(every), BLOCK_FRAMES):
            block = slice(first, first + BLOCK_FRAMES)
            frames = every[block] - every[block].mean(axis=1, keepdims=True)
            padded = np.zeros((len(frames), self.fft_size), waveform.dtype)
            inside = padded[:, 1 : self.frame_size]
            np.multiply(frames[:, :-1], PREEMPHASIS, out=inside)
            np.subtract(frames[:, 1:], inside, out=inside)
            inside *= self.window[1:]
            squares = np.fft.rfft(padded).view(waveform.dtype)
            np.square(squares, out=squares)
            for bins, mels in self._blocks:
                np.matmul(squares[:, bins], self.paired_banks[bins, mels], out=energies[block, mels])
        np.maximum(energies, LOG_FLOOR, out=energies)
        return np.log(energies, out=energies)


class EfficientATLogMel:
    """Waveform (batch, samples), full scale 1, to EfficientAT's filter bank (batch, time, mel) before normalisation.

    The recipe of its program in evaluation: pre-emphasis .97 of the whole waveform (one sample shorter), frames of
    1024 samples every 320 that are centred, with the waveform mirrored at both ends, a symmetric Hann window over the
    middle 800 of each, power spectrum, Kaldi's triangles from 0 to 15000 Hz, natural logarithm of power + 1e-5.

    The weights were trained on this at 32 kHz: another rate is a SettingsError. AudioError for a waveform that is too
    short to be mirrored.
    """

    fft_size, window_size, hop_size = 1024, 800, 320
    least_samples = fft_size // 2 + 2  # what mirroring both ends needs
    num_edge_frames = 2  # into which the beginning is mirrored
    reach_size = least_samples

    def __init__(
        self,
        *,
        sample_rate_hz: int = EFFICIENTAT_RATE_HZ,
        num_mels: int = 128,
        dtype: type[np.floating[Any]] = np.float32,
    ) -> None:
        if sample_rate_hz != EFFICIENTAT_RATE_HZ:
            raise SettingsError(
                f"EfficientAT's filter bank is made for {EFFICIENTAT_RATE_HZ} Hz, not {sample_rate_hz} Hz: "
                f"set audio.sample_rate_hz to {EFFICIENTAT_RATE_HZ}, or audio.filter_bank to kaldi"
            )
        banks = mel_banks(
            num_mels, fft_size=self.fft_size, sample_rate_hz=sample_rate_hz, low_hz=0.0, high_hz=EFFICIENTAT_TOP_HZ
        )
        self.window = np.hanning(self.window_size).astype(dtype)
        self.mel_banks: Values = np.ascontiguousarray(banks.T.astype(dtype))  # (bin, mel)

    def num_frames(self, num_samples: int) -> int:
        """Frames in a waveform of this many samples; 0 when it is too short to be mirrored at its ends."""
        return 0 if num_samples < self.least_samples else 1 + (num_samples - 1) // self.hop_size

    def __call__(self, waveform: Values) -> Values:
        return _clip_by_clip(self._log_mel, waveform, least=self.least_samples)

    def _log_mel(self, waveform: Values) -> Values:
        emphasised = waveform[1:] - waveform.dtype.type(PREEMPHASIS) * waveform[:-1]
        mirrored = np.pad(emphasised, self.fft_size // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(mirrored, self.fft_size)[:: self.hop_size]
        rest = (self.fft_size - self.window_size) // 2  # on each side of the window, where it is 0
        spectrum = np.fft.rfft(frames[:, rest : rest + self.window_size] * self.window, n=self.fft_size)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        energies: Values = power @ self.mel_banks + waveform.dtype.type(EFFICIENTAT_OFFSET)
        return np.log(energies)


def mean_spectrum(log_mel: LogMel | EfficientATLogMel, waveform: Values, *, piece_frames: int) -> Values:
    """Mean (mel,) over the frames of a waveform (samples,) of any length, so many of them at a time.

    A piece begins with frames into which its edge would be mirrored, which are left out, and ends as far as its last
    frame reaches: every frame is that of the whole. Summed in float64, it does not depend on the pieces.
    """
    num_frames, hop = log_mel.num_frames(len(waveform)), log_mel.hop_size
    total = np.zeros(log_mel.mel_banks.shape[1])
    for first in range(0, max(1, num_frames), piece_frames):  # one too short for a frame is an error of the filter bank
        begin, end = max(0, first - log_mel.num_edge_frames), first + piece_frames
        piece = waveform[begin * hop : (end - 1) * hop + log_mel.reach_size]
        total += log_mel(piece[None])[0, first - begin : end - begin].sum(axis=0, dtype=np.float64)
    return (total / num_frames).astype(waveform.dtype)


def _clip_by_clip(log_mel: Callable[[Values], Values], waveform: Values, *, least: int) -> Values:
    """Filter banks of a batch of waveforms, one at a time: more would fall out of the processor's cache."""
    if waveform.shape[-1] < least:
        raise AudioError(
            f"a waveform of {waveform.shape[-1]} samples is shorter than the {least} that a filter bank needs; "
            "take a longer one, or fit it to a duration first"
        )
    return np.stack([log_mel(clip) for clip in waveform])


def mel_banks(
    num_mels: int, *, fft_size: int, sample_rate_hz: int, low_hz: float = 20.0, high_hz: float | None = None
) -> NDArray[np.float64]:
    """Weights (mel, fft_size / 2 + 1) of triangles that are linear in mel and have height 1.

    Their corners are spaced evenly in mel from `low_hz` to `high_hz`. The bin at the Nyquist frequency has weight 0.
    """
    nyquist_hz = sample_rate_hz / 2
    top_hz = nyquist_hz if high_hz is None else high_hz
    if num_mels < 1 or not 0 <= low_hz < top_hz <= nyquist_hz:
        raise SettingsError(
            f"{num_mels} mels from {low_hz:g} to {top_hz:g} Hz: at least one mel is needed, "
            f"and 0 <= low < high <= {nyquist_hz:g} Hz at {sample_rate_hz} Hz"
        )
    corners = np.linspace(_mel(low_hz), _mel(top_hz), num_mels + 2)[:, None]
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    bins = np.array([_mel(k * sample_rate_hz / fft_size) for k in range(fft_size // 2 + 1)])
    heights: NDArray[np.float64] = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    return np.maximum(heights, 0)


def _mel(frequency_hz: float) -> float:
    return 1127 * math.log(1 + frequency_hz / 700)


Bank = TypeVar("Bank")  # an array, or a tensor


def normalize(fbank: Bank, *, mean: float, std: float) -> Bank:
    """(fbank - mean) / (2 * std): AST's convention, which gives a standard deviation of one half."""
    values: Any = fbank
    normalized: Bank = (values - mean) / (2 * std)
    return normalized


def fbank_sums(fbank: Values) -> tuple[int, float, float]:
    """Number of values, their sum and that of their squares."""
    values = fbank.astype(np.float64).ravel()
    return values.size, float(values.sum()), float(values @ values)


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
