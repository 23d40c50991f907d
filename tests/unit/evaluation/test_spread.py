import math

import numpy as np
import pytest
from scipy import stats

from lungsound.evaluation.bootstrap import (
    Spread,
    effective_degrees,
    leave_one_out_weights,
    spread_over_patients,
    t_quantile,
)


@pytest.mark.parametrize("degrees", [1.0, 1.3, 2.0, 5.5, 30.0, 400.0])
@pytest.mark.parametrize("probability", [0.005, 0.025, 0.5, 0.8, 0.975, 0.9995])
def test_t_quantile_against_scipy(probability: float, degrees: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=3e-3, abs=1e-9)


def test_leave_one_out_weights_take_all_but_one() -> None:
    assert leave_one_out_weights(3).tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


def mean_of(values: np.ndarray):  # type: ignore[no-untyped-def]
    return lambda weights: weights @ values / weights.sum(axis=1, keepdims=values.ndim == 2)


def test_patient_sd_of_a_mean_is_the_deviation_of_the_values() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 30)
    spread = spread_over_patients(mean_of(values), 30)
    assert spread.value == pytest.approx(values.mean())
    assert spread.patient_sd == pytest.approx(values.std(ddof=1))
    np.testing.assert_allclose(spread.influences, values - values.mean(), atol=1e-12)
    assert spread.seed_variances == ()
    assert spread.seed_variance == 0.0


def test_degrees_are_those_of_the_kurtosis_at_most_n_minus_1() -> None:
    values = np.random.default_rng(1).standard_t(4, 50)
    kurtosis = stats.kurtosis(values, fisher=False)
    expected = 1 / math.sqrt(((kurtosis - 1) / 100) ** 2 + (1 / 49) ** 2)
    assert effective_degrees(values) == pytest.approx(expected)
    assert effective_degrees(3 * values + 7) == pytest.approx(expected)
    assert effective_degrees(np.array([1.0, -1.0] * 10)) == pytest.approx(19.0)
    assert effective_degrees(np.ones(8)) == 7.0
    # One patient that all rests on, be it far off or be there no value without it.
    assert effective_degrees(np.array([9.0] + [0.0] * 19)) < 2.5
    assert effective_degrees(np.array([np.nan] + [0.5] * 19)) == pytest.approx(
        effective_degrees(np.array([9.0] + [0.0] * 19))
    )


def test_seed_variance_is_that_between_seeds_less_what_patients_share() -> None:
    # A two-way layout: value = patient + seed + noise of both; the mean over many sets is the seeds' own variance / S.
    generator, found = np.random.default_rng(2), []
    for _ in range(400):
        noise = generator.normal(0.0, 2.0, (30, 3))
        values = generator.normal(0.0, 1.0, (30, 1)) + generator.normal(0.0, 1.0, (1, 3)) + noise
        spread = spread_over_patients(mean_of(values), 30)
        ((variance, degrees),) = spread.seed_variances
        assert degrees == 2
        residues = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
        shared = (residues**2).sum() / (29 * 2) / 30
        assert variance == pytest.approx(max(0.0, values.mean(axis=0).var(ddof=1) - shared) / 3)
        found.append(variance)
    assert np.mean(found) == pytest.approx(1.0 / 3.0, rel=0.15)


def test_a_difference_has_the_seeds_of_both_sides() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.normal(size=(20, 3)), generator.normal(size=(20, 5))
    spread = spread_over_patients(mean_of(first), 20, minus=mean_of(second))
    assert spread.value == pytest.approx(first.mean() - second.mean())
    assert [degrees for _, degrees in spread.seed_variances] == [2, 4]
    per_patient = first.mean(axis=1) - second.mean(axis=1)
    assert spread.patient_sd == pytest.approx(per_patient.std(ddof=1))


def test_joint_degrees_by_hand() -> None:
    spread = Spread(0.5, np.zeros(10), 9.0, ((0.04, 2), (0.01, 4)))
    expected = 0.10**2 / (0.05**2 / 9 + 0.04**2 / 2 + 0.01**2 / 4)
    assert spread.joint_degrees(0.05) == pytest.approx(expected)
    assert Spread(0.5, np.zeros(10), 9.0, ()).joint_degrees(0.05) == pytest.approx(9.0)
    assert Spread(0.5, np.zeros(10), 9.0, ()).joint_degrees(0.0) == 9.0
