"""Predictions for cycles, recordings and patients, and their provenance: the values that all formats are written from.

Values that cannot be raise ValueError. Times are rounded to the microsecond, so that no format rounds again.
"""

import reprlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, FiniteFloat, StringConstraints
from pydantic.dataclasses import dataclass

from lungsound.errors import SettingsError
from lungsound.files import as_text, number
from lungsound.labels import LabelSet
from lungsound.page import DISCLAIMER

CyclesFrom = Literal["annotation", "segmentation", "windows"]
UNCERTAIN = "uncertain"
TIME_DECIMALS = 6
SEPARATOR = ";"  # between the names in one cell

Seconds = Annotated[
    float, Field(ge=0, allow_inf_nan=False), AfterValidator(lambda seconds: round(seconds, TIME_DECIMALS))
]
Probability = Annotated[float, Field(ge=0, le=1 + 1e-6, allow_inf_nan=False)]  # in float32 it may be above 1
MAX_AGE_YEARS, MAX_NAME = 150, 200
Age = Annotated[float, Field(ge=0, le=MAX_AGE_YEARS)]
Name = Annotated[str, StringConstraints(min_length=1)]


def as_stated(stethoscope: str | None, age_years: str | None) -> tuple[str | None, float | None]:
    """Stethoscope and age as somebody states them, None for a blank. SettingsError for what cannot be one."""
    name, text, age = (stethoscope or "").strip(), (age_years or "").strip(), None
    if not name.isprintable() or len(name) > MAX_NAME:
        detail = f"a name of up to {MAX_NAME} printable characters is needed"
        raise SettingsError(f"stethoscope is {reprlib.repr(name)}: {detail}")
    if text:
        try:
            age = number(text)
        except ValueError:
            age = -1.0
        if not 0 <= age <= MAX_AGE_YEARS:
            raise SettingsError(f"age is {reprlib.repr(text)}: years from 0 to {MAX_AGE_YEARS} are needed")
    return name or None, age


class Reason(StrEnum):
    """Stable codes of the reasons to withhold a prediction, those that hold for a model or a recording first."""

    NOT_MEASURED = "not_measured"
    NOT_BETTER_THAN_NORMAL = "not_better_than_normal"
    TEMPERATURE_AT_LIMIT = "temperature_at_limit"
    AGE_OUTSIDE = "age_outside"
    STETHOSCOPE_OUTSIDE = "stethoscope_outside"
    MOSTLY_SILENT = "mostly_silent"
    TOO_SHORT = "too_short"
    SPEECH = "speech"
    SILENT_CYCLE = "silent_cycle"
    NO_BREATHING = "no_breathing"
    OUT_OF_DOMAIN = "out_of_domain"
    ALL_CLASSES_POSSIBLE = "all_classes_possible"
    LOW_CONFIDENCE = "low_confidence"

    @classmethod
    def in_order(cls, given: Iterable["Reason"]) -> tuple["Reason", ...]:
        """Each of the given once, in the order of the codes."""
        reasons = set(given)
        return tuple(reason for reason in cls if reason in reasons)


MEANINGS = {
    Reason.NOT_MEASURED: "the model file holds no measurement on patients held out",
    Reason.NOT_BETTER_THAN_NORMAL: "the model was not shown to be better here than always predicting normal",
    Reason.TEMPERATURE_AT_LIMIT: "the temperature of the calibration stands at its limit",
    Reason.AGE_OUTSIDE: "the model was not measured on patients of this age, by this stethoscope if one is stated",
    Reason.STETHOSCOPE_OUTSIDE: "the model was not measured on a stethoscope of this name",
    Reason.MOSTLY_SILENT: "more than half of the recording is silent",
    Reason.TOO_SHORT: "the recording holds too little sound",
    Reason.SPEECH: "a voice goes through the recording",
    Reason.SILENT_CYCLE: "the cycle holds too little sound",
    Reason.NO_BREATHING: "the sound is steady, or more like noise, a voice, music or a heart than like breathing",
    Reason.OUT_OF_DOMAIN: "the sound is less like the training set than any cycle of it is like the others",
    Reason.ALL_CLASSES_POSSIBLE: "no class can be ruled out",
    Reason.LOW_CONFIDENCE: "the probability is too low to rely on",
}


@dataclass(frozen=True)
class CyclePrediction:
    """Prediction for one stretch of a recording; probabilities by class name, in the label set's order.

    `best_guess` is the most probable class; of a model that keeps a `normal_threshold` it is the first class from that
    probability on, else the most probable other. It is withheld where there are `reasons` to, of a model that keeps a
    `least_confidence` also with less probability than that; `possible` are the classes that cannot be ruled out (empty
    without a calibration).
    """

    start_s: Seconds
    end_s: Seconds
    best_guess: str
    probabilities: dict[str, Probability]
    reasons: tuple[Reason, ...] = ()
    possible: tuple[str, ...] = ()
    normal_threshold: Probability | None = None
    least_confidence: Probability | None = None

    def __post_init__(self) -> None:
        if self.start_s >= self.end_s:
            raise ValueError(f"a cycle from {self.start_s} to {self.end_s} s: it needs a microsecond at least")
        unknown = {self.best_guess, *self.possible} - self.probabilities.keys()
        if unknown:
            raise ValueError(f"{min(unknown)!r} has no probability; there are {', '.join(self.probabilities)}")

    @property
    def is_uncertain(self) -> bool:
        """True where there is a reason to withhold the prediction."""
        return bool(self.reasons)

    @property
    def label(self) -> str:
        """The best guess, or "uncertain" where it is withheld."""
        return UNCERTAIN if self.is_uncertain else self.best_guess

    @property
    def caption(self) -> str:
        """Label with its probability: "crackle 0.83", or "uncertain (crackle 0.41): low_confidence"."""
        guess = f"{self.best_guess} {self.probabilities[self.best_guess]:.2f}"
        return f"{UNCERTAIN} ({guess}): {', '.join(self.reasons)}" if self.reasons else guess


