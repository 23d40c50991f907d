"""Read a file of weights into named tensors, without running what is in it."""

import argparse
import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lungsound.errors import WeightsError

# Ends the key of a count of a batch norm's batches. Nothing reads it at a fixed momentum; older files do not have it.
COUNTER = ".num_batches_tracked"
OWN_RUN = "run of lungsound"
HEAD_PREFIX = "head."  # of a run of our own
FACTS_KEY = "lungsound"  # in the header of a run of our own, over its facts in JSON
IGNORED_PARTS = {
    "args": "settings of the run",
    "classifier": "head of another task",
    "epoch": "state of training",
    "iteration": "state of training",
    "lr_scheduler": "state of training",
    "model_ema": "averaged copy of the weights",
    "optimizer": "state of training",
    "sampler": "state of training",
    "scaler": "state of training",
}


def first_keys(keys: list[str], count: int = 3) -> str:
    """The first keys of a list, for one line."""
    rest = len(keys) - count
    return ", ".join(keys[:count]) + (f" and {rest} more" if rest > 0 else "")


@dataclass(frozen=True)
class WeightFile:
    """A file as it was read; `module.` prefixes are gone."""

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    ignored: list[tuple[str, str]]
    metadata: Mapping[str, str]
    is_checkpoint: bool

    def keep(self, prefix: str, reasons: Mapping[str, str]) -> dict[str, Tensor]:
        """Weights in float32 and counters, without `prefix`; what begins with one of `reasons` is ignored, with why."""
        kept = {}
        for key, value in self.tensors.items():
            reason = next((why for start, why in reasons.items() if key.startswith(start)), None)
            if reason is not None:
                self.ignored.append((key, reason))
            elif key.endswith(COUNTER):
                kept[key.removeprefix(prefix)] = value.to(torch.int64)
            elif not value.is_floating_point() or not value.isfinite().all():
                raise WeightsError(f"{self.path}: {key} ({value.dtype}) holds values that are no finite numbers")
            else:
                kept[key.removeprefix(prefix)] = value.float()
        return kept


def open_weights(path: Path) -> WeightFile:
    """The named tensors in a file, or in the one of a folder, whatever model they are of.

    Runs nothing of what is in the file. Raises WeightsError for what cannot be read or holds more than weights.
    """
    if path.is_dir():
        found = [path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()]
        if not found:
            raise WeightsError(f"{path}: no weights in this folder; it needs model.safetensors (and its config.json)")
        path = found[0]
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; weights are a .safetensors, .pth, .pt or .bin file, or a folder")
    if path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise WeightsError(f"{path}: unknown kind of file; weights are .safetensors, .pth, .pt or .bin")
    try:
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        loaded, metadata = _load(path)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: damaged, or holds more than weights and is not opened; where it was made, save the weights "
            "alone: torch.save({'model': model.state_dict()}, 'weights.pth')"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path}: cannot be read as weights, it may be truncated: {line}") from error
    is_checkpoint = isinstance(loaded, dict) and isinstance(loaded.get("model"), dict)
    ignored: list[tuple[str, str]] = []
    if is_checkpoint:
        ignored = _explain_parts(path, [str(key) for key in loaded if key != "model"])
        loaded = loaded["model"]
    return WeightFile(path, sha256, _named_tensors(path, loaded), ignored, metadata, is_checkpoint)


def _load(path: Path) -> tuple[Any, dict[str, str]]:
    """Content of a file, and the header of a safetensors file.

    argparse.Namespace is let through because the published program pickles its settings; building one runs nothing.
    """
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True, map_location="cpu"), {}


def _explain_parts(path: Path, parts: list[str]) -> list[tuple[str, str]]:
    """What a checkpoint holds beside its "model", each with the reason why it is not needed."""
    if unknown := [part for part in parts if part not in IGNORED_PARTS]:
        raise WeightsError(f"{path}: unexplained parts beside 'model': {first_keys(unknown)}; save the weights alone")
    return [(part, IGNORED_PARTS[part]) for part in parts]


def _named_tensors(path: Path, loaded: Any) -> dict[str, Tensor]:
    if not isinstance(loaded, dict) or not loaded:
        raise WeightsError(f"{path}: holds an empty or unnamed {type(loaded).__name__}, expected a dict of weights")
    if others := [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]:
        raise WeightsError(f"{path}: entries that are no weights: {first_keys(others)}; save the state_dict alone")
    return {str(key).removeprefix("module."): value for key, value in loaded.items()}
