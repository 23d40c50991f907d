"""One run, three ways to choose the epoch: the last, by validation patients, by the test itself (as published)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lungsound.errors import DataError
from lungsound.evaluation.evaluate import ScoreReading
from lungsound.evaluation.metrics import Counts, Fractions, mean_score, sensitivity, specificity
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.uncertainty import Estimate, Statistic, estimate_over_patients, patient_confusions

LAST, VALIDATION, TEST = "last", "validation", "test"
NAMES = {LAST: "last epoch", VALIDATION: "chosen on validation", TEST: "chosen on test (optimistic, as published)"}


@dataclass(frozen=True)
class Column:
    """Scores on the test part with the epoch chosen in one way; `epoch` 0: the rule chose none."""

    name: str
    epoch: int
    scores: ScoreReading


@dataclass(frozen=True)
class Columns:
    """The columns that a run has, in the order of `NAMES`, and how far the test's choice is above each other one."""

    part: str
    columns: tuple[Column, ...]
    optimism: Mapping[str, Estimate]


def read_columns(
    predictions: Mapping[str, Predictions], epochs: Mapping[str, int], *, part: str, seed: int = 0
) -> Columns:
    """The columns of one part of the test from the answers of each chosen epoch on the same cycles.

    `predictions` are by column name, as the run folder holds them (rows of the part "validation" are not looked at).
    Differences are paired: every resample takes the same patients in both columns.
    """
    of_part = {name: predictions[name].of_part(part) for name in NAMES if name in predictions}
    if len({answers.keys for answers in of_part.values()}) > 1:
        raise DataError(f"the columns {', '.join(of_part)} answer different cycles of {part}: train the run again")
    confusions = {name: patient_confusions(answers) for name, answers in of_part.items()}

    def estimate(counts: Counts, statistic: Statistic) -> Estimate:
        return estimate_over_patients(counts, statistic, generator=np.random.default_rng(seed))

    columns = tuple(
        Column(
            name,
            epochs.get(name, 0),
            ScoreReading(*(estimate(counts, value) for value in (mean_score, specificity, sensitivity))),
        )
        for name, counts in confusions.items()
    )
    others = [name for name in confusions if name != TEST] if TEST in confusions else []
    optimism = {name: estimate(np.stack([confusions[TEST], confusions[name]], axis=1), _difference) for name in others}
    return Columns(part, columns, optimism)


def _difference(pairs: Counts) -> Fractions:
    """Score of the first minus that of the second of `(..., 2, true class, answered class)`."""
    scores = mean_score(pairs)
    return np.asarray(scores[..., 0] - scores[..., 1])


def column_rows(columns: Columns) -> list[tuple[str, ...]]:
    """Lines of a table: how the epoch was chosen, which it was, Score, Sp, Se, and the test's choice minus this one."""
    rows = []
    for column in columns.columns:
        readings = (column.scores.score, column.scores.specificity, column.scores.sensitivity)
        above = columns.optimism.get(column.name)
        rows.append(
            (
                NAMES[column.name],
                str(column.epoch or "none"),
                *(reading.in_percent() for reading in readings),
                "" if above is None else in_points(above),
            )
        )
    return rows


COLUMN_HEAD: Sequence[str] = ("epoch", "which", "Score", "Sp", "Se", "chosen on test minus this")


def in_points(difference: Estimate) -> str:
    """A difference of Scores in percent points, with sign: "+1.9 (-0.4 to +4.0)"."""
    if math.isnan(difference.value):
        return "n/a"
    interval = difference.interval
    if interval.problem is not None:
        return f"{100 * difference.value:+.1f} (n/a)"
    return f"{100 * difference.value:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"
