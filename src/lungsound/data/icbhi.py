"""ICBHI 2017, read from its official tree: `.wav` or `.flac` beside `.txt`, patient facts, splits.

Rocha et al., "An open access database for the evaluation of respiratory sound classification algorithms",
Physiol. Meas. 40 (2019) 035001.

91 recordings are called `..._Meditron` in the official split and in the archive that goes with it, and
`..._LittC2SE` (54) or `..._AKGC417L` (37) in other copies. Splits, annotations and the device are looked up by the
first, the canonical name; the recording keeps the name of its file. So devices count as published (train/test:
AKGC417L 361/285, Meditron 86/41, LittC2SE 87/0, Litt3200 5/55). The sampling rates speak for the other naming (of the
91 all are 44.1 kHz, the other Meditron recordings 4 or 10 kHz): per-device results of Meditron mix devices.
"""

import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from lungsound.data import tree
from lungsound.data.corpus import SYNTHETIC_EVENTS_FILE, Corpus, Cycle, Problem, Recording
from lungsound.errors import AnnotationError, CorpusError, DataError
from lungsound.files import MAX_JSON_BYTES, is_own_prediction, number

AUDIO_FOLDER = "ICBHI_final_database"
SPLIT_FILES = ("official_split.txt", "ICBHI_challenge_train_test.txt")
DEMOGRAPHIC_FILES = ("metadata.txt", "demographic_info.txt", "ICBHI_Challenge_demographic_information.txt")
DIAGNOSIS_FILES = ("patient_diagnosis.txt", "patient_diagnosis.csv", "ICBHI_Challenge_diagnosis.txt")
# Text files of the official archive and its page that are no annotations.
_SIDE_FILES = {"filename_format.txt", "filename_differences.txt", "patient_list_foldwise.txt"}
_SIDE_FILES |= {*SPLIT_FILES, *DEMOGRAPHIC_FILES, *DIAGNOSIS_FILES}
_NAME_FORM = "<patient>_<index>_<location>_<mode>_<device>, as in 101_1b1_Al_sc_Meditron"
_LINE = "lines 'start end crackle wheeze', as in '0.036 0.579 0 1'"
_NAME = re.compile(
    r"(?P<patient>\d+)_(?P<index>[0-9A-Za-z]+)_(?P<location>Tc|[APL][lr])_(?P<mode>sc|mc)_(?P<device>[0-9A-Za-z]+)",
    re.ASCII,
)


@cache
def _canonical_names() -> dict[str, str]:
    return {other: name for name, other in tree.manifest_rows("icbhi_other_names.tsv")}


def canonical_name(name: str) -> str:
    """The name that the official split uses for a recording; other names are returned as they are."""
    return _canonical_names().get(name, name)


@cache
def official_split() -> Mapping[str, str]:
    """Part ("train" or "test") of each of the 920 recordings, by canonical name."""
    return {row[0]: row[1] for row in tree.manifest_rows("icbhi_official.tsv")}


