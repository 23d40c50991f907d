"""From the answers for cycles to one for the recording, and from those for recordings to one for the patient."""

import csv
import io
from collections.abc import Sequence
from itertools import groupby

from lungsound.answers.answer import CycleAnswer, RecordingAnswer

RULE = (
    "The answer for a recording has the mean of its cycles' probabilities, weighted by their durations; cycles without "
    "sound do not count. It is uncertain when cycles of at least half of that duration are. "
    "The answer for a patient has the mean over the recordings."
)


def whole_recording(cycles: Sequence[CycleAnswer], *, duration_s: float) -> CycleAnswer | None:
    """The answer for a recording by `RULE`, of the cycles that have sound; None without any."""
    return _mean(cycles, [cycle.end_s - cycle.start_s for cycle in cycles], duration_s)


def whole_patient(recordings: Sequence[RecordingAnswer]) -> CycleAnswer | None:
    """The answer for a patient by `RULE`, as long as the longest recording; None when no recording has one."""
    wholes = [recording.whole for recording in recordings if recording.whole is not None]
    return _mean(wholes, [1.0] * len(wholes), max((whole.end_s for whole in wholes), default=0.0))


def doubt(answer: RecordingAnswer) -> float:
    """1 less the mean over the cycles of `margin`: 0 is sure, 1 a toss-up or no answer at all."""
    margins = [margin(cycle) for cycle in answer.cycles]
    return min(1.0, max(0.0, 1.0 - sum(margins) / len(margins))) if margins else 1.0


def margin(cycle: CycleAnswer) -> float:
    """How far the two largest probabilities are apart."""
    first, second = sorted(cycle.probabilities.values(), reverse=True)[:2]
    return first - second


def patients_text(answers: Sequence[RecordingAnswer], classes: Sequence[str]) -> str:
    """A CSV table of the patients that are known, one in a row; only the header for none."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["patient", "num_recordings", "answer", "best_guess", *(f"p_{name}" for name in classes)])
    known = sorted((each for each in answers if each.patient is not None), key=lambda each: str(each.patient))
    for patient, group in groupby(known, key=lambda each: each.patient):
        recordings = list(group)
        whole = whole_patient(recordings)
        found = (
            ["", "", *("" for _ in classes)]
            if whole is None
            else [whole.said, whole.answer, *whole.probabilities.values()]
        )
        table.writerow([patient, len(recordings), *found])
    return out.getvalue()


def _mean(answers: Sequence[CycleAnswer], weights: Sequence[float], end_s: float) -> CycleAnswer | None:
    if not answers:
        return None
    total = sum(weights)
    probabilities = {
        name: sum(weight * answer.probabilities[name] for answer, weight in zip(answers, weights, strict=True)) / total
        for name in answers[0].probabilities
    }
    uncertain = sum(weight for answer, weight in zip(answers, weights, strict=True) if answer.is_uncertain)
    return CycleAnswer(
        0.0,
        end_s,
        max(probabilities, key=probabilities.__getitem__),
        probabilities,
        is_uncertain=2 * uncertain >= total,
    )
