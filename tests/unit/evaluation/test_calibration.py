import json
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError
from scipy import optimize, special
from sklearn.metrics import log_loss, roc_curve

from lungsound.evaluation.calibration import (
    LEVELS,
    TEMPERATURE_RANGE,
    Calibration,
    ConformalThresholds,
    choose_abstention,
    choose_normal_threshold,
    choose_operating_point,
    choose_temperature,
    fit_calibration,
    fit_temperature,
    fit_thresholds,
    negative_log_likelihood,
    patient_threshold,
    risk_coverage,
    scaled,
    softmax,
)
from lungsound.evaluation.metrics import confusion_matrix, icbhi_score
from lungsound.evaluation.predictions import predicted_classes
from tests.unit.evaluation.calibrated import drawn_predictions

Floats = npt.NDArray[np.float64]


def drawn_with(seed: int, num_cycles: int, *, scale: float = 1.0) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Probabilities of four classes, and labels drawn from softmax(scale * log p)."""
    generator = np.random.default_rng(seed)
    probabilities = softmax(generator.normal(0.0, 1.5, (num_cycles, 4)))
    honest = softmax(scale * np.log(probabilities))
    return probabilities, np.array([generator.choice(4, p=row) for row in honest], dtype=np.int64)


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


def test_temperature_of_closed_forms() -> None:
    # All say 0.8; 6 of 10 are right: sigmoid(log(4) / T) = 0.6.
    probabilities = np.tile([0.8, 0.2], (10, 1))
    ours = fit_temperature(probabilities, np.array([0] * 6 + [1] * 4))
    assert ours == pytest.approx(np.log(4.0) / np.log(1.5), rel=1e-9)
    np.testing.assert_allclose(scaled(np.array([0.8, 0.2]), ours), [0.6, 0.4], rtol=1e-9)
    # All right, all wrong: the ends of the range.
    ends = [fit_temperature(probabilities, np.full(10, label)) for label in (0, 1)]
    assert ends == pytest.approx(TEMPERATURE_RANGE, rel=1e-6)


def patients_of(num_cycles: int, num_patients: int) -> list[str]:
    return [f"p{cycle % num_patients:03}" for cycle in range(num_cycles)]


def test_scaling_is_chosen_when_the_labels_need_it() -> None:
    for scale, is_scaled in ((1.0, False), (0.5, True)):
        probabilities, labels = drawn_with(3, 1200, scale=scale)
        temperature, _, reason = choose_temperature(probabilities, labels, patients_of(1200, 30))
        assert reason == "chosen by cross-validation over 30 held-out patients"
        if not is_scaled:
            assert temperature is None
        else:
            assert temperature == fit_temperature(probabilities, labels) == pytest.approx(2.0, rel=0.15)


def test_held_out_probabilities_know_nothing_of_their_patient() -> None:
    probabilities, labels = drawn_with(4, 300, scale=0.4)
    patients = patients_of(300, 10)
    _, before, _ = choose_temperature(probabilities, labels, patients)
    mine = np.array(patients) == "p003"
    # Patients have equally many cycles, so p003 and p008 share a fold: other labels of p003 move all but the two.
    _, after, _ = choose_temperature(probabilities, np.where(mine, (labels + 1) % 4, labels), patients)
    fold = mine | (np.array(patients) == "p008")
    np.testing.assert_array_equal(before[fold], after[fold])
    assert (before[~fold] != after[~fold]).any(axis=1).all()


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


def test_threshold_against_a_naive_walk() -> None:
    for num_patients in (8, 9, 19, 30):
        generator = np.random.default_rng(num_patients)
        patients = [f"p{i}" for i in generator.integers(0, num_patients, 100)] + [f"p{i}" for i in range(num_patients)]
        shares = generator.random(len(patients)).round(2)  # with ties
        for level, num_needed in ((0.5, 1), (0.9, 9), (0.95, 19)):
            ours = patient_threshold(shares, np.array(patients), level=level)
            assert ours == naive_threshold(shares, patients, level), (num_patients, level)
            assert (ours == 0.0) == (num_patients < num_needed), (num_patients, level)


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


@pytest.mark.parametrize(("level", "num_patients"), [(0.9, 30), pytest.param(0.95, 40, marks=pytest.mark.slow)])
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


def test_operating_point_against_scikit_learn() -> None:
    cycles = drawn_predictions(0)
    scores = 1.0 - cycles.probabilities[:, 0]
    _, sensitivities, thresholds = roc_curve(cycles.labels > 0, scores, drop_intermediate=False)
    for wanted in (0.5, 0.8, 0.9, 1.0):
        point = choose_operating_point(cycles.probabilities, cycles.labels, cycles.patients, sensitivity=wanted)
        assert point.threshold == thresholds[np.argmax(sensitivities >= wanted - 1e-9)]
        assert wanted - 1e-9 <= point.validation_sensitivity < wanted + 1 / point.num_abnormal
    ones = np.ones_like(cycles.labels)
    all_abnormal = choose_operating_point(cycles.probabilities, ones, cycles.patients, sensitivity=0.9)
    assert all_abnormal.validation_specificity is None


CONFIDENCE = np.array([0.9, 0.5, 0.8, 0.8, 0.6])
IS_WRONG = np.array([False, True, True, False, False])


def test_abstention_by_hand() -> None:
    thresholds, coverage, risk = risk_coverage(CONFIDENCE, IS_WRONG)
    assert thresholds.tolist() == [0.9, 0.8, 0.6, 0.5]
    assert coverage.tolist() == pytest.approx([0.2, 0.6, 0.8, 1.0])
    assert risk.tolist() == pytest.approx([0.0, 1 / 3, 1 / 4, 2 / 5])
    # The same five cycles of each of five patients.
    confidence, is_wrong, patients = np.repeat(CONFIDENCE, 5), np.repeat(IS_WRONG, 5), tuple("abcde" * 5)
    expected: list[tuple[Literal["coverage", "error"], float, float]] = [
        ("coverage", 0.2, 0.9),
        ("coverage", 0.21, 0.8),
        ("coverage", 0.8, 0.6),
        ("coverage", 1.0, 0.5),
        ("error", 0.25, 0.6),
        ("error", 0.24, 0.9),
        ("error", 0.4, 0.5),
    ]
    for wanted, value, threshold in expected:
        chosen = choose_abstention(confidence, is_wrong, patients, wanted=wanted, value=value)
        assert chosen is not None
        assert chosen.threshold == threshold, (wanted, value)
        wrong = is_wrong[confidence >= threshold]
        assert (chosen.validation_coverage, chosen.validation_error) == pytest.approx((len(wrong) / 25, wrong.mean()))
        fewer = choose_abstention(confidence, is_wrong, tuple("abcdd" * 5), wanted=wanted, value=value)
        assert fewer == (None if wanted == "error" else chosen)
    always_wrong = np.repeat([True, False], 5)
    assert choose_abstention(confidence[:10], always_wrong, patients[:10], wanted="error", value=0.1) is None


def test_each_part_rests_on_validation_patients_alone() -> None:
    validation = drawn_predictions(0, temperature=2.5)
    ours = fit_calibration(validation)
    assert ours.temperature == pytest.approx(2.5, rel=0.25)
    assert (ours.num_cycles, ours.num_patients, ours.classes) == (360, 30, ("normal", "crackle", "wheeze"))
    assert ours.problems == []
    # Thresholds are set on probabilities that were scaled without the patient's own fold.
    _, held_out, _ = choose_temperature(validation.probabilities, validation.labels, validation.patients)
    assert ours.sets[0].threshold in held_out[np.arange(360), validation.labels]
    assert ours.abstain is not None
    assert ours.abstain.threshold in held_out.max(axis=1)
    assert ours.operating_points[0].threshold in 1.0 - held_out[:, 0]
    by_error = fit_calibration(validation, abstain_for="error", abstain_value=0.1, sensitivities=(0.8, 0.95))
    assert by_error.abstain is not None
    assert by_error.abstain.validation_error <= 0.1
    assert [point.wanted_sensitivity for point in by_error.operating_points] == [0.8, 0.95]
    for wanted in ({"abstain_value": 0.0}, {"sensitivities": (1.1,)}):
        with pytest.raises(ValueError, match="wanted share"):
            fit_calibration(validation, **wanted)  # type: ignore[arg-type]


def test_probabilities_of_the_model_go_in_and_sets_and_abstentions_come_out() -> None:
    ours = fit_calibration(drawn_predictions(1, temperature=2.0))
    test = drawn_predictions(2, temperature=2.0, name="q")
    honest = ours.apply(test.probabilities)
    np.testing.assert_array_equal(honest, scaled(test.probabilities, ours.temperature))
    np.testing.assert_allclose(honest.sum(axis=1), 1.0)
    np.testing.assert_array_equal(ours.prediction_set(test.probabilities), ours.sets[0].sets(honest))
    assert ours.sets[0].sets(honest).sum() < ours.sets[1].sets(honest).sum()
    assert ours.abstain is not None
    abstains = ours.is_abstaining(test.probabilities)
    np.testing.assert_array_equal(abstains, honest.max(axis=1) < ours.abstain.threshold)
    assert abstains.mean() == pytest.approx(0.2, abs=0.08)
    assert ours.is_abstaining(test.probabilities[0]).shape == ()
    with pytest.raises(ValueError, match="3 classes"):
        ours.apply([0.5, 0.5])


def test_few_patients_give_no_error_but_problems() -> None:
    for num_patients in (1, 2, 5):
        validation = drawn_predictions(4, num_patients=num_patients)
        wrong = replace(validation, labels=(validation.predicted + 1) % 3)
        ours = fit_calibration(wrong, abstain_for="error", abstain_value=0.01)
        assert not ours.is_scaled
        assert f"{num_patients} validation patient" in ours.reason
        np.testing.assert_array_equal(ours.apply(validation.probabilities), validation.probabilities)
        assert ours.prediction_set(validation.probabilities).all()
        assert ours.abstain is None
        assert not ours.is_abstaining(validation.probabilities).any()
        assert len(ours.problems) == 3 + len(LEVELS)
        assert Calibration.model_validate(ours.to_plain()) == ours


def test_classes_that_validation_lacks() -> None:
    cycles = drawn_predictions(5)
    ours = fit_calibration(replace(cycles, labels=np.zeros_like(cycles.labels)))
    assert ours.operating_points == ()
    assert len(ours.problems) == 1
    assert ours.sets[0].of_class[1:] == (0.0, 0.0)
    only_abnormal = fit_calibration(replace(cycles, labels=np.ones_like(cycles.labels)))
    assert json.loads(json.dumps(only_abnormal.to_plain(), allow_nan=False)) == only_abnormal.to_plain()


def test_json_gives_back_an_equal_calibration_and_damage_is_named() -> None:
    ours = fit_calibration(drawn_predictions(6, temperature=2.0))
    text = json.dumps(ours.to_plain(), allow_nan=False)
    assert Calibration.model_validate(json.loads(text)) == ours
    damages: list[tuple[tuple[Any, ...], Any, str]] = [
        (("format",), "lungsound calibration 1", "format"),
        (("classes",), ["normal"], "Value error"),
        (("sets", 0, "of_class"), [0.5], "Value error"),
        (("temperature",), 0.0, "temperature"),
        (("temperature",), float("inf"), "temperature"),
        (("scaling",), {"method": "none"}, "scaling"),
        (("sets", 0, "threshold"), 1.5, r"sets\.0\.threshold"),
        (("abstain", "threshold"), None, r"abstain\.threshold"),
    ]
    for path, value, place in damages:
        damaged = json.loads(text)
        inner = damaged
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
        with pytest.raises(ValidationError, match=place):
            Calibration.model_validate(damaged)


# ---- a threshold for "normal" ----


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_for_normal_has_the_best_score_of_all(seed: int) -> None:
    """Against the Score at every probability that occurs, between any two, and beyond them."""
    probabilities, labels = drawn_with(seed, 60)
    probabilities[40:] = probabilities[:20]  # equal probabilities of other labels

    def score(threshold: float) -> float:
        others = [1 + max(range(3), key=row[1:].__getitem__) for row in probabilities.tolist()]
        rule = [0 if row[0] >= threshold else other for row, other in zip(probabilities.tolist(), others, strict=True)]
        return icbhi_score(confusion_matrix(labels, rule, 4)).score

    values = np.unique(probabilities[:, 0])
    every = [-0.1, *values, *((values[:-1] + values[1:]) / 2), 1.1]
    chosen = choose_normal_threshold(probabilities, labels)
    assert score(chosen) == pytest.approx(max(map(score, every)), abs=1e-12)
    most_probable = icbhi_score(confusion_matrix(labels, probabilities.argmax(axis=1), 4)).score
    assert score(chosen) >= most_probable


def test_normal_cycles_that_stand_apart_are_told_apart_and_one_side_alone_is_refused() -> None:
    probabilities = np.array([[0.3, 0.7], [0.2, 0.8], [0.1, 0.9], [0.25, 0.75]])
    assert choose_normal_threshold(probabilities, np.array([0, 1, 1, 0])) == 0.25
    for labels in ([0, 0, 0, 0], [1, 1, 1, 1]):
        with pytest.raises(ValueError, match="cycles of it and of other classes"):
            choose_normal_threshold(probabilities, np.array(labels))


def test_a_chosen_threshold_is_kept_decides_and_is_in_the_set() -> None:
    validation = drawn_predictions(0, temperature=2.5)
    plain, chosen = (fit_calibration(validation, threshold_on=each) for each in (None, validation))
    assert plain.normal_threshold is None
    assert "normal_threshold" not in plain.to_plain()
    assert plain.decided(validation) is validation
    assert np.array_equal(plain.predicted(validation.probabilities), validation.predicted)
    assert chosen.normal_threshold is not None
    assert Calibration.model_validate(json.loads(json.dumps(chosen.to_plain()))) == chosen
    assert chosen.id != plain.id
    assert replace(validation).by_threshold is None
    extreme = chosen.model_copy(update={"normal_threshold": 0.02})
    decided = extreme.decided(validation)
    shares = scaled(validation.probabilities, chosen.temperature)
    assert np.array_equal(decided.predicted, predicted_classes(shares, 0.02))
    assert (decided.predicted != validation.predicted).sum() > 20
    sets = extreme.prediction_set(validation.probabilities)
    assert sets[np.arange(len(sets)), decided.predicted].all()
    assert (sets | plain.prediction_set(validation.probabilities) == sets).all()
    assert chosen.normal_threshold == choose_normal_threshold(shares, validation.labels)
    # Fitted again on predictions by a threshold: the same.
    assert fit_calibration(decided, threshold_on=decided) == chosen


def test_confidence_is_that_of_the_predicted_class() -> None:
    """Where a threshold predicts another class than the most probable, its probability counts: in fit and in use."""
    validation = drawn_predictions(0)
    calibration = fit_calibration(validation).model_copy(update={"normal_threshold": 0.02, "temperature": None})
    assert calibration.abstain is not None
    threshold = calibration.abstain.threshold
    shares = validation.probabilities
    naive = [
        (row[0] if row[0] >= 0.02 else max(row[1:])) < threshold for row in shares.tolist()
    ]  # by hand: normal from 0.02 on, else the most probable other
    abstains = calibration.is_abstaining(shares)
    assert abstains.tolist() == naive
    assert (abstains != (shares.max(axis=1) < threshold)).any()
    assert calibration.is_abstaining(shares[3]) == naive[3]
    chosen = fit_calibration(validation, threshold_on=validation, abstain_value=0.7)
    assert chosen.abstain is not None
    kept = ~chosen.is_abstaining(shares)
    assert kept.mean() == pytest.approx(0.7, abs=0.05)
    is_wrong = chosen.predicted(shares)[kept] != validation.labels[kept]
    assert is_wrong.mean() == pytest.approx(chosen.abstain.validation_error, abs=0.03)


@pytest.mark.parametrize(("temperature", "is_at_limit"), [(None, False), (1.0, False), (0.05, True), (20.0, True)])
def test_a_temperature_at_an_end_of_its_range_is_known(temperature: float | None, is_at_limit: bool) -> None:
    fitted = fit_calibration(drawn_predictions(0))
    assert fitted.model_copy(update={"temperature": temperature}).is_at_limit == is_at_limit
