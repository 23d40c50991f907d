"""The front end as one object: its parts in their order, for both filter banks."""

from pathlib import Path

import pytest
import soundfile
import torch

from lungsound.audio.filter_bank import EfficientATLogMel, LogMel
from lungsound.audio.front_end import FrontEnd
from lungsound.audio.io import cut, fade, fit, read_waveform
from lungsound.config import AudioSettings
from lungsound.errors import SettingsError


def noise(num_samples: int) -> torch.Tensor:
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(0)) * 0.1


@pytest.mark.parametrize(("filter_bank", "sample_rate_hz"), [("kaldi", 8000), ("efficientat", 32000)])
def test_from_file_to_filter_bank(filter_bank: str, sample_rate_hz: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(6000).numpy(), 4000)
    front_end = FrontEnd(
        AudioSettings(
            sample_rate_hz=sample_rate_hz, duration_s=0.7, num_mels=40, filter_bank=filter_bank  # type: ignore[arg-type]
        )
    )  # fmt: skip
    waveform = front_end.read(path)
    fade_samples = int(0.0625 * sample_rate_hz)
    expected = fade(read_waveform(path, sample_rate_hz=sample_rate_hz), num_samples=fade_samples)
    assert torch.equal(waveform, expected)
    assert torch.equal(front_end.prepare(read_waveform(path, sample_rate_hz=4000), 4000), expected)
    part = front_end.cut(waveform, start_s=0.25, end_s=0.6)
    assert torch.equal(part, cut(expected, start_s=0.25, end_s=0.6, sample_rate_hz=sample_rate_hz))
    cycle = front_end.fit(part)
    assert torch.equal(cycle, fit(part, front_end.num_samples, padding="repeat", fade_samples=fade_samples))
    fbank = front_end.filter_banks(cycle.unsqueeze(0))
    assert fbank.shape == (1, front_end.num_frames, 40)
    log_mel = {"kaldi": LogMel, "efficientat": EfficientATLogMel}[filter_bank]
    assert torch.equal(fbank, log_mel(sample_rate_hz=sample_rate_hz, num_mels=40)(cycle.unsqueeze(0)))


def test_inputs_of_the_paper_and_of_efficientat() -> None:
    assert FrontEnd(AudioSettings()).num_frames == 798
    efficientat = FrontEnd(AudioSettings(filter_bank="efficientat", sample_rate_hz=32000, duration_s=10.0))
    assert efficientat.num_frames == 1000


def test_efficientat_needs_its_rate() -> None:
    with pytest.raises(SettingsError, match="32000 Hz, not 16000 Hz"):
        _ = FrontEnd(AudioSettings(filter_bank="efficientat")).num_frames


def test_different_filter_banks_have_different_names_in_the_cache() -> None:
    assert FrontEnd(AudioSettings()).definition == FrontEnd(AudioSettings(statistics="corpus")).definition
    assert FrontEnd(AudioSettings()).definition != FrontEnd(AudioSettings(padding="zero")).definition


# ---- padding that is not encoded ----


@pytest.mark.parametrize("num_samples", [1, 159, 160, 161, 1600, 6000, 11900, 12000, 12001, 20000])
def test_own_frames_are_those_of_the_padded_cycle(num_samples: int) -> None:
    padded, own = (
        FrontEnd(AudioSettings(duration_s=0.75, num_mels=40, is_padding_encoded=is_all)) for is_all in (True, False)
    )
    cycle = noise(num_samples)
    num_own = own.num_own_frames(num_samples)
    assert num_own == min(-(-num_samples // 160), padded.num_frames)
    assert padded.num_own_frames(num_samples) is None
    expected = padded.filter_banks_of([cycle])
    assert torch.equal(
        expected, padded.filter_banks(fit(cycle, 12000, padding="repeat", fade_samples=1000).unsqueeze(0))
    )
    found = own.filter_banks_of([cycle, noise(3000)])[:1]
    assert found.shape == expected.shape == (1, 73, 40)
    touched = num_own + 15  # the last patch that begins in them ends there
    torch.testing.assert_close(found[:, :touched], expected[:, :touched])
    for frame in range(touched, 73):
        assert torch.equal(found[0, frame], found[0, frame % touched])


def test_patches_reach_so_far_into_the_waveform() -> None:
    front_end = FrontEnd(AudioSettings(is_padding_encoded=False))
    # Of 100 own frames the last column of patches is the tenth, of the frames 90 to 105.
    assert front_end.num_input_samples(16000, patch_stride=10) == 400 + 160 * 105
    assert front_end.num_input_samples(16001, patch_stride=10) == 400 + 160 * 115
    assert front_end.num_input_samples(1, patch_stride=10) == 400 + 160 * 15
    for num_samples in (127000, 128000, 200000):
        assert front_end.num_input_samples(num_samples, patch_stride=10) >= 400 + 160 * 795
    assert FrontEnd(AudioSettings()).num_input_samples(16000, patch_stride=10) == 128000


@pytest.mark.parametrize("change", [{"padding": "zero"}, {"filter_bank": "efficientat", "sample_rate_hz": 32000}])
def test_padding_is_left_out_only_where_it_follows_the_sound(change: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="is_padding_encoded=false needs"):
        FrontEnd(AudioSettings(is_padding_encoded=False, **change))  # type: ignore[arg-type]
