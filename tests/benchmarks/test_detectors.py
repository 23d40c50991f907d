"""Detectors: matching against an optimal assignment, scores against naive loops, and the report of a small corpus."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from benchmarks.detectors import (
    INJECTED,
    Tally,
    f1_gain,
    main,
    median_error,
    num_matched,
    overlap,
    score_segmentation,
    tally,
)
from scipy.optimize import linear_sum_assignment

from lungsound.errors import SettingsError


def draw_cycles(rng: np.random.Generator) -> list[tuple[float, float]]:
    starts_s = rng.integers(0, 12, size=int(rng.integers(0, 9))) / 2
    return [(float(start_s), float(start_s + rng.integers(1, 6) / 2)) for start_s in starts_s]


def test_overlap_is_what_is_shared_of_what_is_covered() -> None:
    assert overlap((0, 2), (0, 2)) == 1
    assert overlap((0, 2), (1, 3)) == pytest.approx(1 / 3)
    assert overlap((0, 2), (0, 1)) == 0.5
    assert overlap((0, 1), (2, 3)) == overlap((0, 1), (1, 2)) == 0


def test_as_many_cycles_are_matched_as_can_be() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        found, annotated = draw_cycles(rng), draw_cycles(rng)
        is_match = np.array([[overlap(one, other) >= 0.5 for other in annotated] for one in found], dtype=float)
        is_match = is_match.reshape(len(found), len(annotated))
        best = is_match[linear_sum_assignment(is_match, maximize=True)].sum()
        assert num_matched(found, annotated) == best


def test_a_cycle_moves_on_when_another_needs_its_match() -> None:
    # (0, 2) meets both halves; (0, 1) only the first.
    assert num_matched([(0, 1), (1, 2)], [(0, 2), (0, 1)]) == 2
    assert num_matched([(0, 1)], [(0, 2), (0, 1)]) == 1


def test_errors_are_distances_to_the_nearest_found_onset() -> None:
    one = tally([(4.0, 6.0), (1.0, 4.0)], [(1.1, 4.1), (4.5, 6.0), (8.0, 9.0)], patient="a")
    assert one.errors_s == pytest.approx((0.1, 0.5, 4.0))
    assert (one.num_found, one.num_annotated, one.num_matched) == (2, 3, 2)
    assert tally([], [(0.0, 1.0)], patient="a").errors_s == (math.inf,)


def draw_tallies(num_patients: int = 12) -> list[Tally]:
    rng = np.random.default_rng(1)
    tallies = []
    for number in range(3 * num_patients):
        num_annotated = int(rng.integers(1, 9))
        errors_s = tuple(rng.exponential(0.3, num_annotated).tolist())
        tallies.append(
            Tally(f"p{number % num_patients}", 7, num_annotated, int(rng.integers(0, num_annotated + 1)), errors_s)
        )
    return tallies


def test_scores_are_those_of_all_recordings_together() -> None:
    tallies = draw_tallies()
    scores = score_segmentation(tallies, num_draws=200)
    matched = sum(each.num_matched for each in tallies)
    found, annotated = sum(each.num_found for each in tallies), sum(each.num_annotated for each in tallies)
    errors_s = sorted(error for each in tallies for error in each.errors_s)
    assert scores.precision.value == matched / found
    assert scores.recall.value == matched / annotated
    assert scores.f1.value == pytest.approx(2 / (found / matched + annotated / matched))
    assert scores.near[0].value == sum(error <= 0.25 for error in errors_s) / annotated
    assert scores.near[1].value == sum(error <= 0.5 for error in errors_s) / annotated
    assert scores.median_error_s.value == errors_s[(len(errors_s) - 1) // 2]
    for each in (scores.f1, scores.recall, scores.precision, *scores.near, scores.median_error_s):
        assert each.interval.low < each.value < each.interval.high
        assert each.interval.num_patients == 12


def test_median_of_patients_taken_often_is_that_of_their_errors_repeated() -> None:
    tallies = draw_tallies(5)
    weights = np.random.default_rng(0).integers(0, 4, (20, 5))
    names = sorted({each.patient for each in tallies})
    for row, value in zip(weights, median_error(tallies)(weights), strict=True):
        errors_s = sorted(error for each in tallies for error in each.errors_s * int(row[names.index(each.patient)]))
        assert value == errors_s[(len(errors_s) - 1) // 2]


def test_nothing_found_has_no_median_error_and_no_precision() -> None:
    scores = score_segmentation([tally([], [(0.0, 1.0)], patient=str(k)) for k in range(6)], num_draws=50)
    assert scores.f1.value == scores.recall.value == scores.near[0].value == 0
    assert math.isnan(scores.precision.value)
    assert math.isnan(scores.median_error_s.value)


def test_gain_is_the_difference_on_the_same_patients() -> None:
    tallies = draw_tallies()
    worse = [Tally(t.patient, t.num_found, t.num_annotated, t.num_matched // 2, t.errors_s) for t in tallies]
    same, gain = f1_gain(tallies, tallies, num_draws=200), f1_gain(tallies, worse, num_draws=200)
    assert same.value == same.interval.low == same.interval.high == 0
    f1, f1_worse = (score_segmentation(each, num_draws=10).f1.value for each in (tallies, worse))
    assert gain.value == pytest.approx(f1 - f1_worse)
    assert 0 < gain.interval.low < gain.value < gain.interval.high


def test_the_report_has_cycles_beside_windows_and_what_was_planted(
    synthetic_corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stem = str(tmp_path / "detectors")
    main([str(synthetic_corpus_dir), "--out", stem, "--part", "train", "--part", "test", "--planted", "1"])
    page = (tmp_path / "detectors.md").read_text(encoding="utf-8")
    assert "<table>" in (tmp_path / "detectors.html").read_text(encoding="utf-8")
    f1 = {
        name: float(value)
        for name, value in re.findall(
            r"^\| (segmentation|windows|windows at any phase) \| \d+ \| ([\d.]+) ", page, re.M
        )
    }
    assert f1["segmentation"] > f1["windows"] + 5
    assert f1["segmentation"] > f1["windows at any phase"] + 10
    assert "predictions withheld for 0" in capsys.readouterr().out
    assert {each.name for each in INJECTED} <= set(re.findall(r"^\| (\w+) \|", page, re.M))
    row = next(line for line in page.splitlines() if "speech" in line and "+10 dB" in line)
    assert "100" in row


@pytest.mark.parametrize("words", [["--mode", "xx"], ["--part", "none"]])
def test_no_recordings_are_refused(words: list[str], synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no recordings"):
        main([str(synthetic_corpus_dir), "--out", str(tmp_path / "page"), *words])
