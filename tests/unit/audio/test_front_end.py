"""The front end as one object: its parts in their order, for both filter banks."""

from pathlib import Path

import pytest
import soundfile
import torch

from lungsound.audio.fbank import EfficientATLogMel, LogMel
from lungsound.audio.front_end import FrontEnd
from lungsound.audio.waveform import cut, fade, fit, read_waveform
from lungsound.errors import SettingsError


def noise(num_samples: int) -> torch.Tensor:
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(0)) * 0.1


@pytest.mark.parametrize(("filter_bank", "sample_rate_hz"), [("kaldi", 8000), ("efficientat", 32000)])
def test_from_file_to_filter_bank(filter_bank: str, sample_rate_hz: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(6000).numpy(), 4000)
    front_end = FrontEnd(
        sample_rate_hz=sample_rate_hz, duration_s=0.7, num_mels=40, filter_bank=filter_bank  # type: ignore[arg-type]
    )  # fmt: skip
    waveform = front_end.read(path)
    fade_samples = int(0.0625 * sample_rate_hz)
    expected = fade(read_waveform(path, sample_rate_hz=sample_rate_hz), num_samples=fade_samples)
    assert torch.equal(waveform, expected)
    part = front_end.cut(waveform, start_s=0.25, end_s=0.6)
    assert torch.equal(part, cut(expected, start_s=0.25, end_s=0.6, sample_rate_hz=sample_rate_hz))
    cycle = front_end.cycle(waveform, start_s=0.25, end_s=0.6)
    assert torch.equal(cycle, fit(part, front_end.num_samples, fade_samples=fade_samples))
    assert torch.equal(cycle, front_end.fit(part))
    fbank = front_end.filter_banks(cycle.unsqueeze(0))
    assert fbank.shape == (1, front_end.num_frames, 40)
    log_mel = {"kaldi": LogMel, "efficientat": EfficientATLogMel}[filter_bank]
    assert torch.equal(fbank, log_mel(sample_rate_hz=sample_rate_hz, num_mels=40)(cycle.unsqueeze(0)))


def test_inputs_of_the_paper_and_of_efficientat() -> None:
    assert FrontEnd().num_frames == 798
    efficientat = FrontEnd(filter_bank="efficientat", sample_rate_hz=32000, duration_s=10.0)
    assert efficientat.num_frames == 1000


def test_efficientat_needs_its_rate() -> None:
    with pytest.raises(SettingsError, match="32000 Hz, not 16000 Hz"):
        _ = FrontEnd(filter_bank="efficientat").num_frames


def test_different_filter_banks_have_different_names_in_the_cache() -> None:
    assert repr(FrontEnd(sample_rate_hz=32000)) != repr(FrontEnd(sample_rate_hz=32000, filter_bank="efficientat"))
