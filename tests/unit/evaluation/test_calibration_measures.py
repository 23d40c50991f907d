import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, confusion_matrix

from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import Bootstrap, draw_patient_weights
from lungsound.evaluation.calibration import OperatingPoint, fit_calibration, softmax
from lungsound.evaluation.calibration_measures import (
    NUM_BINS,
    PREVALENCES,
    area_under_risk_coverage,
    bin_differences,
    brier_parts,
    brier_scores,
    calibration_error,
    equal_mass_edges,
    equal_width_edges,
    measure_abstention,
    measure_calibration,
    measure_operating_points,
    measure_sets,
    negative_predictive_value,
    positive_predictive_value,
    probability_errors,
)
from lungsound.evaluation.predictions import Predictions
from tests.unit.evaluation.calibrated import drawn_predictions

Floats = npt.NDArray[np.float64]
Set = tuple[Floats, npt.NDArray[np.int64], tuple[str, ...]]
QUICK = Bootstrap(num_draws=200)


def drawn(generator: np.random.Generator, num_patients: int, temperature: float, num_classes: int = 3) -> Set:
    """Probabilities of patients that differ, labels drawn from what they are at this temperature, and patients."""
    counts = generator.integers(8, 25, num_patients)
    patients = np.repeat(np.arange(num_patients), counts)
    habits = generator.normal(0.0, 0.8, (num_patients, num_classes))[patients]
    probabilities = softmax(habits + generator.normal(0.0, 1.5, (len(patients), num_classes)))
    honest = softmax(np.log(probabilities) / temperature)
    uniform = generator.random((len(patients), 1))
    labels = (honest.cumsum(axis=1)[:, :-1] < uniform).sum(axis=1).astype(np.int64)
    return probabilities, labels, tuple(f"p{name:04}" for name in patients.tolist())


def naive_ece(values: Floats, hits: Floats, edges: Floats) -> float:
    total = 0.0
    for number, (low, high) in enumerate(pairwise(edges)):
        members = [i for i, v in enumerate(values) if (low < v or number == 0) and (v <= high)]
        if members and high > low:
            gap = sum(values[i] for i in members) / len(members) - sum(hits[i] for i in members) / len(members)
            total += len(members) / len(values) * abs(gap)
    return total


def test_errors_against_naive_loops() -> None:
    probabilities, labels, patients = drawn(np.random.default_rng(0), 20, 2.0)
    top, right = probabilities.max(axis=1), (probabilities.argmax(axis=1) == labels).astype(float)
    errors = probability_errors(probabilities, labels, patients, QUICK)
    assert errors.top_label.seen == pytest.approx(naive_ece(top, right, equal_width_edges()), rel=1e-12)
    assert errors.top_label_equal_mass.seen == pytest.approx(naive_ece(top, right, equal_mass_edges(top)), rel=1e-12)
    naive = [naive_ece(probabilities[:, k], (labels == k).astype(float), equal_width_edges()) for k in range(3)]
    assert errors.class_wise.seen == pytest.approx(sum(naive) / 3, rel=1e-12)


def test_bins_against_scikit_learn() -> None:
    probabilities, labels, _ = drawn(np.random.default_rng(1), 20, 1.0, num_classes=2)
    values, hits = probabilities[:, 1], labels == 1
    shares, means = calibration_curve(hits, values, n_bins=NUM_BINS)
    counts = np.histogram(values, equal_width_edges())[0]
    expected = (np.abs(shares - means) * counts[counts > 0]).sum() / len(values)
    # Both classes' errors mirror each other, so the class-wise one is that of either.
    ours = probability_errors(probabilities, labels, tuple("ab" * 500)[: len(labels)], QUICK).class_wise
    assert ours.seen == pytest.approx(expected, rel=1e-12)


def test_equal_mass_bins_hold_equally_many() -> None:
    values = np.random.default_rng(2).random(1000)
    assert np.histogram(values, equal_mass_edges(values))[0].tolist() == pytest.approx([100] * 10, abs=1)


