"""Load pretrained weights into an encoder, account for every one of them, and refuse what is not explained.

Load pretrained weights into a convolutional encoder, account for every one, and refuse what is not explained.

Files are recognised by their keys: ResNet and EfficientNet as torchvision and as Hugging Face store them, CNN6 of
PANNs, MobileNetV3 of EfficientAT, a run of our own, and a run of the published program, which has the same names.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from lungsound.axes import PATCH_SIZE
from lungsound.errors import WeightsError
from lungsound.models.ast import ENCODER_SIZES, NUM_PREFIX_TOKENS, AudioSpectrogramTransformer, Block
from lungsound.models.cnn import ConvolutionalEncoder
from lungsound.models.positions import PatchPlaces, adapt_positions, place_positions
from lungsound.models.weights import (
    COUNTER,
    FACTS_KEY,
    HEAD_PREFIX,
    LAYOUTS,
    OWN_RUN,
    ForeignWeights,
    Layout,
    WeightFile,
    first_keys,
    layout_of,
    open_weights,
    read_weights,
)

POSITION_GRIDS = ("aligned", "published")


@dataclass(frozen=True)
class LoadReport:
    """What became of the weights of a file.

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


def load_pretrained(
    encoder: AudioSpectrogramTransformer,
    path: Path,
    *,
    position_grid: str = "aligned",
    head: nn.Module | None = None,
) -> LoadReport:
    """Put the weights at `path` (a file, or a folder with `model.safetensors`) into `encoder`.

    Positions of another grid are adapted. "aligned" gives each patch those of its own place (`place_positions`), and
    cuts or interpolates the grid of an image; "published" does what the authors' program does: the axes exchanged,
    but not for SSAST (`adapt_positions`). A run of ours is always aligned, verbatim where it has the same patches.
    Positions of the published program are taken verbatim or refused. `head` takes the weights of the head of a run of
    ours; nothing else has one for these classes. Encoder and head are changed only when everything fits. Raises
    WeightsError for what cannot be read, does not fit, or is not explained.
    """
    if position_grid not in POSITION_GRIDS:
        raise ValueError(f"position_grid must be one of {POSITION_GRIDS}, got {position_grid!r}")
    file = read_weights(path)
    _check_size(file, encoder)
    differences = _compare_settings(file, encoder)
    _adapt_positions_of(file, encoder, position_grid)
    expected = encoder.state_dict()
    _check_keys_and_shapes(file.path, file.weights, expected)
    if head is None:
        file.ignored += [(key, "head of that run") for key in file.head]
    else:
        _load_head(file, head)
    encoder.load_state_dict(file.weights)
    return LoadReport(
        source_format=file.source_format,
        sha256=file.sha256,
        used=tuple(key for key in expected if key not in file.adapted) + (() if head is None else tuple(file.head)),
        adapted=tuple(file.adapted.items()),
        new=(),
        ignored=tuple(file.ignored),
        differences=differences,
        head_label_set=None if head is None else file.label_set,
        trained_on=file.trained_on,
    )


def _load_head(file: ForeignWeights, head: nn.Module) -> None:
    """Put the head of a run of ours into `head`; the last thing that can fail."""
    if not file.head:
        raise WeightsError(
            f"{file.path}: {file.source_format} has no head for these classes; only a run of lungsound has one"
        )
    given = {key: tuple(value.shape) for key, value in file.head.items()}
    wanted = {HEAD_PREFIX + key: tuple(value.shape) for key, value in head.state_dict().items()}
    for key in wanted | given:
        if given.get(key) != wanted.get(key):
            raise WeightsError(
                f"{file.path}: {key} is {given.get(key, 'missing')}, expected {wanted.get(key, 'no such weight')}: "
                "a head is taken from a run with the same classes"
            )
    head.load_state_dict({key.removeprefix(HEAD_PREFIX): value for key, value in file.head.items()})


def _check_size(file: ForeignWeights, encoder: AudioSpectrogramTransformer) -> None:
    """Width and depth first, because a wrong size is the commonest mistake."""
    blocks = {match[1] for key in file.weights if (match := re.match(r"blocks\.(\d+)\.", key))}
    given = (file.weights["pos_embed"].shape[-1], len(blocks))
    wanted = (encoder.dim, len(encoder.blocks))
    if given == wanted:
        return
    names = {(size.dim, size.depth): name for name, size in ENCODER_SIZES.items()}
    advice = f"choose encoder size {names[given]!r}" if given in names else "no encoder size fits them"
    raise WeightsError(
        f"{file.path}: weights of dim {given[0]} with {given[1]} blocks do not fit an encoder of dim {wanted[0]} with "
        f"{wanted[1]} blocks: {advice}"
    )


