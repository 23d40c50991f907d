"""How often an engine decides as float32 torch does, measured on real cycles and kept beside the model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from lungsound.checkpoint import TrainedModel
from lungsound.engines.export import EXACT_TOLERANCE
from lungsound.errors import WeightsError
from lungsound.files import write_text

FILE_NAME = "engines.json"
FORMAT = "lungsound engines 1"
LEAST_AGREEMENT = 0.99
LEAST_CYCLES = 100  # fewer cannot tell 99 % from 98 %


@dataclass(frozen=True)
class Agreement:
    """`share` of the cycles with the same answer; `largest_difference` in probability."""

    num_cycles: int
    share: float
    largest_difference: float

    @property
    def is_exact(self) -> bool:
        return self.largest_difference <= EXACT_TOLERANCE

    @property
    def is_enough(self) -> bool:
        """Whether the engine may answer for torch without being asked for by name."""
        return self.num_cycles >= LEAST_CYCLES and self.share >= LEAST_AGREEMENT


def agreement(exact: Tensor, found: Tensor) -> Agreement:
    """Of probabilities (cycle, class) with the exact ones."""
    if exact.shape != found.shape or not len(exact):
        raise ValueError(f"probabilities of {tuple(found.shape)} cannot be compared with {tuple(exact.shape)}")
    share = float((exact.argmax(dim=1) == found.argmax(dim=1)).double().mean())
    difference = float(torch.nan_to_num((exact - found).abs(), nan=float("inf")).max())
    return Agreement(len(exact), share, difference)


def write_agreements(folder: Path, trained: TrainedModel, agreements: Mapping[str, Agreement]) -> Path:
    """Keep what was measured for this model file in its folder; the path."""
    path = folder / FILE_NAME
    values = {"format": FORMAT, "model": trained.sha256, "engines": {k: asdict(v) for k, v in agreements.items()}}
    write_text(path, json.dumps(values, indent=2) + "\n")
    return path


def read_agreements(folder: Path, trained: TrainedModel) -> dict[str, Agreement]:
    """What was measured for this model file; nothing when none was, or for another. WeightsError when damaged."""
    path = folder / FILE_NAME
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT or values["model"] != trained.sha256:
            return {}
        return {name: Agreement(**found) for name, found in values["engines"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); remove it, and 'lungsound export' again") from None


def usable(agreements: Mapping[str, Agreement], names: Sequence[str]) -> list[str]:
    """Those of the engines that were measured and decide as torch does in 99 % of the cycles."""
    return [name for name in names if name in agreements and agreements[name].is_enough]
