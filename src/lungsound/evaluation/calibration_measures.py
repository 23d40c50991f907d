"""Measures of a calibration on the test set: errors of probabilities, coverage of sets, abstention, operating points.

The expected calibration error (ECE) puts cycles into bins by their probability and takes the mean over cycles of
|mean probability - share of hits| of their bin. Noise alone keeps it above 0, more so in small sets: beside it stand
the ECE that a perfectly calibrated model would show by chance, and an estimate without that part.

Both, and the interval, rest on the differences d of the bins and on their noise e, which is the spread of the resamples
of patients around d. A true set of differences t * d would have shown sum |t * d + e|. The interval holds the t for
which the ECE that was seen lies in the middle 95 % of these; the estimate is the t for which it is their median. The
lower end is 0 when chance alone can give the ECE that was seen. Few patients widen it as they widen other intervals.
Percentiles of resampled ECEs would not do: a resample adds its noise to that of the set, and lies above the truth;
turned round what was seen they call calibrated probabilities off in one set of five. In simulation (1,000 sets each of
30 and of 60 patients with 8 to 24 cycles that resemble each other; true ECE 9 and 18 %) the 95 % interval held the
truth in 94 to 95 % of sets, that of the Brier score in 95 to 96 %. With 10 patients the interval of the ECE held it in
93 to 94 %, with 7 in 92 to 93 %, with 5 in 87 to 91 %, with 3 in 74 %: below 10 patients there is neither an interval
nor a correction.

Bins are 10: with 15, also common, the few cycles of a lung-sound test set leave more noise than calibration to see.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import (
    FEW_PATIENTS,
    Bootstrap,
    Estimate,
    Interval,
    Weights,
    count_by_patient,
    draw_patient_weights,
    expanded_quantile,
    jackknife,
    sum_by_patient,
)
from lungsound.evaluation.calibration import (
    Calibration,
    Flags,
    Floats,
    Labels,
    OperatingPoint,
    abnormal_probability,
    confidence_of,
    negative_log_likelihood,
)
from lungsound.evaluation.metrics import Counts, Fractions, mean_score, ratio, sensitivity, specificity
from lungsound.evaluation.predictions import Predictions

NUM_BINS = 10
# Prevalences of abnormal cycles for which predictive values are given; that of the test set comes first.
PREVALENCES = (0.1, 0.3)
ALL_CYCLES, UNKNOWN_DEVICE = "all cycles", "unknown device"
_DRAWS_AT_ONCE = 100


@dataclass(frozen=True)
class CalibrationError:
    """An ECE: as it was seen, what chance alone gives on average, and without chance, with an interval.

    Of fewer than 10 patients only what was seen; the others are NaN.
    """

    seen: float
    by_chance: float
    corrected: Estimate

    @property
    def problem(self) -> str | None:
        """Reason why there is neither a correction nor an interval; None when there are."""
        num_patients = self.corrected.interval.num_patients
        return f"too few patients ({num_patients} of {FEW_PATIENTS})" if num_patients < FEW_PATIENTS else None

    def corrected_in_percent(self) -> str:
        """For readers: "4.1 (0.0 to 9.2)", or why there is none."""
        return self.corrected.in_percent() if self.problem is None else f"n/a: {self.problem}"


@dataclass(frozen=True)
class BrierParts:
    """Brier score = reliability - resolution + uncertainty, summed over classes, each in equal-mass bins.

    `reliability` is the squared distance from calibration, `uncertainty` the score of always predicting the shares of
    the classes, `resolution` what the predictions tell beyond that (within-bin spread included, so that the sum is
    exact).
    """

    reliability: float
    resolution: float
    uncertainty: float


@dataclass(frozen=True)
class ProbabilityErrors:
    """Every error of one set of probabilities; ECE as a fraction, Brier score 0 to 2, log-likelihood in nats."""

    top_label: CalibrationError
    top_label_equal_mass: CalibrationError
    class_wise: CalibrationError
    brier: Estimate
    brier_parts: BrierParts
    negative_log_likelihood: Estimate


@dataclass(frozen=True)
class SetMeasures:
    """Coverage and size of sets on cycles of some kind; `promised` is the coverage over patients, as the level is."""

    group: str
    num_cycles: int
    num_patients: int
    promised: Estimate
    of_cycles: Estimate
    size: Estimate


@dataclass(frozen=True)
class LevelMeasures:
    """Sets of one level and kind: over all cycles, by true class, by device (when there are two)."""

    level: float
    is_class_conditional: bool
    all_cycles: SetMeasures
    by_class: tuple[SetMeasures, ...]
    by_device: tuple[SetMeasures, ...]

    @property
    def groups(self) -> tuple[SetMeasures, ...]:
        """All of them."""
        return (self.all_cycles, *self.by_class, *self.by_device)


@dataclass(frozen=True)
class AbstainMeasures:
    """Effect of abstention on the cycles of one device, or on all: shares, and the Score of the answered cycles."""

    group: str
    num_cycles: int
    num_patients: int
    coverage: Estimate
    error: Estimate
    score: Estimate


@dataclass(frozen=True)
class OperatingMeasures:
    """Effect of a threshold on the cycles of a test set; the predictive values are for `prevalence`.

    `prevalence` is the share of abnormal cycles where the model is to be used; it may be that of the test set itself.
    Intervals of the predictive values hold for a known prevalence: only sensitivity and specificity are uncertain.
    """

    point: OperatingPoint
    sensitivity: Estimate
    specificity: Estimate
    prevalence: float
    ppv: Estimate
    npv: Estimate
    is_test_prevalence: bool


@dataclass(frozen=True)
class CalibrationMeasures:
    """Everything measured on the test set; its field names are keys of `calibration.json`."""

    num_cycles: int
    num_patients: int
    before: ProbabilityErrors
    after: ProbabilityErrors
    sets: tuple[LevelMeasures, ...]
    area_under_risk_coverage: Estimate
    abstaining: tuple[AbstainMeasures, ...]
    operating: tuple[OperatingMeasures, ...]


def measure_calibration(calibration: Calibration, test: Predictions, bootstrap: Bootstrap) -> CalibrationMeasures:
    """Measure on cycles that nothing was fitted on.

    Raises DataError when their classes are not those of the calibration.
    """
    if test.classes != calibration.classes:
        raise DataError(
            f"the calibration is for the classes {', '.join(calibration.classes)}; the test rows have "
            f"{', '.join(test.classes)}"
        )
    labels, patients = test.labels, test.patients
    scaled = calibration.apply(test.probabilities)
    is_wrong = scaled.argmax(axis=1) != labels
    before, after = (probability_errors(each, labels, patients, bootstrap) for each in (test.probabilities, scaled))
    area_of = area_under_risk_coverage(confidence_of(scaled), is_wrong, patients)
    return CalibrationMeasures(
        num_cycles=len(labels),
        num_patients=len(set(patients)),
        before=before,
        after=after,
        sets=tuple(
            measure_sets(
                each.level, is_conditional, each.sets(scaled, is_class_conditional=is_conditional), test, bootstrap
            )
            for each in calibration.sets
            for is_conditional in (False, True)
        ),
        area_under_risk_coverage=bootstrap.estimate(area_of, len(set(patients))),
        abstaining=measure_abstention(~calibration.is_abstaining(test.probabilities), test, bootstrap),
        operating=measure_operating_points(calibration, test, PREVALENCES, bootstrap),
    )


def probability_errors(
    probabilities: Floats, labels: Labels, patients: Sequence[str], bootstrap: Bootstrap
) -> ProbabilityErrors:
    """Compute all errors over the same resamples of patients."""
    top, hits = confidence_of(probabilities), probabilities.argmax(axis=1) == labels
    num_classes = probabilities.shape[1]
    by_class = [bin_differences(probabilities[:, k], labels == k, equal_width_edges()) for k in range(num_classes)]

    def error(differences: Floats) -> CalibrationError:
        return calibration_error(differences, patients, bootstrap)

    return ProbabilityErrors(
        top_label=error(bin_differences(top, hits, equal_width_edges())),
        top_label_equal_mass=error(bin_differences(top, hits, equal_mass_edges(top))),
        class_wise=error(np.concatenate(by_class, axis=1) / num_classes),
        brier=bootstrap.mean(brier_scores(probabilities, labels), patients),
        brier_parts=brier_parts(probabilities, labels),
        negative_log_likelihood=bootstrap.mean(negative_log_likelihood(probabilities, labels), patients),
    )


def equal_width_edges() -> Floats:
    """Edges `(bin + 1,)` from 0 to 1, evenly spaced."""
    return np.linspace(0.0, 1.0, NUM_BINS + 1)


def equal_mass_edges(values: Floats) -> Floats:
    """Edges `(bin + 1,)` from 0 to 1 that put about as many of the values `(cycle,)` into each bin."""
    inner = np.quantile(values, np.linspace(0.0, 1.0, NUM_BINS + 1)[1:-1], method="inverted_cdf")
    return np.concatenate([[0.0], inner, [1.0]])


def bin_of(values: Floats, edges: Floats) -> npt.NDArray[np.int64]:
    """Bin of each value; a value on an edge falls below it."""
    return np.searchsorted(edges[1:-1], values, side="left").astype(np.int64)


def bin_differences(values: Floats, hits: Flags, edges: Floats) -> Floats:
    """`(cycle, bin)`: value - hit in the cycle's bin, 0 elsewhere."""
    table = np.zeros((len(values), len(edges) - 1))
    table[np.arange(len(values)), bin_of(values, edges)] = values - hits
    return table


