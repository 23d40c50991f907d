import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lungsound.errors import DataError, WeightsError
from lungsound.evaluation.calibration import (
    Calibration,
    choose_scaling,
    fit_calibration,
    with_operating_points,
    without_nan,
)
from tests.unit.evaluation.calibrated import drawn_predictions


def test_each_part_rests_on_validation_patients_alone() -> None:
    validation = drawn_predictions(0, temperature=2.5)
    ours = fit_calibration(validation)
    assert ours.scaling.method == "temperature"
    assert ours.scaling.temperature == pytest.approx(2.5, rel=0.25)
    assert (ours.num_cycles, ours.num_patients, ours.classes) == (360, 30, ("normal", "crackle", "wheeze"))
    assert ours.problems == ()
    scaled = ours.apply(validation.probabilities)
    np.testing.assert_array_equal(scaled, ours.scaling.apply(validation.probabilities))
    # Thresholds are set on probabilities that were scaled without the patient's own fold.
    held_out = choose_scaling(validation.probabilities, validation.labels, validation.patients).held_out
    true_shares = held_out[np.arange(360), validation.labels]
    assert ours.sets[0].threshold in true_shares
    assert ours.abstain is not None
    assert ours.abstain.threshold in held_out.max(axis=1)
    assert ours.operating_points[0].threshold in 1.0 - held_out[:, 0]


def test_answers_of_the_model_go_in_and_sets_and_abstentions_come_out() -> None:
    ours = fit_calibration(drawn_predictions(1, temperature=2.0))
    test = drawn_predictions(2, temperature=2.0, name="q")
    scaled = ours.apply(test.probabilities)
    np.testing.assert_allclose(scaled.sum(axis=1), 1.0)
    sets = ours.prediction_set(test.probabilities, level=0.95, is_class_conditional=True)
    np.testing.assert_array_equal(sets, ours.sets[1].sets(scaled, is_class_conditional=True))
    assert ours.prediction_set(test.probabilities).sum() < ours.prediction_set(test.probabilities, level=0.95).sum()
    assert ours.abstain is not None
    abstains = ours.is_abstaining(test.probabilities)
    np.testing.assert_array_equal(abstains, scaled.max(axis=1) < ours.abstain.threshold)
    assert abstains.mean() == pytest.approx(0.2, abs=0.08)
    assert ours.is_abstaining(test.probabilities[0]).shape == ()
    with pytest.raises(DataError, match=r"level 0\.8 .* has 0\.9, 0\.95"):
        ours.prediction_set(test.probabilities, level=0.8)


def test_an_error_can_be_wanted_instead() -> None:
    validation = drawn_predictions(3)
    ours = fit_calibration(validation, abstain_for="error", abstain_value=0.1, sensitivities=(0.8, 0.95))
    assert ours.abstain is not None
    assert ours.abstain.validation_error <= 0.1
    assert [point.wanted_sensitivity for point in ours.operating_points] == [0.8, 0.95]
    few = drawn_predictions(3, num_patients=4)
    wrong = replace(few, labels=(few.predicted + 1) % 3)
    never = fit_calibration(wrong, abstain_for="error", abstain_value=0.01)
    assert never.abstain is None
    assert not never.is_abstaining(validation.probabilities).any()
    assert any("no answer is withheld" in problem for problem in never.problems)


@pytest.mark.parametrize("num_patients", [1, 2, 5])
def test_few_patients_give_no_error_but_problems(num_patients: int) -> None:
    validation = drawn_predictions(4, num_patients=num_patients)
    ours = fit_calibration(validation)
    assert ours.scaling.method == "none"
    np.testing.assert_array_equal(ours.apply(validation.probabilities), validation.probabilities)
    assert ours.prediction_set(validation.probabilities).all()
    assert ours.problems[0].startswith(f"Few validation patients ({num_patients};")
    assert any("Sets at 90 % always hold every class" in problem for problem in ours.problems)
    assert Calibration.from_plain(ours.to_plain()) == ours


