"""Weights from the files of others and from runs of our own: every file's names into ours, and nothing unexplained.

A file is recognised by its keys. Encoders of patches: ImageNet ViT / DeiT (timm), AudioSet AST and SSAST as their
authors published them, AST as Hugging Face stores it, a checkpoint of the published Patch-Mix program. Convolutional
ones: ResNet and EfficientNet as torchvision (and the published program) and Hugging Face store them, CNN6 of PANNs,
MobileNetV3 of EfficientAT. Both: a run of our own.
"""

import argparse
import hashlib
import json
import math
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lungsound.audio.filter_bank import EFFICIENTAT_RATE_HZ
from lungsound.axes import PATCH_SIZE, PatchGrid
from lungsound.config import ModelSettings
from lungsound.errors import WeightsError
from lungsound.models.ast import ENCODER_SIZES, NUM_PREFIX_TOKENS, AudioSpectrogramTransformer, Block
from lungsound.models.cnn import ConvolutionalEncoder
from lungsound.models.positions import PatchPlaces, adapt_positions, place_positions

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
        files = [path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()]
        if not files:
            raise WeightsError(f"{path}: no weights in this folder; it needs model.safetensors (and its config.json)")
        path = files[0]
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
    """Parts of a checkpoint beside its "model", each with the reason why it is not needed."""
    if unknown := [part for part in parts if part not in IGNORED_PARTS]:
        raise WeightsError(f"{path}: unexplained parts beside 'model': {first_keys(unknown)}; save the weights alone")
    return [(part, IGNORED_PARTS[part]) for part in parts]


def _named_tensors(path: Path, loaded: Any) -> dict[str, Tensor]:
    if not isinstance(loaded, dict) or not loaded:
        raise WeightsError(f"{path}: holds an empty or unnamed {type(loaded).__name__}, expected a dict of weights")
    if others := [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]:
        raise WeightsError(f"{path}: entries that are no weights: {first_keys(others)}; save the state_dict alone")
    return {str(key).removeprefix("module."): value for key, value in loaded.items()}


@dataclass
class ForeignWeights:
    """Weights of a file under the encoder's names, in float32; positions still on the grid of the file.

    keys              {encoder parameter: its key in the file}, where the two differ
    places            a PatchGrid alone is an image's, which has no place on a filter bank; None: the file does not
                      tell, positions can only be taken verbatim
    adapted           {encoder parameter: how}
    published_rule    what the published program does to these positions: it exchanges the axes ("swapped"), or not
                      ("straight"), or does not know such a file (None)
    head, label_set   of a run of ours: the weights of its head, and the name of the classes it tells apart
    config            Hugging Face's config.json
    settings          those of the encoder that the file names: norm_eps, pooling
    trained_on        settings of the sound input without which the weights mean little
    """

    file: WeightFile
    source_format: str
    weights: dict[str, Tensor]
    keys: Mapping[str, str] = field(default_factory=dict)
    places: PatchPlaces | PatchGrid | None = None
    adapted: dict[str, str] = field(default_factory=dict)
    published_rule: Literal["swapped", "straight"] | None = "swapped"
    head: dict[str, Tensor] = field(default_factory=dict)
    label_set: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    trained_on: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def ignored(self) -> list[tuple[str, str]]:
        """(key in the file, why)."""
        return self.file.ignored


def read_weights(path: Path) -> ForeignWeights:
    """Read an encoder's weights from a file, or from the one in a folder, and recognise them by their keys.

    Raises WeightsError for what cannot be read, is not known, or holds values that are no finite numbers.
    """
    file = open_weights(path)
    for marker, translate in _PATCH_FORMATS.items():
        positions = file.tensors.get(marker)
        if positions is not None:
            if positions.ndim != 3:
                raise WeightsError(f"{file.path}: {marker} is {tuple(positions.shape)}, expected (1, positions, dim)")
            return translate(file)
    if any(key.startswith("encoder.network.") for key in file.tensors):
        return _from_own_run(file)
    for layout in LAYOUTS:
        if any(re.match(layout.marker, key) for key in file.tensors):
            return _from_convolutional(file, layout)
    raise WeightsError(
        f"{file.path}: no weights of a known kind, its keys begin with {first_keys(list(file.tensors))}; expected a "
        "timm ViT or DeiT, an AST (original or Hugging Face), an SSAST, a run of lungsound or the published program, "
        f"{', '.join(layout.source_format for layout in LAYOUTS)}"
    )


