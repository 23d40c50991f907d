"""The permutation test of a comparison: the answers of A and B swapped for whole patients.

Sp and Se are sums of what single patients contribute, over numbers of cycles that no method changes. To swap the
answers of A and B for one patient is thus to turn the sign of what that patient adds to the difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lungsound.evaluation.metrics import Counts, Fractions

NUM_SWAPS = 9999
MAX_EXACT_PATIENTS = 14  # all 2^14 ways to swap are gone through; with more, NUM_SWAPS are drawn
NORMAL, ABNORMAL = 0, 1


@dataclass(frozen=True, eq=False)
class PatientParts:
    """What each patient adds to a difference A minus B, in the reading of normal and in that of abnormal cycles.

    `parts` `(reading, patient)` sum to the difference; `shares` `(reading, patient)` are the patient's share of the
    cycles that are read. Both are NaN in a reading that has no cycle.
    """

    parts: Fractions
    shares: Fractions

    @property
    def by_patient(self) -> Fractions:
        """What each patient adds in all readings together `(patient,)`."""
        return np.asarray(self.parts.sum(axis=0))


def patient_parts(first: Counts, second: Counts, readings: Sequence[int]) -> PatientParts:
    """The parts of the mean over `readings`: (NORMAL,) of Sp, (ABNORMAL,) of Se, (NORMAL, ABNORMAL) of the Score.

    Both sides are `(seed, patient, true class, answered class)` on the same cycles; the mean over seeds is taken.
    """
    num_cycles = _normal_and_abnormal(first[0].sum(axis=-1))
    totals = num_cycles.sum(axis=1, keepdims=True)
    totals[totals == 0.0] = np.nan
    right = [_normal_and_abnormal(np.diagonal(runs, axis1=-2, axis2=-1).mean(axis=0)) for runs in (first, second)]
    rows = list(readings)
    return PatientParts(((right[0] - right[1]) / totals / len(rows))[rows], (num_cycles / totals)[rows])


def _normal_and_abnormal(by_class: Counts | Fractions) -> Fractions:
    """Sums `(2, patient)` over the normal class and over all others, from `(patient, class)`."""
    return np.stack([by_class[:, 0], by_class[:, 1:].sum(axis=1)]).astype(np.float64)


def swap_test(patients: PatientParts, *, generator: np.random.Generator, num_draws: int = NUM_SWAPS) -> float:
    """Two-sided p of the difference when A and B are swapped for whole patients; NaN when there is no difference.

    Exact, over all ways to swap, when at most `MAX_EXACT_PATIENTS` patients have parts that are not 0; else by
    drawing. The size of a difference is taken over its standard error (Janssen, Statistics & Probability Letters 36,
    1997; Chung & Romano, Annals of Statistics 41, 2013). Its bare size would be a weak measure for methods that trade
    Sp for Se: swapped at random, they scatter by the whole trade.
    """
    if np.isnan(patients.parts).any():
        return float("nan")
    is_moved = (patients.parts != 0.0).any(axis=0)
    num_moved = int(is_moved.sum())
    if num_moved <= MAX_EXACT_PATIENTS:
        chosen = 1 - 2 * (np.arange(2**num_moved)[:, None] >> np.arange(num_moved) & 1)
    else:
        drawn = 1 - 2 * generator.integers(0, 2, (num_draws, num_moved))
        chosen = np.concatenate([np.ones((1, num_moved), dtype=np.int64), drawn])
    signs = np.ones((len(chosen), patients.parts.shape[1]))
    signs[:, is_moved] = chosen
    sizes = studentised(patients, signs)
    # The first is the way it is; equal sizes may differ in their last bits.
    return float((sizes >= sizes[0] * (1.0 - 1e-9)).mean())


def studentised(patients: PatientParts, signs: Fractions) -> Fractions:
    """Size of the difference over its standard error `(draw,)`, when each part has its sign `(draw, patient)`.

    The standard error is that of a ratio of sums over patients. Infinite for a difference without one, 0 for none.
    """
    by_reading = signs @ patients.parts.T
    influences = signs * patients.by_patient - by_reading @ patients.shares
    size, variance = np.abs(by_reading.sum(axis=1)), (influences**2).sum(axis=1)
    is_certain = variance < 1e-24
    return np.where(is_certain, np.where(size < 1e-12, 0.0, np.inf), size / np.sqrt(variance + is_certain))
