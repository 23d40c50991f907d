"""The confusion matrix and every score that is read from it. All values are fractions from 0 to 1, but for
`cohen_kappa` and `matthews_correlation`, which go from -1 to 1.

Every function but `confusion_matrix` takes counts `(..., true class, predicted class)` with any leading axes, so
that a thousand resampled matrices cost one call. Class 0 is the normal one. A value without a denominator (the
recall of a class that has no cycle, the Score of a set without abnormal cycles) is NaN, never 0: the published program
gives 0 there. Means over classes leave out the classes without a value; on resamples of a set they keep to the classes
of the set (`of_resamples`).

Sources. Sp, Se, Score: Rocha et al., Physiol. Meas. 40 (2019) 035001, and the authors' published program. SE, SP, AS,
HS: the IEEE BioCAS grand challenges of 2022 and 2023 on SPRSound (Zhang et al., BioCAS 2022; the README of the
database's repository names the four, public programs of two participants agree on how they are counted). The challenges
of 2024 and 2025 have other tasks and other metrics.

Areas under the ROC curve and average precisions, one class against the rest, are scores of the probabilities.

`positives` and `negatives` are counts `(..., score)` at each distinct score in rising order, with any leading axes:
a patient that a resample takes twice counts twice. Without a positive or without a negative the area is NaN, without a
positive the average precision.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Fractions = npt.NDArray[np.float64]
Statistic = Callable[[Counts], Fractions]

# Answering "normal" always: specificity 1, sensitivity 0, whatever the cycles.
ALWAYS_NORMAL_SCORE = 0.5


@dataclass(frozen=True)
class MacroMean:
    """A mean `(...)` over classes, each weighing the same; of several values of the classes the mean of their means.

    `by_class` are functions from counts to the values `(..., class)`.
    """

    by_class: tuple[Statistic, ...]

    def __call__(self, confusion: Counts) -> Fractions:
        """The mean over the classes that have a value in these counts."""
        values = [each(confusion) for each in self.by_class]
        return self._mean([mean_over(of_classes, ~np.isnan(of_classes)) for of_classes in values])

    def of_resamples(self, all_counts: Counts) -> Statistic:
        """The mean over the classes of the set `all_counts`, on its resamples: NaN where one of its classes is missing.

        A mean over the classes that happen to be there is another number in every resample: without a class that is
        hardly ever recognised it is far higher.
        """
        is_absent = all_counts.sum(axis=-1) == 0
        is_counted = [~np.isnan(each(all_counts)) for each in self.by_class]

        def of_resample(confusion: Counts) -> Fractions:
            is_complete = ((confusion.sum(axis=-1) > 0) | is_absent).all(axis=-1)
            means = [mean_over(each(confusion), of) for each, of in zip(self.by_class, is_counted, strict=True)]
            return np.where(is_complete, self._mean(means), np.nan)

        return of_resample

    @staticmethod
    def _mean(means: list[Fractions]) -> Fractions:
        return np.asarray(np.mean(means, axis=0))


def of_resamples(statistic: Statistic, all_counts: Counts) -> Statistic:
    """`statistic` for resamples of the set `all_counts`: itself, but for means over classes."""
    return statistic.of_resamples(all_counts) if isinstance(statistic, MacroMean) else statistic


@dataclass(frozen=True)
class IcbhiScore:
    """ICBHI's specificity and sensitivity; a part without cycles is NaN, and then so is the Score."""

    specificity: float
    sensitivity: float

    @property
    def score(self) -> float:
        """ICBHI Score: the mean of specificity and sensitivity."""
        return (self.specificity + self.sensitivity) / 2.0


