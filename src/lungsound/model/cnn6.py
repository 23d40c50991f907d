"""CNN6 of PANNs (Kong et al., 2020) without its front end and head: an image to a feature.

Parameter names are PANNs'. As in the published Patch-Mix program there is no batch norm over the 64 mels of PANNs'
own front end (its `bn0`) and no dropout.
"""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional


class ConvBlock(nn.Module):
    """Convolution of 5 x 5, batch norm, ReLU, 2 x 2 average pooling."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)

    def forward(self, image: Tensor) -> Tensor:
        return functional.avg_pool2d(functional.relu(self.bn1(self.conv1(image))), kernel_size=2)


class CNN6(nn.Module):
    """Image (batch, 1, time, mel), at least 16 x 16, to features (batch, 512)."""

    DIM: ClassVar[int] = 512
    LEAST_SIZE: ClassVar[int] = 16  # halved four times

    def __init__(self) -> None:
        super().__init__()
        self.conv_block1 = ConvBlock(1, 64)
        self.conv_block2 = ConvBlock(64, 128)
        self.conv_block3 = ConvBlock(128, 256)
        self.conv_block4 = ConvBlock(256, self.DIM)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.conv_block4(self.conv_block3(self.conv_block2(self.conv_block1(image))))
        frames: Tensor = maps.mean(dim=3)
        return frames.amax(dim=2) + frames.mean(dim=2)
