"""A corpus of folders that are named after the sound in their files: `root/<class>/*.wav`.

With a split: `root/<part>/<class>/*.wav`, where one part is called "train". Without, 60 % of the patients train
(`tree.split_patients`). A file is one cycle. Its patient is its name up to the first "_" ("p07_left.wav": p07), or
what `root/patients.csv` says: columns path (relative to the root) and patient, a line for every file.

Names of classes are words of one label set ("normal, crackle, wheeze, both"; or SPRSound's), else a label map
reads them.
"""

from pathlib import Path

from lungsound.data.corpus import AUDIO_SUFFIXES, Corpus, Cycle, Placed, Problem, Recording, read_words
from lungsound.data.table import read_lines
from lungsound.data.tree import (
    assemble,
    files_with_suffix,
    read_recording,
    require_folder,
    split_patients,
    unfit_part,
    usable_cycles,
)
from lungsound.errors import CorpusError
from lungsound.labels import LabelMap

PATIENTS_FILE = "patients.csv"


def is_folders(root: Path) -> bool:
    """Check that sound files lie one or two folders below the root."""
    return any(files_with_suffix(folder, AUDIO_SUFFIXES) for folder in (*_folders(root), *_deeper(root)))


def read_folders(root: Path, *, label_map: LabelMap | None = None) -> Corpus:
    """The corpus in `root`; a recording is named by its path without the suffix ("train/crackle/p07_left").

    label_map: what the names of the classes mean; without, see `read_words`.

    Problems: "unknown label", "bad sound file", "duplicate recording", "no patient" (patients.csv does not name it),
    "bad part" (a name that no part can have), "misplaced file" (a sound beside folders of classes).

    Raises CorpusError when `root` is no folder, has sounds one folder down as well as two, has parts of which none is
    called "train", or has a patients.csv that cannot be read.
    """
    shallow, deep = _class_folders(require_folder(root))
    if not shallow and not deep:
        raise CorpusError(f"no folders of classes in {root}: expected {root.name}/<class>/*.wav")
    problems = [
        Problem("misplaced file", path.name, "lies beside the folders of classes: put it into one of them")
        for path in files_with_suffix(root, AUDIO_SUFFIXES)
    ]
    patient_of = _patients(root)
    recordings: dict[str, Recording] = {}
    placed: Placed = []
    for folder in shallow or deep:
        for path in files_with_suffix(folder, AUDIO_SUFFIXES):
            recording = _read(path, root, patient_of, problems)
            if recording is not None and recording.name in recordings:
                detail = f"the same name as {recordings[recording.name].path.name}: rename one"
                problems.append(Problem("duplicate recording", path.name, detail))
            elif recording is not None:
                recordings[recording.name] = recording
                cycle = Cycle(recording, 0.0, recording.duration_s, False, False, term=folder.name)
                placed.append((f"{folder.relative_to(root).as_posix()}/", cycle))
    placed, vocabulary, notes = read_words(placed, label_map, f"{root.name}/", problems)
    split_origin = ""
    if deep:
        split = {recording.name: recording.path.parent.parent.name for recording in recordings.values()}
        problems += [Problem("bad part", part, why) for part in sorted({*split.values()}) if (why := unfit_part(part))]
    else:
        split, split_origin = split_patients(recordings.values())
    return assemble(
        "folders",
        root,
        recordings=recordings.values(),
        cycles=usable_cycles(placed, problems),
        split=split,
        problems=problems,
        notes=notes,
        vocabulary=vocabulary,
        split_origin=split_origin,
    )


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _deeper(root: Path) -> list[Path]:
    return [inner for outer in _folders(root) for inner in _folders(outer)]


def _class_folders(root: Path) -> tuple[list[Path], list[Path]]:
    """The folders with sounds one level down, or those two levels down; CorpusError when there are both."""
    shallow, deep = (
        [folder for folder in folders if files_with_suffix(folder, AUDIO_SUFFIXES)]
        for folders in (_folders(root), _deeper(root))
    )
    if shallow and deep:
        one, two = (folder.relative_to(root).as_posix() for folder in (shallow[0], deep[0]))
        raise CorpusError(f"{root} has sounds in {one}/ and in {two}/: use <class>/ or <part>/<class>/ throughout")
    parts = sorted({folder.parent.name for folder in deep})
    if parts and "train" not in parts:
        raise CorpusError(f"{root} has the parts {', '.join(parts)}: one of them must be called 'train'")
    return shallow, deep


def _patients(root: Path) -> dict[str, str] | None:
    """Patient of each sound file by its path, from patients.csv; None when there is no such file."""
    path = root / PATIENTS_FILE
    if not path.is_file():
        return None
    columns, lines = read_lines(path)
    if not {"path", "patient"} <= set(columns):
        raise CorpusError(f"columns path and patient are needed; it names {', '.join(columns)}", path=path, line=1)
    patients: dict[str, str] = {}
    for number, values in lines:
        cells = dict(zip(columns, values, strict=False))
        if not cells.get("path") or not cells.get("patient"):
            raise CorpusError("path and patient are needed on every line", path=path, line=number)
        if patients.setdefault(cells["path"], cells["patient"]) != cells["patient"]:
            raise CorpusError(f"{cells['path']} has another patient on an earlier line", path=path, line=number)
    return patients


def _read(path: Path, root: Path, patient_of: dict[str, str] | None, problems: list[Problem]) -> Recording | None:
    place = path.relative_to(root)
    patient = path.stem.split("_")[0] if patient_of is None else patient_of.get(place.as_posix())
    if not patient:
        detail = "its name starts with '_'" if patient_of is None else f"{PATIENTS_FILE} does not name it"
        problems.append(Problem("no patient", place.as_posix(), detail))
        return None
    return read_recording(path, problems, name=place.with_suffix("").as_posix(), patient=patient)
