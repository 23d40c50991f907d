"""Recording, Cycle and Corpus: the result of every reader, and its words as classes of a label set.

Words become classes by a label map, else by the label set that has all of them.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from lungsound.data.file_facts import file_facts
from lungsound.errors import CorpusError, SettingsError
from lungsound.labels import LABEL_SETS, LabelMap, LabelSet, LungSound, sound_of

SYNTHETIC_EVENTS_FILE = "synthetic_events.tsv"  # in the folder of a corpus whose recordings a program made
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class Packed:
    """Place of a sound file's bytes in a packed corpus: the tar file, by path or URI, that has them, and their hash."""

    file: str
    offset: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Recording:
    """One sound file of one patient. Unknown facts are None, never a guess."""

    name: str
    patient: str
    path: Path
    duration_s: float
    sample_rate_hz: int
    location: str | None = None
    mode: str | None = None
    device: str | None = None
    age_years: float | None = None
    sex: str | None = None
    bmi: float | None = None
    diagnosis: str | None = None
    term: str | None = None
    """The corpus's own word for the whole recording (SPRSound: "CAS & DAS")."""
    corpus: str | None = None
    """Name of its corpus, where there are several."""
    shard: str = ""
    """Name of its shard, with which it is shuffled; blank where all of a corpus is."""
    packed: Packed | None = None
    """Where its bytes are, if `path` is a name in a tar file: `lungsound.data.shards.sound_file` opens either."""


@dataclass(frozen=True)
class Cycle:
    """One breathing cycle (SPRSound: one event; or a complete recording) with its sounds.

    `term` is the corpus's own word for it ("Rhonchi"); None where the flags say it all (ICBHI). `position` is its
    place, from 0, among the recording's annotations as they were written, which are not always in order of time.
    """

    recording: Recording
    start_s: float
    end_s: float
    has_crackle: bool
    has_wheeze: bool
    term: str | None = None
    position: int = field(default=0, compare=False)

    @property
    def sound(self) -> LungSound:
        """The sound that the flags say: NORMAL too for a term that is none of the four sounds ("Poor Quality")."""
        return LungSound.of(has_crackle=self.has_crackle, has_wheeze=self.has_wheeze)

    @property
    def word(self) -> str:
        """The cycle's class in one word: the term, else that of the sound ("crackle")."""
        return self.sound.word if self.term is None else self.term

    @property
    def key(self) -> str:
        """`<recording>#<start>-<end>` in seconds with three decimals; the key of a predictions file."""
        return f"{self.recording.name}#{self.start_s:.3f}-{self.end_s:.3f}"


@dataclass(frozen=True)
class Problem:
    """One fault: a reader's fixed phrase ("empty cycle"), the recording or file (and line), and the reason."""

    kind: str
    where: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.detail}"


