"""How many patients a comparison needs, so that a difference of Scores of a given size is found.

A t test of what single patients contribute to the difference d: the least n with

    (t(1 - alpha / 2) + t(power))^2 (sd^2 / n + s) <= d^2

where `sd` is the deviation of the patients' influences and `s` what the chance of training adds to the variance. The
first quantile has as many degrees of freedom, for each patient, as the given predictions have: it stands for the
interval of the verdict, which is wider when few patients carry the difference. All this holds for patients like those
of the given predictions. More patients do not lessen `s`: a difference may be out of reach of any number.

On simulated corpora of the size planned for a power of 80 % the verdict told the methods apart in 76 % of 2,000 sets
(`tests/unit/evaluation/comparison/test_simulated.py`): take a few patients more than the number says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lungsound.errors import SettingsError
from lungsound.evaluation.bootstrap import (
    LEVEL,
    NUM_DRAWS,
    Spread,
    Weights,
    interval_over_patients,
    spread_over_patients,
    t_quantile,
    value_of_runs,
)
from lungsound.evaluation.metrics import Counts, Fractions, mean_score

POWER = 0.8
# Below 6 the permutation test has no p under 0.05; above the most there is no such study.
FEWEST_PATIENTS, MOST_PATIENTS = 6, 10**6


@dataclass(frozen=True)
class PatientsNeeded:
    """Patients that a difference (a fraction) needs; None when no number up to a million is enough.

    `low` and `high` come from the interval of the deviation between patients, itself known from few.
    """

    difference: float
    num_patients: int | None
    low: int | None
    high: int | None


def patients_needed(
    patient_sd: float,
    difference: float,
    *,
    degrees_share: float = 1.0,
    seed_variance: float = 0.0,
    power: float = POWER,
    level: float = LEVEL,
) -> int | None:
    """Least number of patients with which the difference is found with this power; None when none is enough."""

    def is_enough(num_patients: int) -> bool:
        least = detectable(
            patient_sd,
            num_patients,
            degrees_share=degrees_share,
            seed_variance=seed_variance,
            power=power,
            level=level,
        )
        return least <= difference

    if not is_enough(MOST_PATIENTS):
        return None
    low, high = FEWEST_PATIENTS - 1, MOST_PATIENTS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def detectable(
    patient_sd: float,
    num_patients: int,
    *,
    degrees_share: float = 1.0,
    seed_variance: float = 0.0,
    power: float = POWER,
    level: float = LEVEL,
) -> float:
    """Least difference (a fraction) that so many patients, two or more, find with this power.

    `degrees_share` is that of the n - 1 degrees of freedom which the patients' differences support.
    """
    most = num_patients - 1.0
    degrees = max(1.0, degrees_share * most)
    # What the interval is wider by than a t interval (see uncertainty.percentile_interval); 1 for a share of 1.
    widened = math.sqrt((degrees + 1.0) / degrees * most / num_patients)
    steps = t_quantile((1.0 + level) / 2.0, degrees) * widened + t_quantile(power, most)
    return steps * math.sqrt(patient_sd**2 / num_patients + seed_variance)


def degrees_share(spread: Spread) -> float:
    """Which share of the n - 1 degrees of freedom the patients' influences support."""
    return spread.degrees / (len(spread.influences) - 1)


def plan(
    spread: Spread,
    differences: Sequence[float],
    *,
    scale: float = 1.0,
    power: float = POWER,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
    level: float = LEVEL,
) -> tuple[PatientsNeeded, ...]:
    """Patients for each difference; the deviation is that of the influences times `scale`.

    Raises SettingsError when the influences are not known, or a difference or the power is not a share of 1.
    """
    if not all(0.0 < value < 1.0 for value in (*differences, power)):
        raise SettingsError(f"differences and power are more than 0 and less than 100 %; got {differences}, {power}")
    influences, num_patients = spread.influences, len(spread.influences)
    if not np.isfinite(influences).all():
        raise SettingsError("one patient has all normal or all abnormal cycles: how patients differ cannot be seen")
    if spread.patient_sd == 0.0:
        raise SettingsError("all patients pull the value alike (one class is always answered?): nothing to plan from")

    def deviation(weights: Weights) -> Fractions:
        means = (weights @ influences)[:, None] / num_patients
        return np.asarray(np.sqrt((weights * (influences - means) ** 2).sum(axis=1) / (num_patients - 1)))

    def needed(patient_sd: float, difference: float) -> int | None:
        return patients_needed(
            scale * patient_sd,
            difference,
            degrees_share=degrees_share(spread),
            seed_variance=spread.seed_variance,
            power=power,
            level=level,
        )

    generator = np.random.default_rng(seed)
    interval = interval_over_patients(deviation, num_patients, generator=generator, num_draws=num_draws, level=level)
    return tuple(
        PatientsNeeded(d, needed(spread.patient_sd, d), needed(interval.low, d), needed(interval.high, d))
        for d in differences
    )


def score_spread(runs: Counts) -> Spread:
    """Spread of one method's Score; `runs` is `(seed, patient, true class, answered class)`, two patients or more."""
    return spread_over_patients(value_of_runs(runs, mean_score), runs.shape[1])


def scale_of_two(correlation: float) -> float:
    """Deviation of a difference over that of one Score, when the influences of two methods have this correlation."""
    if not -1.0 <= correlation < 1.0:
        raise SettingsError(f"a correlation between methods is -1 to less than 1; got {correlation}")
    return math.sqrt(2.0 * (1.0 - correlation))
