"""The grid of patches."""

import pytest

from lungsound.axes import PatchGrid


def test_eight_seconds_give_the_published_grid() -> None:
    grid = PatchGrid.of(128, 798, stride=10)
    assert (grid.freq, grid.time, grid.num_patches) == (12, 79, 948)


def test_the_grid_counts_the_patches_that_fit() -> None:
    for size in range(16, 60):
        for stride in (1, 7, 10, 16):
            num_fitting = sum(start + 16 <= size for start in range(0, size, stride))
            assert PatchGrid.of(size, 100, stride=stride).freq == num_fitting, (size, stride)
            assert PatchGrid.of(100, size, stride=stride).time == num_fitting, (size, stride)


def test_indices_number_the_patches_one_frequency_row_after_the_other() -> None:
    grid = PatchGrid(freq=3, time=5)
    assert [grid.index(f, t) for f in range(3) for t in range(5)] == list(range(grid.num_patches))


def test_less_than_one_patch_is_refused() -> None:
    for num_mels, num_frames in ((15, 100), (100, 15)):
        with pytest.raises(ValueError, match=f"{num_frames} frames x {num_mels} mels is smaller than one patch"):
            PatchGrid.of(num_mels, num_frames, stride=10)
