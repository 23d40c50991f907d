import wave
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.signal import stft

from lungsound.evaluation.figures import draw_spectrogram, spectrogram
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.report import HardCycle, hardest_rows, write_sound

CLASSES = ("normal", "crackle", "wheeze")


def predictions_of(keys: list[str], of_truth: list[float]) -> Predictions:
    """The true class is crackle; the rest of the probability is normal's."""
    return Predictions(
        keys=tuple(keys),
        patients=("p",) * len(keys),
        devices=("",) * len(keys),
        parts=("",) * len(keys),
        labels=np.ones(len(keys), dtype=np.int64),
        probabilities=np.array([[1.0 - share, share, 0.0] for share in of_truth]),
        classes=CLASSES,
    )


def tone(frequency_hz: float, *, seconds: float = 1.0, rate_hz: int = 8000, gain: float = 0.2) -> np.ndarray:
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return (gain * np.sin(2 * np.pi * frequency_hz * times)).astype(np.float32)


def cycle_of(waveform: np.ndarray, rate_hz: int = 8000) -> HardCycle:
    predictions = predictions_of(["a#0-1"], [0.25])
    return HardCycle.of_row(predictions, 0, waveform=waveform, sample_rate_hz=rate_hz)


def written_sound(cycle: HardCycle, path: Path) -> tuple[np.ndarray, int]:
    write_sound(cycle, path)
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        return samples, file.getframerate()


def test_the_hardest_are_those_whose_truth_is_least_probable() -> None:
    keys = ["a#0-1", "a#1-2", "a#2-3", "b#0-1", "b#1-2", "c#0-1"]
    predictions = predictions_of(keys, [0.1, 0.2, 0.05, 0.2, 0.9, 0.3])
    assert hardest_rows(predictions, num_cycles=6, max_per_recording=6) == (2, 0, 1, 3, 5, 4)
    assert hardest_rows(predictions, num_cycles=3, max_per_recording=6) == (2, 0, 1)
    assert hardest_rows(predictions, num_cycles=3, max_per_recording=1) == (2, 3, 5)
    assert hardest_rows(predictions) == (2, 0, 3, 5, 4)


def test_the_hardest_against_a_plain_loop() -> None:
    generator = np.random.default_rng(1)
    keys = [f"r{generator.integers(8)}#{row}-{row + 1}" for row in range(80)]
    of_truth = generator.choice([0.1, 0.2, 0.3, 0.4], 80).tolist()
    expected: list[int] = []
    for _, row in sorted((share, row) for row, share in enumerate(of_truth)):
        same = [other for other in expected if keys[other].split("#")[0] == keys[row].split("#")[0]]
        if len(same) < 2 and len(expected) < 11:
            expected.append(row)
    assert hardest_rows(predictions_of(keys, of_truth), num_cycles=11) == tuple(expected)


def test_a_hard_cycle_names_its_classes() -> None:
    cycle = cycle_of(tone(300))
    assert (cycle.key, cycle.label, cycle.predicted) == ("a#0-1", "crackle", "normal")
    assert cycle.probabilities == {"normal": 0.75, "crackle": 0.25, "wheeze": 0.0}


@pytest.mark.parametrize("rate_hz", [4000, 8000, 44100])
def test_the_spectrogram_of_a_tone(rate_hz: int) -> None:
    levels, highest_hz = spectrogram(tone(500, rate_hz=rate_hz), rate_hz)
    assert levels.shape == (81, 101)
    assert highest_hz == pytest.approx(2000, abs=1)
    assert levels.max() == 0.0
    assert set(levels[:, 10:-10].argmax(axis=0).tolist()) == {20}


def test_the_spectrogram_is_that_of_scipy() -> None:
    noise = np.random.default_rng(2).normal(size=8000).astype(np.float32)
    levels, _ = spectrogram(noise, 8000)
    _, _, expected = stft(
        noise.astype(np.float64), window=np.hanning(320), nperseg=320, noverlap=240, boundary="zeros", padded=False
    )
    power = np.abs(expected[:81]) ** 2
    reference = np.clip(10 * np.log10(power / power[4:].max()), -60, 0)
    np.testing.assert_allclose(levels, reference, atol=1e-6)


def test_the_heart_does_not_hide_the_lung() -> None:
    levels, _ = spectrogram(tone(25, gain=0.9) + tone(600, gain=0.05), 8000)
    assert 20 * np.log10(0.05 / 0.9) < -25
    assert levels[24, 50] > -6
    assert levels[1, 50] == 0.0


@pytest.mark.parametrize("num_samples", [1, 100, 319, 321])
def test_the_spectrogram_of_little_or_nothing(num_samples: int) -> None:
    levels, _ = spectrogram(np.zeros(num_samples, dtype=np.float32), 8000)
    assert levels.shape == (81, num_samples // 80 + 1)
    assert (levels == -60.0).all()


def test_the_picture_has_waveform_and_spectrogram(tmp_path: Path, figures: list[Figure]) -> None:
    draw_spectrogram(tone(500, seconds=0.5), 8000, tmp_path / "s.png")
    above, below, bar = figures[0].axes
    assert len(above.lines[0].get_xdata()) == 4000
    assert below.get_xlim() == (0.0, 0.5)
    left, right, bottom, top = below.images[0].get_extent()
    assert (left, right) == pytest.approx((-0.005, 0.505))
    assert (bottom, top) == pytest.approx((0.0, 2.0))
    assert (below.get_xlabel(), below.get_ylabel(), bar.get_ylabel()) == ("seconds", "kHz", "dB")


def test_ten_of_the_longest_fit_into_four_megabytes(tmp_path: Path) -> None:
    cycle = cycle_of(np.random.default_rng(4).normal(0, 0.1, 20 * 16000).astype(np.float32), 16000)
    draw_spectrogram(cycle.shown, 16000, tmp_path / "s.png")
    write_sound(cycle, tmp_path / "s.wav")
    num_bytes = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert 10 * num_bytes * 4 / 3 < 3_500_000


@pytest.mark.parametrize(("rate_hz", "kept_hz"), [(44100, 8000), (16000, 8000), (8000, 8000), (4000, 4000)])
def test_the_sound_is_a_small_wav_of_the_same_tone(rate_hz: int, kept_hz: int, tmp_path: Path) -> None:
    samples, found_hz = written_sound(cycle_of(tone(500, rate_hz=rate_hz), rate_hz), tmp_path / "s.wav")
    assert (found_hz, len(samples)) == (kept_hz, kept_hz)
    assert np.abs(samples).max() == round(0.9 * 32767)
    middle = samples[kept_hz // 4 : 3 * kept_hz // 4].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() * kept_hz / len(middle) == pytest.approx(500, abs=2)


def test_a_sound_at_its_own_rate_keeps_its_samples(tmp_path: Path) -> None:
    waveform = np.array([0.0, 0.25, -0.5, 0.125], dtype=np.float32)
    samples, _ = written_sound(cycle_of(waveform), tmp_path / "s.wav")
    np.testing.assert_array_equal(samples, np.round(waveform / 0.5 * 0.9 * 32767))


def test_a_long_cycle_is_cut_and_silence_stays_silent(tmp_path: Path) -> None:
    long = cycle_of(tone(500, seconds=9.0))
    assert long.shown_s == 6.0
    assert len(written_sound(long, tmp_path / "s.wav")[0]) == 6 * 8000
    samples, _ = written_sound(cycle_of(np.zeros(80, dtype=np.float32)), tmp_path / "s.wav")
    assert samples.tolist() == [0] * 80