def _compare_settings(file: ForeignWeights, encoder: AudioSpectrogramTransformer) -> tuple[str, ...]:
    """Settings that no tensor shows: a line for each that differs; refused where the weights would mean nothing."""
    config: Mapping[str, Any] = file.config
    num_heads = cast(Block, encoder.blocks[0]).attn.num_heads
    for name, wanted in (("num_attention_heads", num_heads), ("hidden_act", "gelu"), ("patch_size", PATCH_SIZE)):
        given = config.get(name, wanted)
        if given != wanted:
            raise WeightsError(
                f"{file.path.with_name('config.json')}: {name} is {given!r}, but {wanted!r} in the encoder"
            )
    ours = {"norm_eps": encoder.norm.eps, "pooling": encoder.pooling}
    return tuple(
        f"{name} is {given} in the file and {ours[name]} in the encoder"
        for name, given in file.settings.items()
        if given != ours[name]
    )


def _adapt_positions_of(file: ForeignWeights, encoder: AudioSpectrogramTransformer, position_grid: str) -> None:
    """Bring the positions of `file` to the encoder's patches, in its dict of weights, and note how."""
    positions, source = file.weights["pos_embed"], file.places
    num_patches = positions.shape[1] - NUM_PREFIX_TOKENS
    if source is None:
        if num_patches != encoder.grid.num_patches:
            raise WeightsError(
                f"{file.path}: its {num_patches} learnt positions, on a grid that it does not name, do not fit the "
                f"{encoder.grid.num_patches} patches of this encoder: set duration, mels and stride as in that run"
            )
        return
    old = source.grid if isinstance(source, PatchPlaces) else source
    if num_patches != old.num_patches:
        raise WeightsError(
            f"{file.path}: {num_patches} patch positions, but its grid of {old.freq}x{old.time} needs {old.num_patches}"
        )
    target = PatchPlaces(encoder.num_mels, encoder.num_frames, encoder.stride, encoder.stride)
    is_published = position_grid == "published" and file.published_rule is not None
    is_same = target.has_patches_of(source) if isinstance(source, PatchPlaces) else target.grid == source
    if is_same and not is_published:
        return
    if isinstance(source, PatchPlaces) and not is_published:
        adapted = place_positions(positions, source=source, target=target)
    else:
        is_swapped = is_published and file.published_rule == "swapped"
        adapted = adapt_positions(positions, source_grid=old, target_grid=target.grid, is_swapped=is_swapped)
    file.weights["pos_embed"] = adapted
    new, rule = target.grid, "published" if is_published else "aligned"
    how = f"{old.freq}x{old.time} to {new.freq}x{new.time} (freq x time), {rule}"
    before = file.adapted.get("pos_embed")
    file.adapted["pos_embed"] = how if before is None else f"{before}; {how}"


