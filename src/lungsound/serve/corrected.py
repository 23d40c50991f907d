"""Cycles that a person corrected, written in the formats that `lungsound train` reads."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from lungsound.data.annotations import icbhi_text, sprsound_text, table_text
from lungsound.data.corpus import Corpus, Cycle, Recording
from lungsound.data.tree import assemble, split_patients
from lungsound.labels import LABEL_SETS, LabelSet, LungSound, sound_of
from lungsound.serve import examples
from lungsound.serve.refusals import Refusal
from lungsound.serve.uploads import safe_name

CorrectedFormat = Literal["icbhi", "sprsound", "csv"]
SUFFIX = {"icbhi": ".txt", "sprsound": ".json", "csv": ".csv"}
PAST_END_S = 0.01  # times are rounded

Seconds = Annotated[FiniteFloat, Field(ge=0)]


class CorrectedCycle(BaseModel):
    """A cycle and the word for what is heard in it."""

    model_config = ConfigDict(extra="forbid")
    start_s: Seconds
    end_s: Seconds
    label: str

    @model_validator(mode="after")
    def _has_a_length(self) -> "CorrectedCycle":
        if self.start_s >= self.end_s:
            raise ValueError(f"a cycle from {self.start_s:g} to {self.end_s:g} s: it must end after its start")
        return self


class CorrectedRecording(BaseModel):
    """A recording with its corrected cycles. `patient` is a pseudonym; default: the name up to its first "_"."""

    model_config = ConfigDict(json_schema_extra={"example": examples.CORRECTED})
    name: str
    duration_s: Annotated[FiniteFloat, Field(gt=0)]
    sample_rate_hz: Annotated[int, Field(gt=0)]
    cycles: list[CorrectedCycle]
    patient: str | None = None


def formats_of(label_set: LabelSet) -> list[CorrectedFormat]:
    """The formats that have a word for each class: none where whole recordings, or patients, are told apart."""
    if label_set.unit == "recording" or label_set.needs_diagnosis:
        return []
    found: list[CorrectedFormat] = ["csv"]
    if set(label_set.classes) <= set(LABEL_SETS["sprsound_event7"].classes):
        found.insert(0, "sprsound")
    if all(sound_of(name) is not None for name in label_set.classes):
        found.insert(0, "icbhi")
    return found


def corrected_text(given: CorrectedRecording, to: CorrectedFormat, label_set: LabelSet) -> str:
    """The corrected cycles in a format. Refusal for a format without words for them, and for cycles that cannot be."""
    if to not in formats_of(label_set):
        known = ", ".join(formats_of(label_set)) or "none"
        raise Refusal("unusable", f"{to} has no words for label set {label_set.name!r}; formats that have: {known}")
    recording = recording_of(
        Path(safe_name(given.name)),
        duration_s=given.duration_s,
        sample_rate_hz=given.sample_rate_hz,
        patient=given.patient,
    )
    cycles = cycles_of(given.cycles, recording, label_set)
    if to == "icbhi":
        return icbhi_text(cycles)
    if to == "sprsound":
        return sprsound_text(None, cycles)
    return table_text(corpus_of([recording], cycles, label_set, Path()), Path())


def recording_of(
    path: Path, *, duration_s: float, sample_rate_hz: int, name: str | None = None, patient: str | None = None
) -> Recording:
    """A recording of the patient whose name its file begins with, as `lungsound.data.folders` has it."""
    patient = patient or path.stem.partition("_")[0] or path.stem
    return Recording(name or path.stem, patient, path, duration_s, sample_rate_hz)


def cycles_of(given: Sequence[CorrectedCycle], recording: Recording, label_set: LabelSet) -> list[Cycle]:
    """The cycles in order of time. Refusal for none, an unknown label, an end past the recording's, or twice the same.

    A corpus has no recording without cycles.
    """
    if not given:
        raise Refusal("unusable", "no cycles: none of the formats keeps a recording without any; leave one at least")
    counts = Counter((cycle.start_s, cycle.end_s) for cycle in given)
    found = []
    for cycle in given:
        if cycle.label not in label_set.classes:
            raise Refusal("unusable", f"label {cycle.label!r} is none of {', '.join(label_set.classes)}")
        where = f"the cycle from {cycle.start_s:g} to {cycle.end_s:g} s"
        if cycle.end_s > recording.duration_s + PAST_END_S:
            raise Refusal("unusable", f"{where} ends after the recording, which lasts {recording.duration_s:g} s")
        if counts[cycle.start_s, cycle.end_s] > 1:
            raise Refusal("unusable", f"{where} is there twice; leave one")
        sound = sound_of(cycle.label) or LungSound.NORMAL
        term = None if label_set.name == "sound4" else cycle.label
        end_s = min(cycle.end_s, recording.duration_s)
        found.append(Cycle(recording, cycle.start_s, end_s, sound.has_crackle, sound.has_wheeze, term))
    return sorted(found, key=lambda cycle: (cycle.start_s, cycle.end_s))


def corpus_of(recordings: Iterable[Recording], cycles: Iterable[Cycle], label_set: LabelSet, root: Path) -> Corpus:
    """Corrected recordings as a corpus, split by patient."""
    kept = tuple(recordings)
    split, note = split_patients(kept)
    return assemble(
        "table",
        root,
        recordings=kept,
        cycles=cycles,
        split=split,
        problems=(),
        notes=[note],
        vocabulary=label_set.name,
    )
