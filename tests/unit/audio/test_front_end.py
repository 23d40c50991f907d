"""The front end as one object: its parts in their order, for both filter banks."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from lungsound.audio.filter_bank import EfficientATLogMel, LogMel, mean_spectrum
from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.audio.io import Samples, cut, fade, fit, read_waveform
from lungsound.config import AudioSettings
from lungsound.errors import AudioError, SettingsError


def noise(num_samples: int) -> Samples:
    return np.float32(0.1) * np.random.default_rng(0).standard_normal(num_samples, np.float32)


@pytest.mark.parametrize(("filter_bank", "sample_rate_hz"), [("kaldi", 8000), ("efficientat", 32000)])
def test_from_file_to_filter_bank(filter_bank: str, sample_rate_hz: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(6000), 4000)
    front_end = FrontEnd(
        AudioSettings(
            sample_rate_hz=sample_rate_hz, duration_s=0.7, num_mels=40, filter_bank=filter_bank  # type: ignore[arg-type]
        )
    )  # fmt: skip
    recording = front_end.read(path)
    fade_samples = int(0.0625 * sample_rate_hz)
    expected = fade(read_waveform(path, sample_rate_hz=sample_rate_hz), num_samples=fade_samples)
    assert np.array_equal(recording.waveform, expected)
    assert np.array_equal(front_end.prepare(read_waveform(path, sample_rate_hz=4000), 4000).waveform, expected)
    part = front_end.cut(recording, start_s=0.25, end_s=0.6).waveform
    assert np.array_equal(part, cut(expected, start_s=0.25, end_s=0.6, sample_rate_hz=sample_rate_hz))
    cycle = front_end.fit(part)
    assert np.array_equal(cycle, fit(part, front_end.num_samples, padding="repeat", fade_samples=fade_samples))
    fbank = front_end.filter_banks(cycle[np.newaxis])
    assert fbank.shape == (1, front_end.num_frames, 40)
    log_mel = {"kaldi": LogMel, "efficientat": EfficientATLogMel}[filter_bank]
    assert np.array_equal(fbank, log_mel(sample_rate_hz=sample_rate_hz, num_mels=40)(cycle[np.newaxis]))


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


# ---- normalised by recording ----


NORMALIZED = AudioSettings(duration_s=1.0, num_mels=40, is_recording_normalized=True, statistics="corpus")


@pytest.mark.parametrize("change", [{}, {"is_padding_encoded": False}, {"filter_bank": "efficientat"}])
def test_the_mean_of_a_recording_is_taken_from_its_cycles(change: dict[str, object]) -> None:
    rate_hz = 32000 if "filter_bank" in change else 16000
    front_end = FrontEnd(NORMALIZED.model_copy(update={"sample_rate_hz": rate_hz, **change}))
    recording = front_end.prepare(noise(9 * rate_hz // 2), rate_hz)
    frames = front_end.filter_banks(recording.waveform[np.newaxis])[0]
    assert recording.spectrum is not None
    spectrum = np.array([sum(frames[:, mel].tolist()) / len(frames) for mel in range(40)])
    np.testing.assert_allclose(recording.spectrum, spectrum, rtol=0, atol=1e-5)
    left = front_end.filter_banks(recording.waveform[np.newaxis], front_end.spectra([recording]))
    np.testing.assert_allclose(left.mean(axis=(0, 1)), 0, rtol=0, atol=1e-4)
    cycles = [front_end.cut(recording, start_s=start_s, end_s=start_s + 0.6) for start_s in (0.5, 2.0)]
    plain = FrontEnd(front_end.audio.model_copy(update={"is_recording_normalized": False}))
    expected = plain.filter_banks_of(cycles) - spectrum
    np.testing.assert_allclose(front_end.filter_banks_of(cycles), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["kaldi", "efficientat"])
def test_the_mean_spectrum_does_not_depend_on_pieces(kind: str) -> None:
    """At every place where a last piece may end, and in pieces of one frame."""
    log_mel = LogMel(num_mels=40) if kind == "kaldi" else EfficientATLogMel(num_mels=40)
    hop, sound = log_mel.hop_size, noise(20 * log_mel.hop_size)
    sound *= np.linspace(0, 1, len(sound), dtype=np.float32)
    for num_samples in [*range(1100, 1100 + hop + 1, 7), 13 * hop, 13 * hop + 1, 20 * hop]:
        waveform = sound[:num_samples]
        whole = log_mel(waveform[np.newaxis])[0]
        expected = np.array([sum(whole[:, mel].tolist()) for mel in range(40)]) / len(whole)
        for piece_frames in (1, 3, 10, len(whole) - 1, len(whole), 100):
            found = mean_spectrum(log_mel, waveform, piece_frames=piece_frames)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    with pytest.raises(AudioError, match="is shorter than"):
        mean_spectrum(log_mel, sound[:100], piece_frames=7)


def test_loudness_and_the_response_of_a_stethoscope_are_gone() -> None:
    front_end, sound = FrontEnd(NORMALIZED), noise(64000) * np.linspace(0.2, 1, 64000, dtype=np.float32)
    response = np.array([1.0, 0.8, 0.5, 0.3], np.float32)  # up to 8 dB at low, -11 dB at high frequencies
    filtered = np.convolve(sound, response)[:64000]

    def rows(waveform: Samples, front_end: FrontEnd) -> Samples:
        return front_end.filter_banks_of([front_end.cut(front_end.prepare(waveform, 16000), start_s=1, end_s=2)])

    plain = FrontEnd(NORMALIZED.model_copy(update={"is_recording_normalized": False}))
    np.testing.assert_allclose(rows(2 * sound, front_end), rows(sound, front_end), rtol=0, atol=1e-4)
    assert np.abs(rows(2 * sound, plain) - rows(sound, plain)).min() > 1
    assert np.abs(rows(filtered, front_end) - rows(sound, front_end)).mean() < 0.05
    assert np.abs(rows(filtered, plain) - rows(sound, plain)).mean() > 0.8


@pytest.mark.parametrize("change", [{"padding": "zero"}, {"statistics": "audioset"}])
def test_normalisation_by_recording_needs_its_statistics(change: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"is_recording_normalized=true needs .*, got '(zero|repeat)'") as error:
        FrontEnd(NORMALIZED.model_copy(update=change))
    assert "\n" not in str(error.value)


def test_a_cycle_without_its_recording_is_never_taken_for_a_normalised_one() -> None:
    assert FrontEnd(AudioSettings()).prepare(noise(16000), 16000).spectrum is None
    with pytest.raises(TypeError):
        FrontEnd(NORMALIZED).filter_banks_of([Sound(noise(16000))])


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
    expected = padded.filter_banks_of([Sound(cycle)])
    fitted = fit(cycle, 12000, padding="repeat", fade_samples=1000)
    assert np.array_equal(expected, padded.filter_banks(fitted[np.newaxis]))
    found = own.filter_banks_of([Sound(cycle), Sound(noise(3000))])[:1]
    assert found.shape == expected.shape == (1, 73, 40)
    touched = num_own + 15  # the last patch that begins in them ends there
    np.testing.assert_allclose(found[:, :touched], expected[:, :touched], rtol=1e-5)
    for frame in range(touched, 73):
        assert np.array_equal(found[0, frame], found[0, frame % touched])


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
