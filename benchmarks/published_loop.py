"""A corpus to features as the published program goes about it: one cycle at a time, everything kept in memory.

Written for measuring beside our data path. As the published program does with torchaudio, it resamples a whole
recording with one convolution of all phases whose kernel is made for each file, and makes mel triangles and takes the
frames' energies (which nothing uses) anew for every cycle.
"""

import math
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn import functional

from lungsound.audio.filter_bank import AUDIOSET_STATISTICS
from lungsound.audio.front_end import FrontEnd
from lungsound.audio.waveform import fade

WINDOW, SHIFT, FFT = 400, 160, 512  # samples at 16 kHz
LOW_HZ = 20.0
FLOOR = 1.1920928955078125e-07


def published_features(folder: Path, front_end: FrontEnd) -> list[Tensor]:
    """Normalised filter banks (time, mel) of every annotated cycle of the recordings of a folder, by name."""
    found = []
    for annotation in sorted(folder.glob("*_*.txt")):
        recording = annotation.with_suffix(".wav")
        if not recording.is_file():
            continue
        samples, rate_hz = soundfile.read(recording, dtype="float32", always_2d=True)
        waveform = _resampled(torch.from_numpy(samples).mean(dim=1), rate_hz, front_end.sample_rate_hz)
        waveform = fade(waveform, num_samples=front_end.num_fade_samples)
        for line in np.loadtxt(annotation, ndmin=2):
            cycle = front_end.cycle(waveform, start_s=line[0], end_s=line[1])
            found.append(published_filter_bank(cycle, front_end))
    return found


def _resampled(waveform: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """One strided convolution with a kernel (phase, 1, tap) as wide as a whole period and the sinc on both sides."""
    common = math.gcd(from_hz, to_hz)
    step, num_phases = from_hz // common, to_hz // common
    base = 0.99 * min(step, num_phases)
    width = math.ceil(6 * step / base)
    taps = torch.arange(-width, width + step, dtype=torch.float64)[None, None] / step
    phases = torch.arange(0, -num_phases, -1)[:, None, None] / num_phases
    crossings = ((phases + taps) * base).clamp(-6, 6)
    window = torch.cos(crossings * math.pi / 12) ** 2
    kernel = (
        (torch.where(crossings == 0, 1.0, crossings.mul(math.pi).sin() / (crossings * math.pi)) * window) * base / step
    )
    padded = functional.pad(waveform[None], (width, width + step))
    found = functional.conv1d(padded[:, None], kernel.to(waveform.dtype), stride=step).transpose(1, 2).reshape(-1)
    return found[: math.ceil(num_phases * len(waveform) / step)]


def published_filter_bank(waveform: Tensor, front_end: FrontEnd) -> Tensor:
    """Normalised Kaldi filter bank (time, mel) of one waveform at 16 kHz."""
    frames = waveform.unfold(0, WINDOW, SHIFT)
    frames = frames - frames.mean(dim=1, keepdim=True)
    frames.pow(2).sum(dim=1).clamp(min=FLOOR).log()
    frames = frames - 0.97 * functional.pad(frames.unsqueeze(0), (1, 0), mode="replicate").squeeze(0)[:, :-1]
    frames = functional.pad(frames * torch.hann_window(WINDOW, periodic=False), (0, FFT - WINDOW))
    power = torch.fft.rfft(frames).abs().pow(2.0)
    banks = _triangles(front_end.num_mels, front_end.sample_rate_hz)
    mean, std = AUDIOSET_STATISTICS["kaldi"]
    features: Tensor = ((power @ banks.T).clamp(min=FLOOR).log() - mean) / (2 * std)
    return features


def _triangles(num_mels: int, rate_hz: int) -> Tensor:
    low, high = (1127 * math.log(1 + hz / 700) for hz in (LOW_HZ, rate_hz / 2))
    corners = torch.linspace(low, high, num_mels + 2)
    left, centre, right = (corners[first : first + num_mels, None] for first in range(3))
    bins = 1127 * (1 + torch.arange(FFT // 2 + 1) * rate_hz / FFT / 700).log()
    return torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0)
