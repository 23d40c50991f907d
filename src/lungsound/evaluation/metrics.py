"""The confusion matrix and every score computed from it: fractions from 0 to 1, kappa and Matthews from -1 to 1.

Every function but `confusion_matrix` takes counts `(..., true class, predicted class)` with any leading axes, so that
a thousand resampled matrices cost one call. Class 0 is the normal one. A value without a denominator (the recall of a
class that has no cycle, the Score of a set without abnormal cycles) is NaN; the published program gives 0 there.

Sp, Se, Score: Rocha et al., Physiol. Meas. 40 (2019) 035001, and the authors' published program. SE, SP, AS, HS: the
IEEE BioCAS grand challenges of 2022 and 2023 on SPRSound (Zhang et al., BioCAS 2022; counted as the public programs of
two participants count them). The challenges of 2024 and 2025 have other tasks and other metrics.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Fractions = npt.NDArray[np.float64]
Statistic = Callable[[Counts], Fractions]

# Predicting "normal" always: specificity 1, sensitivity 0, whatever the cycles.
ALWAYS_NORMAL_SCORE = 0.5


def ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Fractions:
    """Quotient, NaN where there is nothing to divide by."""
    over, under = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    return np.asarray(np.divide(over, under, out=np.full(under.shape, np.nan), where=under > 0))


def mean_over(values: Fractions, is_counted: npt.NDArray[np.bool_]) -> Fractions:
    """Mean over the last axis of the values that count; NaN where one of them is NaN, or none counts."""
    num_counted = np.broadcast_to(is_counted, values.shape).sum(axis=-1)
    return ratio(np.where(is_counted, values, 0.0).sum(axis=-1), num_counted)


def _diagonal(confusion: Counts) -> Counts:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def confusion_matrix(labels: npt.ArrayLike, predicted: npt.ArrayLike, num_classes: int) -> Counts:
    """Number of cycles `(true class, predicted class)`. Raises ValueError for an index outside the classes."""
    pairs = np.array([labels, predicted], dtype=np.int64)
    if pairs.size and not 0 <= pairs.min() <= pairs.max() < num_classes:
        raise ValueError(f"classes must be 0 to {num_classes - 1}; got {pairs.min()} to {pairs.max()}")
    counts = np.bincount(pairs[0] * num_classes + pairs[1], minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def fold(confusion: Counts, starts: Sequence[int]) -> Counts:
    """The counts of groups of neighbouring classes `(..., group, group)`, which begin at the classes `starts`."""
    return np.add.reduceat(np.add.reduceat(confusion, starts, axis=-2), starts, axis=-1)


def fold_to_two_classes(confusion: Counts) -> Counts:
    """The counts read as normal against abnormal `(..., 2, 2)`: any abnormal prediction fits an abnormal cycle."""
    return fold(confusion, (0, 1))


def leave_out_true_class(confusion: Counts, index: int) -> Counts:
    """The counts without the cycles of one true class; predictions of it stay, as mistakes.

    Poor Quality recordings count neither in SE nor in SP of the SPRSound challenge's record tasks.
    """
    counts = confusion.copy()
    counts[..., index, :] = 0
    return counts


def specificity(confusion: Counts) -> Fractions:
    """Sp `(...)`: normal cycles predicted normal / normal cycles."""
    return ratio(confusion[..., 0, 0], confusion[..., 0, :].sum(axis=-1))


def sensitivity(confusion: Counts) -> Fractions:
    """Se `(...)`: abnormal cycles predicted exactly right / abnormal cycles."""
    right = _diagonal(confusion)[..., 1:].sum(axis=-1)
    return ratio(right, confusion[..., 1:, :].sum(axis=(-2, -1)))


def mean_score(confusion: Counts) -> Fractions:
    """ICBHI Score `(...)`: the mean of Sp and Se; NaN when either is."""
    return (specificity(confusion) + sensitivity(confusion)) / 2.0


@dataclass(frozen=True)
class IcbhiScore:
    """ICBHI's specificity and sensitivity; a part without cycles is NaN, and then so is the Score."""

    specificity: float
    sensitivity: float

    @property
    def score(self) -> float:
        return (self.specificity + self.sensitivity) / 2.0


def icbhi_score(confusion: Counts) -> IcbhiScore:
    """ICBHI's Sp and Se of one confusion matrix, over all its classes."""
    return IcbhiScore(float(specificity(confusion)), float(sensitivity(confusion)))


