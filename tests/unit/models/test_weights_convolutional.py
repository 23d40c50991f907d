"""Files of the published formats, made here at the published shapes, loaded into convolutional encoders."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lungsound.config import ModelSettings
from lungsound.errors import WeightsError
from lungsound.models.cnn import ConvolutionalEncoder, convolutional_encoder
from lungsound.models.weights import LAYOUTS, LoadReport, load_weights
from tests.unit.models.published_networks import (
    EFFICIENTNET_FACTORS,
    RESNET_DEPTHS,
    Shapes,
    State,
    cnn6,
    cnn6_shapes,
    efficientnet,
    efficientnet_shapes,
    mobilenet,
    random_state,
    resnet,
    resnet_shapes,
)

PUBLISHED_PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
}


def shapes_of(architecture: str) -> Shapes:
    return resnet_shapes(architecture) if architecture in RESNET_DEPTHS else efficientnet_shapes(architecture)


def features_of(architecture: str, state: State, image: torch.Tensor) -> torch.Tensor:
    return resnet(state, image) if architecture in RESNET_DEPTHS else efficientnet(architecture, state, image)


def encoder(architecture: str, *, seed: int = 0) -> ConvolutionalEncoder:
    made = convolutional_encoder(architecture)
    made.initialize(torch.Generator().manual_seed(seed))
    return made.eval()


def load(made: ConvolutionalEncoder, path: Path, *, head: nn.Module | None = None, **settings: Any) -> LoadReport:
    return load_weights(made, path, ModelSettings(**settings), head=head)


def fbanks(num_frames: int = 75, num_mels: int = 64) -> torch.Tensor:
    return torch.randn(2, num_frames, num_mels, generator=torch.Generator().manual_seed(9)).double()


def save(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path


def doubled(state: State) -> State:
    return {name: value.double() for name, value in state.items()}


@torch.inference_mode()
def assert_gives(made: ConvolutionalEncoder, fbank: torch.Tensor, expected: torch.Tensor) -> None:
    """Features, computed in float64 because some of these networks magnify rounding, equal to 1e-5 of their size."""
    found = made.double()(fbank)
    assert found.shape == expected.shape
    assert expected.dtype == torch.float64
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


# ---- torchvision ----


def test_the_shapes_made_here_are_those_of_the_published_files() -> None:
    for architecture, expected in PUBLISHED_PARAMETERS.items():
        sizes = [torch.Size(shape).numel() for name, shape in shapes_of(architecture).items() if not is_statistic(name)]
        assert sum(sizes) == expected, architecture


def is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


@pytest.mark.parametrize("architecture", [*RESNET_DEPTHS, *EFFICIENTNET_FACTORS])
def test_every_weight_of_torchvision_has_its_place(architecture: str) -> None:
    kind = "torchvision ResNet" if architecture in RESNET_DEPTHS else "torchvision EfficientNet"
    shapes = {
        key: shape for key, shape in shapes_of(architecture).items() if not key.startswith(("fc.", "classifier."))
    }
    renamed = LAYOUTS[kind].rename(shapes)
    found = {renamed[key].removeprefix("network."): shape for key, shape in shapes.items()}
    assert len(found) == len(shapes)
    with torch.device("meta"):
        network = convolutional_encoder(architecture).network
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    first = next(iter(expected))
    assert found.pop(first) == (expected[first][0], 3, *expected[first][2:])
    assert found == {name: shape for name, shape in expected.items() if name != first}


@pytest.mark.parametrize(
    "architecture",
    [
        "resnet18",
        "efficientnet_b0",
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("efficientnet_b2", marks=pytest.mark.slow),
    ],
)
def test_a_file_of_torchvision_gives_torchvisions_features(architecture: str, tmp_path: Path) -> None:
    state = random_state(shapes_of(architecture))
    made = encoder(architecture)
    report = load(made, save(tmp_path / "a.pth", state))
    fbank = fbanks()
    assert_gives(made, fbank, features_of(architecture, doubled(state), fbank[:, None].expand(-1, 3, -1, -1)))
    assert report.source_format.startswith("torchvision")
    ((name, how),) = report.adapted
    assert name.endswith("convolution.weight")
    assert how == "sum of the red, green and blue kernels"
    assert report.new == ()
    assert {key for key, why in report.ignored if why == "ImageNet head"} == {
        key for key in state if key.startswith(("fc.", "classifier."))
    }
    assert len(report.used) + len(report.adapted) + len(report.ignored) == len(state)
    assert set(report.used) | {name} == set(made.state_dict())


def test_a_new_first_kernel_is_the_drawn_one(tmp_path: Path) -> None:
    state = random_state(resnet_shapes("resnet10"))
    made = encoder("resnet10")
    drawn = made.network.embedder.embedder.convolution.weight.clone()
    report = load(made, save(tmp_path / "a.pth", state), first_kernel="new")
    assert report.new == ("network.embedder.embedder.convolution.weight",)
    assert report.adapted == ()
    assert ("conv1.weight", "first kernel, drawn anew") in report.ignored
    fbank = fbanks()
    assert_gives(made, fbank, resnet(doubled(state | {"conv1.weight": drawn}), fbank[:, None]))


def test_a_kernel_of_one_channel_is_taken_as_it_is(tmp_path: Path) -> None:
    """As in a checkpoint of the published program: prefixes of several GPUs, state of training beside the model."""
    state = random_state(resnet_shapes("resnet10") | {"conv1.weight": (64, 1, 7, 7)})
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    parts = {"model": {f"module.{key}": value for key, value in state.items()}, "epoch": 3, "optimizer": {}}
    made = encoder("resnet10")
    for first_kernel in ("sum", "new"):
        report = load(made, save(tmp_path / "a.pth", parts), first_kernel=first_kernel)
        assert (report.adapted, report.new) == ((), ())
        assert dict(report.ignored) == {"epoch": "state of training", "optimizer": "state of training"}
    fbank = fbanks()
    assert_gives(made, fbank, resnet(doubled(state), fbank[:, None]))


def test_counters_may_be_missing_and_half_precision_is_widened(tmp_path: Path) -> None:
    state = random_state(resnet_shapes("resnet10"))
    made = encoder("resnet10")
    load(made, save(tmp_path / "a.pth", state))
    assert made.state_dict()["network.embedder.embedder.normalization.num_batches_tracked"] == 7
    old = {key: value.half() for key, value in state.items() if not key.endswith("num_batches_tracked")}
    report = load(made, save(tmp_path / "b.pth", old))
    assert not any(name.endswith("num_batches_tracked") for name in report.used)
    assert {value.dtype for value in made.state_dict().values()} == {torch.float32, torch.int64}


# ---- Hugging Face ----


@pytest.mark.parametrize("has_head", [True, False])
def test_a_resnet_of_hugging_face_gives_its_features(has_head: bool, tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

    config = ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[1, 1, 1, 1])
    theirs = (ResNetForImageClassification if has_head else ResNetModel)(config).eval()
    theirs.save_pretrained(tmp_path)
    made = encoder("resnet10")
    report = load(made, tmp_path)
    assert report.source_format == "Hugging Face ResNet"
    assert {why for _, why in report.ignored} == ({"head of another task"} if has_head else set())
    assert report.differences == ()
    fbank = fbanks()
    backbone = (theirs.resnet if has_head else theirs).double()
    assert_gives(made, fbank, backbone(fbank[:, None].expand(-1, 3, -1, -1)).pooler_output.flatten(1))


def test_an_efficientnet_of_hugging_face_is_taken_and_its_differences_are_said(tmp_path: Path) -> None:
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, depthwise_padding=[16])
    theirs = EfficientNetForImageClassification(config)
    theirs.save_pretrained(tmp_path)
    made = encoder("efficientnet_b0")
    report = load(made, tmp_path)
    assert report.source_format == "Hugging Face EfficientNet"
    assert report.differences == (
        "batch_norm_eps is 0.001 in the file and 1e-05 in the encoder",
        "depthwise_padding is [16] in the file and that of all blocks in the encoder",
    )
    expected = theirs.efficientnet.state_dict()
    found = {name.removeprefix("network."): value for name, value in made.state_dict().items()}
    assert found.keys() == expected.keys()
    stem = expected.pop("embeddings.convolution.weight")
    assert torch.allclose(found.pop("embeddings.convolution.weight")[:, 0], stem[:, 0] + stem[:, 1] + stem[:, 2])
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (None, "need their config.json beside them"),
        ("{", "with the settings of the model: "),
        ("[]", "with the settings of the model: "),
        ('{"downsample_in_bottleneck": true}', "downsample_in_bottleneck is True, but False in the encoder"),
    ],
)
def test_a_folder_of_hugging_face_needs_settings_that_fit(config: str | None, match: str, tmp_path: Path) -> None:
    made = encoder("resnet10")
    weights = {name.removeprefix("network."): value for name, value in made.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(WeightsError, match=match) as caught:
        load(made, tmp_path)
    assert "\n" not in str(caught.value)


# ---- PANNs and EfficientAT ----


def test_a_file_of_panns_gives_cnn6(tmp_path: Path) -> None:
    state = random_state(cnn6_shapes())
    made = encoder("cnn6")
    report = load(made, save(tmp_path / "Cnn6.pth", {"iteration": 600_000, "model": state}))
    fbank = fbanks()
    assert_gives(made, fbank, cnn6(doubled(state), fbank))
    assert report.source_format == "PANNs CNN"
    assert len(report.used) == 4 * 6
    reasons = [why for _, why in report.ignored]
    assert reasons.count("AudioSet head") == 4
    assert reasons.count("PANNs' own front end") == 3
    assert reasons.count("batch norm of PANNs' own front end") == 5
    assert reasons.count("state of training") == 1


def test_every_parameter_of_mn04_is_accounted_for(mn04_path: Path) -> None:
    state = torch.load(mn04_path, weights_only=True)
    made = encoder("mn04")
    report = load(made, mn04_path)
    fbank = fbanks(120, 128)
    assert_gives(made, fbank, mobilenet(doubled(state), fbank))
    assert (report.adapted, report.new, report.differences) == ((), (), ())
    assert {f"network.{key}" for key in state if key.startswith("features.")} == set(report.used)
    assert dict(report.ignored) == dict.fromkeys((key for key in state if "classifier" in key), "AudioSet head")
    accounted = [name.removeprefix("network.") for name in report.used] + [key for key, _ in report.ignored]
    assert sum(state[key].numel() for key in accounted if not is_statistic(key)) == 983_599
    assert "AudioSet head" in report.summary()


# ---- runs of our own ----


@dataclass
class Run:
    """A run's model.safetensors: encoder and head of resnet10 with three classes."""

    path: Path
    encoder: ConvolutionalEncoder
    head: nn.Module


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made, head = encoder("resnet10", seed=4), nn.Sequential(nn.Linear(512, 3))
    tensors = {f"encoder.{name}": value for name, value in made.state_dict().items()}
    tensors |= {f"head.{name}": value for name, value in head.state_dict().items()}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"lungsound": json.dumps({"label_set": "diagnosis3"})})
    return Run(path, made, head)