def _check_keys_and_shapes(path: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Every weight has its place and every place its weight."""
    if unexplained := [key for key in weights if key not in expected]:
        raise WeightsError(f"{path}: weights with no place in the encoder: {first_keys(unexplained)}")
    if missing := [key for key in expected if key not in weights]:
        raise WeightsError(f"{path}: weights that the encoder needs are missing: {first_keys(missing)}")
    for key, value in weights.items():
        if value.shape != expected[key].shape:
            raise WeightsError(f"{path}: {key} is {tuple(value.shape)}, expected {tuple(expected[key].shape)}")


FIRST_KERNELS = ("sum", "new")


def load_convolutional(
    encoder: ConvolutionalEncoder, path: Path, *, first_kernel: str = "sum", head: nn.Module | None = None
) -> LoadReport:
    """Put the weights at `path` (a file, or a folder with `model.safetensors`) into `encoder`.

    A first kernel over red, green and blue is summed over them or, with `first_kernel` "new", left as it is in the
    encoder, as in the published program. A `head` is loaded too, which needs a run of ours. Encoder and head are
    changed only when everything fits. Raises WeightsError for what cannot be read, does not fit, or is not
    explained.
    """
    if first_kernel not in FIRST_KERNELS:
        raise ValueError(f"first_kernel must be one of {FIRST_KERNELS}, got {first_kernel!r}")
    file = open_weights(path)
    layout = layout_of(file)
    if layout is None:
        raise WeightsError(
            f"{file.path}: no weights of a known kind, its keys begin with {first_keys(list(file.tensors))}; "
            f"expected {', '.join(layout.source_format for layout in LAYOUTS)}"
        )
    if head is not None and layout.source_format != OWN_RUN:
        raise WeightsError(f"{file.path}: {layout.source_format} weights bring no head; only a {OWN_RUN} does")
    is_own = layout.source_format == OWN_RUN
    label_set, trained_on = _facts(file) if is_own else (None, layout.trained_on)
    differences = _convolutional_weights_compare_settings(file, layout, encoder)
    unwanted = {HEAD_PREFIX: "head of that run"} if is_own and head is None else {}
    kept = file.keep("", {**layout.ignored, **unwanted})
    head_weights = {key: kept.pop(key) for key in [*kept] if head is not None and key.startswith(HEAD_PREFIX)}
    renamed = layout.rename(list(kept))
    keys = {f"network.{name}": key for key, name in renamed.items()}
    weights = {name: kept[key] for name, key in keys.items()}
    adapted, new = _adapt_first_kernel(file, encoder, weights, keys, first_kernel)

    what = f"{file.path}: {layout.source_format} weights do not fit {encoder.architecture}"
    _check_fit(what, weights, encoder.state_dict(), keys, left_out=new)
    if head is not None:
        expected_head = {f"{HEAD_PREFIX}{name}": value for name, value in head.state_dict().items()}
        _check_fit(f"{file.path}: its head does not fit", head_weights, expected_head, {})
        head.load_state_dict({key.removeprefix(HEAD_PREFIX): value for key, value in head_weights.items()})
    encoder.load_state_dict(encoder.state_dict() | weights)
    return LoadReport(
        source_format=layout.source_format,
        sha256=file.sha256,
        used=tuple(n for n in weights if n not in adapted) + tuple(head_weights),
        adapted=tuple(adapted.items()),
        new=new,
        ignored=tuple(file.ignored),
        differences=differences,
        head_label_set=None if head is None else label_set,
        trained_on=trained_on,
    )


def _facts(file: WeightFile) -> tuple[str, dict[str, Any]]:
    """Of a run of ours: name of the classes that it tells apart ("unknown" without a header), settings of its input."""
    header = file.metadata.get(FACTS_KEY, "{}")
    try:
        facts = json.loads(header)
        return str(facts.get("label_set", "unknown")), dict(facts.get("audio", {}))
    except (AttributeError, TypeError, ValueError) as error:
        raise WeightsError(f"{file.path}: its header must be JSON with label_set, got {header[:60]!r}") from error


def _adapt_first_kernel(
    file: WeightFile,
    encoder: ConvolutionalEncoder,
    weights: dict[str, Tensor],
    keys: Mapping[str, str],
    first_kernel: str,
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Bring a first kernel of images, in `weights`, to one channel: what was adapted and how, and what is new."""
    convolutions = (name for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d))
    name = next(convolutions) + ".weight"
    kernel = weights.get(name)
    if kernel is None or kernel.ndim != 4 or kernel.shape[1] != 3:
        return {}, ()
    if first_kernel == "new":
        del weights[name]
        file.ignored.append((keys[name], "first kernel, drawn anew"))
        return {}, (name,)
    weights[name] = kernel.sum(dim=1, keepdim=True)
    return {name: "sum of the red, green and blue kernels"}, ()


def _check_fit(
    what: str,
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    keys: Mapping[str, str],
    *,
    left_out: tuple[str, ...] = (),
) -> None:
    """WeightsError that names the first weight, by its key in the file, without a place or of another shape."""
    for name, value in weights.items():
        key = keys.get(name, name)
        if name not in expected:
            raise WeightsError(f"{what}: {key} has no place in it")
        if value.shape != expected[name].shape:
            raise WeightsError(f"{what}: {key} is {tuple(value.shape)}, expected {tuple(expected[name].shape)}")
    for name in expected:
        if name not in weights and name not in left_out and not name.endswith(COUNTER):
            raise WeightsError(f"{what}: {name} is missing")


def _convolutional_weights_compare_settings(
    file: WeightFile, layout: Layout, encoder: ConvolutionalEncoder
) -> tuple[str, ...]:
    """Settings of Hugging Face's config that no tensor shows; refused where the weights would mean nothing."""
    if not layout.source_format.startswith("Hugging Face"):
        return ()
    path = file.path.with_name("config.json")
    if not path.is_file():
        raise WeightsError(f"{path}: weights of Hugging Face need their config.json beside them")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        depthwise_padding = list(config.get("depthwise_padding", ()))
    except (OSError, AttributeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as the settings of a model: {error!r}") from error
    for setting in ("downsample_in_first_stage", "downsample_in_bottleneck"):
        if config.get(setting, False):
            raise WeightsError(f"{path}: {setting} is true, but false in {encoder.architecture}")
    eps = next(module.eps for module in encoder.modules() if isinstance(module, nn.BatchNorm2d))
    differences = []
    if config.get("batch_norm_eps", eps) != eps:
        differences.append(f"batch_norm_eps is {config['batch_norm_eps']} in the file's config.json and {eps} here")
    if "EfficientNet" in layout.source_format:
        differences.append(f"symmetric padding in blocks {depthwise_padding} of the file's model, in all blocks here")
    return tuple(differences)
