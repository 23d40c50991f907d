"""Review by hand: the recordings of a folder, the most uncertain first, and corrected cycles in formats to train on."""

import csv
import hashlib
import io
import reprlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from os.path import normpath
from pathlib import Path
from typing import Annotated, Literal

from filelock import FileLock
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

from lungsound.data.convert import icbhi_text, sprsound_text, table_text
from lungsound.data.corpus import Cycle, Problem, Recording
from lungsound.data.file_facts import file_facts
from lungsound.data.table import Number, read_lines, read_table
from lungsound.data.tree import assemble, cycle_faults, split_patients
from lungsound.errors import DataError, LungsoundError, SettingsError
from lungsound.files import csv_text, write_text
from lungsound.inference.bulk import sound_files, stamp_of
from lungsound.inference.prediction import MAX_NAME, RecordingPrediction, uncertainty
from lungsound.labels import LABEL_SETS, LabelMap, LabelSet, LungSound, sound_of
from lungsound.serve.limits import Limits, Refusal
from lungsound.serve.readers import run_apart
from lungsound.serve.uploads import check_sound, error_text, safe_name

CorrectedFormat = Literal["icbhi", "sprsound", "csv"]
UNKNOWN_PATIENT = "unknown"  # of recordings whose names begin with none
SUFFIX = {"icbhi": ".txt", "sprsound": ".json", "csv": ".csv"}


class CorrectedCycle(BaseModel):
    """A cycle and the word for its sound."""

    model_config = ConfigDict(extra="forbid")
    start_s: Number
    end_s: Number
    label: str


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("control characters, or characters that are none")
    return text


class CorrectedRecording(BaseModel):
    """A recording with its corrected cycles. `patient` is a pseudonym; default: the name up to its first "_"."""

    name: str
    duration_s: Annotated[FiniteFloat, Field(gt=0)]
    sample_rate_hz: Annotated[int, Field(gt=0)]
    cycles: list[CorrectedCycle]
    patient: (
        Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_NAME), AfterValidator(_printable)] | None
    ) = None


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
    return path.stem.partition("_")[0].strip() or path.stem.strip() or UNKNOWN_PATIENT


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
            given_label = reprlib.repr(cycle.label)
            raise Refusal("unusable", f"label {given_label} is none of {', '.join(label_set.classes)}")
        sound = sound_of(cycle.label) or LungSound.NORMAL
        term = None if label_set.name == "sound4" else cycle.label
        end_s = min(cycle.end_s, recording.duration_s)
        cycles.append(Cycle(recording, cycle.start_s, end_s, sound.has_crackle, sound.has_wheeze, term))
    return sorted(cycles, key=lambda cycle: (cycle.start_s, cycle.end_s))


CORRECTIONS = "corrections"
TABLE = "corrections.csv"
NOT_READ = "table not read"  # the kind of a problem
ID_LENGTH = 16


@dataclass(frozen=True)
class Reviewed:
    """A recording of the folder: its prediction, or the error, or neither as long as the model was not asked."""

    id: str
    path: Path
    name: str
    prediction: RecordingPrediction | None = None
    error: str | None = None
    stamp: tuple[int, ...] | None = None
    """Of the file that was predicted."""

    @property
    def uncertainty(self) -> float | None:
        return None if self.prediction is None else uncertainty(self.prediction)


class ReviewFolder:
    """The recordings of a folder, and the corrections beside them, in a table that several may write."""

    def __init__(self, folder: Path, label_set: LabelSet, limits: Limits) -> None:
        if not folder.is_dir():
            raise SettingsError(f"{folder} is no folder: give the folder of the recordings to review")
        if not formats_of(label_set):
            raise SettingsError(
                f"label set {label_set.name!r} is of whole recordings or patients, and review is of cycles: "
                "take a model of another label set"
            )
        self.folder = folder.resolve()
        self.label_set, self.limits = label_set, limits
        self.table = (self.folder / CORRECTIONS).resolve() / TABLE
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
        """The recording with its prediction, which is made once for a file as it is."""
        reviewed = self[id]
        stamp = tuple(stamp_of(reviewed.path))
        if reviewed.stamp == stamp:
            return reviewed
        prediction, message = None, None
        try:
            prediction = predict(reviewed.path)
        except (LungsoundError, Refusal) as error:
            message = error_text(error, reviewed.path)
        reviewed = replace(reviewed, prediction=prediction, error=message, stamp=stamp)
        with self._lock:
            self._reviewed[id] = reviewed
        return reviewed

    def corrections(self) -> tuple[dict[str, list[CorrectedCycle]], tuple[Problem, ...]]:
        """The corrected cycles of each recording that has any, by its id, and what of the table is not read."""
        if not self.table.exists():
            return {}, ()
        id_of = {each.path: each.id for each in self}
        try:
            cycles, problems = run_apart(_read_corrections, self.table, self.label_set, limits=self.limits)
        except Refusal as refusal:
            return {}, (Problem(NOT_READ, self.table.name, str(refusal)),)
        return {id_of[path]: own for path, own in cycles.items() if path in id_of}, problems

    def correct(self, id: str, given: Sequence[CorrectedCycle]) -> None:
        """Keep the corrected cycles of a recording, in place of earlier ones; on disk when this returns.

        Refusals as `_corrected_table`, and for a table that cannot be written.
        """
        reviewed = self[id]
        try:
            self.table.parent.mkdir(exist_ok=True)
            with FileLock(self.table.parent / "lock", timeout=self.limits.timeout_s):
                arguments = (self.table, replace(reviewed, prediction=None), given, self.label_set, self.limits)
                write_text(self.table, run_apart(_corrected_table, *arguments, limits=self.limits))
        except OSError as error:
            raise Refusal("conflict", f"the table cannot be written ({error.strerror or error})") from None


