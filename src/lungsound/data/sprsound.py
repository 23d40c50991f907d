"""SPRSound 2022, read from its official tree: sound files, JSON with events, parts train, inter and intra.

Zhang et al., "SPRSound: Open-Source SJTU Paediatric Respiratory Sound Database", IEEE TBioCAS 2022.
"inter" holds new patients, "intra" patients of the training set.
"""

import json
import math
import re
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from lungsound.data.corpus import Corpus, Cycle, Problem, Recording
from lungsound.data.tree import (
    assemble,
    files_with_suffix,
    one_per_name,
    read_recording,
    require_folder,
    sound_files,
    unpaired,
    usable_cycles,
)
from lungsound.errors import AnnotationError, CorpusError
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
_SEX = {"0": "M", "1": "F"}
_NAME_FORM = "<patient>_<age>_<sex>_<location>_<number>, as in 40512331_8.1_1_p1_3544"
_NAME = re.compile(r"(?P<patient>\d+)_(?P<age>\d+(\.\d+)?)_(?P<sex>[01])_(?P<location>p[1-4])_(?P<number>\d+)")
# Byte for byte the same sound, the first in train, the second in intra.
_SAME_SOUND = ("41279835_14.1_0_p1_2945", "41279835_14.1_0_p1_2050")


@dataclass(frozen=True)
class Annotation:
    """Content of an annotation file: the word for the whole recording, and start (s), end (s), type of each event."""

    name: str
    record_annotation: str | None
    events: tuple[tuple[float, float, str], ...]


def is_sprsound(root: Path) -> bool:
    """Check that `root` (or its folder BioCAS2022) holds one of the two folders of sound files."""
    return bool(_folders(root, _TRAIN_AUDIO) or _folders(root, _TEST_AUDIO))


def is_sprsound_name(name: str) -> bool:
    """Check that a file's stem is `<patient>_<age>_<sex>_<location>_<number>`."""
    return _NAME.fullmatch(name) is not None


def read_sprsound(root: Path, *, unit: Unit = "cycle") -> Corpus:
    """The corpus in `root`: folders train_wav, train_json, test_wav, test_json (or as in the repository, BioCAS2022).

    unit: a cycle is one event, its term the event's type; or, for the record task, a whole recording, its term the
        record annotation. The flags are those of the shipped label map to `sound4` (poor quality has none).

    Patient, age, sex and location (p1 left posterior, p2 left lateral, p3 right posterior, p4 right lateral) come
    from the name; the device is not named: None. `Recording.term` is the record annotation. A recording without
    events is normal here (poor quality), and counted in `notes`.

    Problems: as in ICBHI, and "unknown event type" or "unknown record annotation" (which is left out).
    Raises CorpusError when `root` is no folder or has no folder of sound files.
    """
    require_folder(root)
    if not is_sprsound(root):
        raise CorpusError(f"no SPRSound in {root}: looked for {', '.join((*_TRAIN_AUDIO, *_TEST_AUDIO))}")
    problems: list[Problem] = []
    sound_folders = [folder for names in (_TRAIN_AUDIO, _TEST_AUDIO) for folder in _folders(root, names)]
    paths = [path for folder in sound_folders for path in sound_files(folder, problems).values()]
    sounds = one_per_name(paths, "duplicate recording", problems)
    part_of = {
        path: part
        for part, names in _ANNOTATIONS.items()
        for folder in _folders(root, names)
        for path in files_with_suffix(folder, [".json"])
    }
    annotations = one_per_name(part_of, "duplicate annotation", problems)
    problems.extend(unpaired(sounds, annotations, is_name=is_sprsound_name, expected=_NAME_FORM))
    recordings: list[Recording] = []
    cycles: list[tuple[str, Cycle]] = []
    num_without_events = 0
    for name, path in sounds.items():
        parsed = _NAME.fullmatch(name)
        if parsed is None:
            continue
        facts: dict[str, Any] = {
            "location": parsed["location"],
            "age_years": float(parsed["age"]),
            "sex": _SEX[parsed["sex"]],
        }
        recording = read_recording(path, problems, name=name, patient=parsed["patient"], **facts)
        if recording is None:
            continue
        try:
            annotation = read_annotation(annotations[name]) if name in annotations else None
        except AnnotationError as error:
            problems.append(Problem("bad annotation", error.where, error.detail))
            annotation = None
        if annotation is not None:
            recording = replace(recording, term=annotation.record_annotation)
            num_without_events += unit == "cycle" and not annotation.events
            cycles_of = _events if unit == "cycle" else _aggregate
            cycles += cycles_of(annotation, recording, problems)
        recordings.append(recording)
    names_read = {recording.name for recording in recordings}
    notes = []
    if num_without_events:
        notes.append(f"{num_without_events} recordings are annotated as without any event: they have no cycles")
    if names_read.issuperset(_SAME_SOUND):
        notes.append(f"{_SAME_SOUND[0]} (train) and {_SAME_SOUND[1]} (intra) hold the same sound")
    return assemble(
        "sprsound",
        root,
        recordings=recordings,
        cycles=usable_cycles(cycles, problems),
        split={name: part_of[annotations[name]] for name in names_read & annotations.keys()},
        problems=problems,
        notes=notes,
        vocabulary="sprsound_event7" if unit == "cycle" else "sprsound_record5",
        known_patient_parts=frozenset({"intra"}),
    )


