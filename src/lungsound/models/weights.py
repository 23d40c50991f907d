"""Read a file of weights into named tensors, without running what is in it.

Recognise the format of an encoder's weights, and give them the encoder's names.

Six formats are told apart by their keys: ImageNet ViT / DeiT (timm), AudioSet AST and SSAST as their authors published
them, AST as Hugging Face stores it, a run of our own, and a checkpoint of the published Patch-Mix program.

Names of a convolutional encoder's weights in the files of others.
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
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from lungsound.audio.filter_bank import EFFICIENTAT_RATE_HZ
from lungsound.axes import PATCH_SIZE, PatchGrid
from lungsound.errors import WeightsError
from lungsound.models.ast import NUM_PREFIX_TOKENS
from lungsound.models.positions import PatchPlaces

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


AUDIOSET_PLACES = {
    places.grid.num_patches: places
    for places in (PatchPlaces(128, 1024, stride, stride) for stride in (10, 12, 14, 16))
}
IMAGENET_HEADS = {"v.head.": "ImageNet head", "v.head_dist.": "ImageNet head"}
# Input of the models that were trained on AudioSet.
AUDIOSET_INPUT = {"filter_bank": "kaldi", "sample_rate_hz": 16000}


@dataclass
class ForeignWeights:
    """Weights under the encoder's names, in float32; positions still on the grid of the file.

    places            a PatchGrid alone is an image's, which has no place on a filter bank; None: the file does not
                      tell, positions can only be taken verbatim
    ignored           (key in the file, why)
    adapted           {encoder parameter: how}
    published_rule    what the published program does to these positions: it exchanges the axes ("swapped"), or not
                      ("straight"), or does not know such a file (None)
    head, label_set   of a run of ours: the weights of its head, and the name of the classes it tells apart
    config            Hugging Face's config.json
    settings          those of the encoder that the file names: norm_eps, pooling
    trained_on        settings of the sound input without which the weights mean little
    """

    path: Path
    sha256: str
    source_format: str
    weights: dict[str, Tensor]
    places: PatchPlaces | PatchGrid | None
    ignored: list[tuple[str, str]]
    adapted: dict[str, str] = field(default_factory=dict)
    published_rule: Literal["swapped", "straight"] | None = "swapped"
    head: dict[str, Tensor] = field(default_factory=dict)
    label_set: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    trained_on: Mapping[str, Any] = field(default_factory=dict)


def read_weights(path: Path) -> ForeignWeights:
    """Read an encoder's weights from a file, or from the one in a folder, and recognise them by their keys.

    Raises WeightsError for what cannot be read, is not known, or holds values that are no finite numbers.
    """
    file = open_weights(path)
    for marker, translate in _TRANSLATIONS.items():
        positions = file.tensors.get(marker)
        if positions is not None:
            if positions.ndim != 3:
                raise WeightsError(f"{file.path}: {marker} is {tuple(positions.shape)}, expected (1, positions, dim)")
            return translate(file)
    raise WeightsError(
        f"{file.path}: no weights of a known kind, its keys begin with {first_keys(list(file.tensors))}; expected a "
        "timm ViT or DeiT, an AST (original or Hugging Face), an SSAST, a run of lungsound or of the published program"
    )


def _from_imagenet(file: WeightFile) -> ForeignWeights:
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


def _from_ast(file: WeightFile) -> ForeignWeights:
    """The original AST: AudioSet weights, or what the published Patch-Mix program made of them (same names)."""
    if "p_input_fdim" in file.tensors or "mask_embed" in file.tensors:
        return _from_ssast(file)
    num_patches = file.tensors["v.pos_embed"].shape[1] - NUM_PREFIX_TOKENS
    places = None if file.is_checkpoint else AUDIOSET_PLACES.get(num_patches)
    source_format, head = "run of the published program", "head that the published program does not train"
    if places is not None:
        source_format, head = "AudioSet AST, original", "AudioSet head"
    weights = file.keep("v.", IMAGENET_HEADS | {"mlp_head.": head})
    return ForeignWeights(
        file.path, file.sha256, source_format, weights, places, file.ignored, trained_on=AUDIOSET_INPUT
    )


def _from_ssast(file: WeightFile) -> ForeignWeights:
    """SSAST before fine-tuning: an AST that was trained to recognise masked patches, without overlap of patches."""
    kernel = file.tensors.get("v.patch_embed.proj.weight")
    if kernel is not None and tuple(kernel.shape[2:]) != (PATCH_SIZE, PATCH_SIZE):
        raise WeightsError(
            f"{file.path}: patches of {'x'.join(map(str, kernel.shape[2:]))} (mel x frame), but {PATCH_SIZE}x"
            f"{PATCH_SIZE} in the encoder: take an SSAST of patches (SSAST-Base-Patch-400.pth), not one of frames"
        )
    sizes = [file.tensors.get(f"p_input_{axis}dim", torch.zeros(0)).flatten().tolist() for axis in "ft"]
    try:
        (num_mels,), (num_frames,) = sizes
        places = PatchPlaces(int(num_mels), int(num_frames), PATCH_SIZE, PATCH_SIZE)
    except (ValueError, OverflowError) as error:
        raise WeightsError(
            f"{file.path}: p_input_fdim and p_input_tdim must be the mels and frames of its training input, got {sizes}"
        ) from error
    reasons = IMAGENET_HEADS | {
        "p_input_": "size of the training input",
        "mask_embed": "stands for a masked patch in self-supervised training",
        "cpredlayer.": "head of self-supervised training",
        "gpredlayer.": "head of self-supervised training",
    }
    weights = file.keep("v.", reasons)
    return ForeignWeights(
        file.path,
        file.sha256,
        "SSAST",
        weights,
        places,
        file.ignored,
        published_rule="straight",
        trained_on=AUDIOSET_INPUT,
    )


def _from_own_run(file: WeightFile) -> ForeignWeights:
    """Weights that lungsound saved: encoder, head and projector."""
    header = file.metadata.get(FACTS_KEY, "{}")
    try:
        facts = json.loads(header)
        places, label_set = _own_places(facts), str(facts.get("label_set", "unknown"))
        named = {name: value for name, value in facts.get("model", {}).items() if name in ("norm_eps", "pooling")}
        trained_on = dict(facts.get("audio", {}))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{file.path}: its header must name audio.num_mels, model.stride and patch_grid as [freq, time] that fit "
            f"together, got {header[:60]!r}"
        ) from error
    tensors = file.keep("encoder.", {"projector.": "projector of that run", "domain.": "what that run was trained on"})
    return ForeignWeights(
        file.path,
        file.sha256,
        OWN_RUN,
        weights={key: value for key, value in tensors.items() if not key.startswith(HEAD_PREFIX)},
        places=places,
        ignored=file.ignored,
        published_rule=None,
        head={key: value for key, value in tensors.items() if key.startswith(HEAD_PREFIX)},
        label_set=label_set,
        settings=named,
        trained_on=trained_on,
    )


def _own_places(facts: Mapping[str, Any]) -> PatchPlaces | None:
    """The places that the header of a run names; None when it names no grid."""
    if facts.get("patch_grid") is None:
        return None
    freq, time = (int(size) for size in facts["patch_grid"])
    stride = int(facts["model"]["stride"])
    num_frames = PATCH_SIZE + stride * (time - 1)  # those under its patches
    places = PatchPlaces(int(facts["audio"]["num_mels"]), num_frames, stride, stride)
    if places.grid != PatchGrid(freq, time):
        raise ValueError(f"{places} has the grid {places.grid}")
    return places


HUGGING_FACE_PREFIX = "audio_spectrogram_transformer."
HUGGING_FACE_NAMES = {
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
QUERY_KEY_VALUE = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))


def _from_hugging_face(file: WeightFile) -> ForeignWeights:
    """Hugging Face's AST; query, key and value are joined, strides and lengths come from config.json."""
    tensors = file.keep(HUGGING_FACE_PREFIX, {"classifier.": "head of another task"})
    weights: dict[str, Tensor] = {}
    for key, value in tensors.items():
        layer = re.match(r"encoder\.layer\.(\d+)\.", key)
        block = "" if layer is None else f"blocks.{layer[1]}."
        name = key if layer is None else key[layer.end() :]
        stem, _, leaf = name.rpartition(".")
        if name in HUGGING_FACE_NAMES:
            weights[HUGGING_FACE_NAMES[name]] = value
        elif stem in HUGGING_FACE_NAMES:
            weights[f"{block}{HUGGING_FACE_NAMES[stem]}.{leaf}"] = value
        elif stem == QUERY_KEY_VALUE[0]:
            parts = [tensors.get(key.replace(stem, part)) for part in QUERY_KEY_VALUE]
            joined = [part for part in parts if part is not None and part.shape == value.shape]
            weights[f"{block}attn.qkv.{leaf}"] = torch.cat(joined)
        elif stem not in QUERY_KEY_VALUE:
            weights[key] = value
    config, places = _hugging_face_config(file.path.with_name("config.json"))
    named = {"norm_eps": config["layer_norm_eps"]} if "layer_norm_eps" in config else {}
    return ForeignWeights(
        file.path,
        file.sha256,
        "AST, Hugging Face",
        weights,
        places,
        file.ignored,
        config=config,
        settings=named,
        trained_on=AUDIOSET_INPUT,
    )


