"""The audit of a corpus: what its parts share, what its recordings hold, and what is wrong with them."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from lungsound.audio.quality import Defect, Quality
from lungsound.data.corpus import Corpus, Problem, Recording
from lungsound.data.measured import Measured, measure_recordings
from lungsound.data.shared_audio import SharedAudio, crowded_patients, find_shared_audio
from lungsound.data.usual import describe_narrow, find_unusual, usual_bands
from lungsound.errors import AudioError, CorpusError, SettingsError

OnProgress = Callable[[int, int], None]
UNKNOWN = "unknown"
NO_PART = "in no part"
TRAIN = "train"


@dataclass(frozen=True)
class SharedPatient:
    """A patient with recordings in several parts, and how many in each.

    `is_by_design` when the corpus says that all of these parts, but the training part, hold its patients.
    """

    patient: str
    num_recordings: Mapping[str, int]
    is_by_design: bool


@dataclass(frozen=True)
class SharedSound:
    """Two recordings that hold the same sound, with their parts (None: in no part) and patients."""

    audio: SharedAudio
    parts: tuple[str | None, str | None]
    patients: tuple[str, str]

    @property
    def crosses_parts(self) -> bool:
        return None not in self.parts and self.parts[0] != self.parts[1]


@dataclass(frozen=True)
class TallyRow:
    """How many cycles and recordings of one class, part and device there are; word None: recordings without cycles."""

    word: str | None
    part: str
    device: str
    num_cycles: int
    num_recordings: int


@dataclass(frozen=True)
class RecordingFinding:
    """What was measured on one recording. Quality None: no sound was read, or it is unreadable, as its defect says."""

    name: str
    part: str
    device: str
    quality: Quality | None
    defects: tuple[Defect, ...]


@dataclass(frozen=True)
class Audit:
    """Everything that an audit found; plain data.

    `is_clean`: no leakage that is not waived. Leakage is a patient in two parts (but by design), and the same sound in
    two parts, simultaneous channels included.
    """

    name: str
    root: Path
    parts: tuple[str, ...]
    num_recordings: int
    num_patients: int
    is_audio_read: bool
    shared_patients: tuple[SharedPatient, ...]
    shared_sounds: tuple[SharedSound, ...]
    tally: tuple[TallyRow, ...]
    recordings: tuple[RecordingFinding, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    waived: tuple[str, ...]

    @property
    def leaks(self) -> tuple[SharedPatient | SharedSound, ...]:
        """All leakage, waived or not: patients first, then sounds."""
        patients = tuple(shared for shared in self.shared_patients if not shared.is_by_design)
        return patients + tuple(shared for shared in self.shared_sounds if shared.crosses_parts)

    def is_waived(self, leak: SharedPatient | SharedSound) -> bool:
        """Whether a waiver names this leak: the patient; or one of the recordings, both ("A,B"), or their patient."""
        return not self.waived_names(leak).isdisjoint(self.waived)

    def waived_names(self, leak: SharedPatient | SharedSound) -> frozenset[str]:
        """The waivers that would cover a leak."""
        if isinstance(leak, SharedPatient):
            return frozenset({leak.patient})
        one, other = leak.audio.one, leak.audio.other
        names = {one, other, f"{one},{other}", f"{other},{one}"}
        return frozenset(names | set(leak.patients) if leak.patients[0] == leak.patients[1] else names)

    @property
    def open_leaks(self) -> tuple[SharedPatient | SharedSound, ...]:
        return tuple(leak for leak in self.leaks if not self.is_waived(leak))

    @property
    def unused_waivers(self) -> tuple[str, ...]:
        """Waivers that name no leak: out of date, or misspelt."""
        needed = frozenset[str]().union(*(self.waived_names(leak) for leak in self.leaks))
        return tuple(name for name in self.waived if name not in needed)

    @property
    def is_clean(self) -> bool:
        return not self.open_leaks

    def defects(self) -> dict[str, list[tuple[RecordingFinding, Defect]]]:
        """What is wrong with recordings, by kind, the most frequent first."""
        by_kind: dict[str, list[tuple[RecordingFinding, Defect]]] = {}
        for finding in self.recordings:
            for defect in finding.defects:
                by_kind.setdefault(defect.kind, []).append((finding, defect))
        return dict(sorted(by_kind.items(), key=lambda item: (-len(item[1]), item[0])))

    def as_json(self) -> dict[str, Any]:
        """The audit as values that JSON has; not a number and infinity become null."""
        content = asdict(self) | {
            "root": str(self.root),
            "is_clean": self.is_clean,
            "open_leaks": [sorted(self.waived_names(leak)) for leak in self.open_leaks],
            "unused_waivers": self.unused_waivers,
        }
        return {key: _finite(value) for key, value in content.items()}


def audit_corpus(
    corpus: Corpus,
    *,
    waived: Sequence[str] = (),
    is_audio_read: bool = True,
    num_workers: int = 1,
    on_progress: OnProgress | None = None,
) -> Audit:
    """The audit of a corpus, which may have problems.

    waived: names of patients, recordings, or pairs "A,B", whose leakage is known and accepted.
    on_progress: called with how much is done, and of how much; starts again for each of three stages.

    Raises CorpusError when the corpus has no recordings.
    """
    _require_recordings(corpus)
    findings = [_finding(corpus, recording) for recording in corpus.recordings]
    shared: list[SharedAudio] = []
    notes = list(corpus.notes)
    if is_audio_read:
        results = measure_recordings(corpus.recordings, num_workers=num_workers, on_progress=on_progress)
        findings = [_finding(corpus, r, result) for r, result in zip(corpus.recordings, results, strict=True)]
        findings, narrow = _compare_with_usual(findings)
        notes += narrow
        decoded = [(r, m) for r, m in zip(corpus.recordings, results, strict=True) if isinstance(m, Measured)]
        recordings, measured = [r for r, _ in decoded], [m for _, m in decoded]
        shared = find_shared_audio(recordings, measured, num_workers=num_workers, on_progress=on_progress)
        notes += [
            f"patient {patient} has too many recordings to look for simultaneous channels in all pairs"
            for patient in crowded_patients(recordings)
        ]
    return Audit(
        name=corpus.name,
        root=corpus.root,
        parts=corpus.parts,
        num_recordings=len(corpus.recordings),
        num_patients=len({recording.patient for recording in corpus.recordings}),
        is_audio_read=is_audio_read,
        shared_patients=tuple(_shared_patients(corpus)),
        shared_sounds=_shared_sounds(corpus, shared),
        tally=tuple(_tally(corpus)),
        recordings=tuple(findings),
        problems=corpus.problems,
        notes=tuple(notes),
        waived=tuple(dict.fromkeys(waived)),
    )


def _require_recordings(corpus: Corpus) -> None:
    if not corpus.recordings:
        why = (
            f"the first of {len(corpus.problems)} problem(s): {corpus.problems[0]}"
            if corpus.problems
            else "it is empty"
        )
        raise CorpusError(f"no recordings in {corpus.root} that could be audited; {why}")


def _shared_sounds(corpus: Corpus, shared: Sequence[SharedAudio]) -> tuple[SharedSound, ...]:
    """With the part and the patient of both recordings."""
    patient_of = {recording.name: recording.patient for recording in corpus.recordings}
    return tuple(
        SharedSound(
            audio,
            (corpus.split.get(audio.one), corpus.split.get(audio.other)),
            (patient_of[audio.one], patient_of[audio.other]),
        )
        for audio in shared
    )


def read_waivers(path: Path) -> list[str]:
    """Names from a waiver file: one a line, blank lines and what follows a # left out. SettingsError if unreadable."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"waiver file {path} cannot be read as text ({type(error).__name__}): give a file with one name a line"
        ) from None
    names = (line.partition("#")[0].strip() for line in lines)
    return [name for name in names if name]


