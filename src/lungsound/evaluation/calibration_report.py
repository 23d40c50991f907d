"""A calibration on the test set: its measures, and the section of a report with them and their pictures.

The expected calibration error (ECE) puts cycles into bins by their confidence and takes the mean over cycles of
|mean confidence - share predicted right| of their bin. Noise alone keeps it above 0, more so in small sets: beside it
stand the ECE that a perfectly calibrated model would show by chance, and an estimate without that part.

Both, and the interval, rest on the differences d of the bins and on their noise e, which is how resamples of patients
vary around d. A true set of differences t * d would have shown sum |t * d + e|. The interval holds the t for which the
ECE that was seen lies in the middle 95 % of these; the estimate is the t for which it is their median. The lower end is
0 when chance alone can give the ECE that was seen. `docs/decisions.md` says why, and how often the interval holds.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

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
    percent,
    sum_by_patient,
)
from lungsound.evaluation.calibration import (
    Calibration,
    Flags,
    Floats,
    Labels,
    OperatingPoint,
    confidence_of,
    negative_log_likelihood,
    risk_coverage,
)
from lungsound.evaluation.figures import BLUE, GREY, ORANGE, ScoreLine, draw_score_intervals, picture
from lungsound.evaluation.metrics import Counts, Fractions, mean_score, ratio, sensitivity, specificity
from lungsound.evaluation.predictions import Predictions
from lungsound.page import fill

NUM_BINS = 10  # with 15, also common, the few cycles of a lung-sound test set leave more noise than calibration to see
EDGES = np.linspace(0.0, 1.0, NUM_BINS + 1)
# Prevalences of abnormal cycles for which predictive values are given; that of the test set comes first.
PREVALENCES = (0.1, 0.3)
RELIABILITY, RISK, COVERAGE = "reliability.png", "risk_coverage.png", "set_coverage.png"
OPERATING_HEAD = ("wanted Se", "threshold", "Se", "Sp", "prevalence", "PPV", "NPV")
GRID = "#E5E5E5"
NUM_BAND_STEPS = 20


@dataclass(frozen=True)
class CalibrationError:
    """An ECE as seen, what chance alone gives, and without chance; of fewer than 10 patients only as seen, else NaN."""

    seen: float
    by_chance: float
    corrected: Estimate


@dataclass(frozen=True)
class ProbabilityErrors:
    """Errors of one set of probabilities; ECE as a fraction, Brier score 0 to 2, log-likelihood in nats."""

    top_label: CalibrationError
    brier: Estimate
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
    """Sets of one level and kind: over all cycles, by true class, by device (where there are two)."""

    level: float
    is_class_conditional: bool
    all_cycles: SetMeasures
    by_class: tuple[SetMeasures, ...]
    by_device: tuple[SetMeasures, ...]

    @property
    def groups(self) -> tuple[SetMeasures, ...]:
        return (self.all_cycles, *self.by_class, *self.by_device)

    @property
    def thresholds(self) -> str:
        return "one per class" if self.is_class_conditional else "one threshold"


@dataclass(frozen=True)
class AbstainMeasures:
    """Effect of abstention on the cycles of one device, or on all: shares, and the Score of the cycles not withheld."""

    group: str
    num_cycles: int
    num_patients: int
    coverage: Estimate
    error: Estimate
    score: Estimate


@dataclass(frozen=True)
class OperatingMeasures:
    """Effect of a threshold on the test set; predictive values are for `prevalence`, the share of abnormal cycles.

    Their intervals hold for a known prevalence: only sensitivity and specificity are uncertain.
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
    abstaining: tuple[AbstainMeasures, ...]
    operating: tuple[OperatingMeasures, ...]


def measure_calibration(calibration: Calibration, test: Predictions, bootstrap: Bootstrap) -> CalibrationMeasures:
    """Measure on cycles that nothing was fitted on; their classes are those of the calibration."""
    test, calibrated = calibration.decided(test), calibration.apply(test.probabilities)
    before, after = (
        probability_errors(each, test.labels, test.patients, bootstrap) for each in (test.probabilities, calibrated)
    )
    return CalibrationMeasures(
        num_cycles=len(test.labels),
        num_patients=len(set(test.patients)),
        before=before,
        after=after,
        sets=tuple(
            measure_sets(
                each.level, is_conditional, each.sets(calibrated, is_class_conditional=is_conditional), test, bootstrap
            )
            for each in calibration.sets
            for is_conditional in (False, True)
        ),
        abstaining=measure_abstention(~calibration.is_abstaining(test.probabilities), test, bootstrap),
        operating=measure_operating_points(calibration, test, PREVALENCES, bootstrap),
    )


