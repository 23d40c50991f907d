"""What a calibration gives on the test set: errors, coverage of sets, abstaining, operating points.

The pictures of calibration: reliability, risk against coverage, coverage of prediction sets by class and device.

The section of a report on calibration and abstention: what was fitted on validation, what it gives on the test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import FEW_PATIENTS, Bootstrap, Estimate
from lungsound.evaluation.calibration import (
    AbstainMeasures,
    Calibration,
    Floats,
    Labels,
    OperatingMeasures,
    Scaling,
    SetMeasures,
    area_under_risk_coverage,
    confidence_of,
    measure_abstaining,
    measure_operating_point,
    measure_sets,
    risk_coverage,
)
from lungsound.evaluation.calibration_error import (
    NUM_BINS,
    CalibrationError,
    ProbabilityErrors,
    bin_of,
    equal_width_edges,
    probability_errors,
)
from lungsound.evaluation.figures import BLUE, GREY, ORANGE, picture
from lungsound.evaluation.predictions import Predictions
from lungsound.page import Block, Bullets, Facts, Heading, Paragraph, Picture, Remark, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Prevalences of abnormal cycles for which predictive values are given; that of the test set comes first.
PREVALENCES = (0.1, 0.3)


@dataclass(frozen=True)
class LevelMeasures:
    """Sets of one level and kind: over all cycles, by true class, by device."""

    level: float
    is_class_conditional: bool
    all_cycles: SetMeasures
    by_class: tuple[SetMeasures, ...]
    by_device: tuple[SetMeasures, ...]


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


def measure_calibration(
    calibration: Calibration,
    test: Predictions,
    *,
    prevalences: Sequence[float] = PREVALENCES,
    bootstrap: Bootstrap | None = None,
) -> CalibrationMeasures:
    """Measure on cycles that nothing was fitted on.

    Raises DataError when their classes are not those of the calibration.
    """
    if test.classes != calibration.classes:
        raise DataError(
            f"the calibration is for the classes {', '.join(calibration.classes)}; the test rows have "
            f"{', '.join(test.classes)}"
        )
    bootstrap = bootstrap or Bootstrap()
    raw, labels, patients = test.probabilities, test.labels, test.patients
    scaled = calibration.apply(raw)
    answers = scaled.argmax(axis=1)
    sets = [
        LevelMeasures(
            each.level,
            is_conditional,
            *measure_sets(each.sets(scaled, is_class_conditional=is_conditional), test, bootstrap=bootstrap),
        )
        for each in calibration.sets
        for is_conditional in (False, True)
    ]
    return CalibrationMeasures(
        num_cycles=len(labels),
        num_patients=len(set(patients)),
        before=probability_errors(raw, labels, patients, bootstrap=bootstrap),
        after=probability_errors(scaled, labels, patients, bootstrap=bootstrap),
        sets=tuple(sets),
        area_under_risk_coverage=area_under_risk_coverage(
            confidence_of(scaled), answers != labels, patients, bootstrap=bootstrap
        ),
        abstaining=measure_abstaining(~calibration.is_abstaining(raw), answers, test, bootstrap=bootstrap),
        operating=measure_operating_points(calibration, test, prevalences=prevalences, bootstrap=bootstrap),
    )


def measure_operating_points(
    calibration: Calibration,
    test: Predictions,
    *,
    prevalences: Sequence[float] = PREVALENCES,
    bootstrap: Bootstrap | None = None,
) -> tuple[OperatingMeasures, ...]:
    """Each operating point at the prevalence of the test set and at each of `prevalences`."""
    scaled, bootstrap = calibration.apply(test.probabilities), bootstrap or Bootstrap()
    return tuple(
        measure_operating_point(point, scaled, test, prevalence=prevalence, bootstrap=bootstrap)
        for point in calibration.operating_points
        for prevalence in (None, *prevalences)
    )


GRID = "#E5E5E5"
NUM_BAND_STEPS = 20


@dataclass(frozen=True)
class ReliabilityBin:
    """Cycles of one bin: how many, their mean confidence, and the share that was answered right."""

    num_cycles: int
    confidence: float
    right: Estimate


def reliability_bins(
    probabilities: Floats, labels: Labels, patients: Sequence[str], *, bootstrap: Bootstrap
) -> tuple[ReliabilityBin, ...]:
    """The bins of the top-label ECE that hold any cycle, by rising confidence."""
    confidence = confidence_of(probabilities)
    is_right = probabilities.argmax(axis=1) == labels
    bins, names = bin_of(confidence, equal_width_edges()), np.array(patients)
    found = []
    for number in np.unique(bins):
        members = bins == number
        right = bootstrap.mean(is_right[members], tuple(names[members].tolist()))
        found.append(ReliabilityBin(int(members.sum()), float(confidence[members].mean()), right))
    return tuple(found)


def draw_reliability(panels: Sequence[tuple[str, Sequence[ReliabilityBin]]], path: Path) -> None:
    """Draw for each title and its bins the share right against confidence, with intervals, above numbers of cycles."""
    with picture(path, width_inch=0.6 + 4.0 * len(panels), height_inch=5.0) as figure:
        rows = figure.subplots(2, len(panels), squeeze=False, sharex=True, sharey="row", height_ratios=[3, 1])
        edges = 100.0 * equal_width_edges()
        for column, (title, bins) in enumerate(panels):
            above, below = rows[0, column], rows[1, column]
            above.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1.0)
            for each in bins:
                interval, at = each.right.interval, 100.0 * each.confidence
                if interval.problem is None:
                    above.plot([at, at], [100 * interval.low, 100 * interval.high], color=BLUE, linewidth=1.6)
            above.plot(
                [100.0 * each.confidence for each in bins],
                [100.0 * each.right.value for each in bins],
                color=BLUE,
                marker="o",
                markersize=5,
                linewidth=1.0,
            )
            above.set_title(title)
            above.set_xlim(0, 100)
            above.set_ylim(-3, 103)
            above.grid(color=GRID, linewidth=0.8)
            places = [int(np.searchsorted(edges[1:-1], 100.0 * each.confidence)) for each in bins]
            below.bar(edges[places] + 5.0, [each.num_cycles for each in bins], width=9.0, color=BLUE)
            below.set_xlabel("confidence, percent")
        rows[0, 0].set_ylabel("answered right, percent\n(dashed: as sure as right)")
        rows[1, 0].set_ylabel("cycles")
        figure.align_ylabels()


def draw_risk_coverage(
    probabilities: Floats,
    predictions: Predictions,
    path: Path,
    *,
    bootstrap: Bootstrap,
    threshold: float | None = None,
) -> None:
    """Draw the share of wrong answers against the share of answered cycles, with intervals; mark the threshold."""
    confidence = confidence_of(probabilities)
    is_wrong = probabilities.argmax(axis=1) != predictions.labels
    curve = risk_coverage(confidence, is_wrong)
    steps = np.unique(np.linspace(0, len(curve.risk) - 1, NUM_BAND_STEPS + 1).round().astype(np.int64)[1:])
    bands = [
        bootstrap.mean(is_wrong, predictions.patients, where=confidence >= curve.thresholds[step]).interval
        for step in steps
    ]
    with picture(path, width_inch=6.4, height_inch=4.2) as figure:
        axes = figure.add_subplot()
        axes.fill_between(
            100.0 * curve.coverage[steps],
            [100.0 * band.low for band in bands],
            [100.0 * band.high for band in bands],
            color=BLUE,
            alpha=0.18,
            linewidth=0.0,
            label=f"{100 * bootstrap.level:g} % interval over patients",
        )
        axes.plot(100.0 * curve.coverage, 100.0 * curve.risk, color=BLUE, linewidth=1.8, label="this model")
        _draw_ideal(axes, float(is_wrong.mean()))
        if threshold is not None and (kept := confidence >= threshold).any():
            axes.plot(
                [100.0 * kept.mean()],
                [100.0 * is_wrong[kept].mean()],
                "o",
                color=ORANGE,
                markersize=8,
                label=f"threshold {threshold:.2f}, from validation",
            )
        axes.set_xlim(0, 101)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("answered, percent of cycles (most confident first)")
        axes.set_ylabel("wrong, percent of the answered")
        axes.set_title(f"Risk and coverage, {len(confidence)} cycles of {len(set(predictions.patients))} patients")
        axes.grid(color=GRID, linewidth=0.8)
        axes.legend(loc="upper left")


def _draw_ideal(axes: "Axes", error: float) -> None:
    """The curve of a confidence that puts every wrong answer last."""
    coverage = np.linspace(0.01, 1.0, 100)
    risk = np.maximum(0.0, coverage - (1.0 - error)) / coverage
    axes.plot(100.0 * coverage, 100.0 * risk, color=GREY, linestyle=":", linewidth=1.4, label="wrong answers last")


def draw_set_coverage(groups: Sequence[tuple[SetMeasures, SetMeasures]], path: Path, *, level: float) -> None:
    """Draw the coverage over patients of plain and of class-conditional sets for each group, first on top."""
    with picture(path, width_inch=8.0, height_inch=1.3 + 0.5 * len(groups)) as figure:
        axes = figure.add_subplot()
        axes.axvline(100.0 * level, color=GREY, linestyle="--", linewidth=1.0, zorder=0)
        names = []
        for row, pair in enumerate(groups):
            for measures, colour, shift in zip(pair, (BLUE, ORANGE), (-0.14, 0.14), strict=True):
                estimate, at = measures.promised, row + shift
                if estimate.interval.problem is None:
                    ends = [100 * estimate.interval.low, 100 * estimate.interval.high]
                    axes.plot(ends, [at, at], color=colour, linewidth=2.0)
                axes.plot([100 * estimate.value], [at], "o", color=colour, markersize=6)
                axes.text(
                    1.02,
                    at,
                    f"{estimate.in_percent()}; {measures.size.value:.2f} classes",
                    transform=axes.get_yaxis_transform(),
                    va="center",
                    color=colour,
                    fontsize=8,
                )
            patients = "1 patient" if pair[0].num_patients == 1 else f"{pair[0].num_patients} patients"
            names.append(f"{pair[0].group}\n{pair[0].num_cycles} cycles, {patients}")
        axes.plot([], [], "o-", color=BLUE, label="one threshold")
        axes.plot([], [], "o-", color=ORANGE, label="one threshold per class")
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.02), ncols=2, borderaxespad=0.0)
        axes.set_yticks(range(len(groups)), names, fontsize=9)
        axes.set_ylim(len(groups) - 0.5, -0.6)
        axes.set_xlim(_lowest(groups), 102)
        axes.set_xlabel(f"percent of cycles whose set holds the class, mean over patients (dashed: {100 * level:g} %)")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)


def _lowest(groups: Sequence[tuple[SetMeasures, SetMeasures]]) -> float:
    """Left end of the axis: a multiple of ten below everything that is drawn."""
    ends = [e for pair in groups for m in pair for e in (m.promised.value, m.promised.interval.low)]
    lowest: npt.NDArray[np.float64] = np.array([end for end in ends if np.isfinite(end)] or [0.0])
    return float(np.floor(10.0 * lowest.min()) * 10.0) - 2.0


RELIABILITY, RISK, COVERAGE = "reliability.png", "risk_coverage.png", "set_coverage.png"
PICTURES = (RELIABILITY, RISK, COVERAGE)
ONE_THRESHOLD, OF_CLASS = "one threshold", "one per class"
FEW = f"Rows of fewer than {FEW_PATIENTS} patients are grey."


def calibration_blocks(calibration: Calibration, test: Predictions, *, folder: Path) -> list[Block]:
    """Draw the pictures (`PICTURES`) into `folder` and say what the calibration gives on the test rows.

    Raises DataError when their classes are not those of the calibration.
    """
    bootstrap = Bootstrap()
    measures = measure_calibration(calibration, test, bootstrap=bootstrap)
    draw_calibration(calibration, measures, test, folder=folder, bootstrap=bootstrap)
    return measured_blocks(calibration, measures, folder=folder)


def draw_calibration(
    calibration: Calibration, measures: CalibrationMeasures, test: Predictions, *, folder: Path, bootstrap: Bootstrap
) -> None:
    """Draw reliability, risk against coverage, and coverage of the first level's sets."""
    scaled = calibration.apply(test.probabilities)
    panels = [("Before", test.probabilities), ("After scaling", scaled)]
    if calibration.scaling.method == "none":
        panels = [("As the model gives them", test.probabilities)]
    binned = [
        (title, reliability_bins(shares, test.labels, test.patients, bootstrap=bootstrap)) for title, shares in panels
    ]
    draw_reliability(binned, folder / RELIABILITY)
    threshold = None if calibration.abstain is None else calibration.abstain.threshold
    draw_risk_coverage(scaled, test, folder / RISK, bootstrap=bootstrap, threshold=threshold)
    plain, conditional = measures.sets[:2]
    pairs = list(zip(_groups(plain), _groups(conditional), strict=True))
    draw_set_coverage(pairs, folder / COVERAGE, level=plain.level)