def test_a_run_of_ours_is_taken_without_its_head(run: Run) -> None:
    made = encoder("resnet10")
    report = load(made, run.path.parent, first_kernel="new")
    assert all(torch.equal(value, run.encoder.state_dict()[name]) for name, value in made.state_dict().items())
    assert report.source_format == "run of lungsound"
    assert report.head_label_set is None
    assert dict(report.ignored) == dict.fromkeys(("head.0.weight", "head.0.bias"), "head of that run")


def test_a_run_of_ours_is_taken_with_its_head(run: Run) -> None:
    head = nn.Sequential(nn.Linear(512, 3))
    report = load(encoder("resnet10"), run.path, head=head)
    assert all(torch.equal(value, run.head.state_dict()[name]) for name, value in head.state_dict().items())
    assert report.head_label_set == "diagnosis3"
    assert report.ignored == ()
    assert {"head.0.weight", "head.0.bias"} <= set(report.used)


# ---- what is refused ----


def assert_refused(made: ConvolutionalEncoder, path: Path, match: str, *, head: nn.Module | None = None) -> None:
    """One line, and nothing is changed."""
    modules = [made] if head is None else [made, head]
    before = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
    with pytest.raises(WeightsError, match=match) as caught:
        load(made, path, head=head)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    deeper = save(tmp_path / "deeper.pth", random_state(resnet_shapes("resnet18")))
    shallower = save(tmp_path / "shallower.pth", random_state(resnet_shapes("resnet10")))
    panns = save(tmp_path / "panns.pth", random_state(cnn6_shapes()))
    fits = "torchvision ResNet weights do not fit"
    assert_refused(encoder("resnet10"), deeper, rf"{fits} resnet10: layer1\.1\.conv1\.weight is .*, expected no such")
    assert_refused(
        encoder("resnet18"), shallower, rf"{fits} resnet18: network\.encoder\.stages\.0\.layers\.1.* is missing"
    )
    assert_refused(encoder("cnn6"), shallower, rf"{fits} cnn6: conv1\.weight is")
    assert_refused(encoder("mn04"), panns, r"PANNs CNN weights do not fit mn04: conv_block1\.conv1\.weight is")


