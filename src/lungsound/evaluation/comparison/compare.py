"""Two methods on the same test cycles: the difference of their scores, and whether it can be told from chance.

The rule of the verdict: A and B differ when the interval of the difference of Scores (over patients, and over seeds
where there are several) leaves out 0 and the permutation test's p is below 1 - level as well. In every other case they
are not distinguishable (`tests/unit/evaluation/comparison/test_simulated.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lungsound.errors import DataError
from lungsound.evaluation.comparison.swaps import ABNORMAL, NORMAL, PatientParts, patient_parts, swap_test
from lungsound.evaluation.metrics import (
    Counts,
    Fractions,
    fold_to_two_classes,
    mean_score,
    sensitivity,
    specificity,
)
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.spread import Spread, spread_over_patients
from lungsound.evaluation.uncertainty import (
    LEVEL,
    NUM_DRAWS,
    Estimate,
    Statistic,
    estimate_over_seeds,
    patient_confusions,
    value_of_runs,
)

SCORE, SPECIFICITY, SENSITIVITY, FOLDED_SCORE = "Score", "Sp", "Se", "Score, 2 classes"
STATISTICS: dict[str, Statistic] = {
    SCORE: mean_score,
    SPECIFICITY: specificity,
    SENSITIVITY: sensitivity,
    FOLDED_SCORE: lambda counts: mean_score(fold_to_two_classes(counts)),
}


@dataclass(frozen=True)
class Difference:
    """One value of A and of B (means over seeds), A minus B with its interval, and the permutation test's p.

    `standardised` is the difference over the deviation of what single patients contribute to it: Cohen's d of paired
    values, with the patient as the unit. `num_better` and `num_worse` count patients for whom A, or B, has more.
    """

    name: str
    first: float
    second: float
    difference: Estimate
    p_value: float
    standardised: float
    num_better: int
    num_worse: int

    @property
    def is_distinguishable(self) -> bool:
        """The rule of the verdict: the interval leaves out 0, and p is below 1 - level as well."""
        return self.excludes_zero and self.is_significant

    @property
    def excludes_zero(self) -> bool:
        interval = self.difference.interval
        return interval.problem is None and not interval.low <= 0.0 <= interval.high

    @property
    def is_significant(self) -> bool:
        return self.p_value < 1.0 - self.difference.interval.level


@dataclass(frozen=True, eq=False)
class Comparison:
    """A and B on one part of the test. `contributions` `(patient,)` are what each adds to the difference of Scores.

    `differences` are those of Score, Sp, Se and, where there are more than two classes, of the Score read as
    normal or not; the first decides. `num_seeds` are those of A and of B; `spread` is that of the difference of Scores.
    """

    names: tuple[str, str]
    part: str
    num_cycles: int
    num_seeds: tuple[int, int]
    patients: tuple[str, ...]
    contributions: Fractions
    differences: tuple[Difference, ...]
    spread: Spread | None

    @property
    def score(self) -> Difference:
        """The difference on which the verdict rests."""
        return self.differences[0]


def compare_runs(
    first: Sequence[Predictions],
    second: Sequence[Predictions],
    *,
    names: tuple[str, str] = ("A", "B"),
    is_common_only: bool = False,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
    level: float = LEVEL,
) -> tuple[Comparison, ...]:
    """A comparison for each part of the test. Each side has a Predictions for each of its seeds.

    Raises DataError when A and B have other classes, patients or labels, or other cycles; with `is_common_only` the
    cycles that only one of them has are left out.
    """
    first, second = _on_same_cycles(first, second, names, is_common_only=is_common_only)
    comparisons = []
    for part in sorted(set(first[0].parts)):
        sides = [np.stack([patient_confusions(run.of_part(part)) for run in runs]) for runs in (first, second)]
        rows = first[0].of_part(part)
        comparisons.append(
            Comparison(
                names=names,
                part=part,
                num_cycles=len(rows.keys),
                num_seeds=(len(first), len(second)),
                patients=tuple(sorted(set(rows.patients))),
                contributions=parts_of(sides[0], sides[1], SCORE).by_patient,
                differences=differences(sides[0], sides[1], seed=seed, num_draws=num_draws, level=level),
                spread=difference_spread(sides[0], sides[1]),
            )
        )
    return tuple(comparisons)


def differences(
    first: Counts, second: Counts, *, seed: int = 0, num_draws: int = NUM_DRAWS, level: float = LEVEL
) -> tuple[Difference, ...]:
    """A minus B in every reading; both `(seed, patient, true class, answered class)`, the same patients and cycles."""
    found = []
    for name, statistic in STATISTICS.items():
        if name == FOLDED_SCORE and first.shape[-1] == 2:
            continue
        generator = np.random.default_rng(seed)
        difference = estimate_over_seeds(
            first, statistic, minus=second, generator=generator, num_draws=num_draws, level=level
        )
        patients = parts_of(first, second, name)
        found.append(
            Difference(
                name=name,
                first=float(statistic(first.sum(axis=1)).mean()),
                second=float(statistic(second.sum(axis=1)).mean()),
                difference=difference,
                p_value=swap_test(patients, generator=generator),
                standardised=_standardised(difference_spread(first, second, statistic)),
                num_better=int((patients.by_patient > 0).sum()),
                num_worse=int((patients.by_patient < 0).sum()),
            )
        )
    return tuple(found)


def parts_of(first: Counts, second: Counts, name: str) -> PatientParts:
    """What each patient adds to the difference in this value."""
    if name == FOLDED_SCORE:
        first, second = fold_to_two_classes(first), fold_to_two_classes(second)
    readings = {SPECIFICITY: (NORMAL,), SENSITIVITY: (ABNORMAL,)}.get(name, (NORMAL, ABNORMAL))
    return patient_parts(first, second, readings)


def difference_spread(first: Counts, second: Counts, statistic: Statistic = mean_score) -> Spread | None:
    """What the difference varies with; None for one patient."""
    num_patients = first.shape[1]
    if num_patients < 2:
        return None
    values = [value_of_runs(runs, statistic) for runs in (first, second)]
    return spread_over_patients(values[0], num_patients, minus=values[1])


def _standardised(spread: Spread | None) -> float:
    return float("nan") if spread is None or not spread.patient_sd > 0.0 else spread.value / spread.patient_sd


def _on_same_cycles(
    first: Sequence[Predictions], second: Sequence[Predictions], names: tuple[str, str], *, is_common_only: bool
) -> tuple[list[Predictions], list[Predictions]]:
    """All runs with the same cycles in the same order."""
    ours, theirs = first[0], second[0]
    if ours.classes != theirs.classes:
        raise DataError(
            f"{names[0]} has the classes {', '.join(ours.classes)}, {names[1]} {', '.join(theirs.classes)}: only "
            "answers to one question can be compared"
        )
    common = set(ours.keys) & set(theirs.keys)
    only_ours, only_theirs = len(ours.keys) - len(common), len(theirs.keys) - len(common)
    if not common:
        raise DataError(f"{names[0]} and {names[1]} have no cycle in common: test both on the same recordings")
    if (only_ours or only_theirs) and not is_common_only:
        raise DataError(
            f"{names[0]} and {names[1]} were not tested on the same cycles: {only_ours} of {len(ours.keys)} only in "
            f"{names[0]}, {only_theirs} of {len(theirs.keys)} only in {names[1]}; --common compares them on the "
            f"{len(common)} of both"
        )
    order = [key for key in ours.keys if key in common]
    sides = [[_in_order(run, order) for run in runs] for runs in (first, second)]
    reference = sides[0][0]
    for run in (*sides[0], *sides[1]):
        if (run.labels != reference.labels).any() or run.patients != reference.patients:
            row = _first_difference(run, reference)
            raise DataError(
                f"{order[row]} has another label or patient in {names[0]} than in {names[1]}: use one corpus"
            )
    return sides[0], sides[1]


def _in_order(predictions: Predictions, keys: Sequence[str]) -> Predictions:
    rows = {key: row for row, key in enumerate(predictions.keys)}
    return predictions.of_rows([rows[key] for key in keys])


def _first_difference(run: Predictions, reference: Predictions) -> int:
    pairs = zip(run.labels, reference.labels, run.patients, reference.patients, strict=True)
    return next(row for row, (a, b, c, d) in enumerate(pairs) if a != b or c != d)