def test_closed_forms() -> None:
    # Says 0.9, is right in 6 of 10 cycles of every patient.
    probabilities, labels = np.tile([0.9, 0.1], (100, 1)), np.tile([0] * 6 + [1] * 4, 10)
    patients = tuple(f"p{i // 10}" for i in range(100))
    ours = probability_errors(probabilities, labels, patients, QUICK).top_label
    assert ours.seen == pytest.approx(0.3)
    # Patients are alike: there is no noise, and nothing to correct.
    assert ours.by_chance == pytest.approx(0.0, abs=1e-12)
    assert ours.corrected.value == pytest.approx(0.3, rel=1e-4)
    assert (ours.corrected.interval.low, ours.corrected.interval.high) == pytest.approx((0.3, 0.3), rel=1e-4)
    assert brier_scores(probabilities, labels).mean() == pytest.approx(0.6 * 0.02 + 0.4 * 1.62)


def test_brier_against_scikit_learn_and_its_parts() -> None:
    probabilities, labels, _ = drawn(np.random.default_rng(3), 30, 2.0)
    scores = brier_scores(probabilities, labels)
    expected = sum(brier_score_loss(labels == k, probabilities[:, k]) for k in range(3))
    assert scores.mean() == pytest.approx(expected, rel=1e-12)
    shares = np.bincount(labels) / len(labels)
    parts = brier_parts(np.tile(shares, (len(labels), 1)), labels)
    assert parts.uncertainty == pytest.approx(1.0 - (shares**2).sum())
    assert (parts.reliability, parts.resolution) == pytest.approx((0.0, 0.0), abs=1e-12)
    # Murphy's decomposition is exact when each bin has one probability.
    coarse = np.array([[0.1, 0.9], [0.5, 0.5], [0.8, 0.2]])[np.random.default_rng(4).integers(0, 3, 300)]
    truth = np.random.default_rng(5).integers(0, 2, 300)
    resolution = 0.0
    for row in np.unique(coarse, axis=0):
        members = truth[(coarse == row).all(axis=1)]
        resolution += 2 * len(members) / 300 * (members.mean() - truth.mean()) ** 2
    assert brier_parts(coarse, truth).resolution == pytest.approx(resolution, rel=1e-9)


@pytest.mark.parametrize("num_patients", [1, 2, 9])
def test_few_patients_give_what_was_seen_alone(num_patients: int) -> None:
    patients = tuple(f"p{i % num_patients}" for i in range(18))
    few = calibration_error(np.tile([[0.1], [0.3]], (9, 1)), patients, QUICK)
    assert few.seen == pytest.approx(0.2)
    assert few.problem == f"too few patients ({num_patients} of 10)"
    assert few.corrected_in_percent() == f"n/a: too few patients ({num_patients} of 10)"
    interval = few.corrected.interval
    assert all(map(math.isnan, (few.by_chance, few.corrected.value, interval.low, interval.high)))


def test_a_perfect_fit_is_not_below_zero() -> None:
    nothing = calibration_error(np.zeros((10, 3)), tuple("abcdefghij"), QUICK)
    assert nothing.problem is None
    assert nothing.corrected_in_percent() == "0.0 (0.0 to 0.0)"
    assert (nothing.seen, nothing.corrected.value, nothing.corrected.interval.high) == (0.0, 0.0, 0.0)


def test_the_same_seed_gives_the_same_golden_numbers() -> None:
    errors = probability_errors(*drawn(np.random.default_rng(6), 25, 2.0), Bootstrap(num_draws=500))
    seen = [errors.top_label.seen, errors.top_label_equal_mass.seen, errors.class_wise.seen, errors.brier.value]
    assert [*seen, errors.negative_log_likelihood.value] == pytest.approx(GOLDEN, rel=1e-9)
    assert errors.top_label.by_chance < errors.top_label.seen
    assert errors.top_label.corrected.value < errors.top_label.seen


GOLDEN = [0.163080481799, 0.163080481799, 0.125712458026, 0.600179940078, 1.017872935464]


def true_values(temperature: float) -> tuple[float, float]:
    """ECE and Brier score of very many patients."""
    probabilities, labels, _ = drawn(np.random.default_rng(99), 20_000, temperature)
    right = probabilities.argmax(axis=1) == labels
    differences = bin_differences(probabilities.max(axis=1), right, equal_width_edges())
    return float(np.abs(differences.mean(axis=0)).sum()), float(brier_scores(probabilities, labels).mean())


