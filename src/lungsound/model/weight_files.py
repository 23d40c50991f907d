"""Read files of weights without running what is in them, and give the weights the encoder's names.

Five kinds are recognised by their keys: ImageNet ViT / DeiT (timm), AudioSet AST as its authors published it, AST
as Hugging Face stores it, a run of our own, and a checkpoint of the published Patch-Mix program.
"""

import argparse
import hashlib
import json
import math
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lungsound.axes import PatchGrid
from lungsound.errors import WeightsError
from lungsound.model.encoder import NUM_PREFIX_TOKENS, PATCH_SIZE

# The header of a run of our own: JSON facts under one key, the grid of its positions as [freq, time] among them.
FACTS_KEY = "lungsound"
PATCH_GRID_FACT = "patch_grid"
AUDIOSET_GRIDS = {
    grid.num_patches: grid for grid in (PatchGrid.of(128, 1024, stride=stride) for stride in (10, 12, 14, 16))
}
IGNORED_PARTS = {
    "args": "settings of the run",
    "classifier": "head of another task",
    "epoch": "state of training",
    "lr_scheduler": "state of training",
    "model_ema": "averaged copy of the weights",
    "optimizer": "state of training",
    "scaler": "state of training",
}


@dataclass
class ForeignWeights:
    """Weights under the encoder's names, in float32; positions still on the grid of the file.

    source_grid    None: the file does not tell; positions can only be taken verbatim
    adapted        {encoder parameter: how}
    ignored        (key in the file, why)
    position_grid  when given, overrules what the caller asks for
    config         Hugging Face's config.json
    """

    path: Path
    sha256: str
    source_format: str
    weights: dict[str, Tensor]
    source_grid: PatchGrid | None
    ignored: list[tuple[str, str]]
    adapted: dict[str, str] = field(default_factory=dict)
    position_grid: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


def read_weights(path: Path) -> ForeignWeights:
    """Read a file of weights, or the one in a folder, and recognise it by its keys.

    Raises WeightsError for what cannot be read, is not known, or holds values that are no finite numbers.
    """
    file = _open(path)
    for marker, translate in _TRANSLATIONS.items():
        positions = file.tensors.get(marker)
        if positions is not None:
            if positions.ndim != 3:
                raise WeightsError(f"{file.path}: {marker} is {tuple(positions.shape)}, expected (1, positions, dim)")
            return translate(file)
    raise WeightsError(
        f"{file.path}: no weights of a known kind, its keys begin with {first_keys(list(file.tensors))}; expected a "
        "timm ViT or DeiT, an AST (original or Hugging Face), a run of lungsound or of the published program"
    )


def first_keys(keys: list[str], count: int = 3) -> str:
    """The first keys of a list, for one line."""
    rest = len(keys) - count
    return ", ".join(keys[:count]) + (f" and {rest} more" if rest > 0 else "")


@dataclass(frozen=True)
class _File:
    """A file as it was read; `module.` prefixes are gone."""

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    ignored: list[tuple[str, str]]
    metadata: Mapping[str, str]
    is_checkpoint: bool

    def keep(self, prefix: str, reasons: Mapping[str, str]) -> dict[str, Tensor]:
        """Weights in float32 without `prefix`; keys that begin with one of `reasons` are ignored for that reason."""
        kept = {}
        for key, value in self.tensors.items():
            reason = next((why for start, why in reasons.items() if key.startswith(start)), None)
            if reason is not None:
                self.ignored.append((key, reason))
            elif not value.is_floating_point() or not value.isfinite().all():
                raise WeightsError(f"{self.path}: {key} ({value.dtype}) holds values that are no finite numbers")
            else:
                kept[key.removeprefix(prefix)] = value.float()
        return kept


def _open(path: Path) -> _File:
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
    return _File(path, sha256, _named_tensors(path, loaded), ignored, metadata, is_checkpoint)


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


def _from_imagenet(file: _File) -> ForeignWeights:
    """timm's ViT or DeiT. Without a distillation token, the class token and its position serve for both."""
    weights = file.keep("", dict.fromkeys(("head.", "head_dist.", "pre_logits."), "ImageNet head"))
    adapted = {}
    kernel = weights.get("patch_embed.proj.weight")
    if kernel is not None:
        if kernel.ndim != 4 or kernel.shape[1] != 3:
            raise WeightsError(
                f"{file.path}: patch_embed.proj.weight is {tuple(kernel.shape)}, expected (dim, 3, 16, 16) of images"
            )
        weights["patch_embed.proj.weight"] = kernel.sum(dim=1, keepdim=True)
        adapted["patch_embed.proj.weight"] = "sum of the red, green and blue kernels"
    is_distilled = "dist_token" in weights
    if not is_distilled and "cls_token" in weights:
        weights["dist_token"] = weights["cls_token"].clone()
        weights["pos_embed"] = torch.cat([weights["pos_embed"][:, :1], weights["pos_embed"]], dim=1)
        adapted["dist_token"] = "copy of the class token"
        adapted["pos_embed"] = "position of the class token also for the distillation token"
    num_patches = weights["pos_embed"].shape[1] - NUM_PREFIX_TOKENS
    side = math.isqrt(max(num_patches, 0))
    if side == 0 or side * side != num_patches:
        raise WeightsError(f"{file.path}: {num_patches} patch positions are no square grid of an image model")
    source_format = "ImageNet ViT, distilled" if is_distilled else "ImageNet ViT"
    grid = PatchGrid(freq=side, time=side)
    return ForeignWeights(file.path, file.sha256, source_format, weights, grid, file.ignored, adapted)