def calibration_error(differences: Floats, patients: Sequence[str], bootstrap: Bootstrap) -> CalibrationError:
    """Sum over bins of |mean over cycles| of the differences `(cycle, bin)`, corrected for chance, with interval."""
    sums = sum_by_patient(np.concatenate([differences, np.ones((len(differences), 1))], axis=1), patients)
    num_patients = len(sums)

    def means(weights: Weights) -> Floats:
        drawn = weights.astype(np.float64) @ sums
        return np.asarray(drawn[:, :-1] / drawn[:, -1:])

    def seen_in(weights: Weights) -> Floats:
        return np.asarray(np.abs(means(weights)).sum(axis=1))

    everyone = np.ones((1, num_patients), dtype=np.int64)
    difference, seen = means(everyone)[0], float(seen_in(everyone)[0])
    interval = Interval(math.nan, math.nan, bootstrap.level, bootstrap.num_draws, num_patients)
    if num_patients < FEW_PATIENTS:
        return CalibrationError(seen, math.nan, Estimate(math.nan, interval))
    weights = draw_patient_weights(num_patients, generator=bootstrap.generator(), num_draws=bootstrap.num_draws)
    spread = means(weights) - difference
    # Resamples of n patients spread less than sets of n patients do, by (n - 1) / n in variance.
    noise = spread * math.sqrt(num_patients / (num_patients - 1))
    degrees, tail = jackknife(seen_in, num_patients).degrees, (1.0 - bootstrap.level) / 2.0
    wide = spread * (expanded_quantile(degrees, level=bootstrap.level) / NormalDist().inv_cdf(1.0 - tail))
    low, high = (seen * _stretch(difference, wide, share) for share in (1.0 - tail, tail))
    corrected = Estimate(seen * _stretch(difference, noise, 0.5), replace(interval, low=low, high=high))
    return CalibrationError(seen, float(np.abs(noise).sum(axis=1).mean()), corrected)


