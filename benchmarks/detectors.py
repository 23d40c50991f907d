"""Quality of the detectors: breathing cycles found, and defects of recordings noticed.

`python -m benchmarks.detectors DATA --out STEM` finds cycles in the annotated recordings of a corpus (matched one to
one with the annotated ones, with intervals over patients), counts what is remarked on in its recordings, and plants
sounds, silence and clipping in recordings of which nothing was remarked. The constants of `audio.segmentation` were
tuned on training parts, so that cycles are found in the others unless `--part` says which.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from numpy.random import Generator
from rich.console import Console
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from benchmarks.sounds import hum, music, speech
from lungsound.audio.io import read_channels, read_waveform
from lungsound.audio.quality import (
    HEART,
    HUM,
    MOSTLY_SILENT,
    SPEECH,
    Samples,
    find_defects,
    find_other_sounds,
    find_too_little_sound,
    measure_other_sounds,
    measure_quality,
    silent_stretches,
)
from lungsound.audio.segmentation import (
    MIN_PARTIAL,
    Cycles,
    Segmentation,
    cycles_between,
    segment_cycles,
    sliding_windows,
)
from lungsound.data.corpus import Corpus, Recording
from lungsound.data.reader import read_corpus
from lungsound.data.synthetic_sounds import Waveform, heart_sounds
from lungsound.errors import SettingsError
from lungsound.evaluation.bootstrap import NUM_DRAWS, Bootstrap, Estimate, ValueOf, Weights
from lungsound.evaluation.metrics import Fractions, ratio
from lungsound.inference.withholding import WITHHELD_FOR
from lungsound.page import Cell, paragraphs, table, write_page
from lungsound.progress import track

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
    """Count pairs of a found and an annotated cycle that overlap by `MIN_OVERLAP`, each used once: the most there are.

    Overlap is intersection over union.
    """
    if not found or not annotated:
        return 0
    is_pair = np.array([[overlap(one, other) >= MIN_OVERLAP for one in found] for other in annotated])
    return int((maximum_bipartite_matching(csr_matrix(is_pair)) >= 0).sum())


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two stretches of time, 0 to 1."""
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    return shared / (one[1] - one[0] + other[1] - other[0] - shared)


