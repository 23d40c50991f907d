"""Weights from the files of others and from runs of our own: every file's names into ours, and nothing unexplained.

A file is recognised by its keys; the kinds and their names are in weight_layouts.toml.
"""

import argparse
import math
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lungsound.axes import PATCH_SIZE, PatchGrid
from lungsound.config import ModelSettings
from lungsound.errors import WeightsError
from lungsound.files import first_names, hash_file, parse_json, read_json, shipped
from lungsound.models.ast import (
    ENCODER_SIZES,
    NUM_PREFIX_TOKENS,
    AudioSpectrogramTransformer,
    Block,
    PatchPlaces,
    adapt_positions,
    place_positions,
)
from lungsound.models.cnn import ConvolutionalEncoder

# Ends the key of a count of a batch norm's batches. Nothing reads it at a fixed momentum; older files do not have it.
COUNTER = ".num_batches_tracked"
HEAD_PREFIX = "head."  # of a run of our own
FACTS_KEY = "lungsound"  # in the header of a run of our own, over its facts in JSON
AUDIOSET_PLACES = {
    places.grid.num_patches: places
    for places in (PatchPlaces(128, 1024, stride, stride) for stride in (10, 12, 14, 16))
}


@dataclass(frozen=True)
class Layout:
    """A kind of file, as weight_layouts.toml describes it."""

    source_format: str
    marker: str
    ignored: Mapping[str, str] = field(default_factory=dict)
    names: Sequence[tuple[str, str]] = ()
    stems: Mapping[str, str] = field(default_factory=dict)
    published_rule: Literal["swapped", "straight"] | None = None
    trained_on: Mapping[str, Any] = field(default_factory=dict)

    def rename(self, keys: Iterable[str]) -> dict[str, str]:
        """Our name for each key of such a file."""
        names = {}
        for key in keys:
            name = key
            for pattern, replacement in self.names:
                name = re.sub(pattern, replacement, name)
            parts = re.fullmatch(r"(blocks\.\d+\.)?(.*?)(\.weight|\.bias)?", name, re.DOTALL)
            assert parts is not None  # any text is such
            names[key] = (parts[1] or "") + self.stems.get(parts[2], parts[2]) + (parts[3] or "")
        blocks = {(int(m[1]), int(m[2])) for name in names.values() if (m := re.search(r"blocks\.(\d+)-(\d+)", name))}
        for number, (stage, block) in enumerate(sorted(blocks)):
            names = {key: name.replace(f"blocks.{stage}-{block}.", f"blocks.{number}.") for key, name in names.items()}
        return names


_DATA = shipped("models", "weight_layouts.toml")
IGNORED_PARTS: dict[str, str] = _DATA["parts"]
LAYOUTS = {each["source_format"]: Layout(**each) for each in _DATA["layout"]}


@dataclass(frozen=True)
class WeightFile:
    """A file as it was read; `module.` prefixes are gone. `ignored` lists (key, why)."""

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    ignored: list[tuple[str, str]]
    metadata: Mapping[str, str]
    is_checkpoint: bool


def open_weights(path: Path) -> WeightFile:
    """The named tensors in a file, or in the one of a folder, of whatever model; nothing in the file is run."""
    if path.is_dir():
        files = [path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()]
        if not files:
            raise WeightsError(f"{path}: no weights in this folder; it needs model.safetensors (and its config.json)")
        path = files[0]
    if not path.is_file() or path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        reason = "unknown kind of file" if path.is_file() else "no such file"
        raise WeightsError(f"{path}: {reason}; weights are a .safetensors, .pth, .pt or .bin file, or a folder")
    loaded: Any
    metadata: dict[str, str] = {}
    try:
        sha256 = hash_file(path)
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as opened:
                loaded = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
                metadata = opened.metadata() or {}
        else:
            # The published program pickles its settings as an argparse.Namespace; building one runs nothing.
            with torch.serialization.safe_globals([argparse.Namespace]):
                loaded = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: damaged, or holds more than weights and is not opened; where it was made, save the weights "
            "alone: torch.save({'model': model.state_dict()}, 'weights.pth')"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path}: cannot be read as weights, it may be truncated: {line}") from error
    ignored = []
    is_checkpoint = isinstance(loaded, dict) and isinstance(loaded.get("model"), dict)
    if is_checkpoint:
        parts = [str(key) for key in loaded if key != "model"]
        if unknown := [part for part in parts if part not in IGNORED_PARTS]:
            raise WeightsError(
                f"{path}: unexplained parts beside 'model': {first_names(unknown)}; save the weights alone"
            )
        ignored = [(part, IGNORED_PARTS[part]) for part in parts]
        loaded = loaded["model"]
    if not isinstance(loaded, dict) or not loaded:
        raise WeightsError(f"{path}: holds an empty or unnamed {type(loaded).__name__}, expected a dict of weights")
    if others := [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]:
        raise WeightsError(f"{path}: entries that are no weights: {first_names(others)}; save the state_dict alone")
    tensors = {str(key).removeprefix("module."): value for key, value in loaded.items()}
    return WeightFile(path, sha256, tensors, ignored, metadata, is_checkpoint)


