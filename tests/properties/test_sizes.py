"""Inputs of any length, mels and stride: every method builds, trains a step, answers; positions find their place."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from lungsound.audio.filter_bank import AUDIOSET_MEAN, AUDIOSET_STD, normalize
from lungsound.audio.front_end import FrontEnd
from lungsound.axes import PatchGrid
from lungsound.config import RunConfig, load_config
from lungsound.data.batches import Batch
from lungsound.models.ast import ENCODER_SIZES
from lungsound.models.classifier import LungSoundClassifier, initial_classifier, predict_cycles
from lungsound.models.weights import LoadReport
from lungsound.training.objectives import make_objective
from lungsound.training.trainer import TrainStep
from tests.networks import make_ast

CPU = torch.device("cpu")
BATCH_SIZE = 2
DURATIONS_S = [2, 5, 8, 10]
MELS = [64, 128]
STRIDES = [10, 16]
# Every length, number of mels and stride once or twice by default; all together are slow.
BY_DEFAULT = {(2, 128, 10), (5, 64, 16), (8, 128, 16), (10, 64, 10)}
SIZES = [
    pytest.param(*size, marks=() if size in BY_DEFAULT else pytest.mark.slow)
    for size in product(DURATIONS_S, MELS, STRIDES)
]
FRAMES_PER_UNIT = 1000  # made positions hold frames in units of ten seconds, so that they are of the size of weights


def configured(recipe: str, duration_s: float, num_mels: int, *overrides: str) -> RunConfig:
    audio = [f"audio.duration_s={float(duration_s)}", f"audio.num_mels={num_mels}"]
    return load_config(recipe, [*audio, f"train.batch_size={BATCH_SIZE}", "train.device=cpu", *overrides])


def transformer(
    recipe: str, duration_s: float, num_mels: int, stride: int, pretrained: Path | str = "none"
) -> RunConfig:
    overrides = ["model.size=micro", f"model.stride={stride}", f'model.pretrained="{pretrained}"']
    return configured(recipe, duration_s, num_mels, *overrides)


def trained_a_step(config: RunConfig) -> tuple[LungSoundClassifier, LoadReport | None]:
    """Build the model, train a step on noise, and answer; the model as it was built."""
    front_end = FrontEnd(config.audio)
    model, report = initial_classifier(config, front_end)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective = make_objective(config.objective, config.patchmix, class_counts=[1, 1, 1, 1], device=CPU)
    step = TrainStep(model, objective, config.train, device=CPU)

    generator = torch.Generator().manual_seed(0)
    waveforms = (torch.randn(BATCH_SIZE, front_end.num_samples, generator=generator) / 10).numpy()
    given = normalize(front_end.filter_banks(waveforms), mean=AUDIOSET_MEAN, std=AUDIOSET_STD)
    fbank = torch.from_numpy(given)
    assert fbank.shape == (BATCH_SIZE, front_end.num_frames, config.audio.num_mels)
    loss = step(Batch(fbank, torch.tensor([0, 3])), learning_rate=1e-3, generator=generator)
    assert loss.total.isfinite()
    frozen = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert frozen == []

    probabilities, _ = predict_cycles(model, [(fbank, None)], device=CPU)
    assert probabilities.shape == (BATCH_SIZE, len(model.classes))
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(BATCH_SIZE))
    model.load_state_dict(before)
    return model, report


def made_checkpoint(path: Path, *, stride: int, is_ssast: bool) -> Path:
    """An AudioSet AST or an SSAST of micro size. Each position holds its place: share of the mel axis, and frame."""
    size = ENCODER_SIZES["micro"]
    encoder = make_ast(
        num_mels=128, num_frames=1024, dim=size.dim, depth=size.depth, num_heads=size.num_heads, stride=stride
    )
    encoder.initialize(torch.Generator().manual_seed(1))
    grid = encoder.grid
    with torch.no_grad():
        axes = places(grid, 128, stride)
        encoder.pos_embed[0, 2:, :2] = torch.cartesian_prod(*axes).float()
    content = {f"module.v.{name}": value for name, value in encoder.state_dict().items()}
    if is_ssast:
        content |= {"module.p_input_fdim": torch.tensor(128), "module.p_input_tdim": torch.tensor(1024)}
        content["module.mask_embed"] = torch.ones(1, 1, size.dim)
    save_file(content, path)
    return path


def places(grid: PatchGrid, num_mels: int, stride: int) -> tuple[Tensor, Tensor]:
    """Share of the mel axis of each row, and frame of each column (in units), at the middle of a patch."""
    middle = 8 + stride * torch.arange(max(grid.freq, grid.time), dtype=torch.float64)
    return middle[: grid.freq] / num_mels, middle[: grid.time] / FRAMES_PER_UNIT


@pytest.fixture(scope="module")
def audioset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_checkpoint(tmp_path_factory.mktemp("audioset") / "ast.safetensors", stride=10, is_ssast=False)


@pytest.fixture(scope="module")
def ssast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_checkpoint(tmp_path_factory.mktemp("ssast") / "ssast.safetensors", stride=16, is_ssast=True)


def assert_in_place(model: LungSoundClassifier, *, source_stride: int) -> None:
    """Each patch has the share of the mel axis that is its own, and the frame up to one shift of all."""
    encoder = model.patch_encoder
    found = encoder.pos_embed[0, 2:, :2].detach().double().unflatten(0, (encoder.grid.freq, encoder.grid.time))
    source_grid = PatchGrid.of(128, 1024, stride=source_stride)
    source_bands, source_frames = places(source_grid, 128, source_stride)
    bands, frames = places(encoder.grid, encoder.num_mels, encoder.stride)
    expected = bands.clamp(source_bands[0], source_bands[-1]).unsqueeze(1).expand(encoder.grid.freq, encoder.grid.time)
    assert torch.allclose(found[..., 0], expected, atol=1e-6)
    assert torch.allclose(found[..., 1], found[:1, :, 1].expand(expected.shape), atol=1e-6)
    shift = found[0, encoder.grid.time // 2, 1] - frames[encoder.grid.time // 2]
    middle = (1024 - encoder.num_frames) / 2 / FRAMES_PER_UNIT
    assert abs(shift - middle) < source_stride / FRAMES_PER_UNIT
    in_time = (frames + shift).clamp(source_frames[0], source_frames[-1])
    assert torch.allclose(found[0, :, 1], in_time, atol=1e-6)


@pytest.mark.parametrize(("duration_s", "num_mels", "stride"), SIZES)
def test_from_random_weights(duration_s: int, num_mels: int, stride: int) -> None:
    model, report = trained_a_step(transformer("ce", duration_s, num_mels, stride))
    assert model.patch_encoder.grid == PatchGrid.of(num_mels, duration_s * 100 - 2, stride=stride)
    assert report is None


@pytest.mark.parametrize(("duration_s", "num_mels", "stride"), SIZES)
def test_from_an_audioset_model(audioset: Path, duration_s: int, num_mels: int, stride: int) -> None:
    model, report = trained_a_step(transformer("patchmix_cl", duration_s, num_mels, stride, audioset))
    assert report is not None
    assert report.source_format == "AudioSet AST, original"
    assert_in_place(model, source_stride=10)


@pytest.mark.parametrize(("duration_s", "num_mels", "stride"), SIZES)
def test_from_an_ssast(ssast: Path, duration_s: int, num_mels: int, stride: int) -> None:
    model, report = trained_a_step(transformer("ssast_patchmix_ce", duration_s, num_mels, stride, ssast))
    assert report is not None
    assert report.source_format == "SSAST"
    assert model.patch_encoder.pooling == "average_token"
    assert_in_place(model, source_stride=16)


@settings(deadline=None, max_examples=15, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(duration_s=st.floats(0.3, 10.1), num_mels=st.integers(16, 160), stride=st.integers(8, 16))
def test_positions_find_their_place_at_any_size(
    audioset: Path, ssast: Path, duration_s: float, num_mels: int, stride: int
) -> None:
    for source, source_stride in ((audioset, 10), (ssast, 16)):
        config = transformer("ce", duration_s, num_mels, stride, source)
        model, _ = initial_classifier(config, FrontEnd(config.audio))
        assert_in_place(model, source_stride=source_stride)


@pytest.mark.parametrize(
    ("architecture", "duration_s", "num_mels"),
    [
        ("cnn6", 2, 128),
        ("cnn6", 5, 64),
        ("mn04", 2, 64),
        ("mn04", 8, 64),
        ("mn04", 10, 128),
        ("resnet10", 2, 64),
        ("resnet10", 5, 128),
        ("efficientnet_b0", 2, 64),
    ],
)
@pytest.mark.parametrize("filter_bank", ["kaldi", pytest.param("efficientat", marks=pytest.mark.slow)])
def test_convolutional_networks(architecture: str, duration_s: int, num_mels: int, filter_bank: str) -> None:
    overrides = [f"model.architecture={architecture}", "model.pretrained=none", f"audio.filter_bank={filter_bank}"]
    overrides += ["audio.sample_rate_hz=32000"] if filter_bank == "efficientat" else []
    model, _ = trained_a_step(configured("ce", duration_s, num_mels, *overrides))
    assert type(model.encoder).__name__ == "ConvolutionalEncoder"
