"""The pictures of a report: confusion matrix, training curves, scores with intervals; same data, same bytes.

Colours are those of Okabe and Ito, told apart by colour-blind readers; values come as fractions and are drawn in
percent. matplotlib is imported on the first drawing only, since it takes longer than all the rest of a report.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import Estimate
from lungsound.evaluation.metrics import ALWAYS_NORMAL_SCORE, Counts
from lungsound.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DPI = 100
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#595959"
PALE = "#A6A6A6"
LINE_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GREY)
LOSS_PANEL, RATE_PANEL, SCORE_PANEL, PARTS_PANEL = "loss (training)", "learning rate", "Score, percent", "percent"
# Title of a panel to its scale and the columns of a training history that it shows, with their names in print.
PANELS = {
    LOSS_PANEL: (
        1.0,
        {
            "loss": "loss",
            "ce": "cross-entropy",
            "patchmix_ce": "Patch-Mix cross-entropy",
            "contrastive": "Patch-Mix contrastive",
        },
    ),
    RATE_PANEL: (1.0, {"learning_rate": "learning rate"}),
    SCORE_PANEL: (100.0, {"validation_score": "validation", "test_score": "{test}", "training_score": "training"}),
    PARTS_PANEL: (
        100.0,
        {
            "validation_specificity": "validation Sp",
            "test_specificity": "test Sp",
            "validation_sensitivity": "validation Se",
            "test_sensitivity": "test Se",
        },
    ),
}
# Lines that several panels have look the same in each; others take their place's colour.
STYLES = {
    "validation_score": (BLUE, "-"),
    "test_score": (ORANGE, "-"),
    "training_score": (GREY, ":"),
    "validation_specificity": (BLUE, "-"),
    "test_specificity": (ORANGE, "-"),
    "validation_sensitivity": (BLUE, "--"),
    "test_sensitivity": (ORANGE, "--"),
}
LONG_NAME = 9  # letters of a class that still fit under its column
HistoryRow = Mapping[str, float | str]


@dataclass(frozen=True)
class ScoreLine:
    """One line of the picture of intervals; `is_headline` lines stand out, `is_small` ones (few patients) are pale."""

    name: str
    estimate: Estimate
    num_cycles: int
    is_headline: bool = False
    is_small: bool = False


def draw_confusion(confusion: Counts, classes: Sequence[str], path: Path) -> None:
    """Draw counts `(true class, predicted class)` and what share of each true class they are, as PNG."""
    support = confusion.sum(axis=1)
    shares = 100.0 * confusion / np.maximum(support, 1)[:, None]
    side = 1.6 + 0.95 * len(classes)
    with picture(path, width_inch=side + 0.2, height_inch=side) as figure:
        axes = figure.add_subplot()
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=100.0)
        for (true, predicted), count in np.ndenumerate(confusion):
            share = f"{shares[true, predicted]:.0f} %" if support[true] else "n/a"
            axes.text(
                predicted,
                true,
                f"{count}\n{share}",
                ha="center",
                va="center",
                color="white" if shares[true, predicted] > 55.0 else "black",
                fontweight="bold" if true == predicted else "normal",
            )
        is_slanted = max(map(len, classes)) > LONG_NAME
        slant: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if is_slanted else {}
        axes.set_xticks(range(len(classes)), [str(name) for name in classes], **slant)
        axes.set_yticks(range(len(classes)), [f"{name}\nn = {n}" for name, n in zip(classes, support, strict=True)])
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.set_title(f"{int(support.sum())} cycles; percent of each true class")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)


def draw_score_intervals(lines: Sequence[ScoreLine], path: Path, *, what: str = "Value") -> None:
    """Draw each value with its interval, in percent, first line on top, with numbers of cycles and patients.

    `what` begins the title: what the values are.
    """
    with picture(path, width_inch=8.0, height_inch=1.2 + 0.42 * len(lines)) as figure:
        axes = figure.add_subplot()
        axes.axvline(100.0 * ALWAYS_NORMAL_SCORE, color=GREY, linestyle="--", linewidth=1.0, zorder=0)
        names = []
        for row, line in enumerate(lines):
            interval = line.estimate.interval
            patients = "1 patient" if interval.num_patients == 1 else f"{interval.num_patients} patients"
            colour = BLUE if line.is_headline else PALE if line.is_small else GREY
            width = 3.0 if line.is_headline else 1.6
            if interval.problem is None:
                axes.plot([100 * interval.low, 100 * interval.high], [row, row], color=colour, linewidth=width)
            axes.plot([100 * line.estimate.value], [row], "o", color=colour, markersize=4 + width)
            axes.text(
                1.02,
                row,
                line.estimate.in_percent(),
                transform=axes.get_yaxis_transform(),
                va="center",
                fontweight="bold" if line.is_headline else "normal",
                color=GREY if line.is_small else "black",
            )
            names.append(f"{line.name}\n{line.num_cycles} cycles, {patients}")
        axes.set_yticks(range(len(lines)), names, fontsize=9)
        axes.set_ylim(len(lines) - 0.5, -0.6)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("percent (dashed: the Score of always predicting normal)")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color="#E5E5E5", linewidth=0.8)
        axes.set_axisbelow(True)
        levels = sorted({100 * line.estimate.interval.level for line in lines})
        axes.set_title(f"{what} and {', '.join(f'{level:g}' for level in levels)} % interval over patients")


def draw_curves(
    history: Sequence[HistoryRow], path: Path, *, chosen_epoch: int | None = None, is_chosen_on_test: bool = False
) -> None:
    """Draw what training logged in each epoch, one panel per kind of column, and mark the chosen epoch.

    A row has `epoch` and any of the columns named in `PANELS`; other columns are left alone, a blank value is a gap
    and a part that equals the whole loss is not drawn twice. The test's line says that it chose nothing, unless
    `is_chosen_on_test`. Raises DataError when a value is no number or nothing can be drawn.
    """
    epochs = _series(history, "epoch")
    if not epochs.size or np.isnan(epochs).any():
        raise DataError(f"the training history has {len(history)} row(s); one or more are needed, each with its epoch")
    drawn = {title: columns for title, (_, labels) in PANELS.items() if (columns := _columns(history, labels))}
    if not drawn:
        names = list(dict.fromkeys(name for row in history for name in row))
        raise DataError(f"the training history has no loss, learning rate or score to draw; its columns are {names}")
    test = "test (chose the epoch)" if is_chosen_on_test else "test (not used to choose)"
    with picture(path, width_inch=8.0, height_inch=0.9 + 1.9 * len(drawn)) as figure:
        panel_axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (title, columns) in zip(panel_axes, drawn.items(), strict=True):
            _draw_panel(axes, epochs, columns, title, test=test)
            if chosen_epoch is not None:
                axes.axvline(chosen_epoch, color="black", linestyle=":", linewidth=1.4, zorder=0)
        chosen = "" if chosen_epoch is None else f"; dotted: epoch {chosen_epoch}, the one that was evaluated"
        panel_axes[0].set_title(f"Training, {len(history)} epoch(s){chosen}")
        panel_axes[-1].set_xlabel("epoch")
        panel_axes[-1].set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
        figure.align_ylabels()


def _columns(history: Sequence[HistoryRow], names: Iterable[str]) -> dict[str, npt.NDArray[np.float64]]:
    """The columns that hold a number, without parts of a loss that are the total of it."""
    series = {name: _series(history, name) for name in names}
    total = series.get("loss")
    return {
        name: values
        for name, values in series.items()
        if not np.isnan(values).all() and (total is None or values is total or not np.array_equal(values, total))
    }


def _draw_panel(
    axes: "Axes",
    epochs: npt.NDArray[np.float64],
    columns: Mapping[str, npt.NDArray[np.float64]],
    title: str,
    *,
    test: str,
) -> None:
    from matplotlib.ticker import MaxNLocator

    scale, labels = PANELS[title]
    for number, (column, values) in enumerate(columns.items()):
        colour, line = STYLES.get(column, (LINE_COLOURS[number], "-"))
        axes.plot(
            epochs,
            scale * values,
            color=colour,
            linestyle=line,
            linewidth=2.0 if number == 0 else 1.2,
            marker="o" if len(epochs) <= 30 else "",
            markersize=3.5,
            label=labels[column].format(test=test),
        )
    if title == SCORE_PANEL:
        axes.axhline(100.0 * ALWAYS_NORMAL_SCORE, color=GREY, linestyle="--", linewidth=1.0, label="always normal")
    axes.set_ylabel(title)
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if title != RATE_PANEL:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def _series(history: Sequence[HistoryRow], column: str) -> npt.NDArray[np.float64]:
    """One number per epoch; NaN where the column is missing or blank."""
    values = []
    for row in history:
        text = row.get(column, "")
        try:
            values.append(float("nan") if text == "" else float(text))
        except ValueError as error:
            raise DataError(
                f"training history: {column} of epoch {row.get('epoch')} is {text!r}, not a number"
            ) from error
    return np.array(values, dtype=np.float64)


@contextmanager
def picture(path: Path, *, width_inch: float, height_inch: float) -> Iterator["Figure"]:
    """An empty figure that is written to `path` when its block ends without an error."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc("font", size=10)
        matplotlib.rc("axes", titlesize=11, titlelocation="left")
        matplotlib.rc("axes.spines", top=False, right=False)
        matplotlib.rc("legend", frameon=False)
        figure = Figure(figsize=(width_inch, height_inch), dpi=DPI, layout="constrained")
        yield figure
        with written_whole(path) as partial:
            figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})
