"""The table of `lungsound data check`: contents and problems of a corpus beside the published totals."""

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lungsound.data.corpus import Corpus, Cycle, Problem, Recording
from lungsound.data.icbhi import canonical_name, official_split
from lungsound.labels import LungSound, sound_of

NO_PART = "in no part"
MAX_SHARED_PATIENTS = 10  # named in print; SPRSound's intra part shares 162 with its training set by design
# Problems of which a few stand for all: under a split that is another corpus's, every recording has one.
MAX_SHOWN = {"in no split": 3}


@dataclass(frozen=True)
class Counts:
    """Contents of a part of a corpus; `cycles` in the order normal, crackle, wheeze, both.

    Cycles whose word is none of the four sounds ("abnormal") are in `num_cycles` only.
    """

    num_recordings: int
    num_patients: int
    duration_s: float
    num_cycles: int
    cycles: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """Recordings, and cycles by class, counted and published, of a part or of the complete corpus."""

    part: str
    counted: tuple[int, ...]
    published: tuple[int, ...]

    @property
    def is_equal(self) -> bool:
        return self.counted == self.published


@dataclass(frozen=True)
class CorpusTable:
    """Plain data of a check.

    `parts` maps each part (and `NO_PART`, where there is such a recording) to its counts, `devices` each device
    to its number of recordings by part, `words` each of the corpus's own words to its number of cycles by part (empty
    where the flags tell the sound), `recording_words` the same for the words of recordings, `shared_patients` each two
    parts to the patients that are in both. `comparisons` is empty when the corpus is not complete, or not read in the
    words that were counted; `completeness` tells which in words.
    """

    name: str
    root: Path
    total: Counts
    parts: Mapping[str, Counts]
    devices: Mapping[str, Mapping[str, int]]
    words: Mapping[str, Mapping[str, int]]
    recording_words: Mapping[str, Mapping[str, int]]
    shared_patients: Mapping[tuple[str, str], tuple[str, ...]]
    problems: Mapping[str, tuple[Problem, ...]]
    notes: tuple[str, ...]
    completeness: str
    comparisons: tuple[Comparison, ...]

    @property
    def is_sound(self) -> bool:
        """Recordings, no problem, and, if it is complete, the published totals."""
        return bool(self.total.num_recordings and not self.problems and all(c.is_equal for c in self.comparisons))


def corpus_table(corpus: Corpus) -> CorpusTable:
    """Counts, problems and the comparison with the published totals of a corpus."""
    by_part: dict[str, list[Recording]] = {}
    for recording in corpus.recordings:
        by_part.setdefault(corpus.split.get(recording.name, NO_PART), []).append(recording)
    order = [part for part in (*corpus.parts, NO_PART) if part in by_part]
    parts = {part: _counts(by_part[part], corpus.cycles) for part in order}
    part_of = {recording.name: part for part in order for recording in by_part[part]}
    total = _counts(corpus.recordings, corpus.cycles)
    completeness, comparisons = _compare(corpus, total, parts)
    kinds = sorted({problem.kind for problem in corpus.problems})
    return CorpusTable(
        name=corpus.name,
        root=corpus.root,
        total=total,
        parts=parts,
        devices=_by_part([(r.device or "unknown", part_of[r.name]) for r in corpus.recordings], order),
        words=_by_part([(c.term, part_of[c.recording.name]) for c in corpus.cycles if c.term is not None], order),
        recording_words=_by_part([(r.term, part_of[r.name]) for r in corpus.recordings if r.term is not None], order),
        shared_patients=_shared_patients({part: by_part[part] for part in order if part != NO_PART}),
        problems={kind: tuple(p for p in corpus.problems if p.kind == kind) for kind in kinds},
        notes=corpus.notes,
        completeness=completeness,
        comparisons=comparisons,
    )


def _by_part(pairs: Iterable[tuple[str, str]], order: Iterable[str]) -> dict[str, dict[str, int]]:
    """Number of (name, part) pairs in each part, by name."""
    counts = Counter(pairs)
    return {name: {part: counts[name, part] for part in order} for name in sorted({name for name, _ in counts})}


def _counts(recordings: Iterable[Recording], cycles: Iterable[Cycle]) -> Counts:
    recordings = tuple(recordings)
    names = {recording.name for recording in recordings}
    sounds = Counter(sound_of(cycle.word) for cycle in cycles if cycle.recording.name in names)
    return Counts(
        num_recordings=len(recordings),
        num_patients=len({recording.patient for recording in recordings}),
        duration_s=sum(recording.duration_s for recording in recordings),
        num_cycles=sounds.total(),
        cycles=tuple(sounds[sound] for sound in LungSound),
    )