def coverage(temperature: float, num_patients: int, num_sets: int, num_draws: int) -> tuple[float, float]:
    """Share of sets whose 95 % intervals hold the true ECE, and the true Brier score."""
    ece, brier = true_values(temperature)
    generator = np.random.default_rng(7)
    held = np.zeros(2)
    for number in range(num_sets):
        probabilities, labels, patients = drawn(generator, num_patients, temperature)
        bootstrap = Bootstrap(seed=number, num_draws=num_draws)
        right = probabilities.argmax(axis=1) == labels
        differences = bin_differences(probabilities.max(axis=1), right, equal_width_edges())
        first = calibration_error(differences, patients, bootstrap).corrected.interval
        second = bootstrap.mean(brier_scores(probabilities, labels), patients).interval
        held += [first.low <= ece <= first.high, second.low <= brier <= second.high]
    return float(held[0] / num_sets), float(held[1] / num_sets)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_intervals_hold_the_truth_in_about_95_of_100_sets(temperature: float) -> None:
    assert min(coverage(temperature, 40, 40, 200)) >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.5, 2.5])
@pytest.mark.parametrize("num_patients", [10, 30, 60])
def test_intervals_hold_the_truth_in_93_to_97_percent_of_1000_sets(temperature: float, num_patients: int) -> None:
    ece, brier = coverage(temperature, num_patients, 1000, 1000)
    assert (0.93 if num_patients > 10 else 0.92) <= ece <= 0.97
    assert 0.93 <= brier <= 0.97


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


def test_measures_against_scikit_learn() -> None:
    cycles = predictions_of(2)
    point = OperatingPoint(
        wanted_sensitivity=0.9,
        threshold=0.6,
        validation_sensitivity=0.9,
        validation_specificity=0.5,
        num_abnormal=100,
        num_abnormal_patients=20,
    )
    few = fit_calibration(predictions_of(1, num_patients=4))
    calibration = few.model_copy(update={"operating_points": (point,)})
    assert not calibration.is_scaled
    called = cycles.probabilities[:, 0] <= 0.4
    (right_normal, false_alarm), (missed, found) = confusion_matrix(cycles.labels > 0, called)
    own, other = measure_operating_points(calibration, cycles, (0.05,), QUICK)
    assert own.sensitivity.value == pytest.approx(found / (found + missed))
    assert own.specificity.value == pytest.approx(right_normal / (right_normal + false_alarm))
    # At the prevalence of the cycles themselves Bayes' rule gives back the plain shares.
    assert (own.is_test_prevalence, other.is_test_prevalence) == (True, False)
    assert own.ppv.value == pytest.approx(found / (found + false_alarm))
    assert own.npv.value == pytest.approx(right_normal / (right_normal + missed))
    assert other.sensitivity == own.sensitivity
    assert other.ppv.value < own.ppv.value
    assert other.ppv.interval.low < other.ppv.value < other.ppv.interval.high
    with pytest.raises(ValueError, match="prevalence"):
        measure_operating_points(calibration, cycles, (1.0,), QUICK)


def test_predictive_values_in_closed_form() -> None:
    # Se 0.9, Sp 0.8, prevalence 0.1: of 1000, 90 of 100 found and 180 of 900 called in vain.
    counts = np.array([[80, 20], [10, 90]])
    assert float(positive_predictive_value(counts, prevalence=0.1)) == pytest.approx(90 / 270)
    assert float(negative_predictive_value(counts, prevalence=0.1)) == pytest.approx(720 / 730)
    nobody_or_everybody = np.array([[[10, 0], [5, 0]], [[0, 10], [0, 5]]])
    ppv = positive_predictive_value(nobody_or_everybody, prevalence=0.1)
    npv = negative_predictive_value(nobody_or_everybody, prevalence=0.1)
    assert ppv.tolist() == pytest.approx([math.nan, 0.1], nan_ok=True)
    assert npv.tolist() == pytest.approx([0.9, math.nan], nan_ok=True)


