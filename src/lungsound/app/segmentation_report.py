"""How well breathing cycles are found in a corpus that has annotated ones: a table, beside what chance would give."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from lungsound.audio.quality import Samples, silent_stretches
from lungsound.audio.segmentation import (
    MIN_PARTIAL,
    Cycles,
    Segmentation,
    cycles_between,
    segment_cycles,
    sliding_windows,
)
from lungsound.audio.waveform import read_waveform
from lungsound.data.corpus import Corpus, Cycle, Recording
from lungsound.data.reader import read_corpus
from lungsound.errors import SettingsError
from lungsound.evaluation.segmentation import NEAR_S, SegmentationScores, Tally, f1_gain, score_segmentation, tally
from lungsound.evaluation.uncertainty import Estimate
from lungsound.page import Block, Cell, Heading, Paragraph, Table, render_blocks, write_page

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

    parts: of the split; all but the training part unless given, since the constants were tuned on training parts.
    modes: of the recordings ("sc"); all unless given.
    Windows are as long as the median annotated cycle of the training part, or of all where there is none.
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
