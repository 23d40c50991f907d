"""Remarks beside a prediction, and the reasons to withhold it.

Predictions are withheld ("uncertain", with the best guess beside it) where the sound is not breathing, or too little of
it, and for cycles farther from the training cycles than each of these is from the others'. Everything else that is
wrong, from clipping to an unknown device, changes what a prediction is worth by an unknown amount: it is remarked on.
"""

from collections.abc import Sequence

import numpy as np

from lungsound.audio.quality import MOSTLY_SILENT, SPEECH, TOO_SHORT

WITHHELD_FOR = frozenset({MOSTLY_SILENT, TOO_SHORT, SPEECH})
SILENT_CYCLES = "silent cycles"
UNLIKE = "unlike the training set"
UNKNOWN_DEVICE, OTHER_DEVICE = "unknown device", "device not trained on"
HIGH_SCORE, HIGHEST_SCORE = 0.95, 1.0


def is_withheld(remarks: Sequence[str]) -> bool:
    """True if every prediction for this recording is withheld, whatever its cycles are like."""
    return not WITHHELD_FOR.isdisjoint(remarks)


def score_of(cycle_scores: Sequence[float]) -> float | None:
    """Out-of-domain score of a recording: the median of its sounding cycles'; None without any."""
    return float(np.median(cycle_scores)) if len(cycle_scores) else None


def remark_on_score(score: float | None) -> tuple[str, ...]:
    return (UNLIKE,) if score is not None and score >= HIGH_SCORE else ()


def remark_on_device(device: str | None, trained_on: Sequence[str]) -> tuple[str, ...]:
    """Remark on the recording device (None: unknown); none where the training devices are unknown."""
    if not trained_on:
        return ()
    if device is None:
        return (UNKNOWN_DEVICE,)
    return () if device.casefold() in {name.casefold() for name in trained_on} else (OTHER_DEVICE,)
