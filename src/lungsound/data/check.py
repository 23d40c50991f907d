"""The table of `lungsound data check`: contents and problems of a corpus beside the published totals."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from rich.console import Console
from rich.text import Text

from lungsound.data.corpus import Corpus, Cycle, Recording
from lungsound.data.icbhi import canonical_name, official_split
from lungsound.files import first_names, shipped
from lungsound.labels import LungSound, sound_of
from lungsound.page import terminal_table

NO_PART = "in no part"
MAX_SHARED_PATIENTS = 10  # named in print; SPRSound's intra part shares 162 with its training set by design
# Problems of which a few stand for all: under a split that is another corpus's, every recording has one.
MAX_SHOWN = {"in no split": 3}


@dataclass(frozen=True)
class Counts:
    """Contents of a part of a corpus; `cycles` by sound, without those of another word, which `num_cycles` has too."""

    num_recordings: int
    num_patients: int
    duration_s: float
    num_cycles: int
    cycles: tuple[int, ...]

    @classmethod
    def of(cls, recordings: Collection[Recording], cycles: Iterable[Cycle]) -> "Counts":
        names = {recording.name for recording in recordings}
        sounds = Counter(sound_of(cycle.word) for cycle in cycles if cycle.recording.name in names)
        return cls(
            num_recordings=len(recordings),
            num_patients=len({recording.patient for recording in recordings}),
            duration_s=sum(recording.duration_s for recording in recordings),
            num_cycles=sounds.total(),
            cycles=tuple(sounds[sound] for sound in LungSound),
        )


@dataclass(frozen=True)
class CorpusTable:
    """Counts by part (and `NO_PART`): of recordings by device, cycles by word (if not flags), recordings by word.

    `shared_patients` maps each two parts to the patients in both. `comparisons` are recordings, and cycles by class,
    counted and published; empty when the corpus is not complete or read in other words (see `completeness`).
    """

    total: Counts
    parts: Mapping[str, Counts]
    devices: Mapping[str, Mapping[str, int]]
    words: Mapping[str, Mapping[str, int]]
    recording_words: Mapping[str, Mapping[str, int]]
    shared_patients: Mapping[tuple[str, str], tuple[str, ...]]
    completeness: str
    comparisons: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


def corpus_table(corpus: Corpus) -> CorpusTable:
    """Counts of a corpus and the comparison with the published totals."""
    by_part: dict[str, list[Recording]] = {part: [] for part in (*corpus.parts, NO_PART)}
    part_of = {recording.name: corpus.split.get(recording.name, NO_PART) for recording in corpus.recordings}
    for recording in corpus.recordings:
        by_part[part_of[recording.name]].append(recording)
    if not by_part[NO_PART]:
        del by_part[NO_PART]

    def count(pairs: Iterable[tuple[str | None, str]]) -> dict[str, dict[str, int]]:
        counts = Counter(pairs)
        names = sorted({name for name, _ in counts if name is not None})
        return {name: {part: counts[name, part] for part in by_part} for name in names}

    parts = {part: Counts.of(recordings, corpus.cycles) for part, recordings in by_part.items()}
    total = Counts.of(corpus.recordings, corpus.cycles)
    patients = {part: {recording.patient for recording in by_part[part]} for part in corpus.parts}
    shared = {(one, other): tuple(sorted(patients[one] & patients[other])) for one, other in combinations(patients, 2)}
    completeness, comparisons = _compare(corpus, total, parts)
    return CorpusTable(
        total=total,
        parts=parts,
        devices=count((recording.device or "unknown", part_of[recording.name]) for recording in corpus.recordings),
        words=count((cycle.term, part_of[cycle.recording.name]) for cycle in corpus.cycles),
        recording_words=count((recording.term, part_of[recording.name]) for recording in corpus.recordings),
        shared_patients={pair: names for pair, names in shared.items() if names},
        completeness=completeness,
        comparisons=comparisons,
    )


def _compare(
    corpus: Corpus, total: Counts, parts: Mapping[str, Counts]
) -> tuple[str, dict[str, tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Completeness of the corpus, in words; if it is, its counts beside the published ones."""
    published: Mapping[str, Any] = shipped("data", "manifests", "published_totals.toml").get(corpus.name, {})
    if not published:
        return "no published totals to compare with", {}
    if corpus.vocabulary != published["vocabulary"]:
        return f"in the words of {corpus.vocabulary}, for which there are no published totals to compare with", {}
    num_published: int = published["recordings"]
    num_known, is_official = min(len(corpus.recordings), num_published), True
    if corpus.name == "icbhi":
        official = official_split()
        num_known = len({canonical_name(recording.name) for recording in corpus.recordings} & official.keys())
        is_official = {canonical_name(name): part for name, part in corpus.split.items()} == official
    if num_known == 0:
        return f"none of the {num_published} published recordings: another corpus in the same layout", {}
    num_others = len(corpus.recordings) - num_known
    if num_known < num_published or num_others:
        others = f" and {num_others} others" if num_others else ""
        known = f"{num_known} of the {num_published} published recordings{others}"
        return f"{known}: scores on it cannot be compared with published ones", {}
    compared = {"whole corpus": (total, published)}
    if is_official:
        compared |= {part: (parts[part], published["parts"][part]) for part in published["parts"] if part in parts}
    comparisons = {
        part: ((counts.num_recordings, *counts.cycles), (expected["recordings"], *expected["cycles"]))
        for part, (counts, expected) in compared.items()
    }
    return "whole" if is_official else "whole, with a split that is not the official one", comparisons


