"""Sounds that a stethoscope may pick up beside the lungs, made by a program: speech, music, mains hum.

Each is a waveform (samples,) of root mean square 1, to see whether such sounds are noticed. The heart's are in
`lungsound.data.synthetic_sounds`.
"""

import numpy as np
from numpy.random import Generator

from lungsound.data.synthetic_sounds import Waveform

# First three formants (Hz) of vowels, of men: Peterson and Barney,
# "Control methods used in a study of the vowels", JASA 24 (1952) 175. Women's and children's lie up to a third higher.
HEED, HEAD, HAD, HOD = (270, 2290, 3010), (530, 1840, 2480), (660, 1720, 2410), (730, 1090, 2440)
HAWED, WHOD, HEARD = (570, 840, 2410), (300, 870, 2240), (490, 1350, 1690)
VOWELS_HZ = (HEED, HEAD, HAD, HOD, HAWED, WHOD, HEARD)
FORMANT_WIDTHS_HZ = np.array([80.0, 100.0, 140.0])


def speech(num_samples: int, sample_rate_hz: int, rng: Generator) -> Waveform:
    """Vowels in syllables, half of them behind a hiss, with a pause after six: a voice of 90 to 260 Hz.

    Harmonics of a gliding pitch, which fall by 12 dB an octave at the source and are raised by 6 at the lips, under
    three formants.
    """
    sound = np.zeros(num_samples)
    voice_hz, size = rng.uniform(90, 260), rng.uniform(1.0, 1.3)
    start, number = 0, 0
    while start < num_samples:
        formants_hz = size * np.array(VOWELS_HZ[rng.integers(len(VOWELS_HZ))], dtype=np.float64)
        length = int(rng.uniform(0.14, 0.28) * sample_rate_hz)
        first, last = rng.uniform(0.85, 1.15, 2)
        pitch_hz = voice_hz * np.linspace(first, last, length)
        phase = 2 * np.pi * np.cumsum(pitch_hz) / sample_rate_hz
        syllable = np.zeros(length)
        for harmonic in range(1, int(min(5000.0, 0.45 * sample_rate_hz) / pitch_hz.mean()) + 1):
            frequency_hz = harmonic * pitch_hz.mean()
            gains = formants_hz**2 / np.hypot(formants_hz**2 - frequency_hz**2, frequency_hz * FORMANT_WIDTHS_HZ)
            syllable += gains.prod() / harmonic * np.sin(harmonic * phase)
        syllable = _at_unit_level(syllable * np.hanning(length) ** 0.5)
        if rng.uniform() < 0.5:
            hiss = np.diff(rng.standard_normal(length // 3 + 1)) * np.hanning(length // 3)
            syllable[: len(hiss)] += 0.1 * hiss
        end = min(start + length, num_samples)
        sound[start:end] += syllable[: end - start]
        number += 1
        start += length + int((rng.uniform(0.2, 0.5) if number % 6 == 0 else 0.0) * sample_rate_hz)
    return _at_unit_level(sound)


def music(num_samples: int, sample_rate_hz: int, rng: Generator) -> Waveform:
    """Chords of three struck notes with eight harmonics each, one every third to whole second."""
    sound = np.zeros(num_samples)
    start = 0
    while start < num_samples:
        time_s = np.arange(num_samples - start) / sample_rate_hz
        for note in rng.choice(25, 3, replace=False):
            pitch_hz = 130.8 * 2 ** (note / 12)
            for harmonic in range(1, 9):
                tone = np.sin(2 * np.pi * harmonic * pitch_hz * time_s + rng.uniform(0, 2 * np.pi))
                sound[start:] += tone / harmonic * np.exp(-time_s * (1 + harmonic))
        start += int(rng.uniform(0.33, 1.0) * sample_rate_hz)
    return _at_unit_level(sound)


def hum(num_samples: int, sample_rate_hz: int, rng: Generator, *, mains_hz: float) -> Waveform:
    """Mains hum: the line and its harmonics up to the tenth, by and large weaker, within 0.1 % of their frequency."""
    time_s = np.arange(num_samples) / sample_rate_hz
    true_hz = mains_hz * rng.uniform(0.999, 1.001)
    sound = np.zeros(num_samples)
    for harmonic in range(1, 11):
        if harmonic * true_hz < 0.45 * sample_rate_hz:
            level = rng.uniform(0.2, 1.0) / harmonic
            sound += level * np.sin(2 * np.pi * harmonic * true_hz * time_s + rng.uniform(0, 2 * np.pi))
    return _at_unit_level(sound)


def _at_unit_level(sound: Waveform) -> Waveform:
    return np.asarray(sound / np.sqrt(np.mean(sound**2)))
