"""Steps that all readers share: list files, read their text and length, check cycles, split, put a corpus together.

Whatever is odd becomes a Problem in the list that is passed in; nothing is dropped without one.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from lungsound.audio.io import NO_LENGTH
from lungsound.config import MAX_CYCLES
from lungsound.data.corpus import AUDIO_SUFFIXES, Corpus, Cycle, Problem, Recording
from lungsound.data.file_facts import file_facts
from lungsound.errors import AudioError, CorpusError, DataError
from lungsound.files import MAX_SETTINGS_BYTES, as_text, first_names, read_text

# Times are written rounded, mostly to 1 ms, at the coarsest to 10 ms (5 ms off), and a resampled file may
# end a sample early. In all of SPRSound and in the 289 recordings of ICBHI looked at no cycle ends later than
# its recording, 23 exactly at its end. 10 ms is one hop of the filter bank.
PAST_END_TOLERANCE_S = 0.010
# A cycle must hold a sample at the rate at which cycles are cut.
CUT_RATE_HZ = 16000
# Of the patients, where a corpus has no split of its own; ICBHI's official split is 60/40 too.
TRAIN_SHARE = 0.6


def require_folder(root: Path) -> Path:
    """`root`, or a CorpusError when it is no folder."""
    if not root.exists():
        raise CorpusError(f"no folder {root}: give the folder of a corpus, or a table (.csv, .tsv)")
    if not root.is_dir():
        raise CorpusError(f"{root} is a file: give the folder of a corpus, or a table (.csv, .tsv)")
    return root


def text_lines(path: Path, error: type[DataError], *, max_bytes: int = MAX_SETTINGS_BYTES) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1; `error` when it is no text."""
    lines = read_text(path, error, max_bytes=max_bytes).splitlines()
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


@cache
def manifest_rows(name: str) -> tuple[tuple[str, ...], ...]:
    """The tab-separated rows of a manifest shipped in the package, without lines that start with #."""
    text = (files("lungsound.data") / "manifests" / name).read_text(encoding="utf-8")
    return tuple(tuple(line.split("\t")) for line in text.splitlines() if not line.startswith("#"))


def is_hidden(path: Path) -> bool:
    """True for a name that begins with a dot, as those of macOS's resource files ("._a.wav")."""
    return path.name.startswith(".")


