"""What was answered for a recording, and by what: the plain values that every format is written from.

Values that cannot be are our mistake and raise ValueError: a probability that is no number must never be written.
Times are kept to the microsecond, so that no format rounds again: neighbours never overlap by rounding.

From the answers for cycles to one for the recording, and from those for recordings to one for the patient.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Literal

from lungsound.labels import LabelSet
from lungsound.page import DISCLAIMER

CyclesFrom = Literal["annotation", "segmentation", "windows"]
UNCERTAIN = "uncertain"
TIME_DECIMALS = 6
SEPARATOR = ";"  # between the names in one cell
_TOLERANCE = 1e-6  # of a probability in float32 above 1


@dataclass(frozen=True)
class CycleAnswer:
    """What the model says of one stretch of a recording; probabilities by class name, in the label set's order.

    `answer` is the class that the model chose. `is_uncertain` says that it is better withheld, `possible` holds the
    classes that cannot be ruled out (empty without a calibration).
    """

    start_s: float
    end_s: float
    answer: str
    probabilities: Mapping[str, float]
    is_uncertain: bool = False
    possible: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("start_s", "end_s"):
            object.__setattr__(self, name, _to_microseconds(getattr(self, name), name))
        if self.start_s >= self.end_s:
            raise ValueError(f"a cycle from {self.start_s} to {self.end_s} s: it needs a microsecond at least")
        if not all(0.0 <= share <= 1.0 + _TOLERANCE for share in self.probabilities.values()):
            raise ValueError(f"probabilities are numbers from 0 to 1; got {dict(self.probabilities)}")
        unknown = {self.answer, *self.possible} - self.probabilities.keys()
        if unknown:
            raise ValueError(f"{min(unknown)!r} has no probability; there are {', '.join(self.probabilities)}")

    @property
    def said(self) -> str:
        """The answer, or "uncertain" where it is withheld."""
        return UNCERTAIN if self.is_uncertain else self.answer

    @property
    def caption(self) -> str:
        """For a label to be read: "crackle 0.83", or "uncertain (crackle 0.41)"."""
        guess = f"{self.answer} {self.probabilities[self.answer]:.2f}"
        return f"{UNCERTAIN} ({guess})" if self.is_uncertain else guess


@dataclass(frozen=True)
class RecordingAnswer:
    """The answers for one recording, in order of time.

    `cycles_from` says how the cycles were found; windows may overlap. `whole` is the answer for the recording, None
    where there is none (the `quality` remarks say why). `patient` is a pseudonym, never a name. `sample_rate_hz` is
    that of the file. `out_of_domain` is a score, higher for what is less like the training set.
    """

    path: Path
    duration_s: float
    sample_rate_hz: int
    cycles_from: CyclesFrom
    cycles: tuple[CycleAnswer, ...]
    whole: CycleAnswer | None = None
    patient: str | None = None
    device: str | None = None
    quality: tuple[str, ...] = ()
    out_of_domain: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "duration_s", _to_microseconds(self.duration_s, "duration_s"))
        by_time = sorted(self.cycles, key=lambda cycle: (cycle.start_s, cycle.end_s))
        object.__setattr__(self, "cycles", tuple(by_time))
        if self.out_of_domain is not None and not math.isfinite(self.out_of_domain):
            raise ValueError(f"{self.path}: out_of_domain is {self.out_of_domain}, a number is needed")
        for name in ("patient", "device"):
            if getattr(self, name) == "":
                raise ValueError(f"{self.path}: an unknown {name} is None, not blank")

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def path_text(self) -> str:
        """The path as text that every encoding holds: bytes of a name that are no UTF-8 are escaped."""
        return self.path.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class Provenance:
    """What made the answers. `band_hz` are the lowest and highest frequency that the model hears.

    `model` is its name or path, `settings` are those of the answering (plain values), `calibration` the id of the
    calibration in use. `created` needs a time zone.
    """

    model_sha256: str
    model: str
    label_set: LabelSet
    band_hz: tuple[float, float]
    settings: Mapping[str, str | int | float | bool | None]
    calibration: str | None
    lungsound_version: str
    created: datetime
    note: str = DISCLAIMER

    def __post_init__(self) -> None:
        if self.created.tzinfo is None:
            raise ValueError(f"created is {self.created.isoformat()}, which has no time zone")
        for name in self.label_set.classes:
            if not name.isprintable() or SEPARATOR in name:
                raise ValueError(f"class {name!r}: a name is on one line, without {SEPARATOR!r}")

    @property
    def created_text(self) -> str:
        """ISO 8601 with seconds and time zone."""
        return self.created.isoformat(timespec="seconds")


def _to_microseconds(seconds: float, name: str) -> float:
    if not (math.isfinite(seconds) and seconds >= 0.0):
        raise ValueError(f"{name} is {seconds}: a time from 0 s is needed")
    return round(float(seconds), TIME_DECIMALS)


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
