"""The pictures of a report: confusion matrix, training curves, scores with intervals; same data, same bytes.

Colours are those of Okabe and Ito, told apart by colour-blind readers; values come as fractions and are drawn in
percent. matplotlib is imported on the first drawing only, since it takes longer than all the rest of a report.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
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
from lungsound.page import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#595959"
PALE = "#A6A6A6"
LINE_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GREY)
LOSS_PANEL, RATE_PANEL, SCORE_PANEL, PARTS_PANEL = "loss (training)", "learning rate", "Score, percent", "percent"
# Columns of a training history that are drawn: panel, name in print, colour, line.
CURVES = {
    "loss": (LOSS_PANEL, "loss", BLUE, "-"),
    "ce": (LOSS_PANEL, "cross-entropy", ORANGE, "-"),
    "patchmix_ce": (LOSS_PANEL, "Patch-Mix cross-entropy", GREEN, "-"),
    "contrastive": (LOSS_PANEL, "Patch-Mix contrastive", PURPLE, "-"),
    "learning_rate": (RATE_PANEL, "learning rate", BLUE, "-"),
    "validation_score": (SCORE_PANEL, "validation", BLUE, "-"),
    "test_score": (SCORE_PANEL, "{test}", ORANGE, "-"),
    "training_score": (SCORE_PANEL, "training", GREY, ":"),
    "validation_specificity": (PARTS_PANEL, "validation Sp", BLUE, "-"),
    "test_specificity": (PARTS_PANEL, "test Sp", ORANGE, "-"),
    "validation_sensitivity": (PARTS_PANEL, "validation Se", BLUE, "--"),
    "test_sensitivity": (PARTS_PANEL, "test Se", ORANGE, "--"),
}
WINDOW_S, HOP_S = 0.040, 0.010  # of a spectrogram
LOWEST_HZ, HIGHEST_HZ = 100.0, 2000.0  # heart and handling are louder below
RANGE_DB = 60.0
LONG_NAME = 9  # letters of a class that still fit under its column
HistoryRow = Mapping[str, float | str]
Floats = npt.NDArray[np.float64]
Waveform = npt.NDArray[np.float32]


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
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.set_title(f"{int(support.sum())} cycles; percent of each true class")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)


def draw_score_intervals(
    lines: Sequence[ScoreLine],
    path: Path,
    *,
    what: str = "Value",
    dashed: float = ALWAYS_NORMAL_SCORE,
    dashed_name: str = "the Score of always predicting normal",
) -> None:
    """Draw each value with its interval, in percent, first line on top; `what` they are begins the title."""
    with picture(path, width_inch=8.0, height_inch=1.2 + 0.42 * len(lines)) as figure:
        axes = figure.add_subplot()
        axes.axvline(100.0 * dashed, color=GREY, linestyle="--", linewidth=1.0, zorder=0)
        names = []
        for row, line in enumerate(lines):
            _draw_interval(axes, row, line)
            axes.text(
                1.02,
                row,
                line.estimate.in_percent(),
                transform=axes.get_yaxis_transform(),
                va="center",
                fontweight="bold" if line.is_headline else "normal",
                color=GREY if line.is_small else "black",
            )
            patients = counted(line.estimate.interval.num_patients, "patient")
            names.append(f"{line.name}\n{line.num_cycles} cycles, {patients}")
        axes.set_yticks(range(len(lines)), names, fontsize=9)
        axes.set(xlim=(-2, 102), ylim=(len(lines) - 0.5, -0.6), xlabel=f"percent (dashed: {dashed_name})")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color="#E5E5E5", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_title(f"{what} and {_intervals(lines)} over patients")


def draw_differences(lines: Sequence[ScoreLine], path: Path) -> None:
    """Draw differences of Scores with their intervals, in points, first line on top, and a dashed line at none."""
    with picture(path, width_inch=9.0, height_inch=1.0 + 0.44 * len(lines)) as figure:
        axes = figure.add_subplot()
        difference_lines(axes, lines)
        axes.set_title(f"Difference of Scores and {_intervals(lines)}")


def difference_lines(axes: "Axes", lines: Sequence[ScoreLine]) -> None:
    """Draw a forest plot of differences A minus B: a point, its interval and both in print for each line."""
    axes.axvline(0.0, color=GREY, linestyle="--", linewidth=1.0, zorder=0)
    for row, line in enumerate(lines):
        _draw_interval(axes, row, line)
        axes.text(1.02, row, line.estimate.in_points(), transform=axes.get_yaxis_transform(), va="center")
    axes.set_yticks(range(len(lines)), [line.name for line in lines])
    axes.set(ylim=(len(lines) - 0.5, -0.5), xlabel="A minus B, percent points")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _draw_interval(axes: "Axes", row: int, line: ScoreLine) -> None:
    interval = line.estimate.interval
    colour = BLUE if line.is_headline else PALE if line.is_small else GREY
    width = 3.0 if line.is_headline else 1.6
    if interval.problem is None:
        axes.plot([100 * interval.low, 100 * interval.high], [row, row], color=colour, linewidth=width)
    axes.plot([100 * line.estimate.value], [row], "o", color=colour, markersize=4 + width)


def _intervals(lines: Sequence[ScoreLine]) -> str:
    levels = sorted({100 * line.estimate.interval.level for line in lines})
    return f"{', '.join(f'{level:g}' for level in levels)} % interval"


def draw_curves(
    history: Sequence[HistoryRow], path: Path, *, chosen_epoch: int | None = None, is_chosen_on_test: bool = False
) -> None:
    """Draw what training logged in each epoch, one panel per kind of column, and mark the chosen epoch.

    Columns that `CURVES` does not name are left alone, a blank value is a gap, and a part that equals the whole loss is
    not drawn twice. DataError when a value is no number or nothing can be drawn.
    """
    from matplotlib.ticker import MaxNLocator

    epochs, total = _series(history, "epoch"), _series(history, "loss")
    if not epochs.size or np.isnan(epochs).any():
        raise DataError(f"the training history has {len(history)} row(s); one or more are needed, each with its epoch")
    drawn: dict[str, dict[str, Floats]] = {}
    for name, (title, *_) in CURVES.items():
        values = _series(history, name)
        if not np.isnan(values).all() and (name == "loss" or not np.array_equal(values, total)):
            drawn.setdefault(title, {})[name] = values
    if not drawn:
        names = list(dict.fromkeys(name for row in history for name in row))
        raise DataError(f"the training history has no loss, learning rate or score to draw; its columns are {names}")
    test = "test (chose the epoch)" if is_chosen_on_test else "test (not used to choose)"
    with picture(path, width_inch=8.0, height_inch=0.9 + 1.9 * len(drawn)) as figure:
        panel_axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (title, series) in zip(panel_axes, drawn.items(), strict=True):
            scale = 100.0 if title in (SCORE_PANEL, PARTS_PANEL) else 1.0
            for number, (name, values) in enumerate(series.items()):
                _, label, colour, line = CURVES[name]
                width, marker = 2.0 if number == 0 else 1.2, "o" if len(epochs) <= 30 else ""
                style = {"color": colour, "linestyle": line, "linewidth": width, "marker": marker, "markersize": 3.5}
                axes.plot(epochs, scale * values, label=label.format(test=test), **style)
            if title == SCORE_PANEL:
                always_normal = 100.0 * ALWAYS_NORMAL_SCORE
                axes.axhline(always_normal, color=GREY, linestyle="--", linewidth=1.0, label="always normal")
            axes.set_ylabel(title)
            axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if title != RATE_PANEL:
                axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
            if chosen_epoch is not None:
                axes.axvline(chosen_epoch, color="black", linestyle=":", linewidth=1.4, zorder=0)
        chosen = "" if chosen_epoch is None else f"; dotted: epoch {chosen_epoch}, the one that was evaluated"
        panel_axes[0].set_title(f"Training, {len(history)} epoch(s){chosen}")
        panel_axes[-1].set(xlabel="epoch", xlim=(epochs.min() - 0.5, epochs.max() + 0.5))
        figure.align_ylabels()


def _series(history: Sequence[HistoryRow], column: str) -> Floats:
    """One number per epoch; NaN where the column is missing or blank."""
    values = []
    for row in history:
        text = row.get(column, "")
        try:
            values.append(math.nan if text == "" else float(text))
        except ValueError:
            epoch = row.get("epoch")
            raise DataError(f"training history: {column} of epoch {epoch} is {text!r}, not a number") from None
    return np.array(values, dtype=np.float64)


def spectrogram(waveform: Waveform, sample_rate_hz: int) -> tuple[Floats, float]:
    """Level in dB below the loudest bin from 100 Hz up `(frequency, time)`, -60 to 0, and the highest frequency in Hz.

    Hann windows of 40 ms centred every 10 ms, zeros beyond the ends; what is louder below 100 Hz (the heart) is 0 dB.
    """
    size, hop = (max(1, round(seconds * sample_rate_hz)) for seconds in (WINDOW_S, HOP_S))
    padded = np.pad(np.asarray(waveform, dtype=np.float64), size // 2)
    padded = np.pad(padded, (0, max(0, size - len(padded))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    lowest, highest = (min(power.shape[1] - 1, int(hz * size / sample_rate_hz)) for hz in (LOWEST_HZ, HIGHEST_HZ))
    shown = power[:, : highest + 1].T
    loudest = shown[lowest:].max()
    relative = shown / loudest if loudest > 0 else np.zeros_like(shown)
    levels = 10.0 * np.log10(np.clip(relative, 10.0 ** (-RANGE_DB / 10.0), 1.0))
    return levels, highest * sample_rate_hz / size


def draw_spectrogram(samples: Waveform, sample_rate_hz: int, path: Path) -> None:
    """Draw a sound as PNG: its waveform, and below it its spectrogram, time to the right and frequency up."""
    levels, highest_hz = spectrogram(samples, sample_rate_hz)
    with picture(path, width_inch=7.2, height_inch=3.0) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3])
        above.plot(np.arange(len(samples)) / sample_rate_hz, samples, color="#595959", linewidth=0.5)
        above.set_yticks([])
        above.spines["left"].set_visible(False)
        extent = (-HOP_S / 2, (levels.shape[1] - 0.5) * HOP_S, 0.0, highest_hz / 1000.0)
        look = {"origin": "lower", "aspect": "auto", "interpolation": "nearest", "cmap": "magma"}
        image = below.imshow(levels, vmin=-RANGE_DB, vmax=0.0, extent=extent, **look)
        below.set(xlim=(0.0, len(samples) / sample_rate_hz), xlabel="seconds", ylabel="kHz")
        figure.colorbar(image, ax=below, label="dB", pad=0.01)


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
