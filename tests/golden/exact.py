"""Kaldi's filter bank in float64, written independently of the product's, and how far from it float32 may lead.

Processors and libraries round an FFT in orders of their own. In a bin with little energy beside a loud one that
rounding is large against the energy, and the logarithm makes it visible: no single limit on the logarithm holds
everywhere. What does hold everywhere is a limit on the rounding itself, which is a share of the whole frame.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FRAME, HOP, FFT = 400, 160, 512  # 25 ms, 10 ms and the next power of two at 16 kHz
UNIT = 2.0**-24  # how far, relatively, one rounding to float32 leads
# The FFT has as many stages, log2 of its size; each may add to a bin one rounding of the frame's length as a vector.
# By MKL on SSE 4.2, AVX2 and AVX-512 and by pocketfft, which torch has on ARM, 5.0 is the most that is seen.
ROUNDINGS = 9
# What rounding does to a sum of products that are not negative, to its logarithm and to the published normalisation.
LOG_ROUNDING = 1e-5
FLOOR = 2.0**-23


@dataclass(frozen=True)
class Exact:
    """Logarithms of energies (time, mel) in float64, and between which values float32 arithmetic may put them."""

    log_mel: NDArray[np.float64]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]


def exact_log_mel(waveform: NDArray[np.float32]) -> Exact:
    """Of 128 mels from 20 to 8000 Hz at 16 kHz.

    A bin's computed value is X + d, where |d| <= ROUNDINGS * UNIT * size: `size` adds the lengths, as vectors, of the
    windowed frame before and after pre-emphasis, as the samples are rounded before it. By Cauchy and Schwarz the root
    of a mel's energy, sum(w |X|^2), then moves by no more than the root of sum(w) times the limit on |d|.
    """
    frames = np.lib.stride_tricks.sliding_window_view(waveform.astype(np.float64), FRAME)[::HOP]
    frames = frames - frames.mean(axis=1, keepdims=True)
    emphasised = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1))
    size = sum(np.linalg.norm(part * window, axis=1, keepdims=True) for part in (frames, emphasised))
    weights = triangles()
    energy = np.abs(np.fft.rfft(emphasised * window, FFT)) ** 2 @ weights
    moved = ROUNDINGS * UNIT * size * np.sqrt(weights.sum(axis=0))
    lowest, highest = np.maximum(np.sqrt(energy) - moved, 0) ** 2, (np.sqrt(energy) + moved) ** 2
    return Exact(log(energy), log(lowest) - LOG_ROUNDING, log(highest) + LOG_ROUNDING)


def log(energy: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.maximum(energy, FLOOR))


def triangles() -> NDArray[np.float64]:
    """Weights (bin, mel), linear in mel."""
    low, high = mel(20.0), mel(8000.0)
    corners = low + (high - low) * np.arange(130) / 129
    bins = mel(np.arange(FFT // 2 + 1) * (16000 / FFT))[:, None]
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    return np.maximum(0, np.minimum(rising, falling))


def mel(frequency_hz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return 1127 * np.log1p(np.asarray(frequency_hz) / 700)