def measured_blocks(
    calibration: Calibration, measures: CalibrationMeasures, *, folder: Path, remarks: Sequence[str] = ()
) -> list[Block]:
    """What was fitted and measured, and `remarks` on it; the pictures lie in `folder`."""
    patients = "patient" if calibration.num_patients == 1 else "patients"
    return [
        Heading("Calibration and abstention"),
        Paragraph(
            f"Fitted on {calibration.num_cycles} cycles of {calibration.num_patients} validation {patients}, measured "
            f"on {measures.num_cycles} cycles of {measures.num_patients} test patients. No test cycle was fitted on. "
            "Intervals are over patients."
        ),
        *map(Remark, (*remarks, *calibration.problems)),
        Facts(_fitted(calibration)),
        *_error_blocks(calibration, measures),
        Picture(folder / RELIABILITY, "Share answered right against confidence"),
        *_set_blocks(measures),
        Picture(folder / COVERAGE, "Coverage of prediction sets by class and device"),
        *_abstain_blocks(calibration, measures),
        Picture(folder / RISK, "Risk against coverage"),
        *operating_blocks(measures.operating, calibration.scaling),
    ]


def difference(shown: Calibration, kept: Calibration | None) -> str | None:
    """What to say beside `shown` when the run's model keeps another calibration, or none; None when it keeps this."""
    if kept is None:
        return "The model of this run keeps no calibration: 'predict' uses nothing of this. --keep puts it in."
    here, there = (_in_words(each) for each in (shown, kept))
    others = [f"{name}: {text}" for name, text in there.items() if here.get(name) != text]
    others += [f"{name}: none" for name in here if name not in there]
    if not others:
        return None
    return (
        f"The model of this run keeps another calibration, which 'predict' uses ({'; '.join(others)}). "
        "--keep puts this one in its place."
    )


