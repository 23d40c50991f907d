"""The legend of axes, and the grid of patches.

Axes, in the order in which they stand in tensors:

batch   samples (breathing cycles)
time    frames of the filter bank, 10 ms apart
mel     mel filters, low to high
patch   patches of the filter bank, frequency-major: index = time_size * f + t
dim     features of the encoder
class   classes of the label set
"""

from dataclasses import dataclass

PATCH_SIZE = 16  # frames, and mel filters


@dataclass(frozen=True)
class PatchGrid:
    """Numbers of patches that the filter bank is cut into, along frequency and along time."""

    freq: int
    time: int

    @classmethod
    def of(cls, num_mels: int, num_frames: int, *, stride: int) -> "PatchGrid":
        """Grid of square patches of PATCH_SIZE bins, `stride` bins apart, without padding.

        128 mels x 798 frames (8 s) give 12 x 79 patches at stride 10. Raises ValueError when not one patch fits.
        """
        if min(num_mels, num_frames) < PATCH_SIZE:
            raise ValueError(
                f"a filter bank of {num_frames} frames x {num_mels} mels is smaller than one patch of {PATCH_SIZE} x "
                f"{PATCH_SIZE}"
            )
        return cls(freq=(num_mels - PATCH_SIZE) // stride + 1, time=(num_frames - PATCH_SIZE) // stride + 1)

    @property
    def num_patches(self) -> int:
        return self.freq * self.time

    def index(self, f: int, t: int) -> int:
        """Position on the patch axis of the patch at frequency row `f` and time column `t`."""
        return self.time * f + t