def _from_own_run(file: WeightFile) -> ForeignWeights:
    """Weights that lungsound saved: encoder, head and projector."""
    header = file.metadata.get(FACTS_KEY, "{}")
    try:
        facts = json.loads(header)
        places, label_set = _own_places(facts), str(facts.get("label_set", "unknown"))
        settings = {name: value for name, value in facts.get("model", {}).items() if name in ("norm_eps", "pooling")}
        trained_on = dict(facts.get("audio", {}))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{file.path}: its header must name audio.num_mels, model.stride and patch_grid as [freq, time] that fit "
            f"together, got {header[:60]!r}"
        ) from error
    tensors = file.keep("encoder.", {"projector.": "projector of that run", "domain.": "what that run was trained on"})
    return ForeignWeights(
        file,
        OWN_RUN,
        weights={key: value for key, value in tensors.items() if not key.startswith(HEAD_PREFIX)},
        places=places,
        published_rule=None,
        head={key: value for key, value in tensors.items() if key.startswith(HEAD_PREFIX)},
        label_set=label_set,
        settings=settings,
        trained_on=trained_on,
    )


def _own_places(facts: Mapping[str, Any]) -> PatchPlaces | None:
    """Places of the patches that the header of a run names; None when it names no grid."""
    if facts.get("patch_grid") is None:
        return None
    freq, time = (int(size) for size in facts["patch_grid"])
    stride = int(facts["model"]["stride"])
    num_frames = PATCH_SIZE + stride * (time - 1)  # those under its patches
    places = PatchPlaces(int(facts["audio"]["num_mels"]), num_frames, stride, stride)
    if places.grid != PatchGrid(freq, time):
        raise ValueError(f"{places} has the grid {places.grid}")
    return places


def _from_imagenet(file: WeightFile) -> ForeignWeights:
    """timm's ViT or DeiT. Without a distillation token, the class token and its position serve for both."""
    weights = file.keep("", dict.fromkeys(("head.", "head_dist.", "pre_logits."), "ImageNet head"))
    kernel = weights.get("patch_embed.proj.weight")
    if kernel is not None and (kernel.ndim != 4 or kernel.shape[1] != 3):
        raise WeightsError(
            f"{file.path}: patch_embed.proj.weight is {tuple(kernel.shape)}, expected (dim, 3, 16, 16) of images"
        )
    adapted = {}
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
    return ForeignWeights(file, source_format, weights, places=PatchGrid(freq=side, time=side), adapted=adapted)


AUDIOSET_PLACES = {
    places.grid.num_patches: places
    for places in (PatchPlaces(128, 1024, stride, stride) for stride in (10, 12, 14, 16))
}
IMAGENET_HEADS = {"v.head.": "ImageNet head", "v.head_dist.": "ImageNet head"}
# Input of the models that were trained on AudioSet.
AUDIOSET_INPUT = {"filter_bank": "kaldi", "sample_rate_hz": 16000}


