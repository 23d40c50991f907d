import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import Estimate, Interval
from lungsound.evaluation.figures import BLUE, PALE, ScoreLine, draw_confusion, draw_curves, draw_score_intervals

CONFUSION = np.array([[30, 10, 0], [4, 4, 0], [0, 0, 0]])
CLASSES = ("normal", "crackle", "wheeze")
LINES = [
    ScoreLine("Score", Estimate(0.625, Interval(0.5, 0.75, 0.95, 100, 9)), 48, is_headline=True),
    ScoreLine("Score, Meditron", Estimate(0.4, Interval(float("nan"), float("nan"), 0.95, 100, 1)), 12),
    ScoreLine("Score, unknown device", Estimate(float("nan"), Interval(0.1, 0.2, 0.95, 100, 2, 50)), 7),
]
HISTORY = [
    {"epoch": 1, "loss": 2.0, "learning_rate": 1e-4, "validation_score": 0.5, "cycles_per_s": 9.0, "note": "x"},
    {"epoch": 2, "loss": "1.5", "learning_rate": 5e-5, "validation_score": "", "cycles_per_s": 9.0, "note": ""},
    {"epoch": 3, "loss": 1.0, "learning_rate": 1e-5, "validation_score": 0.75, "cycles_per_s": 9.0, "note": ""},
]
SCORES = ("score", "specificity", "sensitivity")


def texts(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text)} - {""}


def test_confusion_shows_counts_and_percent_of_the_true_class(tmp_path: Path, figures: list[Figure]) -> None:
    draw_confusion(CONFUSION, CLASSES, tmp_path / "c.png")
    shown = texts(figures[0])
    assert {"30\n75 %", "10\n25 %", "4\n50 %", "0\n0 %", "0\nn/a"} <= shown
    assert {"normal\nn = 40", "crackle\nn = 8", "wheeze\nn = 0", "48 cycles; percent of each true class"} <= shown


def test_intervals_show_values_numbers_and_what_is_missing(tmp_path: Path, figures: list[Figure]) -> None:
    draw_score_intervals(LINES, tmp_path / "i.png")
    shown = texts(figures[0])
    assert {"62.5 (50.0 to 75.0)", "40.0 (n/a)", "n/a", "Score\n48 cycles, 9 patients"} <= shown
    assert "Score, Meditron\n12 cycles, 1 patient" in shown
    bars = [line for line in figures[0].axes[0].lines if line.get_color() == BLUE]
    assert [list(line.get_xdata()) for line in bars] == [[50.0, 75.0], [62.5]]


def test_curves_show_loss_rate_and_score_of_each_epoch(tmp_path: Path, figures: list[Figure]) -> None:
    draw_curves(HISTORY, tmp_path / "h.png", chosen_epoch=3)
    panels = {axes.get_ylabel(): axes for axes in figures[0].axes}
    assert list(panels) == ["loss (training)", "learning rate", "Score, percent"]
    np.testing.assert_array_equal(panels["loss (training)"].lines[0].get_xydata(), [[1, 2.0], [2, 1.5], [3, 1.0]])
    np.testing.assert_array_equal(panels["Score, percent"].lines[0].get_ydata(), [50.0, np.nan, 75.0])
    assert all(3 in list(axes.lines[-1].get_xdata()) for axes in panels.values())
    shown = texts(figures[0])
    assert {"loss", "validation", "Training, 3 epoch(s); dotted: epoch 3, the one that was evaluated"} <= shown
    assert not any("cycles" in text or "note" in text for text in shown)


def test_curves_of_the_parts_of_a_loss(tmp_path: Path, figures: list[Figure]) -> None:
    draw_curves([{"epoch": 1, "loss": 3.0, "ce": 1.0, "contrastive": 2.0, "test_score": ""}], tmp_path / "h.png")
    assert [axes.get_ylabel() for axes in figures[0].axes] == ["loss (training)"]
    assert [line.get_label() for line in figures[0].axes[0].lines] == [
        "loss",
        "cross-entropy",
        "Patch-Mix contrastive",
    ]
    assert "Training, 1 epoch(s)" in texts(figures[0])


