"""Pairs of recordings that hold the same sound: equal samples, near-duplicates, simultaneous channels.

Two recordings are near-duplicates when their waveforms, laid over each other, correlate: re-encoded, louder, resampled
or cut copies. Simultaneous channels heard the same breaths from two places: their waveforms hardly correlate, but they
are coherent far beyond chance. Of ICBHI's channel pairs of one take 46 % (AKGC417L) and 65 % (LittC2SE) are found so;
the rest share less sound than chance may give. What starts at another time is found only if its fingerprint agrees.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from lungsound.audio.fingerprint import (
    RATE_HZ,
    Agreement,
    Windows,
    agreement,
    correlation,
    whitened_windows,
)
from lungsound.audio.quality import MIN_RMS_DBFS, Samples
from lungsound.audio.waveform import read_waveform
from lungsound.data.corpus import Recording
from lungsound.data.measured import Measured
from lungsound.data.near_duplicates import Candidate, find_candidates

Kind = Literal["same samples", "near-duplicate", "simultaneous channels"]
OnProgress = Callable[[int, int], None]

# Copies as MP3 or Ogg at the poorest quality, or 30 dB quieter in 16 bit, have 0.93 or more (80 recordings of both
# corpora); ICBHI's simultaneous channels 0.54 or less.
MIN_CORRELATION = 0.75
# In standard deviations: of 60,000 pairs that share nothing (SPRSound and ICBHI; other patients, other takes) the
# largest has 7.4, and each further one that is ten times as rare about one more.
MIN_DEVIATIONS = 9.0
MAX_LAG_S = 0.025  # between channels; sound crosses a chest in less
MAX_OFFSET_ERROR_S = 0.2  # of a candidate
# A patient with more (in a corpus without patients' names, say) would give too many pairs.
MAX_RECORDINGS_OF_PATIENT = 150


@dataclass(frozen=True)
class SharedAudio:
    """Two recordings, by name, that hold the same sound, and the evidence.

    What stands in the first at t stands in the second at t - `offset_s`. `correlation` and `coherence` are sizes from 0
    to 1, `deviations` how many standard deviations the coherence is off zero.
    """

    kind: Kind
    one: str
    other: str
    offset_s: float
    correlation: float
    coherence: float
    deviations: float


def find_shared_audio(
    recordings: Sequence[Recording],
    measured: Sequence[Measured],
    *,
    num_workers: int = 1,
    on_progress: OnProgress | None = None,
) -> list[SharedAudio]:
    """Every pair found, by kind and names: each pair once, under its strongest kind.

    Near-duplicates are looked for among all recordings, simultaneous channels among those and within each patient.
    Recordings shorter than 3.2 s, silent or mostly silent ones are compared by their samples only.
    """
    equal = _equal_samples(measured)
    candidates = {
        (candidate.one, candidate.other): candidate
        for candidate in find_candidates([one.signs for one in measured], on_progress=on_progress)
    }
    for one, other in _pairs_of_patients(recordings):
        candidates.setdefault((one, other), Candidate(one, other, 0.0, 0.0))
    groups: dict[str, list[Candidate]] = {}
    for pair in sorted(candidates.keys() - equal):
        groups.setdefault(recordings[pair[0]].patient, []).append(candidates[pair])
    found = [
        SharedAudio("same samples", recordings[one].name, recordings[other].name, 0.0, 1.0, 1.0, float("inf"))
        for one, other in sorted(equal)
    ]
    with ThreadPoolExecutor(num_workers) as pool:
        compared = pool.map(lambda group: _compare_group(recordings, group), groups.values())
        for done, shared in enumerate(compared, start=1):
            found.extend(shared)
            if on_progress is not None:
                on_progress(done, len(groups))
    order = {"same samples": 0, "near-duplicate": 1, "simultaneous channels": 2}
    return sorted(found, key=lambda shared: (order[shared.kind], shared.one, shared.other))


def crowded_patients(recordings: Sequence[Recording]) -> list[str]:
    """Patients with too many recordings to compare all of them in pairs."""
    return [patient for patient, places in _by_patient(recordings).items() if len(places) > MAX_RECORDINGS_OF_PATIENT]


def _equal_samples(measured: Sequence[Measured]) -> set[tuple[int, int]]:
    by_hash: dict[str, list[int]] = {}
    for place, one in enumerate(measured):
        if one.quality.rms_dbfs >= MIN_RMS_DBFS:
            by_hash.setdefault(one.sha256, []).append(place)
    return {pair for places in by_hash.values() for pair in combinations(places, 2)}


def _by_patient(recordings: Sequence[Recording]) -> dict[str, list[int]]:
    by_patient: dict[str, list[int]] = {}
    for place, recording in enumerate(recordings):
        by_patient.setdefault(recording.patient, []).append(place)
    return by_patient


def _pairs_of_patients(recordings: Sequence[Recording]) -> Iterable[tuple[int, int]]:
    for places in _by_patient(recordings).values():
        if len(places) <= MAX_RECORDINGS_OF_PATIENT:
            yield from combinations(places, 2)


def _compare_group(recordings: Sequence[Recording], candidates: Sequence[Candidate]) -> list[SharedAudio]:
    """What is found among candidates that share many of their recordings, each of which is read once."""
    waveforms: dict[int, Samples] = {}
    windows: dict[int, Windows] = {}
    found = []
    for candidate in candidates:
        for place in (candidate.one, candidate.other):
            if place not in waveforms:
                waveforms[place] = read_waveform(recordings[place].path, sample_rate_hz=RATE_HZ).numpy()
                windows[place] = whitened_windows(waveforms[place])
        at_start = agreement(windows[candidate.one], windows[candidate.other], max_lag_s=MAX_LAG_S)
        shared = _judge(recordings, candidate, 0.0, at_start, waveforms)
        if shared is None and candidate.deviations > 0:
            one, other = _overlap(waveforms[candidate.one], waveforms[candidate.other], candidate.offset_s)
            at_offset = agreement(whitened_windows(one), whitened_windows(other), max_lag_s=MAX_OFFSET_ERROR_S)
            shared = _judge(recordings, candidate, candidate.offset_s, at_offset, waveforms)
        if shared is not None:
            found.append(shared)
    return found


def _judge(
    recordings: Sequence[Recording],
    candidate: Candidate,
    offset_s: float,
    found: Agreement,
    waveforms: dict[int, Samples],
) -> SharedAudio | None:
    if found.deviations < MIN_DEVIATIONS:
        return None
    offset_s -= found.lag_s
    one, other = _overlap(waveforms[candidate.one], waveforms[candidate.other], offset_s)
    correlated = correlation(one, other)
    return SharedAudio(
        kind="near-duplicate" if correlated >= MIN_CORRELATION else "simultaneous channels",
        one=recordings[candidate.one].name,
        other=recordings[candidate.other].name,
        offset_s=round(offset_s, 4),
        correlation=round(correlated, 3),
        coherence=round(found.coherence, 3),
        deviations=round(found.deviations, 1),
    )


def _overlap(one: Samples, other: Samples, offset_s: float) -> tuple[Samples, Samples]:
    """Views of the parts that are at the same time, of equal length."""
    offset = round(offset_s * RATE_HZ)
    one, other = one[max(0, offset) :], other[max(0, -offset) :]
    num_samples = min(one.size, other.size)
    return np.asarray(one[:num_samples]), np.asarray(other[:num_samples])
