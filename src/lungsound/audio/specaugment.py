"""SpecAugment (Park et al., 2019): draw masks, then apply them to a copy of a filter bank."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lungsound.errors import SettingsError

Gate = Literal["probability", "published"]
Fill = Literal["mean", "zero"]


@dataclass(frozen=True)
class Mask:
    """Bins [start, start + width) of an axis; a width of 0 masks nothing."""

    start: int
    width: int


@dataclass(frozen=True)
class SpecAugmentDraw:
    """The masks for one filter bank. Without `is_applied` there are none."""

    frequency: tuple[Mask, ...]
    time: tuple[Mask, ...]
    is_applied: bool


def draw_specaugment(
    num_frames: int,
    num_mels: int,
    *,
    generator: torch.Generator,
    num_frequency_masks: int = 2,
    max_frequency_width: int = 48,
    num_time_masks: int = 2,
    max_time_width: int = 160,
    probability: float = 1.0,
    gate: Gate = "probability",
) -> SpecAugmentDraw:
    """Draw whether to mask, then for each mask its width and its start, frequency masks first.

    A width is int(U(0, max)), so at most max - 1; max is limited to the length of the axis. The start is any at which
    the mask fits, the last one included (the published program draws it with random.randint). The gate "probability"
    applies with `probability`; "published" when a standard normal number is at most 1 (84 % of the time), whatever
    `probability` says. `generator` is one of the CPU's.
    """
    if gate == "published":
        is_applied = torch.randn((), generator=generator).item() <= 1
    elif gate == "probability":
        is_applied = torch.rand((), generator=generator).item() < probability
    else:
        raise SettingsError(f"unknown SpecAugment gate '{gate}': use 'probability' or 'published'")
    if not is_applied:
        return SpecAugmentDraw(frequency=(), time=(), is_applied=False)
    frequency = tuple(_draw_mask(num_mels, max_frequency_width, generator) for _ in range(num_frequency_masks))
    time = tuple(_draw_mask(num_frames, max_time_width, generator) for _ in range(num_time_masks))
    return SpecAugmentDraw(frequency=frequency, time=time, is_applied=True)


def apply_specaugment(fbank: Tensor, draw: SpecAugmentDraw, *, fill: Fill = "mean") -> Tensor:
    """Copy of the filter bank (time, mel) with the drawn masks filled in.

    "mean" fills frequency masks with the mean of the whole input, time masks with the mean after the frequency masks.
    """
    masked = fbank.clone()
    _fill_masks(masked.T, draw.frequency, fill)
    _fill_masks(masked, draw.time, fill)
    return masked


def _draw_mask(size: int, max_width: int, generator: torch.Generator) -> Mask:
    width = int(torch.rand((), generator=generator, dtype=torch.float64).item() * min(max_width, size))
    start = int(torch.randint(size - width + 1, (), generator=generator).item())
    return Mask(start=start, width=width)


def _fill_masks(fbank: Tensor, masks: Sequence[Mask], fill: Fill) -> None:
    """Fill the masks along the first axis, in place, all with one value taken before the first of them."""
    if fill not in ("mean", "zero"):
        raise SettingsError(f"unknown SpecAugment fill '{fill}': use 'mean' or 'zero'")
    value = fbank.mean() if fill == "mean" else fbank.new_zeros(())
    for mask in masks:
        if mask.start + mask.width > len(fbank):
            raise ValueError(f"{mask} ends beyond an axis of {len(fbank)}: draw it for this filter bank's size")
        fbank[mask.start : mask.start + mask.width] = value
