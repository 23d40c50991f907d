"""Where the spread of a value comes from: how patients differ, how seeds differ, and on how much that rests.

How far a score could be off because other patients (and other seeds) might have come: the bootstrap.

The cycles of one patient resemble each other, so it is patients that are drawn again, not cycles. One confusion
matrix per patient is kept; a resample is then a weighted sum of these, and thousands take milliseconds.

The middle 95 % of the resamples is too narrow for few patients. Hesterberg ("What teachers should know about the
bootstrap", The American Statistician 69, 2015) takes wider percentiles, Phi(+-t sqrt(n / (n - 1))) with the quantile t
of Student's distribution with n - 1 degrees of freedom. Patients with many cycles count for more than others,
so here the degrees of freedom are those that the patients' leave-one-out values support (`effective_degrees`), and n is
one more. `tests/unit/evaluation/test_simulated_coverage.py` holds the coverage, and prints it with `-m slow -s`.

Means of a value per cycle (a loss, whether it is right, how many classes a set holds) with intervals over patients.

Each patient's values are summed once; a resample of patients is then a weighted sum of these, as confusion matrices are
in `uncertainty`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from lungsound.evaluation.metrics import Counts, Fractions, Statistic, of_resamples
from lungsound.evaluation.predictions import Predictions

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


NUM_DRAWS = 4000
LEVEL = 0.95
# Below this how much patients differ is hardly known, and so is whether the interval is wide enough.
FEW_PATIENTS = 10
# No resample lies outside what its patients have: the widest interval of n holds their median in 1 - 2^(1 - n) of
# cases, 88 % of 4 patients and 94 % of 5.
LEAST_PATIENTS = 5


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval; `low` and `high` are NaN when none can be given, and `problem` says why.

    `num_undefined` of the `num_draws` resamples had no value (no abnormal cycle was drawn, say) and were left out; when
    they are more than half, what is left says little of the rest, and no interval is given.
    `num_seeds` is the least number of trainings on either side; with 1 the chance of training is not covered.
    """

    low: float
    high: float
    level: float
    num_draws: int
    num_patients: int
    num_undefined: int = 0
    num_seeds: int = 1

    @property
    def problem(self) -> str | None:
        """Why there is no interval; None when there is one."""
        if self.num_patients < 2:
            return "one patient: how patients differ cannot be seen"
        if self.num_patients < LEAST_PATIENTS:
            return f"{self.num_patients} patients: how patients differ can hardly be seen"
        if 2 * self.num_undefined > self.num_draws:
            return f"the value is defined in {self.num_draws - self.num_undefined} of {self.num_draws} resamples"
        return None


@dataclass(frozen=True)
class Estimate:
    """A value, NaN when it is not defined, and how far it could be off."""

    value: float
    interval: Interval

    def in_percent(self) -> str:
        """For readers: "62.3 (55.1 to 69.0)", "62.3 (n/a)" without an interval, "n/a" without a value."""
        if math.isnan(self.value):
            return "n/a"
        if self.interval.problem is not None:
            return f"{100 * self.value:.1f} (n/a)"
        return f"{100 * self.value:.1f} ({100 * self.interval.low:.1f} to {100 * self.interval.high:.1f})"