def files_with_suffix(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files directly in `folder` with one of the suffixes (in any case), sorted by name, but hidden ones."""
    wanted = set(suffixes)
    paths = (path for path in folder.iterdir() if path.suffix.lower() in wanted and not is_hidden(path))
    return sorted(path for path in paths if path.is_file())


@dataclass
class Below:
    """Files of some suffixes in a folder and all below it, through links too, each folder once.

    `folders` were read, `unreadable` has a line for each that could not be; `num_hidden` names begin with a dot.
    """

    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    num_hidden: int = 0


def files_below(root: Path, suffixes: Iterable[str], *, max_depth: int | None = None) -> Below:
    """List the files below a folder, sorted; of folders in folders no more than the depth, if there is one."""
    below, wanted, seen = Below(), set(suffixes), set[tuple[int, int]]()

    def note(error: OSError) -> None:
        below.unreadable.append(f"{error.filename}: cannot be read ({error.strerror})")

    for name, inner, names in os.walk(root, onerror=note, followlinks=True):
        folder, facts = Path(name), os.stat(name)  # noqa: PTH116
        own = [folder / each for each in names if Path(each).suffix.lower() in wanted]
        if (facts.st_dev, facts.st_ino) in seen:  # a link to a folder above it, or to one that was read
            inner.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        visible = sorted(each for each in inner if not each.startswith("."))
        below.num_hidden += len(inner) - len(visible) + sum(map(is_hidden, own))
        is_deepest = max_depth is not None and len(folder.relative_to(root).parts) >= max_depth
        inner[:] = [] if is_deepest else visible
        below.folders.append(folder)
        below.files += [path for path in own if not is_hidden(path)]
    below.files.sort()
    return below


def patient_name(text: str) -> str:
    """One spelling of a patient: Unicode composed, without characters that nobody sees, 101 for a table's 101.0."""
    composed = unicodedata.normalize("NFKC", text)
    seen = "".join(each for each in composed if unicodedata.category(each) not in ("Cf", "Cc"))
    return re.sub(r"^(\d+)\.0+$", r"\1", " ".join(seen.split()))


def one_per_name(
    paths: Iterable[Path], kind: str, problems: list[Problem], *, canonical: Callable[[str], str] = str
) -> dict[str, Path]:
    """Files by the canonical name of their stem; of two with the same name the first, and a problem of `kind`."""
    by_name: dict[str, Path] = {}
    for path in paths:
        first = by_name.setdefault(canonical(path.stem), path)
        if first != path:
            problems.append(Problem(kind, path.name, f"the same recording as {first.name}, which is used; remove one"))
    return by_name


def sound_files(folder: Path, problems: list[Problem], *, canonical: Callable[[str], str] = str) -> dict[str, Path]:
    """Sound files of a folder by canonical name. Twice the same recording is a "duplicate recording"."""
    paths = files_with_suffix(folder, AUDIO_SUFFIXES)
    return one_per_name(paths, "duplicate recording", problems, canonical=canonical)


def paired(
    sounds: Mapping[str, Path],
    annotations: Mapping[str, Path],
    name_form: re.Pattern[str],
    expected: str,
    problems: list[Problem],
) -> list[tuple[str, Path, Path | None, re.Match[str]]]:
    """Name, sound, annotation and parsed name of each sound file whose name is of the form; the others are problems."""
    pairs = []
    for name in sorted({*sounds, *annotations}):
        sound, annotation, parsed = sounds.get(name), annotations.get(name), name_form.fullmatch(name)
        if parsed is None:
            stray = [path for path in (sound, annotation) if path is not None]
            problems += [Problem("unknown name", path.name, f"expected {expected}") for path in stray]
        elif sound is None:
            silent = annotations[name].name
            problems.append(Problem("annotation without audio", silent, "no sound file of this name"))
        else:
            if annotation is None:
                problems.append(Problem("missing annotation", sound.stem, "no annotation file of this name"))
            pairs.append((name, sound, annotation, parsed))
    return pairs


def read_recording(
    path: Path, problems: list[Problem], *, name: str, patient: str, where: str | None = None, **facts: Any
) -> Recording | None:
    """The recording in a sound file, with `facts` of it; None and a "bad sound file" (at `where`, else its name).

    An "odd sound file" is one of which a part may not have been read.
    """
    try:
        audio = file_facts().audio_info(path)
    except AudioError as error:
        others = [path.with_suffix(suffix) for suffix in AUDIO_SUFFIXES if not os.path.exists(path)]  # noqa: PTH110
        hint = "".join(f"; there is {other.name}" for other in others if os.path.isfile(other))  # noqa: PTH113
        problems.append(Problem("bad sound file", as_text(where or path.name), f"{error.detail}{hint}"))
        return None
    place = as_text(where or path.name)
    problems += [Problem("odd sound file", place, each) for each in audio.remarks if each != NO_LENGTH]
    duration_s = audio.num_samples / audio.sample_rate_hz
    return Recording(as_text(name), patient_name(as_text(patient)), path, duration_s, audio.sample_rate_hz, **facts)


def cycle_faults(spans_s: Iterable[tuple[float, float]], duration_s: float) -> list[tuple[str, str] | None]:
    """Kind and detail of what is wrong with each cycle (start, end) of one recording; None where it can be cut.

    An "empty cycle" has no sample at 16 kHz, cut as published; a "duplicate cycle" the times of an earlier one to 1 ms.
    From `MAX_CYCLES` on there are "too many cycles".
    """
    faults: list[tuple[str, str] | None] = []
    seen: set[str] = set()
    for place, (start_s, end_s) in enumerate(spans_s):
        times = f"{start_s:.3f}-{end_s:.3f}"
        # Before anything is counted: a time may be too large to count samples up to it.
        is_past = end_s > duration_s + PAST_END_TOLERANCE_S or start_s * CUT_RATE_HZ >= int(duration_s * CUT_RATE_HZ)
        if place >= MAX_CYCLES:
            faults.append(("too many cycles", f"a recording has at most {MAX_CYCLES}"))
        elif end_s <= start_s or not (is_past or int(start_s * CUT_RATE_HZ) < int(end_s * CUT_RATE_HZ)):
            faults.append(("empty cycle", f"from {start_s:g} s to {end_s:g} s"))
        elif is_past:
            detail = f"from {start_s:g} s to {end_s:g} s, but the recording is {duration_s:.3f} s long"
            faults.append(("cycle past the end", detail))
        else:
            faults.append(("duplicate cycle", f"{times} s is there already") if times in seen else None)
            seen.add(times)
    return faults


def usable_cycles(cycles: Iterable[tuple[str, Cycle]], problems: list[Problem]) -> list[Cycle]:
    """Cycles (each with the place where it was written) without one of `cycle_faults`, which become problems."""
    grouped: dict[str, list[tuple[str, Cycle]]] = {}
    for where, cycle in cycles:
        grouped.setdefault(cycle.recording.name, []).append((where, cycle))
    usable = []
    for group in grouped.values():
        faults = cycle_faults([(c.start_s, c.end_s) for _, c in group], group[0][1].recording.duration_s)
        for (where, cycle), fault in zip(group, faults, strict=True):
            if fault is None:
                usable.append(cycle)
            else:
                problems.append(Problem(fault[0], where, fault[1]))
    return usable


def split_patients(recordings: Iterable[Recording]) -> tuple[dict[str, str], str]:
    """Part ("train" or "test") by recording of a corpus that has no split, and words that say so.

    The first 60 % of the patients train, in the order of the SHA-256 of their names, but one is tested at least.
    """
    recordings = tuple(recordings)
    patients = {recording.patient for recording in recordings}
    order = sorted(patients, key=lambda patient: hashlib.sha256(patient.encode()).hexdigest())
    num_train = min(max(1, round(TRAIN_SHARE * len(order))), max(1, len(order) - 1))
    train = set(order[:num_train])
    split = {recording.name: "train" if recording.patient in train else "test" for recording in recordings}
    return split, f"none given; {len(train)} of {len(order)} patients train, in the order of a hash of their names"


def unfit_part(part: str, spellings: dict[str, str]) -> str | None:
    """Reason why a part of a split cannot have this name; `spellings` are those so far, by their case-folded form."""
    word = part.casefold()
    for name, what in (("train", "training"), ("test", "test")):
        if part != name and word in (name, f"{name}ing"):
            return f"part {part!r}: the {what} set is called {name!r}"
    if word in ("val", "valid", "validation", "dev"):
        return f"part {part!r}: validation patients are taken out of 'train' when a model is trained, so write 'train'"
    first = spellings.setdefault(word, part)
    return None if first == part else f"part {part!r} is called {first!r} elsewhere: write it in one way"


def assemble(
    name: str,
    root: Path,
    *,
    recordings: Iterable[Recording],
    cycles: Iterable[Cycle],
    split: Mapping[str, str],
    problems: Iterable[Problem] = (),
    notes: Iterable[str] = (),
    vocabulary: str = "sound4",
    known_patient_parts: frozenset[str] = frozenset(),
    split_origin: str = "",
) -> Corpus:
    """The Corpus with everything in its order, which does not depend on the file system's."""

    def by_kind_and_place(problem: Problem) -> tuple[str, list[tuple[int, str]]]:
        # Numbers in a place count as such, however long: line 2 before line 10.
        parts = enumerate(re.split(r"(\d+)", problem.where))
        return problem.kind, [(len(part.lstrip("0")) if place % 2 else 0, part) for place, part in parts]

    recordings = tuple(sorted(recordings, key=lambda recording: recording.name))
    return Corpus(
        name=name,
        root=root,
        recordings=recordings,
        cycles=tuple(sorted(cycles, key=lambda cycle: (cycle.recording.name, cycle.start_s, cycle.end_s))),
        split=dict(sorted(split.items())),
        problems=tuple(sorted(problems, key=by_kind_and_place)),
        notes=(
            *([f"split: {split_origin}"] if split_origin else []),
            *notes,
            *_alike({recording.patient for recording in recordings}),
        ),
        vocabulary=vocabulary,
        known_patient_parts=known_patient_parts,
        split_origin=split_origin,
    )


def _alike(patients: Iterable[str]) -> list[str]:
    """A note on patients whose names differ in the case of letters or in leading zeros alone."""
    groups: dict[str, list[str]] = {}
    for patient in sorted(patients):
        groups.setdefault(re.sub(r"(?<!\d)0+(?=\d)", "", patient.casefold()), []).append(patient)
    alike = [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    return [f"patients who may be the same: {first_names(alike)}"] if alike else []