def probability_errors(
    probabilities: Floats, labels: Labels, patients: Sequence[str], bootstrap: Bootstrap
) -> ProbabilityErrors:
    """Compute all errors over the same resamples of patients."""
    is_right = probabilities.argmax(axis=1) == labels
    return ProbabilityErrors(
        top_label=calibration_error(probabilities.max(axis=1), is_right, patients, bootstrap),
        brier=bootstrap.mean(brier_scores(probabilities, labels), patients),
        negative_log_likelihood=bootstrap.mean(negative_log_likelihood(probabilities, labels), patients),
    )


def brier_scores(probabilities: Floats, labels: Labels) -> Floats:
    """Brier score of each cycle `(cycle,)`: sum over classes of (probability - truth)^2, from 0 to 2."""
    return np.asarray(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1))


def bin_of(values: Floats) -> npt.NDArray[np.int64]:
    """Bin of each value; a value on an edge falls below it."""
    return np.searchsorted(EDGES[1:-1], values, side="left").astype(np.int64)


def calibration_error(
    confidence: Floats, is_right: Flags, patients: Sequence[str], bootstrap: Bootstrap
) -> CalibrationError:
    """ECE of cycles `(cycle,)`, corrected for chance, with its interval."""
    # For each cycle the difference in its bin, 0 in the others, and a 1 that counts it.
    columns = np.zeros((len(confidence), NUM_BINS + 1))
    columns[np.arange(len(confidence)), bin_of(confidence)] = confidence - is_right
    columns[:, -1] = 1.0
    sums = sum_by_patient(columns, patients)
    num_patients = len(sums)

    def means(weights: Weights) -> Floats:
        drawn = weights.astype(np.float64) @ sums
        return np.asarray(drawn[:, :-1] / drawn[:, -1:])

    difference = means(np.ones((1, num_patients), dtype=np.int64))[0]
    seen = float(np.abs(difference).sum())
    interval = Interval(math.nan, math.nan, bootstrap.level, bootstrap.num_draws, num_patients)
    if num_patients < FEW_PATIENTS:
        return CalibrationError(seen, math.nan, Estimate(math.nan, interval))
    weights = draw_patient_weights(num_patients, generator=bootstrap.generator(), num_draws=bootstrap.num_draws)
    deviations = means(weights) - difference
    # Resamples of n patients vary less than sets of n patients do, by (n - 1) / n in variance.
    noise = deviations * math.sqrt(num_patients / (num_patients - 1))
    degrees = jackknife(lambda weights: np.abs(means(weights)).sum(axis=1), num_patients).degrees
    tail = (1.0 - bootstrap.level) / 2.0
    wide = deviations * (expanded_quantile(degrees, level=bootstrap.level) / NormalDist().inv_cdf(1.0 - tail))
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


def measure_sets(
    level: float, is_class_conditional: bool, sets: Flags, test: Predictions, bootstrap: Bootstrap
) -> LevelMeasures:
    """Measure coverage and size of the sets `(cycle, class)`."""
    is_covered = np.take_along_axis(sets, test.labels[:, None], axis=1)[:, 0]

    def measure(group: str, where: Flags) -> SetMeasures:
        members = tuple(np.array(test.patients)[where].tolist())
        return SetMeasures(
            group,
            len(members),
            len(set(members)),
            promised=bootstrap.mean(is_covered[where], members, is_by_patient=True),
            of_cycles=bootstrap.mean(is_covered[where], members),
            size=bootstrap.mean(sets[where].sum(axis=1), members),
        )

    everything, *devices = _groups(test)
    classes = [(name, test.labels == k) for k, name in enumerate(test.classes) if (test.labels == k).any()]
    by_class, by_device = (tuple(measure(*group) for group in groups) for groups in (classes, devices))
    return LevelMeasures(level, is_class_conditional, measure(*everything), by_class, by_device)


def _groups(predictions: Predictions) -> Iterator[tuple[str, Flags]]:
    """Name and cycles `(cycle,)` of all together, then of each device when there are two or more."""
    devices, names = np.array(predictions.devices), sorted(set(predictions.devices))
    yield "all cycles", np.ones(len(devices), dtype=np.bool_)
    if len(names) > 1:
        yield from ((name or "unknown device", devices == name) for name in names)


def measure_abstention(is_predicted: Flags, test: Predictions, bootstrap: Bootstrap) -> tuple[AbstainMeasures, ...]:
    """Coverage, error and Score of the cycles not withheld `(cycle,)`: of all, and by device when there are two."""

    def measure(group: str, where: Flags) -> AbstainMeasures:
        members, is_kept = tuple(np.array(test.patients)[where].tolist()), is_predicted[where]
        labels, predicted = test.labels[where], test.predicted[where]
        counts = count_by_patient(members, labels, predicted, num_classes=len(test.classes), where=is_kept)
        return AbstainMeasures(
            group,
            len(members),
            len(set(members)),
            coverage=bootstrap.mean(is_kept, members),
            error=bootstrap.mean(predicted != labels, members, where=is_kept),
            score=bootstrap.of_counts(counts, mean_score),
        )

    return tuple(measure(*group) for group in _groups(test))


