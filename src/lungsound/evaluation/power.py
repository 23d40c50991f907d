"""Number of patients that a comparison needs, so that a difference of Scores of a given size is found.

A t test of what single patients contribute to the difference d: the least n with

    (t(1 - alpha / 2) + t(power))^2 (sd^2 / n + s) <= d^2

where `sd` is the deviation of the patients' influences and `s` what the chance of training adds to the variance. The
first quantile has as many degrees of freedom, for each patient, as the given predictions have: it stands for the
interval of the verdict, which is wider when few patients carry the difference. More patients do not lessen `s`: a
difference may be out of reach of any number.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from lungsound.errors import SettingsError
from lungsound.evaluation.bootstrap import (
    LEVEL,
    Bootstrap,
    Jackknife,
    Weights,
    confusions_by_part,
    expanded_quantile,
    jackknife,
    value_of_runs,
)
from lungsound.evaluation.metrics import Fractions, mean_score
from lungsound.evaluation.predictions import Predictions

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
    power: float = 0.8
    level: float = LEVEL

    @classmethod
    def like(cls, spread: Jackknife, *, power: float = 0.8) -> "Study":
        """With patients like those of a jackknife."""
        share = spread.degrees / (len(spread.influences) - 1)
        return cls(spread.patient_sd, share, spread.seed_variance, power)

    def detectable(self, num_patients: int) -> float:
        """Least difference (a fraction) that so many patients, two or more, find with this power."""
        most = num_patients - 1.0
        degrees = max(1.0, self.degrees_share * most)
        # The interval is wider than a t interval by sqrt((degrees + 1) / degrees), 1 here for a share of 1.
        steps = expanded_quantile(degrees, level=self.level) * math.sqrt(most / num_patients)
        steps += float(stdtrit(most, self.power))  # Student's quantile
        return steps * math.sqrt(self.patient_sd**2 / num_patients + self.seed_variance)

    def patients_needed(self, difference: float) -> int | None:
        """Least number of patients with which the difference is found; None when no number up to a million is."""
        sizes = range(FEWEST_PATIENTS, MOST_PATIENTS + 1)
        place = bisect_left(sizes, True, key=lambda num_patients: self.detectable(num_patients) <= difference)
        return sizes[place] if place < len(sizes) else None


@dataclass(frozen=True)
class Plan:
    """Least difference (a fraction) that the patients of one part of the test find, and the patients that others need.

    `needed` has for each difference the number, and its ends by the interval of the deviation; None beyond a million.
    """

    part: str
    num_patients: int
    detectable: float
    needed: dict[float, tuple[int | None, int | None, int | None]]


def plan(
    spread: Jackknife, differences: Sequence[float], *, part: str = "", scale: float = 1.0, power: float = 0.8
) -> Plan:
    """Patients for each difference, with influences times `scale`. SettingsError for ones that allow no plan."""
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

    interval = Bootstrap().estimate(deviation, num_patients).interval
    study, low, high = (
        replace(Study.like(spread, power=power), patient_sd=scale * sd)
        for sd in (spread.patient_sd, interval.low, interval.high)
    )
    num_of, least, most = study.patients_needed, low.patients_needed, high.patients_needed
    needed = {each: (num_of(each), least(each), most(each)) for each in differences}
    return Plan(part, num_patients, study.detectable(num_patients), needed)


def plan_like_runs(
    sides: Sequence[Sequence[Predictions]], differences: Sequence[float], *, correlation: float, power: float
) -> list[Plan]:
    """Plans for each part of the test, from the runs of two methods on the same cycles, or of one and a correlation."""
    if not -1.0 <= correlation < 1.0:
        raise SettingsError(f"a correlation between methods is -1 to less than 1; got {correlation}")
    # Of two influences with equal deviations, that of their difference.
    scale = math.sqrt(2.0 * (1.0 - correlation)) if len(sides) == 1 else 1.0
    plans = []
    for part in sorted(set(sides[0][0].parts)):
        first, *second = (value_of_runs(confusions_by_part(runs, [part])[:, :, 0], mean_score) for runs in sides)
        num_patients = len(set(sides[0][0].of_part(part).patients))
        if num_patients < 2:
            raise SettingsError("a part of the test has one patient: how patients differ cannot be seen")
        spread = jackknife(first, num_patients, minus=second[0] if second else None)
        plans.append(plan(spread, differences, part=part, scale=scale, power=power))
    return plans
