import statistics
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from lungsound.evaluation.bootstrap import Estimate, Interval
from lungsound.evaluation.metrics import Counts
from lungsound.experiments.results import RowResults, RunResult, draw_results, mean_and_deviation
from lungsound.experiments.table import PaperNumbers, Row
from tests.unit.experiments.small import counted


def run_of(score: float, seed: int = 0) -> RunResult:
    """A run of 200 cycles of one patient with this Score."""
    right = round(100 * score)
    counts: Counts = np.array([[[right, 100 - right], [100 - right, right]]])
    return RunResult(seed, counted({"test": counts}), "icbhi", 920, 50, "last", 50, "random")


def row_of(
    name: str, scores: tuple[float, ...], paper: PaperNumbers | None = None, interval: tuple[float, float] | None = None
) -> RowResults:
    runs = [run_of(score, seed) for seed, score in enumerate(scores)]
    estimates = {} if interval is None else {"test": Estimate(0.5, Interval(*interval, 0.95, 4000, 20))}
    return RowResults(Row(name=name, recipe="ce", paper=paper), runs, estimates)


ROWS = [
    row_of("patchmix_cl", (0.61, 0.62, 0.66), PaperNumbers(score=62.37, score_sd=0.61)),
    row_of("ce", (0.59,), PaperNumbers(score=58)),
    row_of("cnn6", ()),
]


def draw(folder: Path, rows: list[RowResults] = ROWS, title: str = "Table 1") -> None:
    draw_results(folder / "t.png", title=title, rows=rows, part="test")


def lines_of(figure: Figure) -> dict[str, list[list[float]]]:
    """Marker style to the finite points that it is drawn at."""
    found = {str(line.get_marker()): np.asarray(line.get_xydata()) for line in figure.axes[0].lines}
    return {marker: points[~np.isnan(points).any(axis=1)].tolist() for marker, points in found.items()}


def test_mean_and_deviation_over_seeds() -> None:
    scores = [0.61, 0.62, 0.66]
    assert mean_and_deviation(scores) == pytest.approx((0.63, statistics.stdev(scores)))
    mean, deviation = mean_and_deviation([0.59])
    assert (mean, np.isnan(deviation)) == (0.59, True)
    assert np.isnan([mean_and_deviation([]), mean_and_deviation([0.5, float("nan")])]).all()


def test_runs_show_seeds_means_and_published_numbers(tmp_path: Path, figures: list[Figure]) -> None:
    draw(tmp_path)
    points = lines_of(figures[0])
    assert [x for x, _ in points["."]] == pytest.approx([61, 62, 66, 59])
    assert [x for x, _ in points["o"]] == pytest.approx([63, 59])
    assert [x for x, _ in points["D"]] == pytest.approx([62.37, 58])
    # Every mark stands on the line of its row, and the first row is on top.
    assert [round(y) for _, y in points["."]] == [0, 0, 0, 1]
    assert [round(y) for _, y in points["o"]] == [round(y) for _, y in points["D"]] == [0, 1]
    axes = figures[0].axes[0]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert axes.get_xlabel() == "Score, percent"
    faces = {str(line.get_marker()): line.get_markerfacecolor() for line in axes.lines}
    assert (faces["D"], faces["o"] != "white") == ("white", True)
    assert ["--" in str(line.get_linestyle()) for line in axes.lines if list(line.get_xdata()) == [50.0, 50.0]] == [
        True
    ]
    shown = {text.get_text() for text in figures[0].findobj(Text)}
    assert {"patchmix_cl\n3 seeds", "ce\n1 seed", "cnn6\nnot run", "Table 1", "always normal"} <= shown
    assert {"one seed", "mean of seeds \u00b1 sd", "paper \u00b1 sd"} <= shown
    # Bars are one deviation to each side.
    bars = [
        [point[0] for point in segment]
        for collection in figures[0].axes[0].collections
        if isinstance(collection, LineCollection)
        for segment in collection.get_segments()
        if len(segment) == 2 and np.isfinite(segment).all()
    ]
    sd = 100 * statistics.stdev([0.61, 0.62, 0.66])
    assert [x for bar in bars for x in bar] == pytest.approx([63 - sd, 63 + sd, 61.76, 62.98])


def test_an_interval_is_a_pale_line_through_the_mean(tmp_path: Path, figures: list[Figure]) -> None:
    first, last = row_of("a", (0.6,), interval=(0.55, 0.66)), row_of("c", (0.9,), interval=(0.7, 1.1))
    draw(tmp_path, [first, row_of("b", (0.9,)), last])
    (drawn,) = [c for c in figures[0].axes[0].collections if c.get_label() == "95 % interval"]
    assert isinstance(drawn, LineCollection)
    ends = [segment[:, 0].tolist() for segment in drawn.get_segments()]
    assert ends == [pytest.approx([55, 66]), pytest.approx([70, 100])]
    assert [round(segment[0, 1]) for segment in drawn.get_segments()] == [0, 2]
    assert "95 % interval" in {text.get_text() for box in figures[0].legends for text in box.get_texts()}


def test_the_legend_names_only_what_is_drawn(tmp_path: Path, figures: list[Figure]) -> None:
    for row, legend in (
        (row_of("a", ()), []),
        (row_of("a", (0.6,)), ["mean of seeds", "one seed"]),
        (row_of("a", (), PaperNumbers(score=60)), ["paper"]),
    ):
        draw(tmp_path, [row])
        shown = [text.get_text() for box in figures[-1].legends for text in box.get_texts()]
        assert sorted(shown) == ["always normal", *legend]


def test_a_long_title_stands_inside_the_picture(tmp_path: Path, figures: list[Figure]) -> None:
    for title in ("Title", "every word of a long title " * 20):
        draw(tmp_path, title=title)
        figure = figures[-1]
        (drawn,) = [text for text in figure.texts if text.get_text().split() == title.split()]
        box = drawn.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.axes[0].get_window_extent().height > 80
