"""Scores of runs that each left something out: by what was left out, and of all the cycles together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lungsound.evaluation.columns import score_runs
from lungsound.evaluation.predictions import Predictions, joined
from lungsound.page import Table

POOLED = "all together"
HEAD = ("left out and tested on", "cycles", "patients", "cycles that train", "patients who train", "Score", "Sp", "Se")


@dataclass(frozen=True)
class TrainedOn:
    """How much was left to train one run."""

    num_cycles: int
    num_patients: int


@dataclass(frozen=True)
class Fold:
    """The runs that left one thing out: for each seed its answers, all of the test part, and what trained it."""

    runs: Sequence[Predictions]
    trained_on: Sequence[TrainedOn]


def left_out_table(folds: Mapping[str, Fold]) -> Table:
    """A row for each fold, and one of all its cycles.

    In the last row each cycle is answered by a model that did not train on what the cycle was recorded with.
    """
    rows = [_row(name, fold.runs, fold.trained_on) for name, fold in folds.items()]
    return Table(HEAD, [*rows, _row(POOLED, pooled(folds), ())] if len(folds) > 1 else rows)


def pooled(folds: Mapping[str, Fold]) -> list[Predictions]:
    """For each seed that every fold has, the answers of all folds together."""
    return [joined(runs) for runs in zip(*(fold.runs for fold in folds.values()), strict=False)]


def _row(name: str, runs: Sequence[Predictions], trained_on: Sequence[TrainedOn]) -> tuple[str | int, ...]:
    scores = score_runs(runs)
    readings = (scores.score, scores.specificity, scores.sensitivity)
    training = [each.num_cycles for each in trained_on], [each.num_patients for each in trained_on]
    return (
        name,
        len(runs[0].keys),
        len(set(runs[0].patients)),
        *map(_least_to_most, training),
        *(reading.in_percent() for reading in readings),
    )


def _least_to_most(counts: Sequence[int]) -> str | int:
    """One number when all seeds have the same, else the least and the most; nothing of the row of all."""
    if not counts:
        return ""
    least, most = min(counts), max(counts)
    return least if least == most else f"{least} to {most}"
