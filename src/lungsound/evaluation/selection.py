"""Three ways to choose the epoch of a run: the last, by validation patients, by the test itself (as published)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import Bootstrap, Estimate, patient_confusions
from lungsound.evaluation.metrics import Counts, mean_score
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.scores import ScoreEstimates

LAST, VALIDATION, TEST = "last", "validation", "test"
NAMES = {LAST: "last epoch", VALIDATION: "chosen on validation", TEST: "chosen on test (as published)"}
LEAST_SENSITIVITY = 0.05  # an epoch below it is never chosen, as published
RULE = (
    "Chosen is the epoch with the best Score on all cycles of validation, or of all test parts together, the first of "
    f"equals, among those with a sensitivity over {100 * LEAST_SENSITIVITY:g} %. So an epoch that was chosen on the "
    "test can have a lower Score than the last: on one part of the test, or when the last may not be chosen."
)
NONE_CHOSEN = f"no epoch had a sensitivity over {100 * LEAST_SENSITIVITY:g} %"
NOT_WATCHED, NOBODY_HELD_OUT, NOT_KEPT = "not watched", "no patient was held out", "its predictions were not kept"


@dataclass(frozen=True)
class Column:
    """Scores on the test set with the epoch chosen in one way: means over the runs, which differ in their seed.

    `epochs` has the chosen epoch of each run, 0 where the rule chose none.
    """

    name: str
    epochs: tuple[int, ...]
    scores: ScoreEstimates


@dataclass(frozen=True)
class Columns:
    """The columns that runs have, in the order of `NAMES`, and how far the test's choice is above each other one.

    `missing` says of each other name why it has no column.
    """

    part: str
    columns: tuple[Column, ...]
    optimism: Mapping[str, Estimate]
    missing: Mapping[str, str]


def unwatched_columns(*, is_test_watched: bool, has_validation: bool) -> dict[str, str]:
    """Columns for which a run looks at no epoch but the last, with the reason."""
    reasons = {} if has_validation else {VALIDATION: NOBODY_HELD_OUT}
    return reasons if is_test_watched else {**reasons, TEST: NOT_WATCHED}


def read_columns(
    runs: Sequence[Mapping[str, Predictions]],
    epochs: Sequence[Mapping[str, int]],
    *,
    part: str,
    unwatched: Mapping[str, str] | None = None,
) -> Columns:
    """The columns of one part of the test from the predictions of each chosen epoch on the same cycles.

    Each run holds its predictions by column name, as its folder does (rows of the part "validation" are not looked at),
    and `epochs` which epoch each column is; several runs differ in their seed. Columns that not every run has are
    `missing`: for the reason in `unwatched` (see `unwatched_columns`), else since the rule chose no epoch. Differences
    are paired: every resample takes the same patients in both columns.
    """
    names = [name for name in NAMES if all(name in run for run in runs)]
    of_part = {name: [run[name].of_part(part) for run in runs] for name in names}
    if len({run.keys for column in of_part.values() for run in column}) > 1:
        raise DataError(f"the columns {', '.join(of_part)} have different cycles of {part}: train the run again")
    columns = tuple(
        Column(name, tuple(chosen.get(name, 0) for chosen in epochs), score_runs(of_part[name])) for name in names
    )
    others = [name for name in names if name != TEST] if TEST in names else []
    optimism = {
        name: Bootstrap().of_runs(confusions_of(of_part[TEST]), mean_score, minus=confusions_of(of_part[name]))
        for name in others
    }
    missing = {name: _why_missing(name, runs, epochs, unwatched or {}) for name in NAMES if name not in names}
    return Columns(part, columns, optimism, missing)


def _why_missing(
    name: str,
    runs: Sequence[Mapping[str, Predictions]],
    epochs: Sequence[Mapping[str, int]],
    unwatched: Mapping[str, str],
) -> str:
    """Text in place of the epochs of a column that not every run has."""
    lacking = [chosen for run, chosen in zip(runs, epochs, strict=True) if name not in run]
    causes = dict.fromkeys(unwatched.get(name) or (NOT_KEPT if name in chosen else NONE_CHOSEN) for chosen in lacking)
    reasons = " or ".join(causes)
    if len(lacking) == len(runs):
        return f"none ({reasons})"
    which = ", ".join(str(chosen.get(name, "none")) for chosen in epochs)
    return f"{which} (no mean: in {len(lacking)} of {len(runs)} runs {reasons})"


def score_runs(runs: Sequence[Predictions]) -> ScoreEstimates:
    """Mean scores of runs on the same cycles, with intervals over patients and, of several runs, seeds."""
    return ScoreEstimates.of_runs(confusions_of(runs), Bootstrap())


def confusions_of(runs: Sequence[Predictions]) -> Counts:
    """Confusion matrices `(seed, patient, true class, predicted class)` of runs on the same cycles."""
    return np.stack([patient_confusions(predictions) for predictions in runs])


def column_rows(columns: Columns) -> list[tuple[str, ...]]:
    """Lines of a table: how the epoch was chosen, which it was, Score, Sp, Se, and the test's choice minus this one.

    Always three; one without a column says why.
    """
    rows: dict[str, tuple[str, ...]] = {}
    for column in columns.columns:
        readings = (column.scores.score, column.scores.specificity, column.scores.sensitivity)
        above = columns.optimism.get(column.name)
        rows[column.name] = (
            NAMES[column.name],
            ", ".join(str(epoch or "none") for epoch in column.epochs),
            *(reading.in_percent() for reading in readings),
            "" if above is None else above.in_points(),
        )
    rows |= {name: (NAMES[name], reason, "", "", "", "") for name, reason in columns.missing.items()}
    return [rows[name] for name in NAMES]


COLUMN_HEAD: Sequence[str] = ("epoch", "which", "Score", "Sp", "Se", "chosen on test minus this")
