"""Calibration of a model's probabilities, fitted on validation patients and kept with the model.

Temperature scaling (Guo et al., ICML 2017), softmax(log p / T), never changes the most probable class. All thresholds
are set on probabilities scaled without the patient's own fold, as those of a new patient are. Prediction sets are split
conformal (LAC, Sadinle et al. 2019). Patients are exchangeable, their cycles are not: each validation patient weighs
the same, and a new one, as one more, counts as never covered (hierarchical conformal prediction, Lee, Barber and
Willett 2023). `docs/evaluation.md` says what the sets promise, and what they do not.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lungsound.evaluation.bootstrap import FEW_PATIENTS
from lungsound.evaluation.predictions import Predictions, abnormal_classes, predicted_classes

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]
Share = Annotated[float, Field(ge=0.0, le=1.0)]

LEVELS = (0.9, 0.95)
# Unless asked otherwise, the threshold withholds one cycle of five: always within reach, unlike an error.
WANTED_COVERAGE = 0.8
WANTED_SENSITIVITY = 0.9
# An error that holds on the cycles of fewer patients says nothing of others.
MIN_PREDICTED_PATIENTS = 5
# The smallest probability whose logarithm is taken; scikit-learn's log_loss has the same.
SMALLEST = float(np.finfo(np.float64).eps)
TEMPERATURE_RANGE = (0.05, 20.0)
# Fewer patients say too little about how a model errs on another one.
MIN_PATIENTS = 6
NUM_FOLDS = 5
# Room for sums of shares such as 1/3 that do not add up in floats.
_ROUNDING = 1e-9


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ConformalThresholds(_Stored):
    """Least probability that puts a class into the set at one level (0: always), for all classes and for each."""

    level: Share
    threshold: Share
    of_class: tuple[Share, ...]
    num_patients: int
    num_class_patients: tuple[int, ...]

    def sets(self, probabilities: Floats, *, is_class_conditional: bool = False) -> Flags:
        """Membership of the classes in the set `(..., class)`, of calibrated probabilities `(..., class)`.

        The most probable class is always in: that can only add coverage, and no set is empty.
        """
        smallest = np.array(self.of_class) if is_class_conditional else self.threshold
        is_top = np.arange(probabilities.shape[-1]) == probabilities.argmax(axis=-1)[..., None]
        return np.asarray((probabilities >= smallest) | is_top)


class AbstentionThreshold(_Stored):
    """Predictions with less confidence than `threshold` are withheld; its purpose, and its effect on validation.

    Confidence is the calibrated probability of the predicted class, which need not be the largest one.
    """

    threshold: Share
    wanted: Literal["coverage", "error"]
    wanted_value: float
    validation_coverage: float
    validation_error: float


class OperatingPoint(_Stored):
    """Threshold on P(abnormal) = 1 - P(normal); the specificity is None without a normal validation cycle."""

    wanted_sensitivity: float
    threshold: Share
    validation_sensitivity: float
    validation_specificity: float | None
    num_abnormal: int
    num_abnormal_patients: int


class Calibration(_Stored):
    """Everything fitted on `num_cycles` validation cycles of `num_patients` patients.

    `temperature` is None when the probabilities are left as they are; `reason` says how that was decided. `abstain` is
    None when no threshold keeps the wanted error. There is no operating point without abnormal validation cycles. From
    `normal_threshold` on a calibrated probability of class 0 predicts it; None predicts the most probable class.
    """

    format: Literal["lungsound calibration 2"] = "lungsound calibration 2"
    classes: tuple[str, ...]
    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None
    reason: str
    sets: tuple[ConformalThresholds, ...]
    abstain: AbstentionThreshold | None
    operating_points: tuple[OperatingPoint, ...]
    num_cycles: int
    num_patients: int
    normal_threshold: Share | None = None

    @model_validator(mode="after")
    def _has_numbers_for_each_class(self) -> Self:
        by_class = [values for each in self.sets for values in (each.of_class, each.num_class_patients)]
        if len(self.classes) < 2 or any(len(values) != len(self.classes) for values in by_class):
            raise ValueError(f"numbers for {len(self.classes)} classes are needed, two or more")
        return self

    @property
    def is_scaled(self) -> bool:
        """True when probabilities differ from the model's."""
        return self.temperature is not None

    @property
    def scaling(self) -> str:
        """Change of the probabilities, to stand after them in a text."""
        if self.temperature is None:
            return "as the model gives them, not scaled"
        return f"after temperature scaling with T {self.temperature:.3f}"

    @property
    def decision(self) -> str:
        """Rule by which a class is predicted, in words."""
        if self.normal_threshold is None:
            return "The most probable class is predicted"
        return (
            f"{self.classes[0].capitalize()} is predicted from a probability of {self.normal_threshold:.4f} on "
            "(the best Score on validation patients), else the most probable other class"
        )

    @property
    def problems(self) -> list[str]:
        """Reasons not to lean on this calibration, in sentences."""
        needed, num_patients, problems = f"at least {FEW_PATIENTS} are needed", self.num_patients, []
        if num_patients < FEW_PATIENTS:
            problems.append(f"Few validation patients ({num_patients}; {needed}): the fit may not hold for others.")
        if self.abstain is None:
            problems.append("No threshold keeps the wanted error on validation: no prediction is withheld.")
        num_abnormal = max((point.num_abnormal_patients for point in self.operating_points), default=0)
        if num_abnormal < FEW_PATIENTS:
            effect = "it may be far off for others" if num_abnormal else "there is none"
            problems.append(f"Operating point from abnormal cycles of {num_abnormal} patients ({needed}): {effect}.")
        for each in self.sets:
            if each.threshold == 0.0:
                promise = f"{num_patients} validation patients cannot promise more"
                problems.append(f"Sets at {100 * each.level:g} % always hold every class: {promise}.")
        return problems

    def apply(self, probabilities: npt.ArrayLike) -> Floats:
        """Calibrated probabilities `(..., class)` of the model's `(..., class)`."""
        shares = np.asarray(probabilities, dtype=np.float64)
        if shares.shape[-1:] != (len(self.classes),):
            raise ValueError(f"probabilities of {len(self.classes)} classes are needed; got shape {shares.shape}")
        return scaled(shares, self.temperature)

    def predicted(self, probabilities: npt.ArrayLike) -> Labels:
        """The predicted class `(...)`, of the model's probabilities `(..., class)`."""
        if self.normal_threshold is None:
            return predicted_classes(np.asarray(probabilities, dtype=np.float64))  # no scaling changes the first
        return predicted_classes(self.apply(probabilities), self.normal_threshold)

    def decided(self, predictions: Predictions) -> Predictions:
        """The predictions by the threshold that is kept, if one is."""
        if self.normal_threshold is None:
            return predictions
        return replace(predictions, by_threshold=self.predicted(predictions.probabilities))

    def prediction_set(self, probabilities: npt.ArrayLike) -> Flags:
        """Classes in the first level's set `(..., class)`, the predicted one always, of the model's probabilities."""
        members = self.sets[0].sets(self.apply(probabilities))
        return np.asarray(members | (np.arange(members.shape[-1]) == self.predicted(probabilities)[..., None]))

    def is_abstaining(self, probabilities: npt.ArrayLike) -> Flags:
        """True where the prediction is withheld `(...)`, of the model's probabilities `(..., class)`."""
        threshold = 0.0 if self.abstain is None else self.abstain.threshold
        return confidence_of(self.apply(probabilities), self.predicted(probabilities)) < threshold

    @property
    def is_at_limit(self) -> bool:
        """True when the temperature stands at an end of its range: what was looked for lies beyond it."""
        return self.temperature in TEMPERATURE_RANGE

    @property
    def id(self) -> str:
        """Twelve digits by which predictions name it: another one for other values."""
        return hashlib.sha256(json.dumps(self.to_plain(), sort_keys=True).encode()).hexdigest()[:12]

    def to_plain(self) -> dict[str, Any]:
        """Values that JSON holds, of which an equal calibration is made again."""
        return self.model_dump(mode="json", exclude={"normal_threshold"} if self.normal_threshold is None else None)


