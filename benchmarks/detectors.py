"""Quality of the detectors: `python -m benchmarks.detectors DATA` prints tables as Markdown.

Breathing cycles found in the annotated recordings of a corpus, matched one to one with the annotated ones; what is
remarked on in its recordings; and sounds, silence and clipping noticed where they are injected into recordings without
a remark. The constants of `audio.segmentation` were tuned on training sets: cycles are found in the other parts.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from benchmarks.measure import table
from benchmarks.sounds import hum, music, speech
from lungsound.audio import quality
from lungsound.audio.io import Samples, read_channels, read_waveform
from lungsound.audio.segmentation import (
    MIN_PARTIAL,
    Cycles,
    cycles_between,
    segment_cycles,
    sliding_windows,
)
from lungsound.data.corpus import Corpus, Recording
from lungsound.data.reader import read_corpus
from lungsound.data.synthetic_sounds import heart_sounds
from lungsound.evaluation.bootstrap import NUM_DRAWS, Bootstrap, Estimate, ValueOf, Weights
from lungsound.evaluation.metrics import Fractions, ratio
from lungsound.inference.withholding import reasons_of_remarks

MIN_OVERLAP = 0.5
STDERR = Console(stderr=True)


class Match(NamedTuple):
    """Detected against annotated cycles of one recording, and the errors of annotated onsets (infinite without any)."""

    patient: str
    num_detected: int
    num_annotated: int
    num_matched: int
    errors_s: tuple[float, ...]


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two stretches of time, 0 to 1."""
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    return shared / (one[1] - one[0] + other[1] - other[0] - shared)


def match(detected: Cycles, annotated: Cycles, patient: str) -> Match:
    """Compare a recording's cycles (start, end) in seconds, in any order.

    The most pairs that overlap by `MIN_OVERLAP` are matched, each cycle at most once.
    """
    is_pair = np.array([[overlap(one, other) >= MIN_OVERLAP for one in detected] for other in annotated])
    num_matched = int((maximum_bipartite_matching(csr_matrix(is_pair)) >= 0).sum()) if is_pair.size else 0
    starts_s = np.array([start_s for start_s, _ in detected])
    errors_s = tuple(float(np.abs(starts_s - start_s).min(initial=np.inf)) for start_s, _ in annotated)
    return Match(patient, len(detected), len(annotated), num_matched, errors_s)


def scores(matches: Sequence[Match], *, num_draws: int = NUM_DRAWS) -> dict[str, Estimate]:
    """Scores of all recordings together, with intervals over patients: fractions, and an error in seconds."""
    annotated, matched = [each.num_annotated for each in matches], [each.num_matched for each in matches]
    near = [[sum(error <= near_s for error in each.errors_s) for each in matches] for near_s in (0.25, 0.5)]
    values = {
        "F1, %": f1(matches),
        "recall, %": fraction(matches, matched, annotated),
        "precision, %": fraction(matches, matched, [each.num_detected for each in matches]),
        "onsets within 0.25 s, %": fraction(matches, near[0], annotated),
        "onsets within 0.5 s, %": fraction(matches, near[1], annotated),
        "onset error, median, s": median_error_s(matches),
    }
    bootstrap, num_patients = Bootstrap(num_draws=num_draws), len({each.patient for each in matches})
    return {name: bootstrap.estimate(value_of, num_patients) for name, value_of in values.items()}


def f1(matches: Sequence[Match]) -> ValueOf:
    """F1 as a function of how patients are taken."""
    totals = [each.num_detected + each.num_annotated for each in matches]
    return fraction(matches, [2 * each.num_matched for each in matches], totals)


def fraction(matches: Sequence[Match], part: Sequence[int], total: Sequence[int]) -> ValueOf:
    """Sum of `part` by that of `total` (recording,) as a function of how patients are taken."""
    rows = _patient_rows(matches)
    sums = np.stack([np.bincount(rows, counts) for counts in (part, total)], axis=1)
    return lambda weights: ratio(*(weights @ sums).T)


