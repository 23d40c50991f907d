"""Number of patients that a comparison needs, so that a difference of Scores of a given size is found.

A t test of what single patients contribute to the difference d: the least n with

    (t(1 - alpha / 2) + t(power))^2 (sd^2 / n + s) <= d^2

where `sd` is the deviation of the patients' influences and `s` what the chance of training adds to the variance. The
first quantile has as many degrees of freedom, for each patient, as the given predictions have: it stands for the
interval of the verdict, which is wider when few patients carry the difference. All this holds for patients like those
of the given predictions. More patients do not lessen `s`: a difference may be out of reach of any number.

On simulated corpora of the size planned for a power of 80 % the verdict told the methods apart in 76 % of 2,000 sets
(`tests/unit/evaluation/test_simulated.py`): take a few patients more than the number says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lungsound.errors import SettingsError
from lungsound.evaluation.bootstrap import (
    LEVEL,
    Bootstrap,
    Jackknife,
    Weights,
    expanded_quantile,
    jackknife,
    student_t_quantile,
    value_of_runs,
)
from lungsound.evaluation.compare import on_same_cycles
from lungsound.evaluation.metrics import Fractions, mean_score
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.selection import confusions_of

POWER = 0.8
# Below 6 the permutation test has no p under 0.05; above the most there is no such study.
FEWEST_PATIENTS, MOST_PATIENTS = 6, 10**6


@dataclass(frozen=True)
class Study:
    """A comparison planned for patients whose influences on the difference have this deviation.

    `degrees_share` is the share of the n - 1 degrees of freedom which the patients' influences support, `seed_variance`
    what the chance of training adds to the variance.
    """

    patient_sd: float
    degrees_share: float = 1.0
    seed_variance: float = 0.0
    power: float = POWER
    level: float = LEVEL

    @classmethod
    def like(cls, spread: Jackknife, *, scale: float = 1.0, power: float = POWER) -> "Study":
        """With patients like those of a jackknife; the deviation is that of their influences times `scale`."""
        share = spread.degrees / (len(spread.influences) - 1)
        return cls(scale * spread.patient_sd, share, spread.seed_variance, power)

    def detectable(self, num_patients: int) -> float:
        """Least difference (a fraction) that so many patients, two or more, find with this power."""
        most = num_patients - 1.0
        degrees = max(1.0, self.degrees_share * most)
        # The interval is wider than a t interval by sqrt((degrees + 1) / degrees), 1 here for a share of 1.
        steps = expanded_quantile(degrees, level=self.level) * math.sqrt(most / num_patients)
        steps += student_t_quantile(self.power, most)
        return steps * math.sqrt(self.patient_sd**2 / num_patients + self.seed_variance)

    def patients_needed(self, difference: float) -> int | None:
        """Least number of patients with which the difference is found; None when no number up to a million is."""
        if self.detectable(MOST_PATIENTS) > difference:
            return None
        low, high = FEWEST_PATIENTS - 1, MOST_PATIENTS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.detectable(middle) <= difference else (middle, high)
        return high


@dataclass(frozen=True)
class PatientsNeeded:
    """Patients that a difference (a fraction) needs; None when no number up to a million is enough.

    `low` and `high` come from the interval of the deviation between patients, itself known from few.
    """

    difference: float
    num_patients: int | None
    low: int | None
    high: int | None


@dataclass(frozen=True)
class Plan:
    """Plan of a comparison on one part of the test: what its patients find, and how many each difference needs."""

    part: str
    num_patients: int
    detectable: float
    needed: tuple[PatientsNeeded, ...]


def plan(
    spread: Jackknife,
    differences: Sequence[float],
    *,
    part: str = "",
    scale: float = 1.0,
    power: float = POWER,
    bootstrap: Bootstrap | None = None,
) -> Plan:
    """Patients for each difference; the deviation is that of the influences times `scale`.

    Raises SettingsError when the influences are not known, or a difference or the power is not a share of 1.
    """
    if not all(0.0 < value < 1.0 for value in (*differences, power)):
        raise SettingsError(f"differences and power are more than 0 and less than 100 %; got {differences}, {power}")
    influences, num_patients = spread.influences, len(spread.influences)
    if not np.isfinite(influences).all():
        raise SettingsError("one patient has all normal or all abnormal cycles: how patients differ cannot be seen")
    if spread.patient_sd == 0.0:
        raise SettingsError("all patients pull the value alike (is one class predicted always?): nothing to plan from")

    def deviation(weights: Weights) -> Fractions:
        means = (weights @ influences)[:, None] / num_patients
        return np.asarray(np.sqrt((weights * (influences - means) ** 2).sum(axis=1) / (num_patients - 1)))

    study = Study.like(spread, scale=scale, power=power)
    interval = (bootstrap or Bootstrap()).estimate(deviation, num_patients).interval
    studies = [study, *(replace(study, patient_sd=scale * sd) for sd in (interval.low, interval.high))]
    needed = [PatientsNeeded(each, *(study.patients_needed(each) for study in studies)) for each in differences]
    return Plan(part, num_patients, study.detectable(num_patients), tuple(needed))


def plan_like_runs(
    first: Sequence[Predictions],
    second: Sequence[Predictions] | None,
    differences: Sequence[float],
    *,
    names: tuple[str, str] = ("A", "B"),
    correlation: float,
    power: float = POWER,
    is_common_only: bool = False,
) -> list[Plan]:
    """Plans for each part of the test, from the runs of two methods or from one's and a correlation."""
    sides = [list(first)] if second is None else on_same_cycles(first, second, names, is_common_only=is_common_only)
    scale = scale_of_two(correlation) if second is None else 1.0
    plans = []
    for part in sorted(set(sides[0][0].parts)):
        values = [value_of_runs(confusions_of([run.of_part(part) for run in runs]), mean_score) for runs in sides]
        num_patients = len(set(sides[0][0].of_part(part).patients))
        if num_patients < 2:
            raise SettingsError("a part of the test has one patient: how patients differ cannot be seen")
        spread = jackknife(values[0], num_patients, minus=values[1] if len(values) > 1 else None)
        plans.append(plan(spread, differences, part=part, scale=scale, power=power))
    return plans


def scale_of_two(correlation: float) -> float:
    """Deviation of a difference over that of one Score, when the influences of two methods have this correlation."""
    if not -1.0 <= correlation < 1.0:
        raise SettingsError(f"a correlation between methods is -1 to less than 1; got {correlation}")
    return math.sqrt(2.0 * (1.0 - correlation))
