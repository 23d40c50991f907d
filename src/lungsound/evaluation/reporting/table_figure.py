"""The picture of a table of runs: the Score of each seed and their mean, beside the published numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lungsound.errors import DataError
from lungsound.evaluation.figures import BLUE, GREY, ORANGE, picture
from lungsound.evaluation.metrics import ALWAYS_NORMAL_SCORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE_WIDTH = 88  # letters in a line over the picture

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class RunRow:
    """One line of the picture of a table of runs, in fractions: a Score for each seed, and what the paper printed.

    `scores` is empty when nothing was run; `interval` is that of their mean, over seeds and patients. Raises DataError
    when a value is no fraction (an interval may go beyond, it is cut), or there is a published deviation without the
    mean that it belongs to.
    """

    name: str
    scores: tuple[float, ...]
    published: float | None = None
    published_sd: float | None = None
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        values = [*self.scores, *(v for v in (self.published, self.published_sd) if v is not None)]
        if not all(0.0 <= value <= 1.0 for value in values):
            raise DataError(f"{self.name}: Scores to draw are fractions from 0 to 1; got {values}")
        if self.published is None and self.published_sd is not None:
            raise DataError(f"{self.name}: a published deviation needs the published Score that it belongs to")

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN when nothing was run."""
        return float(np.mean(self.scores)) if self.scores else float("nan")

    @property
    def sd(self) -> float:
        """Sample standard deviation over seeds (divided by their number less one); NaN with fewer than two."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else float("nan")


def draw_runs(path: Path, *, title: str, rows: Sequence[RunRow]) -> None:
    """Draw the Scores of runs beside the published ones, in percent, first row on top.

    A dot is a seed, a filled circle the mean over seeds and a hollow diamond the published Score; bars are one
    standard deviation to each side, a broad pale line is the interval of the mean over seeds and patients. Raises
    DataError when there is no row.
    """
    if not rows:
        raise DataError("no row of runs to draw: at least one is needed")
    heading = wrap(title, TITLE_WIDTH)
    lines = np.arange(len(rows))
    seeds = np.array([(100 * score, line) for line, row in enumerate(rows) for score in row.scores]).reshape(-1, 2)
    ours = np.array([(100 * row.mean, 100 * row.sd) for row in rows])
    published = np.array([(row.published, row.published_sd) for row in rows], dtype=np.float64) * 100
    with picture(path, width_inch=8.0, height_inch=1.3 + 0.48 * len(rows) + 0.2 * len(heading)) as figure:
        axes = figure.add_subplot()
        for line in lines[1::2]:
            axes.axhspan(line - 0.5, line + 0.5, color="#F2F2F2", linewidth=0, zorder=0)
        always_normal = 100 * ALWAYS_NORMAL_SCORE
        axes.axvline(always_normal, color=GREY, linestyle="--", linewidth=1.0, zorder=1)
        axes.annotate(
            "always normal",
            xy=(always_normal, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            color=GREY,
            fontsize=9,
        )
        if seeds.size:
            _draw_intervals(axes, rows)
            axes.plot(*(seeds - (0, 0.24)).T, ".", color="black", markersize=4.5, label="one seed")
            _draw_means(axes, ours, lines - 0.02, "o", colour=BLUE, face=BLUE, label="mean of seeds")
        if not np.isnan(published[:, 0]).all():
            _draw_means(axes, published, lines + 0.24, "D", colour=ORANGE, face="white", label="paper")
        _finish(axes, rows)
        figure.suptitle("\n".join(heading), x=0.01, ha="left", fontsize=11)
        if axes.get_legend_handles_labels()[1]:
            figure.legend(loc="outside lower center", ncols=4, fontsize=9)


def _draw_intervals(axes: "Axes", rows: Sequence[RunRow]) -> None:
    """Draw the intervals of the means, cut at 0 and 100, behind the means."""
    found = [(line, np.clip(row.interval, 0.0, 1.0)) for line, row in enumerate(rows) if row.interval is not None]
    if found:
        lines, spans = np.array([line for line, _ in found]), 100 * np.array([span for _, span in found])
        label = "95 % interval"
        axes.hlines(lines - 0.02, spans[:, 0], spans[:, 1], color=BLUE, alpha=0.25, linewidth=7, label=label, zorder=1)


def _draw_means(
    axes: "Axes",
    means: Floats,
    heights: Floats,
    marker: str,
    *,
    colour: str,
    face: str,
    label: str,
) -> None:
    """Draw means with their deviations `(row, 2)`; NaN where there is none."""
    has_bar = not np.isnan(means[:, 1]).all()
    axes.errorbar(
        means[:, 0],
        heights,
        xerr=means[:, 1],
        fmt=marker,
        color=colour,
        markerfacecolor=face,
        markersize=7,
        capsize=3,
        label=f"{label} \u00b1 sd" if has_bar else label,
    )


def _finish(axes: "Axes", rows: Sequence[RunRow]) -> None:
    """Name the rows and the axis, and clear away the frame."""
    axes.set_yticks(range(len(rows)), [f"{row.name}\n{_num_seeds(row)}" for row in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("Score, percent")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)


def _num_seeds(row: RunRow) -> str:
    if not row.scores:
        return "not run"
    return "1 seed" if len(row.scores) == 1 else f"{len(row.scores)} seeds"
