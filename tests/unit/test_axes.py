"""The grid of patches."""

import pytest

from lungsound.axes import PatchGrid


def test_eight_seconds_give_the_published_grid() -> None:
    grid = PatchGrid.of(128, 798, stride=10)
    assert (grid.freq, grid.time, grid.num_patches) == (12, 79, 948)


@pytest.mark.parametrize("stride", [1, 7, 10, 16])
@pytest.mark.parametrize("size", range(16, 60))
def test_the_grid_counts_the_patches_that_fit(size: int, stride: int) -> None:
    num_fitting = sum(start + 16 <= size for start in range(0, size, stride))
    assert PatchGrid.of(size, 100, stride=stride).freq == num_fitting
    assert PatchGrid.of(100, size, stride=stride).time == num_fitting


def test_indices_number_the_patches_one_frequency_row_after_the_other() -> None:
    grid = PatchGrid(freq=3, time=5)
    assert [grid.index(f, t) for f in range(3) for t in range(5)] == list(range(grid.num_patches))


@pytest.mark.parametrize(("num_mels", "num_frames"), [(15, 100), (100, 15)])
def test_less_than_one_patch_is_refused(num_mels: int, num_frames: int) -> None:
    with pytest.raises(ValueError, match=f"{num_frames} frames x {num_mels} mels is smaller than one patch of 16 x 16"):
        PatchGrid.of(num_mels, num_frames, stride=10)
