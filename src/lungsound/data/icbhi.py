"""What ICBHI tells of its patients: age, sex, body-mass index, diagnosis.

ICBHI 2017, read from its official tree: `.wav` or `.flac` beside `.txt`, patient facts, splits.

Rocha et al., "An open access database for the evaluation of respiratory sound classification algorithms",
Physiol. Meas. 40 (2019) 035001.

The two namings. 91 recordings are written `..._Meditron` in the official split and in the archive that goes
with it, and `..._LittC2SE` (54) or `..._AKGC417L` (37) in other copies. Here the first is the canonical name.
Both are read: splits, annotations and the device are looked up by the canonical name, the recording keeps the
name of its file. So a recording's device does not depend on the copy, and the devices count as published
(train/test: AKGC417L 361/285, Meditron 86/41, LittC2SE 87/0, Litt3200 5/55). The sampling rates speak for the
other naming (of the 91 all are 44.1 kHz, the other 36 Meditron recordings 4 or 10 kHz): per-device results of
Meditron mix devices.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from lungsound.data.corpus import Corpus, Cycle, Problem, Recording
from lungsound.data.synthetic import EVENTS_FILE
from lungsound.data.tree import (
    assemble,
    files_with_suffix,
    manifest_rows,
    measure,
    one_per_name,
    require_folder,
    sound_files,
    unpaired,
    usable_cycles,
)
from lungsound.errors import AnnotationError, CorpusError, DataError

DEMOGRAPHIC_FILES = ("metadata.txt", "demographic_info.txt", "ICBHI_Challenge_demographic_information.txt")
DIAGNOSIS_FILES = ("patient_diagnosis.txt", "patient_diagnosis.csv", "ICBHI_Challenge_diagnosis.txt")
FACT_FILES = (*DEMOGRAPHIC_FILES, *DIAGNOSIS_FILES)


@dataclass(frozen=True)
class PatientFacts:
    """Facts of one patient; None where the database gives NA or no file was there."""

    age_years: float | None = None
    sex: str | None = None
    bmi: float | None = None
    diagnosis: str | None = None


def read_patients(places: Sequence[Path], problems: list[Problem]) -> tuple[dict[str, PatientFacts], list[str]]:
    """Facts by patient from the first of the known files in `places`, and notes on files that are not there.

    A row that cannot be understood is a "bad patient facts" in `problems`.
    """
    facts: dict[str, PatientFacts] = {}
    notes = []
    demographics = _first_file(places, DEMOGRAPHIC_FILES)
    if demographics is None:
        notes.append(f"age, sex and body-mass index are unknown: none of {', '.join(DEMOGRAPHIC_FILES)} is there")
    else:
        for where, row in _rows(demographics, problems):
            try:
                facts[row[0]] = _parse_demographics(row)
            except DataError as error:
                problems.append(Problem("bad patient facts", where, error.detail))
    diagnoses = _first_file(places, DIAGNOSIS_FILES)
    if diagnoses is None:
        notes.append(f"diagnoses are unknown: none of {', '.join(DIAGNOSIS_FILES)} is there")
    else:
        for where, row in _rows(diagnoses, problems):
            if len(row) == 2:
                facts[row[0]] = replace(facts.get(row[0], PatientFacts()), diagnosis=row[1])
            else:
                problems.append(Problem("bad patient facts", where, f"{len(row)} fields, expected 'patient diagnosis'"))
    return facts, notes


def _first_file(places: Sequence[Path], names: Sequence[str]) -> Path | None:
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def _rows(path: Path, problems: list[Problem]) -> list[tuple[str, list[str]]]:
    """`<file> line <n>` and the fields of each line, split at tabs, spaces or commas."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem("bad patient facts", path.name, f"cannot be read as text ({type(error).__name__})"))
        return []
    return [
        (f"{path.name} line {number}", re.split(r"[,\s]+", line.strip()))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _parse_demographics(row: Sequence[str]) -> PatientFacts:
    """One row: patient, age, sex, adult body-mass index, child weight (kg), child height (cm), [location].

    A child's index is computed from weight and height. The location is not per patient and is not read.
    """
    if len(row) not in (6, 7):
        raise DataError(f"{len(row)} fields, expected 'patient age sex bmi weight_kg height_cm'")
    age_years, bmi, weight_kg, height_cm = (_number_or_none(row[column]) for column in (1, 3, 4, 5))
    if bmi is None and weight_kg is not None and height_cm is not None:
        bmi = weight_kg / (height_cm / 100) ** 2
    return PatientFacts(age_years=age_years, sex=None if row[2] == "NA" else row[2], bmi=bmi)


def _number_or_none(text: str) -> float | None:
    if text == "NA":
        return None
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{text!r} is neither a number nor NA") from None
    if not 0 < value < 1000:
        raise DataError(f"{text!r} is no age, body-mass index, weight or height")
    return value


AUDIO_FOLDER = "ICBHI_final_database"
SPLIT_FILES = ("official_split.txt", "ICBHI_challenge_train_test.txt")
NUM_FOLDS = 5
# Text files of the official archive and its page that are no annotations.
_SIDE_FILES = frozenset(
    {"filename_format.txt", "filename_differences.txt", "patient_list_foldwise.txt", *SPLIT_FILES, *FACT_FILES}
)
_NAME_FORM = "<patient>_<index>_<location>_<mode>_<device>, as in 101_1b1_Al_sc_Meditron"
_LINE = "lines 'start end crackle wheeze', as in '0.036 0.579 0 1'"
_NAME = re.compile(
    r"(?P<patient>\d+)_(?P<index>[0-9A-Za-z]+)_(?P<location>Tc|[APL][lr])_(?P<mode>sc|mc)_(?P<device>[0-9A-Za-z]+)"
)


@cache
def _canonical_names() -> dict[str, str]:
    return {other: name for name, other in manifest_rows("icbhi_other_names.tsv")}


def canonical_name(name: str) -> str:
    """The name that the official split uses for a recording; other names are returned as they are."""
    return _canonical_names().get(name, name)


@cache
def official_split() -> Mapping[str, str]:
    """Part ("train" or "test") of each of the 920 recordings, by canonical name."""
    return {row[0]: row[1] for row in manifest_rows("icbhi_official.tsv")}


def is_icbhi_name(name: str) -> bool:
    """Whether a file's stem is `<patient>_<recording index>_<location>_<mode>_<device>`."""
    return _NAME.fullmatch(name) is not None


def read_icbhi(root: Path, *, split: str = "official") -> Corpus:
    """The corpus in `root`, which is the folder of the recordings or holds it as `ICBHI_final_database`.

    split: "official" (the split file beside the recordings or one folder up, else the one shipped here),
        "fold0" to "fold4" (RespireNet's folds of patients: that one is "test", the others "train"), or the
        path of a file of lines `name<TAB>part`.

    Patient facts come from the official files (`FACT_FILES`) in the same two places; without them they are None and
    `notes` says so. The chest location comes from the name: that of the patient table is wrong for 698 of 920.

    Problems: "missing annotation", "annotation without audio", "unknown name", "bad annotation" (such a
    recording keeps no cycle), "empty cycle", "cycle past the end", "duplicate cycle", "bad sound file",
    "duplicate recording", "duplicate annotation", "bad patient facts", "in no split". A recording with a problem
    is still among the recordings, but for a bad sound file and an unknown name; a cycle with a problem is left out.

    Raises CorpusError when `root` is no folder or the split cannot be read.
    """
    folder = require_folder(root)
    if (root / AUDIO_FOLDER).is_dir():
        folder = root / AUDIO_FOLDER
    places = (folder, folder.absolute().parent)
    problems: list[Problem] = []
    part_of, notes = _read_split(places, split)
    facts_of, fact_notes = read_patients(places, problems)
    sounds = sound_files(folder, problems, canonical=canonical_name)
    texts = [path for path in files_with_suffix(folder, [".txt"]) if path.name not in {*_SIDE_FILES, Path(split).name}]
    annotations = one_per_name(texts, "duplicate annotation", problems, canonical=canonical_name)
    problems.extend(unpaired(sounds, annotations, is_name=is_icbhi_name, expected=_NAME_FORM))
    recordings: list[Recording] = []
    cycles: list[Cycle] = []
    for name, path in sounds.items():
        recording = _read_recording(name, path, facts_of, problems)
        if recording is None:
            continue
        recordings.append(recording)
        if name in annotations:
            cycles.extend(_read_cycles(annotations[name], recording, problems))
    num_renamed = sum(canonical_name(recording.name) != recording.name for recording in recordings)
    if num_renamed:
        notes.append(f"{num_renamed} recordings are in the other naming; their device is read from the official name")
    return assemble(
        "synthetic" if (folder / EVENTS_FILE).is_file() else "icbhi",
        root,
        recordings=recordings,
        cycles=cycles,
        split=_parts(recordings, part_of, problems),
        problems=problems,
        notes=(*notes, *fact_notes),
    )


def _parts(
    recordings: Sequence[Recording], part_of: Callable[[str], str | None], problems: list[Problem]
) -> dict[str, str]:
    parts = {}
    for recording in recordings:
        part = part_of(canonical_name(recording.name))
        if part is None:
            problems.append(Problem("in no split", recording.name, "the split does not name it"))
        else:
            parts[recording.name] = part
    return parts


def _read_recording(
    name: str, path: Path, facts_of: dict[str, PatientFacts], problems: list[Problem]
) -> Recording | None:
    parsed = _NAME.fullmatch(name)
    if parsed is None:
        return None
    audio = measure(path, problems)
    if audio is None:
        return None
    facts = facts_of.get(parsed["patient"], PatientFacts())
    return Recording(
        name=path.stem,
        patient=parsed["patient"],
        path=path,
        duration_s=audio.num_samples / audio.sample_rate_hz,
        sample_rate_hz=audio.sample_rate_hz,
        location=parsed["location"],
        mode=parsed["mode"],
        device=parsed["device"],
        age_years=facts.age_years,
        sex=facts.sex,
        bmi=facts.bmi,
        diagnosis=facts.diagnosis,
    )


def annotation_beside(recording: Path) -> Path | None:
    """The annotation of the same name beside a recording; None without one."""
    paths = (recording.with_suffix(suffix) for suffix in (".txt", ".TXT", ".Txt"))
    return next((path for path in paths if path.is_file()), None)


def read_annotation(path: Path) -> list[tuple[int, tuple[float, float, bool, bool]]]:
    """The line (from 1) of each cycle of an annotation file, and its start and end (s), crackle, wheeze.

    Lines `start end crackle wheeze`, tabs or spaces, LF or CRLF, blank lines. Raises AnnotationError for no text, no
    cycle at all, or a line that is something else.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"cannot be read as text ({type(error).__name__})", path=path) from None
    cycles = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                cycles.append((number, _parse_line(line.split())))
        except AnnotationError as error:
            raise AnnotationError(error.detail, path=path, line=number) from None
    if not cycles:
        raise AnnotationError(f"holds no cycle, expected {_LINE}", path=path)
    return cycles


def _read_cycles(path: Path, recording: Recording, problems: list[Problem]) -> list[Cycle]:
    """Cycles of an annotation file; a "bad annotation" leaves the recording without cycles."""
    try:
        annotation = read_annotation(path)
    except AnnotationError as error:
        problems.append(Problem("bad annotation", error.where, error.detail))
        return []
    cycles = [
        (f"{path.name} line {line}", Cycle(recording, *fields, position=position))
        for position, (line, fields) in enumerate(annotation)
    ]
    return usable_cycles(cycles, problems)


def _parse_line(fields: Sequence[str]) -> tuple[float, float, bool, bool]:
    if len(fields) != 4:
        raise AnnotationError(f"{len(fields)} fields, expected {_LINE}")
    try:
        start_s, end_s = float(fields[0]), float(fields[1])
    except ValueError:
        raise AnnotationError(f"times {fields[0]!r} and {fields[1]!r} are not numbers, expected {_LINE}") from None
    if not (math.isfinite(start_s) and math.isfinite(end_s)) or start_s < 0:
        raise AnnotationError(f"{fields[0]!r} and {fields[1]!r} are not times in a recording, expected {_LINE}")
    if not {fields[2], fields[3]} <= {"0", "1"}:
        raise AnnotationError(f"flags {fields[2]!r} and {fields[3]!r}, expected 0 or 1 each")
    return start_s, end_s, fields[2] == "1", fields[3] == "1"


def _read_split(places: Sequence[Path], split: str) -> tuple[Callable[[str], str | None], list[str]]:
    """A function from canonical name to part (None: in no part), and a note that says where it comes from."""
    fold = re.fullmatch(r"fold(\d+)", split)
    if fold is not None:
        return _fold_split(int(fold[1])), [f"split: RespireNet's fold {fold[1]} as test, shipped with lungsound"]
    if split == "official":
        beside = [place / name for place in places for name in SPLIT_FILES if (place / name).is_file()]
        if not beside:
            return official_split().get, ["split: official, shipped with lungsound"]
        return parse_split(beside[0]).get, [f"split: official, from {beside[0].name}"]
    if not Path(split).is_file():
        raise CorpusError(
            f"split {split!r} is neither 'official' nor 'fold0' to 'fold{NUM_FOLDS - 1}' "
            "nor a file of lines 'name<TAB>part'"
        )
    return parse_split(Path(split)).get, [f"split: from {split}"]


def _fold_split(fold: int) -> Callable[[str], str | None]:
    if fold >= NUM_FOLDS:
        raise CorpusError(f"split 'fold{fold}' does not exist: there are 'fold0' to 'fold{NUM_FOLDS - 1}'")
    fold_of = {patient: int(number) for patient, number in manifest_rows("icbhi_folds.tsv")}

    def part_of(name: str) -> str | None:
        patient = name.split("_")[0]
        if patient not in fold_of:
            return None
        return "test" if fold_of[patient] == fold else "train"

    return part_of


def parse_split(path: Path) -> dict[str, str]:
    """Part of each recording, by canonical name, from a file of lines `name<TAB>part`.

    Raises CorpusError when a line is something else or puts a recording into a second part.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"split file {path} cannot be read as text ({type(error).__name__})") from error
    parts: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2:
            raise CorpusError(f"{path} line {number}: {len(fields)} fields, expected 'name<TAB>part'")
        name, part = canonical_name(fields[0]), fields[1]
        if parts.setdefault(name, part) != part:
            raise CorpusError(f"{path} line {number}: {fields[0]} is put into {part}, but already into {parts[name]}")
    if not parts:
        raise CorpusError(f"split file {path} names no recording, expected lines 'name<TAB>part'")
    return parts