def confusion_matrix(labels: npt.ArrayLike, predicted: npt.ArrayLike, num_classes: int) -> Counts:
    """Number of cycles `(true class, predicted class)`. Raises ValueError for an index outside the classes."""
    label_array, predicted_array = np.asarray(labels, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if label_array.ndim != 1 or label_array.shape != predicted_array.shape:
        raise ValueError(
            "labels and predicted classes must be two lists of one length; "
            f"got {label_array.shape}, {predicted_array.shape}"
        )
    for name, array in (("labels", label_array), ("predicted classes", predicted_array)):
        if array.size and (array.min() < 0 or array.max() >= num_classes):
            raise ValueError(f"{name} must be 0 to {num_classes - 1}; got {array.min()} to {array.max()}")
    counts = np.bincount(label_array * num_classes + predicted_array, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


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


def fold_to_two_classes(confusion: Counts) -> Counts:
    """The counts read as normal against abnormal `(..., 2, 2)`: any abnormal prediction fits an abnormal cycle."""
    starts = [0, 1]
    return np.add.reduceat(np.add.reduceat(confusion, starts, axis=-2), starts, axis=-1)


def icbhi_score(confusion: Counts) -> IcbhiScore:
    """ICBHI's Sp and Se of one confusion matrix, over all its classes."""
    return IcbhiScore(float(specificity(confusion)), float(sensitivity(confusion)))


def two_class_score(confusion: Counts) -> IcbhiScore:
    """Sp and Se of one confusion matrix when any abnormal prediction counts as right for an abnormal cycle."""
    return icbhi_score(fold_to_two_classes(confusion))


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


def micro_f1(confusion: Counts) -> Fractions:
    """F1 `(...)` of the hits, misses and false alarms of all classes together: with one label a cycle, accuracy."""
    hits = _diagonal(confusion).sum(axis=-1)
    misses = confusion.sum(axis=(-2, -1)) - hits
    false_alarms = misses  # each wrong prediction misses one class and is a false alarm of another
    return ratio(2 * hits, 2 * hits + misses + false_alarms)


def accuracy(confusion: Counts) -> Fractions:
    """Cycles predicted exactly right / cycles `(...)`."""
    return ratio(_diagonal(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def one_vs_rest_specificity(confusion: Counts) -> Fractions:
    """Cycles of the other classes not predicted as this class / cycles of the other classes `(..., class)`."""
    of_class, as_class = confusion.sum(axis=-1), confusion.sum(axis=-2)
    num_others = confusion.sum(axis=(-2, -1))[..., np.newaxis] - of_class
    return ratio(num_others - (as_class - _diagonal(confusion)), num_others)


macro_recall = MacroMean((recall,))
"""Over the classes that have cycles, the normal one too.

Also called balanced accuracy, unweighted average recall (UAR) and macro sensitivity.
"""

macro_specificity = MacroMean((one_vs_rest_specificity,))
"""A class that is hardly ever predicted has one near 1, so with four classes this stands far above ICBHI's Sp."""

macro_mean_score = MacroMean((recall, one_vs_rest_specificity))
"""Mean of macro recall and macro specificity: printed as a "Score" by some, it is not ICBHI's."""

macro_precision = MacroMean((precision,))
"""Over the classes that were predicted (scikit-learn counts the others as 0)."""

macro_f1 = MacroMean((f1,))
"""Over the classes that are present or predicted (scikit-learn counts a class without an F1 as 0)."""


def harmonic_score(confusion: Counts) -> Fractions:
    """HS `(...)` of the SPRSound challenge: harmonic mean of Sp and Se; 0 when both are 0, NaN when either is."""
    sp, se = specificity(confusion), sensitivity(confusion)
    mean = ratio(2.0 * sp * se, sp + se)
    return np.where((sp + se) == 0.0, 0.0, mean)


def challenge_score(confusion: Counts) -> Fractions:
    """Score `(...)` of the SPRSound challenges of 2022 and 2023: (AS + HS) / 2, where AS is `mean_score`.

    Never above AS, and further below it the more Sp and Se differ. The challenge's binary tasks take
    `fold_to_two_classes` first, its record tasks `leave_out_true_class` of Poor Quality.
    """
    return (mean_score(confusion) + harmonic_score(confusion)) / 2.0


def leave_out_true_class(confusion: Counts, index: int) -> Counts:
    """The counts without the cycles of one true class; predictions of it stay, as mistakes.

    Poor Quality recordings count neither in SE nor in SP of the SPRSound challenge's record tasks.
    """
    counts = confusion.copy()
    counts[..., index, :] = 0
    return counts


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
    spread = (total**2 - (of_class**2).sum(axis=-1)) * (total**2 - (as_class**2).sum(axis=-1))
    return ratio(covariance, np.sqrt(spread))


def mean_over(values: Fractions, is_counted: npt.NDArray[np.bool_]) -> Fractions:
    """Mean over the last axis of the values that count; NaN where one of them is NaN, or none counts."""
    num_counted = np.broadcast_to(is_counted, values.shape).sum(axis=-1)
    return ratio(np.where(is_counted, values, 0.0).sum(axis=-1), num_counted)


def _diagonal(confusion: Counts) -> Counts:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Fractions:
    """Quotient, NaN where there is nothing to divide by."""
    over, under = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    return np.asarray(np.divide(over, under, out=np.full(under.shape, np.nan), where=under > 0))


Numbers = npt.NDArray[np.float64]


def auroc(positives: Numbers, negatives: Numbers) -> Fractions:
    """Share `(...)` of pairs of a positive and a negative in which the positive scores higher; a tie counts half."""
    below = np.cumsum(negatives, axis=-1) - negatives
    pairs_won = (positives * (below + negatives / 2.0)).sum(axis=-1)
    return ratio(pairs_won, positives.sum(axis=-1) * negatives.sum(axis=-1))


def average_precision(positives: Numbers, negatives: Numbers) -> Fractions:
    """Mean `(...)` over the positives of the precision when all that score at least as high are predicted positive."""
    taken = np.cumsum((positives + negatives)[..., ::-1], axis=-1)
    hits = np.cumsum(positives[..., ::-1], axis=-1)
    precision = np.nan_to_num(ratio(hits, taken))
    return ratio((positives[..., ::-1] * precision).sum(axis=-1), positives.sum(axis=-1))


@dataclass(frozen=True, eq=False)
class Ranking:
    """One class against the rest, by unit: counts `(unit, score)`; a unit is a patient or a recording."""

    positives: Numbers
    negatives: Numbers

    @classmethod
    def of(cls, scores: Numbers, is_positive: npt.NDArray[np.bool_], units: npt.NDArray[np.int64]) -> "Ranking":
        """From one score, truth and unit index for each cycle; every unit from 0 to the highest has a row."""
        _, place = np.unique(scores, return_inverse=True)
        counts = np.zeros((2, int(units.max()) + 1, int(place.max()) + 1))
        np.add.at(counts, (is_positive.astype(np.int64), units, place), 1.0)
        return cls(positives=counts[1], negatives=counts[0])

    def auroc(self, taken: npt.ArrayLike) -> Fractions:
        """Area when each unit is taken so many times `(..., unit)`."""
        times = np.asarray(taken, dtype=np.float64)
        return auroc(times @ self.positives, times @ self.negatives)

    def average_precision(self, taken: npt.ArrayLike) -> Fractions:
        """Average precision when each unit is taken so many times `(..., unit)`."""
        times = np.asarray(taken, dtype=np.float64)
        return average_precision(times @ self.positives, times @ self.negatives)


@dataclass(frozen=True, eq=False)
class Rankings:
    """A `Ranking` for each class by its own probability, and one of abnormal against normal by 1 - p(normal)."""

    by_class: tuple[Ranking, ...]
    abnormal: Ranking

    @classmethod
    def of(cls, probabilities: Numbers, labels: npt.NDArray[np.int64], units: npt.NDArray[np.int64]) -> "Rankings":
        """From `(cycle, class)`, `(cycle,)` and the unit index `(cycle,)`. Class 0 is the normal one."""
        by_class = (Ranking.of(shares, labels == index, units) for index, shares in enumerate(probabilities.T))
        return cls(tuple(by_class), Ranking.of(-probabilities[:, 0], labels != 0, units))

    def macro_auroc(self, taken: npt.ArrayLike) -> Fractions:
        """Mean of the classes' areas `(...)`, one class against the rest, over the classes of all units together.

        NaN where one of those has no area; a class without one among all units is left out.
        """
        return self._macro(Ranking.auroc, taken)

    def macro_average_precision(self, taken: npt.ArrayLike) -> Fractions:
        """Mean of the classes' average precisions `(...)`, over the same classes in the same way."""
        return self._macro(Ranking.average_precision, taken)

    def _macro(self, measure: Callable[[Ranking, npt.ArrayLike], Fractions], taken: npt.ArrayLike) -> Fractions:
        each_once = np.ones(len(self.abnormal.positives))
        values, values_of_all = (
            np.stack([measure(ranking, times) for ranking in self.by_class], axis=-1) for times in (taken, each_once)
        )
        return mean_over(values, ~np.isnan(values_of_all))
