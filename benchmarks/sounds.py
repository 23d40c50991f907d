"""Sounds that a stethoscope may pick up beside the lungs, made by a program: speech, music, mains hum.

Each is a waveform (samples,) of root mean square 1, to see whether such sounds are noticed. The heart's are in
`lungsound.data.synthetic_sounds`.
"""

import numpy as np
from numpy.random import Generator

from lungsound.data.synthetic_sounds import Waveform

# First three formants (Hz) of the vowels of heed, head, had, hod, hawed, who'd and heard, of men: Peterson and Barney,
# "Control methods used in a study of the vowels", JASA 24 (1952) 175. Women's and children's lie up to a third higher.
VOWELS_HZ = (
    (270, 2290, 3010),
    (530, 1840, 2480),
    (660, 1720, 2410),
    (730, 1090, 2440),
    (570, 840, 2410),
    (300, 870, 2240),
    (490, 1350, 1690),
)
FORMANT_WIDTHS_HZ = (80.0, 100.0, 140.0)
SYLLABLE_S = (0.14, 0.28)
SYLLABLES_BEFORE_PAUSE = 6
PAUSE_S = (0.2, 0.5)
FRICATIVE_SHARE, FRICATIVE_LEVEL = 0.5, 0.1
MAX_VOICED_HZ = 5000.0


def speech(num_samples: int, sample_rate_hz: int, rng: Generator) -> Waveform:
    """Vowels in syllables, half of them behind a hiss, with a pause after six: a voice of 90 to 260 Hz.

    Harmonics of a gliding pitch, which fall by 12 dB an octave at the source and are raised by 6 at the lips, under
    three formants.
    """
    sound = np.zeros(num_samples)
    voice_hz, size = rng.uniform(90, 260), rng.uniform(1.0, 1.3)
    start, number = 0, 0
    while start < num_samples:
        vowel = size * np.array(VOWELS_HZ[rng.integers(len(VOWELS_HZ))], dtype=np.float64)
        length = int(rng.uniform(*SYLLABLE_S) * sample_rate_hz)
        first, last = rng.uniform(0.85, 1.15, 2)
        pitch_hz = voice_hz * np.linspace(first, last, length)
        syllable = _vowel(pitch_hz, vowel, sample_rate_hz)
        if rng.uniform() < FRICATIVE_SHARE:
            hiss = np.diff(rng.standard_normal(length // 3 + 1)) * np.hanning(length // 3)
            syllable[: len(hiss)] += FRICATIVE_LEVEL * hiss
        end = min(start + length, num_samples)
        sound[start:end] += syllable[: end - start]
        number += 1
        pause_s = rng.uniform(*PAUSE_S) if number % SYLLABLES_BEFORE_PAUSE == 0 else 0.0
        start += length + int(pause_s * sample_rate_hz)
    return _at_unit_level(sound)


def _vowel(pitch_hz: Waveform, formants_hz: Waveform, sample_rate_hz: int) -> Waveform:
    """One vowel under a rise and a fall, of root mean square 1, with the pitch (samples,)."""
    phase = 2 * np.pi * np.cumsum(pitch_hz) / sample_rate_hz
    middle_hz = float(pitch_hz.mean())
    highest_hz = min(MAX_VOICED_HZ, 0.45 * sample_rate_hz)
    sound = np.zeros(len(pitch_hz))
    for harmonic in range(1, int(highest_hz / middle_hz) + 1):
        frequency_hz = harmonic * middle_hz
        gains = [
            formant_hz**2 / np.hypot(formant_hz**2 - frequency_hz**2, frequency_hz * width_hz)
            for formant_hz, width_hz in zip(formants_hz, FORMANT_WIDTHS_HZ, strict=True)
        ]
        sound += float(np.prod(gains)) / harmonic * np.sin(harmonic * phase)
    return _at_unit_level(sound * np.hanning(len(sound)) ** 0.5)


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
    level: float = np.sqrt(np.mean(sound**2))
    return sound / level
