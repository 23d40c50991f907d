"""Convolutional encoders: sizes, initialisation, and the two of our own against plain functions of their weights."""

import sys
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lungsound.errors import SettingsError
from lungsound.models.cnn import ConvolutionalEncoder, convolutional_encoder, rounded_channels
from tests.unit.models.published_networks import cnn6, mobilenet

# Parameters of the published models with their heads and three channels, and what the head and two channels take.
PARAMETERS = {
    "resnet18": 11_689_512 - (512 * 1000 + 1000) - 2 * 64 * 49,
    "resnet34": 21_797_672 - (512 * 1000 + 1000) - 2 * 64 * 49,
    "resnet50": 25_557_032 - (2048 * 1000 + 1000) - 2 * 64 * 49,
    "resnet101": 44_549_160 - (2048 * 1000 + 1000) - 2 * 64 * 49,
    # ResNet-18 without the second layer of each stage: two 3 x 3 convolutions, each with a norm.
    "resnet10": 11_689_512 - 513_000 - 2 * 64 * 49 - sum(2 * (9 * c * c + 2 * c) for c in (64, 128, 256, 512)),
    "efficientnet_b0": 5_288_548 - (1280 * 1000 + 1000) - 2 * 32 * 9,
    "efficientnet_b1": 7_794_184 - (1280 * 1000 + 1000) - 2 * 32 * 9,
    "efficientnet_b2": 9_109_994 - (1408 * 1000 + 1000) - 2 * 32 * 9,
    # Blocks of a 5 x 5 convolution without bias and a norm.
    "cnn6": sum(25 * a * b + 2 * b for a, b in ((1, 64), (64, 128), (128, 256), (256, 512))),
    "mn04": 983_599 - (384 * 512 + 512) - (512 * 527 + 527),
}
DIMS = {
    "resnet10": 512,
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "efficientnet_b0": 1280,
    "efficientnet_b1": 1280,
    "efficientnet_b2": 1408,
    "cnn6": 512,
    "mn04": 384,
}


@cache
def encoder(architecture: str) -> ConvolutionalEncoder:
    """Initialised, for evaluation; do not change it."""
    made = convolutional_encoder(architecture)
    made.initialize(torch.Generator().manual_seed(0))
    return made.eval()


