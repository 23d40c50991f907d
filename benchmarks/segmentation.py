"""How well found breathing cycles meet annotated ones: cycles matched one to one, and the error of their onsets.

A found cycle matches an annotated one when what they share is at least half of what they cover together; the largest
number of pairs counts. F1 is 2 matched / (found + annotated). The error of an annotated onset is its distance to the
nearest found one, whatever else is found: many onsets have small errors, so it says something beside F1 only.

How well breathing cycles are found in a corpus that has annotated ones: a table, beside what chance would give.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.text import Text

from lungsound.audio.io import read_waveform
from lungsound.audio.quality import Samples, silent_stretches
from lungsound.audio.segmentation import (
    MIN_PARTIAL,
    Cycles,
    Segmentation,
    cycles_between,
    segment_cycles,
    sliding_windows,
)
from lungsound.data.corpus import Corpus, Cycle, Recording
from lungsound.data.reader import read_corpus
from lungsound.errors import SettingsError
from lungsound.evaluation.bootstrap import NUM_DRAWS, Bootstrap, Estimate, ValueOf, Weights
from lungsound.evaluation.metrics import Fractions
from lungsound.page import Block, Cell, Heading, Paragraph, Table, render_blocks, write_page

MIN_OVERLAP = 0.5
NEAR_S = (0.25, 0.5)


@dataclass(frozen=True)
class Tally:
    """Found against annotated cycles of one recording; `errors_s` of annotated onsets, infinite if none was found."""

    patient: str
    num_found: int
    num_annotated: int
    num_matched: int
    errors_s: tuple[float, ...]


@dataclass(frozen=True)
class SegmentationScores:
    """Scores over recordings; all but `median_error_s`, in seconds, are fractions."""

    f1: Estimate
    recall: Estimate
    precision: Estimate
    near: tuple[Estimate, ...]
    """Share of the annotated onsets with a found one within each of `NEAR_S`."""
    median_error_s: Estimate


def tally(found: Cycles, annotated: Cycles, *, patient: str) -> Tally:
    """Counts and errors of one recording's cycles (start, end) in seconds, in any order."""
    starts_s = np.array([start_s for start_s, _ in found])
    errors_s = [float(np.abs(starts_s - start_s).min(initial=np.inf)) for start_s, _ in annotated]
    return Tally(patient, len(found), len(annotated), num_matched(found, annotated), tuple(errors_s))


def num_matched(found: Cycles, annotated: Cycles) -> int:
    """The largest number of pairs of a found and an annotated cycle, each used once, that overlap by `MIN_OVERLAP`.

    Overlap is intersection over union. By augmenting paths (Kuhn, 1955): each annotated cycle takes a found one, whose
    owner, if it has one, moves on to another.
    """
    partners = [[k for k, cycle in enumerate(found) if overlap(cycle, other) >= MIN_OVERLAP] for other in annotated]
    owner: dict[int, int] = {}

    def is_placed(number: int, tried: set[int]) -> bool:
        for partner in partners[number]:
            if partner not in tried:
                tried.add(partner)
                if partner not in owner or is_placed(owner[partner], tried):
                    owner[partner] = number
                    return True
        return False

    return sum(is_placed(number, set()) for number in range(len(annotated)))


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two stretches of time, 0 to 1."""
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    return shared / (one[1] - one[0] + other[1] - other[0] - shared)


def score_segmentation(tallies: Sequence[Tally], *, seed: int = 0, num_draws: int = NUM_DRAWS) -> SegmentationScores:
    """Scores of all recordings together, with intervals over patients."""
    num_patients = len({each.patient for each in tallies})

    def estimate(value_of: ValueOf) -> Estimate:
        return Bootstrap(seed, num_draws).estimate(value_of, num_patients)

    found, annotated, matched = _counts(tallies).T
    near = [np.array([sum(error <= near_s for error in each.errors_s) for each in tallies]) for near_s in NEAR_S]
    return SegmentationScores(
        f1=estimate(_ratio(tallies, 2 * matched, found + annotated)),
        recall=estimate(_ratio(tallies, matched, annotated)),
        precision=estimate(_ratio(tallies, matched, found)),
        near=tuple(estimate(_ratio(tallies, counts, annotated)) for counts in near),
        median_error_s=estimate(median_error(tallies)),
    )


def f1_gain(tallies: Sequence[Tally], minus: Sequence[Tally], *, seed: int = 0, num_draws: int = NUM_DRAWS) -> Estimate:
    """F1 less that of another way to find cycles in recordings of the same patients."""
    num_patients = len({each.patient for each in tallies})
    sides = []
    for side in (tallies, minus):
        found, annotated, matched = _counts(side).T
        sides.append(_ratio(side, 2 * matched, found + annotated))
    return Bootstrap(seed, num_draws).estimate(sides[0], num_patients, minus=sides[1])


def _counts(tallies: Sequence[Tally]) -> npt.NDArray[np.int64]:
    """Found, annotated and matched `(recording, 3)`."""
    return np.array([(each.num_found, each.num_annotated, each.num_matched) for each in tallies], dtype=np.int64)


def _patient_rows(tallies: Sequence[Tally]) -> npt.NDArray[np.int64]:
    """The number of each recording's patient `(recording,)`, by name."""
    return np.unique(np.array([each.patient for each in tallies]), return_inverse=True)[1].astype(np.int64)