def _stretch(difference: Floats, noise: Floats, share: float) -> float:
    """The t from 0 at which `share` of the sums |t * difference + noise| lie below sum |difference|; 0 if fewer at 0.

    `difference` is `(bin,)`, `noise` `(draw, bin)`.
    """
    seen = np.abs(difference).sum()

    def share_below(stretch: float) -> float:
        return float((np.abs(stretch * difference + noise).sum(axis=1) <= seen).mean())

    if seen == 0.0 or share_below(0.0) <= share:
        return 0.0
    low, high = 0.0, 1.0
    while share_below(high) > share:
        low, high = high, 2.0 * high
    for _ in range(20):
        middle = (low + high) / 2.0
        low, high = (middle, high) if share_below(middle) > share else (low, middle)
    return (low + high) / 2.0


def brier_scores(probabilities: Floats, labels: Labels) -> Floats:
    """Brier score of each cycle `(cycle,)`: sum over classes of (probability - truth)^2, from 0 to 2."""
    truths = np.eye(probabilities.shape[1])[labels]
    return np.asarray(((probabilities - truths) ** 2).sum(axis=1))


def brier_parts(probabilities: Floats, labels: Labels) -> BrierParts:
    """Parts of the mean Brier score (Murphy 1973; within-bin terms as Stephenson et al. 2008 counted in)."""
    num_cycles, num_classes = probabilities.shape
    reliability, uncertainty = 0.0, 0.0
    for k in range(num_classes):
        values, hits = probabilities[:, k], (labels == k).astype(np.float64)
        bins = bin_of(values, equal_mass_edges(values))
        counts = np.maximum(np.bincount(bins, minlength=NUM_BINS), 1)
        gaps = np.bincount(bins, values - hits, minlength=NUM_BINS)
        reliability += float((gaps**2 / counts).sum() / num_cycles)
        uncertainty += float(hits.mean() * (1.0 - hits.mean()))
    score = float(brier_scores(probabilities, labels).mean())
    return BrierParts(reliability, reliability + uncertainty - score, uncertainty)