def test_classes_that_validation_lacks() -> None:
    cycles = drawn_predictions(5)
    only_normal = replace(cycles, labels=np.zeros(len(cycles.labels), dtype=np.int64))
    ours = fit_calibration(only_normal)
    assert ours.operating_points == ()
    assert "there is no operating point" in ours.operating_problems[0]
    assert ours.sets[0].of_class[1:] == (0.0, 0.0)
    assert any("always hold crackle, wheeze:" in problem for problem in ours.problems)
    only_abnormal = fit_calibration(replace(cycles, labels=np.ones(len(cycles.labels), dtype=np.int64)))
    assert math.isnan(only_abnormal.operating_points[0].validation_specificity)
    plain = only_abnormal.to_plain()
    assert plain["operating_points"][0]["validation_specificity"] is None
    json.dumps(plain, allow_nan=False)


def test_json_gives_back_an_equal_calibration() -> None:
    ours = fit_calibration(drawn_predictions(6, temperature=2.0))
    text = json.dumps(ours.to_plain(), allow_nan=False)
    assert Calibration.from_plain(json.loads(text)) == ours


def damaged(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    plain: Any = json.loads(json.dumps(fit_calibration(drawn_predictions(7)).to_plain()))
    place = plain
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return plain  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "lungsound calibration 0", "format"),
        (("classes",), ["normal"], "1 classes"),
        (("scaling", "scales"), [1.0], "3 classes"),
        (("scaling", "biases", 0), float("inf"), "finite"),
        (("scaling", "method"), "magic", "magic"),
        (("scaling",), {"method": "none"}, "a Scaling has"),
        (("sets", 0, "threshold"), 1.5, "outside 0 to 1"),
        (("sets", 0, "of_class", 1), "a lot", "a lot"),
        (("abstain", "threshold"), None, "outside 0 to 1"),
        (("abstain", "threshold"), -0.1, "outside 0 to 1"),
        (("operating_points",), 3, "int"),
        (("sets",), [None], "NoneType"),
    ],
)
def test_a_damaged_calibration_is_named(path: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=f"calibration kept with the model cannot be used .*{message}"):
        Calibration.from_plain(damaged(path, value))
    plain = damaged(("format",), "lungsound calibration 1")
    del plain["reason"]
    with pytest.raises(WeightsError, match="no 'reason'"):
        Calibration.from_plain(plain)


@pytest.mark.parametrize("bias", [1.0, 8.0])
def test_other_operating_points_rest_on_the_same_scaling(bias: float) -> None:
    validation = drawn_predictions(8, num_patients=60, temperature=2.0)
    shares = validation.probabilities * [bias, 1.0, 1.0]
    validation = replace(validation, probabilities=shares / shares.sum(axis=1, keepdims=True))
    ours = fit_calibration(validation)
    assert ours.scaling.method == ("temperature" if bias == 1.0 else "vector")
    others = with_operating_points(ours, validation, sensitivities=(0.7, 0.9))
    assert others == fit_calibration(validation, sensitivities=(0.7, 0.9))
    assert others.operating_points[1] == ours.operating_points[0]
    assert with_operating_points(others, validation, sensitivities=(0.9,)) == ours


def test_other_operating_points_need_the_cycles_that_were_fitted_on() -> None:
    ours = fit_calibration(drawn_predictions(9))
    with pytest.raises(DataError, match="fitted on 360 cycles of 30 patients, here are 348 of 29"):
        with_operating_points(ours, drawn_predictions(9, num_patients=29), sensitivities=(0.9,))


def test_operating_points_of_few_patients_are_of_probabilities_as_they_are() -> None:
    validation = drawn_predictions(10, num_patients=3)
    ours = fit_calibration(validation, sensitivities=(0.8,))
    assert with_operating_points(fit_calibration(validation), validation, sensitivities=(0.8,)) == ours


def test_without_nan() -> None:
    assert without_nan({"a": (1.0, math.nan), "b": {"c": math.nan}}) == {"a": [1.0, None], "b": {"c": None}}