def fit_calibration(
    validation: Predictions,
    *,
    abstain_for: Literal["coverage", "error"] = "coverage",
    abstain_value: float = WANTED_COVERAGE,
    sensitivities: Sequence[float] = (WANTED_SENSITIVITY,),
    threshold_on: Predictions | None = None,
) -> Calibration:
    """Fit on validation cycles; few patients raise no error, but `Calibration.problems` names what they cannot give.

    On `threshold_on`, if given, the threshold for class 0 is chosen, after the scaling.
    """
    if not all(0.0 < value <= 1.0 for value in (abstain_value, *sensitivities)):
        raise ValueError(f"a wanted share lies above 0 and not above 1; got {abstain_value} and {sensitivities}")
    labels, patients = validation.labels, validation.patients
    temperature, held_out, reason = choose_temperature(validation.probabilities, labels, patients)
    normal_threshold = None
    if threshold_on is not None:
        shares = scaled(threshold_on.probabilities, temperature)
        normal_threshold = choose_normal_threshold(shares, threshold_on.labels)
    predicted = predicted_classes(held_out, normal_threshold)
    confidence = confidence_of(held_out, predicted)
    return Calibration(
        classes=validation.classes,
        temperature=temperature,
        reason=reason,
        sets=tuple(fit_thresholds(held_out, labels, patients, level=level) for level in LEVELS),
        abstain=choose_abstention(confidence, predicted != labels, patients, wanted=abstain_for, value=abstain_value),
        operating_points=tuple(
            choose_operating_point(held_out, labels, patients, sensitivity=wanted)
            for wanted in sensitivities
            if (labels > 0).any()
        ),
        num_cycles=len(labels),
        num_patients=len(set(patients)),
        normal_threshold=normal_threshold,
    )


