import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.calibration import softmax
from lungsound.evaluation.calibration_error import (
    NUM_BINS,
    bin_differences,
    brier_parts,
    brier_scores,
    class_wise_error,
    equal_mass_edges,
    equal_width_edges,
    error_of_differences,
    probability_errors,
    top_label_error,
)

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
    width, mass = equal_width_edges(), equal_mass_edges(top)
    seen = top_label_error(probabilities, labels, patients, bootstrap=QUICK).seen
    assert seen == pytest.approx(naive_ece(top, right, width), rel=1e-12)
    seen = top_label_error(probabilities, labels, patients, bootstrap=QUICK, is_equal_mass=True).seen
    assert seen == pytest.approx(naive_ece(top, right, mass), rel=1e-12)
    seen = class_wise_error(probabilities, labels, patients, bootstrap=QUICK).seen
    naive = [naive_ece(probabilities[:, k], (labels == k).astype(float), width) for k in range(3)]
    assert seen == pytest.approx(sum(naive) / 3, rel=1e-12)


def test_bins_against_scikit_learn() -> None:
    probabilities, labels, _ = drawn(np.random.default_rng(1), 20, 1.0, num_classes=2)
    values, hits = probabilities[:, 1], labels == 1
    shares, means = calibration_curve(hits, values, n_bins=NUM_BINS)
    counts = np.histogram(values, equal_width_edges())[0]
    expected = (np.abs(shares - means) * counts[counts > 0]).sum() / len(values)
    # Both classes' errors mirror each other, so the class-wise one is that of either.
    ours = class_wise_error(probabilities, labels, tuple("ab" * 500)[: len(labels)], bootstrap=QUICK)
    assert ours.seen == pytest.approx(expected, rel=1e-12)


def test_equal_mass_bins_hold_equally_many() -> None:
    values = np.random.default_rng(2).random(1000)
    assert np.histogram(values, equal_mass_edges(values))[0].tolist() == pytest.approx([100] * 10, abs=1)


def test_closed_forms() -> None:
    # Says 0.9, is right in 6 of 10 cycles of every patient.
    probabilities, labels = np.tile([0.9, 0.1], (100, 1)), np.tile([0] * 6 + [1] * 4, 10)
    patients = tuple(f"p{i // 10}" for i in range(100))
    ours = top_label_error(probabilities, labels, patients, bootstrap=QUICK)
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
    few = error_of_differences(np.tile([[0.1], [0.3]], (9, 1)), patients, bootstrap=QUICK)
    assert few.seen == pytest.approx(0.2)
    assert few.problem == f"too few patients ({num_patients} of 10)"
    assert few.corrected_in_percent() == f"n/a: too few patients ({num_patients} of 10)"
    interval = few.corrected.interval
    assert all(map(math.isnan, (few.by_chance, few.corrected.value, interval.low, interval.high)))


def test_a_perfect_fit_is_not_below_zero() -> None:
    nothing = error_of_differences(np.zeros((10, 3)), tuple("abcdefghij"), bootstrap=QUICK)
    assert nothing.problem is None
    assert nothing.corrected_in_percent() == "0.0 (0.0 to 0.0)"
    assert (nothing.seen, nothing.corrected.value, nothing.corrected.interval.high) == (0.0, 0.0, 0.0)


def test_the_same_seed_gives_the_same_golden_numbers() -> None:
    errors = probability_errors(*drawn(np.random.default_rng(6), 25, 2.0), bootstrap=Bootstrap(num_draws=500))
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
        first = top_label_error(probabilities, labels, patients, bootstrap=bootstrap).corrected.interval
        second = bootstrap.mean(brier_scores(probabilities, labels), patients).interval
        held += [first.low <= ece <= first.high, second.low <= brier <= second.high]
    return float(held[0] / num_sets), float(held[1] / num_sets)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_intervals_hold_the_truth_in_about_95_of_100_sets(temperature: float) -> None:
    assert min(coverage(temperature, 40, 100, 200)) >= 0.88


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.5, 2.5])
@pytest.mark.parametrize("num_patients", [10, 30, 60])
def test_intervals_hold_the_truth_in_93_to_97_percent_of_1000_sets(temperature: float, num_patients: int) -> None:
    ece, brier = coverage(temperature, num_patients, 1000, 1000)
    assert (0.93 if num_patients > 10 else 0.92) <= ece <= 0.97
    assert 0.93 <= brier <= 0.97
