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
    """How many patches the filter bank is cut into, along frequency and along time."""

    freq: int
    time: int

    @classmethod
    def of(cls, num_mels: int, num_frames: int, *, patch: int = PATCH_SIZE, stride: int = 10) -> "PatchGrid":
        """Grid of square patches of `patch` x `patch` bins, `stride` bins apart, without padding.

        128 mels x 798 frames (8 s) give 12 x 79 patches. Raises ValueError when not one patch fits.
        """
        if num_mels < patch or num_frames < patch:
            raise ValueError(
                f"a filter bank of {num_frames} frames x {num_mels} mels is smaller than one patch of {patch} x {patch}"
            )
        return cls(freq=(num_mels - patch) // stride + 1, time=(num_frames - patch) // stride + 1)

    @property
    def num_patches(self) -> int:
        return self.freq * self.time

    def index(self, f: int, t: int) -> int:
        """Position on the patch axis of the patch at frequency row `f` and time column `t`."""
        return self.time * f + t