def is_icbhi_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def read_icbhi(root: Path, *, split: str = "official", is_sound_read: bool = True) -> Corpus:
    """The corpus in `root`, which is the folder of the recordings or holds it as `ICBHI_final_database`.

    split: "official" (the split file beside the recordings or one folder up, else the one shipped here), "fold0" to
        "fold4" (RespireNet's folds of patients: that one is "test", the others "train"), or a file of lines
        `name<TAB>part`.

    Without `is_sound_read` the annotation files alone name the recordings, whose length is then NaN and whose rate is
    0. Patient facts come from the official files in the same two places, as far as they are there; the chest location
    from the name: that of the patient table is wrong for 698 of 920. A recording with a problem stays, but for a bad
    sound file and an unknown name; a cycle with a problem does not. CorpusError when there is nothing to read.
    """
    folder = tree.require_folder(root)
    if (root / AUDIO_FOLDER).is_dir():
        folder = root / AUDIO_FOLDER
    places = (folder, folder.absolute().parent)
    problems: list[Problem] = []
    part_of, split_origin = read_split(places, split)
    facts, fact_notes = _read_patients(places, problems)
    side_files = {*_SIDE_FILES, Path(split).name}
    texts = [path for path in tree.files_with_suffix(folder, [".txt"]) if path.name not in side_files]
    if not is_sound_read:
        texts = [path for path in texts if is_icbhi_name(path.stem)]
        fact_notes.append("by names only: no sound was read")
        if not texts:
            raise CorpusError(
                f"no annotation files in {folder}: an audit by names needs files called like ICBHI's, as in "
                "101_1b1_Al_sc_Meditron.txt; leave --names-only out to read another corpus"
            )
    predicted = {path for path in texts if is_own_prediction(path)}
    detail = "predicted by lungsound and never corrected: no annotation to learn from"
    problems += [Problem("own prediction", path.name, detail) for path in predicted]
    texts = [path for path in texts if path not in predicted]
    annotations = tree.one_per_name(texts, "duplicate annotation", problems, canonical=canonical_name)
    sounds = tree.sound_files(folder, problems, canonical=canonical_name) if is_sound_read else annotations
    recordings: list[Recording] = []
    cycles: list[tuple[str, Cycle]] = []
    parts: dict[str, str] = {}
    num_renamed = 0
    for name, sound, annotation, parsed in tree.paired(sounds, annotations, _NAME, _NAME_FORM, problems):
        own: dict[str, Any] = {key: parsed[key] for key in ("patient", "location", "mode", "device")}
        own |= facts.get(parsed["patient"], {})
        if is_sound_read:
            recording = tree.read_recording(sound, problems, name=sound.stem, **own)
            if recording is None:
                continue
        else:
            recording = Recording(sound.stem, path=sound, duration_s=math.nan, sample_rate_hz=0, **own)
        recordings.append(recording)
        num_renamed += name != recording.name
        if annotation is not None:
            try:
                for position, (line, fields) in enumerate(read_annotation(annotation)):
                    cycles.append((f"{annotation.name} line {line}", Cycle(recording, *fields, position=position)))
            except AnnotationError as error:
                problems.append(Problem("bad annotation", error.where, error.detail))
        part = part_of(name)
        if part is None:
            problems.append(Problem("in no split", recording.name, "the split does not name it"))
        else:
            parts[recording.name] = part
    renamed = f"{num_renamed} recordings are in the other naming; their device is read from the official name"
    return tree.assemble(
        "synthetic" if (folder / SYNTHETIC_EVENTS_FILE).is_file() else "icbhi",
        root,
        recordings=recordings,
        cycles=tree.usable_cycles(cycles, problems) if is_sound_read else [cycle for _, cycle in cycles],
        split=parts,
        problems=problems,
        notes=[*([renamed] if num_renamed else []), *fact_notes],
        split_origin=split_origin,
    )


def annotations_beside(recording: Path) -> list[Path]:
    """The annotations beside a recording, as `read_icbhi` pairs them: one, or none.

    They have the recording's name, or ICBHI's other one of it, and end in .txt in any case of letters. What lungsound
    predicted is none until somebody corrects it.
    """
    places = map(recording.with_name, annotation_names(recording.stem))
    there = {path.stat().st_ino: path for path in places if path.is_file() and not is_own_prediction(path)}
    return list(there.values())  # once where the case of letters does not count


def annotation_names(stem: str) -> list[str]:
    """Names that an annotation of the recording `stem` may have; the usual one first."""
    official = canonical_name(stem)
    others = [other for other, name in _canonical_names().items() if name == official]
    suffixes = ["".join(letters) for letters in product(".", "tT", "xX", "tT")]
    return [f"{name}{suffix}" for name in dict.fromkeys((stem, official, *others)) for suffix in suffixes]


def read_annotation(path: Path) -> list[tuple[int, tuple[float, float, bool, bool]]]:
    """The line (from 1) of each cycle of an annotation file, and its start and end (s), crackle, wheeze.

    Lines `start end crackle wheeze`, tabs or spaces, LF or CRLF, blank lines. Raises AnnotationError for no text, no
    cycle at all, or a line that is something else.
    """
    cycles = []
    for place, line in tree.text_lines(path, AnnotationError):
        try:
            cycles.append((place, _parse_line(line.split())))
        except ValueError as error:
            raise AnnotationError(str(error), path=path, line=place) from None
    if not cycles:
        raise AnnotationError(f"holds no cycle, expected {_LINE}", path=path)
    return cycles


def _parse_line(fields: Sequence[str]) -> tuple[float, float, bool, bool]:
    if len(fields) != 4:
        raise ValueError(f"{len(fields)} fields, expected {_LINE}")
    try:
        start_s, end_s = number(fields[0]), number(fields[1])
    except ValueError as error:
        raise ValueError(f"{error}, expected {_LINE}") from None
    if start_s < 0:
        raise ValueError(f"{fields[0]!r} is no time in a recording, expected {_LINE}")
    if not {fields[2], fields[3]} <= {"0", "1"}:
        raise ValueError(f"flags {reprlib.repr(fields[2])} and {reprlib.repr(fields[3])}, expected 0 or 1 each")
    return start_s, end_s, fields[2] == "1", fields[3] == "1"


