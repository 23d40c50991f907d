"""Load pretrained weights into a convolutional encoder, account for every one, and refuse what is not explained.

Files are recognised by their keys: ResNet and EfficientNet as torchvision and as Hugging Face store them, CNN6 of
PANNs, MobileNetV3 of EfficientAT, a run of our own, and a run of the published program, which has the same names.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lungsound.errors import WeightsError
from lungsound.model.convolutional import ConvolutionalEncoder
from lungsound.model.convolutional_names import LAYOUTS, Layout, layout_of
from lungsound.model.pretrained import LoadReport
from lungsound.model.weight_files import COUNTER, FACTS_KEY, HEAD_PREFIX, OWN_RUN, WeightFile, first_keys, open_weights

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
    differences = _compare_settings(file, layout, encoder)
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


def _compare_settings(file: WeightFile, layout: Layout, encoder: ConvolutionalEncoder) -> tuple[str, ...]:
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
