"""Portable formulas for the inputs and weights behind the golden numbers: exact on every machine.

A counter generator (splitmix64, seeded by the CRC-32 of a name) gives uniform numbers; weights, spectrograms and
waveforms are written in terms of it, so that a golden file needs to hold outputs only.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray


def u01(name: str, n: int) -> NDArray[np.float64]:
    """`n` uniform numbers in [0, 1), float64, determined by `name`."""
    seed = np.uint64(zlib.crc32(name.encode()) << 32)
    z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + seed
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uni(
    name: str, shape: Sequence[int], std: float = 1.0, mean: float = 0.0, dtype: DTypeLike = np.float32
) -> NDArray[np.generic]:
    """Uniform numbers of the given mean and standard deviation, computed in float64, then cast."""
    centred = 2.0 * u01(name, math.prod(shape)) - 1.0
    return (mean + std * math.sqrt(3.0) * centred).reshape(tuple(shape)).astype(dtype)


def param(key: str, shape: Sequence[int], dtype: DTypeLike = np.float32) -> NDArray[np.generic]:
    """Value of the parameter or buffer with this state_dict key and shape."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_mean"):
        return np.zeros(shape, dtype)
    if key.endswith("running_var"):
        return np.ones(shape, dtype)
    if key.endswith(("pos_embed", "cls_token", "dist_token")):
        return uni(key, shape, std=0.2, dtype=dtype)
    if key.endswith("bias"):
        return uni(key, shape, std=0.05, dtype=dtype)
    if len(shape) == 1:
        return uni(key, shape, std=0.1, mean=1.0, dtype=dtype)
    return uni(key, shape, std=1.0 / math.sqrt(math.prod(shape[1:])), dtype=dtype)


def spec(name: str, b: int = 1, t: int = 798, f: int = 128, dtype: DTypeLike = np.float32) -> NDArray[np.generic]:
    """A made-up normalised filter bank (b, t, f): a smooth pattern and noise."""
    noise = uni(name, (b, t, f), std=0.35, dtype=np.float64)
    batch, time, mel = np.ogrid[:b, :t, :f]
    pattern = 0.45 * np.sin(2 * np.pi * (time / 97.0 + batch / 7.0)) * np.cos(2 * np.pi * mel / 61.0 + batch)
    return (noise + (pattern - 0.2 + 0.003 * (64 - mel))).astype(dtype)


def wave(name: str, n: int, sample_rate_hz: int = 16000) -> NDArray[np.int16]:
    """A made-up breath of `n` samples as int16; the waveform is the value / 32768."""
    t_s = np.arange(n) / sample_rate_hz
    x = 0.25 * uni(name, (n,), dtype=np.float64) * np.sin(2 * np.pi * 0.35 * t_s) ** 2
    x = x + 0.30 * np.sin(2 * np.pi * (220.0 * t_s + 15.0 * t_s * t_s)) * np.sin(2 * np.pi * 0.21 * t_s) ** 2
    x = x + 0.02 * np.sin(2 * np.pi * 47.0 * t_s)
    return np.clip(np.round(x * 32767.0), -32768, 32767).astype(np.int16)
