"""Two methods on the same test cycles: the difference of their scores, and whether it can be told from chance.

A and B differ when the interval of the difference of Scores (over patients, and over seeds where there are several)
leaves out 0 and the p of the permutation test is below 1 - level as well. In every other case they are not
distinguishable (`tests/unit/evaluation/test_simulated.py`).

The permutation test exchanges the predictions of A and B for whole patients. Sp and Se are sums of what single patients
contribute, over numbers of cycles that no method changes: the exchange turns the sign of what the patient adds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import Bootstrap, Estimate, jackknife, value_of_runs
from lungsound.evaluation.metrics import Counts, Fractions, fold_to_two_classes, mean_score, sensitivity, specificity
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.selection import confusions_of

NUM_PERMUTATIONS = 9999
MAX_EXACT_PATIENTS = 14  # all 2^14 permutations are gone through; with more patients, NUM_PERMUTATIONS are drawn
NORMAL, ABNORMAL = 0, 1
# The statistic of each line, and the terms that its mean is over.
STATISTICS = {
    "Score": (mean_score, (NORMAL, ABNORMAL)),
    "Sp": (specificity, (NORMAL,)),
    "Se": (sensitivity, (ABNORMAL,)),
    "Score, 2 classes": (mean_score, (NORMAL, ABNORMAL)),
}
FOLDED = "Score, 2 classes"  # of counts that are read as normal or not


@dataclass(frozen=True, eq=False)
class Contributions:
    """Contribution of each patient to a difference A minus B, in its terms: that of normal, that of abnormal cycles.

    `parts` `(term, patient)` sum to the difference; `shares` `(term, patient)` are the patient's share of the cycles
    of the term. Both are NaN in a term that has no cycle.
    """

    parts: Fractions
    shares: Fractions

    @property
    def by_patient(self) -> Fractions:
        """Contribution of each patient in all terms together `(patient,)`."""
        return np.asarray(self.parts.sum(axis=0))


def contributions_to(first: Counts, second: Counts, terms: Sequence[int]) -> Contributions:
    """Contributions to the mean over `terms`: (NORMAL,) of Sp, (ABNORMAL,) of Se, (NORMAL, ABNORMAL) of the Score.

    Both sides are `(seed, patient, true class, predicted class)` on the same cycles; the mean over seeds is taken.
    """

    def by_term(by_class: Counts | Fractions) -> Fractions:
        return np.stack([by_class[:, 0], by_class[:, 1:].sum(axis=1)]).astype(np.float64)[list(terms)]

    num_cycles = by_term(first[0].sum(axis=-1))
    totals = num_cycles.sum(axis=1, keepdims=True)
    totals[totals == 0.0] = np.nan
    right = [by_term(np.diagonal(runs, axis1=-2, axis2=-1).mean(axis=0)) for runs in (first, second)]
    return Contributions((right[0] - right[1]) / totals / len(terms), num_cycles / totals)


def permutation_test(
    contributions: Contributions, *, generator: np.random.Generator, num_draws: int = NUM_PERMUTATIONS
) -> float:
    """Two-sided p of the difference when A and B are exchanged for whole patients; NaN when there is no difference.

    Exact, over all permutations, when at most `MAX_EXACT_PATIENTS` patients have parts that are not 0; else by
    drawing. The size of a difference is taken over its standard error (Janssen, Statistics & Probability Letters 36,
    1997; Chung & Romano, Annals of Statistics 41, 2013). Its bare size would be a weak measure for methods that trade
    Sp for Se: exchanged at random, they scatter by the whole trade.
    """
    if np.isnan(contributions.parts).any():
        return math.nan
    is_moved = (contributions.parts != 0.0).any(axis=0)
    num_moved = int(is_moved.sum())
    if num_moved <= MAX_EXACT_PATIENTS:
        chosen = 1 - 2 * (np.arange(2**num_moved)[:, None] >> np.arange(num_moved) & 1)
    else:
        drawn = 1 - 2 * generator.integers(0, 2, (num_draws, num_moved))
        chosen = np.concatenate([np.ones((1, num_moved), dtype=np.int64), drawn])
    signs = np.ones((len(chosen), len(is_moved)))
    signs[:, is_moved] = chosen
    sizes = studentised(contributions, signs)
    # The first is the way it is; equal sizes may differ in their last bits.
    return float((sizes >= sizes[0] * (1.0 - 1e-9)).mean())


def studentised(contributions: Contributions, signs: Fractions) -> Fractions:
    """Size of the difference over its standard error `(draw,)`, when each part has its sign `(draw, patient)`.

    The standard error is that of a ratio of sums over patients. Infinite for a difference without one, 0 for none.
    """
    by_term = signs @ contributions.parts.T
    influences = signs * contributions.by_patient - by_term @ contributions.shares
    size, variance = np.abs(by_term.sum(axis=1)), (influences**2).sum(axis=1)
    is_certain = variance < 1e-24
    return np.where(is_certain, np.where(size < 1e-12, 0.0, np.inf), size / np.sqrt(variance + is_certain))


@dataclass(frozen=True)
class Difference:
    """One value of A and of B (means over seeds), A minus B with its interval, and the p of the permutation test.

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
    def evidence(self) -> tuple[bool, bool]:
        """That the interval of the difference leaves out 0, and that p is below 1 - level."""
        interval = self.difference.interval
        excludes_zero = interval.problem is None and not interval.low <= 0.0 <= interval.high
        return excludes_zero, self.p_value < 1.0 - interval.level

    @property
    def is_distinguishable(self) -> bool:
        """The rule of the verdict: both."""
        return all(self.evidence)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A and B on one part of the test. `contributions` `(patient,)` are what each adds to the difference of Scores.

    `differences` are those of Score, Sp, Se and, where there are more than two classes, of the Score read as
    normal or not; the first decides. `num_seeds` are those of A and of B.
    """

    names: tuple[str, str]
    part: str
    num_cycles: int
    num_seeds: tuple[int, int]
    patients: tuple[str, ...]
    contributions: Fractions
    differences: tuple[Difference, ...]

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
    bootstrap: Bootstrap | None = None,
) -> tuple[Comparison, ...]:
    """Compare A and B on each part of the test. Each side has a Predictions for each of its seeds.

    Raises DataError when A and B have other classes, patients or labels, or other cycles; with `is_common_only` the
    cycles that only one of them has are left out.
    """
    bootstrap = bootstrap or Bootstrap()
    sides = on_same_cycles(first, second, names, is_common_only=is_common_only)
    comparisons = []
    for part in sorted(set(sides[0][0].parts)):
        ours, theirs = ([run.of_part(part) for run in runs] for runs in sides)
        counts, rows = (confusions_of(ours), confusions_of(theirs)), ours[0]
        comparison = Comparison(
            names=names,
            part=part,
            num_cycles=len(rows.keys),
            num_seeds=(len(ours), len(theirs)),
            patients=tuple(sorted(set(rows.patients))),
            contributions=contributions_to(*counts, (NORMAL, ABNORMAL)).by_patient,
            differences=tuple(
                _difference(name, *counts, bootstrap) for name in STATISTICS if name != FOLDED or len(rows.classes) > 2
            ),
        )
        comparisons.append(comparison)
    return tuple(comparisons)


def _difference(name: str, first: Counts, second: Counts, bootstrap: Bootstrap) -> Difference:
    """A minus B in one value; both `(seed, patient, true class, predicted class)`, the same patients and cycles."""
    statistic, terms = STATISTICS[name]
    if name == FOLDED:
        first, second = fold_to_two_classes(first), fold_to_two_classes(second)
    generator, num_patients, standardised = bootstrap.generator(), first.shape[1], math.nan
    difference = bootstrap.of_runs(first, statistic, minus=second, generator=generator)
    contributions = contributions_to(first, second, terms)
    if num_patients > 1:
        left_out = jackknife(value_of_runs(first, statistic), num_patients, minus=value_of_runs(second, statistic))
        standardised = left_out.value / left_out.patient_sd if left_out.patient_sd > 0.0 else math.nan
    return Difference(
        name=name,
        first=float(statistic(first.sum(axis=1)).mean()),
        second=float(statistic(second.sum(axis=1)).mean()),
        difference=difference,
        p_value=permutation_test(contributions, generator=generator),
        standardised=standardised,
        num_better=int((contributions.by_patient > 0).sum()),
        num_worse=int((contributions.by_patient < 0).sum()),
    )


def on_same_cycles(
    first: Sequence[Predictions], second: Sequence[Predictions], names: tuple[str, str], *, is_common_only: bool
) -> list[list[Predictions]]:
    """All runs of A and of B with the same cycles in the same order; raises DataError as `compare_runs` does."""
    ours, theirs = first[0], second[0]
    if ours.classes != theirs.classes:
        raise DataError(
            f"{names[0]} has the classes {', '.join(ours.classes)}, {names[1]} {', '.join(theirs.classes)}: compare "
            "methods that predict the same classes"
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
    sides = [[run.of_keys(order) for run in runs] for runs in (first, second)]
    reference = sides[0][0]
    for run in (*sides[0], *sides[1]):
        is_other = (run.labels != reference.labels) | (np.array(run.patients) != np.array(reference.patients))
        if is_other.any():
            key = order[int(is_other.argmax())]
            raise DataError(f"{key} has another label or patient in {names[0]} than in {names[1]}: use one corpus")
    return sides
