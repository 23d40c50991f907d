"""SPRSound 2022, read from its official tree: sound files, JSON with events, parts train, inter and intra.

Zhang et al., "SPRSound: Open-Source SJTU Paediatric Respiratory Sound Database", IEEE TBioCAS 2022.
"inter" holds new patients, "intra" patients of the training set.
"""

import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from lungsound.data import tree
from lungsound.data.corpus import Corpus, Cycle, Problem, Recording
from lungsound.errors import AnnotationError, CorpusError
from lungsound.files import MAX_SETTINGS_BYTES, number, read_model
from lungsound.labels import LABEL_SETS, LungSound, Unit, sound_of

# Names in the tree of the challenge and, with the year, in the database's repository (folder BioCAS2022).
RELEASE_FOLDER = "BioCAS2022"
_TRAIN_AUDIO = ("train_wav", "train2022_wav")
_TEST_AUDIO = ("test_wav", "test2022_wav")
_ANNOTATIONS = {
    "train": ("train_json", "train2022_json"),
    "inter": ("test_json/inter_test_json", "test2022_json/inter_test_json", "inter_test_json"),
    "intra": ("test_json/intra_test_json", "test2022_json/intra_test_json", "intra_test_json"),
}
_NAME_FORM = "<patient>_<age>_<sex>_<location>_<number>, as in 40512331_8.1_1_p1_3544"
_NAME = re.compile(
    r"(?P<patient>\d+)_(?P<age>\d+(\.\d+)?)_(?P<sex>[01])_(?P<location>p[1-4])_(?P<number>\d+)", re.ASCII
)
DEVICE = "Yunting model II"  # of all recordings, by the owners' paper and README; no file names it
# Byte for byte the same sound, the first in train, the second in intra.
_SAME_SOUND = ("41279835_14.1_0_p1_2945", "41279835_14.1_0_p1_2050")

# In decimal: the quotient of two floats can be another number than the one written down.
Milliseconds = Annotated[Decimal, Field(ge=0), BeforeValidator(lambda given: _plain(str(given)))]


class Event(BaseModel):
    """One event; times are strings or numbers."""

    start: Milliseconds
    end: Milliseconds
    type: str


class Annotation(BaseModel):
    """Content of an annotation file: the word for the whole recording, and its events."""

    record_annotation: str | None = None
    event_annotation: list[Event]


def is_sprsound(root: Path) -> bool:
    """Check that `root` (or its folder BioCAS2022) holds one of the two folders of sound files."""
    return bool(_folders(root, _TRAIN_AUDIO) or _folders(root, _TEST_AUDIO))


def is_sprsound_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def read_sprsound(root: Path, *, unit: Unit = "cycle") -> Corpus:
    """The corpus in `root`: folders train_wav, train_json, test_wav, test_json (or as in the repository, BioCAS2022).

    unit: a cycle is one event, its term the event's type; or, for the record task, a whole recording, its term the
        record annotation. The flags are those of the shipped label map to `sound4` (poor quality has none).

    Patient, age, sex and location (p1 left posterior, p2 left lateral, p3 right posterior, p4 right lateral) come
    from the name, the device from the owners' description (`DEVICE`). `Recording.term` is the record annotation. A
    recording without events is normal here (poor quality), and counted in `notes`.
    CorpusError when `root` is no folder or has no folder of sound files.
    """
    tree.require_folder(root)
    if not is_sprsound(root):
        raise CorpusError(f"no SPRSound in {root}: looked for {', '.join((*_TRAIN_AUDIO, *_TEST_AUDIO))}")
    vocabulary = "sprsound_event7" if unit == "cycle" else "sprsound_record5"
    problems: list[Problem] = []
    folders = [folder for names in (_TRAIN_AUDIO, _TEST_AUDIO) for folder in _folders(root, names)]
    paths = [path for folder in folders for path in tree.sound_files(folder, problems).values()]
    sounds = tree.one_per_name(paths, "duplicate recording", problems)
    part_of = {
        path: part
        for part, names in _ANNOTATIONS.items()
        for folder in _folders(root, names)
        for path in tree.files_with_suffix(folder, [".json"])
    }
    annotations = tree.one_per_name(part_of, "duplicate annotation", problems)
    recordings: dict[str, Recording] = {}
    cycles: list[tuple[str, Cycle]] = []
    split: dict[str, str] = {}
    num_without_events = 0
    for name, sound, annotated, parsed in tree.paired(sounds, annotations, _NAME, _NAME_FORM, problems):
        sex, age_years = "F" if parsed["sex"] == "1" else "M", float(parsed["age"])
        facts: dict[str, Any] = {
            "location": parsed["location"],
            "age_years": age_years,
            "sex": sex,
            "device": DEVICE,
        }
        recording = tree.read_recording(sound, problems, name=name, patient=parsed["patient"], **facts)
        if recording is None:
            continue
        if annotated is not None:
            split[name] = part_of[annotated]
            try:
                annotation = read_annotation(annotated)
            except AnnotationError as error:
                problems.append(Problem("bad annotation", error.where, error.detail))
            else:
                recording = replace(recording, term=annotation.record_annotation)
                num_without_events += unit == "cycle" and not annotation.event_annotation
                cycles += _cycles(annotation, recording, annotated.name, vocabulary, problems)
        recordings[name] = recording
    notes = []
    if num_without_events:
        notes.append(f"{num_without_events} recordings are annotated as without any event: they have no cycles")
    if recordings.keys() >= set(_SAME_SOUND):
        notes.append(f"{_SAME_SOUND[0]} (train) and {_SAME_SOUND[1]} (intra) hold the same sound")
    return tree.assemble(
        "sprsound",
        root,
        recordings=recordings.values(),
        cycles=tree.usable_cycles(cycles, problems),
        split=split,
        problems=problems,
        notes=notes,
        vocabulary=vocabulary,
        known_patient_parts=frozenset({"intra"}),
    )


def _folders(root: Path, names: tuple[str, ...]) -> list[Path]:
    """The first of the folders called `names` that is there, in `root` or in the release's folder in it."""
    candidates = [place / name for place in (root, root / RELEASE_FOLDER) for name in names]
    return [folder for folder in candidates if folder.is_dir()][:1]


def read_annotation(path: Path) -> Annotation:
    """An annotation file. AnnotationError for anything else."""
    return read_model(path, Annotation, AnnotationError, max_bytes=MAX_SETTINGS_BYTES)


def _plain(text: str) -> str:
    number(text)
    return text


def _cycles(
    annotation: Annotation, recording: Recording, file: str, vocabulary: str, problems: list[Problem]
) -> list[tuple[str, Cycle]]:
    """One cycle for each event of a known type, or the recording as one cycle if its annotation is a known word."""
    if vocabulary == "sprsound_event7":
        kind = "unknown event type"
        spans = [
            (f"{file} event {number}", float(event.start.scaleb(-3)), float(event.end.scaleb(-3)), event.type)
            for number, event in enumerate(annotation.event_annotation, start=1)
        ]
    else:
        kind = "unknown record annotation"
        spans = [(file, 0.0, recording.duration_s, str(annotation.record_annotation))]
    known = LABEL_SETS[vocabulary].classes
    cycles = []
    for position, (where, start_s, end_s, word) in enumerate(spans):
        if word in known:
            sound = sound_of(word) or LungSound.NORMAL
            cycle = Cycle(recording, start_s, end_s, sound.has_crackle, sound.has_wheeze, word, position)
            cycles.append((where, cycle))
        else:
            problems.append(Problem(kind, where, f"{word!r}, expected one of {', '.join(known)}"))
    return cycles
