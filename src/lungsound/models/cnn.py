"""Convolutional encoders: the networks that the paper compares with, and a small one with AudioSet weights.

ResNet and EfficientNet come from the library transformers, an extra of this package, and are made numerically what
torchvision has, because the published program and its weights are torchvision's. CNN6 (PANNs, Kong et al., 2020) and
MobileNetV3-large (Howard et al., 2019), as EfficientAT trained it on AudioSet (Schmid et al., 2023), are our own, with
the parameter names of their authors and without front ends and heads. As published, CNN6 has no `bn0` and no dropout.
"""

import math
from collections import OrderedDict
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lungsound.config import Architecture
from lungsound.extras import load


class ConvBlock(nn.Module):
    """Convolution of 5 x 5, batch norm, ReLU, 2 x 2 average pooling."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)

    def forward(self, image: Tensor) -> Tensor:
        return functional.avg_pool2d(functional.relu(self.bn1(self.conv1(image))), kernel_size=2)


class CNN6(nn.Module):
    """Image (batch, 1, time, mel), at least 16 x 16 since it is halved four times, to features (batch, 512)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_block1 = ConvBlock(1, 64)
        self.conv_block2 = ConvBlock(64, 128)
        self.conv_block3 = ConvBlock(128, 256)
        self.conv_block4 = ConvBlock(256, 512)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.conv_block4(self.conv_block3(self.conv_block2(self.conv_block1(image))))
        frames: Tensor = maps.mean(dim=3)
        return frames.amax(dim=2) + frames.mean(dim=2)


class BlockSize(NamedTuple):
    """One inverted residual block at width 1."""

    kernel_size: int
    expanded: int
    channels: int
    stride: int
    has_squeeze: bool
    activation: type[nn.Module]


STEM_CHANNELS = 16
BLOCKS = [
    BlockSize(*sizes, has_squeeze, activation)
    for has_squeeze, activation, rows in (
        (False, nn.ReLU, ((3, 16, 16, 1), (3, 64, 24, 2), (3, 72, 24, 1))),
        (True, nn.ReLU, ((5, 72, 40, 2), (5, 120, 40, 1), (5, 120, 40, 1))),
        (False, nn.Hardswish, ((3, 240, 80, 2), (3, 200, 80, 1), (3, 184, 80, 1), (3, 184, 80, 1))),
        (True, nn.Hardswish, ((3, 480, 112, 1), (3, 672, 112, 1))),
        (True, nn.Hardswish, ((5, 672, 160, 2), (5, 960, 160, 1), (5, 960, 160, 1))),
    )
    for sizes in rows
]
LAST_EXPANSION = 6
SQUEEZE_DIVISOR = 4