def measure_sets(
    level: float, is_class_conditional: bool, sets: Flags, predictions: Predictions, bootstrap: Bootstrap
) -> LevelMeasures:
    """Measure coverage and size of the sets `(cycle, class)`."""
    labels = predictions.labels
    is_covered = np.take_along_axis(sets, labels[:, None], axis=1)[:, 0]

    def measure(group: str, where: Flags) -> SetMeasures:
        members = tuple(np.array(predictions.patients)[where].tolist())
        return SetMeasures(
            group,
            int(where.sum()),
            len(set(members)),
            promised=bootstrap.mean_of_patients(is_covered[where], members),
            of_cycles=bootstrap.mean(is_covered[where], members),
            size=bootstrap.mean(sets[where].sum(axis=1), members),
        )

    return LevelMeasures(
        level,
        is_class_conditional,
        all_cycles=measure(ALL_CYCLES, np.ones(len(labels), dtype=np.bool_)),
        by_class=tuple(measure(name, labels == k) for k, name in enumerate(predictions.classes) if (labels == k).any()),
        by_device=tuple(measure(name, where) for name, where in device_groups(predictions)),
    )


def device_groups(predictions: Predictions) -> list[tuple[str, Flags]]:
    """Name and cycles `(cycle,)` of each device; empty when there is only one."""
    devices, names = np.array(predictions.devices), sorted(set(predictions.devices))
    return [(name or UNKNOWN_DEVICE, devices == name) for name in names] if len(names) > 1 else []