def _folders(root: Path, names: tuple[str, ...]) -> list[Path]:
    """The first of the folders called `names` that is there, in `root` or in the release's folder in it."""
    candidates = [place / name for place in (root, root / RELEASE_FOLDER) for name in names]
    return [folder for folder in candidates if folder.is_dir()][:1]


def _events(annotation: Annotation, recording: Recording, problems: list[Problem]) -> list[tuple[str, Cycle]]:
    """One cycle for each event of a known type."""
    known = LABEL_SETS["sprsound_event7"].classes
    cycles = []
    for position, (start_s, end_s, event) in enumerate(annotation.events):
        where = f"{annotation.name} event {position + 1}"
        if event in known:
            cycles.append((where, Cycle(recording, start_s, end_s, *_flags(event), event, position)))
        else:
            problems.append(Problem("unknown event type", where, f"{event!r}, expected one of {', '.join(known)}"))
    return cycles


def _aggregate(annotation: Annotation, recording: Recording, problems: list[Problem]) -> list[tuple[str, Cycle]]:
    """The recording as one cycle, if its annotation is a known word."""
    known, word = LABEL_SETS["sprsound_record5"].classes, annotation.record_annotation
    if word is None or word not in known:
        detail = f"{word!r}, expected one of {', '.join(known)}"
        problems.append(Problem("unknown record annotation", annotation.name, detail))
        return []
    return [(annotation.name, Cycle(recording, 0.0, recording.duration_s, *_flags(word), word))]


def _flags(word: str) -> tuple[bool, bool]:
    sound = sound_of(word) or LungSound.NORMAL
    return sound.has_crackle, sound.has_wheeze


def read_annotation(path: Path) -> Annotation:
    """An annotation file. Times are milliseconds in it, as strings or numbers. AnnotationError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise AnnotationError(f"cannot be read as JSON ({type(error).__name__})", path=path) from error
    events = content.get("event_annotation") if isinstance(content, dict) else None
    if not isinstance(events, list):
        raise AnnotationError("has no list 'event_annotation'", path=path)
    word = content.get("record_annotation")
    if not isinstance(word, str | None):
        raise AnnotationError(f"record_annotation is {word!r}, expected a word", path=path)
    try:
        return Annotation(path.name, word, tuple(_parse_event(event, number) for number, event in enumerate(events, 1)))
    except ValueError as error:
        raise AnnotationError(str(error), path=path) from None


def _parse_event(event: Any, number: int) -> tuple[float, float, str]:
    if not isinstance(event, dict) or not {"start", "end", "type"} <= event.keys():
        raise ValueError(f"event {number}: {event!r}, expected 'start', 'end' and 'type'")
    times = f"{event['start']!r} and {event['end']!r}"
    try:
        # In decimal: the quotient of two floats can be another number than the one written down.
        start_s, end_s = (float(Decimal(str(event[key])).scaleb(-3)) for key in ("start", "end"))
    except InvalidOperation:
        raise ValueError(f"event {number}: times {times}, expected milliseconds") from None
    if not (math.isfinite(start_s) and math.isfinite(end_s)) or start_s < 0:
        raise ValueError(f"event {number}: {times} are not times in a recording")
    return start_s, end_s, str(event["type"])