def _corrected(cycle: Cycle) -> CorrectedCycle:
    return CorrectedCycle(start_s=cycle.start_s, end_s=cycle.end_s, label=cycle.word)


def _read_corrections(
    table: Path, label_set: LabelSet, *, text: str | None = None
) -> tuple[dict[Path, list[CorrectedCycle]], tuple[Problem, ...]]:
    """The corrected cycles in a table, or in its next text, by the path of their sound, and what is not read."""
    corrected: dict[Path, list[CorrectedCycle]] = {}
    try:
        # With a map a word that is unknown costs its own cycles alone.
        label_map = LabelMap("corrections", label_set, {name: name for name in label_set.classes})
        corpus = read_table(table, label_map=label_map, text=text)
    except DataError as error:
        return {}, (Problem(NOT_READ, table.name, error.detail),)
    file_facts().save()  # so that the next process need not decode these sounds
    for cycle in corpus.cycles:
        corrected.setdefault(Path(normpath(cycle.recording.path)), []).append(_corrected(cycle))
    return corrected, corpus.problems


def _corrected_table(
    table: Path, reviewed: Reviewed, given: Sequence[CorrectedCycle], label_set: LabelSet, limits: Limits
) -> str:
    """Text of the table with the corrected cycles of a recording in place of earlier ones; other lines stay.

    Refusal for a sound or cycles that cannot be, for a table to which no line can be added, and for a text from which
    these cycles, and what was there, would not be read back.
    """
    path, info = reviewed.path, check_sound(reviewed.path, limits)
    # Readers take blanks from the ends of cells; the end of a name is its suffix.
    name = reviewed.name if reviewed.name == reviewed.name.strip() else f"./{reviewed.name}"
    recording = Recording(name, _patient(path), path, info.num_samples / info.sample_rate_hz, info.sample_rate_hz)
    new = cycles_of(given, recording, label_set)
    try:
        text = _with_lines(table, path, _table_text(new, label_set, table.parent))
        text.encode()
    except (csv.Error, UnicodeEncodeError):
        raise Refusal("unusable", "no table can hold the name of this recording: rename it") from None
    before, _ = _read_corrections(table, label_set) if table.exists() else ({}, ())
    after, problems = _read_corrections(table, label_set, text=text)
    expected = {**before, path: [_corrected(cycle) for cycle in new]}
    if any(after.get(sound) != own for sound, own in expected.items()):
        reason = f" ({problems[-1]})" if problems else ""
        raise Refusal("unusable", f"these cycles of {path.name} cannot be kept: no table would give them back{reason}")
    return text


def _with_lines(table: Path, path: Path, new: str) -> str:
    """Text of the table with new lines for one sound; patients are split anew. Refusal for a table of another kind."""
    own_columns, *own = csv.reader(io.StringIO(new))
    columns, lines = own_columns, []
    if table.exists():
        try:
            columns, numbered = read_lines(table)
        except DataError as error:
            raise Refusal("conflict", f"{table.name} {error.detail}: mend it, or move it away") from None
        missing = [name for name in own_columns if name not in columns]
        if missing:
            message = f"{table.name} has no column {missing[0]!r}, as review writes it: move it away, or add the column"
            raise Refusal("conflict", message)
        lines = [cells for _, cells in numbered]
    place, patient, part = (columns.index(name) for name in ("path", "patient", "split"))
    kept = [cells for cells in lines if len(cells) <= place or Path(normpath(table.parent / cells[place])) != path]
    kept += [[dict(zip(own_columns, cells, strict=True)).get(name, "") for name in columns] for cells in own]
    whole = [cells for cells in kept if len(cells) == len(columns) and cells[patient]]
    split, _ = split_patients(Recording(cells[patient], cells[patient], path, 0.0, 0) for cells in whole)
    for cells in whole:
        cells[part] = split[cells[patient]]
    return csv_text([columns, *kept])
