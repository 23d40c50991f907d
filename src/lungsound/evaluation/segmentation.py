"""How well found breathing cycles meet annotated ones: cycles matched one to one, and the error of their onsets.

A found cycle matches an annotated one when what they share is at least half of what they cover together; the largest
number of pairs counts. F1 is 2 matched / (found + annotated). The error of an annotated onset is its distance to the
nearest found one, whatever else is found: many onsets have small errors, so it says something beside F1 only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lungsound.evaluation.metrics import Fractions
from lungsound.evaluation.spread import ValueOf, Weights
from lungsound.evaluation.uncertainty import NUM_DRAWS, Estimate, interval_over_patients

MIN_OVERLAP = 0.5
NEAR_S = (0.25, 0.5)

Cycles = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Tally:
    """Found against annotated cycles of one recording; `errors_s` of annotated onsets, infinite if none was found."""

    patient: str
    num_found: int
    num_annotated: int
    num_matched: int
    errors_s: tuple[float, ...]


@dataclass(frozen=True)
class SegmentationScores:
    """Scores over recordings; all but `median_error_s`, in seconds, are fractions."""

    f1: Estimate
    recall: Estimate
    precision: Estimate
    near: tuple[Estimate, ...]
    """Share of the annotated onsets with a found one within each of `NEAR_S`."""
    median_error_s: Estimate


def tally(found: Cycles, annotated: Cycles, *, patient: str) -> Tally:
    """Counts and errors of one recording's cycles (start, end) in seconds, in any order."""
    starts_s = np.array([start_s for start_s, _ in found])
    errors_s = [float(np.abs(starts_s - start_s).min(initial=np.inf)) for start_s, _ in annotated]
    return Tally(patient, len(found), len(annotated), num_matched(found, annotated), tuple(errors_s))


def num_matched(found: Cycles, annotated: Cycles) -> int:
    """The largest number of pairs of a found and an annotated cycle, each used once, that overlap by `MIN_OVERLAP`.

    Overlap is intersection over union. By augmenting paths (Kuhn, 1955): each annotated cycle takes a found one, whose
    owner, if it has one, moves on to another.
    """
    partners = [[k for k, cycle in enumerate(found) if overlap(cycle, other) >= MIN_OVERLAP] for other in annotated]
    owner: dict[int, int] = {}

    def is_placed(number: int, tried: set[int]) -> bool:
        for partner in partners[number]:
            if partner not in tried:
                tried.add(partner)
                if partner not in owner or is_placed(owner[partner], tried):
                    owner[partner] = number
                    return True
        return False

    return sum(is_placed(number, set()) for number in range(len(annotated)))


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two stretches of time, 0 to 1."""
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    return shared / (one[1] - one[0] + other[1] - other[0] - shared)


def score_segmentation(tallies: Sequence[Tally], *, seed: int = 0, num_draws: int = NUM_DRAWS) -> SegmentationScores:
    """Scores of all recordings together, with intervals over patients."""
    num_patients = len({each.patient for each in tallies})

    def estimate(value_of: ValueOf) -> Estimate:
        value = float(value_of(np.ones((1, num_patients), dtype=np.int64))[0])
        generator = np.random.default_rng(seed)
        return Estimate(value, interval_over_patients(value_of, num_patients, generator=generator, num_draws=num_draws))

    found, annotated, matched = _counts(tallies).T
    near = [np.array([sum(error <= near_s for error in each.errors_s) for each in tallies]) for near_s in NEAR_S]
    return SegmentationScores(
        f1=estimate(_ratio(tallies, 2 * matched, found + annotated)),
        recall=estimate(_ratio(tallies, matched, annotated)),
        precision=estimate(_ratio(tallies, matched, found)),
        near=tuple(estimate(_ratio(tallies, counts, annotated)) for counts in near),
        median_error_s=estimate(median_error(tallies)),
    )


def f1_gain(tallies: Sequence[Tally], minus: Sequence[Tally], *, seed: int = 0, num_draws: int = NUM_DRAWS) -> Estimate:
    """F1 less that of another way to find cycles in recordings of the same patients."""
    num_patients = len({each.patient for each in tallies})
    sides = []
    for side in (tallies, minus):
        found, annotated, matched = _counts(side).T
        sides.append(_ratio(side, 2 * matched, found + annotated))
    everyone = np.ones((1, num_patients), dtype=np.int64)
    interval = interval_over_patients(
        sides[0], num_patients, minus=sides[1], generator=np.random.default_rng(seed), num_draws=num_draws
    )
    return Estimate(float(sides[0](everyone)[0] - sides[1](everyone)[0]), interval)


def _counts(tallies: Sequence[Tally]) -> npt.NDArray[np.int64]:
    """Found, annotated and matched `(recording, 3)`."""
    return np.array([(each.num_found, each.num_annotated, each.num_matched) for each in tallies], dtype=np.int64)


def _patient_rows(tallies: Sequence[Tally]) -> npt.NDArray[np.int64]:
    """The number of each recording's patient `(recording,)`, by name."""
    return np.unique(np.array([each.patient for each in tallies]), return_inverse=True)[1].astype(np.int64)


def _ratio(tallies: Sequence[Tally], part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> ValueOf:
    """Sum of `part` by that of `whole` `(recording,)` as a function of how patients are taken."""
    rows = _patient_rows(tallies)
    sums = np.stack([np.bincount(rows, counts) for counts in (part, whole)], axis=1)

    def value_of(weights: Weights) -> Fractions:
        parts, wholes = (weights @ sums).T
        with np.errstate(invalid="ignore"):
            return np.asarray(parts / wholes)

    return value_of


def median_error(tallies: Sequence[Tally]) -> ValueOf:
    """Median of the onsets' errors in seconds (the lower one of two) as a function of how patients are taken.

    NaN when no onset was found for so many.
    """
    rows = np.repeat(_patient_rows(tallies), [len(each.errors_s) for each in tallies])
    errors_s = np.array([error for each in tallies for error in each.errors_s])
    order = np.argsort(errors_s)

    def value_of(weights: Weights) -> Fractions:
        below = np.cumsum(weights[:, rows[order]], axis=1)
        medians_s = errors_s[order][(2 * below < below[:, -1:]).sum(axis=1)]
        return np.where(np.isfinite(medians_s), medians_s, np.nan)

    return value_of
