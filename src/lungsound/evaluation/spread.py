"""Where the spread of a value comes from: how patients differ, how seeds differ, and on how much that rests."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lungsound.evaluation.metrics import Fractions

NUM_ANGLES = 8001

Weights = npt.NDArray[np.int64]
ValueOf = Callable[[Weights], Fractions]


@dataclass(frozen=True, eq=False)
class Spread:
    """A value and what it varies with.

    `influences` `(patient,)`, of mean 0, are how much each patient pulls the value its way, from leaving it out; NaN
    when there is one without whom the value is not defined. `degrees` of freedom are what their spread rests on.
    `seed_variances` are what the chance of training adds to the variance of the value, for each side of several seeds,
    with degrees of freedom.
    """

    value: float
    influences: Fractions
    degrees: float
    seed_variances: tuple[tuple[float, int], ...]

    @property
    def patient_sd(self) -> float:
        """Deviation of the influences: over n patients the value's standard error is patient_sd / sqrt(n)."""
        return math.sqrt(float((self.influences**2).sum()) / (len(self.influences) - 1))

    @property
    def seed_variance(self) -> float:
        """What the chance of training adds to the variance of the value; 0 where it cannot be seen."""
        return sum(variance for variance, _ in self.seed_variances)

    def joint_degrees(self, patient_variance: float) -> float:
        """Degrees of freedom of `patient_variance` and the seeds' variances together (Satterthwaite, 1946)."""
        parts = [(patient_variance, self.degrees), *self.seed_variances]
        total = sum(variance for variance, _ in parts)
        if total == 0.0:
            return self.degrees
        return total**2 / sum(variance**2 / degrees for variance, degrees in parts)


def leave_one_out_weights(num_patients: int) -> Weights:
    """Weights that take every patient once but one, each in turn `(left out, patient)`."""
    return np.ones((num_patients, num_patients), dtype=np.int64) - np.eye(num_patients, dtype=np.int64)


def spread_over_patients(value_of: ValueOf, num_patients: int, *, minus: ValueOf | None = None) -> Spread:
    """Spread of a value, by leaving out each of two or more patients in turn.

    `value_of` maps how often each patient is taken `(draw, patient)` to the value then, `(draw,)` or for several
    trainings `(draw, seed)`, of which the mean is taken. With `minus` the value is the difference to that one, on the
    same patients, with seeds of its own.
    """
    everyone, all_but_one = np.ones((1, num_patients), dtype=np.int64), leave_one_out_weights(num_patients)
    value, left_out, seed_variances = 0.0, np.zeros(num_patients), []
    for sign, side in ((1.0, value_of), (-1.0, minus)):
        if side is None:
            continue
        whole, without = by_seed(side, everyone)[0], by_seed(side, all_but_one)
        value += sign * float(whole.mean())
        left_out += sign * without.mean(axis=1)
        if len(whole) > 1:
            seed_variances.append((_seed_variance(whole, without), len(whole) - 1))
    return Spread(value, _influences(left_out), effective_degrees(left_out), tuple(seed_variances))


def by_seed(value_of: ValueOf, weights: Weights) -> Fractions:
    """The values `(draw, seed)`, also of what has one training only."""
    return value_of(weights).reshape(len(weights), -1)


def _influences(left_out: Fractions) -> Fractions:
    """Of each patient, from the values without it `(patient, ...)`."""
    return np.asarray((len(left_out) - 1) * (left_out.mean(axis=0) - left_out))


def _seed_variance(whole: Fractions, left_out: Fractions) -> float:
    """Variance of the mean of the values `(seed,)` that is due to the seeds alone.

    Seeds differ in how they answer for single patients too. That is in the spread over patients already, so its part in
    the variance between seeds is taken off: what is left of the influences, from the values without each patient
    `(patient, seed)`, after the means of patients and of seeds (a two-way layout).
    """
    num_patients, num_seeds = left_out.shape
    influences = _influences(left_out)
    residues = influences - influences.mean(axis=1, keepdims=True)
    shared: float = float((residues**2).sum()) / ((num_patients - 1) * (num_seeds - 1)) / num_patients
    if math.isnan(shared):  # a patient without whom there is no value
        shared = 0.0
    return max(0.0, float(np.var(whole, ddof=1)) - shared) / len(whole)


def effective_degrees(left_out: Fractions) -> float:
    """Degrees of freedom of a value's spread, from the values without each patient `(patient,)`; n - 1 at most.

    The variance of n values of this kurtosis rests on 2n / (kurtosis - 1) degrees of freedom (O'Neill, "Some useful
    moment results in sampling problems", The American Statistician 68, 2014), and on n - 1 however flat they are: the
    two are joined as 1 / degrees = sqrt(1 / first^2 + 1 / second^2). A patient without whom there is no value counts as
    one far off.
    """
    num_patients = len(left_out)
    is_lost = np.isnan(left_out)
    values = is_lost.astype(np.float64) if is_lost.any() else left_out
    squares = (values - values.mean()) ** 2
    if squares.sum() == 0.0:
        return num_patients - 1.0
    kurtosis = num_patients * float((squares**2).sum() / squares.sum() ** 2)
    return 1.0 / math.hypot((kurtosis - 1.0) / (2 * num_patients), 1.0 / (num_patients - 1))


def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t distribution for one or more degrees of freedom, whole or not; right to 0.3 %.

    With t = sqrt(degrees) tan(angle) the density is a power of the cosine, which is summed on a grid of angles.
    """
    angles = np.linspace(0.0, np.pi / 2, NUM_ANGLES)
    density = np.cos(angles) ** (degrees - 1.0)
    below = np.concatenate(([0.0], np.cumsum(density[1:] + density[:-1])))
    angle = float(np.interp(abs(2.0 * probability - 1.0), below / below[-1], angles))
    return math.copysign(math.sqrt(degrees) * math.tan(angle), probability - 0.5)
