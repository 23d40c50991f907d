"""Abstaining on the least sure answers: risk-coverage curve, its area, a threshold chosen on validation patients.

A cycle's confidence is the probability of the answered class. Coverage is the share of cycles that are answered, risk
the share of wrong answers among them. Cycles of equal confidence are answered together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lungsound.evaluation.calibration.patient_sums import Floats, Resampling, device_groups
from lungsound.evaluation.calibration.scaling import Labels
from lungsound.evaluation.metrics import mean_score
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.spread import Weights
from lungsound.evaluation.uncertainty import Estimate

# Unless asked otherwise, the threshold is chosen to answer four cycles of five: always within reach, unlike an error.
WANTED_COVERAGE = 0.8
# An error that is kept on the cycles of fewer patients says nothing of others.
MIN_ANSWERED_PATIENTS = 5
_DRAWS_AT_ONCE = 100
_ROUNDING = 1e-9

Wanted = Literal["coverage", "error"]


@dataclass(frozen=True)
class AbstainThreshold:
    """Answers with less confidence than `threshold` are withheld; what it was chosen for and gave on validation."""

    threshold: float
    wanted: Wanted
    wanted_value: float
    validation_coverage: float
    validation_error: float


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """The curve, from the most confident cycles to all: entries `(step,)` at each confidence that occurs."""

    thresholds: Floats
    coverage: Floats
    risk: Floats


@dataclass(frozen=True)
class AbstainMeasures:
    """What a threshold did to the cycles of one device, or to all: shares, and the Score of the answered cycles."""

    group: str
    num_cycles: int
    num_patients: int
    coverage: Estimate
    error: Estimate
    score: Estimate


def confidence_of(probabilities: Floats) -> Floats:
    """Probability of the answered class `(...)`."""
    return np.asarray(probabilities.max(axis=-1))


def risk_coverage(confidence: Floats, is_wrong: npt.NDArray[np.bool_]) -> RiskCoverage:
    """The curve of cycles `(cycle,)`."""
    order = np.argsort(-confidence, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(confidence[order])), len(order) - 1)
    num_answered = ends + 1.0
    num_wrong = np.cumsum(is_wrong[order])[ends]
    return RiskCoverage(confidence[order][ends], num_answered / len(order), num_wrong / num_answered)


def choose_threshold(
    confidence: Floats,
    is_wrong: npt.NDArray[np.bool_],
    patients: Sequence[str],
    *,
    wanted: Wanted = "coverage",
    value: float = WANTED_COVERAGE,
) -> AbstainThreshold | None:
    """The threshold that reaches a coverage with the fewest answers, or keeps to an error with the most.

    None when no threshold keeps the error with answers for at least 5 patients. An error kept on validation is a
    little optimistic: it was looked for.
    """
    if not 0.0 < value <= 1.0:
        raise ValueError(f"a wanted {wanted} lies above 0 and not above 1; got {value}")
    curve = risk_coverage(confidence, is_wrong)
    if wanted == "coverage":
        steps = np.flatnonzero(curve.coverage >= value - _ROUNDING)[:1]
    else:
        steps = np.flatnonzero(curve.risk <= value + _ROUNDING)[-1:]
    if not steps.size:
        return None
    step = steps[0]
    threshold = float(curve.thresholds[step])
    answered = {name for name, sure in zip(patients, confidence.tolist(), strict=True) if sure >= threshold}
    if wanted == "error" and len(answered) < MIN_ANSWERED_PATIENTS:
        return None
    return AbstainThreshold(threshold, wanted, value, float(curve.coverage[step]), float(curve.risk[step]))


def area_under_risk_coverage(
    confidence: Floats, is_wrong: npt.NDArray[np.bool_], patients: Sequence[str], *, resampling: Resampling
) -> Estimate:
    """Mean over cycles of the risk of answering all that are as confident (Geifman et al. 2019), with its interval."""
    names, patient = np.unique(np.array(patients), return_inverse=True)
    order = np.argsort(-confidence, kind="stable")
    wrong, patient = is_wrong[order].astype(np.float64), patient[order]
    # For each cycle the last one that is as confident: there its risk is read.
    ends = np.searchsorted(-confidence[order], -confidence[order], side="right") - 1

    def areas(weights: Weights) -> Floats:
        times = weights[:, patient].astype(np.float64)
        answered, misses = np.cumsum(times, axis=1)[:, ends], np.cumsum(times * wrong, axis=1)[:, ends]
        risk = np.divide(misses, answered, out=np.zeros_like(answered), where=answered > 0)
        return np.asarray((times * risk).sum(axis=1) / times.sum(axis=1))

    def value_of(weights: Weights) -> Floats:
        parts = [areas(weights[start : start + _DRAWS_AT_ONCE]) for start in range(0, len(weights), _DRAWS_AT_ONCE)]
        return np.concatenate(parts)

    return resampling.estimate_weighted(value_of, len(names))


def measure_abstaining(
    is_answered: npt.NDArray[np.bool_], answers: Labels, predictions: Predictions, *, resampling: Resampling
) -> tuple[AbstainMeasures, ...]:
    """Coverage, error and Score of the answered cycles `(cycle,)`: of all, and by device when there are two."""
    patients = np.array(predictions.patients)
    num_classes = len(predictions.classes)
    is_wrong = answers != predictions.labels

    def measure(group: str, where: npt.NDArray[np.bool_]) -> AbstainMeasures:
        members = tuple(patients[where].tolist())
        is_kept = is_answered[where]
        cells = np.zeros((int(where.sum()), num_classes, num_classes), dtype=np.int64)
        cells[np.arange(len(cells)), predictions.labels[where], answers[where]] = is_kept
        return AbstainMeasures(
            group,
            len(cells),
            len(set(members)),
            coverage=resampling.mean(is_kept, members),
            error=resampling.mean(is_wrong[where], members, where=is_kept),
            score=resampling.estimate_counts(cells, members, mean_score),
        )

    groups = [measure(name, where) for name, where in device_groups(predictions)]
    return (measure("all cycles", np.ones(len(patients), dtype=np.bool_)), *groups)