def print_check(corpus: Corpus, console: Console) -> bool:
    """Print the table of a corpus; true for recordings, no problem, and, if it is complete, the published totals."""

    def print_line(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)  # no markup is read into names of files

    def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        console.print(terminal_table(head, rows))

    table = corpus_table(corpus)
    sounds = [sound.word for sound in LungSound]
    print_line(f"{corpus.name} in {corpus.root}: {table.completeness}")
    print_table(
        ("part", "recordings", "patients", "hours", "cycles", *sounds),
        [
            (part, c.num_recordings, c.num_patients, f"{c.duration_s / 3600:.2f}", c.num_cycles, *c.cycles)
            for part, c in (*table.parts.items(), ("all", table.total))
        ],
    )
    for title, counts in (
        ("recordings by device", table.devices),
        ("cycles by word", table.words),
        ("recordings by word", table.recording_words),
    ):
        if counts:
            rows = [(name, *by_part.values(), sum(by_part.values())) for name, by_part in counts.items()]
            print_table((title, *table.parts, "all"), rows)
    for (one, other), patients in table.shared_patients.items():
        named = first_names(patients, MAX_SHARED_PATIENTS)
        print_line(f"patients in both {one} and {other}: {len(patients)} ({named})")
    is_sound = bool(corpus.recordings and not corpus.problems)
    compared = []
    for part, (counted, published) in table.comparisons.items():
        pairs = zip(counted, published, strict=True)
        cells = [f"{own:,}" if own == other else f"{own:,} not {other:,}" for own, other in pairs]
        compared.append((part, *cells, "equal" if counted == published else "DIFFERS"))
        is_sound = is_sound and counted == published
    if compared:
        print_table(("published totals", "recordings", *sounds, ""), compared)
    for note in corpus.notes:
        print_line(f"note: {note}")
    for kind, num_problems in sorted(Counter(problem.kind for problem in corpus.problems).items()):
        print_line(f"{kind}: {num_problems}", style="bold red")
        shown = [problem for problem in corpus.problems if problem.kind == kind][: MAX_SHOWN.get(kind)]
        for problem in shown:
            print_line(f"  {problem.where}: {problem.detail}")
        if len(shown) < num_problems:
            print_line(f"  and {num_problems - len(shown)} more")
    if not corpus.recordings and not corpus.problems:
        print_line("no recordings", "bold red")
        return False
    print_line(f"problems: {len(corpus.problems) or 'none'}", "bold red" if corpus.problems else "bold green")
    return is_sound
