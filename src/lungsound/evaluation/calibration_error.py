"""How far probabilities are from being honest: ECE, class-wise ECE, Brier score, negative log-likelihood.

The expected calibration error (ECE) puts cycles into bins by their probability and takes the mean over cycles of
|mean probability - share of hits| of their bin. Noise alone keeps it above 0, more so in small sets: beside it stand
what a perfectly calibrated model would show by chance, and an estimate without that part.

Bins are 10: with 15, also common, the few cycles of a lung-sound test set leave more noise than calibration to see.

Both, and the interval, rest on the differences d of the bins and on their noise e, which is the spread of the resamples
of patients around d. A true set of differences t * d would have shown sum |t * d + e|. The interval holds the t for
which the ECE that was seen lies in the middle 95 % of these; the estimate is the t for which it is their median. The
lower end is 0 when chance alone can give the ECE that was seen. Few patients widen it as they widen other intervals.
Percentiles of resampled ECEs would not do: a resample adds its noise to that of the set, and lies above the truth. In
simulation (1,000 sets each of 30 and of 60 patients with 8 to 24 cycles that resemble each other; true ECE 9 and 18 %)
the 95 % interval held the truth in 94 to 95 % of sets, that of the Brier score in 95 to 96 %. With 10 patients the
interval of the ECE held it in 93 to 94 %, with 7 in 92 to 93 %, with 5 in 87 to 91 %, with 3 in 74 %: below 10 patients
there is neither an interval nor a correction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from lungsound.evaluation.bootstrap import (
    FEW_PATIENTS,
    Bootstrap,
    Estimate,
    Interval,
    Weights,
    draw_patient_weights,
    expanded_quantile,
    jackknife,
    sum_by_patient,
)
from lungsound.evaluation.calibration import Floats, Labels, negative_log_likelihood

NUM_BINS = 10


@dataclass(frozen=True)
class CalibrationError:
    """An ECE: as it was seen, what chance alone gives on average, and without chance, with an interval.

    Of fewer than 10 patients only what was seen; the others are NaN.
    """

    seen: float
    by_chance: float
    corrected: Estimate

    @property
    def problem(self) -> str | None:
        """Why there is neither a correction nor an interval; None when there are."""
        num_patients = self.corrected.interval.num_patients
        return f"too few patients ({num_patients} of {FEW_PATIENTS})" if num_patients < FEW_PATIENTS else None

    def corrected_in_percent(self) -> str:
        """For readers: "4.1 (0.0 to 9.2)", or why there is none."""
        return self.corrected.in_percent() if self.problem is None else f"n/a: {self.problem}"


@dataclass(frozen=True)
class BrierParts:
    """Brier score = reliability - resolution + uncertainty, summed over classes, each in equal-mass bins.

    `reliability` is the squared distance from calibration, `uncertainty` the score of always answering the shares of
    the classes, `resolution` what the answers tell beyond that (within-bin spread included, so that the sum is exact).
    """

    reliability: float
    resolution: float
    uncertainty: float


def equal_width_edges(num_bins: int = NUM_BINS) -> Floats:
    """Edges `(bin + 1,)` from 0 to 1, evenly spaced."""
    return np.linspace(0.0, 1.0, num_bins + 1)


def equal_mass_edges(values: Floats, num_bins: int = NUM_BINS) -> Floats:
    """Edges `(bin + 1,)` from 0 to 1 that put about as many of the values `(cycle,)` into each bin."""
    inner = np.quantile(values, np.linspace(0.0, 1.0, num_bins + 1)[1:-1], method="inverted_cdf")
    return np.concatenate([[0.0], inner, [1.0]])


def bin_of(values: Floats, edges: Floats) -> npt.NDArray[np.int64]:
    """Bin of each value; a value on an edge falls below it."""
    return np.searchsorted(edges[1:-1], values, side="left").astype(np.int64)


def bin_differences(values: Floats, hits: npt.ArrayLike, edges: Floats) -> Floats:
    """`(cycle, bin)`: value - hit in the cycle's bin, 0 elsewhere."""
    table = np.zeros((len(values), len(edges) - 1))
    table[np.arange(len(values)), bin_of(values, edges)] = values - np.asarray(hits, dtype=np.float64)
    return table


def top_label_error(
    probabilities: Floats,
    labels: Labels,
    patients: Sequence[str],
    *,
    bootstrap: Bootstrap,
    num_bins: int = NUM_BINS,
    is_equal_mass: bool = False,
) -> CalibrationError:
    """ECE of the answered class's probability `(cycle, class)`, in bins of equal width or of equal mass."""
    top = probabilities.max(axis=1)
    hits = probabilities.argmax(axis=1) == labels
    edges = equal_mass_edges(top, num_bins) if is_equal_mass else equal_width_edges(num_bins)
    return error_of_differences(bin_differences(top, hits, edges), patients, bootstrap=bootstrap)


def class_wise_error(
    probabilities: Floats,
    labels: Labels,
    patients: Sequence[str],
    *,
    bootstrap: Bootstrap,
    num_bins: int = NUM_BINS,
) -> CalibrationError:
    """Mean over classes of the ECE of each class's probability, in bins of equal width."""
    num_classes = probabilities.shape[1]
    edges = equal_width_edges(num_bins)
    tables = [bin_differences(probabilities[:, k], labels == k, edges) for k in range(num_classes)]
    return error_of_differences(np.concatenate(tables, axis=1) / num_classes, patients, bootstrap=bootstrap)


