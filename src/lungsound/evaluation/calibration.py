"""Temperature and vector scaling: probabilities made honest by a few numbers, fitted on validation patients.

A model's log-probabilities are stretched and shifted per class, then made probabilities again:

    softmax(scale * log p + bias)

Temperature scaling (Guo et al., ICML 2017) has one scale 1 / T and no bias: it never changes the most probable class.
Vector scaling has a scale and a bias for each class. Both minimise the mean negative log-likelihood, in which every
cycle counts the same, as it does in the errors that are reported. Cycles of one patient are no separate evidence:
whether to scale, and how, is decided by cross-validation over patients.

Split-conformal prediction sets: the classes that a cycle may well have, with a promise about how often they hold it.

A class is in the set when its probability is at least a threshold (LAC, Sadinle et al. 2019: the smallest sets on
average; adaptive sets, APS, are larger and were not chosen). One threshold serves all classes, or each class has its
own (class-conditional, Mondrian), which evens out the coverage of classes. The most probable class is always in the
set: that can only add coverage, and no set is empty.

Cycles of one patient are not exchangeable, patients are. Each validation patient therefore weighs the same, whatever
the number of cycles, and a new patient, as one more, counts as never covered (hierarchical conformal prediction, Lee,
Barber and Willett 2023). The promise: of one cycle, drawn at random from a new patient like the validation patients,
the set holds the class with at least the level's probability; class-conditional, the same for one cycle of that class.
It says nothing of one given patient, of a device that validation did not have, or of cycles pooled over patients.
With too few patients (fewer than 9 for 90 %, 19 for 95 %) no threshold can promise it and the class is always in.

Abstaining on the least sure answers: risk-coverage curve, its area, a threshold chosen on validation patients.

A cycle's confidence is the probability of the answered class. Coverage is the share of cycles that are answered, risk
the share of wrong answers among them. Cycles of equal confidence are answered together.

An operating point: a wanted sensitivity for abnormal cycles, the threshold it needs, and what that costs.

A cycle is called abnormal when P(abnormal) = 1 - P(normal) reaches the threshold, whichever abnormal class it is. The
threshold comes from validation patients; sensitivity, specificity and predictive values are measured on others.

What a model's probabilities are worth on new patients, learnt from validation patients and kept with the model.

All of it is fitted on validation rows only: the scaling, the thresholds of prediction sets, the confidence below which
an answer is withheld, and operating points. Thresholds are set on probabilities scaled without the patient's own fold
(see `scaling`), as those of a new patient are. The epoch may have been chosen on the same patients: what the thresholds
promise is then a little optimistic, and the measured values on the test set stand beside it.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lungsound.errors import DataError, WeightsError
from lungsound.evaluation.bootstrap import FEW_PATIENTS, Bootstrap, Estimate, Weights, count_by_patient
from lungsound.evaluation.metrics import Counts, Fractions, Statistic, mean_score, sensitivity, specificity
from lungsound.evaluation.predictions import Predictions

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
UNKNOWN_DEVICE = "unknown device"
Method = Literal["none", "temperature", "vector"]
METHODS: tuple[Method, ...] = ("none", "temperature", "vector")  # from the simplest
ORDER_KEEPING: tuple[Method, ...] = ("none", "temperature")  # the most probable class stays so

# The smallest probability whose logarithm is taken; scikit-learn's log_loss has the same.
SMALLEST = float(np.finfo(np.float64).eps)
TEMPERATURE_RANGE = (0.05, 20.0)
# Fewer patients say too little about how a model errs on another one.
MIN_PATIENTS = 6
MIN_CLASS_PATIENTS = 3
NUM_FOLDS = 5


@dataclass(frozen=True)
class Scaling:
    """softmax(scale * log p + bias), one scale and bias per class."""

    method: Method
    scales: tuple[float, ...]
    biases: tuple[float, ...]

    @classmethod
    def none(cls, num_classes: int) -> "Scaling":
        """Probabilities as they are."""
        return cls("none", (1.0,) * num_classes, (0.0,) * num_classes)

    @property
    def temperature(self) -> float | None:
        """T of temperature scaling: above 1 the model was too sure; None for vector scaling."""
        return None if self.method == "vector" else 1.0 / self.scales[0]

    @property
    def in_words(self) -> str:
        """What was done to the probabilities, to stand after them."""
        if self.method == "none":
            return "as the model gives them, not scaled"
        more = "" if self.temperature is None else f" with T {self.temperature:.3f}"
        return f"after {self.method} scaling{more}"

    def apply(self, probabilities: npt.ArrayLike) -> Floats:
        """Scaled probabilities `(..., class)` of probabilities `(..., class)`."""
        shares = np.asarray(probabilities, dtype=np.float64)
        if shares.shape[-1:] != (len(self.scales),):
            raise ValueError(f"probabilities of {len(self.scales)} classes are needed; got shape {shares.shape}")
        if self.method == "none":
            return shares
        return softmax(_log(shares) * np.array(self.scales) + np.array(self.biases))


@dataclass(frozen=True, eq=False)
class ScalingChoice:
    """The chosen scaling, why, and what it would have answered for patients that it was not fitted on.

    `held_out` is `(cycle, class)`: the probabilities of each cycle by the chosen method fitted without that patient's
    fold. `losses` is the mean negative log-likelihood of each method that was tried, in cross-validation.
    """

    scaling: Scaling
    held_out: Floats
    losses: dict[Method, float]
    reason: str


def softmax(logits: Floats) -> Floats:
    """Probabilities `(..., class)` that sum to 1."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def negative_log_likelihood(probabilities: Floats, labels: Labels) -> Floats:
    """-log of the true class's probability `(cycle,)`, in nats; a probability of 0 counts as 2.2e-16."""
    return -_log(np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0])


