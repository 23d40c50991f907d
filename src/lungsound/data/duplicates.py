"""Pairs of recordings that hold the same sound: equal samples, near-duplicates, simultaneous channels.

Every recording is decoded once: the hash of its samples, its quality, its fingerprint. Then all fingerprints are laid
against all, at every offset, by Fourier transforms and matrix products: 2,683 recordings (SPRSound, 3.6 million pairs)
take some ten seconds on a core.

Two recordings are near-duplicates when their waveforms, laid over each other, correlate: re-encoded, louder, resampled
or cut copies. Simultaneous channels recorded the same breaths at two places: they hardly correlate, but are coherent
far beyond chance. Of ICBHI's channel pairs of one take 46 % (AKGC417L) and 65 % (LittC2SE) are found so.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lungsound.audio.fingerprint import (
    HOP,
    NUM_BANDS,
    RATE_HZ,
    Fingerprint,
    Windows,
    agreement,
    correlation,
    fingerprint,
    whitened_windows,
)
from lungsound.audio.io import Samples, read_channels, read_waveform, resample
from lungsound.audio.quality import MIN_RMS_DBFS, Defect, Quality, find_defects, measure_quality
from lungsound.data.corpus import Recording
from lungsound.data.shards import sound_file
from lungsound.errors import AudioError
from lungsound.progress import OnProgress


@dataclass(frozen=True)
class Measured:
    """One decoded recording. `sha256` is that of its samples as 32-bit floats, whatever file they came from."""

    sha256: str
    quality: Quality
    defects: tuple[Defect, ...]
    signs: Fingerprint


def measure_recordings(
    recordings: Sequence[Recording], *, num_workers: int = 1, on_progress: OnProgress | None = None
) -> list[Measured | AudioError]:
    """Measure each recording, in their order; the error in place of one that cannot be decoded."""
    results: list[Measured | AudioError] = []
    with ThreadPoolExecutor(num_workers) as pool:
        for measured in pool.map(_measure, recordings):
            results.append(measured)
            if on_progress is not None:
                on_progress(len(results), len(recordings))
    return results


def _measure(recording: Recording) -> Measured | AudioError:
    try:
        with sound_file(recording) as path:
            channels, info = read_channels(path)
    except AudioError as error:
        return error
    rate_hz = info.sample_rate_hz
    quality = measure_quality(channels, rate_hz)
    mono: Samples = channels.mean(axis=0, dtype=np.float32)
    return Measured(
        sha256=hashlib.sha256(channels.T.tobytes()).hexdigest(),
        quality=quality,
        defects=find_defects(quality),
        signs=fingerprint(resample(mono, rate_hz, RATE_HZ)),
    )


SEGMENT_FRAMES = 125  # 16 s; longer recordings are searched in segments
_TRANSFORM = 256  # at least two segments, so that no offset wraps around
_TILE = 128  # segments against segments in one matrix product
MIN_OVERLAP_FRAMES = 20  # 3.2 s with the frames' own length

# In standard deviations of the sum of as many random signs. Over all offsets of SPRSound's pairs of unlike patients
# 99.99 % stay below 5.9; copies as MP3 or Ogg at the poorest quality, cut at both ends, have 17 to 54.
MIN_FINGERPRINT_DEVIATIONS = 6.0


@dataclass(frozen=True)
class Candidate:
    """Two recordings, by their place in the list, that may hold the same sound.

    What stands in the first at t stands in the second at t - `offset_s`, to about a tenth of a second.
    """

    one: int
    other: int
    offset_s: float
    deviations: float


def find_candidates(
    fingerprints: Sequence[Fingerprint],
    *,
    min_deviations: float = MIN_FINGERPRINT_DEVIATIONS,
    on_progress: OnProgress | None = None,
) -> list[Candidate]:
    """Pairs of different recordings whose fingerprints agree at some offset, each once, with its best offset."""
    segments = [
        (owner, start, min(SEGMENT_FRAMES, len(signs) - start))
        for owner, signs in enumerate(fingerprints)
        for start in range(0, len(signs), SEGMENT_FRAMES)
        if len(signs) - start >= MIN_OVERLAP_FRAMES
    ]
    segments.sort(key=lambda segment: segment[2])  # rows of one length side by side: see `lengths`
    table = torch.tensor(segments, dtype=torch.int64).reshape(-1, 3)
    owner, start, length = table[:, 0], table[:, 1], table[:, 2]
    transform = torch.empty((_TRANSFORM // 2 + 1, len(segments), NUM_BANDS), dtype=torch.complex64)
    for row, (place, first, size) in enumerate(segments):
        signs = torch.from_numpy(fingerprints[place][first : first + size].astype(np.float32))
        transform[:, row] = torch.fft.rfft(signs, n=_TRANSFORM, dim=0)
    # Frames by which the second is late, in the order of the inverse transform.
    lags = torch.arange(_TRANSFORM)
    lags = torch.where(lags < _TRANSFORM // 2, lags, lags - _TRANSFORM)[:, None, None]

    def lengths(rows: slice) -> Tensor:
        """Lengths of the rows; a single one when all have it, which spares most of the work of the weights."""
        return length[rows][:1] if bool((length[rows] == length[rows][0]).all()) else length[rows]

    tiles = [(i, j) for i in range(0, len(segments), _TILE) for j in range(i, len(segments), _TILE)]
    best: dict[tuple[int, int], Candidate] = {}
    for done, (i, j) in enumerate(tiles, start=1):
        rows, columns = slice(i, i + _TILE), slice(j, j + _TILE)
        sums = torch.fft.irfft(torch.bmm(transform[:, rows], transform[:, columns].mH), n=_TRANSFORM, dim=0)
        # From sums of products to standard deviations; 0 where too few frames overlap.
        row_length = lengths(rows)[:, None]
        num_frames = torch.minimum(lengths(columns), row_length - lags) - (-lags).clamp(min=0)
        weights = (num_frames.clamp(min=1) * NUM_BANDS).rsqrt().masked_fill(num_frames < MIN_OVERLAP_FRAMES, 0.0)
        highest, at = (sums * weights).max(dim=0)
        is_candidate = (highest >= min_deviations) & (owner[rows, None] != owner[columns])
        for row, column in is_candidate.nonzero().tolist():
            offset = int(start[i + row]) + int(lags[at[row, column]]) - int(start[j + column])
            one, other = int(owner[i + row]), int(owner[j + column])
            offset_s = offset * HOP / RATE_HZ * (1 if one < other else -1)
            pair, deviations = (min(one, other), max(one, other)), float(highest[row, column])
            if pair not in best or deviations > best[pair].deviations:
                best[pair] = Candidate(*pair, offset_s, deviations)
        if on_progress is not None:
            on_progress(done, len(tiles))
    return [best[pair] for pair in sorted(best)]


Kind = Literal["same samples", "near-duplicate", "simultaneous channels"]

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
    """Two recordings, by name, that hold the same sound; `offset_s` as in `Candidate`, the rest as in `Agreement`."""

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
    """Find the pairs with the same sound, by kind and names: each pair once, under its strongest kind.

    Near-duplicates are looked for among all recordings, simultaneous channels among those and within each patient.
    Recordings shorter than 3.2 s, silent or mostly silent ones are compared by their samples only.
    """
    by_hash: dict[str, list[int]] = {}
    for place, one in enumerate(measured):
        if one.quality.rms_dbfs >= MIN_RMS_DBFS:
            by_hash.setdefault(one.sha256, []).append(place)
    equal = {pair for places in by_hash.values() for pair in combinations(places, 2)}
    candidates = {
        (candidate.one, candidate.other): candidate
        for candidate in find_candidates([one.signs for one in measured], on_progress=on_progress)
    }
    for places in _by_patient(recordings).values():
        if len(places) <= MAX_RECORDINGS_OF_PATIENT:
            for pair in combinations(places, 2):
                candidates.setdefault(pair, Candidate(*pair, 0.0, 0.0))
    groups: dict[str, list[Candidate]] = {}
    for pair in sorted(candidates.keys() - equal):
        groups.setdefault(recordings[pair[0]].patient, []).append(candidates[pair])
    pairs = [
        SharedAudio("same samples", recordings[one].name, recordings[other].name, 0.0, 1.0, 1.0, float("inf"))
        for one, other in equal
    ]
    with ThreadPoolExecutor(num_workers) as pool:
        compared = pool.map(lambda group: _compare(recordings, group), groups.values())
        for done, shared in enumerate(compared, start=1):
            pairs.extend(shared)
            if on_progress is not None:
                on_progress(done, len(groups))
    return sorted(pairs, key=lambda shared: (get_args(Kind).index(shared.kind), shared.one, shared.other))


def crowded_patients(recordings: Sequence[Recording]) -> list[str]:
    """Patients with too many recordings to compare all of them in pairs."""
    return [patient for patient, places in _by_patient(recordings).items() if len(places) > MAX_RECORDINGS_OF_PATIENT]


def _by_patient(recordings: Sequence[Recording]) -> dict[str, list[int]]:
    by_patient: dict[str, list[int]] = {}
    for place, recording in enumerate(recordings):
        by_patient.setdefault(recording.patient, []).append(place)
    return by_patient


def _compare(recordings: Sequence[Recording], candidates: Sequence[Candidate]) -> list[SharedAudio]:
    """Compare candidates that share many of their recordings; each recording is read once."""
    waveforms: dict[int, Samples] = {}
    windows: dict[int, Windows] = {}
    pairs = []
    for candidate in candidates:
        for place in (candidate.one, candidate.other):
            if place not in waveforms:
                with sound_file(recordings[place]) as path:
                    waveforms[place] = read_waveform(path, sample_rate_hz=RATE_HZ)
                windows[place] = whitened_windows(waveforms[place])
        waveform, another, offset_s = waveforms[candidate.one], waveforms[candidate.other], 0.0
        evidence = agreement(windows[candidate.one], windows[candidate.other], max_lag_s=MAX_LAG_S)
        if evidence.deviations < MIN_DEVIATIONS and candidate.deviations > 0:
            offset_s = candidate.offset_s
            one, other = map(whitened_windows, _overlap(waveform, another, offset_s))
            evidence = agreement(one, other, max_lag_s=MAX_OFFSET_ERROR_S)
        if evidence.deviations < MIN_DEVIATIONS:
            continue
        offset_s -= evidence.lag_s
        correlated = correlation(*_overlap(waveform, another, offset_s))
        pairs.append(
            SharedAudio(
                kind="near-duplicate" if correlated >= MIN_CORRELATION else "simultaneous channels",
                one=recordings[candidate.one].name,
                other=recordings[candidate.other].name,
                offset_s=round(offset_s, 4),
                correlation=round(correlated, 3),
                coherence=round(evidence.coherence, 3),
                deviations=round(evidence.deviations, 1),
            )
        )
    return pairs


def _overlap(one: Samples, other: Samples, offset_s: float) -> tuple[Samples, Samples]:
    """Views of the parts that are at the same time, of equal length."""
    offset = round(offset_s * RATE_HZ)
    one, other = one[max(0, offset) :], other[max(0, -offset) :]
    num_samples = min(one.size, other.size)
    return np.asarray(one[:num_samples]), np.asarray(other[:num_samples])