def error_of_differences(differences: Floats, patients: Sequence[str], *, bootstrap: Bootstrap) -> CalibrationError:
    """Sum over bins of |mean over cycles| of the differences `(cycle, bin)`, corrected for chance, with interval."""
    ones = np.ones((len(differences), 1))
    sums = sum_by_patient(np.concatenate([differences, ones], axis=1), patients)
    num_patients = len(sums)
    total = sums.sum(axis=0)
    means = total[:-1] / total[-1]
    seen = float(np.abs(means).sum())
    num_draws, level = bootstrap.num_draws, bootstrap.level
    if num_patients < FEW_PATIENTS:
        nothing = Interval(float("nan"), float("nan"), level, num_draws, num_patients)
        return CalibrationError(seen, float("nan"), Estimate(float("nan"), nothing))
    generator = np.random.default_rng(bootstrap.seed)
    weights = draw_patient_weights(num_patients, generator=generator, num_draws=num_draws)
    spread = _means(weights, sums) - means
    # Resamples of n patients spread less than sets of n patients do, by (n - 1) / n in variance.
    noise = spread * np.sqrt(num_patients / (num_patients - 1))
    by_chance = float(np.abs(noise).sum(axis=1).mean())
    degrees = jackknife(lambda times: np.abs(_means(times, sums)).sum(axis=1), num_patients).degrees
    wide = spread * _widening(degrees, level)
    low, high = (seen * _stretch(means, wide, share) for share in ((1.0 + level) / 2.0, (1.0 - level) / 2.0))
    middle = seen * _stretch(means, noise, 0.5)
    interval = Interval(low, high, level, num_draws, num_patients)
    return CalibrationError(seen, by_chance, Estimate(middle, interval))


def _means(weights: Weights, sums: Floats) -> Floats:
    """Mean difference of each bin `(draw, bin)` when patients count `(draw, patient)` times; sums end with cycles."""
    drawn = weights.astype(np.float64) @ sums
    return np.asarray(drawn[:, :-1] / drawn[:, -1:])


def _widening(degrees: float, level: float) -> float:
    """By how much the spread of resamples is stretched for an interval, as `expanded_percentiles` does for others."""
    return expanded_quantile(degrees, level=level) / NormalDist().inv_cdf((1.0 + level) / 2.0)


def _stretch(means: Floats, noise: Floats, share: float) -> float:
    """The t from 0 at which `share` of the sums |t * means + noise| lie below sum |means|; 0 when fewer do at 0."""
    seen = np.abs(means).sum()

    def share_below(stretch: float) -> float:
        return float((np.abs(stretch * means + noise).sum(axis=1) <= seen).mean())

    if seen == 0.0 or share_below(0.0) <= share:
        return 0.0
    low, high = 0.0, 1.0
    while share_below(high) > share:
        low, high = high, 2.0 * high
    for _ in range(20):
        middle = (low + high) / 2.0
        low, high = (middle, high) if share_below(middle) > share else (low, middle)
    return (low + high) / 2.0


def brier_scores(probabilities: Floats, labels: Labels) -> Floats:
    """Brier score of each cycle `(cycle,)`: sum over classes of (probability - truth)^2, from 0 to 2."""
    truths = np.eye(probabilities.shape[1])[labels]
    return np.asarray(((probabilities - truths) ** 2).sum(axis=1))


def brier_parts(probabilities: Floats, labels: Labels, *, num_bins: int = NUM_BINS) -> BrierParts:
    """The parts of the mean Brier score (Murphy 1973; within-bin terms as Stephenson et al. 2008 counted in)."""
    num_cycles, num_classes = probabilities.shape
    reliability, uncertainty = 0.0, 0.0
    for k in range(num_classes):
        values, hits = probabilities[:, k], (labels == k).astype(np.float64)
        bins = bin_of(values, equal_mass_edges(values, num_bins))
        counts = np.maximum(np.bincount(bins, minlength=num_bins), 1)
        gaps = np.bincount(bins, values - hits, minlength=num_bins)
        reliability += float((gaps**2 / counts).sum() / num_cycles)
        uncertainty += float(hits.mean() * (1.0 - hits.mean()))
    score = float(brier_scores(probabilities, labels).mean())
    return BrierParts(reliability, reliability + uncertainty - score, uncertainty)


@dataclass(frozen=True)
class ProbabilityErrors:
    """Every error of one set of probabilities; ECE as a fraction, Brier score 0 to 2, log-likelihood in nats."""

    top_label: CalibrationError
    top_label_equal_mass: CalibrationError
    class_wise: CalibrationError
    brier: Estimate
    brier_parts: BrierParts
    negative_log_likelihood: Estimate


def probability_errors(
    probabilities: Floats, labels: Labels, patients: Sequence[str], *, bootstrap: Bootstrap
) -> ProbabilityErrors:
    """All of them, over the same resamples of patients."""
    return ProbabilityErrors(
        top_label=top_label_error(probabilities, labels, patients, bootstrap=bootstrap),
        top_label_equal_mass=top_label_error(probabilities, labels, patients, bootstrap=bootstrap, is_equal_mass=True),
        class_wise=class_wise_error(probabilities, labels, patients, bootstrap=bootstrap),
        brier=bootstrap.mean(brier_scores(probabilities, labels), patients),
        brier_parts=brier_parts(probabilities, labels),
        negative_log_likelihood=bootstrap.mean(negative_log_likelihood(probabilities, labels), patients),
    )