@dataclass(frozen=True)
class Corpus:
    """Recordings sorted by name, their cycles sorted by recording and start, and the split; of several one by one.

    `split` maps a recording's name to the name of its part ("train", "test"; SPRSound: "train", "inter",
    "intra"). A recording that is in no part has no entry and stands in `problems`.
    `known_patient_parts` are parts whose patients are by design those of the training set (SPRSound: "intra").
    `vocabulary` is the label set (`lungsound.labels`) whose classes are the words of the cycles.
    `split_origin` says where the parts come from; empty for the only split that a corpus has.
    `root` is a folder, a table, or the URI of a packed corpus.
    `members` are the corpora by name that were joined to this one (see `join`), in its order, each as it is alone.
    """

    name: str
    root: Path | str
    recordings: tuple[Recording, ...]
    cycles: tuple[Cycle, ...]
    split: Mapping[str, str]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    known_patient_parts: frozenset[str] = frozenset()
    vocabulary: str = "sound4"
    split_origin: str = ""
    members: Mapping[str, "Corpus"] = field(default_factory=dict)

    def __repr__(self) -> str:
        num_patients = len({recording.patient for recording in self.recordings})
        cycles = ", ".join(f"{name} {len(self.part(name))}" for name in self.parts)
        return (
            f"<Corpus {self.name}: {len(self.recordings)} recordings of {num_patients} patients, "
            f"{len(self.cycles)} cycles ({cycles}), {len(self.problems)} problems>"
        )

    @property
    def is_synthetic(self) -> bool:
        return self.name == "synthetic" or any(member.is_synthetic for member in self.members.values())

    def part(self, *names: str) -> tuple[Cycle, ...]:
        """The cycles of the named parts of the split, in the corpus's order."""
        return tuple(cycle for cycle in self.cycles if self.split.get(cycle.recording.name) in names)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that hold recordings: "train" first, then by name."""
        names = {self.split[r.name] for r in self.recordings if r.name in self.split}
        return tuple(sorted(names, key=lambda name: (name != "train", name)))

    def keep(self, is_kept: Callable[[Recording], bool]) -> "Corpus":
        """The corpus with only the recordings for which `is_kept` is true, and their cycles."""
        recordings = tuple(recording for recording in self.recordings if is_kept(recording))
        names = {recording.name for recording in recordings}
        cycles = tuple(cycle for cycle in self.cycles if cycle.recording.name in names)
        return replace(self, recordings=recordings, cycles=cycles, members={})

    def require_sound(self) -> "Corpus":
        """This corpus, if it has recordings and no problems; else a CorpusError that counts and names them."""
        if self.problems:
            counts = ", ".join(f"{n} x {kind}" for kind, n in sorted(Counter(p.kind for p in self.problems).items()))
            raise CorpusError(
                f"{self.root} has {len(self.problems)} problem(s) ({counts}); the first: {self.problems[0]}; "
                f"run 'lungsound data check {self.root}' to list them all"
            )
        if not self.recordings:
            raise CorpusError(f"no recordings in {self.root}: expected sound files with annotations beside them")
        return self

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the order, the bytes of every sound file, the labels and the split."""
        digest = hashlib.sha256()
        facts = file_facts()
        hashes = iter(facts.sha256([each.path for each in self.recordings if each.packed is None]))
        facts.save()
        for recording in self.recordings:
            audio = next(hashes) if recording.packed is None else recording.packed.sha256
            digest.update(f"{recording.name}\t{self.split.get(recording.name)}\t{audio}\n".encode())
        for cycle in self.cycles:
            term = "" if cycle.term is None else f"\t{cycle.term}"
            digest.update(f"{cycle.key}\t{int(cycle.sound)}{term}\n".encode())
        return digest.hexdigest()


UNKNOWN_LABEL = "unknown label"  # the kind of problem
MAP_NOTE = "label map "  # in notes on what a map loses
FINEST = tuple(LABEL_SETS[name] for name in ("sound4", "sprsound_event7", "sprsound_record5"))


def relabelled(corpus: Corpus, label_map: LabelMap) -> Corpus:
    """The corpus in the words of the map's label set, with the losses of the map in `notes`.

    A word without an entry is an "unknown label", named where it comes first; its cycles are left out.
    """
    target = label_map.label_set.name
    cycles, unmapped = [], dict[str, list[Cycle]]()
    for cycle in corpus.cycles:
        word = label_map.classes.get(cycle.word)
        if word is None:
            unmapped.setdefault(cycle.word, []).append(cycle)
        else:
            sound, term = sound_of(word) or LungSound.NORMAL, None if target == "sound4" else word
            cycles.append(replace(cycle, has_crackle=sound.has_crackle, has_wheeze=sound.has_wheeze, term=term))
    problems = [
        Problem(
            UNKNOWN_LABEL,
            first.key,
            f"{word!r} (of {1 + len(others)} cycles) has no entry in the label map {label_map.vocabulary}, "
            f"which has {', '.join(label_map.classes)}",
        )
        for word, (first, *others) in unmapped.items()
    ]
    used = {cycle.word for cycle in corpus.cycles}
    losses = label_map.losses([word for word in label_map.classes if word in used]) or ["nothing is lost"]
    return replace(
        corpus,
        cycles=tuple(cycles),
        problems=(*corpus.problems, *problems),
        notes=(*corpus.notes, *(f"{MAP_NOTE}{label_map.vocabulary} to {target}: {loss}" for loss in losses)),
        vocabulary=target,
    )


