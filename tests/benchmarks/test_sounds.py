"""Injected speech, music and hum are what they are said to be."""

import numpy as np
import pytest
from benchmarks.sounds import VOWELS_HZ, hum, music, speech

RATE = 8000


def test_sounds_have_unit_level_and_repeat_by_seed() -> None:
    for make in (speech, music, lambda *given: hum(*given, mains_hz=50)):
        sound, again, other = (make(3 * RATE, RATE, np.random.default_rng(seed)) for seed in (0, 0, 1))
        assert sound.shape == (3 * RATE,)
        assert np.sqrt(np.mean(sound**2)) == pytest.approx(1)
        assert np.array_equal(sound, again)
        assert not np.array_equal(sound, other)


def test_hum_lies_on_the_lines_of_the_mains() -> None:
    power = np.abs(np.fft.rfft(hum(4 * RATE, RATE, np.random.default_rng(0), mains_hz=60) * np.hanning(4 * RATE))) ** 2
    hz = np.fft.rfftfreq(4 * RATE, 1 / RATE)
    is_near = np.abs(hz - 60 * np.rint(hz / 60)) < 2
    assert power[is_near & (hz > 50) & (hz < 610)].sum() > 0.999 * power.sum()


def test_speech_has_the_formants_of_vowels_and_pauses() -> None:
    sound = speech(20 * RATE, RATE, np.random.default_rng(0))
    power, hz = np.abs(np.fft.rfft(sound)) ** 2, np.fft.rfftfreq(len(sound), 1 / RATE)
    highest_hz = 1.3 * max(vowel[0] for vowel in VOWELS_HZ)
    assert power[(hz > 80) & (hz < highest_hz + 300)].sum() > 0.8 * power.sum()
    assert 0.02 < (np.abs(sound).reshape(-1, 400).max(axis=1) == 0).mean() < 0.4
