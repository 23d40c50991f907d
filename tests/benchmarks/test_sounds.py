"""Planted speech, music and hum are what they are said to be."""

from collections.abc import Callable

import numpy as np
import pytest
from benchmarks.sounds import VOWELS_HZ, hum, music, speech
from numpy.random import Generator

from lungsound.data.synthetic_sounds import Waveform

RATE = 8000


@pytest.mark.parametrize("make", [speech, music, lambda *given: hum(*given, mains_hz=50)])
def test_level_length_and_repeatability(make: Callable[[int, int, Generator], Waveform]) -> None:
    sound = make(3 * RATE, RATE, np.random.default_rng(0))
    assert sound.shape == (3 * RATE,)
    assert np.sqrt(np.mean(sound**2)) == pytest.approx(1)
    assert np.array_equal(sound, make(3 * RATE, RATE, np.random.default_rng(0)))
    assert not np.array_equal(sound, make(3 * RATE, RATE, np.random.default_rng(1)))


def test_hum_lies_on_the_lines_of_the_mains() -> None:
    power = np.abs(np.fft.rfft(hum(4 * RATE, RATE, np.random.default_rng(0), mains_hz=60) * np.hanning(4 * RATE))) ** 2
    hz = np.fft.rfftfreq(4 * RATE, 1 / RATE)
    is_near = np.abs(hz - 60 * np.rint(hz / 60)) < 2
    assert power[is_near & (hz > 50) & (hz < 610)].sum() > 0.999 * power.sum()


def test_speech_has_the_formants_of_vowels_and_pauses() -> None:
    sound = speech(20 * RATE, RATE, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(sound)) ** 2
    hz = np.fft.rfftfreq(len(sound), 1 / RATE)
    highest_hz = 1.3 * max(vowel[0] for vowel in VOWELS_HZ)
    assert power[(hz > 80) & (hz < highest_hz + 300)].sum() > 0.8 * power.sum()
    frames = np.abs(sound[: 20 * RATE // 400 * 400]).reshape(-1, 400).max(axis=1)
    assert 0.02 < (frames == 0).mean() < 0.4
