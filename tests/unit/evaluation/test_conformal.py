import numpy as np
import numpy.typing as npt
import pytest

from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.calibration import (
    ConformalThresholds,
    fit_thresholds,
    measure_sets,
    patient_threshold,
    patients_needed,
    softmax,
)
from lungsound.evaluation.predictions import Predictions

Floats = npt.NDArray[np.float64]


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
    thresholds = ConformalThresholds(0.9, 0.6, (0.9, 0.0, 0.3), 30, (30, 4, 20))
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
    whole, by_class, by_device = measure_sets(sets, predictions, bootstrap=Bootstrap(num_draws=50))
    assert whole.of_cycles.value == pytest.approx(4 / 6)
    assert whole.promised.value == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert whole.size.value == pytest.approx(10 / 6)
    assert [(m.group, m.num_cycles, m.num_patients) for m in by_class] == [("normal", 3, 2), ("crackle", 3, 3)]
    assert by_class[0].promised.value == pytest.approx((1.0 + 0.0) / 2)
    assert [(m.group, m.of_cycles.value) for m in by_device] == [("unknown device", 2 / 3), ("x", 2 / 3)]