@dataclass
class ForeignWeights:
    """Weights of a file under the encoder's names, in float32; positions still on the grid of the file."""

    file: WeightFile
    layout: Layout
    source_format: str
    trained_on: Mapping[str, Any]
    weights: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)  # in the file, by the encoder's parameter
    places: PatchPlaces | PatchGrid | None = None  # PatchGrid: of an image; None: not known, only taken verbatim
    adapted: dict[str, str] = field(default_factory=dict)  # how, by the encoder's parameter
    head: dict[str, Tensor] = field(default_factory=dict)  # of a run of ours
    label_set: str | None = None  # of that head
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the model, in the file or in config.json beside it

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def num_patches(self) -> int:
        return self.weights["pos_embed"].shape[1] - NUM_PREFIX_TOKENS


def read_weights(path: Path) -> ForeignWeights:
    """Read an encoder's weights from a file, or from the one in a folder, and recognise them by their keys."""
    file = open_weights(path)
    layout = next((one for one in LAYOUTS.values() if any(re.match(one.marker, key) for key in file.tensors)), None)
    if layout is None:
        raise WeightsError(
            f"{file.path}: no weights of a known kind, its keys begin with {first_names(list(file.tensors))}; expected "
            f"one of: {', '.join(LAYOUTS)}"
        )
    read = ForeignWeights(file, layout, layout.source_format, layout.trained_on)
    for key, name in layout.rename(file.tensors).items():
        value = file.tensors[key]
        reason = next((why for start, why in layout.ignored.items() if key.startswith(start)), None)
        is_counter = key.endswith(COUNTER)
        if reason is not None:
            file.ignored.append((key, reason))
            continue
        if not is_counter and not (value.is_floating_point() and value.isfinite().all()):
            raise WeightsError(f"{file.path}: {key} ({value.dtype}) holds values that are no finite numbers")
        read.keys[name] = key
        read.weights[name] = value.to(torch.int64) if is_counter else value.float()
    positions = read.weights.get("pos_embed")
    if positions is not None and positions.ndim != 3:
        key = read.keys["pos_embed"]
        raise WeightsError(f"{file.path}: {key} is {tuple(positions.shape)}, expected (1, positions, dim)")
    if layout.source_format == "run of lungsound":
        _read_own_run(read)
    elif layout.source_format == "ImageNet ViT":
        _read_imagenet(read)
    elif layout.source_format == "AudioSet AST, original":
        read.places = None if file.is_checkpoint else AUDIOSET_PLACES.get(read.num_patches)
        if read.places is None:
            read.source_format = "run of the published program"
    elif layout.source_format == "SSAST":
        _read_ssast(read)
    elif "Hugging Face" in layout.source_format:
        _read_hugging_face(read)
    return read


def _read_own_run(read: ForeignWeights) -> None:
    """Head and header of a run; the patches have no places when the header names no grid."""
    header = read.file.metadata.get(FACTS_KEY, "{}")
    try:
        facts = parse_json(header, WeightsError, path=read.path, is_nan_allowed=True)
        read.label_set = str(facts.get("label_set", "unknown"))
        read.settings, read.trained_on = dict(facts.get("model", {})), dict(facts.get("audio", {}))
        if facts.get("patch_grid") is not None:
            freq, time = (int(size) for size in facts["patch_grid"])
            stride = int(read.settings["stride"])
            num_frames = PATCH_SIZE + stride * (time - 1)  # those under its patches
            read.places = PatchPlaces(int(read.trained_on["num_mels"]), num_frames, stride, stride)
            if read.places.grid != PatchGrid(freq, time):
                raise ValueError(f"{read.places} has the grid {read.places.grid}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{read.path}: its header must name audio.num_mels, model.stride and patch_grid as [freq, time] that fit "
            f"together, got {header[:60]!r}"
        ) from error
    read.head = {name: read.weights.pop(name) for name in list(read.weights) if name.startswith(HEAD_PREFIX)}


