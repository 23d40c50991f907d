"""Hum, voices and hearts planted in breath noise are found; breath, crackles and wheezes are none of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from benchmarks.sounds import hum, speech
from numpy.random import Generator
from scipy import signal

from lungsound.audio.io import read_channels
from lungsound.audio.quality import (
    HEART,
    HUM,
    MIN_VOICING,
    RATE_HZ,
    SPEECH,
    OtherSounds,
    find_other_sounds,
    heart_beat,
    line_db,
    line_spectrum_db,
    measure_other_sounds,
    voicing,
)
from lungsound.data.corpus import AUDIO_SUFFIXES
from lungsound.data.synthetic_sounds import Waveform, heart_sounds, shaped_noise, wheeze

RATE = 8000
LENGTH = 12 * RATE
BREATH = ((20.0, 0.0), (200.0, 0.0), (400.0, -10.0), (1000.0, -35.0), (4000.0, -60.0))


def breath(seed: int = 0) -> Waveform:
    """Noise that swells every three seconds, of root mean square 1."""
    swell = 0.2 + np.sin(np.pi * np.arange(LENGTH) / (3 * RATE)) ** 2
    sound = swell * shaped_noise(LENGTH, RATE, BREATH, np.random.default_rng(seed))
    return np.asarray(sound / np.sqrt(np.mean(sound**2)))


def kinds(sound: Waveform, rate_hz: int = RATE) -> list[str]:
    found = measure_other_sounds((0.05 * sound).astype(np.float32), rate_hz)
    return [defect.kind for defect in find_other_sounds(found)]


def test_breath_alone_is_nothing_else() -> None:
    for seed in range(5):
        assert kinds(breath(seed)) == []


@pytest.mark.parametrize(
    ("make", "kind", "level_db"),
    [
        (lambda rng: hum(LENGTH, RATE, rng, mains_hz=50), HUM, -10),
        (lambda rng: hum(LENGTH, RATE, rng, mains_hz=60), HUM, -10),
        (lambda rng: speech(LENGTH, RATE, rng), SPEECH, 0),
        (lambda rng: heart_sounds(LENGTH, RATE, rng, beats_per_minute=70), HEART, 25),
    ],
)
def test_what_is_planted_is_found(make: Callable[[Generator], Waveform], kind: str, level_db: float) -> None:
    for seed in range(3):
        other = make(np.random.default_rng(seed))
        assert kinds(breath(seed) + 10 ** (level_db / 20) * other / other.std()) == [kind]


def test_mains_are_told_apart() -> None:
    for mains_hz in (50, 60):
        sound = breath() + 0.5 * hum(LENGTH, RATE, np.random.default_rng(0), mains_hz=mains_hz)
        assert measure_other_sounds(sound.astype(np.float32), RATE).mains_hz == mains_hz


@pytest.mark.parametrize("frequency_hz", [110, 150, 250, 400, 700])
@pytest.mark.parametrize("harmonics", [(), (0.5, 0.25)])
def test_a_wheeze_is_no_speech(frequency_hz: float, harmonics: tuple[float, ...]) -> None:
    sound = breath()
    for start_s in (0, 3, 6, 9):
        one = wheeze(RATE, frequency_hz=frequency_hz, duration_s=1.5, glide=0.1, harmonics=harmonics)
        sound[start_s * RATE : start_s * RATE + len(one)] += 3 * one
    assert kinds(sound) == []


def test_one_tone_is_no_hum() -> None:
    tone = np.sin(2 * np.pi * 100 * np.arange(LENGTH) / RATE)
    assert kinds(breath() + tone) == []


def test_a_line_stands_as_far_out_as_closed_form_says() -> None:
    """A sine of amplitude a in white noise of deviation s: a^2 N^2 / 16 against s^2 times the window's energy."""
    time_s = np.arange(20 * RATE_HZ) / RATE_HZ
    noise = np.random.default_rng(0).normal(0, 1, len(time_s))
    lines = 0.5 * np.sin(2 * np.pi * 100 * time_s) + 0.5 * np.sin(2 * np.pi * 200 * time_s)
    window = np.hanning(8192)
    places = np.array([100, 200]) * 8192 / RATE_HZ
    steps = np.exp(2j * np.pi * np.outer(places - np.rint(places), np.arange(8192)) / 8192)
    scallop = np.abs(steps @ window)
    # The median of an exponentially distributed power is ln 2 of its mean.
    expected = 10 * np.log10((0.25 * min(scallop)) ** 2 / (np.log(2) * (window**2).sum()))
    level_db = line_spectrum_db(noise + lines)
    assert level_db is not None
    assert line_db(level_db, 50) == pytest.approx(expected, abs=1.5)


