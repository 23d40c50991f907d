"""Each step against naive loops or a closed form; the whole on the synthetic corpus, whose cycles are exact."""

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from benchmarks.detectors import match, scores

from lungsound.audio.io import read_waveform, resample
from lungsound.audio.segmentation import (
    BAND_HZ,
    FRAME_S,
    MAX_CYCLE_S,
    MIN_CYCLE_S,
    RISE_AFTER_S,
    RISE_BEFORE_S,
    SPACING_WEIGHT,
    Segmentation,
    Values,
    band_level_db,
    band_power,
    best_onsets,
    cycles_between,
    level_rise,
    periodicity,
    segment_cycles,
    sliding_windows,
)
from lungsound.data.reader import read_corpus
from lungsound.data.synthetic_sounds import heart_sounds

RATE = 8000


def noise(seconds: float, *, seed: int = 0) -> np.ndarray:
    return (0.01 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


def breathing(onsets_s: list[float], *, seconds: float, expiration: float = 0.4) -> np.ndarray:
    """Noise that swells at each onset for 0.8 s, and weaker, 1 s after it, for 0.8 s again."""
    time_s = np.arange(int(seconds * RATE)) / RATE
    envelope = np.full(len(time_s), 0.05)
    for onset_s in onsets_s:
        for start_s, level in ((onset_s, 1.0), (onset_s + 1.0, expiration)):
            inside = (time_s >= start_s) & (time_s < start_s + 0.8)
            envelope[inside] += level * np.sin(np.pi * (time_s[inside] - start_s) / 0.8)
    return (envelope * noise(seconds)).astype(np.float32)


def every_choice(num_frames: int, first: int = 0) -> Iterator[list[int]]:
    shortest, longest = round(MIN_CYCLE_S / FRAME_S), round(MAX_CYCLE_S / FRAME_S)
    for frame in range(first, num_frames):
        yield [frame]
        for rest in every_choice(num_frames, frame + shortest):
            if rest[0] - frame <= longest:
                yield [frame, *rest]


def naive_value(strength: Values, onsets: list[int], period_s: float) -> float:
    value = sum(strength[frame] for frame in onsets)
    for one, next_one in pairwise(onsets):
        value -= SPACING_WEIGHT * math.log((next_one - one) * FRAME_S / period_s) ** 2
    for rest in (onsets[0], len(strength) - 1 - onsets[-1]):
        if rest * FRAME_S > period_s:
            value -= SPACING_WEIGHT * math.log(rest * FRAME_S / period_s) ** 2
    return float(value)


@pytest.mark.parametrize("seed", range(4))
def test_onsets_are_the_best_of_all_choices(seed: int) -> None:
    strength = np.random.default_rng(seed).standard_normal(66)
    periods_s = np.array([0.85, 1.1, 1.9])
    for (onsets, value), period_s in zip(best_onsets(strength, periods_s), periods_s, strict=True):
        best = max(every_choice(len(strength)), key=lambda choice: naive_value(strength, choice, period_s))
        assert onsets.tolist() == best
        assert value == pytest.approx(naive_value(strength, best, period_s))


def test_onsets_of_even_pulses_are_the_pulses() -> None:
    strength = np.full(500, -1.0)
    strength[30::50] = 10.0
    [(onsets, value)] = best_onsets(strength, np.array([50 * FRAME_S]))
    assert onsets.tolist() == list(range(30, 500, 50))
    assert value == pytest.approx(100.0)


def test_rise_is_the_mean_after_less_the_mean_before() -> None:
    level = np.random.default_rng(0).standard_normal(60)
    before, after = round(RISE_BEFORE_S / FRAME_S), round(RISE_AFTER_S / FRAME_S)

    def held(frame: int) -> float:
        return float(level[min(max(frame, 0), len(level) - 1)])

    naive = [
        sum(held(i + k) for k in range(after)) / after - sum(held(i - 1 - k) for k in range(before)) / before
        for i in range(len(level))
    ]
    assert level_rise(level) == pytest.approx(naive)
    step = np.where(np.arange(60) < 30, -50.0, -40.0)
    assert level_rise(step).argmax() == 30
    assert level_rise(step)[30] == pytest.approx(10.0)
    assert level_rise(step)[[5, 50]] == pytest.approx([0.0, 0.0])


def test_band_power_of_a_tone_is_half_its_amplitude_squared_inside_the_band_only() -> None:
    time_s = np.arange(2 * RATE) / RATE
    for frequency_hz, expected in ((300.0, 0.02), (50.0, 0.0), (BAND_HZ[1] + 200, 0.0)):
        power = band_power((0.2 * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32), RATE)
        assert power == pytest.approx(np.full(len(power), expected), rel=1e-4, abs=1e-6)
    assert len(band_power(np.zeros(RATE, np.float32), RATE)) == round(1 / FRAME_S) - 1
    assert len(band_power(np.zeros(10, np.float32), RATE)) == 0


def test_level_has_a_floor_below_what_is_not_silent() -> None:
    level = band_level_db(np.concatenate((np.full(100, 1e-4), np.full(100, 1e-6), np.zeros(50))))
    assert level[[0, 150, 220]] == pytest.approx([-40.0, -60.0, -60.0 + 10 * math.log10(0.5)])


def test_periodicity_of_a_wave_is_what_of_it_is_left_after_a_period() -> None:
    wave = np.cos(2 * np.pi * np.arange(500) / 50)
    assert periodicity(wave, 50 * FRAME_S) == pytest.approx(450 / 500, abs=0.01)
    assert periodicity(wave, 25 * FRAME_S) < 0


def test_windows_cover_the_recording() -> None:
    assert sliding_windows(10.0, length_s=4.0, hop_s=2.0) == ((0, 4), (2, 6), (4, 8), (6, 10))
    assert sliding_windows(9.0, length_s=4.0, hop_s=2.0) == ((0, 4), (2, 6), (4, 8), (5, 9))
    assert sliding_windows(3.0, length_s=4.0, hop_s=2.0) == ((0, 3),)


def test_parts_of_cycles_at_the_ends_count_when_long_enough() -> None:
    def between(*onsets_s: float) -> list[tuple[float, float]]:
        return list(cycles_between(onsets_s, start_s=1.0, end_s=9.0, min_partial_s=1.0))

    assert between(3.0, 6.0) == [(1.0, 3.0), (3.0, 6.0), (6.0, 9.0)]
    assert between(1.5, 4.0, 8.5) == [(1.5, 4.0), (4.0, 8.5)]
    assert between() == between(0.5, 9.5) == [(1.0, 9.0)]
    assert between(1.5) == [(1.5, 9.0)]
    assert cycles_between([1.2], start_s=1.0, end_s=1.5, min_partial_s=1.0) == ((1.2, 1.5),)


def test_breaths_of_uneven_length_are_found_although_expiration_is_heard() -> None:
    onsets_s = [0.9, 3.3, 6.1, 8.4, 11.2, 13.9, 16.2]
    found = segment_cycles(breathing(onsets_s, seconds=19), RATE)
    assert found.problem is None
    assert [start_s for start_s, _ in found.cycles if start_s > 0] == pytest.approx(onsets_s, abs=0.15)
    assert all(one[1] == other[0] for one, other in pairwise(found.cycles))
    assert found.cycles[-1][1] == pytest.approx(19, abs=FRAME_S)


def test_loudness_does_not_matter_and_silence_at_the_ends_is_left_out() -> None:
    waveform = breathing([1.3, 3.7, 6.2, 8.5], seconds=11)
    found = segment_cycles(waveform, RATE)
    assert segment_cycles(waveform / 8, RATE).cycles == found.cycles
    silence = np.zeros(2 * RATE, np.float32)
    shifted = segment_cycles(np.concatenate((silence, waveform, silence)), RATE)
    assert len(shifted.cycles) == len(found.cycles)
    assert np.array(shifted.cycles) - 2 == pytest.approx(np.array(found.cycles), abs=2.1 * FRAME_S)


def refused(found: Segmentation, word: str) -> bool:
    return found.cycles == () and found.problem is not None and word in found.problem


def test_what_is_no_breathing_is_refused_with_the_reason() -> None:
    assert refused(segment_cycles(np.zeros(10 * RATE, np.float32), RATE), "no sound from 150 to 600 Hz")
    assert refused(segment_cycles(np.zeros(0, np.float32), RATE), "no sound")
    assert refused(segment_cycles(noise(2.0), RATE), "less than")
    for seed in range(10):
        assert refused(segment_cycles(noise(15.0, seed=seed), RATE), "steady noise")
    heart = heart_sounds(15 * RATE, RATE, np.random.default_rng(0), beats_per_minute=70)
    assert refused(segment_cycles((0.1 * heart).astype(np.float32) + noise(15.0), RATE), "steady noise")


def test_a_single_event_has_no_rhythm() -> None:
    waveform = noise(15.0)
    waveform[7 * RATE :] *= 10
    assert refused(segment_cycles(waveform, RATE), "noise")


def test_cycles_of_the_synthetic_corpus_are_found_at_any_rate(synthetic_corpus_dir: Path) -> None:
    corpus = read_corpus(synthetic_corpus_dir)
    tallies = {rate_hz: [] for rate_hz in (None, 4000)}
    for recording in corpus.recordings:
        annotated = [(each.start_s, each.end_s) for each in corpus.cycles if each.recording == recording]
        waveform = read_waveform(recording.path, sample_rate_hz=recording.sample_rate_hz)
        for rate_hz, found in tallies.items():
            rate = rate_hz or recording.sample_rate_hz
            cycles = segment_cycles(resample(waveform, recording.sample_rate_hz, rate), rate).cycles
            found.append(match(cycles, annotated, recording.patient))
    for found in tallies.values():
        by_name = scores(found, num_draws=10)
        assert by_name["F1, %"].value > 0.8
        assert by_name["onset error, median, s"].value < 0.15