def two_class_score(confusion: Counts) -> IcbhiScore:
    """Sp and Se of one confusion matrix when any abnormal prediction counts as right for an abnormal cycle."""
    return icbhi_score(fold_to_two_classes(confusion))


def harmonic_score(confusion: Counts) -> Fractions:
    """HS `(...)` of the SPRSound challenge: harmonic mean of Sp and Se; 0 when both are 0, NaN when either is."""
    sp, se = specificity(confusion), sensitivity(confusion)
    return np.where((sp + se) == 0.0, 0.0, ratio(2.0 * sp * se, sp + se))


def challenge_score(confusion: Counts) -> Fractions:
    """Score `(...)` of the SPRSound challenges of 2022 and 2023: (AS + HS) / 2, where AS is `mean_score`.

    Their binary tasks take `fold_to_two_classes` first, their record tasks `leave_out_true_class` of Poor Quality.
    """
    return (mean_score(confusion) + harmonic_score(confusion)) / 2.0


def accuracy(confusion: Counts) -> Fractions:
    """Cycles predicted exactly right / cycles `(...)`; with one label a cycle, the micro F1."""
    return ratio(_diagonal(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def recall(confusion: Counts) -> Fractions:
    """Cycles of a class predicted as that class / cycles of the class `(..., class)`."""
    return ratio(_diagonal(confusion), confusion.sum(axis=-1))


def precision(confusion: Counts) -> Fractions:
    """Cycles of a class predicted as that class / cycles predicted as that class `(..., class)`."""
    return ratio(_diagonal(confusion), confusion.sum(axis=-2))


def f1(confusion: Counts) -> Fractions:
    """Harmonic mean of precision and recall `(..., class)`; NaN only for a class neither present nor predicted."""
    return ratio(2 * _diagonal(confusion), confusion.sum(axis=-1) + confusion.sum(axis=-2))


def weighted_f1(confusion: Counts) -> Fractions:
    """Mean `(...)` of the F1 of the classes, each weighted by its cycles."""
    support = confusion.sum(axis=-1)
    return ratio((np.nan_to_num(f1(confusion)) * support).sum(axis=-1), support.sum(axis=-1))


def one_vs_rest_specificity(confusion: Counts) -> Fractions:
    """Cycles of the other classes not predicted as this class / cycles of the other classes `(..., class)`."""
    of_class, as_class = confusion.sum(axis=-1), confusion.sum(axis=-2)
    num_others = confusion.sum(axis=(-2, -1))[..., np.newaxis] - of_class
    return ratio(num_others - (as_class - _diagonal(confusion)), num_others)


@dataclass(frozen=True)
class MacroMean:
    """A mean `(...)` over classes, each weighing the same; of several `by_class` values the mean of their means."""

    by_class: tuple[Statistic, ...]

    def __call__(self, confusion: Counts, all_counts: Counts | None = None) -> Fractions:
        """The mean over the classes that have a value in these counts.

        Of a resample it is over those of the set (`all_counts`), NaN where one is missing: over the classes that happen
        to be there it would be another number in every resample.
        """
        of_set = confusion if all_counts is None else all_counts
        is_complete = ((confusion.sum(axis=-1) > 0) | (of_set.sum(axis=-1) == 0)).all(axis=-1)
        means = [mean_over(values(confusion), ~np.isnan(values(of_set))) for values in self.by_class]
        return np.where(is_complete, np.mean(means, axis=0), np.nan)


# Balanced accuracy, unweighted average recall (UAR): over the classes that have cycles, the normal one too.
macro_recall = MacroMean((recall,))
# A class that is hardly ever predicted has one near 1, so with four classes this stands far above ICBHI's Sp.
macro_specificity = MacroMean((one_vs_rest_specificity,))
# Printed as a "Score" by some, it is not ICBHI's.
macro_mean_score = MacroMean((recall, one_vs_rest_specificity))
# Over the classes that are predicted, and present or predicted (scikit-learn counts the others as 0).
macro_precision, macro_f1 = MacroMean((precision,)), MacroMean((f1,))


def cohen_kappa(confusion: Counts) -> Fractions:
    """Cohen's kappa `(...)`: agreement above that of independent predictions with the same frequencies.

    NaN when those would always agree. Cohen, Educ. Psychol. Meas. 20 (1960) 37.
    """
    total = confusion.sum(axis=(-2, -1)).astype(np.float64)
    by_chance = ratio((confusion.sum(axis=-1) * confusion.sum(axis=-2)).sum(axis=-1), total**2)
    return ratio(accuracy(confusion) - by_chance, 1.0 - by_chance)


def matthews_correlation(confusion: Counts) -> Fractions:
    """Matthews' correlation `(...)` for several classes; NaN when all cycles or all predictions are of one class.

    Gorodkin, Comput. Biol. Chem. 28 (2004) 367. scikit-learn gives 0 where this is NaN.
    """
    of_class, as_class = confusion.sum(axis=-1).astype(np.float64), confusion.sum(axis=-2).astype(np.float64)
    total, hits = of_class.sum(axis=-1), _diagonal(confusion).sum(axis=-1)
    covariance = hits * total - (of_class * as_class).sum(axis=-1)
    variances = (total**2 - (of_class**2).sum(axis=-1)) * (total**2 - (as_class**2).sum(axis=-1))
    return ratio(covariance, np.sqrt(variances))


@dataclass(frozen=True, eq=False)
class Ranking:
    """One class against the rest by a score: counts `(patient, score)` at each distinct score in rising order.

    Its measures take how often each patient is taken `(..., patient)`; NaN without a positive, or without a negative.
    """

    positives: Fractions
    negatives: Fractions

    @classmethod
    def of(
        cls, scores: Fractions, is_positive: npt.NDArray[np.bool_], patients: Sequence[str], where: npt.ArrayLike = True
    ) -> "Ranking":
        """From score, truth and patient of each cycle `where`; all patients, sorted by name."""
        (names, patient), (places, place) = (np.unique(each, return_inverse=True) for each in (patients, scores))
        counts = np.zeros((2, len(names), len(places)))
        np.add.at(counts, (is_positive.astype(np.int64), patient, place), np.asarray(where, dtype=np.float64))
        return cls(positives=counts[1], negatives=counts[0])

    def auroc(self, weights: Counts) -> Fractions:
        """Share `(...)` of pairs of a positive and a negative in which the positive scores higher; ties count half."""
        below = np.cumsum(self.negatives, axis=-1) - self.negatives / 2.0
        # (patient of the positive, patient of the negative): all that a resample needs, however many cycles there are.
        pairs_won = self.positives @ below.T
        num_positives, num_negatives = weights @ self.positives.sum(axis=-1), weights @ self.negatives.sum(axis=-1)
        return ratio(((weights @ pairs_won) * weights).sum(axis=-1), num_positives * num_negatives)

    def average_precision(self, weights: Counts) -> Fractions:
        """Mean `(...)` over the positives of the precision when all that score at least as high are called positive."""
        positives, negatives = weights @ self.positives, weights @ self.negatives
        called = np.cumsum((positives + negatives)[..., ::-1], axis=-1)
        hits = np.cumsum(positives[..., ::-1], axis=-1)
        precision = hits / np.maximum(called, 1.0)  # whole numbers: nothing is called where it is 0
        return ratio((positives[..., ::-1] * precision).sum(axis=-1), positives.sum(axis=-1))


def ranking_statistics(
    probabilities: Fractions, labels: npt.NDArray[np.int64], patients: Sequence[str]
) -> dict[str, Statistic]:
    """Areas and average precisions by name, functions of how often each patient, by name, is taken `(..., patient)`.

    From `(cycle, class)`, `(cycle,)` and patients; macro means are over classes that have a value over all patients.
    """
    by_class = [Ranking.of(shares, labels == index, patients) for index, shares in enumerate(probabilities.T)]
    abnormal = Ranking.of(-probabilities[:, 0], labels != 0, patients)
    everyone = np.ones(len(abnormal.positives), dtype=np.int64)

    def macro(measure: Callable[[Ranking, Counts], Fractions], weights: Counts) -> Fractions:
        values, of_everyone = (
            np.stack([measure(ranking, taken) for ranking in by_class], axis=-1) for taken in (weights, everyone)
        )
        return mean_over(values, ~np.isnan(of_everyone))

    return {
        "macro_auroc": partial(macro, Ranking.auroc),
        "macro_average_precision": partial(macro, Ranking.average_precision),
        "abnormal_auroc": abnormal.auroc,
        "abnormal_average_precision": abnormal.average_precision,
    }