def area_under_risk_coverage(
    confidence: Floats, is_wrong: Flags, patients: Sequence[str]
) -> Callable[[Weights], Floats]:
    """Mean over cycles of the risk of answering all that are as confident (Geifman et al. 2019).

    A function of how often each patient is taken `(draw, patient)`.
    """
    _, patient = np.unique(np.array(patients), return_inverse=True)
    order = np.argsort(-confidence, kind="stable")
    wrong, patient = is_wrong[order].astype(np.float64), patient[order]
    # For each cycle the last one that is as confident: there its risk is read.
    ends = np.searchsorted(-confidence[order], -confidence[order], side="right") - 1

    def areas(weights: Weights) -> Floats:
        times = weights[:, patient].astype(np.float64)
        answered, misses = np.cumsum(times, axis=1)[:, ends], np.cumsum(times * wrong, axis=1)[:, ends]
        return np.asarray((times * np.nan_to_num(ratio(misses, answered))).sum(axis=1) / times.sum(axis=1))

    # In parts, which keeps the tables (draw, cycle) small.
    return lambda weights: np.concatenate(
        [areas(weights[start : start + _DRAWS_AT_ONCE]) for start in range(0, len(weights), _DRAWS_AT_ONCE)]
    )


def measure_abstention(
    is_answered: Flags, predictions: Predictions, bootstrap: Bootstrap
) -> tuple[AbstainMeasures, ...]:
    """Coverage, error and Score of the answered cycles `(cycle,)`: of all, and by device when there are two."""
    labels, predicted = predictions.labels, predictions.predicted

    def measure(group: str, where: Flags) -> AbstainMeasures:
        members, is_kept = tuple(np.array(predictions.patients)[where].tolist()), is_answered[where]
        confusions = count_by_patient(
            members, labels[where], predicted[where], num_classes=len(predictions.classes), where=is_kept
        )
        return AbstainMeasures(
            group,
            len(members),
            len(set(members)),
            coverage=bootstrap.mean(is_kept, members),
            error=bootstrap.mean((predicted != labels)[where], members, where=is_kept),
            score=bootstrap.of_counts(confusions, mean_score),
        )

    groups = [(ALL_CYCLES, np.ones(len(labels), dtype=np.bool_)), *device_groups(predictions)]
    return tuple(measure(name, where) for name, where in groups)


def measure_operating_points(
    calibration: Calibration, test: Predictions, prevalences: Sequence[float], bootstrap: Bootstrap
) -> tuple[OperatingMeasures, ...]:
    """Measure each operating point at the prevalence of the test set and at each of `prevalences` (0 to 1)."""
    scores = abnormal_probability(calibration.apply(test.probabilities))
    is_abnormal = (test.labels > 0).astype(np.int64)
    measures = []
    for point in calibration.operating_points:
        is_called = (scores >= point.threshold).astype(np.int64)
        confusions = count_by_patient(test.patients, is_abnormal, is_called, num_classes=2)
        se, sp = (bootstrap.of_counts(confusions, statistic) for statistic in (sensitivity, specificity))
        for prevalence in (None, *prevalences):
            if prevalence is not None and not 0.0 < prevalence < 1.0:
                raise ValueError(f"a prevalence lies between 0 and 1; got {prevalence}")
            share = float(is_abnormal.mean()) if prevalence is None else prevalence
            ppv, npv = (
                bootstrap.of_counts(confusions, partial(value, prevalence=share))
                for value in (positive_predictive_value, negative_predictive_value)
            )
            measures.append(OperatingMeasures(point, se, sp, share, ppv, npv, prevalence is None))
    return tuple(measures)


def positive_predictive_value(confusion: Counts, *, prevalence: float) -> Fractions:
    """PPV `(...)` at a prevalence, by Bayes' rule from counts `(..., true, called)`; NaN without calls."""
    true_calls = sensitivity(confusion) * prevalence
    return ratio(true_calls, true_calls + (1.0 - specificity(confusion)) * (1.0 - prevalence))


def negative_predictive_value(confusion: Counts, *, prevalence: float) -> Fractions:
    """NPV `(...)`, in the same way."""
    true_rests = specificity(confusion) * (1.0 - prevalence)
    return ratio(true_rests, true_rests + (1.0 - sensitivity(confusion)) * prevalence)
