"""Scores of runs that each left something out: by what was left out, and of all the cycles together."""

from collections.abc import Mapping, Sequence

from lungsound.evaluation.columns import score_runs
from lungsound.evaluation.predictions import Predictions, joined
from lungsound.page import Table

POOLED = "all together"
HEAD = ("left out and tested on", "cycles", "patients", "Score", "Sp", "Se")


def left_out_table(folds: Mapping[str, Sequence[Predictions]]) -> Table:
    """A row for each fold, and one of all its cycles; each fold has the answers of each seed, all of the test part.

    In the last row each cycle is answered by a model that did not train on what the cycle was recorded with.
    """
    rows = [_row(name, runs) for name, runs in folds.items()]
    return Table(HEAD, [*rows, _row(POOLED, pooled(folds))] if len(folds) > 1 else rows)


def pooled(folds: Mapping[str, Sequence[Predictions]]) -> list[Predictions]:
    """For each seed that every fold has, the answers of all folds together."""
    return [joined(runs) for runs in zip(*folds.values(), strict=False)]


def _row(name: str, runs: Sequence[Predictions]) -> tuple[str | int, ...]:
    scores = score_runs(runs)
    readings = (scores.score, scores.specificity, scores.sensitivity)
    return name, len(runs[0].keys), len(set(runs[0].patients)), *(reading.in_percent() for reading in readings)
