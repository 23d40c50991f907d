import math

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_curve

from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.calibration import (
    OperatingPoint,
    abnormal_probability,
    choose_operating_point,
    measure_operating_point,
    predictive_values,
)
from lungsound.evaluation.predictions import Predictions

QUICK = Bootstrap(num_draws=50)


def predictions_of(seed: int, num_cycles: int = 200, num_patients: int = 20) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, num_cycles)
    return Predictions(
        keys=tuple(f"r#{i}-{i + 1}" for i in range(num_cycles)),
        patients=tuple(f"p{i % num_patients:02}" for i in range(num_cycles)),
        devices=("",) * num_cycles,
        parts=("test",) * num_cycles,
        labels=labels,
        probabilities=np.stack([generator.dirichlet(1.0 + 2.0 * np.eye(3)[label]) for label in labels]),
        classes=("normal", "crackle", "wheeze"),
    )


@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.9, 1.0])
def test_threshold_against_scikit_learn(wanted: float) -> None:
    cycles = predictions_of(0)
    scores = abnormal_probability(cycles.probabilities)
    _, found, thresholds = roc_curve(cycles.labels > 0, scores, drop_intermediate=False)
    point = choose_operating_point(cycles.probabilities, cycles.labels, cycles.patients, sensitivity=wanted)
    assert point is not None
    assert point.threshold == thresholds[np.argmax(found >= wanted - 1e-9)]
    assert point.validation_sensitivity >= wanted - 1e-9
    assert point.validation_sensitivity < wanted + 1 / point.num_abnormal
    assert point.problem is None


def test_few_or_no_abnormal_patients() -> None:
    cycles = predictions_of(1, num_patients=4)
    point = choose_operating_point(cycles.probabilities, cycles.labels, cycles.patients)
    assert point is not None
    assert point.num_abnormal_patients == 4
    assert "abnormal cycles of only 4 patients" in (point.problem or "")
    assert choose_operating_point(cycles.probabilities, np.zeros(200, dtype=np.int64), cycles.patients) is None
    all_abnormal = choose_operating_point(cycles.probabilities, np.ones(200, dtype=np.int64), cycles.patients)
    assert all_abnormal is not None
    assert math.isnan(all_abnormal.validation_specificity)
    with pytest.raises(ValueError, match="sensitivity"):
        choose_operating_point(cycles.probabilities, cycles.labels, cycles.patients, sensitivity=1.1)


def test_measures_against_scikit_learn() -> None:
    cycles = predictions_of(2)
    point = OperatingPoint(0.9, 0.6, 0.9, 0.5, 100, 20)
    called = cycles.probabilities[:, 0] <= 0.4
    (right_normal, false_alarm), (missed, found) = confusion_matrix(cycles.labels > 0, called)
    own = measure_operating_point(point, cycles.probabilities, cycles, bootstrap=QUICK)
    assert own.sensitivity.value == pytest.approx(found / (found + missed))
    assert own.specificity.value == pytest.approx(right_normal / (right_normal + false_alarm))
    # At the prevalence of the cycles themselves Bayes' rule gives back the plain shares.
    assert own.is_test_prevalence
    assert own.ppv.value == pytest.approx(found / (found + false_alarm))
    assert own.npv.value == pytest.approx(right_normal / (right_normal + missed))
    other = measure_operating_point(point, cycles.probabilities, cycles, prevalence=0.05, bootstrap=QUICK)
    assert other.sensitivity == own.sensitivity
    assert other.ppv.value < own.ppv.value
    assert other.ppv.interval.low < other.ppv.value < other.ppv.interval.high
    with pytest.raises(ValueError, match="prevalence"):
        measure_operating_point(point, cycles.probabilities, cycles, prevalence=1.0, bootstrap=QUICK)


def test_predictive_values_in_closed_form() -> None:
    # Se 0.9, Sp 0.8, prevalence 0.1: of 1000, 90 of 100 found and 180 of 900 called in vain.
    ppv, npv = predictive_values(np.array([[80, 20], [10, 90]]), 0.1)
    assert (float(ppv), float(npv)) == pytest.approx((90 / 270, 720 / 730))
    nobody, everybody = predictive_values(np.array([[[10, 0], [5, 0]], [[0, 10], [0, 5]]]), 0.1)
    assert nobody.tolist() == pytest.approx([math.nan, 0.1], nan_ok=True)
    assert everybody.tolist() == pytest.approx([0.9, math.nan], nan_ok=True)
