"""The front end, from a sound file to the encoder's input: the definition of a model's input."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from lungsound.audio.filter_bank import EfficientATLogMel, LogMel, mean_spectrum
from lungsound.audio.io import Samples, cut, fade, fit, read_waveform, resample
from lungsound.axes import PATCH_SIZE
from lungsound.config import AudioSettings
from lungsound.errors import SettingsError

PIECE_FRAMES = 1000  # ten seconds, which stay in the processor's cache


@dataclass(frozen=True)
class Sound:
    """A recording or cycle: `waveform` (samples,), and the recording's mean log-mel (mel,) where that is taken off."""

    waveform: Samples
    spectrum: Samples | None = None


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
        # Zeros around a cycle would tell the level that was taken away.
        if audio.is_recording_normalized and (audio.padding, audio.statistics) != ("repeat", "corpus"):
            raise SettingsError(
                "audio.is_recording_normalized=true needs audio.padding 'repeat' and audio.statistics 'corpus', "
                f"got {audio.padding!r} and {audio.statistics!r}"
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

    def read(self, path: Path) -> Sound:
        """A recording: mono, resampled, faded at both ends."""
        return self.prepare(read_waveform(path, sample_rate_hz=self.sample_rate_hz), self.sample_rate_hz)

    def prepare(self, waveform: Samples, from_hz: int) -> Sound:
        """A decoded mono recording (samples,), resampled and its ends faded."""
        return self.recording(fade(resample(waveform, from_hz, self.sample_rate_hz), num_samples=self.num_fade_samples))

    def recording(self, waveform: Samples) -> Sound:
        """A complete recording (samples,) at the model's rate, as it is, with its spectrum where that is needed."""
        if not self.audio.is_recording_normalized:
            return Sound(waveform)
        return Sound(waveform, mean_spectrum(self.log_mel, waveform, piece_frames=PIECE_FRAMES))

    def cut(self, recording: Sound, *, start_s: float, end_s: float) -> Sound:
        """One cycle of a recording read by `read`, as long as it is, with the spectrum of the complete recording."""
        part = cut(recording.waveform, start_s=start_s, end_s=end_s, sample_rate_hz=self.sample_rate_hz)
        return replace(recording, waveform=part)

    def fit(self, waveform: Samples) -> Samples:
        """Waveform (num_samples,) of a cycle of any length."""
        return fit(waveform, self.num_samples, padding=self.audio.padding, fade_samples=self.num_fade_samples)

    def filter_banks(self, waveforms: Samples, spectra: Samples | None = None) -> Samples:
        """Filter banks (batch, time, mel) of cycles (batch, num_samples), less `spectra` (batch, mel)."""
        fbanks = self.log_mel(waveforms)
        return fbanks if spectra is None else fbanks - spectra[:, None]

    def spectra(self, cycles: Sequence[Sound]) -> Samples | None:
        """Spectra (batch, mel) to take from the frames of these cycles; None when none are."""
        if not self.audio.is_recording_normalized:
            return None
        return np.stack([cast(Samples, cycle.spectrum) for cycle in cycles])

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

    def filter_banks_of(self, cycles: Sequence[Sound]) -> Samples:
        """Filter banks (batch, time, mel), not yet normalised but by recording, of cycles of any length.

        Without `is_padding_encoded` the frames beyond the own ones, which no encoder sees, repeat those: means and
        deviations are about those of padded cycles.
        """
        if self.audio.is_padding_encoded:
            return self.filter_banks(np.stack([self.fit(cycle.waveform) for cycle in cycles]), self.spectra(cycles))
        own = []
        for cycle in cycles:
            size = self.num_input_samples(len(cycle.waveform), patch_stride=1)
            own.append(self.filter_banks(self.fit(cycle.waveform)[None, :size], self.spectra([cycle]))[0])
        return np.stack([np.resize(fbank, (self.num_frames, fbank.shape[1])) for fbank in own])