def _in_words(calibration: Calibration) -> dict[str, str]:
    """What the calibration does, by name of what it does it with."""
    points = {
        f"abnormal, wanted sensitivity {100 * point.wanted_sensitivity:g} %": f"P(abnormal) of {point.threshold:.4f}"
        for point in calibration.operating_points
    }
    return {**_fitted(calibration), **points}


def _fitted(calibration: Calibration) -> dict[str, str]:
    scaling, abstain = calibration.scaling, calibration.abstain
    facts: dict[str, str] = {"scaling": f"{scaling.method}; {calibration.reason}"}
    if scaling.method == "temperature" and (temperature := scaling.temperature) is not None:
        found = "too sure" if temperature > 1.0 else "not sure enough"
        facts["temperature"] = (
            f"{temperature:.3f} ({'above' if temperature > 1.0 else 'below'} 1: the model was {found})"
        )
    if scaling.method == "vector":
        facts["scale of each class"] = _by_class(calibration.classes, scaling.scales)
        facts["bias of each class"] = _by_class(calibration.classes, scaling.biases)
    for each in calibration.sets:
        facts[f"sets at {100 * each.level:g} %"] = (
            f"probability of {each.threshold:.4f} or more; by class {_by_class(calibration.classes, each.of_class)}"
        )
    if abstain is not None:
        facts["answers withheld"] = (
            f"below {abstain.threshold:.3f}, chosen for {abstain.wanted} {100 * abstain.wanted_value:g} %"
        )
    return facts


