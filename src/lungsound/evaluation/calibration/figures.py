"""The pictures of calibration: reliability, risk against coverage, coverage of prediction sets by class and device."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lungsound.evaluation.calibration.conformal import SetMeasures
from lungsound.evaluation.calibration.error import bin_of, equal_width_edges
from lungsound.evaluation.calibration.patient_sums import Floats, Resampling
from lungsound.evaluation.calibration.scaling import Labels
from lungsound.evaluation.calibration.selective import confidence_of, risk_coverage
from lungsound.evaluation.figures import BLUE, GREY, ORANGE, picture
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.uncertainty import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRID = "#E5E5E5"
NUM_BAND_STEPS = 20


@dataclass(frozen=True)
class ReliabilityBin:
    """Cycles of one bin: how many, their mean confidence, and the share that was answered right."""

    num_cycles: int
    confidence: float
    right: Estimate


def reliability_bins(
    probabilities: Floats, labels: Labels, patients: Sequence[str], *, resampling: Resampling
) -> tuple[ReliabilityBin, ...]:
    """The bins of the top-label ECE that hold any cycle, by rising confidence."""
    confidence = confidence_of(probabilities)
    is_right = probabilities.argmax(axis=1) == labels
    bins, names = bin_of(confidence, equal_width_edges()), np.array(patients)
    found = []
    for number in np.unique(bins):
        members = bins == number
        right = resampling.mean(is_right[members], tuple(names[members].tolist()))
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
    resampling: Resampling,
    threshold: float | None = None,
) -> None:
    """Draw the share of wrong answers against the share of answered cycles, with intervals; mark the threshold."""
    confidence = confidence_of(probabilities)
    is_wrong = probabilities.argmax(axis=1) != predictions.labels
    curve = risk_coverage(confidence, is_wrong)
    steps = np.unique(np.linspace(0, len(curve.risk) - 1, NUM_BAND_STEPS + 1).round().astype(np.int64)[1:])
    bands = [
        resampling.mean(is_wrong, predictions.patients, where=confidence >= curve.thresholds[step]).interval
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
            label=f"{100 * resampling.level:g} % interval over patients",
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
