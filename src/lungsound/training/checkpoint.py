"""The checkpoint: tensors of a training, in a file of the form of a model file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lungsound.training.model_file import read_arrays, write_arrays

CHECKPOINT_FORMAT = "lungsound checkpoint 2"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts, the format among them."""
    arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
    write_arrays(path, arrays, {"format": CHECKPOINT_FORMAT, **facts})


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_checkpoint` wrote. WeightsError for a file that is missing, damaged or of another kind."""
    arrays, facts = read_arrays(path, expected_format=CHECKPOINT_FORMAT)
    return {name: torch.from_numpy(value) for name, value in arrays.items()}, facts