def _read_imagenet(read: ForeignWeights) -> None:
    """Grid of timm's ViT or DeiT. Without a distillation token, the class token and its position serve for both."""
    weights = read.weights
    kernel = weights.get("patch_embed.proj.weight")
    if kernel is not None and (kernel.ndim != 4 or kernel.shape[1] != 3):
        raise WeightsError(
            f"{read.path}: patch_embed.proj.weight is {tuple(kernel.shape)}, expected (dim, 3, 16, 16) of images"
        )
    if "dist_token" in weights:
        read.source_format = "ImageNet ViT, distilled"
    elif "cls_token" in weights:
        weights["dist_token"] = weights["cls_token"].clone()
        weights["pos_embed"] = torch.cat([weights["pos_embed"][:, :1], weights["pos_embed"]], dim=1)
        read.adapted["dist_token"] = "copy of the class token"
        read.adapted["pos_embed"] = "position of the class token also for the distillation token"
    side = math.isqrt(max(read.num_patches, 0))
    if side == 0 or side * side != read.num_patches:
        raise WeightsError(f"{read.path}: {read.num_patches} patch positions are no square grid of an image model")
    read.places = PatchGrid(freq=side, time=side)


def _read_ssast(read: ForeignWeights) -> None:
    """Places of SSAST before fine-tuning: an AST that was trained to recognise masked patches, without overlap."""
    kernel = read.weights.get("patch_embed.proj.weight")
    if kernel is not None and tuple(kernel.shape[2:]) != (PATCH_SIZE, PATCH_SIZE):
        raise WeightsError(
            f"{read.path}: patches of {'x'.join(map(str, kernel.shape[2:]))} (mel x frame), but {PATCH_SIZE}x"
            f"{PATCH_SIZE} in the encoder: take an SSAST of patches (SSAST-Base-Patch-400.pth), not one of frames"
        )
    tensors = read.file.tensors
    sizes = [tensors.get(f"p_input_{axis}dim", torch.zeros(0)).flatten().tolist() for axis in "ft"]
    try:
        (num_mels,), (num_frames,) = sizes
        read.places = PatchPlaces(int(num_mels), int(num_frames), PATCH_SIZE, PATCH_SIZE)
    except (ValueError, OverflowError) as error:
        raise WeightsError(
            f"{read.path}: p_input_fdim and p_input_tdim must be the mels and frames of its training input, got {sizes}"
        ) from error


def _read_hugging_face(read: ForeignWeights) -> None:
    """Settings in config.json, for an AST strides and lengths among them; its query, key and value are joined."""
    path = read.path.with_name("config.json")
    try:
        config = read.settings = read_json(path, WeightsError)
        if not isinstance(config, dict):
            raise TypeError(f"a {type(config).__name__} in the place of an object")
        if "pos_embed" in read.weights:
            names = ("num_mel_bins", "max_length", "frequency_stride", "time_stride")
            read.places = PatchPlaces(*(int(config[name]) for name in names))
    except (WeightsError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: weights of Hugging Face need their config.json beside them, with the settings of the model: "
            f"{error!r}"
        ) from error
    for name in [name for name in read.weights if ".attn.query." in name]:
        parts = [read.weights.pop(name.replace(".query.", f".{part}."), None) for part in ("query", "key", "value")]
        joined = [part for part in parts if part is not None and parts[0] is not None and part.shape == parts[0].shape]
        read.weights[name.replace(".query.", ".qkv.")] = torch.cat(joined)