def _ratio(tallies: Sequence[Tally], part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> ValueOf:
    """Sum of `part` by that of `whole` `(recording,)` as a function of how patients are taken."""
    rows = _patient_rows(tallies)
    sums = np.stack([np.bincount(rows, counts) for counts in (part, whole)], axis=1)

    def value_of(weights: Weights) -> Fractions:
        parts, wholes = (weights @ sums).T
        with np.errstate(invalid="ignore"):
            return np.asarray(parts / wholes)

    return value_of


def median_error(tallies: Sequence[Tally]) -> ValueOf:
    """Median of the onsets' errors in seconds (the lower one of two) as a function of how patients are taken.

    NaN when no onset was found for so many.
    """
    rows = np.repeat(_patient_rows(tallies), [len(each.errors_s) for each in tallies])
    errors_s = np.array([error for each in tallies for error in each.errors_s])
    order = np.argsort(errors_s)

    def value_of(weights: Weights) -> Fractions:
        below = np.cumsum(weights[:, rows[order]], axis=1)
        medians_s = errors_s[order][(2 * below < below[:, -1:]).sum(axis=1)]
        return np.where(np.isfinite(medians_s), medians_s, np.nan)

    return value_of


NUM_PHASES = 8
HEAD = ("cycles from", "found", "F1, %", "recall, %", "precision, %", "onset error, median, s") + tuple(
    f"onsets within {near_s:g} s, %" for near_s in NEAR_S
)


@dataclass(frozen=True)
class _Measured:
    """One recording: its tally by each way to find cycles (several for one that averages over phases)."""

    found: Tally
    windows: Tally
    phases: tuple[Tally, ...]
    is_refused: bool
    has_silence: bool


def report_segmentation(
    folder: Path,
    stem: Path,
    *,
    console: Console,
    parts: Sequence[str] = (),
    modes: Sequence[str] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Find cycles in the annotated recordings of the corpus in `folder`, print how well, write `<stem>.md` and `.html`.

    parts: of the split; all but the training set unless given, since the constants were tuned on training parts.
    modes: of the recordings ("sc"); all unless given.
    Windows are as long as the median annotated cycle of the training set, or of all where there is none.
    Raises SettingsError when nothing is left.
    """
    corpus = read_corpus(folder)
    chosen = tuple(parts) or tuple(part for part in corpus.parts if part != "train")
    kept = corpus.keep(lambda recording: not modes or recording.mode in modes)
    window_s = _usual_length_s(kept)
    cycles = _by_recording(kept.part(*chosen))
    if not cycles:
        raise SettingsError(f"no annotated recordings in {folder} of parts {chosen} and modes {tuple(modes)}")
    measured = []
    for recording, annotated in cycles.items():
        measured.append(_measure(recording, [(each.start_s, each.end_s) for each in annotated], window_s))
        if on_progress is not None:
            on_progress(len(measured), len(cycles))
    blocks = _blocks(corpus, chosen, measured, window_s)
    console.print(Text(render_blocks(blocks)), soft_wrap=True)
    write_page(stem, f"Breathing cycles found in {corpus.name}", blocks)


def _usual_length_s(corpus: Corpus) -> float:
    lengths_s = [cycle.end_s - cycle.start_s for cycle in corpus.part("train") or corpus.cycles]
    return float(np.median(lengths_s)) if lengths_s else 0.0


def _by_recording(cycles: Sequence[Cycle]) -> dict[Recording, list[Cycle]]:
    found: dict[Recording, list[Cycle]] = {}
    for cycle in cycles:
        found.setdefault(cycle.recording, []).append(cycle)
    return found


def _measure(recording: Recording, annotated: list[tuple[float, float]], window_s: float) -> _Measured:
    """All ways to find the recording's cycles, tallied; where segmentation finds none, windows take its place."""
    waveform: Samples = read_waveform(recording.path, sample_rate_hz=recording.sample_rate_hz).numpy()
    segmentation = segment_cycles(waveform, recording.sample_rate_hz)
    windows = sliding_windows(recording.duration_s, length_s=window_s, hop_s=window_s)
    found, *phases = (
        tally(cycles, annotated, patient=recording.patient)
        for cycles in (segmentation.cycles or windows, *_at_all_phases(segmentation, recording.duration_s, window_s))
    )
    return _Measured(
        found=found,
        windows=tally(windows, annotated, patient=recording.patient),
        phases=tuple(phases),
        is_refused=segmentation.problem is not None,
        has_silence=bool(silent_stretches(waveform, recording.sample_rate_hz)),
    )


def _at_all_phases(segmentation: Segmentation, duration_s: float, window_s: float) -> list[Cycles]:
    """Cycles as long as the found ones (their median) from one end to the other, begun at evenly spaced phases."""
    lengths_s = [end_s - start_s for start_s, end_s in segmentation.cycles]
    length_s = float(np.median(lengths_s)) if lengths_s else window_s
    return [
        cycles_between(
            np.arange(length_s * phase / NUM_PHASES, duration_s, length_s).tolist(),
            start_s=0.0,
            end_s=duration_s,
            min_partial_s=MIN_PARTIAL * length_s,
        )
        for phase in range(NUM_PHASES)
    ]


def _blocks(corpus: Corpus, parts: Sequence[str], measured: Sequence[_Measured], window_s: float) -> list[Block]:
    whole = [each for each in measured if not each.has_silence]
    blocks: list[Block] = [
        Paragraph(
            f"Found against annotated cycles of {corpus.name}, {' and '.join(parts)}: matched one to one where they "
            "share at least half of what they cover together; F1 of the matches; distance of each annotated onset to "
            "the nearest found one. In brackets the 95 % interval over patients. Windows are as long as the median "
            f"annotated cycle ({window_s:.2f} s); those at any phase have the length of the recording's found "
            "cycles and begin anywhere."
        ),
        *_table(measured),
    ]
    if 0 < len(whole) < len(measured):
        blocks += [Heading("Recordings without a stretch of digital silence"), *_table(whole)]
    return blocks


def _table(measured: Sequence[_Measured]) -> list[Block]:
    found, windows = [each.found for each in measured], [each.windows for each in measured]
    phases = [each for recording in measured for each in recording.phases]
    gain = f1_gain(found, windows)
    num_refused = sum(each.is_refused for each in measured)
    num_annotated = sum(each.num_annotated for each in found)
    num_patients = len({each.patient for each in found})
    rows = [
        _row("segmentation", score_segmentation(found), sum(each.num_found for each in found)),
        _row("windows", score_segmentation(windows), sum(each.num_found for each in windows)),
        _row("windows at any phase", score_segmentation(phases), sum(each.num_found for each in phases) // NUM_PHASES),
    ]
    return [
        Paragraph(
            f"{len(found)} recordings of {num_patients} patients, {num_annotated} annotated cycles. In {num_refused} "
            f"recordings no breathing was found, and windows stand in. F1 above that of windows: {gain.in_percent()}."
        ),
        Table(HEAD, rows),
    ]


def _row(name: str, scores: SegmentationScores, num_found: int) -> tuple[Cell, ...]:
    fractions = [each.in_percent() for each in (scores.f1, scores.recall, scores.precision)]
    return (
        name,
        num_found,
        *fractions,
        _in_seconds(scores.median_error_s),
        *[each.in_percent() for each in scores.near],
    )


def _in_seconds(estimate: Estimate) -> str:
    interval = estimate.interval
    if interval.problem is not None:
        return f"{estimate.value:.2f} (n/a)"
    return f"{estimate.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"