def choose_normal_threshold(probabilities: Floats, labels: Labels) -> float:
    """The probability of class 0 `(cycle, class)` from which predicting it has the best Score on these cycles.

    The least of several. ValueError without a cycle of class 0 or of another, of which there is no Score.
    """
    of_normal, is_normal = probabilities[:, 0], labels == 0
    if is_normal.all() or not is_normal.any():
        raise ValueError("a threshold for class 0 needs cycles of it and of other classes")
    is_right = ~is_normal & (abnormal_classes(probabilities) == labels)
    thresholds = np.unique(of_normal)
    # Normal cycles at or above each threshold, and rightly named other cycles below it.
    specificity = 1.0 - np.searchsorted(np.sort(of_normal[is_normal]), thresholds) / is_normal.sum()
    sensitivity = np.searchsorted(np.sort(of_normal[is_right]), thresholds) / (~is_normal).sum()
    return float(thresholds[(specificity + sensitivity).argmax()])


def choose_temperature(
    probabilities: Floats, labels: Labels, patients: Sequence[str]
) -> tuple[float | None, Floats, str]:
    """Temperature (None: no scaling), probabilities `(cycle, class)` scaled without the patient's fold, and the reason.

    Patients are assigned to five folds by falling number of cycles, in turn. Probabilities are scaled when the loss on
    held-out patients falls by more than one standard error of the difference (over patients).
    """
    names, patient = np.unique(np.array(patients), return_inverse=True)
    if len(names) < MIN_PATIENTS:
        are = "patient is" if len(names) == 1 else "patients are"
        return None, probabilities, f"{len(names)} validation {are} fewer than the {MIN_PATIENTS} that scaling needs"
    fold_of_patient = np.empty(len(names), dtype=np.int64)
    fold_of_patient[np.argsort(-np.bincount(patient), kind="stable")] = np.arange(len(names)) % NUM_FOLDS
    held_out = np.empty_like(probabilities)
    for fold in range(NUM_FOLDS):
        is_held = fold_of_patient[patient] == fold
        held_out[is_held] = scaled(probabilities[is_held], fit_temperature(probabilities[~is_held], labels[~is_held]))
    losses = [negative_log_likelihood(shares, labels) for shares in (probabilities, held_out)]
    gains = np.bincount(patient, losses[0]) - np.bincount(patient, losses[1])
    reason = f"chosen by cross-validation over {len(names)} held-out patients"
    if gains.sum() > gains.std(ddof=1) * math.sqrt(len(gains)):
        return fit_temperature(probabilities, labels), held_out, reason
    return None, probabilities, reason


def fit_temperature(probabilities: Floats, labels: Labels) -> float:
    """Temperature of least mean negative log-likelihood, which is convex in 1 / T, within `TEMPERATURE_RANGE`."""
    from scipy.optimize import brentq  # late: whoever predicts needs no scipy

    logs = _log(probabilities)
    hits = float(np.take_along_axis(logs, labels[:, None], axis=1).mean())

    def slope(inverse: float) -> float:
        return float((softmax(inverse * logs) * logs).sum(axis=1).mean()) - hits

    low, high = 1.0 / TEMPERATURE_RANGE[1], 1.0 / TEMPERATURE_RANGE[0]
    if slope(low) >= 0.0:
        return TEMPERATURE_RANGE[1]
    if slope(high) <= 0.0:
        return TEMPERATURE_RANGE[0]
    return 1.0 / float(brentq(slope, low, high, xtol=1e-13, rtol=1e-14))


def scaled(probabilities: Floats, temperature: float | None) -> Floats:
    """Probabilities `(..., class)` at this temperature; None leaves them as they are."""
    return probabilities if temperature is None else softmax(_log(probabilities) / temperature)