@dataclass(frozen=True)
class LoadReport:
    """Account of the weights of a file."""

    source_format: str
    sha256: str
    used: tuple[str, ...]  # as they are, at most renamed, joined or cast: encoder's parameters, and the head's
    adapted: tuple[tuple[str, str], ...]  # parameter, how
    new: tuple[str, ...]  # left at their random initialisation
    ignored: tuple[tuple[str, str], ...]  # key in the file, why
    differences: tuple[str, ...] = ()  # settings of the file that the encoder does not share
    head_label_set: str | None = None  # of a head that was taken; "unknown" when the file does not say
    trained_on: Mapping[str, Any] = field(default_factory=dict)  # settings of the sound input, as far as known

    @property
    def source(self) -> str:
        return f"{self.source_format}, sha256 {self.sha256[:16]}"

    def summary(self) -> str:
        """A few lines for the log."""
        lines = [f"{self.source}: {len(self.used)} parameters used as they are"]
        lines += [f"  adapted {key}: {how}" for key, how in self.adapted]
        if self.head_label_set is not None:
            lines.append(f"  among them the head of that run, for the classes of {self.head_label_set}")
        if self.new:
            lines.append(f"  new: {first_names(self.new)}")
        reasons = [why for _, why in self.ignored]
        lines += [f"  ignored {reasons.count(why)}: {why}" for why in dict.fromkeys(reasons)]
        lines += [f"  differs: {difference}" for difference in self.differences]
        return "\n".join(lines)


def load_weights(
    encoder: AudioSpectrogramTransformer | ConvolutionalEncoder,
    path: Path,
    settings: ModelSettings,
    *,
    head: nn.Module | None = None,
) -> LoadReport:
    """Put the weights at `path` (a file, or a folder with `model.safetensors`) into `encoder`.

    Positions of another grid are adapted. `settings.position_grid` "aligned" gives each patch those of its own
    place (`place_positions`), and cuts or interpolates the grid of an image; "published" does what the authors'
    program does: the axes exchanged, but not for SSAST (`adapt_positions`). A run of ours is always aligned,
    verbatim where it has the same patches. Positions of the published program are taken verbatim or refused.
    `head` takes the weights of the head of a run of ours. Encoder and head are changed only when everything fits;
    else WeightsError.
    """
    read = read_weights(path)
    new: tuple[str, ...] = ()
    first = next(name for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d)) + ".weight"
    kernel = read.weights.get(first)
    if kernel is not None and kernel.ndim == 4 and kernel.shape[1] == 3:
        if settings.first_kernel == "new" and isinstance(encoder, ConvolutionalEncoder):
            del read.weights[first]
            read.file.ignored.append((read.keys[first], "first kernel, drawn anew"))
            new = (first,)
        else:
            read.weights[first] = kernel.sum(dim=1, keepdim=True)
            read.adapted[first] = "sum of the red, green and blue kernels"
    differences = _compare_settings(read, encoder)
    if isinstance(encoder, AudioSpectrogramTransformer) and "pos_embed" in read.weights:
        _check_size(read, encoder)
        _adapt_positions_of(read, encoder, settings.position_grid)
    own = encoder.state_dict()
    needed = {
        name: value
        for name, value in own.items()
        if name in read.weights or not (name in new or name.endswith(COUNTER))
    }
    if problem := misfit(read.weights, needed, keys=read.keys):
        architecture = getattr(encoder, "architecture", "the encoder")
        raise WeightsError(f"{read.path}: {read.source_format} weights do not fit {architecture}: {problem}")
    if head is None:
        read.file.ignored.extend((key, "head of that run") for key in read.head)
    else:
        if not read.head:
            raise WeightsError(
                f"{read.path}: {read.source_format} has no head for these classes; only a run of lungsound has one"
            )
        if problem := misfit(read.head, {HEAD_PREFIX + name: value for name, value in head.state_dict().items()}):
            raise WeightsError(f"{read.path}: {problem}: a head is taken from a run with the same classes")
        head.load_state_dict({name.removeprefix(HEAD_PREFIX): value for name, value in read.head.items()})
    encoder.load_state_dict(own | read.weights)
    used = [name for name in own if name in read.weights and name not in read.adapted]
    return LoadReport(
        source_format=read.source_format,
        sha256=read.file.sha256,
        used=(*used, *(() if head is None else read.head)),
        adapted=tuple(read.adapted.items()),
        new=new,
        ignored=tuple(read.file.ignored),
        differences=differences,
        head_label_set=None if head is None else read.label_set,
        trained_on=read.trained_on,
    )


