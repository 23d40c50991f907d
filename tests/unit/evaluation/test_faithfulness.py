"""Deletion, insertion and overlap, by hand."""

import math

import pytest
import torch
from torch import Tensor

from lungsound.evaluation.faithfulness import deletion_and_insertion, mean_over_cycles, overlap, tile_means, tiles

SHARES = torch.tensor([0.1, 0.4, 0.2, 0.3])


def answer(is_away: Tensor) -> Tensor:
    """What the four bins that are still there add to the probability."""
    return ((~is_away).flatten(1) * SHARES).sum(dim=1)


def test_areas_by_hand() -> None:
    tile = tiles(2, 2, size=1)
    best = deletion_and_insertion(answer, SHARES, tile)
    assert best.deletion == pytest.approx((1 / 2 + 0.6 + 0.3 + 0.1 + 0 / 2) / 4)
    assert best.insertion == pytest.approx((0 / 2 + 0.4 + 0.7 + 0.9 + 1 / 2) / 4)
    worst = deletion_and_insertion(answer, -SHARES, tile)
    assert worst.deletion == pytest.approx(best.insertion)
    assert worst.insertion == pytest.approx(best.deletion)
    first_to_last = deletion_and_insertion(answer, torch.zeros(4), tile)  # equals go in order
    assert first_to_last.deletion == pytest.approx((1 / 2 + 0.9 + 0.5 + 0.3 + 0 / 2) / 4)


def test_areas_in_fewer_steps_than_tiles() -> None:
    two = deletion_and_insertion(answer, SHARES, tiles(2, 2, size=1), num_steps=2)
    assert two.deletion == pytest.approx((1 / 2 + 0.3 + 0 / 2) / 2)


def test_tiles_cover_every_bin_once() -> None:
    tile = tiles(5, 7, size=3)
    naive = [[(time // 3) * 3 + mel // 3 for mel in range(7)] for time in range(5)]
    assert tile.tolist() == naive
    bins = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    means = tile_means(bins, tile)
    assert means[4] == pytest.approx(float(bins[3:, 3:6].mean()))
    assert means[5] == pytest.approx(float(bins[3:, 6:].mean()))


def test_overlap_by_hand() -> None:
    values = torch.tensor([3.0, -5.0, 1.0, 0.0])
    found = overlap(values, torch.tensor([False, True, True, False]))
    assert (found.is_hit, found.share, found.area) == (False, 0.25, 0.5)
    assert overlap(values, torch.tensor([True, False, False, False])).is_hit
    assert math.isnan(overlap(-values.abs(), torch.tensor([True, False, False, False])).share)


def test_means_are_over_cycles_and_intervals_over_patients() -> None:
    patients = [name for name in "abcdef" for _ in range(2)]
    values = [float(place) for place in range(12)]
    found = mean_over_cycles(values, patients)
    assert found.value == pytest.approx(5.5)
    assert found.interval.num_patients == 6
    assert found.interval.low < 5.5 < found.interval.high
    paired = mean_over_cycles([value + 2 for value in values], patients, minus=values)
    assert (paired.value, paired.interval.low, paired.interval.high) == (2.0, 2.0, 2.0)
    with_hole = mean_over_cycles([math.nan, 1.0, 3.0], ["a", "a", "b"])
    assert with_hole.value == 2.0
