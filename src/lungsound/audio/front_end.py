"""Everything between a sound file and the encoder's input, as one object: the definition of a model's input."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from lungsound.audio.fbank import EfficientATLogMel, FilterBank, LogMel
from lungsound.audio.waveform import FADE_S, Padding, cut, fade, fit, read_waveform


@dataclass(frozen=True)
class FrontEnd:
    """Settings of the input, and the steps that follow from them, in the published order."""

    sample_rate_hz: int = 16000
    duration_s: float = 8.0
    padding: Padding = "repeat"
    num_mels: int = 128
    fade_s: float = FADE_S
    filter_bank: FilterBank = "kaldi"

    @cached_property
    def log_mel(self) -> LogMel | EfficientATLogMel:
        """The filter bank; SettingsError when it cannot be had at this rate or with these mels."""
        kind = EfficientATLogMel if self.filter_bank == "efficientat" else LogMel
        return kind(sample_rate_hz=self.sample_rate_hz, num_mels=self.num_mels)

    @property
    def num_samples(self) -> int:
        return int(self.duration_s * self.sample_rate_hz)

    @property
    def num_frames(self) -> int:
        return self.log_mel.num_frames(self.num_samples)

    @property
    def num_fade_samples(self) -> int:
        return int(self.fade_s * self.sample_rate_hz)

    def read(self, path: Path) -> Tensor:
        """Waveform (samples,) of a recording: mono, resampled, faded at both ends."""
        waveform = read_waveform(path, sample_rate_hz=self.sample_rate_hz)
        return fade(waveform, num_samples=self.num_fade_samples)

    def cut(self, waveform: Tensor, *, start_s: float, end_s: float) -> Tensor:
        """Waveform (samples,) of one cycle of a recording read by `read`, as long as the cycle is."""
        return cut(waveform, start_s=start_s, end_s=end_s, sample_rate_hz=self.sample_rate_hz)

    def fit(self, waveform: Tensor) -> Tensor:
        """Waveform (num_samples,) of a cycle of any length."""
        return fit(waveform, self.num_samples, padding=self.padding, fade_samples=self.num_fade_samples)

    def cycle(self, waveform: Tensor, *, start_s: float, end_s: float) -> Tensor:
        """Waveform (num_samples,) of one cycle of a recording read by `read`."""
        return self.fit(self.cut(waveform, start_s=start_s, end_s=end_s))

    @torch.no_grad()
    def filter_banks(self, waveforms: Tensor) -> Tensor:
        """Filter banks (batch, time, mel), not yet normalised, of cycles (batch, num_samples)."""
        fbanks: Tensor = self.log_mel(waveforms)
        return fbanks