def _from_ast(file: WeightFile) -> ForeignWeights:
    """The original AST: AudioSet weights, SSAST's, or what the published Patch-Mix program made of them."""
    if "p_input_fdim" in file.tensors or "mask_embed" in file.tensors:
        return _from_ssast(file)
    num_patches = file.tensors["v.pos_embed"].shape[1] - NUM_PREFIX_TOKENS
    places = None if file.is_checkpoint else AUDIOSET_PLACES.get(num_patches)
    source_format, head = "run of the published program", "head that the published program does not train"
    if places is not None:
        source_format, head = "AudioSet AST, original", "AudioSet head"
    weights = file.keep("v.", IMAGENET_HEADS | {"mlp_head.": head})
    return ForeignWeights(file, source_format, weights, places=places, trained_on=AUDIOSET_INPUT)


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
    return ForeignWeights(file, "SSAST", weights, places=places, published_rule="straight", trained_on=AUDIOSET_INPUT)


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
    config = _hugging_face_config(file)
    names = ("num_mel_bins", "max_length", "frequency_stride", "time_stride")
    try:
        places = PatchPlaces(*(int(config[name]) for name in names))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{file.path.with_name('config.json')}: {', '.join(names)} must be whole numbers: {error!r}"
        ) from error
    settings = {"norm_eps": config["layer_norm_eps"]} if "layer_norm_eps" in config else {}
    return ForeignWeights(
        file,
        "AST, Hugging Face",
        weights,
        places=places,
        config=config,
        settings=settings,
        trained_on=AUDIOSET_INPUT,
    )