def fbanks(num: int, num_frames: int, num_mels: int, *, seed: int = 1) -> torch.Tensor:
    return torch.randn(num, num_frames, num_mels, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def spoil(module: nn.Module, *, seed: int = 2) -> None:
    """Other norms than new ones, so that a test sees each of their numbers."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                assert value is not None
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))


# ---- sizes ----


def test_sizes_are_those_of_the_published_networks() -> None:
    for architecture, num_parameters in PARAMETERS.items():
        with torch.device("meta"):
            made = convolutional_encoder(architecture)
        assert sum(parameter.numel() for parameter in made.parameters()) == num_parameters, architecture
        assert made.dim == DIMS[architecture]


@settings(max_examples=8, deadline=None)
@given(
    architecture=st.sampled_from(["resnet10", "efficientnet_b0", "cnn6", "mn04"]),
    num_frames=st.integers(50, 400),
    num_mels=st.sampled_from([64, 128]),
)
def test_any_size_of_the_filter_bank_gives_a_feature(architecture: str, num_frames: int, num_mels: int) -> None:
    made = encoder(architecture)
    with torch.inference_mode():
        features = made(fbanks(1, num_frames, num_mels))
    assert features.shape == (1, made.dim)
    assert features.isfinite().all()


@pytest.mark.parametrize("architecture", ["resnet10", "efficientnet_b0", "cnn6", "mn04"])
def test_the_least_size_is_the_smallest_that_passes(architecture: str) -> None:
    made = encoder(architecture)
    least = made.least_size
    with torch.inference_mode():
        assert made(fbanks(1, least, least)).shape == (1, made.dim)
        if least > 1:
            for size in ((least - 1, least), (least, least - 1)):
                with pytest.raises(RuntimeError):
                    made(fbanks(1, *size))


def test_channels_are_rounded_to_the_nearest_eighth_that_is_not_much_less() -> None:
    for channels in range(1, 400):
        allowed = [multiple for multiple in range(8, 408, 8) if multiple >= 0.9 * channels]
        nearest = min(abs(multiple - channels) for multiple in allowed)
        # Half rounds up.
        assert rounded_channels(channels) == max(m for m in allowed if abs(m - channels) == nearest), channels


@pytest.mark.parametrize("architecture", ["resnet18", "efficientnet_b0"])
def test_without_transformers_the_extra_is_named(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        SettingsError, match=f"'{architecture}' needs: pip install 'lungsound\\[baselines\\]'$"
    ) as caught:
        convolutional_encoder(architecture)
    assert "\n" not in str(caught.value)
    convolutional_encoder("cnn6")
    convolutional_encoder("mn04")


# ---- weights at random ----


@pytest.mark.parametrize("architecture", ["resnet10", "efficientnet_b0", "cnn6", "mn04"])
def test_initialisation_is_determined_by_the_generator_alone(architecture: str) -> None:
    torch.manual_seed(5)
    made = convolutional_encoder(architecture)
    spoil(made)
    made(fbanks(2, 40, 40))
    made.initialize(torch.Generator().manual_seed(0))
    expected = encoder(architecture).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in made.state_dict().items())
    made.initialize(torch.Generator().manual_seed(1))
    kernels = [name for name, value in expected.items() if value.ndim == 4]
    assert not any(torch.equal(made.state_dict()[name], expected[name]) for name in kernels)


@pytest.mark.parametrize("architecture", ["resnet10", "efficientnet_b0", "cnn6", "mn04"])
def test_neither_building_nor_training_draws_from_the_global_generator(architecture: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    made = convolutional_encoder(architecture)
    made.initialize(torch.Generator().manual_seed(0))
    made.train()(fbanks(2, 70, 64)).sum().backward()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is not None for parameter in made.parameters())


@pytest.mark.parametrize("architecture", ["resnet18", "efficientnet_b0", "cnn6", "mn04"])
def test_initialisation_has_the_deviations_that_it_says(architecture: str) -> None:
    for module in encoder(architecture).modules():
        if isinstance(module, nn.Conv2d):
            kernel = module.weight
            if kernel.numel() > 20_000:
                fan_out = kernel.shape[0] * kernel.shape[2] * kernel.shape[3]
                assert kernel.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.Linear):
            assert module.weight.abs().max() <= module.in_features**-0.5
            assert module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            assert (module.weight == 1).all()
            assert not module.bias.any()
            assert not module.running_mean.any()
            assert (module.running_var == 1).all()


@pytest.mark.parametrize(
    ("architecture", "eps", "momentum"),
    [("resnet18", 1e-5, 0.1), ("efficientnet_b0", 1e-5, 0.1), ("cnn6", 1e-5, 0.1), ("mn04", 1e-3, 0.01)],
)
def test_batch_norms_are_set_as_in_the_published_programs(architecture: str, eps: float, momentum: float) -> None:
    norms = [module for module in encoder(architecture).modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(eps, momentum)}


# ---- our own networks against plain functions ----


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        *(("cnn6", size) for size in ((16, 16), (63, 64), (101, 50))),
        *(("mn04", size) for size in ((1, 1), (63, 64), (200, 128))),
    ],
)
def test_a_network_of_our_own_is_what_its_weights_say(architecture: str, size: tuple[int, int]) -> None:
    made = convolutional_encoder(architecture)
    made.initialize(torch.Generator().manual_seed(0))
    spoil(made)
    made = made.double().eval()
    fbank = fbanks(2, *size).double()
    state = {name.removeprefix("network."): value for name, value in made.state_dict().items()}
    by_functions = {"cnn6": cnn6, "mn04": mobilenet}[architecture](state, fbank)
    assert torch.allclose(made(fbank), by_functions, rtol=1e-9, atol=1e-9)
