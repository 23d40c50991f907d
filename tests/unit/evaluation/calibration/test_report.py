from dataclasses import replace
from pathlib import Path

import pytest

from lungsound.errors import DataError
from lungsound.evaluation.calibration.measures import measure_calibration, measure_operating_points
from lungsound.evaluation.calibration.patient_sums import Resampling
from lungsound.evaluation.calibration.report import (
    PICTURES,
    calibration_blocks,
    in_plain,
    measured_blocks,
    operating_blocks,
    operating_lines,
    verdict,
)
from lungsound.evaluation.calibration.store import Calibration, fit_calibration
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.uncertainty import Estimate, Interval
from lungsound.page import Remark, Table, render_html, render_markdown
from tests.unit.evaluation.calibrated import drawn_predictions

QUICK = Resampling(num_draws=100)


def page_of(calibration: Calibration, test: Predictions) -> str:
    blocks = measured_blocks(calibration, measure_calibration(calibration, test, resampling=QUICK), folder=Path())
    return render_markdown("Calibration", blocks)


def test_blocks_hold_the_pictures_that_were_drawn(tmp_path: Path) -> None:
    calibration = fit_calibration(drawn_predictions(0, temperature=2.5))
    blocks = calibration_blocks(calibration, drawn_predictions(1, temperature=2.5, name="q"), folder=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(PICTURES)
    assert not any(isinstance(block, Remark) for block in blocks)
    assert render_html("Calibration", blocks).count("data:image/png") == len(PICTURES)
    text = render_markdown("Calibration", blocks)
    assert "Fitted on 360 cycles of 30 validation patients, measured on 360 cycles of 30 test patients" in text
    assert "| temperature | 2." in text
    assert "| ECE, 10 bins of equal width | before |" in text
    assert "| ECE, 10 bins of equal width | after |" in text
    with pytest.raises(DataError, match="classes"):
        calibration_blocks(calibration, replace(drawn_predictions(2), classes=("a", "b", "c")), folder=tmp_path)


def test_what_few_patients_cannot_give_is_said() -> None:
    text = page_of(fit_calibration(drawn_predictions(3, num_patients=4)), drawn_predictions(4, name="q"))
    assert "> **Few validation patients (4; at least 10 are needed)" in text
    assert "> **Sets at 90 % always hold every class: 4 validation patients cannot promise more.**" in text
    assert "| scaling | none; 4 validation patients are fewer than the 6" in text
    # Without scaling there is no before and after.
    assert "| ECE, 10 bins of equal width | none |" in text
    assert "before" not in text


def test_groups_of_few_patients_are_greyed() -> None:
    test = drawn_predictions(5, num_patients=30, devices=("a",) * 5 + ("b",), name="q")
    calibration = fit_calibration(drawn_predictions(6))
    blocks = measured_blocks(calibration, measure_calibration(calibration, test, resampling=QUICK), folder=Path())
    greyed = [[table.rows[row][0] for row in sorted(table.greyed)] for table in blocks if isinstance(table, Table)]
    assert [names for names in greyed if names] == [["b", "b"], ["b"]]


def test_vector_scaling_and_nothing_found_are_said() -> None:
    biased = drawn_predictions(8, num_patients=60)
    probabilities = biased.probabilities * [8.0, 1.0, 1.0]
    biased = replace(biased, probabilities=probabilities / probabilities.sum(axis=1, keepdims=True))
    text = page_of(fit_calibration(biased), drawn_predictions(9, name="q"))
    assert "| bias of each class | normal -" in text
    few = drawn_predictions(7, num_patients=4)
    wrong = replace(few, labels=(few.answers + 1) % 3)
    never = fit_calibration(wrong, abstain_for="error", abstain_value=0.01)
    assert "No threshold was found; every cycle is answered." in page_of(never, drawn_predictions(9, name="q"))


def test_the_verdict_is_about_chance() -> None:
    test = drawn_predictions(10, num_patients=60)
    honest = measure_calibration(fit_calibration(drawn_predictions(11, num_patients=4)), test, resampling=QUICK)
    assert "not distinguishable from honest ones" in verdict(honest.after.top_label)
    too_sure = drawn_predictions(12, num_patients=60, temperature=4.0)
    off = measure_calibration(fit_calibration(drawn_predictions(11, num_patients=4)), too_sure, resampling=QUICK)
    assert verdict(off.after.top_label).startswith("The probabilities are off by more than chance: ECE ")
    alone = measure_calibration(fit_calibration(test), drawn_predictions(13, num_patients=1), resampling=QUICK)
    assert verdict(alone.after.top_label).startswith("No interval can be given: one patient")


def test_operating_points_as_lines_and_as_blocks() -> None:
    calibration = fit_calibration(drawn_predictions(14), sensitivities=(0.8, 0.9))
    measured = measure_operating_points(calibration, drawn_predictions(15), prevalences=(0.1,), resampling=QUICK)
    lines = operating_lines(measured)
    assert len(lines) == 8
    assert lines[0].startswith("wanted sensitivity 80: abnormal when P(abnormal) is 0.")
    assert lines[3].startswith("  prevalence 10.0: PPV ")
    assert lines[4].startswith("wanted sensitivity 90")
    assert measured[0].specificity.in_percent() in lines[1]
    table = operating_blocks(measured)[-1]
    assert isinstance(table, Table)
    assert [row[4] for row in table.rows][1::2] == ["10.0", "10.0"]
    assert operating_blocks(()) == []


def test_numbers_that_are_no_fractions() -> None:
    interval = Interval(0.38, 0.45, 0.95, 100, 9)
    assert in_plain(Estimate(0.4123, interval)) == "0.412 (0.380 to 0.450)"
    assert in_plain(Estimate(0.4123, replace(interval, num_patients=1)), digits=2) == "0.41 (n/a)"
    assert in_plain(Estimate(float("nan"), interval)) == "n/a"