def median_error_s(matches: Sequence[Match]) -> ValueOf:
    """Median of the onsets' errors (the lower of two) as a function of how patients are taken; NaN if infinite."""
    rows = np.repeat(_patient_rows(matches), [len(each.errors_s) for each in matches])
    errors_s = np.array([error_s for each in matches for error_s in each.errors_s])
    order = np.argsort(errors_s)

    def value_of(weights: Weights) -> Fractions:
        below = np.cumsum(weights[:, rows[order]], axis=1)
        medians_s = errors_s[order][(2 * below < below[:, -1:]).sum(axis=1)]
        return np.where(np.isfinite(medians_s), medians_s, np.nan)

    return value_of


def _patient_rows(matches: Sequence[Match]) -> npt.NDArray[np.int64]:
    """Number of each recording's patient (recording,), by name."""
    return np.unique([each.patient for each in matches], return_inverse=True)[1].astype(np.int64)


NUM_PHASES = 8


def print_segmentation(corpus: Corpus, parts: Sequence[str]) -> None:
    """Measure the cycles that are found in the annotated recordings of parts of the corpus.

    Windows are as long as the median annotated cycle of the training set, or of all where there is none, and stand in
    where no breathing is found. Windows at any phase are as long as the recording's median detected cycle.
    """
    window_s = float(np.median([cycle.end_s - cycle.start_s for cycle in corpus.part("train") or corpus.cycles]))
    annotated: dict[Recording, Cycles] = {}
    for cycle in corpus.part(*parts):
        annotated[cycle.recording] = (*annotated.get(cycle.recording, ()), (cycle.start_s, cycle.end_s))
    matches: dict[tuple[str, str], list[Match]] = defaultdict(list)
    num_refused = 0
    for recording, true in track(annotated.items(), "cycles", console=STDERR):
        rate_hz, duration_s = recording.sample_rate_hz, recording.duration_s
        waveform: Samples = read_waveform(recording.path, sample_rate_hz=rate_hz)
        detected = segment_cycles(waveform, rate_hz).cycles
        num_refused += not detected
        length_s = float(np.median(np.diff(detected))) if detected else window_s
        least_s = MIN_PARTIAL * length_s
        starts_s = (np.arange(length_s * phase / NUM_PHASES, duration_s, length_s) for phase in range(NUM_PHASES))
        windows = sliding_windows(duration_s, length_s=window_s, hop_s=window_s)
        cycles = {
            "segmentation": [detected or windows],
            "windows": [windows],
            "windows at any phase": [
                cycles_between(each.tolist(), start_s=0.0, end_s=duration_s, min_partial_s=least_s) for each in starts_s
            ],
        }
        groups = ["all"] if quality.silent_stretches(waveform, rate_hz) else ["all", "without digital silence"]
        for group, way in product(groups, cycles):
            matches[group, way] += [match(each, true, recording.patient) for each in cycles[way]]
    rows = []
    for (group, way), each in matches.items():
        num_patients, windows_alone = len({one.patient for one in each}), matches[group, "windows"]
        columns = scores(each) | {
            "F1 above windows, %": Bootstrap().estimate(f1(each), num_patients, minus=f1(windows_alone))
        }
        texts = [e.in_percent() if name.endswith("%") else e.in_units(digits=2) for name, e in columns.items()]
        rows.append((group, len(windows_alone), num_patients, way, *texts))
    print(
        f"{corpus.name}, {', '.join(parts)}: {num_refused} recordings without breathing; windows of {window_s:.2f} s\n"
    )
    print(table(("recordings", "number", "patients", "cycles from", *columns), rows), "\n")


def remarks_on(channels: Samples, sample_rate_hz: int) -> set[str]:
    """Everything that is remarked on in a recording (channel, samples)."""
    measured = quality.measure_quality(channels, sample_rate_hz)
    others = quality.measure_other_sounds(channels.mean(axis=0, dtype=np.float32), sample_rate_hz)
    defects = (
        *quality.find_defects(measured),
        *quality.find_too_little_sound(measured),
        *quality.find_other_sounds(others),
    )
    return {defect.kind for defect in defects}


