"""The section of a report on calibration and abstention: what was fitted on validation, what it gives on the test.

Its pictures: reliability, risk against coverage, coverage of prediction sets by class and device.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lungsound.evaluation.bootstrap import FEW_PATIENTS, Bootstrap, Estimate
from lungsound.evaluation.calibration import Calibration, Floats, OperatingPoint, confidence_of, risk_coverage
from lungsound.evaluation.calibration_measures import (
    NUM_BINS,
    CalibrationError,
    CalibrationMeasures,
    LevelMeasures,
    OperatingMeasures,
    ProbabilityErrors,
    bin_of,
    equal_width_edges,
    measure_calibration,
)
from lungsound.evaluation.figures import BLUE, GREY, ORANGE, picture
from lungsound.evaluation.predictions import Predictions
from lungsound.page import Block, Bullets, Cell, Facts, Heading, Paragraph, Picture, Remark, Table

GRID = "#E5E5E5"
NUM_BAND_STEPS = 20
RELIABILITY, RISK, COVERAGE = "reliability.png", "risk_coverage.png", "set_coverage.png"
PICTURES = (RELIABILITY, RISK, COVERAGE)
ONE_THRESHOLD, OF_CLASS = "one threshold", "one per class"
FEW = f"Rows of fewer than {FEW_PATIENTS} patients are grey."


def calibration_blocks(calibration: Calibration, test: Predictions, *, folder: Path) -> list[Block]:
    """Measure on the test rows, draw the pictures (`PICTURES`) into `folder`, and make the section.

    Raises DataError when the classes of the test are not those of the calibration.
    """
    measures = measure_calibration(calibration, test, Bootstrap())
    draw_calibration(calibration, measures, test, folder, Bootstrap())
    return measured_blocks(calibration, measures, folder=folder)


def measured_blocks(
    calibration: Calibration, measures: CalibrationMeasures, *, folder: Path, remarks: Sequence[str] = ()
) -> list[Block]:
    """The section with what was fitted and measured, and `remarks` on it; the pictures lie in `folder`."""
    patients = "patient" if calibration.num_patients == 1 else "patients"
    return [
        Heading("Calibration and abstention"),
        Paragraph(
            f"Fitted on {calibration.num_cycles} cycles of {calibration.num_patients} validation {patients}, measured "
            f"on {measures.num_cycles} cycles of {measures.num_patients} test patients. No test cycle was fitted on. "
            "Intervals are over patients."
        ),
        *map(Remark, (*remarks, *calibration.problems)),
        Facts(fitted_facts(calibration)),
        *_error_blocks(calibration, measures.before, measures.after),
        Picture(folder / RELIABILITY, "Share predicted right against confidence"),
        *_set_blocks(measures.sets),
        Picture(folder / COVERAGE, "Coverage of prediction sets by class and device"),
        *_abstain_blocks(calibration, measures),
        Picture(folder / RISK, "Risk against coverage"),
        *operating_blocks(measures.operating, calibration),
    ]


def difference(shown: Calibration, kept: Calibration | None) -> str | None:
    """Remark beside `shown` when the run's model keeps another calibration, or none; None when it keeps this."""
    if kept is None:
        return "The model of this run keeps no calibration: 'predict' uses nothing of this. --keep puts it in."
    here, there = (
        fitted_facts(each)
        | {_wanted(point): f"P(abnormal) of {point.threshold:.4f}" for point in each.operating_points}
        for each in (shown, kept)
    )
    others = [f"{name}: {text}" for name, text in there.items() if here.get(name) != text]
    others += [f"{name}: none" for name in here if name not in there]
    if not others:
        return None
    return (
        f"The model of this run keeps another calibration, which 'predict' uses ({'; '.join(others)}). "
        "--keep puts this one in its place."
    )


def _wanted(point: OperatingPoint) -> str:
    return f"abnormal, wanted sensitivity {100 * point.wanted_sensitivity:g} %"


def fitted_facts(calibration: Calibration) -> dict[str, str]:
    """Names and values of what was fitted, but for operating points."""
    temperature, abstain = calibration.temperature, calibration.abstain
    facts = {"scaling": f"{'none' if temperature is None else 'temperature'}; {calibration.reason}"}
    if temperature is not None:
        side, judgement = ("above", "too sure") if temperature > 1.0 else ("below", "not sure enough")
        facts["temperature"] = f"{temperature:.3f} ({side} 1: the model was {judgement})"
    for each in calibration.sets:
        of_class = zip(calibration.classes, each.of_class, strict=True)
        facts[f"sets at {100 * each.level:g} %"] = (
            f"probability of {each.threshold:.4f} or more; by class "
            + ", ".join(f"{name} {value:.3f}" for name, value in of_class)
        )
    if abstain is not None:
        facts["predictions withheld"] = (
            f"below {abstain.threshold:.3f}, chosen for {abstain.wanted} {100 * abstain.wanted_value:g} %"
        )
    return facts


