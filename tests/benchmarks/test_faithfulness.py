"""Deletion, insertion and overlap, by hand."""

import math

import pytest
import torch
from benchmarks.explanations import deletion_and_insertion, mean_over_cycles, overlap
from torch import Tensor

from lungsound.inference.explain import tile_means, tiles

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


@pytest.mark.parametrize(("num_frames", "num_mels", "num_steps"), [(40, 33, 10), (16, 16, 10), (35, 20, 4), (7, 5, 3)])
def test_areas_of_a_crooked_answer_are_those_of_a_loop(num_frames: int, num_mels: int, num_steps: int) -> None:
    """Tiles that are cut, equal values, an answer that is no sum: bin by bin and step by step."""
    generator = torch.Generator().manual_seed(num_frames)
    sound = torch.rand(num_frames, num_mels, generator=generator).tolist()
    tile = tiles(num_frames, num_mels)
    values = torch.rand(int(tile.max()) + 1, generator=generator).mul(4).round()  # many are equal

    def probability(is_away: list[list[bool]]) -> float:
        left = sum(sound[t][m] * (m + 1) for t in range(num_frames) for m in range(num_mels) if not is_away[t][m])
        return math.tanh(left / 50.0)

    def many(is_away: Tensor) -> Tensor:
        return torch.tensor([probability(mask) for mask in is_away.tolist()], dtype=torch.float64)

    per_row = math.ceil(num_mels / 16)
    order = sorted(range(len(values)), key=lambda place: -float(values[place]))  # keeps the order of equals
    numbers = sorted({round(len(order) * step / num_steps) for step in range(num_steps + 1)})
    curves: dict[str, list[float]] = {"deletion": [], "insertion": []}
    for number in numbers:
        gone = set(order[:number])
        in_gone = [[(t // 16) * per_row + m // 16 in gone for m in range(num_mels)] for t in range(num_frames)]
        curves["deletion"].append(probability(in_gone))
        curves["insertion"].append(probability([[not each for each in row] for row in in_gone]))
    found = deletion_and_insertion(many, values, tile, num_steps=num_steps)
    for name, curve in curves.items():
        area = sum(
            (numbers[step + 1] - numbers[step]) / len(order) * (curve[step] + curve[step + 1]) / 2
            for step in range(len(numbers) - 1)
        )
        assert getattr(found, name) == pytest.approx(area, rel=1e-9)
    assert found.deletion < 1.0
