"""Comparison of recordings: a fingerprint to search for the same sound, waveforms side by side to prove it.

The fingerprint is that of Haitsma & Kalker ("A highly robust audio fingerprinting system", ISMIR 2002), slowed down for
breath sounds: does the difference of two neighbouring bands grow or shrink? A gain and a steady filter cancel, and so
does a breath that swells in all bands. The proof is the correlation of two waveforms, and their coherence: the
correlation after whitening (Knapp & Carter's phase transform, 1976) in windows of 1 s, as the median over the windows.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lungsound.audio.io import Samples

RATE_HZ = 4000  # of every waveform here: the lowest in ICBHI
LOWEST_HZ, HIGHEST_HZ = 60.0, 1000.0  # SPRSound ends at 1000 Hz; below 60 Hz there is rumble
NUM_BANDS = 32  # differences of 33 bands of equal ratio
FRAME = 2048  # 512 ms
HOP = 512  # 128 ms: the copy's frames are at most 64 ms off
LAG_FRAMES = 2
SILENCE_RMS = 1e-6  # -120 dBFS
_BLOCK = 256  # a frame with a silent stretch as long as this, 64 ms, has no fingerprint

WINDOW = RATE_HZ  # 1 s
MIN_WINDOWS = 4
LOW_BIN, HIGH_BIN = round(LOWEST_HZ * WINDOW / RATE_HZ), round(HIGHEST_HZ * WINDOW / RATE_HZ)
MAX_LAG_S = 0.4  # the noise of a coherence is taken from lags up to here
_LAG_RATE_HZ = 2 * int(HIGHEST_HZ)

Fingerprint = npt.NDArray[np.int8]
Windows = npt.NDArray[np.complex64]


@dataclass(frozen=True)
class Agreement:
    """Agreement of two waveforms that were laid over each other.

    `lag_s` is by how much the second is late still. `coherence`, without its sign, is 1 for copies; `deviations` is
    how many standard deviations of the coherences at far lags it is off zero.
    """

    lag_s: float = 0.0
    coherence: float = 0.0
    deviations: float = 0.0


def fingerprint(waveform: Samples) -> Fingerprint:
    """Fingerprint (frames, 32) of a waveform at `RATE_HZ`: 1 or -1, and 0 in frames with digital silence.

    Frame i is made of the samples from i * HOP to i * HOP + FRAME + LAG_FRAMES * HOP; too short a waveform has none.
    """
    num_frames = (waveform.size - FRAME) // HOP + 1
    if num_frames <= LAG_FRAMES:
        return np.zeros((0, NUM_BANDS), np.int8)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, FRAME)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME).astype(np.float32), axis=1)) ** 2
    edges_hz = np.geomspace(LOWEST_HZ, HIGHEST_HZ, NUM_BANDS + 2)  # of the 33 bands
    edges = np.searchsorted(np.fft.rfftfreq(FRAME, 1 / RATE_HZ), edges_hz)
    summed = np.concatenate([np.zeros((num_frames, 1)), power.cumsum(axis=1, dtype=np.float64)], axis=1)
    bands = np.log(np.maximum(np.diff(summed[:, edges], axis=1), 1e-30))
    differences = np.diff(bands, axis=1)
    changes = differences[LAG_FRAMES:] - differences[:-LAG_FRAMES]
    is_sounding = _sounding(frames)
    kept = is_sounding[LAG_FRAMES:] & is_sounding[:-LAG_FRAMES]
    return np.asarray(np.where(kept[:, np.newaxis], np.sign(changes), 0), dtype=np.int8)


def whitened_windows(waveform: Samples) -> Windows:
    """Spectra (windows, bins), all bins of size 1, of windows of 1 s, half overlapping; zero with 64 ms of silence."""
    if waveform.size < WINDOW:
        return np.zeros((0, HIGH_BIN - LOW_BIN), np.complex64)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[:: WINDOW // 2]
    spectra = np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32), axis=1)[:, LOW_BIN:HIGH_BIN]
    size = np.abs(spectra)
    kept = _sounding(frames)[:, np.newaxis] & (size > 0)
    return np.asarray(np.where(kept, spectra / np.where(size > 0, size, 1), 0), dtype=np.complex64)


def agreement(one: Windows, other: Windows, *, max_lag_s: float) -> Agreement:
    """The largest coherence of two waveforms within `max_lag_s`; zeros for fewer than 4 windows without silence."""
    num_windows = min(len(one), len(other))
    is_sounding = one[:num_windows].any(axis=1) & other[:num_windows].any(axis=1)
    if int(is_sounding.sum()) < MIN_WINDOWS:
        return Agreement()
    cross = np.zeros((int(is_sounding.sum()), _LAG_RATE_HZ * WINDOW // RATE_HZ // 2 + 1), np.complex64)
    cross[:, LOW_BIN:HIGH_BIN] = one[:num_windows][is_sounding].conj() * other[:num_windows][is_sounding]
    num_lags = 2 * (cross.shape[1] - 1)
    coherences = np.fft.irfft(cross, n=num_lags, axis=1) * (num_lags / 2 / (HIGH_BIN - LOW_BIN))
    lags = np.arange(-round(MAX_LAG_S * _LAG_RATE_HZ), round(MAX_LAG_S * _LAG_RATE_HZ) + 1)
    typical = np.median(coherences[:, lags], axis=0)
    is_near = np.abs(lags) <= max_lag_s * _LAG_RATE_HZ
    best = int(np.where(is_near, np.abs(typical), -1.0).argmax())
    # The median of the size of a normal variable is 0.6745 of its standard deviation; a peak hardly moves it.
    noise = float(np.median(np.abs(typical))) / 0.6745
    coherence = float(abs(typical[best]))
    return Agreement(float(lags[best]) / _LAG_RATE_HZ, coherence, coherence / max(noise, 1e-9))


def correlation(one: Samples, other: Samples) -> float:
    """Largest normalised correlation, without its sign, of two waveforms of one length, in the band of the search.

    The second may be late or early by up to 10 ms. 1 for copies with any gain; 0 when one of them is silent.
    """
    num_samples = min(one.size, other.size)
    length = 1 << (num_samples + RATE_HZ).bit_length()
    frequencies = np.fft.rfftfreq(length, 1 / RATE_HZ)
    is_inside = (frequencies >= LOWEST_HZ) & (frequencies <= HIGHEST_HZ)
    first, second = (np.where(is_inside, np.fft.rfft(w[:num_samples], length), 0) for w in (one, other))
    energy = float((np.abs(first) ** 2).sum()) * float((np.abs(second) ** 2).sum())
    if energy == 0:
        return 0.0
    # Sums over half the spectrum stand for twice as much in irfft.
    products = np.fft.irfft(first.conj() * second, n=length) * length / 2
    max_lag = RATE_HZ // 100
    near = np.concatenate((products[-max_lag:], products[: max_lag + 1]))
    return float(np.abs(near).max()) / math.sqrt(energy)


def _sounding(frames: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Frames (frames, samples) without a silent block of 64 ms, as a mask."""
    num_blocks = frames.shape[1] // _BLOCK
    blocks = frames[:, : num_blocks * _BLOCK].reshape(len(frames), num_blocks, _BLOCK)
    return np.asarray((blocks.std(axis=2) > SILENCE_RMS).all(axis=1))
