"""Out-of-domain score: distance of a cycle from the training set, before any model is asked.

A cycle is its filter bank's mean and deviation over time, in each mel band, over their deviation in training. Its
distance is that to its fifth nearest training cycle; of a training cycle, to the fifth nearest of other patients. The
score is the share of cycles of patients held out for calibration, else of training cycles, that are no farther. A
high one says that the sound is unlike what was learnt from, not that the prediction is wrong; a low one promises
nothing. Nearest neighbours: Sun et al., "Out-of-distribution detection with deep nearest neighbors", ICML 2022.

A `Gate` also knows other sounds, those without lungs, and tells them by what the encoder makes of them: outlier
exposure (Hendrycks et al., "Deep anomaly detection with outlier exposure", ICLR 2019) with a rule of features and their
squares, since other sounds lie on all sides of lungs. Another gate tells corpora of the training set from each other.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

NEIGHBOUR = 5
MAX_CYCLES = 1000  # that are kept; 256 KB with 64 mels
MIN_CYCLES = 20  # for a score of 0.95
CYCLES_AT_ONCE = 256
HIGHEST_SCORE = 1.0  # of a cycle that is farther from the training cycles than each of these is from the others'
ANSWERED = 0.95  # least share of the held-out cycles of each group that pass a gate
MOST_SPREADS, MOST_SQUARE = 30.0, 100.0  # of a feature in a gate: silence lies far below every training cycle


class _OfArrays:
    """Fields that are arrays, kept in a model file."""

    @property
    def id(self) -> str:
        """Twelve digits by which predictions name it."""
        parts = (np.ascontiguousarray(array).tobytes() for array in vars(self).values())
        return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


@dataclass(frozen=True)
class Domain(_OfArrays):
    """Training cycles kept with a model: `cycles` (cycle, feature) float16, less `mean` and over `std` (feature,).

    `distances` (cycle,), from small to large, are those of held-out cycles, or of training cycles to other patients'.
    """

    mean: Floats
    std: Floats
    cycles: npt.NDArray[np.float16]
    distances: Floats

    def __post_init__(self) -> None:
        num_features = len(self.mean)
        if self.std.shape != (num_features,) or self.cycles.shape[1:] != (num_features,):
            raise ValueError(f"mean, std and cycles are of {num_features}, {self.std.shape}, {self.cycles.shape}")
        if len(self.cycles) < NEIGHBOUR or not len(self.distances):
            raise ValueError(f"{len(self.cycles)} cycles and {len(self.distances)} distances are too few")
        if not (self.std > 0).all() or (np.diff(self.distances) < 0).any():
            raise ValueError("a deviation is not above 0, or the distances are not in order")

    def scores(self, features: Floats) -> npt.NDArray[np.float64]:
        """Score of cycles (cycle, feature), 0 to 1; 1 is farther than every training cycle."""
        given = _standardized(features, self.mean, self.std)
        distances = np.sort(_distances(given, self.cycles.astype(np.float32)), axis=1)[:, NEIGHBOUR - 1]
        return np.searchsorted(self.distances, distances, side="right") / len(self.distances)


@dataclass(frozen=True)
class Gate(_OfArrays):
    """Rule that stops cycles: `mean` and `std` (feature,), `weights` (2 * feature,), `threshold` (1,).

    Features (cycle, feature) are those of the encoder, then `spectral_features`. The first half of the weights is for
    them, the second for their squares.
    """

    mean: Floats
    std: Floats
    weights: Floats
    threshold: Floats

    def __post_init__(self) -> None:
        sizes = [each.shape for each in (self.mean, self.std, self.weights, self.threshold)]
        num_features = self.mean.size
        if sizes != [(num_features,), (num_features,), (2 * num_features,), (1,)] or not (self.std > 0).all():
            raise ValueError(f"mean, std, weights and threshold are of {sizes}, or a deviation is not above 0")

    def scores(self, features: Floats) -> Floats:
        """Score of cycles (cycle, feature), higher for what is less like those that shall pass."""
        return np.asarray(_with_squares(features, self.mean, self.std) @ self.weights)

    def stops(self, features: Floats) -> npt.NDArray[np.bool_]:
        """True for cycles (cycle, feature) that do not pass."""
        return np.asarray(self.scores(features) > self.threshold)


def fit_gate(passing: Floats, others: Floats, held_out: Sequence[Floats], *, inverse_penalty: float = 0.3) -> Gate:
    """Gate between cycles (cycle, feature) that shall pass and others, by logistic regression.

    Both kinds weigh the same, features are standardised by the first kind's, and weights are kept small: the loss is
    half their square, and `inverse_penalty` times the weighted sum of -log likelihoods, as scikit-learn's `C`. The
    threshold is exceeded by one of twenty cycles of held-out patients in the group of `held_out` that is most like the
    others, by fewer in the rest.
    """
    from scipy.optimize import minimize  # late: whoever predicts needs no scipy

    mean, std = passing.mean(axis=0), passing.std(axis=0)
    std = np.where(std > 0, std, 1).astype(np.float32)
    given = np.concatenate([_with_squares(each, mean, std) for each in (passing, others)]).astype(np.float64)
    sizes = [len(passing), len(others)]
    sign = np.repeat([-1.0, 1.0], sizes)
    weight = inverse_penalty * len(sign) / 2 * np.repeat(1.0 / np.array(sizes), sizes)

    def loss(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights, bias = parameters[:-1], parameters[-1]
        margins = sign * (given @ weights + bias)
        slopes = -sign * weight / (1 + np.exp(np.clip(margins, -500, 500)))
        value = 0.5 * weights @ weights + weight @ np.logaddexp(0, -margins)
        return float(value), np.append(weights + slopes @ given, slopes.sum())

    optimum = minimize(loss, np.zeros(given.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    weights = optimum.x[:-1].astype(np.float32)
    gate = Gate(mean, std, weights, np.zeros(1, np.float32))
    threshold = max(float(np.quantile(gate.scores(group), ANSWERED)) for group in held_out)
    return replace(gate, threshold=np.array([threshold], np.float32))


def spectral_features(fbanks: Floats, num_frames: Sequence[int | None] | None = None) -> Floats:
    """Mean and deviation over time (batch, 2 * mel) of filter banks (batch, time, mel).

    num_frames: of each only so many frames, those that `FrontEnd.num_own_frames` calls its own; None, all.
    """
    own = [fbank[:num] for fbank, num in zip(fbanks, num_frames or [None] * len(fbanks), strict=True)]
    return np.stack([np.concatenate([each.mean(axis=0), each.std(axis=0)]) for each in own])


def fit_domain(
    features: Floats, patients: Sequence[str], others: Floats | None = None, *, generator: np.random.Generator
) -> Domain | None:
    """Domain of training cycles (cycle, feature); None for too few, or too few of other patients.

    Distances are those of `others` (cycle, feature), of patients held out, else, or with too few for a score of 0.95,
    of the training cycles: these have one patient less to be near, so that with few patients scores are a little low
    (ten: by up to 0.1 at the median). `generator` draws those that are kept.
    """
    rows = np.sort(generator.permutation(len(features))[:MAX_CYCLES])
    owners = np.asarray(patients)[rows]
    num_largest = max(np.unique(owners, return_counts=True)[1], default=0)
    if len(rows) < MIN_CYCLES or len(rows) - num_largest < NEIGHBOUR:
        return None
    mean, std = features.mean(axis=0), features.std(axis=0)
    std = np.where(std > 0, std, 1).astype(np.float32)
    cycles = _standardized(features[rows], mean, std).astype(np.float16)
    wide = cycles.astype(np.float32)
    if others is None or len(others) < MIN_CYCLES:
        between = _distances(wide, wide)
        between[owners[:, np.newaxis] == owners] = np.inf
    else:
        between = _distances(_standardized(others, mean, std), wide)
    return Domain(mean, std, cycles, np.sort(np.sort(between, axis=1)[:, NEIGHBOUR - 1]))


def _standardized(features: Floats, mean: Floats, std: Floats) -> Floats:
    limit = np.finfo(np.float16).max / 2  # silence lies far below every training cycle
    return np.asarray(np.clip((features - mean) / std, -limit, limit))


def _with_squares(features: Floats, mean: Floats, std: Floats) -> Floats:
    """Standardised features, and their squares over 3, which is their deviation for long tails (cycle, 2 * feature)."""
    spreads = np.clip((features - mean) / std, -MOST_SPREADS, MOST_SPREADS)
    return np.concatenate([spreads, np.minimum(spreads**2, MOST_SQUARE) / 3], axis=1)


def _distances(given: Floats, cycles: Floats) -> Floats:
    """Euclidean distances (given, cycle)."""
    distances = np.empty((len(given), len(cycles)), np.float32)
    wide = cycles.astype(np.float64)
    for first in range(0, len(given), CYCLES_AT_ONCE):
        some = given[first : first + CYCLES_AT_ONCE].astype(np.float64)
        squares = (some**2).sum(axis=1)[:, np.newaxis] + (wide**2).sum(axis=1) - 2 * some @ wide.T
        distances[first : first + CYCLES_AT_ONCE] = np.sqrt(np.maximum(squares, 0))
    return distances
