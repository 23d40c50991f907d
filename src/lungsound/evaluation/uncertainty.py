"""How far a score could be off because other patients (and other seeds) might have come: the bootstrap.

The cycles of one patient resemble each other, so it is patients that are drawn again, not cycles. One confusion
matrix per patient is kept; a resample is then a weighted sum of these, and thousands take milliseconds.

The middle 95 % of the resamples is too narrow for few patients. Hesterberg ("What teachers should know about the
bootstrap", The American Statistician 69, 2015) takes wider percentiles, Phi(+-t sqrt(n / (n - 1))) with the quantile t
of Student's distribution with n - 1 degrees of freedom. Patients with many cycles count for more than others,
so here the degrees of freedom are those that the patients' leave-one-out values support (`effective_degrees`), and n is
one more. `tests/unit/evaluation/test_simulated_coverage.py` holds the coverage, and prints it with `-m slow -s`.
"""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from lungsound.evaluation.metrics import Counts, Fractions, of_resamples
from lungsound.evaluation.metrics import Statistic as Statistic
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.spread import ValueOf, by_seed, spread_over_patients, t_quantile
from lungsound.evaluation.spread import Weights as Weights

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
    np.add.at(counts, (patient, predictions.labels, predictions.answers), 1)
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
