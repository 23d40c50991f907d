import json
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from scipy import optimize, special
from sklearn.metrics import log_loss, roc_curve

from lungsound.errors import DataError, WeightsError
from lungsound.evaluation.calibration import (
    TEMPERATURE_RANGE,
    Calibration,
    ConformalThresholds,
    abnormal_probability,
    choose_abstention,
    choose_operating_point,
    choose_temperature,
    fit_calibration,
    fit_temperature,
    fit_thresholds,
    negative_log_likelihood,
    patient_threshold,
    patients_needed,
    risk_coverage,
    scaled,
    softmax,
    with_operating_points,
)
from lungsound.evaluation.predictions import Predictions
from tests.unit.evaluation.calibrated import drawn_predictions

Floats = npt.NDArray[np.float64]


def drawn_with(
    seed: int, num_cycles: int, *, scale: float | Floats = 1.0, bias: float | Floats = 0.0, num_classes: int = 4
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Probabilities, and labels drawn from softmax(scale * log p + bias)."""
    generator = np.random.default_rng(seed)
    probabilities = softmax(generator.normal(0.0, 1.5, (num_cycles, num_classes)))
    honest = softmax(scale * np.log(probabilities) + bias)
    labels = np.array([generator.choice(num_classes, p=row) for row in honest], dtype=np.int64)
    return probabilities, labels


def test_losses_against_scikit_learn() -> None:
    probabilities, labels = drawn_with(0, 50)
    expected = log_loss(labels, probabilities, labels=range(4))
    assert negative_log_likelihood(probabilities, labels).mean() == pytest.approx(expected, rel=1e-12)
    certain = negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1]))
    assert certain.tolist() == pytest.approx([-np.log(np.finfo(float).eps)])


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_temperature_against_scipy(scale: float) -> None:
    probabilities, labels = drawn_with(1, 300, scale=scale)

    def loss(beta: float) -> float:
        logits = beta * np.log(probabilities)
        return float((special.logsumexp(logits, axis=1) - logits[np.arange(300), labels]).mean())

    expected = optimize.minimize_scalar(loss, bounds=(0.05, 20.0), method="bounded", options={"xatol": 1e-10}).x
    ours = fit_temperature(probabilities, labels)
    assert ours == pytest.approx(1.0 / expected, rel=1e-6)
    np.testing.assert_array_equal(scaled(probabilities, ours).argmax(axis=1), probabilities.argmax(axis=1))


def test_temperature_of_a_closed_form() -> None:
    # All say 0.8; 6 of 10 are right: sigmoid(log(4) / T) = 0.6.
    probabilities = np.tile([0.8, 0.2], (10, 1))
    ours = fit_temperature(probabilities, np.array([0] * 6 + [1] * 4))
    assert ours == pytest.approx(np.log(4.0) / np.log(1.5), rel=1e-9)
    np.testing.assert_allclose(scaled(np.array([0.8, 0.2]), ours), [0.6, 0.4], rtol=1e-9)


def test_temperature_stays_in_its_range() -> None:
    probabilities = np.tile([0.8, 0.2], (10, 1))
    assert fit_temperature(probabilities, np.zeros(10, dtype=np.int64)) == pytest.approx(TEMPERATURE_RANGE[0], rel=1e-6)
    assert fit_temperature(probabilities, np.ones(10, dtype=np.int64)) == pytest.approx(TEMPERATURE_RANGE[1], rel=1e-6)


def patients_of(num_cycles: int, num_patients: int) -> list[str]:
    return [f"p{cycle % num_patients:03}" for cycle in range(num_cycles)]


@pytest.mark.parametrize(("scale", "is_scaled"), [(1.0, False), (0.5, True)])
def test_the_choice_finds_what_the_labels_need(scale: float, is_scaled: bool) -> None:
    probabilities, labels = drawn_with(3, 1200, scale=scale)
    choice = choose_temperature(probabilities, labels, patients_of(1200, 30))
    assert (choice.temperature is not None) == is_scaled
    assert choice.reason == "chosen by cross-validation over 30 validation patients"
    if choice.temperature is not None:
        assert choice.temperature == fit_temperature(probabilities, labels) == pytest.approx(2.0, rel=0.15)


def test_probabilities_without_any_preference_stay() -> None:
    assert fit_temperature(np.full((4, 2), 0.5), np.array([0, 1, 0, 1])) == 1.0


def test_held_out_probabilities_know_nothing_of_their_patient() -> None:
    probabilities, labels = drawn_with(4, 300, scale=0.4)
    patients = patients_of(300, 10)
    before = choose_temperature(probabilities, labels, patients)
    assert before.temperature is not None
    mine = np.array(patients) == "p003"
    # Patients have equally many cycles, so p003 and p008 share a fold: other labels of p003 move all but the two.
    changed = np.where(mine, (labels + 1) % 4, labels)
    after = choose_temperature(probabilities, changed, patients)
    fold = mine | (np.array(patients) == "p008")
    np.testing.assert_array_equal(before.held_out[fold], after.held_out[fold])
    assert (before.held_out[~fold] != after.held_out[~fold]).any(axis=1).all()


def test_few_patients_are_not_scaled() -> None:
    probabilities, labels = drawn_with(5, 200, scale=0.3)
    few = choose_temperature(probabilities, labels, patients_of(200, 5))
    assert few.temperature is None
    assert "5 validation patients are fewer than the 6" in few.reason
    one = choose_temperature(probabilities, labels, ["p"] * 200)
    assert one.reason == "1 validation patient is fewer than the 6 that scaling needs"
    np.testing.assert_array_equal(few.held_out, probabilities)


def test_patients_needed() -> None:
    assert [patients_needed(level) for level in (0.5, 0.8, 0.9, 0.95, 0.99)] == [1, 4, 9, 19, 99]


def naive_threshold(true_shares: Floats, patients: list[str], level: float) -> float:
    """Walk down the probabilities until enough patients' weight lies above."""
    names = sorted(set(patients))
    for candidate in sorted(set(true_shares.tolist()), reverse=True):
        weight = 0.0
        for name in names:
            mine = [share for share, patient in zip(true_shares, patients, strict=True) if patient == name]
            weight += sum(share >= candidate for share in mine) / len(mine) / (len(names) + 1)
        if weight >= level - 1e-9:
            return float(candidate)
    return 0.0


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("num_patients", [8, 9, 19, 30])
def test_threshold_against_a_naive_walk(level: float, num_patients: int) -> None:
    generator = np.random.default_rng(num_patients)
    patients = [f"p{i}" for i in generator.integers(0, num_patients, 200)]
    shares = generator.random(200).round(2)  # with ties
    ours = patient_threshold(shares, np.array(patients), level=level)
    assert ours == naive_threshold(shares, patients, level)
    assert (ours == 0.0) == (len(set(patients)) < patients_needed(level))


def test_one_cycle_a_patient_is_the_usual_quantile() -> None:
    # Split-conformal with n = 19 at 90 %: the 18th of 19 scores, ceil(20 * 0.9).
    shares = np.random.default_rng(0).random(19)
    assert patient_threshold(shares, np.arange(19).astype(str), level=0.9) == np.sort(shares)[::-1][17]


def test_copies_of_a_patients_cycles_change_nothing() -> None:
    generator = np.random.default_rng(1)
    shares, patients = generator.random(60), np.repeat([f"p{i:02}" for i in range(20)], 3)
    times = np.where(patients == "p03", 50, 1)
    more = patient_threshold(shares.repeat(times), patients.repeat(times), level=0.9)
    assert more == patient_threshold(shares, patients, level=0.9)


def test_sets_hold_the_most_probable_class_and_all_above_their_threshold() -> None:
    thresholds = ConformalThresholds(
        level=0.9, threshold=0.6, of_class=(0.9, 0.0, 0.3), num_patients=30, num_class_patients=(30, 4, 20)
    )
    probabilities = np.array([[0.5, 0.2, 0.3], [0.1, 0.7, 0.2]])
    assert thresholds.sets(probabilities).tolist() == [[True, False, False], [False, True, False]]
    conditional = thresholds.sets(probabilities, is_class_conditional=True)
    assert conditional.tolist() == [[True, True, True], [False, True, False]]
    assert thresholds.classes_always_in == (1,)
    assert thresholds.sets(probabilities[0]).tolist() == [True, False, False]


def test_too_few_patients_of_a_class_put_it_into_every_set() -> None:
    generator = np.random.default_rng(2)
    probabilities = generator.dirichlet([1.0] * 3, 200)
    patients = tuple(f"p{i % 20:02}" for i in range(200))
    labels = np.where(np.arange(200) % 20 < 5, 2, generator.integers(0, 2, 200))
    ours = fit_thresholds(probabilities, labels, patients, level=0.9)
    assert ours.num_class_patients == (15, 15, 5)
    assert ours.of_class[2] == 0.0
    assert min(ours.of_class[:2]) > 0.0
    assert ours.sets(probabilities, is_class_conditional=True)[:, 2].all()
    with pytest.raises(ValueError, match="level"):
        fit_thresholds(probabilities, labels, patients, level=1.0)


def drawn(generator: np.random.Generator, num_patients: int) -> tuple[Floats, npt.NDArray[np.int64], list[str]]:
    """Patients that differ: some are far harder than others, and have more cycles; classes run in patients."""
    counts = 1 + generator.poisson(8, num_patients) * (1 + 3 * (generator.random(num_patients) < 0.3))
    patient = np.repeat(np.arange(num_patients), counts)
    skill = np.where(counts > 20, 0.3, 2.0) + generator.normal(0.0, 0.7, num_patients)
    leaning = np.array([1.0, 0.0, 0.0]) + generator.normal(0.0, 1.5, (num_patients, 3))
    draws = softmax(leaning[patient]).cumsum(axis=1)[:, :2] < generator.random((len(patient), 1))
    labels = draws.sum(axis=1).astype(np.int64)
    logits = generator.normal(0.0, 1.0, (len(patient), 3)) + skill[patient][:, None] * np.eye(3)[labels]
    return softmax(logits), labels, [f"p{name:03}" for name in patient.tolist()]


def mean_of_patients(values: npt.NDArray[np.bool_], patient: npt.NDArray[np.int64]) -> float:
    counts = np.bincount(patient)
    return float((np.bincount(patient, values)[counts > 0] / counts[counts > 0]).mean())


@pytest.mark.parametrize(("level", "num_patients"), [(0.9, 30), (0.95, 40)])
def test_sets_hold_what_is_promised_over_new_patients(level: float, num_patients: int) -> None:
    generator = np.random.default_rng(3)
    probabilities, labels, names = drawn(generator, 800)
    patient = np.unique(names, return_inverse=True)[1]
    rows = np.arange(len(labels))
    plain, by_class = [], []
    for _ in range(150):
        shares, truths, fitted_names = drawn(generator, num_patients)
        fitted = fit_thresholds(shares, truths, tuple(fitted_names), level=level)
        plain.append(mean_of_patients(fitted.sets(probabilities)[rows, labels], patient))
        covered = fitted.sets(probabilities, is_class_conditional=True)[rows, labels]
        by_class.append([mean_of_patients(covered[labels == k], patient[labels == k]) for k in range(3)])
    # Promised: at least the level. One patient more than there are adds up to 1 / (n + 1), and no set is empty.
    assert level - 0.012 <= np.mean(plain) <= level + 0.035
    assert level - 0.02 <= np.mean(by_class, axis=0).min()
    assert np.mean(by_class, axis=0).max() <= level + 0.07


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
    assert point.threshold == thresholds[np.argmax(found >= wanted - 1e-9)]
    assert point.validation_sensitivity >= wanted - 1e-9
    assert point.validation_sensitivity < wanted + 1 / point.num_abnormal
    assert point.problem is None


def test_few_or_no_abnormal_patients() -> None:
    cycles = predictions_of(1, num_patients=4)
    point = choose_operating_point(cycles.probabilities, cycles.labels, cycles.patients, sensitivity=0.9)
    assert point.num_abnormal_patients == 4
    assert "abnormal cycles of only 4 patients" in (point.problem or "")
    ones = np.ones(200, dtype=np.int64)
    all_abnormal = choose_operating_point(cycles.probabilities, ones, cycles.patients, sensitivity=0.9)
    assert all_abnormal.validation_specificity is None
    with pytest.raises(ValueError, match="sensitivity"):
        choose_operating_point(cycles.probabilities, cycles.labels, cycles.patients, sensitivity=1.1)


CONFIDENCE = np.array([0.9, 0.5, 0.8, 0.8, 0.6])
IS_WRONG = np.array([False, True, True, False, False])


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
def test_the_threshold_by_hand(wanted: Literal["coverage", "error"], value: float, threshold: float) -> None:
    # The same five cycles of each of five patients.
    confidence, is_wrong, patients = np.repeat(CONFIDENCE, 5), np.repeat(IS_WRONG, 5), tuple("abcde" * 5)
    chosen = choose_abstention(confidence, is_wrong, patients, wanted=wanted, value=value)
    assert chosen is not None
    assert chosen.threshold == threshold
    wrong = is_wrong[confidence >= threshold]
    assert (chosen.validation_coverage, chosen.validation_error) == pytest.approx((len(wrong) / 25, wrong.mean()))
    fewer = choose_abstention(confidence, is_wrong, tuple("abcdd" * 5), wanted=wanted, value=value)
    assert fewer == (None if wanted == "error" else chosen)


def test_no_threshold_keeps_an_error_out_of_reach() -> None:
    confidence, is_wrong = np.repeat([0.9, 0.5], 5), np.repeat([True, False], 5)
    assert choose_abstention(confidence, is_wrong, tuple("abcde" * 2), wanted="error", value=0.1) is None
    with pytest.raises(ValueError, match="coverage"):
        choose_abstention(CONFIDENCE, IS_WRONG, tuple("abcde"), wanted="coverage", value=0.0)


def test_each_part_rests_on_validation_patients_alone() -> None:
    validation = drawn_predictions(0, temperature=2.5)
    ours = fit_calibration(validation)
    assert ours.temperature == pytest.approx(2.5, rel=0.25)
    assert (ours.num_cycles, ours.num_patients, ours.classes) == (360, 30, ("normal", "crackle", "wheeze"))
    assert ours.problems == ()
    np.testing.assert_array_equal(
        ours.apply(validation.probabilities), scaled(validation.probabilities, ours.temperature)
    )
    # Thresholds are set on probabilities that were scaled without the patient's own fold.
    held_out = choose_temperature(validation.probabilities, validation.labels, validation.patients).held_out
    true_shares = held_out[np.arange(360), validation.labels]
    assert ours.sets[0].threshold in true_shares
    assert ours.abstain is not None
    assert ours.abstain.threshold in held_out.max(axis=1)
    assert ours.operating_points[0].threshold in 1.0 - held_out[:, 0]


def test_probabilities_of_the_model_go_in_and_sets_and_abstentions_come_out() -> None:
    ours = fit_calibration(drawn_predictions(1, temperature=2.0))
    test = drawn_predictions(2, temperature=2.0, name="q")
    honest = ours.apply(test.probabilities)
    np.testing.assert_allclose(honest.sum(axis=1), 1.0)
    sets = ours.prediction_set(test.probabilities, level=0.95, is_class_conditional=True)
    np.testing.assert_array_equal(sets, ours.sets[1].sets(honest, is_class_conditional=True))
    assert ours.prediction_set(test.probabilities).sum() < ours.prediction_set(test.probabilities, level=0.95).sum()
    assert ours.abstain is not None
    abstains = ours.is_abstaining(test.probabilities)
    np.testing.assert_array_equal(abstains, honest.max(axis=1) < ours.abstain.threshold)
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
    assert any("no prediction is withheld" in problem for problem in never.problems)


@pytest.mark.parametrize("num_patients", [1, 2, 5])
def test_few_patients_give_no_error_but_problems(num_patients: int) -> None:
    validation = drawn_predictions(4, num_patients=num_patients)
    ours = fit_calibration(validation)
    assert not ours.is_scaled
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
    assert only_abnormal.operating_points[0].validation_specificity is None
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
    ("path", "value", "place"),
    [
        (("format",), "lungsound calibration 1", "format"),
        (("classes",), ["normal"], "values"),
        (("sets", 0, "of_class"), [0.5], "values"),
        (("temperature",), 0.0, "temperature"),
        (("temperature",), float("inf"), "temperature"),
        (("scaling",), {"method": "none"}, "scaling"),
        (("sets", 0, "threshold"), 1.5, "sets.0.threshold"),
        (("sets", 0, "of_class", 1), "a lot", "sets.0.of_class.1"),
        (("abstain", "threshold"), None, "abstain.threshold"),
        (("operating_points",), 3, "operating_points"),
    ],
)
def test_a_damaged_calibration_is_named(path: tuple[Any, ...], value: Any, place: str) -> None:
    with pytest.raises(WeightsError, match=rf"calibration in the model cannot be used \({place}: "):
        Calibration.from_plain(damaged(path, value))


def test_a_calibration_refuses_probabilities_of_other_classes() -> None:
    with pytest.raises(ValueError, match="3 classes"):
        fit_calibration(drawn_predictions(7)).apply([0.5, 0.5])


def test_other_operating_points_rest_on_the_same_scaling() -> None:
    validation = drawn_predictions(8, num_patients=60, temperature=2.0)
    ours = fit_calibration(validation)
    assert ours.is_scaled
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
