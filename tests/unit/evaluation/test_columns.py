"""Three ways to choose the epoch, side by side, with the paired difference."""

import numpy as np
import pytest

from lungsound.errors import DataError
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.scores import evaluate_predictions
from lungsound.evaluation.selection import column_rows, read_columns, unwatched_columns

CLASSES = ("normal", "crackle", "wheeze", "both")


def answers(chosen: list[int], *, labels: list[int], part: str = "test") -> Predictions:
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


def test_each_column_is_scored_on_the_test_rows_and_the_difference_is_paired() -> None:
    last, test = answers(LAST, labels=LABELS), answers(TEST, labels=LABELS)
    found = read_columns([{"test": test, "last": last}], [{"test": 3, "last": 9}], part="test")
    assert [(column.name, column.epochs) for column in found.columns] == [("last", (9,)), ("test", (3,))]
    assert found.columns[0].scores.score.value == pytest.approx((1 + 10 / 30) / 2)
    assert found.columns[1].scores.score.value == pytest.approx((1 + 16 / 30) / 2)
    assert list(found.optimism) == ["last"]
    assert found.optimism["last"].value == pytest.approx((16 / 30 - 10 / 30) / 2)
    alone = evaluate_predictions(last.of_part("test")).all_classes.score
    assert found.columns[0].scores.score == alone


def test_the_interval_of_the_difference_is_that_of_naive_paired_resamples() -> None:
    generator = np.random.default_rng(7)
    labels = np.array(LABELS * 8)  # 40 patients
    first = np.where(generator.random(320) < 0.6, labels, 0)
    second = np.where(generator.random(320) < 0.1, labels, first)  # differs from the first in few cycles
    pair = {
        "last": answers(first.tolist(), labels=labels.tolist()),
        "test": answers(second.tolist(), labels=labels.tolist()),
    }
    interval = read_columns([pair], [{}], part="test").optimism["last"].interval
    differences = []
    for _ in range(3000):
        rows = np.concatenate([np.arange(8) + 8 * patient for patient in generator.integers(40, size=40)])
        abnormal = rows[labels[rows] > 0]
        differences.append(((second == labels)[abnormal].mean() - (first == labels)[abnormal].mean()) / 2)
    naive_low, naive_high = np.quantile(differences, [0.025, 0.975])
    naive_width = naive_high - naive_low
    assert 0.95 * naive_width < interval.high - interval.low < 1.5 * naive_width  # wider: the small-sample correction
    assert (interval.low + interval.high) / 2 == pytest.approx((naive_low + naive_high) / 2, abs=0.015)


def test_the_same_answers_differ_by_nothing() -> None:
    last = answers(LAST, labels=LABELS)
    found = read_columns([{"last": last, "test": last}], [{"last": 4, "test": 4}], part="test")
    assert found.optimism["last"].value == 0
    assert (found.optimism["last"].interval.low, found.optimism["last"].interval.high) == (0, 0)
    rows = column_rows(found)
    assert rows[0][:2] == ("last epoch", "4")
    assert rows[0][-1] == "+0.0 (+0.0 to +0.0)"
    assert rows[1] == ("chosen on validation", "none (no epoch had a sensitivity over 5 %)", "", "", "", "")
    assert rows[2][0] == "chosen on test (as published)"
    assert rows[2][-1] == ""


def test_without_a_test_column_there_is_no_difference() -> None:
    last = answers(LAST, labels=LABELS)
    found = read_columns([{"last": last, "validation": last}], [{"last": 4}], part="test")
    assert found.optimism == {}
    none = "none (no epoch had a sensitivity over 5 %)"
    assert [row[1] for row in column_rows(found)] == ["4", "none", none]


def test_why_a_column_is_missing_is_said() -> None:
    last = answers(LAST, labels=LABELS)

    def which(*runs: dict[str, Predictions], epochs: list[dict[str, int]], **watching: bool) -> list[str]:
        unwatched = unwatched_columns(**watching)
        return [row[1] for row in column_rows(read_columns(runs, epochs, part="test", unwatched=unwatched))]

    alone = {"last": last}
    assert which(alone, epochs=[{"last": 4}], is_test_watched=False, has_validation=False) == [
        "4",
        "none (no patient was held out)",
        "none (not watched)",
    ]
    both = {"is_test_watched": True, "has_validation": True}
    kept = which(alone, epochs=[{"last": 4, "test": 2}], **both)
    assert kept[2] == "none (its predictions were not kept)"
    seeds = which(alone, alone | {"test": last}, epochs=[{"last": 4}, {"last": 4, "test": 2}], **both)
    assert seeds[0] == "4, 4"
    assert seeds[1] == "none (no epoch had a sensitivity over 5 %)"
    assert seeds[2] == "none, 2 (no mean: in 1 of 2 runs no epoch had a sensitivity over 5 %)"


def test_columns_of_different_cycles_are_refused() -> None:
    last, test = answers(LAST, labels=LABELS), answers(TEST[:-8], labels=LABELS[:-8])
    with pytest.raises(DataError, match="have different cycles of test"):
        read_columns([{"last": last, "test": test}], [{}], part="test")


def test_several_seeds_give_the_mean_and_every_chosen_epoch() -> None:
    last, test = answers(LAST, labels=LABELS), answers(TEST, labels=LABELS)
    runs = [{"last": last, "test": test}, {"last": test, "test": test}]
    found = read_columns(runs, [{"last": 8, "test": 3}, {"last": 8, "test": 5}], part="test")
    assert [column.epochs for column in found.columns] == [(8, 8), (3, 5)]
    assert found.columns[0].scores.score.value == pytest.approx((1 + (10 + 16) / 60) / 2)
    assert found.optimism["last"].value == pytest.approx((16 - 10) / 30 / 4)


def test_a_column_that_one_run_lacks_has_no_scores() -> None:
    last, test = answers(LAST, labels=LABELS), answers(TEST, labels=LABELS)
    found = read_columns([{"last": last, "test": test}, {"last": last}], [{}, {}], part="test")
    assert [column.name for column in found.columns] == ["last"]
    assert list(found.missing) == ["validation", "test"]
    assert column_rows(found)[2][2:] == ("", "", "", "")