def measure_operating_points(
    calibration: Calibration, test: Predictions, prevalences: Sequence[float], bootstrap: Bootstrap
) -> tuple[OperatingMeasures, ...]:
    """Measure each operating point at the prevalence of the test set and at each of `prevalences` (0 to 1)."""
    scores = 1.0 - calibration.apply(test.probabilities)[:, 0]
    is_abnormal = (test.labels > 0).astype(np.int64)
    measures = []
    for point in calibration.operating_points:
        is_called = (scores >= point.threshold).astype(np.int64)
        counts = count_by_patient(test.patients, is_abnormal, is_called, num_classes=2)
        se, sp = (bootstrap.of_counts(counts, statistic) for statistic in (sensitivity, specificity))
        for number, prevalence in enumerate((float(is_abnormal.mean()), *prevalences)):
            ppv, npv = (
                bootstrap.of_counts(counts, partial(predictive_value, is_called=is_positive, prevalence=prevalence))
                for is_positive in (True, False)
            )
            measures.append(OperatingMeasures(point, se, sp, prevalence, ppv, npv, number == 0))
    return tuple(measures)


def predictive_value(counts: Counts, *, is_called: bool, prevalence: float) -> Fractions:
    """PPV (or NPV, of cycles not called) `(...)` by Bayes' rule from counts `(..., true, called)`; NaN without any."""
    if is_called:
        right, wrong = sensitivity(counts) * prevalence, (1.0 - specificity(counts)) * (1.0 - prevalence)
    else:
        right, wrong = specificity(counts) * (1.0 - prevalence), (1.0 - sensitivity(counts)) * prevalence
    return ratio(right, right + wrong)


def calibration_section(
    calibration: Calibration,
    test: Predictions,
    *,
    folder: Path,
    measures: CalibrationMeasures | None = None,
    remarks: Sequence[str] = (),
) -> Markup:
    """The section as Markdown; measured here unless `measures` are given. Draws its pictures into `folder`."""
    measures = measures or measure_calibration(calibration, test, Bootstrap())
    draw_calibration(calibration, measures, test, folder)
    return fill(
        "calibration.md",
        calibration=calibration,
        measures=measures,
        remarks=list(remarks),
        verdict=verdict(measures.after.top_label),
        operating_head=OPERATING_HEAD,
        operating=operating_rows(measures.operating),
        num_bins=NUM_BINS,
        few_patients=FEW_PATIENTS,
        percent=percent,
    )


def operating_rows(operating: Sequence[OperatingMeasures]) -> list[tuple[str, ...]]:
    """Cells below `OPERATING_HEAD`."""
    rows: list[tuple[str, ...]] = []
    for each in operating:
        prevalence = f"{100 * each.prevalence:.1f}" + (" (the test's)" if each.is_test_prevalence else "")
        se, sp, ppv, npv = (e.in_percent() for e in (each.sensitivity, each.specificity, each.ppv, each.npv))
        wanted = f"{100 * each.point.wanted_sensitivity:g}"
        rows.append((wanted, f"{each.point.threshold:.4f}", se, sp, prevalence, ppv, npv))
    return rows


def difference(shown: Calibration, kept: Calibration | None) -> str | None:
    """Remark beside `shown` when the run's model keeps another calibration, or none; None when it keeps this."""
    # To four digits: another processor gives other last digits.
    here, there = (
        each and json.loads(json.dumps(each.to_plain()), parse_float=lambda number: f"{float(number):.4f}")
        for each in (shown, kept)
    )
    if here == there:
        return None
    stored = "no calibration" if kept is None else "another calibration"
    return f"The model of this run keeps {stored}: 'predict' uses this one after --keep has put it there."


def verdict(error: CalibrationError) -> str:
    """Sentence that says whether the probabilities can be told from calibrated ones."""
    interval = error.corrected.interval
    if math.isnan(error.corrected.value):
        patients = f"too few patients ({interval.num_patients} of {FEW_PATIENTS})"
        return f"Whether the probabilities are calibrated cannot be seen: {patients}."
    if interval.low == 0.0:
        return (
            "The ECE is no larger than chance alone can make it with these patients: the probabilities "
            f"are not distinguishable from calibrated ones; an ECE of up to {percent(interval.high)} % is possible."
        )
    return f"The probabilities are off by more than chance: ECE {error.corrected.in_percent()} %, corrected for chance."


