"""Position embeddings of one patch grid for the patches of another.

Where the places of both are known, each patch takes the embedding of its own place. An image has no place on a
filter bank: its grid is cut or interpolated as the published program does it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lungsound.axes import PATCH_SIZE, PatchGrid


@dataclass(frozen=True)
class PatchPlaces:
    """Places of the 16 x 16 patches of a filter bank; strides in mels and in frames.

    Mels share one axis, whatever their number: 64 span the same 20-8000 Hz as 128.
    """

    num_mels: int
    num_frames: int
    freq_stride: int
    time_stride: int

    def __post_init__(self) -> None:
        if min(self.num_mels, self.num_frames) < PATCH_SIZE or min(self.freq_stride, self.time_stride) < 1:
            raise ValueError(f"no patch of {PATCH_SIZE} x {PATCH_SIZE} in {self}")

    @property
    def grid(self) -> PatchGrid:
        return PatchGrid(
            freq=(self.num_mels - PATCH_SIZE) // self.freq_stride + 1,
            time=(self.num_frames - PATCH_SIZE) // self.time_stride + 1,
        )

    def has_patches_of(self, other: "PatchPlaces") -> bool:
        """True when every patch k lies where patch k of `other` does; frames after the last patch do not matter."""
        settings = (self.num_mels, self.freq_stride, self.time_stride)
        return self.grid == other.grid and settings == (other.num_mels, other.freq_stride, other.time_stride)


def place_positions(positions: Tensor, *, source: PatchPlaces, target: PatchPlaces) -> Tensor:
    """Position embeddings (1, prefix + source patches, dim) to (1, prefix + target patches, dim), each at its place.

    A target patch takes the source's positions interpolated at its centre, linearly on each axis and clamped at the
    ends. On the frequency axis the place is the centre's share of the mel axis. In time the target's input is laid
    on the source's as the published program lays it: a shorter one on the middle columns, a longer one with the
    source stretched over it. Only the place is right: 16 of 64 mels cover twice the band of 16 of 128.
    """
    prefix, grid = _split(positions, source.grid)
    # The columns that the target would have at the source's stride, and those of its own among them.
    num_old, num_new = source.grid.time, (target.num_frames - PATCH_SIZE) // source.time_stride + 1
    columns = target.time_stride * torch.arange(target.grid.time, dtype=torch.float64) / source.time_stride
    if num_new <= num_old:
        columns = columns + (num_old // 2 - num_new // 2)
    else:
        columns = (columns + 0.5) * num_old / num_new - 0.5
    half = PATCH_SIZE / 2
    centers = half + target.freq_stride * torch.arange(target.grid.freq, dtype=torch.float64)
    # One division of whole numbers at the end: with the same mels and strides no row is rounded.
    rows = (source.num_mels * centers - half * target.num_mels) / (target.num_mels * source.freq_stride)
    for axis, places in ((3, columns), (2, rows)):
        places = places.to(grid.device).clamp(0, grid.shape[axis] - 1)
        low, high = (grid.index_select(axis, end.long()) for end in (places.floor(), places.ceil()))
        share = places.frac().to(grid.dtype)
        grid = torch.lerp(low, high, share if axis == 3 else share.unsqueeze(1))  # whole places are exact to the bit
    return torch.cat([prefix, grid.flatten(2).transpose(1, 2)], dim=1)


def adapt_positions(
    positions: Tensor, *, source_grid: PatchGrid, target_grid: PatchGrid, is_swapped: bool = False
) -> Tensor:
    """The same by the published rule, which knows the two grids alone.

    Time first, then frequency: an axis that shrinks is cut from its middle, one that grows is interpolated. So 12 x
    79 patches (eight seconds) take the time columns 11..89 of AudioSet's 12 x 101. `is_swapped` repeats the
    authors' exchanged axes: the grid is built as 79 x 12, then read as if it were 12 x 79.
    """
    built = PatchGrid(freq=target_grid.time, time=target_grid.freq) if is_swapped else target_grid
    prefix, grid = _split(positions, source_grid)
    for axis, size in ((3, built.time), (2, built.freq)):
        old_size = grid.shape[axis]
        if size <= old_size:
            grid = grid.narrow(axis, old_size // 2 - size // 2, size)
        else:
            sizes = (grid.shape[2], size) if axis == 3 else (size, grid.shape[3])
            grid = functional.interpolate(grid, size=sizes, mode="bilinear", align_corners=False)
    return torch.cat([prefix, grid.flatten(2).transpose(1, 2)], dim=1)


def _split(positions: Tensor, grid: PatchGrid) -> tuple[Tensor, Tensor]:
    """Prefix (1, prefix, dim), and the positions of the patches (1, dim, freq, time)."""
    num_prefix = positions.shape[1] - grid.num_patches
    patches = positions[:, num_prefix:].transpose(1, 2)
    return positions[:, :num_prefix], patches.reshape(1, -1, grid.freq, grid.time)
