import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.calibration import Calibration, fit_calibration, fit_thresholds, with_operating_points
from lungsound.evaluation.calibration_measures import measure_calibration, measure_operating_points, measure_sets
from lungsound.evaluation.calibration_report import (
    PICTURES,
    calibration_blocks,
    difference,
    draw_reliability,
    draw_risk_coverage,
    draw_set_coverage,
    measured_blocks,
    operating_blocks,
    operating_lines,
    verdict,
)
from lungsound.evaluation.predictions import Predictions
from lungsound.page import Remark, Table, render_blocks, render_html, render_markdown
from tests.unit.evaluation.calibrated import drawn_predictions

QUICK = Bootstrap(num_draws=100)
CYCLES = drawn_predictions(0)


def page_of(calibration: Calibration, test: Predictions) -> str:
    blocks = measured_blocks(calibration, measure_calibration(calibration, test, QUICK), folder=Path())
    return render_markdown("Calibration", blocks)


def test_blocks_hold_the_pictures_that_were_drawn(tmp_path: Path) -> None:
    calibration = fit_calibration(drawn_predictions(0, temperature=2.5))
    blocks = calibration_blocks(calibration, drawn_predictions(1, temperature=2.5, name="q"), folder=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(PICTURES)
    assert not any(isinstance(block, Remark) for block in blocks)
    assert render_html("Calibration", render_blocks(blocks), tmp_path).count("data:image/png") == len(PICTURES)
    text = render_markdown("Calibration", blocks)
    assert "Fitted on 360 cycles of 30 validation patients, measured on 360 cycles of 30 test patients" in text
    assert re.search(r"\| temperature \| 2\.\d+ \(above 1: the model was too sure\)", text)
    assert "No test cycle was fitted on." in text
    assert "1 - P(normal), probabilities after temperature scaling with T 2." in text
    assert "| ECE, 10 bins of equal width | before |" in text
    assert "| ECE, 10 bins of equal width | after |" in text
    with pytest.raises(DataError, match="classes"):
        calibration_blocks(calibration, replace(drawn_predictions(2), classes=("a", "b", "c")), folder=tmp_path)


def test_what_few_patients_cannot_give_is_said() -> None:
    text = page_of(fit_calibration(drawn_predictions(3, num_patients=4)), drawn_predictions(4, name="q"))
    assert "> **Few validation patients (4; at least 10 are needed)" in text
    assert "> **Sets at 90 % always hold every class: 4 validation patients cannot promise more.**" in text
    assert "| scaling | none; 4 validation patients are fewer than the 6" in text
    assert "1 - P(normal), probabilities as the model gives them, not scaled, reaches the threshold" in text
    # Without scaling there is no before and after.
    assert "| ECE, 10 bins of equal width | none |" in text
    assert "before" not in text


def test_groups_of_few_patients_are_greyed() -> None:
    test = drawn_predictions(5, num_patients=30, devices=("a",) * 5 + ("b",), name="q")
    calibration = fit_calibration(drawn_predictions(6))
    blocks = measured_blocks(calibration, measure_calibration(calibration, test, QUICK), folder=Path())
    greyed = [[table.rows[row][0] for row in sorted(table.greyed)] for table in blocks if isinstance(table, Table)]
    assert [names for names in greyed if names] == [["b", "b"], ["b"]]


def test_no_threshold_is_named() -> None:
    few = drawn_predictions(7, num_patients=4)
    wrong = replace(few, labels=(few.predicted + 1) % 3)
    never = fit_calibration(wrong, abstain_for="error", abstain_value=0.01)
    assert "No threshold was found" in page_of(never, drawn_predictions(9, name="q"))


def test_the_verdict_is_about_chance() -> None:
    test = drawn_predictions(10, num_patients=60)
    honest = measure_calibration(fit_calibration(drawn_predictions(11, num_patients=4)), test, QUICK)
    assert "not distinguishable from calibrated ones" in verdict(honest.after.top_label)
    too_sure = drawn_predictions(12, num_patients=60, temperature=4.0)
    off = measure_calibration(fit_calibration(drawn_predictions(11, num_patients=4)), too_sure, QUICK)
    assert verdict(off.after.top_label).startswith("The probabilities are off by more than chance: ECE ")


@pytest.mark.parametrize("num_patients", [1, 2, 9])
def test_nothing_is_said_of_the_probabilities_of_few_patients(num_patients: int) -> None:
    calibration = fit_calibration(drawn_predictions(10, num_patients=4))
    test = drawn_predictions(13, num_patients=num_patients, name="q")
    few = measure_calibration(calibration, test, QUICK)
    told = f"too few patients ({num_patients} of 10)"
    assert verdict(few.after.top_label) == f"Whether the probabilities are calibrated cannot be seen: {told}."
    text = page_of(calibration, test)
    assert text.count(f"n/a: {told}") == 3
    assert "is possible" not in text


def test_a_model_that_was_not_sure_enough_is_called_so() -> None:
    text = page_of(fit_calibration(drawn_predictions(16, temperature=0.4)), drawn_predictions(17, name="q"))
    assert re.search(r"\| temperature \| 0\.\d+ \(below 1: the model was not sure enough\)", text)


def test_remarks_stand_below_what_was_fitted() -> None:
    calibration = fit_calibration(drawn_predictions(0))
    measures = measure_calibration(calibration, drawn_predictions(1, name="q"), QUICK)
    blocks = measured_blocks(calibration, measures, folder=Path(), remarks=["Mind the gap."])
    assert blocks[2] == Remark("Mind the gap.")


def test_what_the_model_keeps_instead_is_said() -> None:
    validation = drawn_predictions(0, temperature=2.5)
    shown = fit_calibration(validation)
    assert difference(shown, Calibration.from_plain(shown.to_plain())) is None
    assert str(difference(shown, None)).startswith("The model of this run keeps no calibration")
    kept = fit_calibration(validation, abstain_value=0.5).model_copy(update={"temperature": None})
    told = str(difference(shown, kept))
    assert "(scaling: none; chosen by cross-validation" in told
    assert f"predictions withheld: below {kept.abstain.threshold:.3f}, chosen for coverage 50 %" in told  # type: ignore[union-attr]
    assert "temperature: none" in told
    other = with_operating_points(shown, validation, sensitivities=(0.8,))
    assert "abnormal, wanted sensitivity 80 %: P(abnormal) of 0." in str(difference(shown, other))


def test_operating_points_as_lines_and_as_blocks() -> None:
    calibration = fit_calibration(drawn_predictions(14), sensitivities=(0.8, 0.9))
    measured = measure_operating_points(calibration, drawn_predictions(15), (0.1,), QUICK)
    head, *lines = operating_lines(measured, calibration)
    assert not calibration.is_scaled
    assert head == "Thresholds are for P(abnormal) = 1 - P(normal), probabilities as the model gives them, not scaled."
    assert len(lines) == 8
    assert lines[0].startswith("wanted sensitivity 80: abnormal when P(abnormal) is 0.")
    assert lines[3].startswith("  prevalence 10.0: PPV ")
    assert lines[4].startswith("wanted sensitivity 90")
    assert measured[0].specificity.in_percent() in lines[1]
    table = operating_blocks(measured, calibration)[-1]
    assert isinstance(table, Table)
    assert [row[4] for row in table.rows][1::2] == ["10.0", "10.0"]
    assert operating_blocks((), calibration) == []
    assert operating_lines((), calibration) == []


def test_reliability_picture_shows_each_bin_as_naive_loops_do(figures: list[Figure], tmp_path: Path) -> None:
    top, right = CYCLES.probabilities.max(axis=1), CYCLES.predicted == CYCLES.labels
    naive = []
    for low in range(10):
        members = (top > low / 10) & (top <= (low + 1) / 10)
        if members.any():
            naive.append((10.0 * low, members.sum(), 100 * top[members].mean(), 100 * right[members].mean()))
    starts, counts, confidences, shares = zip(*naive, strict=True)
    draw_reliability(
        {"Before": CYCLES.probabilities, "After": np.eye(3)[CYCLES.predicted]}, CYCLES, tmp_path / "r.png", QUICK
    )
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"
    before, after, below, sure = figures[0].axes
    line = next(line for line in before.lines if line.get_marker() == "o")
    np.testing.assert_allclose(line.get_xdata(), confidences)
    np.testing.assert_allclose(line.get_ydata(), shares)
    assert (before.get_title(loc="left"), after.get_title(loc="left")) == ("Before", "After")
    assert [patch.get_height() for patch in below.patches] == list(counts)
    assert [round(patch.get_x() - 0.5, 6) for patch in below.patches] == list(starts)
    assert len(sure.patches) == 1


def test_risk_picture_ends_at_the_error_and_marks_the_threshold(figures: list[Figure], tmp_path: Path) -> None:
    draw_risk_coverage(CYCLES.probabilities, CYCLES, tmp_path / "r.png", QUICK, threshold=0.6)
    lines = {line.get_label(): line for line in figures[0].axes[0].lines}
    error = 100 * float((CYCLES.predicted != CYCLES.labels).mean())
    assert lines["this model"].get_xydata()[-1] == pytest.approx([100.0, error])
    assert lines["wrong ones last"].get_xydata()[-1] == pytest.approx([100.0, error])
    is_answered = CYCLES.probabilities.max(axis=1) >= 0.6
    marked = lines["threshold 0.60, from validation"].get_xydata()[0]
    assert marked == pytest.approx(
        [100 * is_answered.mean(), 100 * (CYCLES.predicted != CYCLES.labels)[is_answered].mean()]
    )
    draw_risk_coverage(CYCLES.probabilities, CYCLES, tmp_path / "r.png", QUICK, threshold=None)
    assert len(figures[1].axes[0].lines) == 2


def test_coverage_picture_has_both_kinds_for_each_group(figures: list[Figure], tmp_path: Path) -> None:
    fitted = fit_thresholds(CYCLES.probabilities, CYCLES.labels, CYCLES.patients, level=0.9)
    kinds = []
    for is_conditional in (False, True):
        sets = fitted.sets(CYCLES.probabilities, is_class_conditional=is_conditional)
        kinds.append(measure_sets(0.9, is_conditional, sets, CYCLES, QUICK))
    draw_set_coverage(*kinds, tmp_path / "c.png")
    axes = figures[0].axes[0]
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o" and line.get_linestyle() == "None"]
    expected = [100 * kind.groups[row].promised.value for row in range(6) for kind in kinds]
    assert dots == pytest.approx(expected)
    names = [label.get_text().splitlines()[0] for label in axes.get_yticklabels()]
    assert names == ["all cycles", "normal", "crackle", "wheeze", "Litt3200", "Meditron"]
    assert axes.get_xlim()[0] < min(expected)


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_risk_coverage(CYCLES.probabilities, CYCLES, tmp_path / name, QUICK, threshold=None)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