def softmax(logits: Floats) -> Floats:
    """Probabilities `(..., class)` that sum to 1; scipy has the same, but whoever predicts needs no scipy."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def negative_log_likelihood(probabilities: Floats, labels: Labels) -> Floats:
    """-log of the true class's probability `(cycle,)`, in nats; a probability of 0 counts as 2.2e-16."""
    return -_log(np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0])


def _log(probabilities: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(probabilities, SMALLEST)))


def fit_thresholds(
    probabilities: Floats, labels: Labels, patients: Sequence[str], *, level: float
) -> ConformalThresholds:
    """Thresholds from validation patients; probabilities `(cycle, class)` by a model that was not fitted on them."""
    true_shares = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    names = np.array(patients)
    classes = [labels == label for label in range(probabilities.shape[1])]
    return ConformalThresholds(
        level=level,
        threshold=patient_threshold(true_shares, names, level=level),
        of_class=tuple(patient_threshold(true_shares[each], names[each], level=level) for each in classes),
        num_patients=len(np.unique(names)),
        num_class_patients=tuple(len(np.unique(names[each])) for each in classes),
    )


def patient_threshold(true_shares: Floats, patients: npt.NDArray[np.str_], *, level: float) -> float:
    """Largest threshold that the true class's probability `(cycle,)` reaches in `level` of the weight; 0 if none does.

    A cycle of one of n patients with m cycles weighs 1 / ((n + 1) m): the patient to come has the weight that is left.
    """
    names, patient = np.unique(patients, return_inverse=True)
    weights = 1.0 / (np.bincount(patient)[patient] * (len(names) + 1.0))
    order = np.argsort(-true_shares, kind="stable")
    is_reached = np.cumsum(weights[order]) >= level - _ROUNDING
    return float(true_shares[order][is_reached.argmax()]) if is_reached.any() else 0.0


def confidence_of(probabilities: Floats, predicted: Labels) -> Floats:
    """Probability of the predicted class `(...)`, of calibrated probabilities `(..., class)`."""
    return np.asarray(np.take_along_axis(probabilities, predicted[..., None], axis=-1)[..., 0])


def risk_coverage(confidence: Floats, is_wrong: Flags) -> tuple[Floats, Floats, Floats]:
    """Confidence, share of cycles not withheld and share of these wrong `(step,)`, at each confidence that occurs."""
    order = np.argsort(-confidence, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(confidence[order])), len(order) - 1)
    num_predicted = ends + 1.0
    return confidence[order][ends], num_predicted / len(order), np.cumsum(is_wrong[order])[ends] / num_predicted


def choose_abstention(
    confidence: Floats, is_wrong: Flags, patients: Sequence[str], *, wanted: Literal["coverage", "error"], value: float
) -> AbstentionThreshold | None:
    """The threshold that reaches a coverage with the fewest cycles, or keeps to an error with the most.

    None when no threshold keeps the error on cycles of at least 5 patients; an error kept here is a little optimistic.
    """
    thresholds, coverage, risk = risk_coverage(confidence, is_wrong)
    if wanted == "coverage":
        steps = np.flatnonzero(coverage >= value - _ROUNDING)[:1]
    else:
        steps = np.flatnonzero(risk <= value + _ROUNDING)[-1:]
    if not steps.size:
        return None
    step = steps[0]
    if wanted == "error" and len(set(np.array(patients)[confidence >= thresholds[step]])) < MIN_PREDICTED_PATIENTS:
        return None
    return AbstentionThreshold(
        threshold=float(thresholds[step]),
        wanted=wanted,
        wanted_value=value,
        validation_coverage=float(coverage[step]),
        validation_error=float(risk[step]),
    )


def choose_operating_point(
    probabilities: Floats, labels: Labels, patients: Sequence[str], *, sensitivity: float
) -> OperatingPoint:
    """The largest threshold whose sensitivity on these validation cycles, some abnormal, reaches what is wanted.

    On other patients the sensitivity is as often below what is wanted as above.
    """
    scores, is_abnormal = 1.0 - probabilities[:, 0], labels > 0
    num_abnormal = int(is_abnormal.sum())
    num_needed = max(1, math.ceil(sensitivity * num_abnormal - _ROUNDING))
    threshold = float(-np.sort(-scores[is_abnormal])[num_needed - 1])
    is_called = scores >= threshold
    return OperatingPoint(
        wanted_sensitivity=sensitivity,
        threshold=threshold,
        validation_sensitivity=float(is_called[is_abnormal].mean()),
        validation_specificity=None if is_abnormal.all() else float((~is_called[~is_abnormal]).mean()),
        num_abnormal=num_abnormal,
        num_abnormal_patients=len(np.unique(np.array(patients)[is_abnormal])),
    )