def _shared_patients(by_part: Mapping[str, list[Recording]]) -> dict[tuple[str, str], tuple[str, ...]]:
    patients = {part: {recording.patient for recording in recordings} for part, recordings in by_part.items()}
    shared = {(a, b): tuple(sorted(patients[a] & patients[b])) for a, b in combinations(patients, 2)}
    return {pair: names for pair, names in shared.items() if names}


def _compare(corpus: Corpus, total: Counts, parts: Mapping[str, Counts]) -> tuple[str, tuple[Comparison, ...]]:
    """Completeness of the corpus, in words; if it is, its counts beside the published ones."""
    text = (files("lungsound.data") / "manifests" / "published_totals.toml").read_text(encoding="utf-8")
    published: Mapping[str, Any] = tomllib.loads(text).get(corpus.name, {})
    if not published:
        return "no published totals to compare with", ()
    if corpus.vocabulary != published["vocabulary"]:
        return f"in the words of {corpus.vocabulary}, for which there are no published totals to compare with", ()
    num_published: int = published["recordings"]
    num_known, is_official = min(len(corpus.recordings), num_published), True
    if corpus.name == "icbhi":
        official = official_split()
        num_known = len({canonical_name(recording.name) for recording in corpus.recordings} & official.keys())
        is_official = {canonical_name(name): part for name, part in corpus.split.items()} == official
    if num_known == 0:
        return f"none of the {num_published} published recordings: another corpus in the same layout", ()
    num_others = len(corpus.recordings) - num_known
    if num_known < num_published or num_others:
        others = f" and {num_others} others" if num_others else ""
        known = f"{num_known} of the {num_published} published recordings{others}"
        return f"{known}: scores on it cannot be compared with published ones", ()
    compared = {"whole corpus": (total, published)}
    if is_official:
        compared |= {part: (parts[part], published["parts"][part]) for part in published["parts"] if part in parts}
    comparisons = tuple(
        Comparison(part, (counts.num_recordings, *counts.cycles), (expected["recordings"], *expected["cycles"]))
        for part, (counts, expected) in compared.items()
    )
    return "whole" if is_official else "whole, with a split that is not the official one", comparisons


def print_check(corpus: Corpus, console: Console) -> bool:
    """Print the table of a corpus; returns whether it is sound (`CorpusTable.is_sound`)."""
    table = corpus_table(corpus)
    sounds = [sound.word for sound in LungSound]
    _print_line(console, f"{table.name} in {table.root}: {table.completeness}")
    _print_table(
        console,
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
            _print_table(console, (title, *table.parts, "all"), rows)
    for (one, other), patients in table.shared_patients.items():
        named = ", ".join(patients[:MAX_SHARED_PATIENTS])
        more = f" and {len(patients) - MAX_SHARED_PATIENTS} more" if len(patients) > MAX_SHARED_PATIENTS else ""
        _print_line(console, f"patients in both {one} and {other}: {len(patients)} ({named}{more})")
    if table.comparisons:
        comparisons = []
        for comparison in table.comparisons:
            pairs = zip(comparison.counted, comparison.published, strict=True)
            cells = [f"{own:,}" if own == published else f"{own:,} not {published:,}" for own, published in pairs]
            comparisons.append((comparison.part, *cells, "equal" if comparison.is_equal else "DIFFERS"))
        _print_table(console, ("published totals", "recordings", *sounds, ""), comparisons)
    for note in table.notes:
        _print_line(console, f"note: {note}")
    for kind, problems in table.problems.items():
        _print_line(console, f"{kind}: {len(problems)}", style="bold red")
        shown = problems[: MAX_SHOWN.get(kind)]
        for problem in shown:
            _print_line(console, f"  {problem.where}: {problem.detail}")
        if len(shown) < len(problems):
            _print_line(console, f"  and {len(problems) - len(shown)} more")
    num_problems = sum(len(problems) for problems in table.problems.values())
    _print_line(console, f"problems: {num_problems or 'none'}", style="bold red" if num_problems else "bold green")
    return table.is_sound


def _print_line(console: Console, text: str, style: str = "") -> None:
    """Print one unbroken line, with no markup read into names of files."""
    console.print(Text(text, style=style), soft_wrap=True)


def _print_table(console: Console, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    console.print(table)