def test_mn04_of_another_width_is_refused(tmp_path: Path) -> None:
    state = {name.removeprefix("network."): value for name, value in encoder("mn04").state_dict().items()}
    state["features.0.0.weight"] = torch.ones(16, 1, 3, 3)
    message = r"MobileNetV3 weights do not fit mn04: features\.0\.0\.weight is \(16, 1, 3, 3\), expected \(8, 1, 3, 3\)"
    assert_refused(encoder("mn04"), save(tmp_path / "mn10.pt", state), message)


def test_what_is_not_explained_is_refused(tmp_path: Path) -> None:
    made, state = encoder("resnet10"), random_state(resnet_shapes("resnet10"))
    changes: list[tuple[dict[str, torch.Tensor | None], str]] = [
        ({"bn1.weight": torch.full((64,), float("nan"))}, r"bn1\.weight \(torch\.float32\) holds values that are no"),
        ({"bn1.weight": torch.ones(64, dtype=torch.int32)}, r"bn1\.weight \(torch\.int32\) holds values that are no"),
        ({"extra.weight": torch.ones(2)}, r"extra\.weight is \(2,\), expected no such weight"),
        ({"bn1.weight": None}, r"network\.embedder\.embedder\.normalization\.weight is missing"),
    ]
    for change, match in changes:
        changed = {key: value for key, value in (state | change).items() if value is not None}
        assert_refused(made, save(tmp_path / "a.pth", changed), match)