def test_a_part_that_is_the_whole_loss_is_drawn_once(tmp_path: Path, figures: list[Figure]) -> None:
    rows = [{"epoch": 1, "loss": 1.0, "ce": 1.0, "training_score": 0.5}, {"epoch": 2, "loss": 0.5, "ce": 0.5}]
    draw_curves(rows, tmp_path / "h.png")
    assert [[line.get_label() for line in axes.lines] for axes in figures[0].axes] == [
        ["loss"],
        ["training", "always normal"],
    ]


@pytest.mark.parametrize(
    ("is_chosen_on_test", "test"), [(True, "test (chose the epoch)"), (False, "test (not used to choose)")]
)
def test_curves_of_validation_and_test(
    is_chosen_on_test: bool, test: str, tmp_path: Path, figures: list[Figure]
) -> None:
    values = {f"{part}_{which}": 0.1 * n for n, (part, which) in enumerate(product(("validation", "test"), SCORES))}
    row = {"epoch": 1, "training_score": 0.9, **values}
    draw_curves([row, row | {"epoch": 2}], tmp_path / "h.png", is_chosen_on_test=is_chosen_on_test)
    drawn = {
        axes.get_ylabel(): {str(line.get_label()): line.get_ydata()[0] for line in axes.lines}
        for axes in figures[0].axes
    }
    assert drawn == {
        "Score, percent": pytest.approx({"validation": 0.0, test: 30.0, "training": 90.0, "always normal": 50.0}),
        "percent": pytest.approx({"validation Sp": 10, "test Sp": 40, "validation Se": 20, "test Se": 50}),
    }
    looks = {str(line.get_label()): (line.get_color(), line.get_linestyle()) for line in figures[0].axes[1].lines}
    assert len(set(looks.values())) == 4


def test_long_names_of_classes_are_slanted(tmp_path: Path, figures: list[Figure]) -> None:
    for classes in (CLASSES, ("normal", "coarse crackle", "wheeze")):
        draw_confusion(CONFUSION, classes, tmp_path / "c.png")
    assert [figure.axes[0].get_xticklabels()[0].get_rotation() for figure in figures] == [0.0, 30.0]


def test_small_groups_are_pale(tmp_path: Path, figures: list[Figure]) -> None:
    small = ScoreLine("sex: F", LINES[0].estimate, 5, is_small=True)
    draw_score_intervals([LINES[0], small], tmp_path / "i.png", what="Score")
    assert [line.get_color() for line in figures[0].axes[0].lines[1:]] == [BLUE, BLUE, PALE, PALE]
    assert "Score and 95 % interval over patients" in texts(figures[0])


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([], r"has 0 row\(s\)"),
        ([{"loss": 1.0}], "each with its epoch"),
        (
            [{"epoch": 1, "speed": 2.0}],
            r"no loss, learning rate or score to draw; its columns are \['epoch', 'speed'\]",
        ),
        ([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": "much"}], "loss of epoch 2 is 'much', not a number"),
    ],
)
def test_history_that_cannot_be_drawn(tmp_path: Path, history: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw_curves(history, tmp_path / "h.png")
    assert list(tmp_path.iterdir()) == []


def test_same_data_same_bytes_whatever_the_user_has_set(tmp_path: Path) -> None:
    def draw(folder: Path) -> dict[str, bytes]:
        folder.mkdir()
        draw_confusion(CONFUSION, CLASSES, folder / "c.png")
        draw_score_intervals(LINES, folder / "i.png")
        draw_curves(HISTORY, folder / "h.png")
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = draw(tmp_path / "first")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red"}):
        assert draw(tmp_path / "second") == first
        assert matplotlib.rcParams["font.size"] == 20
    assert sorted(first) == ["c.png", "h.png", "i.png"]
    for data in first.values():
        assert data.startswith(b"\x89PNG")
        assert b"Software" not in data
        assert len(data) < 150_000


def test_matplotlib_is_imported_late() -> None:
    code = "import sys, lungsound.evaluation.report; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
