"""Scores of the probabilities, whatever the answer: area under the ROC curve and average precision, one class against
the rest. Fractions from 0 to 1.

`positives` and `negatives` are counts `(..., score)` at each distinct score in rising order, with any leading axes:
a patient that a resample takes twice counts twice. Without a positive or without a negative the area is NaN, without a
positive the average precision.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lungsound.evaluation.metrics import Fractions, mean_over, ratio

Numbers = npt.NDArray[np.float64]


def auroc(positives: Numbers, negatives: Numbers) -> Fractions:
    """Share `(...)` of pairs of a positive and a negative in which the positive scores higher; a tie counts half."""
    below = np.cumsum(negatives, axis=-1) - negatives
    pairs_won = (positives * (below + negatives / 2.0)).sum(axis=-1)
    return ratio(pairs_won, positives.sum(axis=-1) * negatives.sum(axis=-1))


def average_precision(positives: Numbers, negatives: Numbers) -> Fractions:
    """Mean `(...)` over the positives of the precision when all that score at least as high are answered positive."""
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
        values, whole = (
            np.stack([measure(ranking, times) for ranking in self.by_class], axis=-1) for times in (taken, each_once)
        )
        return mean_over(values, ~np.isnan(whole))
