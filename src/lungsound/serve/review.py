"""Review by hand: the recordings of a folder, the most uncertain first, and corrected cycles in formats to train on."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from lungsound.audio.io import probe
from lungsound.data.convert import icbhi_text, sprsound_text, table_text
from lungsound.data.corpus import Cycle, Recording
from lungsound.data.table import Number, read_table
from lungsound.data.tree import assemble, cycle_faults, split_patients
from lungsound.errors import LungsoundError, SettingsError
from lungsound.files import write_text
from lungsound.inference.bulk import sound_files
from lungsound.inference.prediction import RecordingPrediction, uncertainty
from lungsound.labels import LABEL_SETS, LabelSet, LungSound, sound_of
from lungsound.serve.limits import Refusal
from lungsound.serve.uploads import error_text, safe_name

CorrectedFormat = Literal["icbhi", "sprsound", "csv"]
SUFFIX = {"icbhi": ".txt", "sprsound": ".json", "csv": ".csv"}


class CorrectedCycle(BaseModel):
    """A cycle and the word for its sound."""

    model_config = ConfigDict(extra="forbid")
    start_s: Number
    end_s: Number
    label: str


class CorrectedRecording(BaseModel):
    """A recording with its corrected cycles. `patient` is a pseudonym; default: the name up to its first "_"."""

    name: str
    duration_s: Annotated[FiniteFloat, Field(gt=0)]
    sample_rate_hz: Annotated[int, Field(gt=0)]
    cycles: list[CorrectedCycle]
    patient: str | None = None


def formats_of(label_set: LabelSet) -> list[CorrectedFormat]:
    """The formats that have a word for each class: none for classes of recordings or patients."""
    if label_set.unit == "recording" or label_set.needs_diagnosis:
        return []
    formats: list[CorrectedFormat] = ["csv"]
    if set(label_set.classes) <= set(LABEL_SETS["sprsound_event7"].classes):
        formats.insert(0, "sprsound")
    if all(sound_of(name) is not None for name in label_set.classes):
        formats.insert(0, "icbhi")
    return formats


def corrected_text(given: CorrectedRecording, to: CorrectedFormat, label_set: LabelSet) -> str:
    """The corrected cycles in a format. Refusal for a format without words for them, and for cycles that cannot be."""
    if to not in formats_of(label_set):
        known = ", ".join(formats_of(label_set)) or "none"
        raise Refusal("unusable", f"{to} has no words for label set {label_set.name!r}; formats that have: {known}")
    path = Path(safe_name(given.name))
    patient = given.patient or _patient(path)
    recording = Recording(path.stem, patient, path, given.duration_s, given.sample_rate_hz)
    cycles = cycles_of(given.cycles, recording, label_set)
    if to == "icbhi":
        return icbhi_text(cycles)
    if to == "sprsound":
        return sprsound_text(None, cycles)
    return _table_text(cycles, label_set, Path())


def _patient(path: Path) -> str:
    """The patient with whose name a file begins, as `lungsound.data.folders` has it."""
    return path.stem.partition("_")[0] or path.stem


def _table_text(cycles: Sequence[Cycle], label_set: LabelSet, folder: Path) -> str:
    """A table of corrected cycles, split by patient, to lie in a folder."""
    recordings = {cycle.recording.name: cycle.recording for cycle in cycles}.values()
    split, _ = split_patients(recordings)
    corpus = assemble("table", folder, recordings=recordings, cycles=cycles, split=split, vocabulary=label_set.name)
    return table_text(corpus, folder)


def cycles_of(given: Sequence[CorrectedCycle], recording: Recording, label_set: LabelSet) -> list[Cycle]:
    """The cycles in order of time. Refusal for none, an unknown label, and what `cycle_faults` finds."""
    if not given:
        raise Refusal("unusable", "no cycles: none of the formats keeps a recording without any; leave one at least")
    cycles = []
    faults = cycle_faults([(cycle.start_s, cycle.end_s) for cycle in given], recording.duration_s)
    for cycle, fault in zip(given, faults, strict=True):
        if fault is not None:
            raise Refusal("unusable", ": ".join(fault))
        if cycle.label not in label_set.classes:
            raise Refusal("unusable", f"label {cycle.label!r} is none of {', '.join(label_set.classes)}")
        sound = sound_of(cycle.label) or LungSound.NORMAL
        term = None if label_set.name == "sound4" else cycle.label
        end_s = min(cycle.end_s, recording.duration_s)
        cycles.append(Cycle(recording, cycle.start_s, end_s, sound.has_crackle, sound.has_wheeze, term))
    return sorted(cycles, key=lambda cycle: (cycle.start_s, cycle.end_s))


CORRECTIONS = "corrections"
TABLE = "corrections.csv"
ID_LENGTH = 16


@dataclass(frozen=True)
class Reviewed:
    """A recording of the folder: its prediction, or the error, or neither as long as the model was not asked."""

    id: str
    path: Path
    name: str
    prediction: RecordingPrediction | None = None
    error: str | None = None

    @property
    def uncertainty(self) -> float | None:
        return None if self.prediction is None else uncertainty(self.prediction)


class ReviewFolder:
    """The recordings of a folder, and the corrections beside them, in a table that several may write."""

    def __init__(self, folder: Path, label_set: LabelSet) -> None:
        if not folder.is_dir():
            raise SettingsError(f"{folder} is no folder: give the folder of the recordings to review")
        if not formats_of(label_set):
            raise SettingsError(
                f"label set {label_set.name!r} is of whole recordings or patients, and review is of cycles: "
                "take a model of another label set"
            )
        self.folder = folder.resolve()
        self.label_set = label_set
        self.table = self.folder / CORRECTIONS / TABLE
        self._lock = threading.Lock()
        self._reviewed: dict[str, Reviewed] = {}
        for path in filter(Path.is_file, sound_files([self.folder])):
            # The path as text that JSON holds.
            name = path.relative_to(self.folder).as_posix().encode("utf-8", "backslashreplace").decode()
            id = hashlib.sha256(name.encode()).hexdigest()[:ID_LENGTH]
            self._reviewed[id] = Reviewed(id, path, name)

    def __iter__(self) -> Iterator[Reviewed]:
        """Most uncertain first; then those that the model was not asked for yet, then those with an error."""
        with self._lock:
            reviewed = list(self._reviewed.values())
        reviewed.sort(key=lambda each: (each.error is not None, each.uncertainty is None, -(each.uncertainty or 0.0)))
        return iter(reviewed)

    def __getitem__(self, id: str) -> Reviewed:
        with self._lock:
            if id not in self._reviewed:
                raise Refusal("not found", "no recording has this id; GET /v1/recordings lists them")
            return self._reviewed[id]

    def predicted(self, id: str, predict: Callable[[Path], RecordingPrediction]) -> Reviewed:
        """The recording with its prediction, which is made once."""
        reviewed = self[id]
        if reviewed.prediction is not None or reviewed.error is not None:
            return reviewed
        try:
            reviewed = replace(reviewed, prediction=predict(reviewed.path))
        except (LungsoundError, Refusal) as error:
            reviewed = replace(reviewed, error=error_text(error, reviewed.path))
        with self._lock:
            self._reviewed[id] = reviewed
        return reviewed

    def corrections(self) -> dict[str, list[CorrectedCycle]]:
        """The corrected cycles of each recording that has any, by its id."""
        id_of = {each.name: each.id for each in self}
        corrected: dict[str, list[CorrectedCycle]] = {}
        for cycle in self._read():
            if cycle.recording.name in id_of:
                values = CorrectedCycle(start_s=cycle.start_s, end_s=cycle.end_s, label=cycle.word)
                corrected.setdefault(id_of[cycle.recording.name], []).append(values)
        return corrected

    def correct(self, id: str, given: Sequence[CorrectedCycle]) -> None:
        """Keep the corrected cycles of a recording, in place of earlier ones; on disk when this returns."""
        reviewed = self[id]
        info, path = probe(reviewed.path), reviewed.path
        duration_s = info.num_samples / info.sample_rate_hz
        recording = Recording(reviewed.name, _patient(path), path, duration_s, info.sample_rate_hz)
        new = cycles_of(given, recording, self.label_set)
        self.table.parent.mkdir(exist_ok=True)
        with self._lock, FileLock(self.table.parent / "lock"):
            cycles = [cycle for cycle in self._read() if cycle.recording.name != reviewed.name] + new
            write_text(self.table, _table_text(cycles, self.label_set, self.table.parent))

    def _read(self) -> list[Cycle]:
        """The cycles of the table. CorpusError when somebody made it a table that cannot be read whole."""
        return list(read_table(self.table).require_sound().cycles) if self.table.exists() else []
