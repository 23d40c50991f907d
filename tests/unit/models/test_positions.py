"""Positions against loops over places, numpy's interpolation, torch's, and in closed form."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lungsound.axes import PatchGrid
from lungsound.models.ast import PatchPlaces, adapt_positions, place_positions

AUDIOSET = PatchPlaces(128, 1024, 10, 10)
SSAST = PatchPlaces(128, 1024, 16, 16)
OWN_RUN = PatchPlaces(64, 498, 10, 16)
DURATIONS_S = [2, 5, 8, 10]
relaxed = settings(deadline=None, max_examples=60, database=None)
places = st.builds(
    PatchPlaces,
    num_mels=st.integers(16, 160),
    num_frames=st.integers(16, 500),
    freq_stride=st.integers(1, 16),
    time_stride=st.integers(1, 16),
)


def random_positions(grid: PatchGrid, *, num_prefix: int = 2, dim: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(grid.num_patches)
    return torch.randn(1, num_prefix + grid.num_patches, dim, generator=generator, dtype=torch.float64)


def target_of(duration_s: int, num_mels: int, stride: int) -> PatchPlaces:
    return PatchPlaces(num_mels, duration_s * 100 - 2, stride, stride)


# ---- by place


def centers(num_bins: int, stride: int) -> NDArray[np.float64]:
    """Middle of each patch that fits, in bins."""
    starts = [start for start in range(0, num_bins, stride) if start + 16 <= num_bins]
    return np.array([(start + start + 16) / 2 for start in starts])


def shares_of(places: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Share of each of `size` entries at each fractional place, by numpy's interpolation of unit vectors."""
    return np.stack([np.interp(places, np.arange(size), unit) for unit in np.eye(size)], axis=1)


def placed_by_loops(old: NDArray[np.float64], source: PatchPlaces, target: PatchPlaces) -> NDArray[np.float64]:
    """Positions (freq, time, dim) of the source at the places of the target's patches."""
    source_bands = centers(source.num_mels, source.freq_stride) / source.num_mels
    target_bands = centers(target.num_mels, target.freq_stride) / target.num_mels
    rows = np.interp(target_bands, source_bands, np.arange(len(source_bands)))
    # Columns as the published rule lays them, which knows whole columns at the source's stride, and those between.
    num_old, num_new = (len(centers(frames, source.time_stride)) for frames in (source.num_frames, target.num_frames))
    columns = []
    for frame in centers(target.num_frames, target.time_stride):
        column = (frame - 8) / source.time_stride
        columns.append(
            column + num_old // 2 - num_new // 2 if num_new <= num_old else (column + 0.5) * num_old / num_new - 0.5
        )
    row_shares = shares_of(rows, len(source_bands))
    out: NDArray[np.float64] = np.einsum("Ff,Tt,ftd->FTd", row_shares, shares_of(np.array(columns), num_old), old)
    return out


@pytest.mark.parametrize("source", [AUDIOSET, SSAST, OWN_RUN])
@pytest.mark.parametrize("duration_s", [*DURATIONS_S, 12])
@pytest.mark.parametrize("num_mels", [64, 128])
@pytest.mark.parametrize("stride", [10, 16])
def test_every_patch_takes_the_positions_of_its_own_place(
    source: PatchPlaces, duration_s: int, num_mels: int, stride: int
) -> None:
    target = target_of(duration_s, num_mels, stride)
    positions = random_positions(source.grid)
    old = positions[0, 2:].reshape(source.grid.freq, source.grid.time, 3).numpy()
    out = place_positions(positions, source=source, target=target)
    np.testing.assert_allclose(out[0, 2:], placed_by_loops(old, source, target).reshape(-1, 3), atol=1e-12)
    assert torch.equal(out[:, :2], positions[:, :2])