def _hugging_face_config(path: Path) -> tuple[Mapping[str, Any], PatchPlaces]:
    """Hugging Face's config.json, and the places of positions that it implies."""
    if not path.is_file():
        raise WeightsError(f"{path}: weights of Hugging Face need their config.json beside them")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        names = ("num_mel_bins", "max_length", "frequency_stride", "time_stride")
        places = PatchPlaces(*(int(config[name]) for name in names))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: num_mel_bins, max_length, frequency_stride and time_stride must be whole numbers: {error!r}"
        ) from error
    return config, places


_TRANSLATIONS: dict[str, Callable[[WeightFile], ForeignWeights]] = {
    "encoder.pos_embed": _from_own_run,
    "v.pos_embed": _from_ast,
    "embeddings.position_embeddings": _from_hugging_face,
    HUGGING_FACE_PREFIX + "embeddings.position_embeddings": _from_hugging_face,
    "pos_embed": _from_imagenet,
}


# Hugging Face's file starts with the model's name when it has a head beside it.
_HUGGING_FACE = re.compile(r"(resnet|efficientnet)\.(?=embedd|encoder\.)")
_RESNET_STEMS = {"conv1": "embedder.embedder.convolution", "bn1": "embedder.embedder.normalization"}
_RESNET_LAYER = re.compile(r"layer(\d+)\.(\d+)\.(?:(conv|bn)(\d+)|downsample\.([01]))\.(\w+)")
_EFFICIENTNET_EDGES = {
    "features.0.0": "embeddings.convolution",
    "features.0.1": "embeddings.batchnorm",
    "features.8.0": "encoder.top_conv",
    "features.8.1": "encoder.top_bn",
}
_EFFICIENTNET_BLOCK = re.compile(r"features\.(\d+)\.(\d+)\.block\.(\d+)\.(0|1|fc1|fc2)\.(\w+)")
# The four parts of a block, each a first and a second layer; the blocks of the first stage have no expansion.
_EFFICIENTNET_PARTS = (
    ("expansion.expand_conv", "expansion.expand_bn"),
    ("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
    ("squeeze_excite.reduce", "squeeze_excite.expand"),
    ("projection.project_conv", "projection.project_bn"),
)


@dataclass(frozen=True)
class Layout:
    """How one kind of file names the weights.

    marker      pattern of a key that only this kind has
    rename      {key of the file: name in the network}; a key that it does not know stays as it is
    ignored     {beginning of a key: why it is not needed}
    trained_on  settings of the sound input without which the weights mean little
    """

    source_format: str
    marker: str
    rename: Callable[[list[str]], dict[str, str]]
    ignored: Mapping[str, str]
    trained_on: Mapping[str, Any] = field(default_factory=dict)


def layout_of(file: WeightFile) -> Layout | None:
    """The layout of the file's keys; None for a kind that is not known."""
    return next((layout for layout in LAYOUTS if any(re.match(layout.marker, key) for key in file.tensors)), None)


def _as_they_are(keys: list[str]) -> dict[str, str]:
    return {key: key for key in keys}


def _convolutional_names_from_own_run(keys: list[str]) -> dict[str, str]:
    return {key: key.removeprefix("encoder.network.") for key in keys}


def _convolutional_names_from_hugging_face(keys: list[str]) -> dict[str, str]:
    return {key: _HUGGING_FACE.sub("", key) for key in keys}


def _from_torchvision_resnet(keys: list[str]) -> dict[str, str]:
    names = {}
    for key in keys:
        stem, _, leaf = key.rpartition(".")
        names[key] = f"{_RESNET_STEMS[stem]}.{leaf}" if stem in _RESNET_STEMS else key
        if match := _RESNET_LAYER.fullmatch(key):
            stage, layer, kind, number, shortcut, leaf = match.groups()
            place = "shortcut" if number is None else f"layer.{int(number) - 1}"
            part = "convolution" if kind == "conv" or shortcut == "0" else "normalization"
            names[key] = f"encoder.stages.{int(stage) - 1}.layers.{layer}.{place}.{part}.{leaf}"
    return names


def _from_torchvision_efficientnet(keys: list[str]) -> dict[str, str]:
    """torchvision numbers the blocks within each stage, Hugging Face throughout."""
    names = _as_they_are(keys)
    found = {key: match for key in keys if (match := _EFFICIENTNET_BLOCK.fullmatch(key))}
    blocks = sorted({(int(match[1]), int(match[2])) for match in found.values()})
    expanded = {(int(match[1]), int(match[2])) for match in found.values() if match[3] == "3"}
    for key in keys:
        stem, _, leaf = key.rpartition(".")
        if stem in _EFFICIENTNET_EDGES:
            names[key] = f"{_EFFICIENTNET_EDGES[stem]}.{leaf}"
    for key, match in found.items():
        block = (int(match[1]), int(match[2]))
        part = int(match[3]) + (block not in expanded)
        if part < len(_EFFICIENTNET_PARTS):
            layer = _EFFICIENTNET_PARTS[part][match[4] in ("1", "fc2")]
            names[key] = f"encoder.blocks.{blocks.index(block)}.{layer}.{match[5]}"
    return names


LAYOUTS = (
    Layout(
        OWN_RUN,
        r"encoder\.(network\.|pos_embed$)",
        _convolutional_names_from_own_run,
        {"projector.": "projector of that run"},
    ),
    Layout("torchvision ResNet", r"conv1\.weight$", _from_torchvision_resnet, {"fc.": "ImageNet head"}),
    Layout(
        "torchvision EfficientNet",
        r"features\.\d+\.\d+\.block\.",
        _from_torchvision_efficientnet,
        {"classifier.": "ImageNet head"},
    ),
    Layout(
        "EfficientAT MobileNetV3",
        r"features\.\d+\.block\.",
        _as_they_are,
        {"classifier.": "AudioSet head"},
        {"filter_bank": "efficientat", "sample_rate_hz": EFFICIENTAT_RATE_HZ},
    ),
    Layout(
        "PANNs CNN",
        r"conv_block1\.",
        _as_they_are,
        {
            "spectrogram_extractor.": "PANNs' own front end",
            "logmel_extractor.": "PANNs' own front end",
            "bn0.": "batch norm of PANNs' own front end",
            "fc1.": "AudioSet head",
            "fc_audioset.": "AudioSet head",
        },
    ),
    Layout(
        "Hugging Face ResNet",
        r"(resnet\.)?embedder\.embedder\.",
        _convolutional_names_from_hugging_face,
        {"classifier.": "head of another task"},
    ),
    Layout(
        "Hugging Face EfficientNet",
        r"(efficientnet\.)?embeddings\.convolution\.",
        _convolutional_names_from_hugging_face,
        {"classifier.": "head of another task"},
    ),
)
