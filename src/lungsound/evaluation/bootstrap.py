"""Bootstrap intervals over patients and, of several trainings, over seeds.

The cycles of one patient resemble each other, so patients are drawn again, not cycles. A resample is a weighted sum of
the confusion matrices or sums of each patient. The middle 95 % of the resamples is too narrow for few patients:
Hesterberg ("What teachers should know about the bootstrap", The American Statistician 69, 2015) takes wider
percentiles, Phi(+-t sqrt(n / (n - 1))) with the quantile t of Student's distribution with n - 1 degrees of freedom.
Patients with many cycles count for more than others, so here the degrees of freedom are those that the jackknife over
patients supports (`effective_degrees`), and n is one more. Coverage: tests/unit/evaluation/test_simulated_coverage.py.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from lungsound.evaluation.metrics import Counts, Fractions, MacroMean, Ranking, Statistic, ratio
from lungsound.evaluation.predictions import Predictions

Weights = npt.NDArray[np.int64]
ValueOf = Callable[[Weights], Fractions]

NUM_DRAWS = 4000
LEVEL = 0.95
# Below this how much patients differ is hardly known, and so is whether the interval is wide enough.
FEW_PATIENTS = 10
# The widest interval of n patients contains their median in 1 - 2^(1 - n) of cases: 88 % of 4 patients, 94 % of 5.
LEAST_PATIENTS = 5


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval; `low` and `high` are NaN when none can be given, and `problem` says why.

    `num_undefined` resamples had no value (no abnormal cycle, say) and were left out; more than half leave no interval.
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
        """Reason why there is no interval; None when there is one."""
        if self.num_patients < 2:
            return "one patient: how patients differ cannot be seen"
        if self.num_patients < LEAST_PATIENTS:
            return f"{self.num_patients} patients: how patients differ can hardly be seen"
        if 2 * self.num_undefined > self.num_draws:
            return f"the value is defined in {self.num_draws - self.num_undefined} of {self.num_draws} resamples"
        return None


@dataclass(frozen=True)
class Estimate:
    """A value, NaN when it is not defined, and its interval."""

    value: float
    interval: Interval

    def in_percent(self) -> str:
        """Percent: "62.3 (55.1 to 69.0)", "62.3 (n/a)" without an interval, "n/a" without a value."""
        return self.in_units(scale=100.0)

    def in_points(self) -> str:
        """Difference in percent points, with signs: "+1.9 (-0.4 to +4.0)"."""
        return self.in_units(scale=100.0, sign="+")

    def in_units(self, *, digits: int = 1, scale: float = 1.0, sign: str = "") -> str:
        """Value as it is, or times `scale`: "0.412 (0.380 to 0.450)"."""
        if math.isnan(self.value):
            return "n/a"
        numbers = (self.value, self.interval.low, self.interval.high)
        value, low, high = (f"{scale * number:{sign}.{digits}f}" for number in numbers)
        return f"{value} (n/a)" if self.interval.problem is not None else f"{value} ({low} to {high})"


def percent(fraction: float) -> str:
    return "n/a" if math.isnan(fraction) else f"{100 * fraction:.1f}"


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of patients: the same seed takes the same patients again, in the intervals of all values."""

    seed: int = 0
    num_draws: int = NUM_DRAWS
    level: float = LEVEL

    def generator(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def estimate(
        self,
        value_of: ValueOf,
        num_patients: int,
        *,
        minus: ValueOf | None = None,
        generator: np.random.Generator | None = None,
    ) -> Estimate:
        """A value with its interval; all other estimates come down to it.

        `value_of` maps how often each patient is taken `(draw, patient)` to the value, NaN where it has none, `(draw,)`
        or `(draw, seed)` for several trainings, of which the mean is taken. With `minus` the estimate is of the
        difference to that one, on the same patients. `generator` is one from the seed unless given.
        """
        generator = generator or self.generator()
        weights = draw_patient_weights(num_patients, generator=generator, num_draws=self.num_draws)
        by_side = _by_side(value_of, minus, weights)
        values = _difference(by_side)
        num_undefined, num_seeds = int(np.isnan(values).sum()), min(side.shape[1] for side in by_side)
        interval = Interval(math.nan, math.nan, self.level, self.num_draws, num_patients, num_undefined, num_seeds)
        if num_patients > 1 and num_undefined < self.num_draws:
            left_out = jackknife(value_of, num_patients, minus=minus)
            degrees = left_out.joint_degrees(float(np.nanvar(values)))
            # Two to five seeds are too few to be drawn again: their effect is drawn from the normal distribution.
            values = values + math.sqrt(left_out.seed_variance) * generator.standard_normal(self.num_draws)
            if interval.problem is None:
                tail = NormalDist().cdf(-expanded_quantile(degrees, level=self.level))
                low, high = np.quantile(values[~np.isnan(values)], [tail, 1.0 - tail]).tolist()
                interval = replace(interval, low=low, high=high)
        everyone = np.ones((1, num_patients), dtype=np.int64)
        return Estimate(float(_difference(_by_side(value_of, minus, everyone))[0]), interval)

    def of_counts(self, confusions: Counts, statistic: Statistic) -> Estimate:
        """`statistic`, a fraction, of counts `(patient, true class, predicted class)`."""
        return self.of_runs(confusions[None], statistic)

    def of_runs(
        self,
        runs: Counts,
        statistic: Statistic,
        *,
        minus: Counts | None = None,
        is_paired: bool = False,
        generator: np.random.Generator | None = None,
    ) -> Estimate:
        """Mean over seeds of `statistic`, a fraction, of runs `(seed, patient, ..., true class, predicted class)`.

        With `minus`, runs of another method on the same patients, the estimate is of the difference. With `is_paired`
        the trainings of the two sides belong together, one by one: what they differ in is then seen from the
        differences, each with the chance of two trainings in it. The interval is over seeds and patients.
        """
        value_of, num_patients = value_of_runs(runs, statistic), runs.shape[1]
        if minus is None:
            return _within(self.estimate(value_of, num_patients, generator=generator), least=0.0)
        other = value_of_runs(minus, statistic)
        if is_paired:
            difference = self.estimate(lambda taken: value_of(taken) - other(taken), num_patients, generator=generator)
        else:
            difference = self.estimate(value_of, num_patients, minus=other, generator=generator)
        return _within(difference, least=-1.0)

    def auc_of_runs(self, runs: Sequence[Predictions], parts: Sequence[str] = ()) -> Estimate:
        """Mean over seeds of the area under the ROC curve of normal or not, of runs on the same cycles.

        The share of pairs of an abnormal and a normal cycle in which the normal one has more probability of class 0,
        ties counting half; NaN when there are cycles of one kind only. With `parts` the mean of their areas.
        """
        rankings = [
            [Ranking.of(-run.probabilities[:, 0], run.labels != 0, run.patients, where) for where in places]
            for run, places in (places_of_parts(run, parts) for run in runs)
        ]

        def area_of(weights: Weights) -> Fractions:
            by_part = [[ranking.auroc(weights) for ranking in of_run] for of_run in rankings]
            return np.moveaxis(np.mean(by_part, axis=1), 0, -1)

        return _within(self.estimate(area_of, len(rankings[0][0].positives)), least=0.0)

    def mean(
        self,
        values: npt.ArrayLike,
        patients: Sequence[str],
        *,
        where: npt.ArrayLike = True,
        is_by_patient: bool = False,
    ) -> Estimate:
        """Mean of the values `(cycle,)` of the cycles `where`, NaN without any; each cycle counts the same.

        With `is_by_patient` each patient counts the same: the mean of the means of the patients' cycles.
        """
        is_counted = np.broadcast_to(np.asarray(where, dtype=np.float64), (len(patients),))
        sums = sum_by_patient(np.stack([np.asarray(values) * is_counted, is_counted], axis=1), patients)
        if is_by_patient:
            sums = np.stack([np.nan_to_num(ratio(*sums.T)), sums[:, 1] > 0], axis=1)
        return self.estimate(lambda weights: ratio(*(weights.astype(np.float64) @ sums).T), len(sums))


def _within(estimate: Estimate, *, least: float) -> Estimate:
    """End the interval at `least` and 1: what the chance of training adds is normal and knows no bounds."""
    interval = estimate.interval
    return replace(estimate, interval=replace(interval, low=max(interval.low, least), high=min(interval.high, 1.0)))


def draw_patient_weights(num_patients: int, *, generator: np.random.Generator, num_draws: int) -> Weights:
    """Number of times that each patient is taken in each resample `(draw, patient)`; rows sum to the patients."""
    picks = generator.integers(0, num_patients, (num_draws, num_patients))
    cells = picks + num_patients * np.arange(num_draws)[:, None]
    return np.bincount(cells.ravel(), minlength=cells.size).reshape(cells.shape).astype(np.int64)


def expanded_quantile(degrees: float, *, level: float) -> float:
    """Half the width of an interval, in standard deviations of the resamples: t sqrt(n / (n - 1))."""
    from scipy.special import stdtrit  # late: whoever predicts needs no scipy

    return float(stdtrit(degrees, (1.0 + level) / 2.0)) * math.sqrt((degrees + 1.0) / degrees)


@dataclass(frozen=True, eq=False)
class Jackknife:
    """A value and its dependence on single patients and seeds.

    `influences` `(patient,)`, of mean 0, are how far each patient pulls the value, from leaving it out (NaN when the
    value is not defined without one of them), with the `degrees` of freedom of their variance. `seed_variances` are
    what the chance of training adds to the variance, for each side of several seeds, with degrees of freedom.
    """

    value: float
    influences: Fractions
    degrees: float
    seed_variances: tuple[tuple[float, int], ...]

    @property
    def patient_sd(self) -> float:
        """Deviation of the influences: patient_sd / sqrt(n) is the value's standard error over n patients."""
        return math.sqrt(float((self.influences**2).sum()) / (len(self.influences) - 1))

    @property
    def seed_variance(self) -> float:
        """Part of the value's variance that the chance of training adds; 0 where it cannot be seen."""
        return sum(variance for variance, _ in self.seed_variances)

    def joint_degrees(self, patient_variance: float) -> float:
        """Degrees of freedom of `patient_variance` and the seeds' variances together (Satterthwaite, 1946)."""
        parts = [(patient_variance, self.degrees), *self.seed_variances]
        total = sum(variance for variance, _ in parts)
        if total == 0.0:
            return self.degrees
        return total**2 / sum(variance**2 / degrees for variance, degrees in parts)


def jackknife(value_of: ValueOf, num_patients: int, *, minus: ValueOf | None = None) -> Jackknife:
    """Leave out each of two or more patients in turn; arguments as `Bootstrap.estimate`."""
    everyone = np.ones((1, num_patients), dtype=np.int64)
    by_side = _by_side(value_of, minus, everyone)
    by_side_left_out = _by_side(value_of, minus, 1 - np.eye(num_patients, dtype=np.int64))
    seed_variances = tuple(
        (_seed_variance(by_seed[0], of_side), by_seed.shape[1] - 1)
        for by_seed, of_side in zip(by_side, by_side_left_out, strict=True)
        if by_seed.shape[1] > 1
    )
    value, left_out = float(_difference(by_side)[0]), _difference(by_side_left_out)
    influences = (num_patients - 1) * (left_out.mean() - left_out)
    return Jackknife(value, influences, effective_degrees(left_out), seed_variances)


def effective_degrees(left_out: Fractions) -> float:
    """Degrees of freedom of a value's variance, from the values without each patient `(patient,)`; n - 1 at most.

    The variance of n values of this kurtosis has 2n / (kurtosis - 1) degrees of freedom (O'Neill, "Some useful moment
    results in sampling problems", The American Statistician 68, 2014), but n - 1 at most: the two are joined as
    1 / degrees = sqrt(1 / first^2 + 1 / second^2). A patient without whom there is no value counts as one far off.
    """
    num_patients = len(left_out)
    is_undefined = np.isnan(left_out)
    values = is_undefined.astype(np.float64) if is_undefined.any() else left_out
    squares = (values - values.mean()) ** 2
    if squares.sum() == 0.0:
        return num_patients - 1.0
    kurtosis = num_patients * float((squares**2).sum() / squares.sum() ** 2)
    return 1.0 / math.hypot((kurtosis - 1.0) / (2 * num_patients), 1.0 / (num_patients - 1))


def _by_side(value_of: ValueOf, minus: ValueOf | None, weights: Weights) -> list[Fractions]:
    """The values `(draw, seed)` of each side."""
    return [side(weights).reshape(len(weights), -1) for side in (value_of, minus) if side is not None]


def _difference(by_side: Sequence[Fractions]) -> Fractions:
    """The mean over seeds `(draw,)` of the first side, minus that of the second if there is one."""
    first, *others = (side.mean(axis=1) for side in by_side)
    return np.asarray(first - others[0] if others else first)


def _seed_variance(by_seed: Fractions, left_out: Fractions) -> float:
    """Variance of the mean of the values `(seed,)` that is due to the seeds alone.

    Seeds differ in what they predict for single patients too, which is in the variance over patients already. It is
    taken off: the residue of the influences, from the values without each patient `(patient, seed)`, after the means
    of patients and of seeds (a two-way layout).
    """
    num_patients, num_seeds = left_out.shape
    influences = (num_patients - 1) * (left_out.mean(axis=0) - left_out)
    residues = influences - influences.mean(axis=1, keepdims=True)
    shared = (residues**2).sum() / ((num_patients - 1) * (num_seeds - 1)) / num_patients
    # NaN with a patient without whom there is no value.
    return max(0.0, float(np.var(by_seed, ddof=1) - np.nan_to_num(shared))) / len(by_seed)


def patient_confusions(predictions: Predictions) -> Counts:
    """One confusion matrix per patient `(patient, true class, predicted class)`, patients sorted by name."""
    patients, labels, num_classes = predictions.patients, predictions.labels, len(predictions.classes)
    return count_by_patient(patients, labels, predictions.predicted, num_classes=num_classes)


def places_of_parts(run: Predictions, parts: Sequence[str]) -> tuple[Predictions, list[npt.NDArray[np.bool_]]]:
    """The run's cycles of these parts of the split, and where those of each are; without any part all, as one."""
    if not parts:
        return run, [np.ones(len(run.keys), np.bool_)]
    run = run.of_rows([row for row, part in enumerate(run.parts) if part in parts])
    return run, [np.array(run.parts) == part for part in parts]


def confusions_by_part(runs: Sequence[Predictions], parts: Sequence[str] = ()) -> Counts:
    """Matrices `(seed, patient, part, true class, predicted class)`; all patients of these parts, sorted by name."""
    counts = [
        [
            count_by_patient(run.patients, run.labels, run.predicted, num_classes=len(run.classes), where=where)
            for where in places
        ]
        for run, places in (places_of_parts(run, parts) for run in runs)
    ]
    return np.array(counts).swapaxes(1, 2)


def mean_of_parts(statistic: Statistic) -> Statistic:
    """Mean of the statistic over the parts, each weighing the same, of counts `(..., part, true class, predicted)`."""
    return lambda counts: np.asarray(statistic(counts).mean(axis=-1))


def count_by_patient(
    patients: Sequence[str],
    labels: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    *,
    num_classes: int,
    where: npt.ArrayLike = True,
) -> Counts:
    """Numbers of the cycles `where`, `(patient, true class, predicted class)`, of all patients sorted by name."""
    names, patient = np.unique(np.array(patients), return_inverse=True)
    counts = np.zeros((len(names), num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (patient, labels, predicted), np.asarray(where, dtype=np.int64))
    return counts


def sum_by_patient(values: Fractions, patients: Sequence[str]) -> Fractions:
    """Sums `(patient, ...)` of values `(cycle, ...)`, patients sorted by name."""
    names, patient = np.unique(np.array(patients), return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, patient, values)
    return sums


def value_of_runs(runs: Counts, statistic: Statistic) -> ValueOf:
    """`statistic` of runs by how patients are taken; a mean over classes is over those of all patients."""
    of_resample = partial(statistic, all_counts=runs.sum(axis=1)) if isinstance(statistic, MacroMean) else statistic
    # As float64, which counts these whole numbers exactly: products of integer matrices are many times slower.
    counts = runs.astype(np.float64)
    return lambda weights: of_resample(np.tensordot(weights.astype(np.float64), counts, axes=(1, 1)).astype(np.int64))