def rounded_channels(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and never under nine tenths of `channels`."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


class SqueezeExcitation(nn.Module):
    """Each channel scaled by a factor in (0, 1) that the means of all channels give.

    It stands in a list as EfficientAT's does, which could hold several of them for several axes.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = rounded_channels(channels // SQUEEZE_DIVISOR)
        layers = {"fc1": nn.Linear(channels, squeezed), "fc2": nn.Linear(squeezed, channels)}
        self.conc_se_layers = nn.ModuleList([nn.ModuleDict(layers)])

    def forward(self, maps: Tensor) -> Tensor:
        layers = cast(nn.ModuleDict, self.conc_se_layers[0])
        scale: Tensor = layers["fc2"](functional.relu(layers["fc1"](maps.mean(dim=(2, 3))))).sigmoid()
        return maps * scale[:, :, None, None]


def convolution(
    in_channels: int,
    out_channels: int,
    activation: type[nn.Module] | None = None,
    *,
    kernel_size: int = 1,
    stride: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    """Convolution without bias, batch norm as EfficientAT sets it, activation."""
    padding = kernel_size // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
    norm = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)
    return nn.Sequential(conv, norm) if activation is None else nn.Sequential(conv, norm, activation())


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, squeeze and excitation, project; plus the input where shapes allow it."""

    def __init__(self, in_channels: int, size: BlockSize, *, width: float) -> None:
        super().__init__()
        expanded, out_channels = rounded_channels(size.expanded * width), rounded_channels(size.channels * width)
        depthwise = {"kernel_size": size.kernel_size, "stride": size.stride, "groups": expanded}
        self.block = nn.Sequential(
            *([convolution(in_channels, expanded, size.activation)] if expanded != in_channels else []),
            convolution(expanded, expanded, size.activation, **depthwise),
            *([SqueezeExcitation(expanded)] if size.has_squeeze else []),
            convolution(expanded, out_channels),
        )
        self.is_residual = size.stride == 1 and in_channels == out_channels

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.block(maps)
        return maps + out if self.is_residual else out


class MobileNetV3(nn.Module):
    """Image (batch, 1, mel, time) to features (batch, dim): the mean of the last convolution's maps."""

    def __init__(self, *, width: float) -> None:
        super().__init__()
        channels = rounded_channels(STEM_CHANNELS * width)
        layers: list[nn.Module] = [convolution(1, channels, nn.Hardswish, kernel_size=3, stride=2)]
        for size in BLOCKS:
            layers.append(InvertedResidual(channels, size, width=width))
            channels = rounded_channels(size.channels * width)
        self.dim = LAST_EXPANSION * channels
        layers.append(convolution(channels, self.dim, nn.Hardswish))
        self.features = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        maps: Tensor = self.features(image)
        return maps.mean(dim=(2, 3))


# A ResNet's kind of layer, and how often it is repeated in each stage.
RESNETS = {
    "resnet10": ("basic", (1, 1, 1, 1)),
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}
# An EfficientNet as (width, depth, dim): factors of B0's channels and repeats, and channels of the last convolution.
EFFICIENTNETS = {
    "efficientnet_b0": (1.0, 1.0, 1280),
    "efficientnet_b1": (1.0, 1.1, 1280),
    "efficientnet_b2": (1.1, 1.2, 1408),
}
EFFICIENTNET_REPEATS = (1, 2, 2, 3, 3, 4, 1)


class ConvolutionalEncoder(nn.Module):
    """Filter bank (batch, time, mel) of any size from `least_size` frames and mels up to features (batch, dim).

    `network` maps an image of one channel to features. Its rows are time, as in the published program, or mel.
    """

    def __init__(
        self, architecture: str, network: nn.Module, *, dim: int, is_mel_first: bool = False, least_size: int = 1
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.network = network
        self.dim = dim
        self.is_mel_first = is_mel_first
        self.least_size = least_size

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Random weights: kernels normal by their fan out (He), linear maps uniform by fan in, batch norms new."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Linear):
                initialize_linear(module, generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, fbank: Tensor) -> Tensor:
        image = fbank.transpose(1, 2) if self.is_mel_first else fbank
        features: Tensor = self.network(image.unsqueeze(1))
        return features


@torch.no_grad()
def initialize_linear(linear: nn.Linear, generator: torch.Generator) -> None:
    """Weight and bias uniform within 1 / sqrt(fan in), torch's default, drawn from `generator`."""
    bound = float(linear.in_features) ** -0.5
    linear.weight.uniform_(-bound, bound, generator=generator)
    linear.bias.uniform_(-bound, bound, generator=generator)


class GlobalAverage(nn.Module):
    """Mean of the last maps of a network of transformers: to (batch, channel)."""

    def forward(self, output: Any) -> Tensor:
        maps: Tensor = output.last_hidden_state
        return maps.mean(dim=(2, 3))


def convolutional_encoder(architecture: Architecture) -> ConvolutionalEncoder:
    """The network of a `config.Architecture`, with weights to be set by `initialize` or loaded."""
    # What the constructors draw from torch's global generator is replaced by `initialize`; give the state back.
    with torch.random.fork_rng(devices=[]):
        if architecture in RESNETS:
            return _resnet(architecture)
        if architecture in EFFICIENTNETS:
            return _efficientnet(architecture)
        if architecture == "cnn6":
            return ConvolutionalEncoder(architecture, CNN6(), dim=512, least_size=16)
        network = MobileNetV3(width=0.4)
        return ConvolutionalEncoder(architecture, network, dim=network.dim, is_mel_first=True)


def _resnet(name: str) -> ConvolutionalEncoder:
    """ResNet v1.5: a bottleneck's stride is in its 3 x 3 convolution."""
    transformers = load("transformers", extra="baselines", needed_by=f"model.architecture {name!r} needs")
    layer_type, depths = RESNETS[name]
    channels = [64, 128, 256, 512] if layer_type == "basic" else [256, 512, 1024, 2048]
    config = transformers.ResNetConfig(
        num_channels=1,
        embedding_size=64,
        hidden_sizes=channels,
        depths=list(depths),
        layer_type=layer_type,
        hidden_act="relu",
        downsample_in_first_stage=False,
        downsample_in_bottleneck=False,
    )
    model = transformers.ResNetModel(config)
    parts = OrderedDict(embedder=model.embedder, encoder=model.encoder, pool=GlobalAverage())
    return ConvolutionalEncoder(name, nn.Sequential(parts), dim=channels[-1])


def _efficientnet(name: str) -> ConvolutionalEncoder:
    """EfficientNet as torchvision has it (padding, batch norms), but nothing is dropped at random in training."""
    transformers = load("transformers", extra="baselines", needed_by=f"model.architecture {name!r} needs")
    width, depth, dim = EFFICIENTNETS[name]
    num_blocks = sum(math.ceil(depth * repeats) for repeats in EFFICIENTNET_REPEATS)
    config = transformers.EfficientNetConfig(
        num_channels=1,
        width_coefficient=width,
        depth_coefficient=depth,
        num_block_repeats=list(EFFICIENTNET_REPEATS),
        depthwise_padding=list(range(num_blocks)),  # the blocks that pad symmetrically
        hidden_act="silu",
        hidden_dim=dim,
        batch_norm_eps=1e-5,
        batch_norm_momentum=0.1,
        drop_connect_rate=0.0,
    )
    model = transformers.EfficientNetModel(config)
    model.embeddings.padding = nn.ZeroPad2d(1)
    for block in model.encoder.blocks:
        block.projection.dropout = nn.Identity()  # at rate 0 it would still draw
    parts = OrderedDict(embeddings=model.embeddings, encoder=model.encoder, pool=GlobalAverage())
    return ConvolutionalEncoder(name, nn.Sequential(parts), dim=dim)
