"""MobileNetV3-large at any width (Howard et al., 2019), as EfficientAT trained it on AudioSet: an image to a feature.

Parameter names are EfficientAT's (Schmid et al., 2023; mn04_as is width 0.4). Its AudioSet head is not built.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class BlockSize:
    """One inverted residual block at width 1."""

    kernel_size: int
    expanded: int
    channels: int
    stride: int = 1
    has_squeeze: bool = False
    is_hard_swish: bool = False


STEM_CHANNELS = 16
BLOCKS = (
    BlockSize(3, 16, 16),
    BlockSize(3, 64, 24, stride=2),
    BlockSize(3, 72, 24),
    BlockSize(5, 72, 40, stride=2, has_squeeze=True),
    BlockSize(5, 120, 40, has_squeeze=True),
    BlockSize(5, 120, 40, has_squeeze=True),
    BlockSize(3, 240, 80, stride=2, is_hard_swish=True),
    BlockSize(3, 200, 80, is_hard_swish=True),
    BlockSize(3, 184, 80, is_hard_swish=True),
    BlockSize(3, 184, 80, is_hard_swish=True),
    BlockSize(3, 480, 112, has_squeeze=True, is_hard_swish=True),
    BlockSize(3, 672, 112, has_squeeze=True, is_hard_swish=True),
    BlockSize(5, 672, 160, stride=2, has_squeeze=True, is_hard_swish=True),
    BlockSize(5, 960, 160, has_squeeze=True, is_hard_swish=True),
    BlockSize(5, 960, 160, has_squeeze=True, is_hard_swish=True),
)
LAST_EXPANSION = 6
SQUEEZE_DIVISOR = 4


def rounded_channels(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and never under nine tenths of `channels`."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


class SqueezeExcitation(nn.Module):
    """Each channel scaled by a factor in (0, 1) that the means of all channels give."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = rounded_channels(channels // SQUEEZE_DIVISOR)
        self.fc1 = nn.Linear(channels, squeezed)
        self.fc2 = nn.Linear(squeezed, channels)

    def forward(self, maps: Tensor) -> Tensor:
        scale = self.fc2(functional.relu(self.fc1(maps.mean(dim=(2, 3))))).sigmoid()
        scaled: Tensor = maps * scale[:, :, None, None]
        return scaled


class ChannelAttention(nn.Module):
    """Squeeze and excitation under EfficientAT's name, which could hold several of them for several axes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.ModuleList([SqueezeExcitation(channels)])

    def forward(self, maps: Tensor) -> Tensor:
        scaled: Tensor = self.conc_se_layers[0](maps)
        return scaled


def convolution(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = None,
) -> nn.Sequential:
    """Convolution without bias, batch norm as EfficientAT sets it, activation."""
    conv = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
    )
    norm = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)
    return nn.Sequential(conv, norm) if activation is None else nn.Sequential(conv, norm, activation())


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, squeeze and excitation, project; plus the input where shapes allow it."""

    def __init__(self, in_channels: int, size: BlockSize, *, width: float) -> None:
        super().__init__()
        expanded, out_channels = rounded_channels(size.expanded * width), rounded_channels(size.channels * width)
        activation = nn.Hardswish if size.is_hard_swish else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(convolution(in_channels, expanded, activation=activation))
        layers.append(
            convolution(
                expanded,
                expanded,
                kernel_size=size.kernel_size,
                stride=size.stride,
                groups=expanded,
                activation=activation,
            )
        )
        if size.has_squeeze:
            layers.append(ChannelAttention(expanded))
        layers.append(convolution(expanded, out_channels))
        self.block = nn.Sequential(*layers)
        self.is_residual = size.stride == 1 and in_channels == out_channels

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.block(maps)
        return maps + out if self.is_residual else out


class MobileNetV3(nn.Module):
    """Image (batch, 1, mel, time) to features (batch, dim): the mean of the last convolution's maps."""

    def __init__(self, *, width: float) -> None:
        super().__init__()
        channels = rounded_channels(STEM_CHANNELS * width)
        layers: list[nn.Module] = [convolution(1, channels, kernel_size=3, stride=2, activation=nn.Hardswish)]
        for size in BLOCKS:
            layers.append(InvertedResidual(channels, size, width=width))
            channels = rounded_channels(size.channels * width)
        self.dim = LAST_EXPANSION * channels
        layers.append(convolution(channels, self.dim, activation=nn.Hardswish))
        self.features = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        maps: Tensor = self.features(image)
        return maps.mean(dim=(2, 3))