def fit_temperature(probabilities: Floats, labels: Labels) -> Scaling:
    """Temperature scaling of least mean negative log-likelihood; T stays within 0.05 to 20.

    The loss is convex in 1 / T, so its derivative crosses 0 once: Newton steps, halving the bracket when one leaves it.
    """
    logs = _log(probabilities)
    hits = np.take_along_axis(logs, labels[:, None], axis=1).mean()
    low, high = 1.0 / TEMPERATURE_RANGE[1], 1.0 / TEMPERATURE_RANGE[0]
    beta = 1.0
    while high - low > 1e-12 * high:
        shares = softmax(beta * logs)
        means = (shares * logs).sum(axis=1)
        slope = float(means.mean() - hits)
        if slope == 0.0:
            break
        low, high = (low, beta) if slope > 0.0 else (beta, high)
        curvature = float(((shares * logs**2).sum(axis=1) - means**2).mean())
        step = beta - slope / curvature if curvature > 0.0 else low
        middle = (low + high) / 2.0
        if abs(step - beta) < 1e-13 * beta:
            break
        beta = step if low < step < high else middle
    num_classes = probabilities.shape[1]
    return Scaling("temperature", (beta,) * num_classes, (0.0,) * num_classes)


def fit_vector(probabilities: Floats, labels: Labels, *, pull: float) -> Scaling:
    """Vector scaling of least mean negative log-likelihood + pull / 2 * (sum (scale - 1)^2 + sum bias^2).

    `pull` (above 0) draws towards leaving probabilities alone and makes the minimum unique. Newton steps, halved until
    the loss falls.
    """
    if not pull > 0.0:
        raise ValueError(f"the pull must be above 0; got {pull}")
    logs, num_classes = _log(probabilities), probabilities.shape[1]
    start = np.concatenate([np.ones(num_classes), np.zeros(num_classes)])
    point, loss = start, _vector_loss(start, logs, labels, start, pull)
    while True:
        gradient, curvature = _vector_slopes(point, logs, labels, start, pull)
        step = np.linalg.solve(curvature, gradient)
        if gradient @ step < 1e-20:
            break
        size = 1.0
        while size > 1e-10 and not _vector_loss(point - size * step, logs, labels, start, pull) < loss:
            size /= 2.0
        if size <= 1e-10:  # as low as floats can tell
            break
        point = point - size * step
        loss = _vector_loss(point, logs, labels, start, pull)
    return Scaling("vector", tuple(point[:num_classes].tolist()), tuple(point[num_classes:].tolist()))