def test_measures_of_sets() -> None:
    predictions = Predictions(
        keys=tuple(f"r#{i}-{i + 1}" for i in range(6)),
        patients=("a", "a", "a", "b", "b", "c"),
        devices=("x", "x", "x", "", "", ""),
        parts=("test",) * 6,
        labels=np.array([0, 0, 1, 1, 0, 1]),
        probabilities=np.tile([0.5, 0.3, 0.2], (6, 1)),
        classes=("normal", "crackle", "wheeze"),
    )
    sets = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0], [1, 1, 0]], dtype=bool)
    ours = measure_sets(0.9, False, sets, predictions, QUICK)
    assert ours.all_cycles.of_cycles.value == pytest.approx(4 / 6)
    assert ours.all_cycles.promised.value == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert ours.all_cycles.size.value == pytest.approx(10 / 6)
    assert [(m.group, m.num_cycles, m.num_patients) for m in ours.by_class] == [("normal", 3, 2), ("crackle", 3, 3)]
    assert ours.by_class[0].promised.value == pytest.approx((1.0 + 0.0) / 2)
    assert [(m.group, m.of_cycles.value) for m in ours.by_device] == [("unknown device", 2 / 3), ("x", 2 / 3)]


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
    value_of = area_under_risk_coverage(confidence, is_wrong, patients)
    assert value_of(np.ones((1, 6), dtype=np.int64)) == pytest.approx([naive_area(confidence, is_wrong)])
    weights = draw_patient_weights(6, generator=np.random.default_rng(1), num_draws=120)
    values = value_of(weights)
    names = np.array(sorted(set(patients)))
    for draw, value in zip(weights[::10], values[::10], strict=True):
        times = draw[np.searchsorted(names, patients)]
        assert value == pytest.approx(naive_area(confidence.repeat(times), is_wrong.repeat(times)), rel=1e-12)


def test_area_of_closed_forms() -> None:
    patients = tuple("abcd" * 25)
    order = np.linspace(0.0, 1.0, 100)
    everyone = np.ones((1, 4), dtype=np.int64)
    (same,) = area_under_risk_coverage(np.full(100, 0.5), order < 0.2, patients)(everyone)
    assert same == pytest.approx(0.2)  # a confidence that says nothing: the error itself
    # All 20 wrong answers last: sum over k = 1 .. 20 of k / (80 + k), over 100.
    (best,) = area_under_risk_coverage(order, order < 0.2, patients)(everyone)
    assert best == pytest.approx(sum(k / (80 + k) for k in range(1, 21)) / 100)


def test_measures_of_abstention() -> None:
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
    everywhere, x, y = measure_abstention(is_answered, predictions, QUICK)
    assert (everywhere.group, x.group, y.group) == ("all cycles", "x", "y")
    assert (everywhere.coverage.value, everywhere.error.value) == pytest.approx((4 / 6, 2 / 4))
    assert everywhere.score.value == pytest.approx((2 / 3 + 0 / 1) / 2)
    assert (x.coverage.value, x.error.value, y.error.value) == pytest.approx((3 / 4, 2 / 3, 0.0))
    assert np.isnan(y.score.value)


def test_everything_is_measured_on_the_scaled_probabilities() -> None:
    calibration = fit_calibration(drawn_predictions(0, temperature=2.5))
    test = drawn_predictions(1, temperature=2.5, name="q")
    ours = measure_calibration(calibration, test, QUICK)
    honest = calibration.apply(test.probabilities)
    assert ours.before == probability_errors(test.probabilities, test.labels, test.patients, QUICK)
    assert ours.after == probability_errors(honest, test.labels, test.patients, QUICK)
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
    wrong = honest.argmax(axis=1) != test.labels
    assert ours.abstaining[0].error.value == pytest.approx(wrong[answered].mean())
    assert ours.area_under_risk_coverage.value < wrong.mean()
    assert [each.prevalence for each in ours.operating[1:]] == list(PREVALENCES)
    called = 1.0 - honest[:, 0] >= calibration.operating_points[0].threshold
    assert ours.operating[0].sensitivity.value == pytest.approx(called[test.labels > 0].mean())


def test_operating_points_at_other_prevalences() -> None:
    calibration = fit_calibration(drawn_predictions(2), sensitivities=(0.8, 0.9))
    test = drawn_predictions(3, name="q")
    ours = measure_operating_points(calibration, test, (0.2,), QUICK)
    wanted = [(each.point.wanted_sensitivity, each.is_test_prevalence) for each in ours]
    assert wanted == [(0.8, True), (0.8, False), (0.9, True), (0.9, False)]


def test_other_classes_are_refused() -> None:
    calibration = fit_calibration(drawn_predictions(4))
    test = replace(drawn_predictions(5), classes=("normal", "wheeze", "crackle"))
    with pytest.raises(DataError, match="classes normal, crackle, wheeze; the test rows have normal, wheeze, crackle"):
        measure_calibration(calibration, test, QUICK)
