"""An operating point: a wanted sensitivity for abnormal cycles, the threshold it needs, and what that costs.

A cycle is called abnormal when P(abnormal) = 1 - P(normal) reaches the threshold, whichever abnormal class it is. The
threshold comes from validation patients; sensitivity, specificity and predictive values are measured on others.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lungsound.evaluation.calibration.patient_sums import Floats, Resampling
from lungsound.evaluation.calibration.scaling import Labels
from lungsound.evaluation.metrics import Counts, Fractions, sensitivity, specificity
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.uncertainty import FEW_PATIENTS, Estimate, Statistic

WANTED_SENSITIVITY = 0.9
_ROUNDING = 1e-9


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on P(abnormal), what it was chosen for, and on how many abnormal cycles of how many patients."""

    wanted_sensitivity: float
    threshold: float
    validation_sensitivity: float
    validation_specificity: float
    num_abnormal: int
    num_abnormal_patients: int

    @property
    def problem(self) -> str | None:
        """Why the threshold should not be leant on; None when nothing speaks against it."""
        if self.num_abnormal_patients >= FEW_PATIENTS:
            return None
        return (
            f"validation has abnormal cycles of only {self.num_abnormal_patients} patients (at least {FEW_PATIENTS} "
            "are needed): the threshold may be far off for other patients"
        )


@dataclass(frozen=True)
class OperatingMeasures:
    """What a threshold gives on the cycles of a test part; the predictive values are for `prevalence`.

    `prevalence` is the share of abnormal cycles where the model is to be used; it may be that of the test part itself.
    """

    point: OperatingPoint
    sensitivity: Estimate
    specificity: Estimate
    prevalence: float
    ppv: Estimate
    npv: Estimate
    is_test_prevalence: bool


def abnormal_probability(probabilities: Floats) -> Floats:
    """P(abnormal) `(...)` of probabilities `(..., class)`: class 0 is normal."""
    return np.asarray(1.0 - probabilities[..., 0])


def choose_operating_point(
    probabilities: Floats, labels: Labels, patients: tuple[str, ...], *, sensitivity: float = WANTED_SENSITIVITY
) -> OperatingPoint | None:
    """The largest threshold whose sensitivity on these validation cycles reaches what is wanted.

    On other patients the sensitivity is as often below what is wanted as above. None without abnormal cycles.
    """
    if not 0.0 < sensitivity <= 1.0:
        raise ValueError(f"a wanted sensitivity lies above 0 and not above 1; got {sensitivity}")
    scores, is_abnormal = abnormal_probability(probabilities), labels > 0
    num_abnormal = int(is_abnormal.sum())
    if num_abnormal == 0:
        return None
    num_needed = max(1, int(np.ceil(sensitivity * num_abnormal - _ROUNDING)))
    threshold = float(-np.sort(-scores[is_abnormal])[num_needed - 1])
    is_called = scores >= threshold
    is_normal = ~is_abnormal
    return OperatingPoint(
        wanted_sensitivity=sensitivity,
        threshold=threshold,
        validation_sensitivity=float(is_called[is_abnormal].mean()),
        validation_specificity=float((~is_called[is_normal]).mean()) if is_normal.any() else float("nan"),
        num_abnormal=num_abnormal,
        num_abnormal_patients=len({name for name, flag in zip(patients, is_abnormal, strict=True) if flag}),
    )


def measure_operating_point(
    point: OperatingPoint,
    probabilities: Floats,
    predictions: Predictions,
    *,
    prevalence: float | None = None,
    resampling: Resampling,
) -> OperatingMeasures:
    """Sensitivity, specificity and predictive values of a threshold on calibrated probabilities `(cycle, class)`.

    Without a `prevalence` (between 0 and 1) that of the cycles themselves is taken. Intervals of the predictive values
    hold for a known prevalence: only sensitivity and specificity are uncertain.
    """
    if prevalence is not None and not 0.0 < prevalence < 1.0:
        raise ValueError(f"a prevalence lies between 0 and 1; got {prevalence}")
    is_abnormal = (predictions.labels > 0).astype(np.int64)
    is_called = (abnormal_probability(probabilities) >= point.threshold).astype(np.int64)
    cells = np.zeros((len(is_called), 2, 2), dtype=np.int64)
    cells[np.arange(len(cells)), is_abnormal, is_called] = 1

    def estimate(statistic: Statistic) -> Estimate:
        return resampling.estimate_counts(cells, predictions.patients, statistic)

    share = float(is_abnormal.mean()) if prevalence is None else prevalence
    return OperatingMeasures(
        point,
        sensitivity=estimate(sensitivity),
        specificity=estimate(specificity),
        prevalence=share,
        ppv=estimate(lambda counts: predictive_values(counts, share)[0]),
        npv=estimate(lambda counts: predictive_values(counts, share)[1]),
        is_test_prevalence=prevalence is None,
    )


def predictive_values(confusion: Counts, prevalence: float) -> tuple[Fractions, Fractions]:
    """PPV and NPV `(...)` at a prevalence, by Bayes' rule from counts `(..., true, called)`; NaN without calls."""
    found, spared = sensitivity(confusion), specificity(confusion)
    return (
        _share(found * prevalence, (1.0 - spared) * (1.0 - prevalence)),
        _share(spared * (1.0 - prevalence), (1.0 - found) * prevalence),
    )


def _share(part: npt.ArrayLike, rest: npt.ArrayLike) -> Floats:
    one = np.asarray(part, dtype=np.float64)
    whole = one + np.asarray(rest, dtype=np.float64)
    return np.asarray(np.divide(one, whole, out=np.full(whole.shape, np.nan), where=whole > 0))