def draw_calibration(calibration: Calibration, measures: CalibrationMeasures, test: Predictions, folder: Path) -> None:
    """Draw reliability, risk against coverage, and coverage of the first level's sets into `folder`."""
    calibrated = calibration.apply(test.probabilities)
    panels = {"Before": test.probabilities, "After scaling": calibrated}
    if not calibration.is_scaled:
        panels = {"As the model gives them": calibrated}
    draw_reliability(panels, test, folder / RELIABILITY, Bootstrap())
    threshold = None if calibration.abstain is None else calibration.abstain.threshold
    predicted = calibration.predicted(test.probabilities)
    confidence, is_wrong = confidence_of(calibrated, predicted), predicted != test.labels
    draw_risk_coverage(confidence, is_wrong, test.patients, folder / RISK, Bootstrap(), threshold=threshold)
    level = measures.sets[0].level
    lines = [
        ScoreLine(
            f"{group.group}, {each.thresholds}",
            group.promised,
            group.num_cycles,
            is_headline=group is each.all_cycles,
            is_small=group.num_patients < FEW_PATIENTS,
        )
        for each in measures.sets[:2]
        for group in each.groups
    ]
    title = f"Coverage of sets at {100 * level:g} %"
    draw_score_intervals(lines, folder / COVERAGE, what=title, dashed=level, dashed_name="the level of the sets")


def draw_reliability(panels: dict[str, Floats], test: Predictions, path: Path, bootstrap: Bootstrap) -> None:
    """Draw the share right against confidence in each bin of the ECE, for each title's probabilities; below, cycles."""
    names = np.array(test.patients)
    with picture(path, width_inch=0.6 + 4.0 * len(panels), height_inch=5.0) as figure:
        rows = figure.subplots(2, len(panels), squeeze=False, sharex=True, sharey="row", height_ratios=[3, 1])
        for above, below, (title, probabilities) in zip(*rows, panels.items(), strict=True):
            confidence, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == test.labels
            bins = bin_of(confidence)
            above.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1.0)
            points = []
            for number in np.unique(bins):
                members = bins == number
                right = bootstrap.mean(is_right[members], tuple(names[members].tolist()))
                points.append((100.0 * confidence[members].mean(), 100.0 * right.value))
                ends = [100.0 * right.interval.low, 100.0 * right.interval.high]  # NaN, not drawn, without an interval
                above.plot([points[-1][0]] * 2, ends, color=BLUE, linewidth=1.6)
                below.bar(100.0 * EDGES[number] + 5.0, int(members.sum()), width=9.0, color=BLUE)
            above.plot(*zip(*points, strict=True), color=BLUE, marker="o", markersize=5, linewidth=1.0)
            above.set(title=title, xlim=(0, 100), ylim=(-3, 103))
            above.grid(color=GRID, linewidth=0.8)
            below.set_xlabel("confidence, percent")
        rows[0, 0].set_ylabel("predicted right, percent\n(dashed: as sure as right)")
        rows[1, 0].set_ylabel("cycles")
        figure.align_ylabels()


def draw_risk_coverage(
    confidence: Floats,
    is_wrong: Flags,
    patients: Sequence[str],
    path: Path,
    bootstrap: Bootstrap,
    *,
    threshold: float | None,
) -> None:
    """Draw the share of wrong predictions against that of cycles not withheld, with intervals; mark the threshold."""
    thresholds, coverage, risk = risk_coverage(confidence, is_wrong)
    steps = np.unique(np.linspace(0, len(risk) - 1, NUM_BAND_STEPS + 1).round().astype(np.int64)[1:])
    bands = [bootstrap.mean(is_wrong, patients, where=confidence >= thresholds[step]).interval for step in steps]
    with picture(path, width_inch=6.4, height_inch=4.2) as figure:
        axes = figure.add_subplot()
        low, high = [100.0 * band.low for band in bands], [100.0 * band.high for band in bands]
        label = f"{100 * bootstrap.level:g} % interval over patients"
        axes.fill_between(100.0 * coverage[steps], low, high, color=BLUE, alpha=0.18, linewidth=0.0, label=label)
        axes.plot(100.0 * coverage, 100.0 * risk, color=BLUE, linewidth=1.8, label="this model")
        if threshold is not None and (is_predicted := confidence >= threshold).any():
            at = [100.0 * is_predicted.mean()], [100.0 * is_wrong[is_predicted].mean()]
            axes.plot(*at, "o", color=ORANGE, markersize=8, label=f"threshold {threshold:.2f}, from validation")
        axes.set(xlim=(0, 101), xlabel="not withheld, percent of cycles (most confident first)")
        axes.set_ylim(bottom=0)
        title = f"Risk and coverage, {len(confidence)} cycles of {len(set(patients))} patients"
        axes.set(ylabel="wrong, percent of these", title=title)
        axes.grid(color=GRID, linewidth=0.8)
        axes.legend(loc="upper left")