def score_segmentation(tallies: Sequence[Tally], *, seed: int = 0, num_draws: int = NUM_DRAWS) -> SegmentationScores:
    """Scores of all recordings together, with intervals over patients."""
    num_patients, bootstrap = len({each.patient for each in tallies}), Bootstrap(seed, num_draws)
    found, annotated, matched = _counts(tallies).T

    def share(part: npt.NDArray[np.int64], total: npt.NDArray[np.int64]) -> Estimate:
        return bootstrap.estimate(_ratio(tallies, part, total), num_patients)

    near = [np.array([sum(error <= near_s for error in each.errors_s) for each in tallies]) for near_s in NEAR_S]
    return SegmentationScores(
        f1=share(2 * matched, found + annotated),
        recall=share(matched, annotated),
        precision=share(matched, found),
        near=tuple(share(counts, annotated) for counts in near),
        median_error_s=bootstrap.estimate(median_error(tallies), num_patients),
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
        return ratio(parts, wholes)

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


def segmentation_blocks(corpus: Corpus, parts: Sequence[str], console: Console) -> list[str]:
    """Measure the cycles that are found in the annotated recordings of some parts of the corpus.

    Windows are as long as the median annotated cycle of the training set, or of all where there is none.
    """
    lengths_s = [cycle.end_s - cycle.start_s for cycle in corpus.part("train") or corpus.cycles]
    window_s = float(np.median(lengths_s)) if lengths_s else 0.0
    cycles: dict[Recording, list[tuple[float, float]]] = {}
    for cycle in corpus.part(*parts):
        cycles.setdefault(cycle.recording, []).append((cycle.start_s, cycle.end_s))
    if not cycles:
        return [Markup("## Cycles"), f"No annotated recordings of the parts {', '.join(parts)}."]
    measured = []
    with track(console, "cycles") as on_progress:
        for recording, annotated in cycles.items():
            measured.append(_measure(recording, annotated, window_s))
            on_progress(len(measured), len(cycles))
    return [Markup("## Cycles"), *_blocks(corpus, parts, measured, window_s)]


def _measure(recording: Recording, annotated: Cycles, window_s: float) -> _Measured:
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


def _blocks(corpus: Corpus, parts: Sequence[str], measured: Sequence[_Measured], window_s: float) -> list[str]:
    sounding = [each for each in measured if not each.has_silence]
    blocks: list[str] = [
        (
            f"Found against annotated cycles of {corpus.name}, {' and '.join(parts)}: matched one to one where they "
            "share at least half of what they cover together; F1 of the matches; distance of each annotated onset to "
            "the nearest found one. In brackets the 95 % interval over patients. Windows are as long as the median "
            f"annotated cycle ({window_s:.2f} s); those at any phase have the length of the recording's found "
            "cycles and begin anywhere."
        ),
        *_table(measured),
    ]
    if 0 < len(sounding) < len(measured):
        blocks += [Markup("## Recordings without a stretch of digital silence"), *_table(sounding)]
    return blocks


def _table(measured: Sequence[_Measured]) -> list[str]:
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
        (
            f"{len(found)} recordings of {num_patients} patients, {num_annotated} annotated cycles. In {num_refused} "
            f"recordings no breathing was found, and windows stand in. F1 above that of windows: {gain.in_percent()}."
        ),
        table(HEAD, rows),
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


CLIPPED = "clipped"


@dataclass(frozen=True)
class Injected:
    """A sound at a level (dB) above the recording's root mean square, and the remark that it should bring."""

    name: str
    make: Callable[[int, int, Generator], Waveform]
    level_db: float
    remark: str

    def into(self, waveform: Samples, sample_rate_hz: int, rng: Generator) -> Samples:
        sound = self.make(len(waveform), sample_rate_hz, rng)
        level = 10 ** (self.level_db / 20) * waveform.std() / sound.std()
        return np.asarray(waveform + level * sound, dtype=np.float32)


def _heart(num_samples: int, sample_rate_hz: int, rng: Generator) -> Waveform:
    return heart_sounds(num_samples, sample_rate_hz, rng, beats_per_minute=rng.uniform(55, 120))


def _hum(num_samples: int, sample_rate_hz: int, rng: Generator) -> Waveform:
    return hum(num_samples, sample_rate_hz, rng, mains_hz=float(rng.choice([50, 60])))


INJECTED = (
    *(Injected("speech", speech, level_db, SPEECH) for level_db in (10, 0, -10)),
    Injected("music", music, 0, SPEECH),
    *(Injected("hum", _hum, level_db, HUM) for level_db in (0, -10, -20)),
    *(Injected("heart", _heart, level_db, HEART) for level_db in (20, 10, 0)),
)


def quality_blocks(recordings: Sequence[Recording], console: Console, *, num_planted: int, seed: int) -> list[str]:
    """Count remarks, and notice what is planted in at most `num_planted` recordings of which nothing was remarked."""
    remarks = []
    with track(console, "quality") as on_progress:
        for recording in recordings:
            remarks.append(remarks_on(*read_channels(recording.path)))
            on_progress(len(remarks), len(recordings))
    rng = np.random.default_rng(seed)
    clean = [recording for recording, kinds in zip(recordings, remarks, strict=True) if not kinds]
    drawn = [clean[place] for place in rng.permutation(len(clean))[:num_planted]]
    return [Markup("## Quality"), *_remarked(recordings, remarks), *_noticed(drawn, rng)]


def remarks_on(channels: Samples, sample_rate_hz: int) -> tuple[str, ...]:
    """Everything that is remarked on in a recording (channel, samples)."""
    quality = measure_quality(channels, sample_rate_hz)
    others = measure_other_sounds(channels.mean(axis=0, dtype=np.float32), sample_rate_hz)
    defects = (*find_defects(quality), *find_too_little_sound(quality), *find_other_sounds(others))
    return tuple(defect.kind for defect in defects)


def _remarked(recordings: Sequence[Recording], remarks: Sequence[tuple[str, ...]]) -> list[str]:
    counts = Counter(kind for kinds in remarks for kind in kinds)
    num_withheld = sum(not WITHHELD_FOR.isdisjoint(kinds) for kinds in remarks)
    rows = [
        (kind, number, f"{100 * number / len(remarks):.1f}", "withheld" if kind in WITHHELD_FOR else "remarked on")
        for kind, number in counts.most_common()
    ]
    summary = f"{len(recordings)} recordings; predictions withheld for {num_withheld}, no remark: {remarks.count(())}."
    return [summary, table(("remark", "recordings", "%", "prediction"), rows)]


def _noticed(recordings: Sequence[Recording], rng: Generator) -> list[str]:
    """Each kind of sound planted in each recording, and silence in six tenths and clipping of it."""
    noticed: Counter[tuple[str, str]] = Counter()
    for recording in recordings:
        channels, rate_hz = read_channels(recording.path)
        waveform: Samples = channels.mean(axis=0, dtype=np.float32)
        for each in INJECTED:
            remarks = remarks_on(each.into(waveform, rate_hz, rng)[np.newaxis], rate_hz)
            noticed[each.name, f"{each.level_db:+.0f} dB"] += each.remark in remarks
        silent = waveform.copy()
        silent[: int(0.6 * len(silent))] = 0
        noticed["silence", "60 %"] += MOSTLY_SILENT in remarks_on(silent[np.newaxis], rate_hz)
        loud = waveform / np.quantile(np.abs(waveform), 0.99)
        noticed["clipping", "1 %"] += CLIPPED in remarks_on(np.clip(loud, -1, 1)[np.newaxis], rate_hz)
    rows = [
        (name, level, f"{100 * number / len(recordings):.0f}" if recordings else "n/a")
        for (name, level), number in noticed.items()
    ]
    summary = (
        f"Planted in {len(recordings)} recordings of which nothing was remarked; levels are above each recording's own."
    )
    return [summary, table(("planted", "level", "noticed, %"), rows)]


def report(
    data: Path, stem: Path, *, console: Console, parts: Sequence[str], modes: Sequence[str], num_planted: int
) -> None:
    """Measure both detectors on a corpus and write `<stem>.md` and `<stem>.html`.

    `parts` of the split: all but the training set for cycles, all for quality, unless given. `modes` of the recordings
    ("sc"): all unless given. Raises SettingsError when no recording is left.
    """
    corpus = read_corpus(data, is_strict=False).keep(lambda recording: not modes or recording.mode in modes)
    recordings = [each for each in corpus.recordings if not parts or corpus.split.get(each.name) in parts]
    if not recordings:
        raise SettingsError(f"no recordings in {data} of parts {tuple(parts)} and modes {tuple(modes)}")
    tested = tuple(parts) or tuple(part for part in corpus.parts if part != "train")
    blocks = segmentation_blocks(corpus, tested, console)
    blocks += quality_blocks(recordings, console, num_planted=num_planted, seed=0)
    console.print(paragraphs(*blocks), soft_wrap=True, markup=False, highlight=False)
    write_page(stem, f"Detectors on {corpus.name}", paragraphs(*blocks))


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detectors", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of a corpus")
    parser.add_argument("--out", type=Path, required=True, help="stem of the .md and .html that are written")
    parser.add_argument("--part", action="append", default=[], help="of the split; repeatable")
    parser.add_argument("--mode", action="append", default=[], help="of the recordings, as sc; repeatable")
    parser.add_argument("--planted", type=int, default=50, help="recordings that sounds are planted in")
    options = parser.parse_args(words)
    report(
        options.data,
        options.out,
        console=Console(),
        parts=options.part,
        modes=options.mode,
        num_planted=options.planted,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