def _error_blocks(calibration: Calibration, before: ProbabilityErrors, after: ProbabilityErrors) -> list[Block]:
    both = {"before": before, "after": after} if calibration.is_scaled else {"none": after}
    names = {
        f"ECE, {NUM_BINS} bins of equal width": "top_label",
        f"ECE, {NUM_BINS} bins of equal mass": "top_label_equal_mass",
        "class-wise ECE, equal width": "class_wise",
    }
    rows = []
    for name, field in names.items():
        for scaling, errors in both.items():
            error: CalibrationError = getattr(errors, field)
            rows.append((name, scaling, *map(_percent, (error.seen, error.by_chance)), error.corrected_in_percent()))
    parts = {
        "its uncertainty (of always predicting the classes' shares)": "uncertainty",
        "its resolution (higher is better)": "resolution",
        "its reliability": "reliability",
    }
    columns = both.values()
    scores = [
        ("negative log-likelihood, nats", *(each.negative_log_likelihood.in_units(digits=3) for each in columns)),
        ("Brier score, 0 to 2", *(each.brier.in_units(digits=3) for each in columns)),
        *((name, *(f"{getattr(each.brier_parts, part):.4f}" for each in columns)) for name, part in parts.items()),
    ]
    return [
        Heading("How well calibrated the probabilities are", level=3),
        Paragraph(verdict(after.top_label)),
        Table(("error, percent", "scaling", "seen", "by chance alone", "corrected for chance"), rows),
        Table(("score, lower is better", *(both if calibration.is_scaled else ("value",))), scores),
    ]


def verdict(error: CalibrationError) -> str:
    """Sentence that says whether the probabilities can be told from calibrated ones."""
    interval = error.corrected.interval
    if error.problem is not None:
        return f"Whether the probabilities are calibrated cannot be seen: {error.problem}."
    if interval.low == 0.0:
        return (
            "The ECE is no larger than chance alone can make it with these patients: the probabilities "
            f"are not distinguishable from calibrated ones; an ECE of up to {_percent(interval.high)} % is possible."
        )
    return f"The probabilities are off by more than chance: ECE {error.corrected.in_percent()} %, corrected for chance."


def _set_blocks(sets: Sequence[LevelMeasures]) -> list[Block]:
    def values(promised: Estimate, of_cycles: Estimate, size: Estimate) -> tuple[str, str, str]:
        return promised.in_percent(), of_cycles.in_percent(), size.in_units(digits=2)

    kinds = [OF_CLASS if each.is_class_conditional else ONE_THRESHOLD for each in sets]
    rows = []
    for each, kind in zip(sets, kinds, strict=True):
        everyone = each.all_cycles
        rows.append((f"{100 * each.level:g} %", kind, *values(everyone.promised, everyone.of_cycles, everyone.size)))
    groups: list[tuple[Cell, ...]] = []
    greyed = set()
    for level, kind in zip(sets[:2], kinds, strict=False):
        for group in (*level.by_class, *level.by_device):
            if group.num_patients < FEW_PATIENTS:
                greyed.add(len(groups))
            measured = values(group.promised, group.of_cycles, group.size)
            groups.append((group.group, kind, group.num_cycles, group.num_patients, *measured))
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
        Paragraph(f"At {100 * sets[0].level:g} %, by true class and by device. {FEW}"),
        Table(("cycles of", "thresholds", "cycles", "patients", *columns), groups, frozenset(greyed)),
    ]


def _abstain_blocks(calibration: Calibration, measures: CalibrationMeasures) -> list[Block]:
    abstain = calibration.abstain
    rows: list[tuple[Cell, ...]] = [
        (
            each.group,
            each.num_cycles,
            each.num_patients,
            *(estimate.in_percent() for estimate in (each.coverage, each.error, each.score)),
        )
        for each in measures.abstaining
    ]
    greyed = frozenset(row for row, each in enumerate(measures.abstaining) if each.num_patients < FEW_PATIENTS)
    chosen = "No threshold was found; no prediction is withheld."
    if abstain is not None:
        chosen = (
            f"Predictions with a probability under {abstain.threshold:.3f} ({calibration.scaling}) are withheld: "
            f"chosen for {abstain.wanted} {100 * abstain.wanted_value:g} %, it answered "
            f"{_percent(abstain.validation_coverage)} % of validation cycles with "
            f"{_percent(abstain.validation_error)} % of them wrong."
        )
    area = measures.area_under_risk_coverage.in_percent()
    return [
        Heading("Abstention", level=3),
        Paragraph(f"{chosen} Area under the risk-coverage curve on the test: {area} %. {FEW}"),
        Table(
            ("cycles of", "cycles", "patients", "not withheld, %", "wrong among them, %", "Score of them"), rows, greyed
        ),
    ]