def in_classes(corpus: Corpus, label_set: LabelSet) -> Corpus:
    """The corpus in the classes of a label set, with what they do not tell apart in `notes`.

    SettingsError when the label set has no class for a word or needs a diagnosis that a patient lacks.
    """
    if label_set.needs_diagnosis:
        for diagnosis in {cycle.recording.diagnosis for cycle in corpus.cycles}:
            label_set.label(sound=LungSound.NORMAL, diagnosis=diagnosis)
    if label_set.needs_diagnosis or corpus.vocabulary == label_set.name:
        return corpus
    words = dict.fromkeys(cycle.word for cycle in corpus.cycles)
    classes = {word: label_set.classes[label_set.label(sound=LungSound.NORMAL, term=word)] for word in words}
    return relabelled(corpus, LabelMap(corpus.vocabulary, label_set, classes))


def join(members: Mapping[str, Corpus], label_set: LabelSet) -> Corpus:
    """One corpus of several, by name, in the classes of a label set.

    Names of recordings, patients and parts begin with that of their corpus ("sprsound/41279835", "sprsound.inter"), but
    for "train". SettingsError when the label set does not fit one of them.
    """
    read: list[Corpus] = []
    recordings: list[Recording] = []
    cycles: list[Cycle] = []
    split: dict[str, str] = {}
    for name, member in members.items():
        try:
            corpus = in_classes(member, label_set)
        except SettingsError as error:
            raise SettingsError(f"corpus {name!r} in {member.root}: {error}") from None
        own = {
            each.name: replace(each, name=f"{name}/{each.name}", patient=f"{name}/{each.patient}", corpus=name)
            for each in corpus.recordings
        }
        recordings += own.values()
        cycles += [replace(cycle, recording=own[cycle.recording.name]) for cycle in corpus.cycles]
        split |= {f"{name}/{each}": joined_part(name, part) for each, part in corpus.split.items()}
        read.append(corpus)
    named = list(zip(members, read, strict=True))
    known = frozenset(joined_part(name, part) for name, one in named for part in one.known_patient_parts)
    return Corpus(
        name=" + ".join(members),
        root=Path(" + ".join(str(member.root) for member in members.values())),
        recordings=tuple(recordings),
        cycles=tuple(cycles),
        split=split,
        problems=tuple(replace(each, where=f"{name}/{each.where}") for name, one in named for each in one.problems),
        notes=tuple(f"{name}: {note}" for name, one in named for note in one.notes),
        known_patient_parts=known,
        vocabulary="sound4" if label_set.needs_diagnosis else label_set.name,
        split_origin="; ".join(f"{name}: {one.split_origin or 'its own'}" for name, one in named),
        members=members,
    )


def joined_part(name: str, part: str) -> str:
    """Name that a part of a corpus has among several: all training parts are one."""
    return part if part == "train" else f"{name}.{part}"


def in_known_words(corpus: Corpus) -> Corpus:
    """The corpus in the words of the first label set that has all its terms, the finest first, in any case of letters.

    When none has them all that is an "unknown label", and no cycle is left. Flags without a term stay as they are.
    """
    words = list(dict.fromkeys(cycle.term for cycle in corpus.cycles if cycle.term is not None))
    if not words:
        return corpus
    coarser = [each for each in LABEL_SETS.values() if not each.needs_diagnosis and each not in FINEST]
    for fold in (str, str.lower):
        for label_set in (*FINEST, *coarser):
            class_of = {fold(name): name for name in label_set.classes}
            if all(fold(word) in class_of for word in words):
                label_map = LabelMap("labels", label_set, {word: class_of[fold(word)] for word in words})
                notes = (*corpus.notes, f"labels: the words of {label_set.name}")
                return replace(relabelled(corpus, label_map), notes=notes)
    known = "; ".join(", ".join(label_set.classes) for label_set in FINEST)
    detail = (
        f"labels {', '.join(map(repr, words))} are not all of one known set ({known}): "
        'set data.label_map to a file with label_set = "sound4" and lines "word" = "class" in [classes] '
        "(evaluate and the data commands: --label-map FILE, in Python label_map; cross: --on DIR=FILE)"
    )
    return replace(
        corpus, cycles=(), problems=(*corpus.problems, Problem(UNKNOWN_LABEL, Path(corpus.root).name, detail))
    )
