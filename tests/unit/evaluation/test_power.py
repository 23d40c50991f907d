import math

import numpy as np
import pytest
from scipy import stats

from lungsound.errors import SettingsError
from lungsound.evaluation.bootstrap import Jackknife
from lungsound.evaluation.power import FEWEST_PATIENTS, Study, plan, scale_of_two


def power_of_t_test(effect: float, num_patients: int) -> float:
    """Power of the paired t test, two-sided at 5 %, from the noncentral t distribution."""
    limit = stats.t.ppf(0.975, num_patients - 1)
    centre = effect * math.sqrt(num_patients)
    return float(stats.nct.sf(limit, num_patients - 1, centre) + stats.nct.cdf(-limit, num_patients - 1, centre))


@pytest.mark.parametrize("effect", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("power", [0.8, 0.9])
def test_patients_needed_against_the_noncentral_t(effect: float, power: float) -> None:
    needed = Study(0.2, power=power).patients_needed(0.2 * effect)
    assert needed is not None
    exact = next(n for n in range(3, 2000) if power_of_t_test(effect, n) >= power)
    assert abs(needed - exact) <= 1


def test_cohens_number() -> None:
    # 34 pairs for a medium effect of 0.5 at 80 % (Cohen 1988; G*Power gives 34 too).
    assert Study(0.1).patients_needed(0.05) in (33, 34)


def test_half_the_difference_takes_four_times_the_patients() -> None:
    many, few = Study(0.3).patients_needed(0.01), Study(0.3).patients_needed(0.02)
    assert many is not None
    assert few is not None
    assert many / few == pytest.approx(4.0, rel=0.01)


def test_needed_and_detectable_are_one_rule() -> None:
    study = Study(0.25, seed_variance=1e-4)
    needed = study.patients_needed(0.06)
    assert needed is not None
    assert study.detectable(needed) <= 0.06 < study.detectable(needed - 1)


def test_a_difference_below_the_seeds_is_out_of_reach() -> None:
    # The seeds' deviation alone is 1 point: 2.8 points can be found with 80 %, 2 points with no number of patients.
    assert Study(0.2, seed_variance=1e-4).patients_needed(0.02) is None
    assert Study(0.2, seed_variance=1e-4).patients_needed(0.03) is not None
    assert Study(1e-6).patients_needed(0.5) == FEWEST_PATIENTS


def test_plan_has_a_range_from_how_well_the_deviation_is_known() -> None:
    influences = np.random.default_rng(0).normal(0.0, 0.2, 40)
    (row,) = plan(Jackknife(0.0, influences - influences.mean(), 39.0, ()), [0.05]).needed
    patient_sd = float(influences.std(ddof=1))
    assert row.num_patients == Study(patient_sd).patients_needed(0.05)
    (fewer_degrees,) = plan(Jackknife(0.0, influences - influences.mean(), 8.0, ()), [0.05]).needed
    assert fewer_degrees.num_patients == Study(patient_sd, degrees_share=8 / 39).patients_needed(0.05)
    assert fewer_degrees.num_patients is not None
    assert row.num_patients is not None
    assert fewer_degrees.num_patients > row.num_patients
    assert row.low is not None
    assert row.high is not None
    assert row.num_patients is not None
    assert row.low < row.num_patients < row.high
    # The chi-square interval of a normal deviation.
    variance = float(influences.var(ddof=1))
    low, high = (39 * variance / stats.chi2.ppf(tail, 39) for tail in (0.975, 0.025))
    assert row.low == pytest.approx(Study(math.sqrt(low)).patients_needed(0.05), rel=0.3)
    assert row.high == pytest.approx(Study(math.sqrt(high)).patients_needed(0.05), rel=0.3)


def test_two_methods_of_one_score() -> None:
    generator = np.random.default_rng(1)
    pairs = generator.multivariate_normal([0.0, 0.0], [[1.0, 0.7], [0.7, 1.0]], 200_000)
    assert (pairs[:, 0] - pairs[:, 1]).std() == pytest.approx(scale_of_two(0.7), rel=0.01)
    assert scale_of_two(0.5) == pytest.approx(1.0)


@pytest.mark.parametrize("correlation", [1.0, -1.5, math.nan])
def test_a_correlation_that_is_none_is_refused(correlation: float) -> None:
    with pytest.raises(SettingsError, match="a correlation between methods is"):
        scale_of_two(correlation)


def test_what_cannot_be_planned_from_is_refused() -> None:
    spread = Jackknife(0.0, np.array([-0.1, 0.0, 0.1]), 2.0, ())
    for differences, power in (([0.0], 0.8), ([2.0], 0.8), ([0.05], 1.0)):
        with pytest.raises(SettingsError, match="more than 0 and less than 100 %"):
            plan(spread, differences, power=power)
    with pytest.raises(SettingsError, match="how patients differ cannot be seen"):
        plan(Jackknife(0.0, np.array([np.nan, 0.0]), 1.0, ()), [0.05])
    with pytest.raises(SettingsError, match="all patients pull the value alike"):
        plan(Jackknife(0.0, np.zeros(5), 4.0, ()), [0.05])