def operating_blocks(operating: Sequence[OperatingMeasures], calibration: Calibration) -> list[Block]:
    """Operating points: wanted sensitivity, threshold, what it gives on the test."""
    if not operating:
        return []
    rows = []
    for each in operating:
        estimates = (each.sensitivity, each.specificity, each.ppv, each.npv)
        wanted, threshold = f"{100 * each.point.wanted_sensitivity:g}", f"{each.point.threshold:.4f}"
        se, sp, ppv, npv = (estimate.in_percent() for estimate in estimates)
        rows.append((wanted, threshold, se, sp, _prevalence(each), ppv, npv))
    return [
        Heading("Operating points: normal against abnormal", level=3),
        Paragraph(
            f"A cycle is called abnormal when its P(abnormal) = 1 - P(normal), probabilities {calibration.scaling}, "
            "reaches the threshold. The threshold reaches the wanted sensitivity on validation cycles; on other "
            "patients it comes out above or below. PPV and NPV follow by Bayes' rule for the stated prevalence, taken "
            "as known. All in percent."
        ),
        Table(("wanted Se", "threshold", "Se", "Sp", "prevalence", "PPV", "NPV"), rows),
    ]


def operating_lines(operating: Sequence[OperatingMeasures], calibration: Calibration) -> list[str]:
    """The same for a terminal: a few lines for each wanted sensitivity, in percent."""
    lines = [f"Thresholds are for P(abnormal) = 1 - P(normal), probabilities {calibration.scaling}."][: len(operating)]
    for number, each in enumerate(operating):
        if number == 0 or each.point != operating[number - 1].point:
            lines += [
                f"wanted sensitivity {100 * each.point.wanted_sensitivity:g}: abnormal when P(abnormal) is "
                f"{each.point.threshold:.4f} or more",
                f"  on the test: sensitivity {each.sensitivity.in_percent()}, "
                f"specificity {each.specificity.in_percent()}",
            ]
        lines.append(f"  prevalence {_prevalence(each)}: PPV {each.ppv.in_percent()}, NPV {each.npv.in_percent()}")
    return lines


def _prevalence(each: OperatingMeasures) -> str:
    return f"{100 * each.prevalence:.1f}" + (" (the test's)" if each.is_test_prevalence else "")


def _percent(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{100 * value:.1f}"


def draw_calibration(
    calibration: Calibration, measures: CalibrationMeasures, test: Predictions, folder: Path, bootstrap: Bootstrap
) -> None:
    """Draw reliability, risk against coverage, and coverage of the first level's sets into `folder`."""
    scaled = calibration.apply(test.probabilities)
    panels = {"Before": test.probabilities, "After scaling": scaled}
    draw_reliability(
        panels if calibration.is_scaled else {"As the model gives them": scaled}, test, folder / RELIABILITY, bootstrap
    )
    threshold = None if calibration.abstain is None else calibration.abstain.threshold
    draw_risk_coverage(scaled, test, folder / RISK, bootstrap, threshold=threshold)
    draw_set_coverage(measures.sets[0], measures.sets[1], folder / COVERAGE)


def draw_reliability(panels: dict[str, Floats], test: Predictions, path: Path, bootstrap: Bootstrap) -> None:
    """Draw the share right against confidence for each title's probabilities `(cycle, class)`, with intervals.

    The bins are those of the top-label ECE that hold any cycle; below stand their numbers of cycles.
    """
    names, edges = np.array(test.patients), equal_width_edges()
    with picture(path, width_inch=0.6 + 4.0 * len(panels), height_inch=5.0) as figure:
        rows = figure.subplots(2, len(panels), squeeze=False, sharex=True, sharey="row", height_ratios=[3, 1])
        for column, (title, probabilities) in enumerate(panels.items()):
            above, below = rows[0, column], rows[1, column]
            confidence, is_right = confidence_of(probabilities), probabilities.argmax(axis=1) == test.labels
            bins = bin_of(confidence, edges)
            above.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1.0)
            points = []
            for number in np.unique(bins):
                members = bins == number
                right = bootstrap.mean(is_right[members], tuple(names[members].tolist()))
                points.append((100.0 * confidence[members].mean(), 100.0 * right.value))
                ends = [100.0 * right.interval.low, 100.0 * right.interval.high]  # NaN, not drawn, without an interval
                above.plot([points[-1][0]] * 2, ends, color=BLUE, linewidth=1.6)
                below.bar(100.0 * edges[number] + 5.0, int(members.sum()), width=9.0, color=BLUE)
            above.plot(*zip(*points, strict=True), color=BLUE, marker="o", markersize=5, linewidth=1.0)
            above.set(title=title, xlim=(0, 100), ylim=(-3, 103))
            above.grid(color=GRID, linewidth=0.8)
            below.set_xlabel("confidence, percent")
        rows[0, 0].set_ylabel("predicted right, percent\n(dashed: as sure as right)")
        rows[1, 0].set_ylabel("cycles")
        figure.align_ylabels()


