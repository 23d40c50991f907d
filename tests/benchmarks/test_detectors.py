"""Detectors: matching against an optimal assignment, scores against naive loops, and the tables of a small corpus."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from benchmarks.detectors import INJECTED, Match, f1, main, match, median_error_s, overlap, scores
from scipy.optimize import linear_sum_assignment

from lungsound.evaluation.bootstrap import Bootstrap


def test_as_many_cycles_are_matched_as_can_be() -> None:
    assert [overlap((0, 2), other) for other in ((0, 2), (0, 1), (2, 3))] == [1, 0.5, 0]
    assert overlap((0, 2), (1, 3)) == pytest.approx(1 / 3)
    rng = np.random.default_rng(0)

    def draw() -> tuple[tuple[float, float], ...]:
        starts_s = rng.integers(0, 12, size=int(rng.integers(0, 9))) / 2
        return tuple((float(start_s), float(start_s + rng.integers(1, 6) / 2)) for start_s in starts_s)

    for _ in range(200):
        detected, annotated = draw(), draw()
        is_pair = np.array([[overlap(one, other) >= 0.5 for other in annotated] for one in detected], dtype=float)
        is_pair = is_pair.reshape(len(detected), len(annotated))
        best = is_pair[linear_sum_assignment(is_pair, maximize=True)].sum()
        assert match(detected, annotated, "a")[1:4] == (len(detected), len(annotated), best)


def test_errors_are_distances_to_the_nearest_detected_onset() -> None:
    one = match(((4.0, 6.0), (1.0, 4.0)), ((1.1, 4.1), (4.5, 6.0), (8.0, 9.0)), "a")
    assert one.errors_s == pytest.approx((0.1, 0.5, 4.0))
    assert match((), ((0.0, 1.0),), "a").errors_s == (math.inf,)


def draw_matches(num_patients: int = 12) -> list[Match]:
    rng, matches = np.random.default_rng(1), []
    for number in range(3 * num_patients):
        num = int(rng.integers(1, 9))
        errors_s = tuple(rng.exponential(0.3, num).tolist())
        matches.append(Match(f"p{number % num_patients}", 7, num, int(rng.integers(0, num + 1)), errors_s))
    return matches


def test_scores_are_those_of_all_recordings_together() -> None:
    matches = draw_matches()
    matched = sum(each.num_matched for each in matches)
    detected, annotated = sum(each.num_detected for each in matches), sum(each.num_annotated for each in matches)
    errors_s = sorted(error for each in matches for error in each.errors_s)
    expected = [
        2 / (detected / matched + annotated / matched),
        matched / annotated,
        matched / detected,
        *(sum(error <= near_s for error in errors_s) / annotated for near_s in (0.25, 0.5)),
        errors_s[(len(errors_s) - 1) // 2],
    ]
    estimates = scores(matches, num_draws=200).values()
    assert [each.value for each in estimates] == pytest.approx(expected)
    assert all(each.interval.low < each.value < each.interval.high for each in estimates)
    assert {each.interval.num_patients for each in estimates} == {12}
    worse = [each._replace(num_matched=each.num_matched // 2) for each in matches]
    gain = Bootstrap(num_draws=200).estimate(f1(matches), 12, minus=f1(worse))
    assert 0 < gain.interval.low < gain.value < gain.interval.high
    none = list(scores([match((), ((0.0, 1.0),), str(patient)) for patient in range(6)], num_draws=50).values())
    assert [each.value for each in none] == pytest.approx([0, 0, math.nan, 0, 0, math.nan], nan_ok=True)


def test_median_of_patients_taken_often_is_that_of_their_errors_repeated() -> None:
    matches = draw_matches(5)
    weights = np.random.default_rng(0).integers(0, 4, (20, 5))
    names = sorted({each.patient for each in matches})
    for row, value in zip(weights, median_error_s(matches)(weights), strict=True):
        errors_s = sorted(error for each in matches for error in each.errors_s * int(row[names.index(each.patient)]))
        assert value == errors_s[(len(errors_s) - 1) // 2]


@pytest.mark.slow
def test_the_tables_have_cycles_beside_windows_and_what_was_injected(
    synthetic_corpus_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(synthetic_corpus_dir), "--part", "test", "--injected", "1"])
    page = capsys.readouterr().out
    found = re.findall(r"^\| all \| \d+ \| \d+ \| ([a-z ]+) \| ([\d.]+) ", page, re.MULTILINE)
    f1_of = {way: float(value) for way, value in found}
    assert f1_of["segmentation"] > max(f1_of["windows"] + 5, f1_of["windows at any phase"] + 10)
    assert "0 without a prediction" in page
    assert {name for name, *_ in INJECTED} <= set(re.findall(r"^\| (\w+), ", page, re.MULTILINE))
    assert "| speech, +10 dB | 100 |" in page
    with pytest.raises(SystemExit):
        main([str(synthetic_corpus_dir), "--mode", "xx"])
