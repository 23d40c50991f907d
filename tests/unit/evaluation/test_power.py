import math

import numpy as np
import pytest
from scipy import stats

from lungsound.errors import SettingsError
from lungsound.evaluation.bootstrap import Jackknife
from lungsound.evaluation.power import FEWEST_PATIENTS, Study, plan, plan_like_runs
from tests.unit.evaluation.calibrated import drawn_predictions


def power_of_t_test(effect: float, num_patients: int) -> float:
    """Power of the paired t test, two-sided at 5 %, from the noncentral t distribution."""
    limit = stats.t.ppf(0.975, num_patients - 1)
    centre = effect * math.sqrt(num_patients)
    return float(stats.nct.sf(limit, num_patients - 1, centre) + stats.nct.cdf(-limit, num_patients - 1, centre))


def test_patients_needed_against_the_noncentral_t() -> None:
    for effect, power in ((0.2, 0.9), (0.5, 0.8), (0.5, 0.9), (0.8, 0.8)):
        needed = Study(0.2, power=power).patients_needed(0.2 * effect)
        assert needed is not None
        exact = next(n for n in range(3, 2000) if power_of_t_test(effect, n) >= power)
        assert abs(needed - exact) <= 1, (effect, power)
    # 34 pairs for a medium effect of 0.5 at 80 % (Cohen 1988; G*Power gives 34 too).
    assert Study(0.1).patients_needed(0.05) in (33, 34)


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
    number, low, high = plan(Jackknife(0.0, influences - influences.mean(), 39.0, ()), [0.05]).needed[0.05]
    patient_sd = float(influences.std(ddof=1))
    assert number == Study(patient_sd).patients_needed(0.05)
    fewer_degrees, *_ = plan(Jackknife(0.0, influences - influences.mean(), 8.0, ()), [0.05]).needed[0.05]
    assert fewer_degrees == Study(patient_sd, degrees_share=8 / 39).patients_needed(0.05)
    assert number is not None
    assert low is not None
    assert high is not None
    assert fewer_degrees is not None
    assert low < number < min(high, fewer_degrees)
    # The chi-square interval of a normal deviation.
    ends = [
        Study(patient_sd * math.sqrt(39 / stats.chi2.ppf(tail, 39))).patients_needed(0.05) for tail in (0.975, 0.025)
    ]
    assert [low, high] == pytest.approx(ends, rel=0.3)


def test_one_method_and_a_correlation_stand_for_two() -> None:
    runs = [drawn_predictions(0)]
    half, more = (plan_like_runs([runs], [0.05], correlation=rho, power=0.8)[0] for rho in (0.5, 0.875))
    assert more.detectable == pytest.approx(half.detectable / 2)  # the deviation is as sqrt(2 (1 - rho))
    for correlation in (1.0, -1.5, math.nan):
        with pytest.raises(SettingsError, match="a correlation between methods is"):
            plan_like_runs([runs], [0.05], correlation=correlation, power=0.8)


def test_what_cannot_be_planned_from_is_refused() -> None:
    spread = Jackknife(0.0, np.array([-0.1, 0.0, 0.1]), 2.0, ())
    for differences, power in (([0.0], 0.8), ([2.0], 0.8), ([0.05], 1.0)):
        with pytest.raises(SettingsError, match="more than 0 and less than 100 %"):
            plan(spread, differences, power=power)
    with pytest.raises(SettingsError, match="how patients differ cannot be seen"):
        plan(Jackknife(0.0, np.array([np.nan, 0.0]), 1.0, ()), [0.05])
    with pytest.raises(SettingsError, match="all patients pull the value alike"):
        plan(Jackknife(0.0, np.zeros(5), 4.0, ()), [0.05])
