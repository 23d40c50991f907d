"""The front end, from a sound file to the encoder's input: the definition of a model's input."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lungsound.audio.filter_bank import EfficientATLogMel, LogMel
from lungsound.audio.io import cut, fade, fit, read_waveform, resample
from lungsound.axes import PATCH_SIZE
from lungsound.config import AudioSettings
from lungsound.errors import SettingsError


@dataclass(frozen=True)
class FrontEnd:
    """Definition of the input by the section [audio], and the steps that follow from it, in the published order."""

    audio: AudioSettings

    def __post_init__(self) -> None:
        audio = self.audio
        if not audio.is_padding_encoded and (audio.padding, audio.filter_bank) != ("repeat", "kaldi"):
            raise SettingsError(
                "audio.is_padding_encoded=false needs audio.padding 'repeat' and audio.filter_bank 'kaldi', "
                f"got {audio.padding!r} and {audio.filter_bank!r}"
            )

    @property
    def sample_rate_hz(self) -> int:
        return self.audio.sample_rate_hz

    @property
    def definition(self) -> dict[str, Any]:
        """Plain settings that the filter banks before normalisation depend on."""
        return self.audio.model_dump(exclude={"statistics"})

    @cached_property
    def log_mel(self) -> LogMel | EfficientATLogMel:
        """The filter bank; SettingsError when this rate or these mels do not allow it."""
        kind = EfficientATLogMel if self.audio.filter_bank == "efficientat" else LogMel
        return kind(sample_rate_hz=self.sample_rate_hz, num_mels=self.audio.num_mels)

    @property
    def num_samples(self) -> int:
        return int(self.audio.duration_s * self.sample_rate_hz)

    @property
    def num_frames(self) -> int:
        return self.log_mel.num_frames(self.num_samples)

    @property
    def num_fade_samples(self) -> int:
        return int(self.audio.fade_s * self.sample_rate_hz)

    def read(self, path: Path) -> Tensor:
        """Waveform (samples,) of a recording: mono, resampled, faded at both ends."""
        return self.prepare(read_waveform(path, sample_rate_hz=self.sample_rate_hz), self.sample_rate_hz)

    def prepare(self, waveform: Tensor, from_hz: int) -> Tensor:
        """A decoded mono recording (samples,), resampled and its ends faded."""
        return fade(resample(waveform, from_hz, self.sample_rate_hz), num_samples=self.num_fade_samples)

    def cut(self, waveform: Tensor, *, start_s: float, end_s: float) -> Tensor:
        """Waveform (samples,) of one cycle of a recording read by `read`, as long as the cycle is."""
        return cut(waveform, start_s=start_s, end_s=end_s, sample_rate_hz=self.sample_rate_hz)

    def fit(self, waveform: Tensor) -> Tensor:
        """Waveform (num_samples,) of a cycle of any length."""
        return fit(waveform, self.num_samples, padding=self.audio.padding, fade_samples=self.num_fade_samples)

    @torch.no_grad()
    def filter_banks(self, waveforms: Tensor) -> Tensor:
        """Filter banks (batch, time, mel), not yet normalised, of cycles (batch, num_samples)."""
        fbanks: Tensor = self.log_mel(waveforms)
        return fbanks

    def num_own_frames(self, num_samples: int) -> int | None:
        """Frames that begin within the sound of a cycle of `num_samples`; None where its padding is encoded too."""
        if self.audio.is_padding_encoded:
            return None
        return min(math.ceil(num_samples / self.log_mel.hop_size), self.num_frames)

    def num_input_samples(self, num_samples: int, *, patch_stride: int) -> int:
        """Leading samples of a fitted cycle of `num_samples` that the patches to be encoded reach."""
        num_own = self.num_own_frames(num_samples)
        if num_own is None:
            return self.num_samples
        num_frames = (math.ceil(num_own / patch_stride) - 1) * patch_stride + PATCH_SIZE
        assert isinstance(self.log_mel, LogMel)  # as __post_init__ asks
        return min(self.num_samples, self.log_mel.frame_size + (num_frames - 1) * self.log_mel.hop_size)

    def filter_banks_of(self, waveforms: Sequence[Tensor]) -> Tensor:
        """Filter banks (batch, time, mel), not yet normalised, of cycles (samples,) of any length.

        Without `is_padding_encoded` the frames beyond the own ones, which no encoder sees, repeat those: means and
        deviations are about those of padded cycles.
        """
        if self.audio.is_padding_encoded:
            return self.filter_banks(torch.stack([self.fit(waveform) for waveform in waveforms]))
        sizes = [self.num_input_samples(len(waveform), patch_stride=1) for waveform in waveforms]
        own = [self.filter_banks(self.fit(each)[None, :size])[0] for each, size in zip(waveforms, sizes, strict=True)]
        return torch.stack([fbank.repeat(-(-self.num_frames // len(fbank)), 1)[: self.num_frames] for fbank in own])