def _vector_loss(point: Floats, logs: Floats, labels: Labels, start: Floats, pull: float) -> float:
    num_classes = logs.shape[1]
    shares = softmax(logs * point[:num_classes] + point[num_classes:])
    # Not floored, else the loss would be flat where a true class has no share left.
    with np.errstate(divide="ignore"):
        losses = -np.log(np.take_along_axis(shares, labels[:, None], axis=1))
    return float(losses.mean() + pull / 2.0 * ((point - start) ** 2).sum())


def _vector_slopes(point: Floats, logs: Floats, labels: Labels, start: Floats, pull: float) -> tuple[Floats, Floats]:
    """Gradient `(2 class,)` and curvature `(2 class, 2 class)` of the loss, scales first."""
    num_cycles, num_classes = logs.shape
    shares = softmax(logs * point[:num_classes] + point[num_classes:])
    errors = shares - np.eye(num_classes)[labels]
    gradient = np.concatenate([(errors * logs).mean(axis=0), errors.mean(axis=0)]) + pull * (point - start)
    spread = shares[:, :, None] * (np.eye(num_classes) - shares[:, None, :])  # (cycle, class, class)
    scaled = spread * logs[:, :, None]
    blocks = [
        [(scaled * logs[:, None, :]).sum(axis=0), scaled.sum(axis=0)],
        [scaled.sum(axis=0).T, spread.sum(axis=0)],
    ]
    return gradient, np.block(blocks) / num_cycles + pull * np.eye(2 * num_classes)


def choose_scaling(
    probabilities: Floats, labels: Labels, patients: Sequence[str], *, allowed: Sequence[Method] = METHODS
) -> ScalingChoice:
    """None, temperature or vector scaling (of those allowed), by cross-validation over patients in five folds.

    A method replaces a simpler one when its loss on held-out patients is lower by more than one standard error of the
    difference (over patients). Patients are dealt to folds by falling number of cycles, so nothing is drawn. Vector
    scaling is pulled towards no scaling as by one patient's evidence, and is tried only when each class is heard in at
    least 3 patients of every fold's fit; with fewer than 6 patients nothing is fitted.
    """
    names, patient = np.unique(np.array(patients), return_inverse=True)
    num_classes = probabilities.shape[1]
    if len(names) < MIN_PATIENTS:
        are = "patient is" if len(names) == 1 else "patients are"
        reason = f"{len(names)} validation {are} fewer than the {MIN_PATIENTS} that scaling needs"
        return ScalingChoice(Scaling.none(num_classes), np.array(probabilities), {}, reason)
    fold = _deal(patient)
    can_fit_vector = _can_fit_vector(labels, num_classes, patient, fold)
    methods = [method for method in METHODS if method in allowed and (method != "vector" or can_fit_vector)]
    held_out = {method: _held_out(method, probabilities, labels, patient, fold) for method in methods}
    sums = {m: np.bincount(patient, negative_log_likelihood(held_out[m], labels)) for m in methods}
    best: Method = "none"
    for method in methods[1:]:
        gains = sums[best] - sums[method]
        error = gains.std(ddof=1) * np.sqrt(len(gains))
        if gains.sum() > error:
            best = method
    scaling = _fit(best, probabilities, labels, len(names))
    losses = {method: float(sums[method].sum() / len(labels)) for method in methods}
    reason = f"chosen by cross-validation over {len(names)} validation patients"
    if "vector" in allowed and not can_fit_vector:
        reason += f"; vector scaling was not tried: a class is heard in too few patients (under {MIN_CLASS_PATIENTS})"
    return ScalingChoice(scaling, held_out[best], losses, reason)


def scaled_without_own_fold(method: Method, probabilities: Floats, labels: Labels, patients: Sequence[str]) -> Floats:
    """`ScalingChoice.held_out` of this method, whichever would be chosen; "none" leaves them as they are."""
    _, patient = np.unique(np.array(patients), return_inverse=True)
    return _held_out(method, probabilities, labels, patient, _deal(patient))