def draw_risk_coverage(
    probabilities: Floats, test: Predictions, path: Path, bootstrap: Bootstrap, *, threshold: float | None
) -> None:
    """Draw the share of wrong predictions against that of cycles not withheld, with intervals; mark the threshold."""
    confidence, is_wrong = confidence_of(probabilities), probabilities.argmax(axis=1) != test.labels
    curve, ideal = risk_coverage(confidence, is_wrong), np.linspace(0.01, 1.0, 100)
    steps = np.unique(np.linspace(0, len(curve.risk) - 1, NUM_BAND_STEPS + 1).round().astype(np.int64)[1:])
    bands = [
        bootstrap.mean(is_wrong, test.patients, where=confidence >= curve.thresholds[step]).interval for step in steps
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
        # A confidence that puts every wrong prediction last.
        least = np.maximum(0.0, ideal - (1.0 - is_wrong.mean())) / ideal
        axes.plot(100.0 * ideal, 100.0 * least, color=GREY, linestyle=":", linewidth=1.4, label="wrong ones last")
        if threshold is not None and (is_answered := confidence >= threshold).any():
            axes.plot(
                [100.0 * is_answered.mean()],
                [100.0 * is_wrong[is_answered].mean()],
                "o",
                color=ORANGE,
                markersize=8,
                label=f"threshold {threshold:.2f}, from validation",
            )
        axes.set_xlim(0, 101)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("not withheld, percent of cycles (most confident first)")
        axes.set_ylabel("wrong, percent of these")
        axes.set_title(f"Risk and coverage, {len(confidence)} cycles of {len(set(test.patients))} patients")
        axes.grid(color=GRID, linewidth=0.8)
        axes.legend(loc="upper left")


def draw_set_coverage(plain: LevelMeasures, conditional: LevelMeasures, path: Path) -> None:
    """Draw the coverage over patients of plain and of class-conditional sets for each group, first on top."""
    num_groups, names, ends = len(plain.groups), [], [0.0 + plain.level]
    with picture(path, width_inch=8.0, height_inch=1.3 + 0.5 * num_groups) as figure:
        axes = figure.add_subplot()
        axes.axvline(100.0 * plain.level, color=GREY, linestyle="--", linewidth=1.0, zorder=0)
        for row, pair in enumerate(zip(plain.groups, conditional.groups, strict=True)):
            for measures, colour, shift in zip(pair, (BLUE, ORANGE), (-0.14, 0.14), strict=True):
                estimate, at = measures.promised, row + shift
                low, high = estimate.interval.low, estimate.interval.high  # NaN, not drawn, without an interval
                axes.plot([100 * low, 100 * high], [at, at], color=colour, linewidth=2.0)
                axes.plot([100 * estimate.value], [at], "o", color=colour, markersize=6)
                text = f"{estimate.in_percent()}; {measures.size.value:.2f} classes"
                side = axes.get_yaxis_transform()
                axes.text(1.02, at, text, transform=side, va="center", color=colour, fontsize=8)
                ends += [end for end in (estimate.value, low) if math.isfinite(end)]
            patients = "1 patient" if pair[0].num_patients == 1 else f"{pair[0].num_patients} patients"
            names.append(f"{pair[0].group}\n{pair[0].num_cycles} cycles, {patients}")
        axes.plot([], [], "o-", color=BLUE, label="one threshold")
        axes.plot([], [], "o-", color=ORANGE, label="one threshold per class")
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.02), ncols=2, borderaxespad=0.0)
        axes.set_yticks(range(num_groups), names, fontsize=9)
        axes.set_ylim(num_groups - 0.5, -0.6)
        axes.set_xlim(math.floor(10.0 * min(ends)) * 10.0 - 2.0, 102)
        axes.set_xlabel(
            f"percent of cycles whose set holds the class, mean over patients (dashed: {100 * plain.level:g} %)"
        )
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