def _shared_patients(corpus: Corpus) -> list[SharedPatient]:
    counts: dict[str, Counter[str]] = {}
    for recording in corpus.recordings:
        if recording.name in corpus.split:
            counts.setdefault(recording.patient, Counter())[corpus.split[recording.name]] += 1
    return [
        SharedPatient(
            patient,
            {part: parts[part] for part in corpus.parts if part in parts},
            is_by_design=_is_by_design(parts, corpus.known_patient_parts),
        )
        for patient, parts in sorted(counts.items())
        if len(parts) > 1
    ]


def _is_by_design(parts: Collection[str], known_patient_parts: frozenset[str]) -> bool:
    """Whether every two of the parts are the training part and one that is said to hold its patients."""
    return all(TRAIN in pair and set(pair) - {TRAIN} <= known_patient_parts for pair in combinations(parts, 2))


def _tally(corpus: Corpus) -> list[TallyRow]:
    def place(recording: Recording) -> tuple[str, str]:
        return corpus.split.get(recording.name, NO_PART), recording.device or UNKNOWN

    cycles: Counter[tuple[str | None, str, str]] = Counter()
    names: dict[tuple[str | None, str, str], set[str]] = {}
    for cycle in corpus.cycles:
        key = (cycle.word, *place(cycle.recording))
        cycles[key] += 1
        names.setdefault(key, set()).add(cycle.recording.name)
    heard = {cycle.recording.name for cycle in corpus.cycles}
    for recording in corpus.recordings:
        if recording.name not in heard:
            names.setdefault((None, *place(recording)), set()).add(recording.name)
    words = list(dict.fromkeys(cycle.word for cycle in sorted(corpus.cycles, key=lambda cycle: cycle.sound)))
    parts = [*corpus.parts, NO_PART]
    rows = [TallyRow(*key, cycles[key], len(found)) for key, found in names.items()]
    return sorted(
        rows,
        key=lambda row: (words.index(row.word) if row.word in words else len(words), parts.index(row.part), row.device),
    )


def _finding(corpus: Corpus, recording: Recording, result: Measured | AudioError | None = None) -> RecordingFinding:
    part, device = corpus.split.get(recording.name, NO_PART), recording.device or UNKNOWN
    if isinstance(result, Measured):
        return RecordingFinding(recording.name, part, device, result.quality, result.defects)
    defects = () if result is None else (Defect("unreadable", str(result)),)
    return RecordingFinding(recording.name, part, device, None, defects)


def _compare_with_usual(findings: Sequence[RecordingFinding]) -> tuple[list[RecordingFinding], list[str]]:
    """The findings with what is unlike others of a device, and sentences on what all of a device have in common."""
    qualities = {place: found.quality for place, found in enumerate(findings) if found.quality is not None}
    devices = [findings[place].device for place in qualities]
    unusual = dict(zip(qualities, find_unusual(devices, list(qualities.values())), strict=True))
    compared = [replace(found, defects=found.defects + unusual.get(place, ())) for place, found in enumerate(findings)]
    return compared, describe_narrow(usual_bands(devices, list(qualities.values())))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
