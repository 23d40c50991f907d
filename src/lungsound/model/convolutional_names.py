"""Names of a convolutional encoder's weights in the files of others."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lungsound.audio.fbank import EFFICIENTAT_RATE_HZ
from lungsound.model.weight_files import OWN_RUN, WeightFile

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


def _from_own_run(keys: list[str]) -> dict[str, str]:
    return {key: key.removeprefix("encoder.network.") for key in keys}


def _from_hugging_face(keys: list[str]) -> dict[str, str]:
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
    Layout(OWN_RUN, r"encoder\.(network\.|pos_embed$)", _from_own_run, {"projector.": "projector of that run"}),
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
        _from_hugging_face,
        {"classifier.": "head of another task"},
    ),
    Layout(
        "Hugging Face EfficientNet",
        r"(efficientnet\.)?embeddings\.convolution\.",
        _from_hugging_face,
        {"classifier.": "head of another task"},
    ),
)
