"""Temperature and vector scaling: probabilities made honest by a few numbers, fitted on validation patients.

A model's log-probabilities are stretched and shifted per class, then made probabilities again:

    softmax(scale * log p + bias)

Temperature scaling (Guo et al., ICML 2017) has one scale 1 / T and no bias: it never changes the most probable class.
Vector scaling has a scale and a bias for each class. Both minimise the mean negative log-likelihood, in which every
cycle counts the same, as it does in the errors that are reported. Cycles of one patient are no separate evidence:
whether to scale, and how, is decided by cross-validation over patients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
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
