"""The convolutional networks that the paper compares with, and one small one with AudioSet weights, as encoders.

ResNet and EfficientNet come from the library transformers, an extra of this package, and are made numerically what
torchvision has, because the published program and its weights are torchvision's. CNN6 and mn04 are our own.
"""

import importlib
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lungsound.errors import SettingsError
from lungsound.model.cnn6 import CNN6
from lungsound.model.mobilenet import MobileNetV3

# Stages of a ResNet: how often each kind of layer is repeated.
BASIC_DEPTHS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
BOTTLENECK_DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
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


def convolutional_encoder(architecture: str) -> ConvolutionalEncoder:
    """The network of that name, with weights to be set by `initialize` or loaded.

    Raises SettingsError when it comes from transformers and that is not installed, ValueError for an unknown name.
    """
    builders: dict[str, Callable[[str], ConvolutionalEncoder]] = {
        **dict.fromkeys((*BASIC_DEPTHS, *BOTTLENECK_DEPTHS), _resnet),
        **dict.fromkeys(EFFICIENTNETS, _efficientnet),
        "cnn6": lambda name: ConvolutionalEncoder(name, CNN6(), dim=CNN6.DIM, least_size=CNN6.LEAST_SIZE),
        "mn04": _mn04,
    }
    if architecture not in builders:
        raise ValueError(f"architecture must be one of {list(builders)}, got {architecture!r}")
    # What the constructors draw from torch's global generator is replaced by `initialize`; give the state back.
    with torch.random.fork_rng(devices=[]):
        return builders[architecture](architecture)


def _mn04(name: str) -> ConvolutionalEncoder:
    network = MobileNetV3(width=0.4)
    return ConvolutionalEncoder(name, network, dim=network.dim, is_mel_first=True)


def _transformers(architecture: str) -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise SettingsError(
            f"model.architecture {architecture!r} needs the library transformers ({error}): "
            "pip install 'lungsound[baselines]'"
        ) from None


def _resnet(name: str) -> ConvolutionalEncoder:
    """ResNet v1.5: a bottleneck's stride is in its 3 x 3 convolution."""
    transformers = _transformers(name)
    is_basic = name in BASIC_DEPTHS
    channels = [64, 128, 256, 512] if is_basic else [256, 512, 1024, 2048]
    config = transformers.ResNetConfig(
        num_channels=1,
        embedding_size=64,
        hidden_sizes=channels,
        depths=list(BASIC_DEPTHS[name] if is_basic else BOTTLENECK_DEPTHS[name]),
        layer_type="basic" if is_basic else "bottleneck",
        hidden_act="relu",
        downsample_in_first_stage=False,
        downsample_in_bottleneck=False,
    )
    model = transformers.ResNetModel(config)
    parts = OrderedDict(embedder=model.embedder, encoder=model.encoder, pool=GlobalAverage())
    return ConvolutionalEncoder(name, nn.Sequential(parts), dim=channels[-1])


def _efficientnet(name: str) -> ConvolutionalEncoder:
    """EfficientNet as torchvision has it: symmetric padding, batch norms with torch's defaults.

    Nothing is dropped at random in training (torchvision drops whole blocks), so a step draws nothing that the
    seed does not fix.
    """
    transformers = _transformers(name)
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
