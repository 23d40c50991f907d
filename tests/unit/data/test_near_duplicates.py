"""The search against a naive one over every pair and every offset."""

import numpy as np
import pytest

from lungsound.audio.fingerprint import HOP, NUM_BANDS, RATE_HZ, Fingerprint
from lungsound.data.duplicates import MIN_OVERLAP_FRAMES, SEGMENT_FRAMES, Candidate, find_candidates


def signs(seed: int, num_frames: int) -> Fingerprint:
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), (num_frames, NUM_BANDS))


def naive_candidates(fingerprints: list[Fingerprint], min_deviations: float) -> dict[tuple[int, int], Candidate]:
    """All pairs at all offsets, frame by frame; for fingerprints of one segment."""
    found = {}
    for one, a in enumerate(fingerprints):
        for other in range(one + 1, len(fingerprints)):
            b = fingerprints[other]
            for offset in range(-len(b), len(a)):
                pairs = [(i, i - offset) for i in range(len(a)) if 0 <= i - offset < len(b)]
                if len(pairs) < MIN_OVERLAP_FRAMES:
                    continue
                total = sum(int(a[i].astype(int) @ b[j]) for i, j in pairs)
                deviations = total / np.sqrt(len(pairs) * NUM_BANDS)
                best = found.get((one, other))
                if deviations >= min_deviations and (best is None or deviations > best.deviations):
                    found[one, other] = Candidate(one, other, offset * HOP / RATE_HZ, deviations)
    return found


def test_every_pair_and_offset_equals_the_naive_search() -> None:
    fingerprints = [signs(seed, num) for seed, num in enumerate((40, 70, 25, 55, 70))]
    fingerprints[3][5:35] = fingerprints[1][30:60]
    expected = naive_candidates(fingerprints, 2.0)
    found = {(each.one, each.other): each for each in find_candidates(fingerprints, min_deviations=2.0)}
    assert found.keys() == expected.keys()
    assert len(expected) > 3
    for pair, candidate in found.items():
        assert candidate.deviations == pytest.approx(expected[pair].deviations, abs=1e-3)
        assert candidate.offset_s == pytest.approx(expected[pair].offset_s)
    assert found[1, 3].offset_s == 25 * HOP / RATE_HZ


def test_a_piece_of_a_long_recording_is_found_beyond_the_first_segment() -> None:
    long, start = signs(1, 3 * SEGMENT_FRAMES), SEGMENT_FRAMES + 60
    piece = np.concatenate([signs(2, 10), long[start : start + 90]])
    for fingerprints, sign in (([long, piece], 1), ([piece, long], -1)):
        found = find_candidates(fingerprints)
        assert [(each.one, each.other) for each in found] == [(0, 1)]
        assert found[0].offset_s == pytest.approx(sign * (start - 10) * HOP / RATE_HZ)


def test_unlike_recordings_and_too_short_an_overlap_are_no_candidates() -> None:
    assert find_candidates([signs(seed, 100) for seed in range(30)]) == []
    one = signs(1, 60)
    other = signs(2, 60)
    other[: MIN_OVERLAP_FRAMES - 1] = one[-(MIN_OVERLAP_FRAMES - 1) :]
    assert find_candidates([one, other]) == []
    other[:MIN_OVERLAP_FRAMES] = one[-MIN_OVERLAP_FRAMES:]
    assert len(find_candidates([one, other])) == 1
    assert find_candidates([one[: MIN_OVERLAP_FRAMES - 1]] * 2) == []


def test_more_recordings_than_a_tile_are_all_compared() -> None:
    fingerprints = [signs(seed, 30) for seed in range(140)]
    fingerprints[137] = fingerprints[3].copy()
    seen: list[tuple[int, int]] = []
    found = find_candidates(fingerprints, on_progress=lambda done, total: seen.append((done, total)))
    assert [(each.one, each.other, each.offset_s) for each in found] == [(3, 137, 0.0)]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert find_candidates([]) == []
