"""Positions against loops over the cut and the bilinear formula, and in closed form for the exchanged axes."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lungsound.axes import PatchGrid
from lungsound.model.positions import adapt_positions

AUDIOSET = PatchGrid(12, 101)


def random_positions(grid: PatchGrid, *, num_prefix: int = 2, dim: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(grid.num_patches)
    return torch.randn(1, num_prefix + grid.num_patches, dim, generator=generator, dtype=torch.float64)


def weights_of_axis(old_size: int, new_size: int) -> NDArray[np.float64]:
    """Share of each old row in each new row (new, old), by loops: the middle is cut, or neighbours are blended."""
    shares = np.zeros((new_size, old_size))
    for new in range(new_size):
        if new_size <= old_size:
            shares[new, old_size // 2 - new_size // 2 + new] = 1
            continue
        place = min(max((new + 0.5) * old_size / new_size - 0.5, 0), old_size - 1)
        low = min(int(place), old_size - 1)
        shares[new, low] += 1 - (place - low)
        shares[new, min(low + 1, old_size - 1)] += place - low
    return shares


@pytest.mark.parametrize("source", [AUDIOSET, PatchGrid(14, 14), PatchGrid(24, 24)])
@pytest.mark.parametrize("duration_s", [2, 5, 8, 10])
@pytest.mark.parametrize("num_mels", [64, 128])
@pytest.mark.parametrize("stride", [10, 16])
def test_equals_loops_for_every_size(source: PatchGrid, duration_s: int, num_mels: int, stride: int) -> None:
    target = PatchGrid.of(num_mels, duration_s * 100 - 2, stride=stride)
    positions = random_positions(source)
    old = positions[0, 2:].reshape(source.freq, source.time, 3).numpy()
    expected = np.einsum(
        "Ff,Tt,ftd->FTd", weights_of_axis(source.freq, target.freq), weights_of_axis(source.time, target.time), old
    )
    out = adapt_positions(positions, source_grid=source, target_grid=target)
    np.testing.assert_allclose(out[0, 2:].numpy(), expected.reshape(-1, 3), atol=1e-12)
    assert torch.equal(out[:, :2], positions[:, :2])


def test_the_same_grid_changes_nothing() -> None:
    positions = random_positions(AUDIOSET)
    assert torch.equal(adapt_positions(positions, source_grid=AUDIOSET, target_grid=AUDIOSET), positions)


def test_eight_seconds_take_the_time_columns_11_to_89() -> None:
    positions = random_positions(AUDIOSET)
    out = adapt_positions(positions, source_grid=AUDIOSET, target_grid=PatchGrid(12, 79))
    expected = positions[:, 2:].reshape(1, 12, 101, 3)[:, :, 11:90].reshape(1, 948, 3)
    assert torch.equal(out[:, 2:], expected)


def test_published_gives_token_k_the_closed_form() -> None:
    rows, columns = np.divmod(np.arange(AUDIOSET.num_patches), AUDIOSET.time)
    places = torch.from_numpy(np.stack([rows, columns], axis=1).astype(np.float64))[None]
    out = adapt_positions(places, source_grid=AUDIOSET, target_grid=PatchGrid(12, 79), position_grid="published")
    k = np.arange(948)
    np.testing.assert_allclose(out[0, :, 0], np.clip((k // 12 + 0.5) * 12 / 79 - 0.5, 0, 11), atol=1e-12)
    np.testing.assert_allclose(out[0, :, 1], 44 + k % 12, atol=1e-12)


def test_any_prefix_is_kept() -> None:
    grid = PatchGrid(2, 3)
    for num_prefix in (0, 1, 2):
        positions = random_positions(grid, num_prefix=num_prefix)
        out = adapt_positions(positions, source_grid=grid, target_grid=PatchGrid(3, 2))
        assert out.shape == (1, num_prefix + 6, 3)
        assert torch.equal(out[:, :num_prefix], positions[:, :num_prefix])


def test_an_unknown_position_grid_and_too_few_positions_are_refused() -> None:
    positions = random_positions(PatchGrid(2, 3), num_prefix=0)
    with pytest.raises(ValueError, match="position_grid must be one of"):
        adapt_positions(positions, source_grid=PatchGrid(2, 3), target_grid=PatchGrid(2, 3), position_grid="swapped")
    with pytest.raises(ValueError, match="6 positions are fewer"):
        adapt_positions(positions, source_grid=AUDIOSET, target_grid=AUDIOSET)