# Name, how the sound is made, levels in dB above the recording's root mean square, and the remark that it should bring.
INJECTED = (
    ("speech", speech, (10, 0, -10), quality.SPEECH),
    ("music", music, (0,), quality.SPEECH),
    ("hum", lambda n, hz, rng: hum(n, hz, rng, mains_hz=float(rng.choice([50, 60]))), (0, -10, -20), quality.HUM),
    (
        "heart",
        lambda n, hz, rng: heart_sounds(n, hz, rng, beats_per_minute=rng.uniform(55, 120)),
        (20, 10, 0),
        quality.HEART,
    ),
)


def injected(waveform: Samples, rate_hz: int, rng: np.random.Generator) -> Iterator[tuple[str, str, Samples]]:
    """The recording with each sound, silence and clipping: name, the remark that it should bring, samples."""
    for name, make, levels_db, remark in INJECTED:
        for level_db in levels_db:
            sound = make(len(waveform), rate_hz, rng)
            level = 10 ** (level_db / 20) * waveform.std() / sound.std()
            yield f"{name}, {level_db:+} dB", remark, (waveform + level * sound).astype(np.float32)
    silent = waveform.copy()
    silent[: int(0.6 * len(silent))] = 0
    yield "silence, 60 %", quality.MOSTLY_SILENT, silent
    yield "clipping, 1 %", "clipped", np.clip(waveform / np.quantile(np.abs(waveform), 0.99), -1, 1)


def print_quality(recordings: Sequence[Recording], *, num_injected: int) -> None:
    """Count remarks, and notice what is injected into at most `num_injected` recordings without a remark."""
    remarks = []
    for recording in track(recordings, "quality", console=STDERR):
        channels, info = read_channels(recording.path)
        remarks.append(remarks_on(channels, info.sample_rate_hz))
    counts = Counter(kind for kinds in remarks for kind in kinds)
    clean = [recording for recording, kinds in zip(recordings, remarks, strict=True) if not kinds]
    num_withheld = sum(bool(reasons_of_remarks(kinds)) for kinds in remarks)
    print(f"{len(recordings)} recordings, {len(clean)} without a remark, {num_withheld} without a prediction.\n")
    print(table(("remark", "recordings", "%"), [(k, n, f"{100 * n / len(remarks):.1f}") for k, n in counts.items()]))
    rng = np.random.default_rng(0)
    drawn = [clean[place] for place in rng.permutation(len(clean))[:num_injected]]
    noticed: Counter[str] = Counter()
    for recording in track(drawn, "injected", console=STDERR):
        channels, info = read_channels(recording.path)
        rate_hz = info.sample_rate_hz
        for name, remark, waveform in injected(channels.mean(axis=0, dtype=np.float32), rate_hz, rng):
            noticed[name] += remark in remarks_on(waveform[np.newaxis], rate_hz)
    print(f"\nInjected into {len(drawn)} recordings without a remark, at levels above each recording's own.\n")
    print(table(("injected", "noticed, %"), [(name, f"{100 * n / len(drawn):.0f}") for name, n in noticed.items()]))


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detectors", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of a corpus")
    parser.add_argument("--part", action="append", default=[], help="of the split; repeatable")
    parser.add_argument("--mode", action="append", default=[], help="of the recordings, as sc; repeatable")
    parser.add_argument("--injected", type=int, default=50, help="recordings that sounds are injected into")
    options = parser.parse_args(words)
    corpus = read_corpus(options.data, is_strict=False)
    corpus = corpus.keep(lambda recording: not options.mode or recording.mode in options.mode)
    parts = options.part or [part for part in corpus.parts if part != "train"]
    recordings = [each for each in corpus.recordings if not options.part or corpus.split.get(each.name) in options.part]
    if not recordings or not corpus.part(*parts):
        parser.error(f"no annotated recordings in {options.data} of parts {parts} and modes {options.mode}")
    print_segmentation(corpus, parts)
    print_quality(recordings, num_injected=options.injected)


if __name__ == "__main__":
    main(sys.argv[1:])