@relaxed
@given(source=places, target=places)
def test_positions_that_hold_their_own_place_come_out_as_the_place(source: PatchPlaces, target: PatchPlaces) -> None:
    """Channel 0 is the share of the mel axis, channel 1 the frame; what lies beyond the ends is held there."""

    def grid_of(bands: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        return torch.cartesian_prod(bands, frames).reshape(1, -1, 2)

    def own(one: PatchPlaces) -> tuple[torch.Tensor, torch.Tensor]:
        bands = torch.from_numpy(centers(one.num_mels, one.freq_stride) / one.num_mels)
        return bands, torch.from_numpy(centers(one.num_frames, one.time_stride))

    (bands, frames), (new_bands, new_frames) = own(source), own(target)
    out = place_positions(grid_of(bands, frames), source=source, target=target)
    out = out.reshape(target.grid.freq, target.grid.time, 2)
    expected = new_bands.clamp(bands.min(), bands.max())
    assert torch.allclose(out[:, :, 0], expected[:, None].expand(-1, target.grid.time), atol=1e-9)
    assert torch.allclose(out[0, :, 1].expand(target.grid.freq, -1), out[:, :, 1], atol=1e-9)
    is_inside = (out[0, :, 1] > frames.min()) & (out[0, :, 1] < frames.max())
    if len(centers(target.num_frames, source.time_stride)) <= len(frames):
        # One shift for all, which lays middle on middle but for less than a column of the source.
        shifts = (out[0, :, 1] - new_frames)[is_inside]
        middles = (source.num_frames - target.num_frames) / 2
        assert ((shifts - middles).abs() < source.time_stride).all()
        assert torch.allclose(shifts, shifts.mean(), atol=1e-9)
    else:
        # Even steps over the whole of the source.
        steps = out[0, :, 1].diff()[is_inside[:-1] & is_inside[1:]]
        ratio = len(frames) / len(centers(target.num_frames, source.time_stride))
        assert torch.allclose(steps, torch.tensor(target.time_stride * ratio, dtype=torch.float64), atol=1e-9)
        assert out[0, 0, 1] == frames.min()
        assert frames.max() - out[0, -1, 1] <= target.time_stride * ratio


def coordinates(grid: PatchGrid) -> torch.Tensor:
    """A position embedding that holds its own row and column."""
    axes = torch.arange(grid.freq, dtype=torch.float64), torch.arange(grid.time, dtype=torch.float64)
    return torch.cartesian_prod(*axes)[None]


def test_rows_and_columns_of_64_mels_and_of_stride_16_by_hand() -> None:
    target = PatchPlaces(64, 1024, 10, 16)
    out = place_positions(coordinates(AUDIOSET.grid), source=AUDIOSET, target=target).reshape(5, 64, 2)
    # Row k lies at (8 + 10 k) of 64 mels, 16 + 20 k of 128: (16 + 20 k - 8) / 10 rows from the first.
    np.testing.assert_allclose(out[:, 0, 0], [0.8, 2.8, 4.8, 6.8, 8.8], atol=1e-12)
    np.testing.assert_allclose(out[0, :, 1], 1.6 * np.arange(64).clip(max=100 / 1.6), atol=1e-12)


def test_eight_seconds_of_ssast_by_hand() -> None:
    out = place_positions(coordinates(SSAST.grid), source=SSAST, target=target_of(8, 128, 10)).reshape(12, 79, 2)
    np.testing.assert_allclose(out[:, 0, 0], 0.625 * np.arange(12), atol=1e-12)
    # Eight seconds are 49 columns of 16 frames, the middle of 64: they begin at the eighth.
    np.testing.assert_allclose(out[0, :, 1], 8 + 0.625 * np.arange(79), atol=1e-12)


@pytest.mark.parametrize("source", [AUDIOSET, SSAST])
@pytest.mark.parametrize("num_frames", [16, 198, 798, 1000, 1024])
def test_the_same_mels_and_strides_give_the_published_cut_to_the_bit(source: PatchPlaces, num_frames: int) -> None:
    target = PatchPlaces(128, num_frames, source.freq_stride, source.time_stride)
    positions = random_positions(source.grid).float()
    grid = positions[:, 2:].reshape(1, source.grid.freq, source.grid.time, 3)
    first = source.grid.time // 2 - target.grid.time // 2
    out = place_positions(positions, source=source, target=target)
    assert torch.equal(out[:, 2:], grid[:, :, first : first + target.grid.time].reshape(1, -1, 3))
    published = adapt_positions(positions, source_grid=source.grid, target_grid=target.grid)
    assert torch.equal(out, published)


def test_a_longer_input_has_the_source_stretched_over_it_as_published() -> None:
    positions = random_positions(AUDIOSET.grid)
    target = PatchPlaces(128, 1500, 10, 10)
    grid = positions[:, 2:].reshape(1, 12, 101, 3).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size=(12, target.grid.time), mode="bilinear", align_corners=False)
    out = place_positions(positions, source=AUDIOSET, target=target)
    assert torch.allclose(out[:, 2:], expected.flatten(2).transpose(1, 2), atol=1e-12)


def test_which_places_have_the_same_patches() -> None:
    assert AUDIOSET.grid == PatchGrid(12, 101)
    assert SSAST.grid == PatchGrid(8, 64)
    assert OWN_RUN.grid == PatchGrid(5, 31)
    assert AUDIOSET.has_patches_of(PatchPlaces(128, 1016, 10, 10))
    for other in (PatchPlaces(128, 1014, 10, 10), PatchPlaces(127, 1024, 10, 10), PatchPlaces(128, 1024, 9, 10)):
        assert not AUDIOSET.has_patches_of(other)


@pytest.mark.parametrize("sizes", [(15, 98, 10, 10), (64, 15, 10, 10), (64, 98, 0, 10), (64, 98, 10, -1)])
def test_places_without_a_patch_are_refused(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="no patch of 16 x 16"):
        PatchPlaces(*sizes)


# ---- the published rule


def published_shares(old_size: int, new_size: int) -> NDArray[np.float64]:
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


@pytest.mark.parametrize("source", [AUDIOSET.grid, PatchGrid(14, 14), PatchGrid(24, 24)])
@pytest.mark.parametrize("duration_s", DURATIONS_S)
@pytest.mark.parametrize("num_mels", [64, 128])
@pytest.mark.parametrize("stride", [10, 16])
def test_the_published_rule_equals_loops(source: PatchGrid, duration_s: int, num_mels: int, stride: int) -> None:
    target = target_of(duration_s, num_mels, stride).grid
    positions = random_positions(source)
    old = positions[0, 2:].reshape(source.freq, source.time, 3).numpy()
    expected = np.einsum(
        "Ff,Tt,ftd->FTd", published_shares(source.freq, target.freq), published_shares(source.time, target.time), old
    )
    out = adapt_positions(positions, source_grid=source, target_grid=target)
    np.testing.assert_allclose(out[0, 2:].numpy(), expected.reshape(-1, 3), atol=1e-12)
    assert torch.equal(out[:, :2], positions[:, :2])


def test_eight_seconds_take_the_time_columns_11_to_89() -> None:
    positions = random_positions(AUDIOSET.grid)
    out = adapt_positions(positions, source_grid=AUDIOSET.grid, target_grid=PatchGrid(12, 79))
    expected = positions[:, 2:].reshape(1, 12, 101, 3)[:, :, 11:90].reshape(1, 948, 3)
    assert torch.equal(out[:, 2:], expected)


def test_exchanged_axes_give_token_k_the_closed_form() -> None:
    out = adapt_positions(
        coordinates(AUDIOSET.grid), source_grid=AUDIOSET.grid, target_grid=PatchGrid(12, 79), is_swapped=True
    )
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
