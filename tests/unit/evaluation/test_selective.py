import numpy as np
import numpy.typing as npt
import pytest

from lungsound.evaluation.bootstrap import Bootstrap, draw_patient_weights
from lungsound.evaluation.calibration import (
    Wanted,
    area_under_risk_coverage,
    areas_under_risk_coverage,
    choose_threshold,
    measure_abstaining,
    risk_coverage,
)
from lungsound.evaluation.predictions import Predictions

CONFIDENCE = np.array([0.9, 0.5, 0.8, 0.8, 0.6])
IS_WRONG = np.array([False, True, True, False, False])
QUICK = Bootstrap(num_draws=50)


def test_the_curve_by_hand() -> None:
    curve = risk_coverage(CONFIDENCE, IS_WRONG)
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.6, 0.5]
    assert curve.coverage.tolist() == pytest.approx([0.2, 0.6, 0.8, 1.0])
    assert curve.risk.tolist() == pytest.approx([0.0, 1 / 3, 1 / 4, 2 / 5])


@pytest.mark.parametrize(
    ("wanted", "value", "threshold"),
    [
        ("coverage", 0.2, 0.9),
        ("coverage", 0.21, 0.8),
        ("coverage", 0.8, 0.6),
        ("coverage", 1.0, 0.5),
        ("error", 0.25, 0.6),
        ("error", 0.24, 0.9),
        ("error", 0.4, 0.5),
    ],
)
def test_the_threshold_by_hand(wanted: Wanted, value: float, threshold: float) -> None:
    # The same five cycles of each of five patients.
    confidence, is_wrong, patients = np.repeat(CONFIDENCE, 5), np.repeat(IS_WRONG, 5), tuple("abcde" * 5)
    chosen = choose_threshold(confidence, is_wrong, patients, wanted=wanted, value=value)
    assert chosen is not None
    assert chosen.threshold == threshold
    wrong = is_wrong[confidence >= threshold]
    assert (chosen.validation_coverage, chosen.validation_error) == pytest.approx((len(wrong) / 25, wrong.mean()))
    fewer = choose_threshold(confidence, is_wrong, tuple("abcdd" * 5), wanted=wanted, value=value)
    assert fewer == (None if wanted == "error" else chosen)


def test_no_threshold_keeps_an_error_out_of_reach() -> None:
    confidence, is_wrong = np.repeat([0.9, 0.5], 5), np.repeat([True, False], 5)
    assert choose_threshold(confidence, is_wrong, tuple("abcde" * 2), wanted="error", value=0.1) is None
    with pytest.raises(ValueError, match="coverage"):
        choose_threshold(CONFIDENCE, IS_WRONG, tuple("abcde"), value=0.0)


def naive_area(confidence: npt.NDArray[np.float64], is_wrong: npt.NDArray[np.bool_]) -> float:
    risks = []
    for each in confidence:
        answered = [wrong for other, wrong in zip(confidence, is_wrong, strict=True) if other >= each]
        risks.append(sum(answered) / len(answered))
    return sum(risks) / len(risks)


def test_area_against_naive_loops_in_every_resample() -> None:
    generator = np.random.default_rng(0)
    confidence, is_wrong = generator.random(60).round(1), generator.random(60) < 0.3
    patients = tuple(f"p{i}" for i in generator.integers(0, 6, 60))
    area = area_under_risk_coverage(confidence, is_wrong, patients, bootstrap=Bootstrap(num_draws=50))
    assert area.value == pytest.approx(naive_area(confidence, is_wrong))
    weights = draw_patient_weights(6, generator=np.random.default_rng(1), num_draws=120)
    values = areas_under_risk_coverage(confidence, is_wrong, patients)(weights)
    names = np.array(sorted(set(patients)))
    for draw, value in zip(weights[::10], values[::10], strict=True):
        times = draw[np.searchsorted(names, patients)]
        assert value == pytest.approx(naive_area(confidence.repeat(times), is_wrong.repeat(times)), rel=1e-12)


def test_area_of_closed_forms() -> None:
    patients = tuple("abcd" * 25)
    order = np.linspace(0.0, 1.0, 100)
    same = area_under_risk_coverage(np.full(100, 0.5), order < 0.2, patients, bootstrap=QUICK)
    assert same.value == pytest.approx(0.2)  # a confidence that says nothing: the error itself
    # All 20 wrong answers last: sum over k = 1 .. 20 of k / (80 + k), over 100.
    best = area_under_risk_coverage(order, order < 0.2, patients, bootstrap=QUICK)
    assert best.value == pytest.approx(sum(k / (80 + k) for k in range(1, 21)) / 100)


def test_measures_of_abstaining() -> None:
    predictions = Predictions(
        keys=tuple(f"r#{i}-{i + 1}" for i in range(6)),
        patients=("a", "a", "b", "b", "c", "c"),
        devices=("x", "x", "x", "x", "y", "y"),
        parts=("test",) * 6,
        labels=np.array([0, 1, 0, 1, 0, 1]),
        probabilities=np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.6, 0.4], [0.8, 0.2], [0.1, 0.9]]),
        classes=("normal", "crackle"),
    )
    is_answered = np.array([True, False, True, True, True, False])
    whole, x, y = measure_abstaining(is_answered, predictions.predicted, predictions, bootstrap=QUICK)
    assert (whole.group, x.group, y.group) == ("all cycles", "x", "y")
    assert (whole.coverage.value, whole.error.value) == pytest.approx((4 / 6, 2 / 4))
    assert whole.score.value == pytest.approx((2 / 3 + 0 / 1) / 2)
    assert (x.coverage.value, x.error.value, y.error.value) == pytest.approx((3 / 4, 2 / 3, 0.0))
    assert np.isnan(y.score.value)