@dataclass(frozen=True)
class RecordingPrediction:
    """Prediction for one recording: its cycles in order of time, and their aggregate.

    `cycles_from` is the origin of the cycles; windows may overlap. `aggregate` is the prediction for the recording,
    None without any cycle (the `quality` remarks say why). `patient` is a pseudonym, never a name.
    `stethoscope` and `age_years` are as they were stated. `sample_rate_hz` is that of the file. `out_of_domain` is a
    score from 0 to 1, higher for what is less like the training set.
    """

    path: Path
    duration_s: Seconds
    sample_rate_hz: int
    cycles_from: CyclesFrom
    cycles: Annotated[
        tuple[CyclePrediction, ...],
        AfterValidator(lambda cycles: tuple(sorted(cycles, key=lambda each: (each.start_s, each.end_s)))),
    ]
    aggregate: CyclePrediction | None = None
    patient: Name | None = None
    stethoscope: Name | None = None
    age_years: Age | None = None
    quality: tuple[str, ...] = ()
    out_of_domain: FiniteFloat | None = None

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def path_text(self) -> str:
        """The path as text that every encoding holds: bytes of a name that are no UTF-8 are escaped."""
        return as_text(self.path.as_posix())


@dataclass(frozen=True)
class Provenance:
    """Model, settings and version that made predictions.

    `model` is its name or path, `evidence` says in a line on whom it was trained and measured, `band_hz` is the lowest
    and highest frequency of its input, `calibration` an id.
    """

    model_sha256: str
    model: str
    evidence: str
    label_set: LabelSet
    band_hz: tuple[float, float]
    settings: dict[str, str | int | float | bool | None]
    calibration: str | None
    lungsound_version: str
    created: AwareDatetime
    note: str = DISCLAIMER

    def __post_init__(self) -> None:
        for name in self.label_set.classes:
            if not name.isprintable() or SEPARATOR in name:
                raise ValueError(f"class {name!r}: a name is on one line, without {SEPARATOR!r}")

    @property
    def created_text(self) -> str:
        """ISO 8601 with seconds and time zone."""
        return self.created.isoformat(timespec="seconds")


RULE = (
    "The prediction for a recording is the mean of its cycles' probabilities, weighted by their durations; cycles "
    "without sound do not count. It is uncertain when cycles of at least half of that duration are, for their reasons, "
    "and when its own probability is too low for a cycle. The prediction for a patient is the mean over the recordings."
)


def aggregate_cycles(cycles: Sequence[CyclePrediction], *, duration_s: float) -> CyclePrediction | None:
    """Prediction for a recording by `RULE`, from its cycles with sound; None without any."""
    return _mean(cycles, [cycle.end_s - cycle.start_s for cycle in cycles], duration_s)


def aggregate_recordings(recordings: Sequence[RecordingPrediction]) -> CyclePrediction | None:
    """Prediction for a patient by `RULE`, as long as the longest recording; None when no recording has one."""
    aggregates = [recording.aggregate for recording in recordings if recording.aggregate is not None]
    longest_s = max((aggregate.end_s for aggregate in aggregates), default=0.0)
    return _mean(aggregates, [1.0] * len(aggregates), longest_s)


def _mean(predictions: Sequence[CyclePrediction], weights: Sequence[float], end_s: float) -> CyclePrediction | None:
    if not predictions:
        return None
    weighted, total = list(zip(weights, predictions, strict=True)), sum(weights)
    probabilities = {
        name: sum(weight * prediction.probabilities[name] for weight, prediction in weighted) / total
        for name in predictions[0].probabilities
    }
    (normal, *others), threshold = probabilities, predictions[0].normal_threshold
    best_guess = max(probabilities, key=probabilities.__getitem__)
    if threshold is not None:  # as `evaluation.predictions.predicted_classes`, without NumPy
        is_normal = probabilities[normal] >= threshold
        best_guess = normal if is_normal else max(others, key=probabilities.__getitem__)
    uncertain = [(weight, prediction.reasons) for weight, prediction in weighted if prediction.reasons]
    is_uncertain = 2 * sum(weight for weight, _ in uncertain) >= total
    reasons = {reason for _, each in uncertain for reason in each} if is_uncertain else set()
    least = predictions[0].least_confidence
    if least is not None and probabilities[best_guess] < least:  # sure cycles may contradict each other
        reasons.add(Reason.LOW_CONFIDENCE)
    ordered = Reason.in_order(reasons)
    return CyclePrediction(
        0.0, end_s, best_guess, probabilities, ordered, normal_threshold=threshold, least_confidence=least
    )


def lanes(spans_s: Sequence[tuple[float, float]]) -> list[int]:
    """Row of each stretch (start, end), in order of time, such that those of one row never overlap."""
    ends: list[float] = []
    rows = []
    for start_s, end_s in spans_s:
        row = next((row for row, taken_until_s in enumerate(ends) if taken_until_s <= start_s), len(ends))
        ends[row : row + 1] = [end_s]
        rows.append(row)
    return rows


def uncertainty(prediction: RecordingPrediction) -> float:
    """1 less the mean over the cycles of `margin`: 0 is certain, 1 is a toss-up or no prediction at all."""
    margins = [margin(cycle) for cycle in prediction.cycles]
    return min(1.0, max(0.0, 1.0 - sum(margins) / len(margins))) if margins else 1.0


def margin(cycle: CyclePrediction) -> float:
    """Distance between the two largest probabilities."""
    first, second = sorted(cycle.probabilities.values(), reverse=True)[:2]
    return first - second
