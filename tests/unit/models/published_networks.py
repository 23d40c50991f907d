"""Published networks as plain functions of a state dict with the published names, and the shapes in those files.

Written from the papers' tables and the published layouts, apart from the modules under test.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]

RESNET_DEPTHS = {
    "resnet10": (1, 1, 1, 1),
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
# Expansion, kernel, stride, input channels, output channels, repeats of B0.
EFFICIENTNET_STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
EFFICIENTNET_FACTORS = {"efficientnet_b0": (1.0, 1.0), "efficientnet_b1": (1.0, 1.1), "efficientnet_b2": (1.1, 1.2)}
MOBILENET_STRIDED = (2, 4, 7, 13)
MOBILENET_FIRST_HARD_SWISH = 7


# ---- shapes ----


def norm_shapes(name: str, channels: int) -> Shapes:
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{leaf}": (channels,) for leaf in leaves} | {f"{name}.num_batches_tracked": ()}


def linear_shapes(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def resnet_shapes(name: str) -> Shapes:
    """torchvision's resnet*.pth."""
    expansion = 4 if name in ("resnet50", "resnet101") else 1
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7), **norm_shapes("bn1", 64)}
    inputs = 64
    for stage, depth in enumerate(RESNET_DEPTHS[name], 1):
        width = 32 * 2**stage
        for layer in range(depth):
            place, outputs = f"layer{stage}.{layer}", width * expansion
            sizes = [(inputs, width, 3), (width, width, 3)]
            if expansion == 4:
                sizes = [(inputs, width, 1), (width, width, 3), (width, outputs, 1)]
            for number, (before, after, kernel) in enumerate(sizes, 1):
                shapes[f"{place}.conv{number}.weight"] = (after, before, kernel, kernel)
                shapes |= norm_shapes(f"{place}.bn{number}", after)
            if layer == 0 and (stage > 1 or inputs != outputs):
                shapes[f"{place}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                shapes |= norm_shapes(f"{place}.downsample.1", outputs)
            inputs = outputs
    return shapes | linear_shapes("fc", inputs, 1000)


def to_eighths(channels: float) -> int:
    """A multiple of 8, rounded half up, that is not smaller by more than a tenth."""
    rounded = max(8, 8 * math.floor(channels / 8 + 0.5))
    return rounded + 8 if rounded < 0.9 * channels else rounded


def efficientnet_blocks(name: str) -> Iterator[tuple[str, int, int, int, int, int]]:
    """Place, expansion, kernel, stride, input and output channels of each block."""
    width, depth = EFFICIENTNET_FACTORS[name]
    for stage, (expansion, kernel, stride, first, out, repeats) in enumerate(EFFICIENTNET_STAGES, 1):
        inputs, outputs = to_eighths(first * width), to_eighths(out * width)
        for layer in range(math.ceil(repeats * depth)):
            is_first = layer == 0
            yield (
                f"features.{stage}.{layer}.block",
                expansion,
                kernel,
                stride if is_first else 1,
                inputs if is_first else outputs,
                outputs,
            )


def efficientnet_shapes(name: str) -> Shapes:
    """torchvision's efficientnet_b*.pth."""
    width, _ = EFFICIENTNET_FACTORS[name]
    stem, last = to_eighths(32 * width), to_eighths(320 * width)
    shapes: Shapes = {"features.0.0.weight": (stem, 3, 3, 3), **norm_shapes("features.0.1", stem)}
    for place, expansion, kernel, _, inputs, outputs in efficientnet_blocks(name):
        hidden, squeezed, part = inputs * expansion, inputs // 4, 0
        if expansion > 1:
            shapes |= {f"{place}.0.0.weight": (hidden, inputs, 1, 1), **norm_shapes(f"{place}.0.1", hidden)}
            part = 1
        shapes |= {f"{place}.{part}.0.weight": (hidden, 1, kernel, kernel), **norm_shapes(f"{place}.{part}.1", hidden)}
        for fc, sizes in (("fc1", (squeezed, hidden)), ("fc2", (hidden, squeezed))):
            shapes[f"{place}.{part + 1}.{fc}.weight"] = (*sizes, 1, 1)
            shapes[f"{place}.{part + 1}.{fc}.bias"] = sizes[:1]
        shapes[f"{place}.{part + 2}.0.weight"] = (outputs, hidden, 1, 1)
        shapes |= norm_shapes(f"{place}.{part + 2}.1", outputs)
    top = 4 * last
    shapes |= {"features.8.0.weight": (top, last, 1, 1), **norm_shapes("features.8.1", top)}
    return shapes | linear_shapes("classifier.1", top, 1000)


def cnn6_shapes() -> Shapes:
    """PANNs' Cnn6_mAP=0.343.pth, under "model"."""
    shapes: Shapes = {f"spectrogram_extractor.stft.conv_{part}.weight": (513, 1, 1024) for part in ("real", "imag")}
    shapes |= {"logmel_extractor.melW": (513, 64), **norm_shapes("bn0", 64)}
    for block, (before, after) in enumerate(((1, 64), (64, 128), (128, 256), (256, 512)), 1):
        shapes[f"conv_block{block}.conv1.weight"] = (after, before, 5, 5)
        shapes |= norm_shapes(f"conv_block{block}.bn1", after)
    return shapes | linear_shapes("fc1", 512, 512) | linear_shapes("fc_audioset", 512, 527)


def random_state(shapes: Shapes, *, seed: int = 0) -> State:
    """Values that keep the size of what passes through, each norm with statistics of its own."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif len(shape) > 1:
            state[name] = torch.randn(shape, generator=generator) * (2 / math.prod(shape[1:])) ** 0.5
        elif name.endswith(("running_var", "weight")):
            state[name] = 0.5 + torch.rand(shape, generator=generator)
        else:
            state[name] = 0.1 * torch.randn(shape, generator=generator)
    return state


# ---- networks ----


def normed(state: State, name: str, maps: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Batch norm at evaluation."""
    mean, var, weight, bias = (
        state[f"{name}.{leaf}"][:, None, None] for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    return (maps - mean) / torch.sqrt(var + eps) * weight + bias


def convolved(state: State, name: str, maps: Tensor, *, stride: int = 1) -> Tensor:
    """Zeros on all sides alike; depthwise when the kernel has one input channel and the maps have many."""
    kernel = state[f"{name}.weight"]
    groups = maps.shape[1] // kernel.shape[1]
    bias = state.get(f"{name}.bias")
    return functional.conv2d(maps, kernel, bias, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)


def resnet(state: State, image: Tensor) -> Tensor:
    """Features (batch, dim) of a ResNet with torchvision's names: v1.5, the stride in the 3 x 3 convolution."""
    maps = functional.relu(normed(state, "bn1", convolved(state, "conv1", image, stride=2)))
    maps = functional.max_pool2d(maps, 3, stride=2, padding=1)
    for stage in (1, 2, 3, 4):
        layer = 0
        while f"layer{stage}.{layer}.conv1.weight" in state:
            place, stride = f"layer{stage}.{layer}", 2 if stage > 1 and layer == 0 else 1
            num_convolutions = 3 if f"{place}.conv3.weight" in state else 2
            out = maps
            for number in range(1, num_convolutions + 1):
                is_strided = number == num_convolutions - 1
                out = convolved(state, f"{place}.conv{number}", out, stride=stride if is_strided else 1)
                out = normed(state, f"{place}.bn{number}", out)
                out = out if number == num_convolutions else out.clamp(min=0)
            if f"{place}.downsample.0.weight" in state:
                maps = convolved(state, f"{place}.downsample.0", maps, stride=stride)
                maps = normed(state, f"{place}.downsample.1", maps)
            maps = (maps + out).clamp(min=0)
            layer += 1
    return maps.flatten(2).mean(2)


def silu(maps: Tensor) -> Tensor:
    return maps / (1 + torch.exp(-maps))


def efficientnet(name: str, state: State, image: Tensor) -> Tensor:
    """Features (batch, dim) of an EfficientNet with torchvision's names."""
    maps = silu(normed(state, "features.0.1", convolved(state, "features.0.0", image, stride=2)))
    for place, expansion, _, stride, inputs, outputs in efficientnet_blocks(name):
        out, part = maps, 0
        if expansion > 1:
            out, part = silu(normed(state, f"{place}.0.1", convolved(state, f"{place}.0.0", out))), 1
        out = convolved(state, f"{place}.{part}.0", out, stride=stride)
        out = silu(normed(state, f"{place}.{part}.1", out))
        means = out.flatten(2).mean(2)[:, :, None, None]
        squeezed = silu(convolved(state, f"{place}.{part + 1}.fc1", means))
        out = out * torch.sigmoid(convolved(state, f"{place}.{part + 1}.fc2", squeezed))
        out = normed(state, f"{place}.{part + 2}.1", convolved(state, f"{place}.{part + 2}.0", out))
        maps = maps + out if stride == 1 and inputs == outputs else out
    maps = silu(normed(state, "features.8.1", convolved(state, "features.8.0", maps)))
    return maps.flatten(2).mean(2)


def cnn6(state: State, fbank: Tensor) -> Tensor:
    """Features (batch, 512) of CNN6 with PANNs' names, for a filter bank (batch, time, mel), by matrix products."""
    maps = fbank[:, None]
    for block in (1, 2, 3, 4):
        kernel = state[f"conv_block{block}.conv1.weight"]
        batch, _, time, mel = maps.shape
        columns = functional.unfold(maps, 5, padding=2)
        maps = (kernel.flatten(1) @ columns).reshape(batch, -1, time, mel)
        maps = normed(state, f"conv_block{block}.bn1", maps).clamp(min=0)
        maps = maps[:, :, : time // 2 * 2, : mel // 2 * 2].reshape(batch, -1, time // 2, 2, mel // 2, 2).mean((3, 5))
    frames = maps.mean(3)
    return frames.max(2).values + frames.mean(2)


def hard_swish(maps: Tensor) -> Tensor:
    return maps * (maps + 3).clamp(0, 6) / 6


def mobilenet(state: State, fbank: Tensor) -> Tensor:
    """Features (batch, dim) of MobileNetV3 with EfficientAT's names, for a filter bank (batch, time, mel).

    Widths, kernels, which blocks expand and which squeeze are read from the state dict.
    """

    def layer(name: str, maps: Tensor, *, stride: int = 1) -> Tensor:
        return normed(state, f"{name}.1", convolved(state, f"{name}.0", maps, stride=stride), eps=1e-3)

    maps = hard_swish(layer("features.0", fbank.mT[:, None], stride=2))
    for index in range(1, 16):
        activation = hard_swish if index >= MOBILENET_FIRST_HARD_SWISH else functional.relu
        place, out, part = f"features.{index}.block", maps, 0
        while f"{place}.{part + 1}.0.weight" in state or f"{place}.{part + 1}.conc_se_layers.0.fc1.weight" in state:
            if f"{place}.{part}.0.weight" in state:
                is_depthwise = state[f"{place}.{part}.0.weight"].shape[1] == 1
                stride = 2 if is_depthwise and index in MOBILENET_STRIDED else 1
                out = activation(layer(f"{place}.{part}", out, stride=stride))
            else:
                squeeze = f"{place}.{part}.conc_se_layers.0"
                hidden = out.flatten(2).mean(2) @ state[f"{squeeze}.fc1.weight"].T + state[f"{squeeze}.fc1.bias"]
                scale = hidden.clamp(min=0) @ state[f"{squeeze}.fc2.weight"].T + state[f"{squeeze}.fc2.bias"]
                out = out * torch.sigmoid(scale)[:, :, None, None]
            part += 1
        out = layer(f"{place}.{part}", out)
        maps = maps + out if out.shape == maps.shape and index not in MOBILENET_STRIDED else out
    return hard_swish(layer("features.16", maps)).flatten(2).mean(2)
