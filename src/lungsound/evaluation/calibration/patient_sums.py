"""Means of a value per cycle (a loss, whether it is right, how many classes a set holds) with intervals over patients.

Each patient's values are summed once; a resample of patients is then a weighted sum of these, as confusion matrices are
in `uncertainty`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lungsound.evaluation.metrics import Counts
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.spread import Weights
from lungsound.evaluation.uncertainty import (
    LEVEL,
    NUM_DRAWS,
    Estimate,
    Statistic,
    estimate_over_patients,
    interval_over_patients,
)

UNKNOWN_DEVICE = "unknown device"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: the same seed takes the same patients again."""

    seed: int = 0
    num_draws: int = NUM_DRAWS
    level: float = LEVEL

    def estimate(self, sums: Floats, statistic: Callable[[Floats], Floats]) -> Estimate:
        """`statistic` of the sums over patients, with its interval.

        `sums` is `(patient, ...)`; `statistic` maps `(draw, ...)` to `(draw,)`.
        """
        return self.estimate_weighted(
            lambda weights: statistic(np.tensordot(weights.astype(np.float64), sums, axes=1)), len(sums)
        )

    def estimate_counts(self, cells: Counts, patients: Sequence[str], statistic: Statistic) -> Estimate:
        """`statistic` of the counts of all cycles, with its interval.

        `cells` is a confusion matrix per cycle `(cycle, true class, answered class)`; `statistic` is one of `metrics`.
        """
        return estimate_over_patients(
            sums_of_patients(cells, patients).astype(np.int64),
            statistic,
            generator=np.random.default_rng(self.seed),
            num_draws=self.num_draws,
            level=self.level,
        )

    def estimate_weighted(self, value_of: Callable[[Weights], Floats], num_patients: int) -> Estimate:
        """A value when each patient counts once, with its interval.

        `value_of` maps how often each patient is taken `(draw, patient)` to `(draw,)`.
        """
        value = float(value_of(np.ones((1, num_patients), dtype=np.int64))[0])
        interval = interval_over_patients(
            value_of,
            num_patients,
            generator=np.random.default_rng(self.seed),
            num_draws=self.num_draws,
            level=self.level,
        )
        return Estimate(value, interval)

    def mean(self, values: npt.ArrayLike, patients: Sequence[str], *, where: npt.ArrayLike = True) -> Estimate:
        """Mean of the values `(cycle,)` of the cycles `where`, each cycle counting the same; NaN without any."""
        shares = np.broadcast_to(np.asarray(where, dtype=np.float64), (len(patients),))
        table = np.stack([np.asarray(values, dtype=np.float64) * shares, shares], axis=1)
        return self.estimate(sums_of_patients(table, patients), ratio)

    def mean_of_patients(
        self, values: npt.ArrayLike, patients: Sequence[str], *, where: npt.ArrayLike = True
    ) -> Estimate:
        """Mean over patients of the mean value of their cycles `where`, each patient counting the same."""
        shares = np.broadcast_to(np.asarray(where, dtype=np.float64), (len(patients),))
        table = np.stack([np.asarray(values, dtype=np.float64) * shares, shares], axis=1)
        sums = sums_of_patients(table, patients)
        has_any = sums[:, 1] > 0
        means = np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=has_any)
        return self.estimate(np.stack([means, has_any.astype(np.float64)], axis=1), ratio)


def sums_of_patients(values: Floats | Counts, patients: Sequence[str]) -> Floats:
    """Sums `(patient, ...)` of values `(cycle, ...)`, patients sorted by name."""
    names, patient = np.unique(np.array(patients), return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, patient, values)
    return sums


def ratio(sums: Floats) -> Floats:
    """First sum over second of `(..., 2)`; NaN where the second is 0."""
    over, under = sums[..., 0], sums[..., 1]
    return np.asarray(np.divide(over, under, out=np.full(np.shape(under), np.nan), where=under > 0))


def device_groups(predictions: Predictions) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Name and cycles `(cycle,)` of each device; empty when there is only one."""
    devices, names = np.array(predictions.devices), sorted(set(predictions.devices))
    return [(name or UNKNOWN_DEVICE, devices == name) for name in names] if len(names) > 1 else []
