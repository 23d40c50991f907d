"""Adapt the position embeddings of one patch grid to another, as the published program does.

Time first, then frequency: an axis that shrinks is cut from its middle, one that grows is interpolated. So eight
seconds (12 x 79 patches) take the time columns 11..89 of AudioSet's 12 x 101.
"""

import torch
from torch import Tensor
from torch.nn import functional

from lungsound.axes import PatchGrid

POSITION_GRIDS = ("aligned", "published")


def adapt_positions(
    source: Tensor, *, source_grid: PatchGrid, target_grid: PatchGrid, position_grid: str = "aligned"
) -> Tensor:
    """Position embeddings (1, prefix + source patches, dim) to (1, prefix + target patches, dim).

    The prefix (class and distillation token) is kept. `position_grid="aligned"` gives each patch the embedding of
    its own place. "published" repeats the authors' exchanged axes: the grid is built with time as frequency and
    frequency as time (79 x 12), then read as if it were 12 x 79; both have 948 entries, so nothing fails.
    Raises ValueError when `source` does not fit `source_grid`.
    """
    if position_grid not in POSITION_GRIDS:
        raise ValueError(f"position_grid must be one of {POSITION_GRIDS}, got {position_grid!r}")
    num_prefix = source.shape[1] - source_grid.num_patches
    if num_prefix < 0:
        raise ValueError(f"{source.shape[1]} positions are fewer than the patches of {source_grid}")
    built = target_grid
    if position_grid == "published":
        built = PatchGrid(freq=target_grid.time, time=target_grid.freq)
    grid = source[:, num_prefix:].transpose(1, 2).reshape(1, -1, source_grid.freq, source_grid.time)
    grid = _fit_axis(grid, axis=3, size=built.time)
    grid = _fit_axis(grid, axis=2, size=built.freq)
    return torch.cat([source[:, :num_prefix], grid.flatten(2).transpose(1, 2)], dim=1)


def _fit_axis(grid: Tensor, *, axis: int, size: int) -> Tensor:
    """Cut or interpolate one axis of (1, dim, freq, time) to `size`."""
    old_size = grid.shape[axis]
    if size <= old_size:
        return grid.narrow(axis, old_size // 2 - size // 2, size)
    shape = list(grid.shape[2:])
    shape[axis - 2] = size
    return functional.interpolate(grid, size=shape, mode="bilinear", align_corners=False)