def _from_ast(file: _File) -> ForeignWeights:
    """The original AST: AudioSet weights, or what the published Patch-Mix program made of them (same names)."""
    num_patches = file.tensors["v.pos_embed"].shape[1] - NUM_PREFIX_TOKENS
    grid = None if file.is_checkpoint else AUDIOSET_GRIDS.get(num_patches)
    source_format, head = "run of the published program", "head that the published program does not train"
    if grid is not None:
        source_format, head = "AudioSet AST, original", "AudioSet head"
    weights = file.keep("v.", {"v.head.": "ImageNet head", "v.head_dist.": "ImageNet head", "mlp_head.": head})
    return ForeignWeights(file.path, file.sha256, source_format, weights, grid, file.ignored)


def _from_own_run(file: _File) -> ForeignWeights:
    """Weights that lungsound saved: encoder, head and projector."""
    weights = file.keep("encoder.", {"head.": "head of that run", "projector.": "projector of that run"})
    grid = _grid_of_own_run(file.path, file.metadata.get(FACTS_KEY, "{}"))
    return ForeignWeights(
        file.path, file.sha256, "run of lungsound", weights, grid, file.ignored, position_grid="aligned"
    )


def _grid_of_own_run(path: Path, header: str) -> PatchGrid | None:
    """The grid that the header names; None when it names none."""
    try:
        named = json.loads(header).get(PATCH_GRID_FACT)
        if named is None:
            return None
        freq, time = named
        return PatchGrid(freq=int(freq), time=int(time))
    except (AttributeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: its header must be JSON with {PATCH_GRID_FACT} as [freq, time], got {header[:60]!r}"
        ) from error


_HUGGING_FACE_PREFIX = "audio_spectrogram_transformer."
_HUGGING_FACE_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_QUERY_KEY_VALUE = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))


def _from_hugging_face(file: _File) -> ForeignWeights:
    """Hugging Face's AST; query, key and value are joined, strides and lengths come from config.json."""
    tensors = file.keep(_HUGGING_FACE_PREFIX, {"classifier.": "head of another task"})
    weights: dict[str, Tensor] = {}
    for key, value in tensors.items():
        layer = re.match(r"encoder\.layer\.(\d+)\.", key)
        block = "" if layer is None else f"blocks.{layer[1]}."
        name = key if layer is None else key[layer.end() :]
        stem, _, leaf = name.rpartition(".")
        if name in _HUGGING_FACE_NAMES:
            weights[_HUGGING_FACE_NAMES[name]] = value
        elif stem in _HUGGING_FACE_NAMES:
            weights[f"{block}{_HUGGING_FACE_NAMES[stem]}.{leaf}"] = value
        elif stem == _QUERY_KEY_VALUE[0]:
            parts = [tensors.get(key.replace(stem, part)) for part in _QUERY_KEY_VALUE]
            joined = [part for part in parts if part is not None and part.shape == value.shape]
            weights[f"{block}attn.qkv.{leaf}"] = torch.cat(joined)
        elif stem not in _QUERY_KEY_VALUE:
            weights[key] = value
    config, grid = _hugging_face_config(file.path.with_name("config.json"))
    return ForeignWeights(file.path, file.sha256, "AST, Hugging Face", weights, grid, file.ignored, config=config)


def _hugging_face_config(path: Path) -> tuple[Mapping[str, Any], PatchGrid]:
    """Hugging Face's config.json, and the grid of positions that it implies."""
    if not path.is_file():
        raise WeightsError(f"{path}: weights of Hugging Face need their config.json beside them")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        grid = PatchGrid(
            freq=(int(config["num_mel_bins"]) - PATCH_SIZE) // int(config["frequency_stride"]) + 1,
            time=(int(config["max_length"]) - PATCH_SIZE) // int(config["time_stride"]) + 1,
        )
    except (OSError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(
            f"{path}: num_mel_bins, max_length, frequency_stride and time_stride must be whole numbers: {error!r}"
        ) from error
    return config, grid


_TRANSLATIONS: dict[str, Callable[[_File], ForeignWeights]] = {
    "encoder.pos_embed": _from_own_run,
    "v.pos_embed": _from_ast,
    "embeddings.position_embeddings": _from_hugging_face,
    _HUGGING_FACE_PREFIX + "embeddings.position_embeddings": _from_hugging_face,
    "pos_embed": _from_imagenet,
}
