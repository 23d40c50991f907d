import numpy as np
import pytest

from lungsound.evaluation.bootstrap import (
    Resampling,
    draw_patient_weights,
    estimate_over_patients,
    ratio,
    sums_of_patients,
)
from lungsound.evaluation.metrics import accuracy

PATIENTS = ("b", "a", "b", "c", "b", "c", "d")
VALUES = np.array([1.0, 2.0, 0.5, 4.0, 0.0, 1.0, 3.0])


def test_sums_are_those_of_each_patient() -> None:
    assert sums_of_patients(VALUES, PATIENTS).tolist() == [2.0, 1.5, 5.0, 3.0]


def test_mean_counts_cycles_and_mean_of_patients_counts_patients() -> None:
    resampling = Resampling(num_draws=50)
    assert resampling.mean(VALUES, PATIENTS).value == pytest.approx(11.5 / 7)
    assert resampling.mean_of_patients(VALUES, PATIENTS).value == pytest.approx((2.0 + 0.5 + 2.5 + 3.0) / 4)
    where = np.array([True, False, True, True, False, False, False])
    assert resampling.mean(VALUES, PATIENTS, where=where).value == pytest.approx(5.5 / 3)
    assert resampling.mean_of_patients(VALUES, PATIENTS, where=where).value == pytest.approx((0.75 + 4.0) / 2)
    assert np.isnan(resampling.mean(VALUES, PATIENTS, where=np.zeros(7)).value)


def test_resamples_against_cycles_taken_patient_by_patient() -> None:
    seen = []

    def statistic(sums: np.ndarray) -> np.ndarray:
        seen.append(ratio(sums))
        return seen[-1]

    table = np.stack([VALUES, np.ones(7)], axis=1)
    Resampling(seed=4, num_draws=30).estimate(sums_of_patients(table, PATIENTS), statistic)
    weights = draw_patient_weights(4, generator=np.random.default_rng(4), num_draws=30)
    naive = []
    for draw in weights:
        taken = [v for v, p in zip(VALUES, PATIENTS, strict=True) for _ in range(draw["abcd".index(p)])]
        naive.append(sum(taken) / len(taken))
    assert any(values.shape == (30,) and np.allclose(values, naive, rtol=1e-12) for values in seen)


def test_counts_take_the_same_patients_as_values() -> None:
    cells = np.zeros((7, 2, 2), dtype=np.int64)
    right = np.array([1, 0, 1, 1, 0, 0, 1])
    cells[np.arange(7), 0, 1 - right] = 1
    resampling = Resampling(seed=2, num_draws=400)
    counted = resampling.estimate_counts(cells, PATIENTS, accuracy)
    assert counted == resampling.mean(right, PATIENTS)
    confusions = np.stack([cells[np.array(PATIENTS) == name].sum(axis=0) for name in "abcd"])
    assert counted == estimate_over_patients(confusions, accuracy, generator=np.random.default_rng(2), num_draws=400)
