"""Which recordings of many may hold the same sound: all fingerprints against all, at every offset.

The sums of products at all offsets come from Fourier transforms of the fingerprints, for many pairs at once by matrix
products. So the work grows with the square of the number of recordings, but with a small constant: a recording of
16 s is 125 frames of 32 signs, and 2,683 recordings (SPRSound, 3.6 million pairs) take some ten seconds on a core.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lungsound.audio.fingerprint import HOP, NUM_BANDS, RATE_HZ, Fingerprint

SEGMENT_FRAMES = 125  # 16 s; longer recordings are searched in segments
_TRANSFORM = 256  # at least two segments, so that no offset wraps around
_TILE = 128  # segments against segments in one matrix product
MIN_OVERLAP_FRAMES = 20  # 3.2 s with the frames' own length

# In standard deviations of the sum of as many random signs. Over all offsets of SPRSound's pairs of unlike patients
# 99.99 % stay below 5.9; copies as MP3 or Ogg at the poorest quality, cut at both ends, have 17 to 54.
MIN_DEVIATIONS = 6.0

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Candidate:
    """Two recordings, by their place in the list, that may hold the same sound.

    What stands in the first at t stands in the second at t - `offset_s`, to about a tenth of a second.
    """

    one: int
    other: int
    offset_s: float
    deviations: float


@dataclass(frozen=True)
class _Segments:
    """Rows of the search: owner, first frame and length of each; and their transforms (bin, row, band)."""

    owner: Tensor
    start: Tensor
    length: Tensor
    transform: Tensor


def find_candidates(
    fingerprints: Sequence[Fingerprint],
    *,
    min_deviations: float = MIN_DEVIATIONS,
    on_progress: OnProgress | None = None,
) -> list[Candidate]:
    """Pairs of different recordings whose fingerprints agree at some offset, each once, with its best offset."""
    segments = _cut(fingerprints)
    num_rows = len(segments.owner)
    tiles = [(i, j) for i in range(0, num_rows, _TILE) for j in range(i, num_rows, _TILE)]
    best: dict[tuple[int, int], Candidate] = {}
    for done, (i, j) in enumerate(tiles, start=1):
        for candidate in _search_tile(segments, i, j, min_deviations):
            pair = (candidate.one, candidate.other)
            if pair not in best or candidate.deviations > best[pair].deviations:
                best[pair] = candidate
        if on_progress is not None:
            on_progress(done, len(tiles))
    return [best[pair] for pair in sorted(best)]


def _cut(fingerprints: Sequence[Fingerprint]) -> _Segments:
    places = [
        (owner, start, min(SEGMENT_FRAMES, len(signs) - start))
        for owner, signs in enumerate(fingerprints)
        for start in range(0, len(signs), SEGMENT_FRAMES)
        if len(signs) - start >= MIN_OVERLAP_FRAMES
    ]
    places.sort(key=lambda place: place[2])  # rows of one length side by side: see _lengths
    transform = torch.empty((_TRANSFORM // 2 + 1, len(places), NUM_BANDS), dtype=torch.complex64)
    for row, (owner, start, length) in enumerate(places):
        signs = torch.from_numpy(fingerprints[owner][start : start + length].astype(np.float32))
        transform[:, row] = torch.fft.rfft(signs, n=_TRANSFORM, dim=0)
    table = torch.tensor(places, dtype=torch.int64).reshape(-1, 3)
    return _Segments(table[:, 0], table[:, 1], table[:, 2], transform)


def _search_tile(segments: _Segments, i: int, j: int, min_deviations: float) -> list[Candidate]:
    """Candidates among the pairs of one tile of rows with another."""
    rows, columns = slice(i, i + _TILE), slice(j, j + _TILE)
    products = torch.bmm(segments.transform[:, rows], segments.transform[:, columns].mH)
    sums = torch.fft.irfft(products, n=_TRANSFORM, dim=0)
    deviations = sums * _weights(_lengths(segments, rows)[:, None], _lengths(segments, columns))
    highest, places = deviations.max(dim=0)
    is_found = (highest >= min_deviations) & (segments.owner[rows, None] != segments.owner[columns])
    found = []
    for row, column in is_found.nonzero().tolist():
        one, other = int(segments.owner[i + row]), int(segments.owner[j + column])
        lag = int(_lags()[int(places[row, column])])
        offset = int(segments.start[i + row]) + lag - int(segments.start[j + column])
        offset_s = offset * HOP / RATE_HZ * (1 if one < other else -1)
        found.append(Candidate(min(one, other), max(one, other), offset_s, float(highest[row, column])))
    return found


def _lengths(segments: _Segments, rows: slice) -> Tensor:
    """Lengths of the rows; a single one when all have it, which spares most of the work of the weights."""
    lengths = segments.length[rows]
    return lengths[:1] if bool((lengths == lengths[0]).all()) else lengths


def _weights(row_length: Tensor, column_length: Tensor) -> Tensor:
    """Factor (lag, row, column) from sums of products to standard deviations; 0 where too few frames overlap."""
    lags = _lags()[:, None, None]
    num_frames = torch.minimum(column_length, row_length - lags) - (-lags).clamp(min=0)
    weights = (num_frames.clamp(min=1) * NUM_BANDS).rsqrt()
    return weights.masked_fill(num_frames < MIN_OVERLAP_FRAMES, 0.0)


def _lags() -> Tensor:
    """Frames by which the second is late, in the order of the inverse transform."""
    lags = torch.arange(_TRANSFORM)
    return torch.where(lags < _TRANSFORM // 2, lags, lags - _TRANSFORM)
