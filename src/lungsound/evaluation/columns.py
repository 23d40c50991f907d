"""Three ways to choose the epoch of a run: the last, by validation patients, by the test itself (as published)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lungsound.errors import DataError
from lungsound.evaluation.evaluate import ScoreReading
from lungsound.evaluation.metrics import Counts, mean_score, sensitivity, specificity
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.uncertainty import Estimate, estimate_over_seeds, patient_confusions

LAST, VALIDATION, TEST = "last", "validation", "test"
NAMES = {LAST: "last epoch", VALIDATION: "chosen on validation", TEST: "chosen on test (optimistic, as published)"}


@dataclass(frozen=True)
class Column:
    """Scores on the test part with the epoch chosen in one way: means over the runs, which differ in their seed.

    `epochs` has the chosen epoch of each run, 0 where the rule chose none.
    """

    name: str
    epochs: tuple[int, ...]
    scores: ScoreReading


@dataclass(frozen=True)
class Columns:
    """The columns that runs have, in the order of `NAMES`, and how far the test's choice is above each other one."""

    part: str
    columns: tuple[Column, ...]
    optimism: Mapping[str, Estimate]


def read_columns(
    runs: Sequence[Mapping[str, Predictions]], epochs: Sequence[Mapping[str, int]], *, part: str, seed: int = 0
) -> Columns:
    """The columns of one part of the test from the answers of each chosen epoch on the same cycles.

    Each run holds its answers by column name, as its folder does (rows of the part "validation" are not looked at), and
    `epochs` which epoch each column is; several runs differ in their seed. Columns that not every run has are left out.
    Differences are paired: every resample takes the same patients in both columns.
    """
    names = [name for name in NAMES if all(name in run for run in runs)]
    of_part = {name: [run[name].of_part(part) for run in runs] for name in names}
    if len({answers.keys for column in of_part.values() for answers in column}) > 1:
        raise DataError(f"the columns {', '.join(of_part)} answer different cycles of {part}: train the run again")
    columns = tuple(
        Column(name, tuple(chosen.get(name, 0) for chosen in epochs), score_runs(of_part[name], seed=seed))
        for name in names
    )
    others = [name for name in names if name != TEST] if TEST in names else []
    optimism = {
        name: estimate_over_seeds(
            _confusions(of_part[TEST]),
            mean_score,
            minus=_confusions(of_part[name]),
            generator=np.random.default_rng(seed),
        )
        for name in others
    }
    return Columns(part, columns, optimism)


def score_runs(runs: Sequence[Predictions], *, seed: int = 0) -> ScoreReading:
    """Mean scores of runs that answered the same cycles, with intervals over patients and, of several, seeds."""
    confusions = _confusions(runs)
    score, sp, se = (
        estimate_over_seeds(confusions, statistic, generator=np.random.default_rng(seed))
        for statistic in (mean_score, specificity, sensitivity)
    )
    return ScoreReading(score, sp, se)


def _confusions(runs: Sequence[Predictions]) -> Counts:
    return np.stack([patient_confusions(answers) for answers in runs])


def column_rows(columns: Columns) -> list[tuple[str, ...]]:
    """Lines of a table: how the epoch was chosen, which it was, Score, Sp, Se, and the test's choice minus this one."""
    rows = []
    for column in columns.columns:
        readings = (column.scores.score, column.scores.specificity, column.scores.sensitivity)
        above = columns.optimism.get(column.name)
        rows.append(
            (
                NAMES[column.name],
                ", ".join(str(epoch or "none") for epoch in column.epochs),
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