def test_voicing_of_a_pulse_train_of_a_sine_and_of_noise() -> None:
    pulses = signal.unit_impulse(2 * RATE_HZ, list(range(0, 2 * RATE_HZ, 32)))
    noise = 1e-3 * np.random.default_rng(0).normal(size=2 * RATE_HZ)
    sine = np.sin(2 * np.pi * 300 * np.arange(2 * RATE_HZ) / RATE_HZ)
    assert np.median(voicing(pulses + noise)[0]) > 0.7
    assert np.median(voicing(sine + 100 * noise)[0]) < MIN_VOICING
    assert np.median(voicing(noise)[0]) < 0.3
    assert np.median(voicing(pulses + noise)[1]) == pytest.approx(125, rel=0.01)


def test_a_beat_is_one_when_every_period_is_the_same() -> None:
    second = np.concatenate([np.random.default_rng(0).normal(size=800), np.zeros(3200)])
    beat, _ = heart_beat(np.tile(second, 12))
    assert beat == pytest.approx(1, abs=0.1)
    low = signal.sosfilt(signal.butter(8, 100, fs=RATE_HZ, output="sos"), np.tile(second, 12))
    assert heart_beat(low)[1] > 25


def test_what_is_short_or_silent_is_nothing() -> None:
    for sound in (np.zeros(LENGTH), np.zeros(10), breath()[:100], breath()[: RATE // 2], np.ones(1)):
        assert kinds(sound) == []
    assert measure_other_sounds(np.zeros(10, np.float32), RATE) == OtherSounds(0.0, 60, 0.0, 0.0, 0.0)


def test_a_fifth_of_a_second_is_not_called_speech() -> None:
    rng = np.random.default_rng(0)
    talk = speech(2 * RATE, RATE, rng)
    part = int(np.abs(talk).argmax())
    assert kinds(talk[part : part + RATE // 5]) == []


def test_of_a_long_recording_the_middle_is_measured() -> None:
    long = np.tile(breath(), 15)
    talk = speech(120 * RATE, RATE, np.random.default_rng(0))
    first, middle = long.copy(), long.copy()
    first[: 30 * RATE] += 3 * talk[: 30 * RATE]
    middle[30 * RATE : 150 * RATE] += 3 * talk
    assert kinds(first) == []
    assert kinds(middle) == [SPEECH]


def test_real_recordings_full_of_wheezes_are_no_speech(icbhi_dir: Path) -> None:
    """Of all recordings of ICBHI these, of patient 175, have the most voiced frames: nearly every cycle wheezes."""
    found = sorted(path for path in icbhi_dir.glob("175_1b1_*") if path.suffix in AUDIO_SUFFIXES)
    if not found:
        pytest.skip("no recordings of patient 175")
    for path in found:
        channels, info = read_channels(path)
        rate_hz = info.sample_rate_hz
        others = measure_other_sounds(channels.mean(axis=0, dtype=np.float32), rate_hz)
        assert SPEECH not in {defect.kind for defect in find_other_sounds(others)}
        assert others.spoken_share < 0.3
