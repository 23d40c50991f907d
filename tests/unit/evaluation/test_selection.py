"""Three ways to choose the epoch, side by side, with the paired difference."""

import re

import numpy as np
import pytest

from lungsound.errors import DataError
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.selection import column_rows, unwatched_columns

CLASSES = ("normal", "crackle", "wheeze", "both")


def predictions_of(chosen: list[int], *, labels: list[int], part: str = "test") -> Predictions:
    """Eight cycles a patient, with validation rows that must not be looked at."""
    num = len(labels)
    held = 4
    every = np.array([*chosen, *[3] * held])
    return Predictions(
        keys=tuple(f"r{i}#0.000-1.000" for i in range(num + held)),
        patients=tuple(f"p{i // 8}" for i in range(num)) + ("v",) * held,
        devices=("",) * (num + held),
        parts=(part,) * num + ("validation",) * held,
        labels=np.array([*labels, *[0] * held]),
        probabilities=np.eye(4)[every],
        classes=CLASSES,
    )


LABELS = [0, 1, 2, 3] * 10
LAST = [0, 1, 0, 0] * 10
TEST = [0, 1, 2, 0] * 8 + [0, 0, 0, 0] * 2


NONE_CHOSEN = "none (no epoch had a sensitivity over 5 %)"


def test_each_column_is_scored_on_the_test_rows_and_the_difference_is_paired() -> None:
    last, test = predictions_of(LAST, labels=LABELS), predictions_of(TEST, labels=LABELS)
    first, validation, third = column_rows([{"test": test, "last": last}], [{"test": 3, "last": 9}], part="test")
    assert [first[:2], third[:2]] == [("last epoch", "9"), ("chosen on test (as published)", "3")]
    scores = [row[2].split()[0] for row in (first, third)]
    assert scores == [f"{100 * (1 + right / 30) / 2:.1f}" for right in (10, 16)]
    assert first[5].startswith(f"+{100 * 6 / 30 / 2:.1f} ")
    assert validation[1:] == (NONE_CHOSEN, "", "", "", "")
    assert third[5] == ""
    same = column_rows([{"last": last, "test": last}], [{"last": 4, "test": 4}], part="test")
    assert same[0][5] == "+0.0 (+0.0 to +0.0)"
    untested = column_rows([{"last": last, "validation": last}], [{"last": 4}], part="test")
    assert [row[1] for row in untested] == ["4", "none", NONE_CHOSEN]
    assert [row[5] for row in untested] == ["", "", ""]


def test_the_interval_of_the_difference_is_that_of_naive_paired_resamples() -> None:
    generator = np.random.default_rng(7)
    labels = np.array(LABELS * 8)  # 40 patients
    first = np.where(generator.random(320) < 0.6, labels, 0)
    second = np.where(generator.random(320) < 0.1, labels, first)  # differs from the first in few cycles
    pair = {
        "last": predictions_of(first.tolist(), labels=labels.tolist()),
        "test": predictions_of(second.tolist(), labels=labels.tolist()),
    }
    _, low, high = map(float, re.findall(r"[+-][\d.]+", column_rows([pair], [{}], part="test")[0][5]))
    differences = []
    for _ in range(3000):
        rows = np.concatenate([np.arange(8) + 8 * patient for patient in generator.integers(40, size=40)])
        abnormal = rows[labels[rows] > 0]
        differences.append(50 * ((second == labels)[abnormal].mean() - (first == labels)[abnormal].mean()))
    naive_low, naive_high = np.quantile(differences, [0.025, 0.975])
    naive_width = naive_high - naive_low
    assert 0.95 * naive_width < high - low < 1.5 * naive_width  # wider: the small-sample correction
    assert (low + high) / 2 == pytest.approx((naive_low + naive_high) / 2, abs=1.5)


def test_a_missing_column_gives_the_reason() -> None:
    last = predictions_of(LAST, labels=LABELS)

    def which(*runs: dict[str, Predictions], epochs: list[dict[str, int]], **watching: bool) -> list[str]:
        unwatched = unwatched_columns("last", **watching)
        return [row[1] for row in column_rows(runs, epochs, part="test", unwatched=unwatched)]

    alone = {"last": last}
    assert which(alone, epochs=[{"last": 4}], is_test_watched=False, has_validation=False) == [
        "4",
        "none (no patient was held out)",
        "none (not watched)",
    ]
    assert unwatched_columns("best_on_test", is_test_watched=False, has_validation=True) == {}
    both = {"is_test_watched": True, "has_validation": True}
    assert which(alone, epochs=[{"last": 4, "test": 2}], **both)[2] == "none (its predictions were not kept)"
    seeds = which(alone, alone | {"test": last}, epochs=[{"last": 4}, {"last": 4, "test": 2}], **both)
    assert seeds == ["4, 4", NONE_CHOSEN, "none, 2 (no mean: in 1 of 2 runs no epoch had a sensitivity over 5 %)"]


def test_columns_of_different_cycles_are_refused() -> None:
    last, test = predictions_of(LAST, labels=LABELS), predictions_of(TEST[:-8], labels=LABELS[:-8])
    with pytest.raises(DataError, match="have different cycles of test"):
        column_rows([{"last": last, "test": test}], [{}], part="test")


def test_several_seeds_give_the_mean_and_every_chosen_epoch() -> None:
    last, test = predictions_of(LAST, labels=LABELS), predictions_of(TEST, labels=LABELS)
    runs = [{"last": last, "test": test}, {"last": test, "test": test}]
    first, _, third = column_rows(runs, [{"last": 8, "test": 3}, {"last": 8, "test": 5}], part="test")
    assert (first[1], third[1]) == ("8, 8", "3, 5")
    assert first[2].startswith(f"{100 * (1 + (10 + 16) / 60) / 2:.1f} ")
    assert first[5].startswith(f"+{100 * (16 - 10) / 30 / 4:.1f} ")
