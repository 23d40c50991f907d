from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.calibration import fit_thresholds, measure_sets
from lungsound.evaluation.calibration_report import (
    draw_reliability,
    draw_risk_coverage,
    draw_set_coverage,
    reliability_bins,
)
from tests.unit.evaluation.calibrated import drawn_predictions

QUICK = Bootstrap(num_draws=100)
CYCLES = drawn_predictions(0)


def test_reliability_bins_against_naive_loops() -> None:
    bins = reliability_bins(CYCLES.probabilities, CYCLES.labels, CYCLES.patients, bootstrap=QUICK)
    top, right = CYCLES.probabilities.max(axis=1), CYCLES.predicted == CYCLES.labels
    expected: list[float] = []
    for low in range(10):
        members = (top > low / 10) & (top <= (low + 1) / 10)
        if members.any():
            expected += [members.sum(), top[members].mean(), right[members].mean()]
    assert [number for b in bins for number in (b.num_cycles, b.confidence, b.right.value)] == pytest.approx(expected)


def test_reliability_picture_shows_each_bin(figures: list[Figure], tmp_path: Path) -> None:
    bins = reliability_bins(CYCLES.probabilities, CYCLES.labels, CYCLES.patients, bootstrap=QUICK)
    draw_reliability([("Before", bins), ("After", bins[2:])], tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"
    before, after, counts, fewer = figures[0].axes
    line = next(line for line in before.lines if line.get_marker() == "o")
    np.testing.assert_allclose(line.get_xdata(), [100 * b.confidence for b in bins])
    np.testing.assert_allclose(line.get_ydata(), [100 * b.right.value for b in bins])
    assert (before.get_title(loc="left"), after.get_title(loc="left")) == ("Before", "After")
    assert [patch.get_height() for patch in counts.patches] == [b.num_cycles for b in bins]
    starts = [round(patch.get_x() - 0.5, 6) for patch in counts.patches]
    assert starts == sorted({10.0 * np.floor(10 * b.confidence) for b in bins})
    assert len(fewer.patches) == len(bins) - 2


def test_risk_picture_ends_at_the_error_and_marks_the_threshold(figures: list[Figure], tmp_path: Path) -> None:
    draw_risk_coverage(CYCLES.probabilities, CYCLES, tmp_path / "r.png", bootstrap=QUICK, threshold=0.6)
    lines = {line.get_label(): line for line in figures[0].axes[0].lines}
    error = 100 * float((CYCLES.predicted != CYCLES.labels).mean())
    assert lines["this model"].get_xydata()[-1] == pytest.approx([100.0, error])
    assert lines["wrong answers last"].get_xydata()[-1] == pytest.approx([100.0, error])
    kept = CYCLES.probabilities.max(axis=1) >= 0.6
    marked = lines["threshold 0.60, from validation"].get_xydata()[0]
    assert marked == pytest.approx([100 * kept.mean(), 100 * (CYCLES.predicted != CYCLES.labels)[kept].mean()])
    draw_risk_coverage(CYCLES.probabilities, CYCLES, tmp_path / "r.png", bootstrap=QUICK)
    assert len(figures[1].axes[0].lines) == 2


def test_coverage_picture_has_both_kinds_for_each_group(figures: list[Figure], tmp_path: Path) -> None:
    fitted = fit_thresholds(CYCLES.probabilities, CYCLES.labels, CYCLES.patients, level=0.9)
    kinds = []
    for is_conditional in (False, True):
        sets = fitted.sets(CYCLES.probabilities, is_class_conditional=is_conditional)
        whole, by_class, by_device = measure_sets(sets, CYCLES, bootstrap=QUICK)
        kinds.append((whole, *by_class, *by_device))
    draw_set_coverage(list(zip(*kinds, strict=True)), tmp_path / "c.png", level=0.9)
    axes = figures[0].axes[0]
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o" and line.get_linestyle() == "None"]
    expected = [100 * kind[row].promised.value for row in range(6) for kind in kinds]
    assert dots == pytest.approx(expected)
    names = [label.get_text().splitlines()[0] for label in axes.get_yticklabels()]
    assert names == ["all cycles", "normal", "crackle", "wheeze", "Litt3200", "Meditron"]
    assert axes.get_xlim()[0] < min(expected)


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_risk_coverage(CYCLES.probabilities, CYCLES, tmp_path / name, bootstrap=QUICK)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