def _hugging_face_config(file: WeightFile) -> Mapping[str, Any]:
    """Hugging Face's settings of a model, beside its weights."""
    path = file.path.with_name("config.json")
    if not path.is_file():
        raise WeightsError(f"{path}: weights of Hugging Face need their config.json beside them")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError(f"a {type(config).__name__} in the place of an object")
        return config
    except (OSError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as the settings of a model: {error!r}") from error


_PATCH_FORMATS: dict[str, Callable[[WeightFile], ForeignWeights]] = {
    "encoder.pos_embed": _from_own_run,
    "v.pos_embed": _from_ast,
    "embeddings.position_embeddings": _from_hugging_face,
    HUGGING_FACE_PREFIX + "embeddings.position_embeddings": _from_hugging_face,
    "pos_embed": _from_imagenet,
}


@dataclass(frozen=True)
class Layout:
    """Names of the weights of a convolutional network in one kind of file.

    marker      pattern of a key that only this kind has
    ignored     {beginning of a key: why it is not needed}
    rename      {key of the file: name in the network}; None: the names are ours. An unknown key stays as it is
    trained_on  settings of the sound input without which the weights mean little
    """

    source_format: str
    marker: str
    ignored: Mapping[str, str]
    rename: Callable[[Sequence[str]], dict[str, str]] | None = None
    trained_on: Mapping[str, Any] = field(default_factory=dict)


def _from_convolutional(file: WeightFile, layout: Layout) -> ForeignWeights:
    kept = file.keep("", layout.ignored)
    renamed = {key: key for key in kept} if layout.rename is None else layout.rename(list(kept))
    keys = {f"network.{name}": key for key, name in renamed.items()}
    return ForeignWeights(
        file,
        layout.source_format,
        {name: kept[key] for name, key in keys.items()},
        keys=keys,
        config=_hugging_face_config(file) if layout.source_format.startswith("Hugging Face") else {},
        trained_on=layout.trained_on,
    )


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


def _without_prefix(keys: Sequence[str]) -> dict[str, str]:
    return {key: _HUGGING_FACE.sub("", key) for key in keys}


def _from_torchvision_resnet(keys: Sequence[str]) -> dict[str, str]:
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


def _from_torchvision_efficientnet(keys: Sequence[str]) -> dict[str, str]:
    """torchvision numbers the blocks within each stage, Hugging Face throughout."""
    names = {key: key for key in keys}
    matches = {key: match for key in keys if (match := _EFFICIENTNET_BLOCK.fullmatch(key))}
    blocks = sorted({(int(match[1]), int(match[2])) for match in matches.values()})
    expanded = {(int(match[1]), int(match[2])) for match in matches.values() if match[3] == "3"}
    for key in keys:
        stem, _, leaf = key.rpartition(".")
        if stem in _EFFICIENTNET_EDGES:
            names[key] = f"{_EFFICIENTNET_EDGES[stem]}.{leaf}"
    for key, match in matches.items():
        block = (int(match[1]), int(match[2]))
        part = int(match[3]) + (block not in expanded)
        if part < len(_EFFICIENTNET_PARTS):
            layer = _EFFICIENTNET_PARTS[part][match[4] in ("1", "fc2")]
            names[key] = f"encoder.blocks.{blocks.index(block)}.{layer}.{match[5]}"
    return names


LAYOUTS = (
    Layout("torchvision ResNet", r"conv1\.weight$", {"fc.": "ImageNet head"}, _from_torchvision_resnet),
    Layout(
        "torchvision EfficientNet",
        r"features\.\d+\.\d+\.block\.",
        {"classifier.": "ImageNet head"},
        _from_torchvision_efficientnet,
    ),
    Layout(
        "EfficientAT MobileNetV3",
        r"features\.\d+\.block\.",
        {"classifier.": "AudioSet head"},
        trained_on={"filter_bank": "efficientat", "sample_rate_hz": EFFICIENTAT_RATE_HZ},
    ),
    Layout(
        "PANNs CNN",
        r"conv_block1\.",
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
        {"classifier.": "head of another task"},
        _without_prefix,
    ),
    Layout(
        "Hugging Face EfficientNet",
        r"(efficientnet\.)?embeddings\.convolution\.",
        {"classifier.": "head of another task"},
        _without_prefix,
    ),
)


@dataclass(frozen=True)
class LoadReport:
    """Account of the weights of a file.

    used            parameters taken as they are (at most renamed, joined or cast to float32): the encoder's, and
                    "head.<name>" where the head was taken too
    adapted         (encoder parameter, how)
    new             parameters left at their random initialisation; none of the encoder's, because every one is
                    needed: a caller that builds a head beside it adds the head's
    ignored         (key in the file, why)
    differences     settings of the file that the encoder does not share
    head_label_set  name of the classes that a head which was taken told apart ("unknown" when the file does not say)
    trained_on      settings of the sound input that the weights were trained on, as far as they are known
    """

    source_format: str
    sha256: str
    used: tuple[str, ...]
    adapted: tuple[tuple[str, str], ...]
    new: tuple[str, ...]
    ignored: tuple[tuple[str, str], ...]
    differences: tuple[str, ...] = ()
    head_label_set: str | None = None
    trained_on: Mapping[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        """A few lines for the log."""
        lines = [f"{self.source_format}, sha256 {self.sha256[:16]}: {len(self.used)} parameters used as they are"]
        lines += [f"  adapted {key}: {how}" for key, how in self.adapted]
        if self.head_label_set is not None:
            lines.append(f"  among them the head of that run, for the classes of {self.head_label_set}")
        if self.new:
            lines.append(f"  new: {first_keys(list(self.new))}")
        reasons = [why for _, why in self.ignored]
        lines += [f"  ignored {reasons.count(why)}: {why}" for why in dict.fromkeys(reasons)]
        lines += [f"  differs: {difference}" for difference in self.differences]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()


def load_weights(
    encoder: AudioSpectrogramTransformer | ConvolutionalEncoder,
    path: Path,
    settings: ModelSettings,
    *,
    head: nn.Module | None = None,
) -> LoadReport:
    """Put the weights at `path` (a file, or a folder with `model.safetensors`) into `encoder`.

    Positions of another grid are adapted. `settings.position_grid` "aligned" gives each patch those of its own place
    (`place_positions`), and cuts or interpolates the grid of an image; "published" does what the authors' program does:
    the axes exchanged, but not for SSAST (`adapt_positions`). A run of ours is always aligned, verbatim where it has
    the same patches. Positions of the published program are taken verbatim or refused. A convolutional first kernel
    over red, green and blue is summed over them or, with `settings.first_kernel` "new", left as it is in the encoder,
    as in the published program. `head` takes the weights of the head of a run of ours; nothing else has one for these
    classes. Encoder and head are changed only when everything fits. Raises WeightsError for what cannot be read, does
    not fit, or is not explained.
    """
    read = read_weights(path)
    first_kernel = settings.first_kernel if isinstance(encoder, ConvolutionalEncoder) else "sum"
    new = _adapt_first_kernel(read, encoder, first_kernel)
    if isinstance(encoder, ConvolutionalEncoder):
        differences = _compare_convolutional(read, encoder)
    else:
        _check_size(read, encoder)
        differences = _compare_settings(read, encoder)
        _adapt_positions_of(read, encoder, settings.position_grid)
    own = encoder.state_dict()
    _check_fit(read, encoder, own, new)
    if head is None:
        read.ignored.extend((key, "head of that run") for key in read.head)
    else:
        _load_head(read, head)
    encoder.load_state_dict(own | read.weights)
    used = [name for name in own if name in read.weights and name not in read.adapted]
    return LoadReport(
        source_format=read.source_format,
        sha256=read.file.sha256,
        used=(*used, *(() if head is None else read.head)),
        adapted=tuple(read.adapted.items()),
        new=new,
        ignored=tuple(read.ignored),
        differences=differences,
        head_label_set=None if head is None else read.label_set,
        trained_on=read.trained_on,
    )


def _adapt_first_kernel(
    read: ForeignWeights, encoder: nn.Module, first_kernel: Literal["sum", "new"]
) -> tuple[str, ...]:
    """Bring a first kernel of images to one channel, in the weights; the name of one that is drawn anew."""
    name = next(name for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d)) + ".weight"
    kernel = read.weights.get(name)
    if kernel is None or kernel.ndim != 4 or kernel.shape[1] != 3:
        return ()
    if first_kernel == "new":
        del read.weights[name]
        read.ignored.append((read.keys[name], "first kernel, drawn anew"))
        return (name,)
    read.weights[name] = kernel.sum(dim=1, keepdim=True)
    read.adapted[name] = "sum of the red, green and blue kernels"
    return ()


def _check_fit(read: ForeignWeights, encoder: nn.Module, own: Mapping[str, Tensor], new: Sequence[str]) -> None:
    """WeightsError unless every weight has its place and every place its weight."""
    what = f"{read.path}: {read.source_format} weights do not fit {getattr(encoder, 'architecture', 'the encoder')}"
    if unexplained := [read.keys.get(name, name) for name in read.weights if name not in own]:
        raise WeightsError(f"{what}: no place in it for {first_keys(unexplained)}")
    for name, value in read.weights.items():
        if value.shape != own[name].shape:
            key = read.keys.get(name, name)
            raise WeightsError(f"{what}: {key} is {tuple(value.shape)}, expected {tuple(own[name].shape)}")
    optional = {*new, *(name for name in own if name.endswith(COUNTER))}
    if missing := [name for name in own if name not in read.weights and name not in optional]:
        raise WeightsError(f"{what}: missing {first_keys(missing)}")


def _load_head(read: ForeignWeights, head: nn.Module) -> None:
    """Put the head of a run of ours into `head`; the last thing that can fail."""
    if not read.head:
        raise WeightsError(
            f"{read.path}: {read.source_format} has no head for these classes; only a run of lungsound has one"
        )
    given = {key: tuple(value.shape) for key, value in read.head.items()}
    wanted = {HEAD_PREFIX + key: tuple(value.shape) for key, value in head.state_dict().items()}
    for key in wanted | given:
        if given.get(key) != wanted.get(key):
            raise WeightsError(
                f"{read.path}: {key} is {given.get(key, 'missing')}, expected {wanted.get(key, 'no such weight')}: "
                "a head is taken from a run with the same classes"
            )
    head.load_state_dict({key.removeprefix(HEAD_PREFIX): value for key, value in read.head.items()})


def _check_size(read: ForeignWeights, encoder: AudioSpectrogramTransformer) -> None:
    """WeightsError that names the right size: a wrong one is the commonest mistake."""
    if "pos_embed" not in read.weights:
        raise WeightsError(f"{read.path}: {read.source_format} weights do not fit the encoder: they are of no patches")
    blocks = {match[1] for key in read.weights if (match := re.match(r"blocks\.(\d+)\.", key))}
    given = (read.weights["pos_embed"].shape[-1], len(blocks))
    wanted = (encoder.dim, len(encoder.blocks))
    if given == wanted:
        return
    names = {(size.dim, size.depth): name for name, size in ENCODER_SIZES.items()}
    advice = f"choose encoder size {names[given]!r}" if given in names else "no encoder size fits them"
    raise WeightsError(
        f"{read.path}: weights of dim {given[0]} with {given[1]} blocks do not fit an encoder of dim {wanted[0]} with "
        f"{wanted[1]} blocks: {advice}"
    )


def _compare_settings(read: ForeignWeights, encoder: AudioSpectrogramTransformer) -> tuple[str, ...]:
    """Settings that no tensor shows: a line for each that differs; refused where the weights would mean nothing."""
    num_heads = cast(Block, encoder.blocks[0]).attn.num_heads
    for name, wanted in (("num_attention_heads", num_heads), ("hidden_act", "gelu"), ("patch_size", PATCH_SIZE)):
        given = read.config.get(name, wanted)
        if given != wanted:
            raise WeightsError(
                f"{read.path.with_name('config.json')}: {name} is {given!r}, but {wanted!r} in the encoder"
            )
    ours = {"norm_eps": encoder.norm.eps, "pooling": encoder.pooling}
    return tuple(
        f"{name} is {given} in the file and {ours[name]} in the encoder"
        for name, given in read.settings.items()
        if given != ours[name]
    )


def _compare_convolutional(read: ForeignWeights, encoder: ConvolutionalEncoder) -> tuple[str, ...]:
    """Hugging Face's settings that no tensor shows, as `_compare_settings`."""
    config, differences = read.config, []
    for setting in ("downsample_in_first_stage", "downsample_in_bottleneck"):
        if config.get(setting, False):
            path = read.path.with_name("config.json")
            raise WeightsError(f"{path}: {setting} is true, but false in {encoder.architecture}")
    eps = next(module.eps for module in encoder.modules() if isinstance(module, nn.BatchNorm2d))
    if config.get("batch_norm_eps", eps) != eps:
        differences.append(f"batch_norm_eps is {config['batch_norm_eps']} in the file's config.json and {eps} here")
    if "depthwise_padding" in config:
        blocks = config["depthwise_padding"]
        differences.append(f"symmetric padding in blocks {blocks} of the file's model, in all blocks here")
    return tuple(differences)


def _adapt_positions_of(read: ForeignWeights, encoder: AudioSpectrogramTransformer, position_grid: str) -> None:
    """Bring the positions of the file to the encoder's patches, in the weights, and note how."""
    positions, source = read.weights["pos_embed"], read.places
    num_patches = positions.shape[1] - NUM_PREFIX_TOKENS
    if source is None:
        if num_patches != encoder.grid.num_patches:
            raise WeightsError(
                f"{read.path}: its {num_patches} learnt positions, on a grid that it does not name, do not fit the "
                f"{encoder.grid.num_patches} patches of this encoder: set duration, mels and stride as in that run"
            )
        return
    old = source.grid if isinstance(source, PatchPlaces) else source
    if num_patches != old.num_patches:
        raise WeightsError(
            f"{read.path}: {num_patches} patch positions, but its grid of {old.freq}x{old.time} needs {old.num_patches}"
        )
    target = PatchPlaces(encoder.num_mels, encoder.num_frames, encoder.stride, encoder.stride)
    is_published = position_grid == "published" and read.published_rule is not None
    is_same = target.has_patches_of(source) if isinstance(source, PatchPlaces) else target.grid == source
    if is_same and not is_published:
        return
    if isinstance(source, PatchPlaces) and not is_published:
        adapted = place_positions(positions, source=source, target=target)
    else:
        is_swapped = is_published and read.published_rule == "swapped"
        adapted = adapt_positions(positions, source_grid=old, target_grid=target.grid, is_swapped=is_swapped)
    read.weights["pos_embed"] = adapted
    new, rule = target.grid, "published" if is_published else "aligned"
    how = f"{old.freq}x{old.time} to {new.freq}x{new.time} (freq x time), {rule}"
    before = read.adapted.get("pos_embed")
    read.adapted["pos_embed"] = how if before is None else f"{before}; {how}"
