"""The picture of a comparison: the differences with their intervals, and what each patient adds to that of Scores."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungsound.evaluation.columns import in_points
from lungsound.evaluation.comparison.compare import Comparison
from lungsound.evaluation.figures import BLUE, GREY, ORANGE, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Draw the differences A minus B with their intervals above, what patients add to the Score's below, in points."""
    num_lines = len(comparison.differences)
    with picture(path, width_inch=8.0, height_inch=3.6 + 0.42 * num_lines) as figure:
        upper, lower = figure.subplots(2, 1, height_ratios=[0.42 * num_lines + 0.4, 2.4])
        _draw_intervals(upper, comparison)
        _draw_patients(lower, comparison)


def _draw_intervals(axes: "Axes", comparison: Comparison) -> None:
    axes.axvline(0.0, color=GREY, linestyle="--", linewidth=1.0, zorder=0)
    for row, line in enumerate(comparison.differences):
        interval = line.difference.interval
        colour, width = (BLUE, 3.0) if row == 0 else (GREY, 1.6)
        if interval.problem is None:
            axes.plot([100 * interval.low, 100 * interval.high], [row, row], color=colour, linewidth=width)
        axes.plot([100 * line.difference.value], [row], "o", color=colour, markersize=4 + width)
        axes.text(1.02, row, in_points(line.difference), transform=axes.get_yaxis_transform(), va="center")
    axes.set_yticks(range(len(comparison.differences)), [line.name for line in comparison.differences])
    axes.set_ylim(len(comparison.differences) - 0.5, -0.5)
    axes.set_xlabel("A minus B, percent points")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    level = comparison.score.difference.interval.level
    axes.set_title(f"A: {comparison.names[0]}; B: {comparison.names[1]}. Difference and {100 * level:g} % interval")


def _draw_patients(axes: "Axes", comparison: Comparison) -> None:
    """Bars from the patient that speaks most for A to the one that speaks most for B; they sum to the difference."""
    parts = 100 * np.sort(comparison.contributions)[::-1]
    axes.bar(np.arange(1, len(parts) + 1), parts, color=np.where(parts > 0, BLUE, ORANGE), width=0.9)
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set_xlim(0.4, len(parts) + 0.6)
    axes.set_xlabel(f"{len(parts)} patients, from A better to B better")
    axes.set_ylabel("points of the\ndifference of Scores")
    if len(parts) <= 20:
        axes.set_xticks(range(1, len(parts) + 1))