def read_split(places: Sequence[Path], split: str) -> tuple[Callable[[str], str | None], str]:
    """Part of a recording by its canonical name, and where the split comes from."""
    if split == "official":
        path = _first_file(places, SPLIT_FILES)
        if path is None:
            return official_split().get, "official, shipped with lungsound"
        return parse_split(path).get, f"official, from {path.name}"
    fold = re.fullmatch("fold([0-4])", split)
    if fold is not None:
        rows = tree.manifest_rows("icbhi_folds.tsv")
        part_of = {patient: "test" if own == fold[1] else "train" for patient, own in rows}
        origin = f"RespireNet's fold {fold[1]} as test, shipped with lungsound"
        return lambda name: part_of.get(name.partition("_")[0]), origin
    if not Path(split).is_file():
        raise CorpusError(f"split {split!r} is none of 'official', 'fold0' to 'fold4', a file of name<TAB>part lines")
    return parse_split(Path(split)).get, f"from {split}"


def parse_split(path: Path) -> dict[str, str]:
    """Part of each recording, by canonical name, from lines `name<TAB>part`; CorpusError for any other line."""
    parts: dict[str, str] = {}
    spellings: dict[str, str] = {}
    for place, line in tree.text_lines(path, CorpusError, max_bytes=MAX_JSON_BYTES):
        fields = line.split()
        if len(fields) != 2:
            raise CorpusError(f"{len(fields)} fields, expected 'name<TAB>part'", path=path, line=place)
        name, part = canonical_name(fields[0]), fields[1]
        if fault := tree.unfit_part(part, spellings):
            raise CorpusError(fault, path=path, line=place)
        if parts.setdefault(name, part) != part:
            detail = f"{fields[0]} is put into {part}, but already into {parts[name]}"
            raise CorpusError(detail, path=path, line=place)
    if not parts:
        raise CorpusError("names no recording, expected lines 'name<TAB>part'", path=path)
    return parts


def _read_patients(places: Sequence[Path], problems: list[Problem]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Age, sex, body-mass index and diagnosis by patient, as far as known, and notes on files that are missing."""
    facts: dict[str, dict[str, Any]] = {}
    notes = []
    for names, what, parse in (
        (DEMOGRAPHIC_FILES, "age, sex and body-mass index", _parse_demographics),
        (DIAGNOSIS_FILES, "diagnoses", _parse_diagnosis),
    ):
        path = _first_file(places, names)
        if path is None:
            notes.append(f"{what} are unknown: none of {', '.join(names)} is there")
            continue
        try:
            for place, line in tree.text_lines(path, DataError):
                row = re.split(r"[,\s]+", line.strip())
                try:
                    facts.setdefault(row[0], {}).update(parse(row))
                except ValueError as error:
                    problems.append(Problem("bad patient facts", f"{path.name} line {place}", str(error)))
        except DataError as error:
            problems.append(Problem("bad patient facts", error.where, error.detail))
    return facts, notes


def _first_file(places: Sequence[Path], names: Sequence[str]) -> Path | None:
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def _parse_demographics(row: Sequence[str]) -> dict[str, Any]:
    """One row: patient, age, sex, adult body-mass index, child weight (kg), child height (cm), [location].

    A child's index is computed from weight and height. The location is not per patient and is not read.
    """
    if len(row) not in (6, 7):
        raise ValueError(f"{len(row)} fields, expected 'patient age sex bmi weight_kg height_cm'")
    numbers = [None if text == "NA" else number(text) for text in (row[1], *row[3:6])]
    if not all(each is None or 0 < each < 1000 for each in numbers):
        raise ValueError(f"{row[1:6]} has an impossible age, body-mass index, weight or height")
    age_years, bmi, weight_kg, height_cm = numbers
    if bmi is None and weight_kg is not None and height_cm is not None:
        bmi = weight_kg / (height_cm / 100) ** 2
    return {"age_years": age_years, "sex": None if row[2] == "NA" else row[2], "bmi": bmi}


def _parse_diagnosis(row: Sequence[str]) -> dict[str, Any]:
    if len(row) != 2:
        raise ValueError(f"{len(row)} fields, expected 'patient diagnosis'")
    return {"diagnosis": row[1]}
