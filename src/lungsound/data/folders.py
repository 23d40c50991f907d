"""A corpus of folders named after the sound in their files: `<class>/*.wav` or `<part>/<class>/*.wav`.

A file is one cycle, of the patient before the first "_" of its name, or whom `patients.csv` gives (docs/corpora.md).
"""

import posixpath
from pathlib import Path

from lungsound.data.corpus import AUDIO_SUFFIXES, Corpus, Problem
from lungsound.data.table import cells_of, corpus_of_rows, read_lines
from lungsound.data.tree import files_with_suffix, is_hidden, require_folder, unfit_part
from lungsound.errors import CorpusError
from lungsound.files import as_text, first_names
from lungsound.labels import LabelMap

PATIENTS_FILE = "patients.csv"


def class_folders(root: Path) -> tuple[list[Path], list[Path]]:
    """Folders with sounds one level below the root, and those two levels below."""

    def inside(folder: Path) -> list[Path]:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))

    shallow, deep = inside(root), [inner for outer in inside(root) for inner in inside(outer)]
    has_sounds = [[each for each in level if files_with_suffix(each, AUDIO_SUFFIXES)] for level in (shallow, deep)]
    return has_sounds[0], has_sounds[1]


def read_folders(root: Path, *, label_map: LabelMap | None = None) -> Corpus:
    """The corpus in `root`; a recording is named by its path without the suffix ("train/crackle/p07_left").

    Problems: those of `corpus_of_rows`, "no patient" (patients.csv does not name it), "bad part", "misplaced file" (a
    sound beside folders of classes). CorpusError for sounds one folder down as well as two, and for parts without
    "train".
    """
    shallow, deep = class_folders(require_folder(root))
    if not shallow and not deep:
        raise CorpusError(f"no folders of classes in {root}: expected {root.name}/<class>/*.wav")
    if shallow and deep:
        one, two = (folder.relative_to(root).as_posix() for folder in (shallow[0], deep[0]))
        raise CorpusError(f"{root} has sounds in {one}/ and in {two}/: use <class>/ or <part>/<class>/ throughout")
    parts = sorted({folder.parent.name for folder in deep})
    if parts and "train" not in parts:
        raise CorpusError(f"{root} has the parts {first_names(parts)}: one of them must be called 'train'")
    spellings: dict[str, str] = {}
    problems = [Problem("bad part", part, why) for part in parts if (why := unfit_part(part, spellings))]
    for path in files_with_suffix(root, AUDIO_SUFFIXES):
        detail = "lies beside the folders of classes: put it into one of them"
        problems.append(Problem("misplaced file", path.name, detail))
    patient_of = _patients(root)
    rows = []
    for folder in shallow or deep:
        for path in files_with_suffix(folder, AUDIO_SUFFIXES):
            place = path.relative_to(root).as_posix()
            patient = path.stem.split("_")[0] if patient_of is None else patient_of.get(place)
            if patient:
                split = {"split": as_text(folder.parent.name)} if deep else {}
                label = as_text(folder.name)
                rows.append((place, {"path": place, "label": label, "patient": as_text(patient), **split}))
            else:
                detail = "its name starts with '_'" if patient_of is None else f"{PATIENTS_FILE} does not name it"
                problems.append(Problem("no patient", as_text(place), detail))
    return corpus_of_rows("folders", root, root, rows, problems, label_map=label_map)


def _patients(root: Path) -> dict[str, str] | None:
    """Patient of each sound file by its path, from patients.csv; None when there is no such file."""
    path = root / PATIENTS_FILE
    if not path.is_file():
        return None
    columns, lines = read_lines(path)
    if not {"path", "patient"} <= set(columns):
        raise CorpusError(f"columns path and patient are needed; it names {', '.join(columns)}", path=path, line=1)
    patients: dict[str, str] = {}
    for line, values in lines:
        cells = cells_of(columns, values, path, line)
        if not cells["path"] or not cells["patient"]:
            raise CorpusError("path and patient are needed on every line", path=path, line=line)
        place = posixpath.normpath(cells["path"])
        if patients.setdefault(place, cells["patient"]) != cells["patient"]:
            raise CorpusError(f"{place} has another patient on an earlier line", path=path, line=line)
    return patients