def misfit(
    given: Mapping[str, Tensor], needed: Mapping[str, Tensor], *, keys: Mapping[str, str] | None = None
) -> str | None:
    """The first weight that is left over, missing or of another shape, as a clause; `keys`: the names in the file."""
    for name in (*given, *needed):
        given_shape = tuple(given[name].shape) if name in given else "missing"
        needed_shape = tuple(needed[name].shape) if name in needed else "no such weight"
        if given_shape != needed_shape:
            return f"{(keys or {}).get(name, name)} is {given_shape}, expected {needed_shape}"
    return None


def _check_size(read: ForeignWeights, encoder: AudioSpectrogramTransformer) -> None:
    """WeightsError that names the right size: a wrong one is the commonest mistake."""
    blocks = {match[1] for name in read.weights if (match := re.match(r"blocks\.(\d+)\.", name))}
    given, needed = (read.weights["pos_embed"].shape[-1], len(blocks)), (encoder.dim, len(encoder.blocks))
    if given != needed:
        size = next((name for name, size in ENCODER_SIZES.items() if (size.dim, size.depth) == given), None)
        advice = "no encoder size fits them" if size is None else f"choose encoder size {size!r}"
        raise WeightsError(
            f"{read.path}: weights of dim {given[0]} with {given[1]} blocks do not fit an encoder of dim {needed[0]} "
            f"with {needed[1]} blocks: {advice}"
        )


def _compare_settings(
    read: ForeignWeights, encoder: AudioSpectrogramTransformer | ConvolutionalEncoder
) -> tuple[str, ...]:
    """Settings that no tensor shows: a line for each that differs; refused where the weights would mean nothing."""
    needed: dict[str, Any]
    ours: dict[str, Any]
    if isinstance(encoder, AudioSpectrogramTransformer):
        num_heads = cast(Block, encoder.blocks[0]).attn.num_heads
        needed = {"num_attention_heads": num_heads, "hidden_act": "gelu", "patch_size": PATCH_SIZE}
        ours = {"norm_eps": encoder.norm.eps, "layer_norm_eps": encoder.norm.eps, "pooling": encoder.pooling}
    else:
        needed = {"downsample_in_first_stage": False, "downsample_in_bottleneck": False}
        eps = next(module.eps for module in encoder.modules() if isinstance(module, nn.BatchNorm2d))
        ours = {"batch_norm_eps": eps, "depthwise_padding": "that of all blocks"}
    for name, value in needed.items():
        if read.settings.get(name, value) != value:
            path = read.path.with_name("config.json")
            raise WeightsError(f"{path}: {name} is {read.settings[name]!r}, but {value!r} in the encoder")
    return tuple(
        f"{name} is {read.settings[name]} in the file and {value} in the encoder"
        for name, value in ours.items()
        if name in read.settings and read.settings[name] != value
    )


def _adapt_positions_of(read: ForeignWeights, encoder: AudioSpectrogramTransformer, position_grid: str) -> None:
    """Bring the positions of the file to the encoder's patches, in the weights, and note how."""
    source, num_patches = read.places, read.num_patches
    if source is None:
        if num_patches != encoder.grid.num_patches:
            raise WeightsError(
                f"{read.path}: its {num_patches} learnt positions, on a grid that it does not name, do not fit the "
                f"{encoder.grid.num_patches} patches of this encoder: set duration, mels and stride as in that run"
            )
        return
    old, new = source.grid if isinstance(source, PatchPlaces) else source, encoder.grid
    if num_patches != old.num_patches:
        raise WeightsError(
            f"{read.path}: {num_patches} patch positions, but its grid of {old.freq}x{old.time} needs {old.num_patches}"
        )
    target = PatchPlaces(encoder.num_mels, encoder.num_frames, encoder.stride, encoder.stride)
    published_rule = read.layout.published_rule if position_grid == "published" else None
    is_same = target.has_patches_of(source) if isinstance(source, PatchPlaces) else new == source
    if is_same and published_rule is None:
        return
    positions = read.weights["pos_embed"]
    if isinstance(source, PatchPlaces) and published_rule is None:
        positions = place_positions(positions, source=source, target=target)
    else:
        is_swapped = published_rule == "swapped"
        positions = adapt_positions(positions, source_grid=old, target_grid=new, is_swapped=is_swapped)
    read.weights["pos_embed"] = positions
    rule = "aligned" if published_rule is None else "published"
    how = f"{old.freq}x{old.time} to {new.freq}x{new.time} (freq x time), {rule}"
    read.adapted["pos_embed"] = "; ".join([*filter(None, [read.adapted.get("pos_embed")]), how])