def test_files_of_other_models_are_refused(tmp_path: Path) -> None:
    vit = save(tmp_path / "vit.pth", {"pos_embed": torch.ones(1, 5, 2), "cls_token": torch.ones(1, 1, 2)})
    assert_refused(
        encoder("cnn6"),
        vit,
        r"ImageNet ViT weights do not fit cnn6: pos_embed is",
    )
    ast = save(
        tmp_path / "ast.pth", {"encoder.cls_token": torch.ones(1, 1, 2), "encoder.pos_embed": torch.ones(1, 3, 2)}
    )
    assert_refused(encoder("cnn6"), ast, "run of lungsound weights do not fit cnn6: encoder.* expected no such weight")


def test_heads_that_do_not_fit_are_refused(run: Run, tmp_path: Path) -> None:
    made, two = encoder("resnet10"), nn.Sequential(nn.Linear(512, 2))
    assert_refused(made, run.path, r"head\.0\.\w+ is \(3,.*\), expected \(2,", head=two)
    path = save(tmp_path / "a.pth", random_state(resnet_shapes("resnet10")))
    assert_refused(made, path, "torchvision ResNet has no head for these classes", head=two)
    tensors = {f"encoder.{name}": value for name, value in made.state_dict().items()}
    save_file(tensors, tmp_path / "b.safetensors", metadata={"lungsound": "[]"})
    assert_refused(made, tmp_path / "b.safetensors", r"its header must .*, got '\[\]'", head=two)
    save_file(tensors, tmp_path / "c.safetensors")
    assert_refused(made, tmp_path / "c.safetensors", "run of lungsound has no head for these classes", head=two)