def _by_class(classes: Sequence[str], values: Sequence[float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in zip(classes, values, strict=True))


def _error_blocks(calibration: Calibration, measures: CalibrationMeasures) -> list[Block]:
    before, after = measures.before, measures.after
    is_scaled = calibration.scaling.method != "none"
    kinds = (
        (f"ECE, {NUM_BINS} bins of equal width", before.top_label, after.top_label),
        (f"ECE, {NUM_BINS} bins of equal mass", before.top_label_equal_mass, after.top_label_equal_mass),
        ("class-wise ECE, equal width", before.class_wise, after.class_wise),
    )
    rows = [
        (
            name,
            when if is_scaled else "none",
            _percent(error.seen),
            _percent(error.by_chance),
            error.corrected_in_percent(),
        )
        for name, *both in kinds
        for when, error in zip(("before", "after"), both, strict=True)
        if when == "after" or is_scaled
    ]
    scores = [row if is_scaled else (row[0], row[2]) for row in _score_rows(before, after)]
    head = ("error, percent", "scaling", "seen", "by chance alone", "corrected for chance")
    return [
        Heading("How honest the probabilities are", level=3),
        Paragraph(verdict(after.top_label)),
        Table(head, rows),
        Table(("score, lower is better", *(("before", "after") if is_scaled else ("value",))), scores),
    ]


def verdict(error: CalibrationError) -> str:
    """Whether the probabilities can be told from honest ones, in a sentence."""
    interval = error.corrected.interval
    if error.problem is not None:
        return f"Whether the probabilities are honest cannot be told: {error.problem}."
    if interval.low == 0.0:
        return (
            "The ECE is no larger than chance alone can make it with these patients: the probabilities "
            f"are not distinguishable from honest ones; an ECE of up to {_percent(interval.high)} % is possible."
        )
    return f"The probabilities are off by more than chance: ECE {error.corrected.in_percent()} %, corrected for chance."


def _score_rows(before: ProbabilityErrors, after: ProbabilityErrors) -> list[tuple[str, ...]]:
    both = (before, after)
    parts = ("uncertainty", "resolution", "reliability")
    notes = {"uncertainty": "of always answering the classes' shares", "resolution": "higher is better"}
    rows: list[tuple[str, ...]] = [
        ("negative log-likelihood, nats", *(errors.negative_log_likelihood.in_units(digits=3) for errors in both)),
        ("Brier score, 0 to 2", *(errors.brier.in_units(digits=3) for errors in both)),
    ]
    for part in parts:
        name = f"its {part}" + (f" ({notes[part]})" if part in notes else "")
        rows.append((name, *(f"{getattr(errors.brier_parts, part):.4f}" for errors in both)))
    return rows


def _set_blocks(measures: CalibrationMeasures) -> list[Block]:
    rows = [
        (
            f"{100 * each.level:g} %",
            OF_CLASS if each.is_class_conditional else ONE_THRESHOLD,
            each.all_cycles.promised.in_percent(),
            each.all_cycles.of_cycles.in_percent(),
            each.all_cycles.size.in_units(digits=2),
        )
        for each in measures.sets
    ]
    groups = [
        (measure, OF_CLASS if each.is_class_conditional else ONE_THRESHOLD)
        for each in measures.sets[:2]
        for measure in (*each.by_class, *each.by_device)
    ]
    greyed = frozenset(row for row, (measure, _) in enumerate(groups) if measure.num_patients < FEW_PATIENTS)
    level = f"{100 * measures.sets[0].level:g} %"
    columns = ("coverage over patients", "coverage of cycles", "mean number of classes")
    return [
        Heading("Prediction sets", level=3),
        Bullets(
            (
                "A set at 90 % is promised to hold the true class of one cycle, drawn at random from a new patient, "
                "with 90 % probability: over patients like those of validation, not for one given patient or device.",
                "Coverage over patients is what the promise is about: each patient counts the same. Coverage of cycles "
                "counts each cycle the same.",
                "With one threshold per class the promise holds for the cycles of each class. A class that too few "
                "validation patients have is in every set.",
                "The promise is kept on average over sets of validation patients; with one set, the smaller the more, "
                "coverage can come out below it. The intervals are over test patients alone.",
                "The promise supposes that the epoch was not chosen on the validation patients; where it was, it is a "
                "little optimistic.",
            )
        ),
        Table(("promised", "thresholds", *columns), rows),
        Paragraph(f"At {level}, by true class and by device. {FEW}"),
        Table(
            ("cycles of", "thresholds", "cycles", "patients", *columns), [_set_row(*group) for group in groups], greyed
        ),
    ]


def _set_row(measure: SetMeasures, thresholds: str) -> tuple[str | int, ...]:
    values = (measure.promised.in_percent(), measure.of_cycles.in_percent(), measure.size.in_units(digits=2))
    return (measure.group, thresholds, measure.num_cycles, measure.num_patients, *values)


def _abstain_blocks(calibration: Calibration, measures: CalibrationMeasures) -> list[Block]:
    abstain = calibration.abstain
    rows: list[tuple[str | int, ...]] = [
        (
            each.group,
            each.num_cycles,
            each.num_patients,
            *(estimate.in_percent() for estimate in (each.coverage, each.error, each.score)),
        )
        for each in measures.abstaining
    ]
    greyed = frozenset(row for row, each in enumerate(measures.abstaining) if each.num_patients < FEW_PATIENTS)
    area = measures.area_under_risk_coverage.in_percent()
    chosen = "No threshold was found; every cycle is answered."
    if abstain is not None:
        chosen = (
            f"Answers with a probability under {abstain.threshold:.3f} ({calibration.scaling.in_words}) are withheld: "
            "chosen for "
            f"{abstain.wanted} {100 * abstain.wanted_value:g} %, it answered {_percent(abstain.validation_coverage)} % "
            f"of validation cycles with {_percent(abstain.validation_error)} % of them wrong."
        )
    return [
        Heading("Abstaining", level=3),
        Paragraph(f"{chosen} Area under the risk-coverage curve on the test: {area} %. {FEW}"),
        Table(("cycles of", "cycles", "patients", "answered, %", "wrong among them, %", "Score of them"), rows, greyed),
    ]


def operating_blocks(operating: Sequence[OperatingMeasures], scaling: Scaling) -> list[Block]:
    """Operating points on probabilities of this scaling: wanted sensitivity, threshold, what it gives on the test."""
    if not operating:
        return []
    return [
        Heading("Operating points: normal against abnormal", level=3),
        Paragraph(
            f"A cycle is called abnormal when its P(abnormal) = 1 - P(normal), probabilities {scaling.in_words}, "
            "reaches the threshold. The threshold reaches the wanted sensitivity on validation cycles; on other "
            "patients it comes out above or below. PPV and NPV follow by Bayes' rule for the stated prevalence, taken "
            "as known. All in percent."
        ),
        Table(
            ("wanted Se", "threshold", "Se", "Sp", "prevalence", "PPV", "NPV"), [_operating_row(e) for e in operating]
        ),
    ]


def operating_lines(operating: Sequence[OperatingMeasures], scaling: Scaling) -> list[str]:
    """The same for a terminal: a few lines for each wanted sensitivity, in percent."""
    lines = [f"Thresholds are for P(abnormal) = 1 - P(normal), probabilities {scaling.in_words}."] if operating else []
    for number, each in enumerate(operating):
        if number == 0 or each.point != operating[number - 1].point:
            lines += [
                f"wanted sensitivity {100 * each.point.wanted_sensitivity:g}: abnormal when P(abnormal) is "
                f"{each.point.threshold:.4f} or more",
                f"  on the test: sensitivity {each.sensitivity.in_percent()}, "
                f"specificity {each.specificity.in_percent()}",
            ]
        prevalence = _prevalence(each)
        lines.append(f"  prevalence {prevalence}: PPV {each.ppv.in_percent()}, NPV {each.npv.in_percent()}")
    return lines


def _operating_row(each: OperatingMeasures) -> tuple[str, ...]:
    estimates = (each.sensitivity, each.specificity, each.ppv, each.npv)
    found, spared, ppv, npv = (estimate.in_percent() for estimate in estimates)
    wanted, threshold = f"{100 * each.point.wanted_sensitivity:g}", f"{each.point.threshold:.4f}"
    return (wanted, threshold, found, spared, _prevalence(each), ppv, npv)


def _prevalence(each: OperatingMeasures) -> str:
    return f"{100 * each.prevalence:.1f}" + (" (the test's)" if each.is_test_prevalence else "")


def _percent(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{100 * value:.1f}"


def _groups(measures: LevelMeasures) -> tuple[SetMeasures, ...]:
    return (measures.all_cycles, *measures.by_class, *measures.by_device)
