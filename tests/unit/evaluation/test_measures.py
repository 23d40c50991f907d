from dataclasses import replace

import numpy as np
import pytest

from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.calibration import fit_calibration
from lungsound.evaluation.calibration_error import probability_errors
from lungsound.evaluation.calibration_report import PREVALENCES, measure_calibration, measure_operating_points
from tests.unit.evaluation.calibrated import drawn_predictions

QUICK = Bootstrap(num_draws=100)


def test_everything_is_measured_on_the_scaled_probabilities() -> None:
    calibration = fit_calibration(drawn_predictions(0, temperature=2.5))
    test = drawn_predictions(1, temperature=2.5, name="q")
    ours = measure_calibration(calibration, test, bootstrap=QUICK)
    scaled = calibration.apply(test.probabilities)
    assert ours.before == probability_errors(test.probabilities, test.labels, test.patients, bootstrap=QUICK)
    assert ours.after == probability_errors(scaled, test.labels, test.patients, bootstrap=QUICK)
    # Scaling mends what was too sure.
    assert ours.after.top_label.seen < ours.before.top_label.seen
    assert ours.after.negative_log_likelihood.value < ours.before.negative_log_likelihood.value
    kinds = [(each.level, each.is_class_conditional) for each in ours.sets]
    assert kinds == [(0.9, False), (0.9, True), (0.95, False), (0.95, True)]
    covered = calibration.prediction_set(test.probabilities)[np.arange(360), test.labels]
    assert ours.sets[0].all_cycles.of_cycles.value == pytest.approx(covered.mean())
    assert [group.group for group in ours.sets[0].by_device] == ["Litt3200", "Meditron"]
    answered = ~calibration.is_abstaining(test.probabilities)
    assert ours.abstaining[0].coverage.value == pytest.approx(answered.mean())
    wrong = scaled.argmax(axis=1) != test.labels
    assert ours.abstaining[0].error.value == pytest.approx(wrong[answered].mean())
    assert ours.area_under_risk_coverage.value < wrong.mean()
    assert [each.prevalence for each in ours.operating[1:]] == list(PREVALENCES)
    called = 1.0 - scaled[:, 0] >= calibration.operating_points[0].threshold
    assert ours.operating[0].sensitivity.value == pytest.approx(called[test.labels > 0].mean())


def test_operating_points_at_other_prevalences() -> None:
    calibration = fit_calibration(drawn_predictions(2), sensitivities=(0.8, 0.9))
    test = drawn_predictions(3, name="q")
    ours = measure_operating_points(calibration, test, prevalences=(0.2,), bootstrap=QUICK)
    wanted = [(each.point.wanted_sensitivity, each.is_test_prevalence) for each in ours]
    assert wanted == [(0.8, True), (0.8, False), (0.9, True), (0.9, False)]


def test_other_classes_are_refused() -> None:
    calibration = fit_calibration(drawn_predictions(4))
    test = replace(drawn_predictions(5), classes=("normal", "wheeze", "crackle"))
    with pytest.raises(DataError, match="classes normal, crackle, wheeze; the test rows have normal, wheeze, crackle"):
        measure_calibration(calibration, test)
