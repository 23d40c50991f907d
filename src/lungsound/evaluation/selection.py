"""Three ways to choose the epoch of a run: the last, by validation patients, by the test itself (as published)."""

from collections.abc import Mapping, Sequence

from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import Bootstrap, confusions_by_part
from lungsound.evaluation.metrics import mean_score
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.scores import ScoreEstimates

LAST, VALIDATION, TEST = "last", "validation", "test"
BEST_ON_TEST, BEST_ON_OTHER_TEST = "best_on_test", "best_on_other_test"
# The column that the run's own weights are, by train.selection.
COLUMN_OF = {"last": LAST, "validation": VALIDATION, BEST_ON_TEST: TEST}
NAMES = {LAST: "last epoch", VALIDATION: "chosen on validation", TEST: "chosen on test (as published)"}
LEAST_SENSITIVITY = 0.05  # an epoch below it is never chosen, as published
RULE = (
    "Chosen is the epoch with the best Score on all cycles of validation, or of all test parts together, the first of "
    f"equals, among those with a sensitivity over {100 * LEAST_SENSITIVITY:g} %. So an epoch that was chosen on the "
    "test can have a lower Score than the last: on one part of the test, or when the last may not be chosen."
)
NONE_CHOSEN = f"no epoch had a sensitivity over {100 * LEAST_SENSITIVITY:g} %"
COLUMN_HEAD: Sequence[str] = ("epoch", "which", "Score", "Sp", "Se", "chosen on test minus this")


def unwatched_columns(selection: str, *, is_test_watched: bool, has_validation: bool) -> dict[str, str]:
    """Columns for which a run looks at no epoch but the last, with the reason."""
    reasons = {} if has_validation else {VALIDATION: "no patient was held out"}
    return reasons if is_test_watched or COLUMN_OF[selection] == TEST else {**reasons, TEST: "not watched"}


def column_rows(
    runs: Sequence[Mapping[str, Predictions]],
    epochs: Sequence[Mapping[str, int]],
    *,
    part: str,
    unwatched: Mapping[str, str] | None = None,
) -> list[tuple[str, ...]]:
    """Three lines below `COLUMN_HEAD`: the scores of one part of the test with the epoch chosen in each way.

    Each run holds its predictions, and `epochs` its epochs, by column name; of several runs the mean is taken. A column
    that not every run has gives the reason instead: that in `unwatched`, else that the rule chose no epoch. Differences
    are paired: every resample takes the same patients in both columns.
    """
    columns = {name: [run[name].of_part(part) for run in runs] for name in NAMES if all(name in run for run in runs)}
    if len({predictions.keys for column in columns.values() for predictions in column}) > 1:
        raise DataError(f"the columns {', '.join(columns)} have different cycles of {part}: train the run again")
    rows: list[tuple[str, ...]] = []
    for name, title in NAMES.items():
        which = ", ".join(str(chosen.get(name) or "none") for chosen in epochs)
        if name not in columns:
            lacking = [chosen for run, chosen in zip(runs, epochs, strict=True) if name not in run]
            causes = ["its predictions were not kept" if name in chosen else NONE_CHOSEN for chosen in lacking]
            reasons = (unwatched or {}).get(name) or " or ".join(dict.fromkeys(causes))
            is_part = len(lacking) < len(runs)
            some = f"{which} (no mean: in {len(lacking)} of {len(runs)} runs {reasons})"
            rows.append((title, some if is_part else f"none ({reasons})", "", "", "", ""))
            continue
        scores, above = score_runs(columns[name]), ""
        if TEST in columns and name != TEST:
            test, this = (confusions_by_part(columns[each])[:, :, 0] for each in (TEST, name))
            above = Bootstrap().of_runs(test, mean_score, minus=this).in_points()
        values = (scores.score, scores.specificity, scores.sensitivity)
        rows.append((title, which, *(value.in_percent() for value in values), above))
    return rows


def score_runs(runs: Sequence[Predictions], parts: Sequence[str] = ()) -> ScoreEstimates:
    """Mean scores of runs on the same cycles, all together or the mean over `parts`, with intervals."""
    return ScoreEstimates.of_runs(runs, Bootstrap(), parts=parts)
