"""The confusion matrix and every score that is read from it. All values are fractions from 0 to 1.

Every function but `confusion_matrix` takes counts `(..., true class, answered class)` with any leading axes, so
that a thousand resampled matrices cost one call. A value without a denominator (the recall of a class that has
no cycle, the Score of a set without abnormal cycles) is NaN, never 0: the published program gives 0 there.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Fractions = npt.NDArray[np.float64]

# Answering "normal" always: specificity 1, sensitivity 0, whatever the cycles.
ALWAYS_NORMAL_SCORE = 0.5


@dataclass(frozen=True)
class IcbhiScore:
    """ICBHI's specificity and sensitivity; a part without cycles is NaN, and then so is the Score."""

    specificity: float
    sensitivity: float

    @property
    def score(self) -> float:
        """ICBHI Score: the mean of specificity and sensitivity."""
        return (self.specificity + self.sensitivity) / 2.0


def confusion_matrix(labels: npt.ArrayLike, answers: npt.ArrayLike, num_classes: int) -> Counts:
    """Number of cycles `(true class, answered class)`. Raises ValueError for an index outside the classes."""
    label_array, answer_array = np.asarray(labels, dtype=np.int64), np.asarray(answers, dtype=np.int64)
    if label_array.ndim != 1 or label_array.shape != answer_array.shape:
        raise ValueError(
            f"labels and answers must be two lists of one length; got {label_array.shape}, {answer_array.shape}"
        )
    for name, array in (("label", label_array), ("answer", answer_array)):
        if array.size and (array.min() < 0 or array.max() >= num_classes):
            raise ValueError(f"{name}s must be 0 to {num_classes - 1}; got {array.min()} to {array.max()}")
    counts = np.bincount(label_array * num_classes + answer_array, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def specificity(confusion: Counts) -> Fractions:
    """Sp `(...)`: normal cycles answered normal / normal cycles."""
    return _ratio(confusion[..., 0, 0], confusion[..., 0, :].sum(axis=-1))


def sensitivity(confusion: Counts) -> Fractions:
    """Se `(...)`: abnormal cycles answered exactly right / abnormal cycles."""
    right = _diagonal(confusion)[..., 1:].sum(axis=-1)
    return _ratio(right, confusion[..., 1:, :].sum(axis=(-2, -1)))


def mean_score(confusion: Counts) -> Fractions:
    """ICBHI Score `(...)`: the mean of Sp and Se; NaN when either is."""
    return (specificity(confusion) + sensitivity(confusion)) / 2.0


def fold_to_two_classes(confusion: Counts) -> Counts:
    """The counts read as normal against abnormal `(..., 2, 2)`: any abnormal answer fits an abnormal cycle."""
    starts = [0, 1]
    return np.add.reduceat(np.add.reduceat(confusion, starts, axis=-2), starts, axis=-1)


def icbhi_score(confusion: Counts) -> IcbhiScore:
    """ICBHI's Sp and Se of one confusion matrix, over all its classes."""
    return IcbhiScore(float(specificity(confusion)), float(sensitivity(confusion)))


def two_class_score(confusion: Counts) -> IcbhiScore:
    """Sp and Se of one confusion matrix when any abnormal answer counts as right for an abnormal cycle."""
    return icbhi_score(fold_to_two_classes(confusion))


def recall(confusion: Counts) -> Fractions:
    """Cycles of a class answered as that class / cycles of the class `(..., class)`."""
    return _ratio(_diagonal(confusion), confusion.sum(axis=-1))


def precision(confusion: Counts) -> Fractions:
    """Cycles of a class answered as that class / cycles answered as that class `(..., class)`."""
    return _ratio(_diagonal(confusion), confusion.sum(axis=-2))


def f1(confusion: Counts) -> Fractions:
    """Harmonic mean of precision and recall `(..., class)`; NaN only for a class neither present nor answered."""
    return _ratio(2 * _diagonal(confusion), confusion.sum(axis=-1) + confusion.sum(axis=-2))


def macro_f1(confusion: Counts) -> Fractions:
    """Mean `(...)` of the F1 of the classes that have one."""
    values = f1(confusion)
    has_value = ~np.isnan(values)
    return _ratio(np.where(has_value, values, 0.0).sum(axis=-1), has_value.sum(axis=-1))


def accuracy(confusion: Counts) -> Fractions:
    """Cycles answered exactly right / cycles `(...)`."""
    return _ratio(_diagonal(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def _diagonal(confusion: Counts) -> Counts:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Fractions:
    """Quotient, NaN where there is nothing to divide by."""
    over, under = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    return np.asarray(np.divide(over, under, out=np.full(under.shape, np.nan), where=under > 0))