def patient_confusions(predictions: Predictions) -> Counts:
    """One confusion matrix per patient `(patient, true class, answered class)`, patients sorted by name."""
    names, patient = np.unique(np.array(predictions.patients), return_inverse=True)
    num_classes = len(predictions.classes)
    counts = np.zeros((len(names), num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (patient, predictions.labels, predictions.predicted), 1)
    return counts


def draw_patient_weights(num_patients: int, *, generator: np.random.Generator, num_draws: int = NUM_DRAWS) -> Weights:
    """How often each patient is taken in each resample `(draw, patient)`; rows sum to the number of patients."""
    if num_patients < 1 or num_draws < 1:
        raise ValueError(f"patients and draws must be 1 or more; got {num_patients} and {num_draws}")
    picks = (
        generator.integers(0, num_patients, (num_draws, num_patients)) + num_patients * np.arange(num_draws)[:, None]
    )
    return np.bincount(picks.ravel(), minlength=picks.size).reshape(picks.shape).astype(np.int64)


def resample(confusions: Counts, weights: Weights) -> Counts:
    """Confusion matrices `(draw, true class, answered class)` of patients `(patient, true class, answered class)`."""
    # As float64, which counts these whole numbers exactly: products of integer matrices are many times slower.
    flat = weights.astype(np.float64) @ confusions.reshape(len(confusions), -1).astype(np.float64)
    return flat.reshape(len(weights), *confusions.shape[1:]).astype(np.int64)


def percentile_interval(
    values: Fractions, *, num_patients: int, degrees: float | None = None, level: float = LEVEL
) -> Interval:
    """Interval from the values of the resamples `(draw,)` at expanded percentiles; NaN values are counted and left out.

    `degrees` of freedom are n - 1 unless given; `interval_over_patients` finds them and should be preferred.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"the level of an interval lies between 0 and 1; got {level}")
    defined = values[~np.isnan(values)]
    interval = Interval(math.nan, math.nan, level, values.size, num_patients, values.size - defined.size)
    if interval.problem is not None:
        return interval
    degrees = num_patients - 1.0 if degrees is None else degrees
    steps = t_quantile((1.0 + level) / 2.0, degrees) * math.sqrt((degrees + 1.0) / degrees)
    tail = NormalDist().cdf(-steps)
    low, high = (float(q) for q in np.quantile(defined, [tail, 1.0 - tail]))
    return replace(interval, low=low, high=high)


def interval_over_patients(
    value_of: ValueOf,
    num_patients: int,
    *,
    minus: ValueOf | None = None,
    generator: np.random.Generator,
    num_draws: int = NUM_DRAWS,
    level: float = LEVEL,
) -> Interval:
    """Interval of any value when patients are drawn with replacement; all others here come down to it.

    `value_of` maps how often each patient is taken `(draw, patient)` to the value then, NaN where it has none:
    `(draw,)`, or `(draw, seed)` for several trainings, of which the mean is taken. With `minus` the interval is that of
    the difference to that one, on the same patients.
    """
    weights = draw_patient_weights(num_patients, generator=generator, num_draws=num_draws)
    by_side = [by_seed(side, weights) for side in (value_of, minus) if side is not None]
    values = by_side[0].mean(axis=1) - sum(side.mean(axis=1) for side in by_side[1:])
    degrees = None
    if num_patients > 1 and not np.isnan(values).all():
        spread = spread_over_patients(value_of, num_patients, minus=minus)
        degrees = spread.joint_degrees(float(np.nanvar(values)))
        # Two to five seeds are too few to be drawn again: their effect is drawn from the normal distribution.
        values = values + math.sqrt(spread.seed_variance) * generator.standard_normal(num_draws)
    interval = percentile_interval(values, num_patients=num_patients, degrees=degrees, level=level)
    return replace(interval, num_seeds=min(side.shape[1] for side in by_side))


def bootstrap_over_seeds(
    runs: Counts,
    statistic: Statistic,
    *,
    minus: Counts | None = None,
    generator: np.random.Generator,
    num_draws: int = NUM_DRAWS,
    level: float = LEVEL,
) -> Interval:
    """Interval of the mean over seeds of `statistic` when other seeds and other patients might have come.

    `runs` is `(seed, patient, true class, answered class)`, the same patients in all. With `minus`, runs of another
    method on the same patients, the interval is that of the difference. One run alone gives the interval over
    patients. `statistic` is a fraction: the interval ends at 0 and 1, that of a difference at -1 and 1.
    """
    sides = [value_of_runs(each, statistic) for each in (runs, minus) if each is not None]
    found = interval_over_patients(
        sides[0],
        runs.shape[1],
        minus=None if minus is None else sides[1],
        generator=generator,
        num_draws=num_draws,
        level=level,
    )
    # What the chance of training adds is normal and knows no bounds; a fraction, or a difference of two, does.
    least = 0.0 if minus is None else -1.0
    return replace(found, low=max(found.low, least), high=min(found.high, 1.0))


def estimate_over_seeds(
    runs: Counts,
    statistic: Statistic,
    *,
    minus: Counts | None = None,
    generator: np.random.Generator,
    num_draws: int = NUM_DRAWS,
    level: float = LEVEL,
) -> Estimate:
    """The mean over seeds of `statistic`, or its difference to that of `minus`; as `bootstrap_over_seeds`."""
    means = [float(statistic(each.sum(axis=1)).mean()) for each in (runs, minus) if each is not None]
    interval = bootstrap_over_seeds(runs, statistic, minus=minus, generator=generator, num_draws=num_draws, level=level)
    return Estimate(means[0] - sum(means[1:]), interval)


def value_of_runs(runs: Counts, statistic: Statistic) -> ValueOf:
    """`statistic` of runs `(seed, patient, true class, answered class)` as a function of how patients are taken.

    A mean over classes is over those of all the run's patients, whatever classes a resample has.
    """
    by_run = [(confusions, of_resamples(statistic, confusions.sum(axis=0))) for confusions in runs]
    return lambda weights: np.stack([value(resample(confusions, weights)) for confusions, value in by_run], axis=1)


def bootstrap_over_patients(
    confusions: Counts,
    statistic: Statistic,
    *,
    generator: np.random.Generator,
    num_draws: int = NUM_DRAWS,
    level: float = LEVEL,
) -> Interval:
    """Interval of `statistic` when patients are drawn with replacement.

    `confusions` is `(patient, true class, answered class)` as `patient_confusions` gives it; `statistic` maps
    `(draw, true class, answered class)` to `(draw,)`, as the functions of `metrics` do. Generators of one seed
    take the same patients, so that intervals of several statistics rest on the same resamples.
    """
    return bootstrap_over_seeds(confusions[None], statistic, generator=generator, num_draws=num_draws, level=level)


def estimate_over_patients(
    confusions: Counts,
    statistic: Statistic,
    *,
    generator: np.random.Generator,
    num_draws: int = NUM_DRAWS,
    level: float = LEVEL,
) -> Estimate:
    """The value of `statistic` over all patients, with its interval; arguments as `bootstrap_over_patients`."""
    return estimate_over_seeds(confusions[None], statistic, generator=generator, num_draws=num_draws, level=level)


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