def _deal(patient: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The fold of each cycle: patients by falling number of cycles, dealt in turn."""
    counts = np.bincount(patient)
    fold_of_patient = np.empty(len(counts), dtype=np.int64)
    fold_of_patient[np.argsort(-counts, kind="stable")] = np.arange(len(counts)) % NUM_FOLDS
    return fold_of_patient[patient]


def _can_fit_vector(
    labels: Labels, num_classes: int, patient: npt.NDArray[np.int64], fold: npt.NDArray[np.int64]
) -> bool:
    """Whether without any one fold each class is heard in enough patients."""
    return all(
        len(np.unique(patient[(labels == label) & (fold != number)])) >= MIN_CLASS_PATIENTS
        for label in range(num_classes)
        for number in range(NUM_FOLDS)
    )


def _fit(method: Method, probabilities: Floats, labels: Labels, num_patients: int) -> Scaling:
    if method == "none":
        return Scaling.none(probabilities.shape[1])
    if method == "temperature":
        return fit_temperature(probabilities, labels)
    return fit_vector(probabilities, labels, pull=1.0 / num_patients)


def _held_out(
    method: Method,
    probabilities: Floats,
    labels: Labels,
    patient: npt.NDArray[np.int64],
    fold: npt.NDArray[np.int64],
) -> Floats:
    """Probabilities of each cycle by the method fitted on the other folds."""
    scaled = np.empty_like(probabilities)
    for number in range(NUM_FOLDS):
        is_held = fold == number
        num_patients = len(np.unique(patient[~is_held]))
        scaled[is_held] = _fit(method, probabilities[~is_held], labels[~is_held], num_patients).apply(
            probabilities[is_held]
        )
    return scaled


def _log(probabilities: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(probabilities, SMALLEST)))


LEVELS = (0.9, 0.95)
# Room for sums of shares such as 1/3 that do not add up in floats.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ConformalThresholds:
    """The smallest probability that puts a class into the set, for one level; 0 puts every class in, always.

    `of_class` are the thresholds of class-conditional sets. The numbers of patients are those they rest on.
    """

    level: float
    threshold: float
    of_class: tuple[float, ...]
    num_patients: int
    num_class_patients: tuple[int, ...]

    @property
    def classes_always_in(self) -> tuple[int, ...]:
        """Classes that too few patients have for a class-conditional threshold."""
        needed = patients_needed(self.level)
        return tuple(k for k, num in enumerate(self.num_class_patients) if num < needed)

    def sets(self, probabilities: Floats, *, is_class_conditional: bool = False) -> npt.NDArray[np.bool_]:
        """Which classes are in the set `(..., class)`, of probabilities `(..., class)`."""
        smallest = np.array(self.of_class) if is_class_conditional else self.threshold
        is_top = np.arange(probabilities.shape[-1]) == probabilities.argmax(axis=-1)[..., None]
        return np.asarray((probabilities >= smallest) | is_top)


def patients_needed(level: float) -> int:
    """Fewest patients with which a threshold can promise the level: n / (n + 1) must reach it."""
    return math.ceil(level / (1.0 - level) - _ROUNDING)


def fit_thresholds(
    probabilities: Floats, labels: Labels, patients: Sequence[str], *, level: float
) -> ConformalThresholds:
    """Thresholds from validation patients; probabilities `(cycle, class)` by a model that was not fitted on them."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"the level of a prediction set lies between 0 and 1; got {level}")
    true_shares = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    names = np.array(patients)
    of_class, num_class_patients = [], []
    for label in range(probabilities.shape[1]):
        is_class = labels == label
        of_class.append(patient_threshold(true_shares[is_class], names[is_class], level=level))
        num_class_patients.append(len(np.unique(names[is_class])))
    return ConformalThresholds(
        level,
        patient_threshold(true_shares, names, level=level),
        tuple(of_class),
        len(np.unique(names)),
        tuple(num_class_patients),
    )


def patient_threshold(true_shares: Floats, patients: npt.NDArray[np.str_], *, level: float) -> float:
    """Largest threshold that the true class's probability `(cycle,)` reaches in `level` of the weight; 0 if none does.

    A cycle of one of n patients with m cycles weighs 1 / ((n + 1) m): the patient to come has the weight that is left.
    """
    names, patient = np.unique(patients, return_inverse=True)
    weights = 1.0 / (np.bincount(patient)[patient] * (len(names) + 1.0))
    order = np.argsort(-true_shares, kind="stable")
    reached = np.cumsum(weights[order]) >= level - _ROUNDING
    return float(true_shares[order][reached.argmax()]) if reached.any() else 0.0


@dataclass(frozen=True)
class SetMeasures:
    """How sets did on cycles of some kind; `promised` is the coverage over patients, which the level is about."""

    group: str
    num_cycles: int
    num_patients: int
    promised: Estimate
    of_cycles: Estimate
    size: Estimate


def measure_sets(
    sets: npt.NDArray[np.bool_], predictions: Predictions, *, bootstrap: Bootstrap
) -> tuple[SetMeasures, tuple[SetMeasures, ...], tuple[SetMeasures, ...]]:
    """Coverage and size of the sets `(cycle, class)`: of all cycles, by true class, by device (when there are two)."""
    labels, patients = predictions.labels, np.array(predictions.patients)
    is_covered = np.take_along_axis(sets, labels[:, None], axis=1)[:, 0]

    def measure(group: str, where: npt.NDArray[np.bool_]) -> SetMeasures:
        members = tuple(patients[where].tolist())
        return SetMeasures(
            group,
            int(where.sum()),
            len(set(members)),
            promised=bootstrap.mean_of_patients(is_covered[where], members),
            of_cycles=bootstrap.mean(is_covered[where], members),
            size=bootstrap.mean(sets[where].sum(axis=1), members),
        )

    of_class = tuple(measure(name, labels == k) for k, name in enumerate(predictions.classes) if (labels == k).any())
    of_device = tuple(measure(name, where) for name, where in device_groups(predictions))
    return measure("all cycles", np.ones(len(labels), dtype=np.bool_)), of_class, of_device


# Unless asked otherwise, the threshold is chosen to answer four cycles of five: always within reach, unlike an error.
WANTED_COVERAGE = 0.8
# An error that is kept on the cycles of fewer patients says nothing of others.
MIN_ANSWERED_PATIENTS = 5
_DRAWS_AT_ONCE = 100
_selective_ROUNDING = 1e-9

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
        steps = np.flatnonzero(curve.coverage >= value - _selective_ROUNDING)[:1]
    else:
        steps = np.flatnonzero(curve.risk <= value + _selective_ROUNDING)[-1:]
    if not steps.size:
        return None
    step = steps[0]
    threshold = float(curve.thresholds[step])
    answered = {name for name, sure in zip(patients, confidence.tolist(), strict=True) if sure >= threshold}
    if wanted == "error" and len(answered) < MIN_ANSWERED_PATIENTS:
        return None
    return AbstainThreshold(threshold, wanted, value, float(curve.coverage[step]), float(curve.risk[step]))


def area_under_risk_coverage(
    confidence: Floats, is_wrong: npt.NDArray[np.bool_], patients: Sequence[str], *, bootstrap: Bootstrap
) -> Estimate:
    """Mean over cycles of the risk of answering all that are as confident (Geifman et al. 2019), with its interval."""
    return bootstrap.estimate(areas_under_risk_coverage(confidence, is_wrong, patients), len(set(patients)))


def areas_under_risk_coverage(
    confidence: Floats, is_wrong: npt.NDArray[np.bool_], patients: Sequence[str]
) -> Callable[[Weights], Floats]:
    """The area as a function of how often each patient is taken `(draw, patient)`."""
    _, patient = np.unique(np.array(patients), return_inverse=True)
    order = np.argsort(-confidence, kind="stable")
    wrong, patient = is_wrong[order].astype(np.float64), patient[order]
    # For each cycle the last one that is as confident: there its risk is read.
    ends = np.searchsorted(-confidence[order], -confidence[order], side="right") - 1

    def areas(weights: Weights) -> Floats:
        times = weights[:, patient].astype(np.float64)
        answered, misses = np.cumsum(times, axis=1)[:, ends], np.cumsum(times * wrong, axis=1)[:, ends]
        risk = np.divide(misses, answered, out=np.zeros_like(answered), where=answered > 0)
        return np.asarray((times * risk).sum(axis=1) / times.sum(axis=1))

    def in_parts(weights: Weights) -> Floats:
        parts = [areas(weights[start : start + _DRAWS_AT_ONCE]) for start in range(0, len(weights), _DRAWS_AT_ONCE)]
        return np.concatenate(parts)

    return in_parts


def measure_abstaining(
    is_answered: npt.NDArray[np.bool_], answers: Labels, predictions: Predictions, *, bootstrap: Bootstrap
) -> tuple[AbstainMeasures, ...]:
    """Coverage, error and Score of the answered cycles `(cycle,)`: of all, and by device when there are two."""
    patients = np.array(predictions.patients)
    num_classes = len(predictions.classes)
    is_wrong = answers != predictions.labels

    def measure(group: str, where: npt.NDArray[np.bool_]) -> AbstainMeasures:
        members = tuple(patients[where].tolist())
        is_kept = is_answered[where]
        confusions = count_by_patient(
            members, predictions.labels[where], answers[where], num_classes=num_classes, where=is_kept
        )
        return AbstainMeasures(
            group,
            len(members),
            len(set(members)),
            coverage=bootstrap.mean(is_kept, members),
            error=bootstrap.mean(is_wrong[where], members, where=is_kept),
            score=bootstrap.of_counts(confusions, mean_score),
        )

    groups = [measure(name, where) for name, where in device_groups(predictions)]
    return (measure("all cycles", np.ones(len(patients), dtype=np.bool_)), *groups)


WANTED_SENSITIVITY = 0.9
_operating_point_ROUNDING = 1e-9


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
    """What a threshold gives on the cycles of a test set; the predictive values are for `prevalence`.

    `prevalence` is the share of abnormal cycles where the model is to be used; it may be that of the test set itself.
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
    num_needed = max(1, int(np.ceil(sensitivity * num_abnormal - _operating_point_ROUNDING)))
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
    bootstrap: Bootstrap,
) -> OperatingMeasures:
    """Sensitivity, specificity and predictive values of a threshold on calibrated probabilities `(cycle, class)`.

    Without a `prevalence` (between 0 and 1) that of the cycles themselves is taken. Intervals of the predictive values
    hold for a known prevalence: only sensitivity and specificity are uncertain.
    """
    if prevalence is not None and not 0.0 < prevalence < 1.0:
        raise ValueError(f"a prevalence lies between 0 and 1; got {prevalence}")
    is_abnormal = (predictions.labels > 0).astype(np.int64)
    is_called = (abnormal_probability(probabilities) >= point.threshold).astype(np.int64)
    confusions = count_by_patient(predictions.patients, is_abnormal, is_called, num_classes=2)

    def estimate(statistic: Statistic) -> Estimate:
        return bootstrap.of_counts(confusions, statistic)

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


def device_groups(predictions: Predictions) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Name and cycles `(cycle,)` of each device; empty when there is only one."""
    devices, names = np.array(predictions.devices), sorted(set(predictions.devices))
    return [(name or UNKNOWN_DEVICE, devices == name) for name in names] if len(names) > 1 else []


FORMAT = "lungsound calibration 1"


@dataclass(frozen=True)
class Calibration:
    """Fitted on `num_cycles` validation cycles of `num_patients` patients; probabilities given to it are the model's.

    `reason` says how the scaling was chosen, or why there is none. `abstain` is None when no threshold keeps the wanted
    error, and then no answer is withheld. There is no operating point without abnormal validation cycles.
    """

    classes: tuple[str, ...]
    scaling: Scaling
    reason: str
    sets: tuple[ConformalThresholds, ...]
    abstain: AbstainThreshold | None
    operating_points: tuple[OperatingPoint, ...]
    num_cycles: int
    num_patients: int

    def __post_init__(self) -> None:
        num_classes = len(self.classes)
        lists = [self.scaling.scales, self.scaling.biases]
        lists += [values for each in self.sets for values in (each.of_class, each.num_class_patients)]
        shares = [share for each in self.sets for share in (each.level, each.threshold, *each.of_class)]
        shares += [point.threshold for point in self.operating_points]
        shares += [] if self.abstain is None else [self.abstain.threshold]
        if num_classes < 2 or any(len(values) != num_classes for values in lists):
            raise ValueError(f"numbers for {num_classes} classes are needed, two or more")
        if self.scaling.method not in METHODS:
            raise ValueError(f"scaling {self.scaling.method!r} is none of {', '.join(METHODS)}")
        if not all(map(math.isfinite, (*self.scaling.scales, *self.scaling.biases))):
            raise ValueError("a scale or bias is no finite number")
        if not all(0.0 <= share <= 1.0 for share in shares):
            raise ValueError("a level or threshold lies outside 0 to 1")

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps this calibration from being leant on, in sentences; empty when nothing does."""
        found = []
        if self.num_patients < FEW_PATIENTS:
            found.append(
                f"Few validation patients ({self.num_patients}; at least {FEW_PATIENTS} are needed): what was fitted "
                "may not hold for others."
            )
        if self.abstain is None:
            found.append(
                "No threshold keeps the wanted error on validation cycles of five patients or more: no answer is "
                "withheld."
            )
        found += self.operating_problems
        for each in self.sets:
            if each.threshold == 0.0:
                found.append(
                    f"Sets at {100 * each.level:g} % always hold every class: {each.num_patients} validation patients "
                    "cannot promise more."
                )
            if always := [self.classes[k] for k in each.classes_always_in]:
                found.append(
                    f"Class-conditional sets at {100 * each.level:g} % always hold {', '.join(always)}: too few "
                    "validation patients have such cycles."
                )
        return tuple(found)

    @property
    def operating_problems(self) -> tuple[str, ...]:
        """The problems of the operating points alone."""
        if not self.operating_points:
            return ("Validation has no abnormal cycle: there is no operating point.",)
        texts = dict.fromkeys(point.problem for point in self.operating_points if point.problem)
        return tuple(f"{text[:1].upper()}{text[1:]}." for text in texts)

    def apply(self, probabilities: npt.ArrayLike) -> Floats:
        """Calibrated probabilities `(..., class)` of the model's `(..., class)`."""
        return self.scaling.apply(probabilities)

    def prediction_set(
        self, probabilities: npt.ArrayLike, *, level: float = LEVELS[0], is_class_conditional: bool = False
    ) -> npt.NDArray[np.bool_]:
        """Which classes are in the set `(..., class)` of the model's probabilities `(..., class)`.

        Raises DataError for a level that no thresholds are kept for.
        """
        for each in self.sets:
            if math.isclose(each.level, level):
                return each.sets(self.apply(probabilities), is_class_conditional=is_class_conditional)
        known = ", ".join(f"{each.level:g}" for each in self.sets)
        raise DataError(f"no prediction sets at level {level:g} are kept with this model; it has {known or 'none'}")

    def is_abstaining(self, probabilities: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether the answer is withheld `(...)`, of the model's probabilities `(..., class)`."""
        threshold = 0.0 if self.abstain is None else self.abstain.threshold
        return np.asarray(confidence_of(self.apply(probabilities)) < threshold)

    @property
    def id(self) -> str:
        """Twelve digits by which answers name it: another one for other values."""
        return hashlib.sha256(json.dumps(self.to_plain(), sort_keys=True).encode()).hexdigest()[:12]

    def to_plain(self) -> dict[str, Any]:
        """Values that JSON holds; NaN is None. `from_plain` gives back an equal calibration."""
        return {"format": FORMAT, **without_nan(dataclasses.asdict(self))}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Calibration":
        """What `to_plain` gave. Raises WeightsError, since it is kept with a model, when something is amiss."""
        try:
            if plain["format"] != FORMAT:
                raise ValueError(f"format {plain['format']!r} is not {FORMAT!r}")
            abstain = plain["abstain"]
            return cls(
                classes=tuple(str(name) for name in plain["classes"]),
                scaling=_built(Scaling, plain["scaling"]),
                reason=str(plain["reason"]),
                sets=tuple(_built(ConformalThresholds, each) for each in plain["sets"]),
                abstain=None if abstain is None else _built(AbstainThreshold, abstain),
                operating_points=tuple(_built(OperatingPoint, each) for each in plain["operating_points"]),
                num_cycles=int(plain["num_cycles"]),
                num_patients=int(plain["num_patients"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else error
            raise WeightsError(
                f"the calibration kept with the model cannot be used ({what}): calibrate it anew"
            ) from None


def fit_calibration(
    validation: Predictions,
    *,
    levels: Sequence[float] = LEVELS,
    abstain_for: Wanted = "coverage",
    abstain_value: float = WANTED_COVERAGE,
    sensitivities: Sequence[float] = (WANTED_SENSITIVITY,),
    allowed: Sequence[Method] = METHODS,
) -> Calibration:
    """Everything that can be learnt from these validation cycles; few patients never raise an error.

    With fewer than 6 patients nothing is scaled; thresholds that too few patients support put every class into the
    set; `Calibration.problems` says so. `allowed` are the methods of scaling to choose from. Raises ValueError for
    levels and wanted values outside 0 to 1.
    """
    labels, patients = validation.labels, validation.patients
    choice = choose_scaling(validation.probabilities, labels, patients, allowed=allowed)
    scaled = choice.held_out
    is_wrong = scaled.argmax(axis=1) != labels
    return Calibration(
        classes=validation.classes,
        scaling=choice.scaling,
        reason=choice.reason,
        sets=tuple(fit_thresholds(scaled, labels, patients, level=level) for level in levels),
        abstain=choose_threshold(confidence_of(scaled), is_wrong, patients, wanted=abstain_for, value=abstain_value),
        operating_points=_operating_points(scaled, validation, sensitivities),
        num_cycles=len(labels),
        num_patients=len(set(patients)),
    )


def with_operating_points(
    calibration: Calibration, validation: Predictions, *, sensitivities: Sequence[float]
) -> Calibration:
    """The calibration with operating points for these wanted sensitivities, by its own scaling.

    `validation` are the cycles that it was fitted on; DataError when they are plainly others.
    """
    found = (validation.classes, len(validation.labels), len(set(validation.patients)))
    fitted = (calibration.classes, calibration.num_cycles, calibration.num_patients)
    if found != fitted:
        raise DataError(
            f"the calibration that the model keeps was fitted on {fitted[1]} cycles of {fitted[2]} patients, here are "
            f"{found[1]} of {found[2]}: put a new one into the model with 'lungsound calibrate RUN --keep'"
        )
    scaled = scaled_without_own_fold(
        calibration.scaling.method, validation.probabilities, validation.labels, validation.patients
    )
    return dataclasses.replace(calibration, operating_points=_operating_points(scaled, validation, sensitivities))


def _operating_points(
    scaled: Floats, validation: Predictions, sensitivities: Sequence[float]
) -> tuple[OperatingPoint, ...]:
    points = [
        choose_operating_point(scaled, validation.labels, validation.patients, sensitivity=wanted)
        for wanted in sensitivities
    ]
    return tuple(point for point in points if point is not None)


def without_nan(value: Any) -> Any:
    """The value with None for NaN, and lists for tuples, as JSON holds it."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _built(kind: type[Any], plain: Mapping[str, Any]) -> Any:
    """A dataclass of numbers, texts and lists of numbers, from what `to_plain` made of it."""
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    if set(plain) != set(fields):
        raise ValueError(f"a {kind.__name__} has {', '.join(fields)}; got {', '.join(plain)}")
    return kind(**{name: _read(value, fields[name]) for name, value in plain.items()})


def _read(value: Any, wanted: Any) -> Any:
    """The value as the type of its field; None is NaN."""
    if wanted is float:
        return float("nan") if value is None else float(value)
    if wanted is int:
        return int(value)
    if wanted == tuple[float, ...]:
        return tuple(float(item) for item in value)
    if wanted == tuple[int, ...]:
        return tuple(int(item) for item in value)
    return str(value)
