"""Every known format loads the very same encoder; every weight is accounted for; the rest is refused in one line."""

import argparse
import json
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lungsound.axes import PatchGrid
from lungsound.config import ModelSettings
from lungsound.errors import WeightsError
from lungsound.models.ast import (
    ENCODER_SIZES,
    AudioSpectrogramTransformer,
    PatchPlaces,
    adapt_positions,
    place_positions,
)
from lungsound.models.weights import LoadReport, load_weights
from tests.networks import make_ast

TINY = ENCODER_SIZES["tiny"]
Weights = dict[str, Tensor]


def make_encoder(**changes: Any) -> AudioSpectrogramTransformer:
    """An encoder of 2 blocks, its weights zero but for the norms."""
    sizes = {"num_mels": 64, "num_frames": 98, "dim": 12, "depth": 2, "num_heads": 3, **changes}
    return make_ast(**sizes).requires_grad_(False).eval()


def load(
    encoder: AudioSpectrogramTransformer, path: Path, *, head: torch.nn.Module | None = None, **settings: Any
) -> LoadReport:
    return load_weights(encoder, path, ModelSettings(**settings), head=head)


def random_weights(encoder: AudioSpectrogramTransformer, *, num_positions: int | None = None) -> Weights:
    """Weights in the encoder's names, all different from zero, the positions perhaps of another number."""
    generator = torch.Generator().manual_seed(0)
    shapes = {key: tuple(value.shape) for key, value in encoder.state_dict().items()}
    shapes["pos_embed"] = (1, num_positions or shapes["pos_embed"][1], encoder.dim)
    return {key: 0.2 * torch.randn(shape, generator=generator) + 0.1 for key, shape in shapes.items()}


def heads(*names: str, num_classes: int = 10, dim: int = 12) -> Weights:
    """A linear map under each name."""
    return {
        f"{name}.{leaf}": torch.ones(num_classes, *rest)
        for name in names
        for leaf, rest in (("weight", (dim,)), ("bias", ()))
    }


def as_image_model(weights: Weights) -> Weights:
    """The same weights with a kernel for each colour, whose sum is the given one."""
    red = torch.randn(weights["patch_embed.proj.weight"].shape, generator=torch.Generator().manual_seed(1))
    colours = torch.cat([red, 0.5 * red, weights["patch_embed.proj.weight"] - 1.5 * red], dim=1)
    return weights | {"patch_embed.proj.weight": colours}


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + key: value for key, value in weights.items()}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def assert_holds(encoder: AudioSpectrogramTransformer, weights: Weights) -> None:
    for key, value in encoder.state_dict().items():
        assert torch.allclose(value, weights[key], atol=1e-6), key


def assert_refused(
    encoder: AudioSpectrogramTransformer, path: Path, match: str, *, head: torch.nn.Module | None = None
) -> None:
    """One line, and the encoder as it was."""
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(WeightsError, match=match) as caught:
        load(encoder, path, head=head)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def places_of(encoder: AudioSpectrogramTransformer) -> PatchPlaces:
    return PatchPlaces(encoder.num_mels, encoder.num_frames, encoder.stride, encoder.stride)


# ---- ImageNet


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_distilled_image_model(tmp_path: Path, prefix: str, is_wrapped: bool) -> None:
    encoder = make_encoder()
    weights = random_weights(encoder, num_positions=2 + 9)
    content = prefixed(prefix, as_image_model(weights) | heads("head", "head_dist"))
    report = load(encoder, saved(tmp_path / "deit.pth", {"model": content} if is_wrapped else content))
    expected = adapt_positions(weights["pos_embed"], source_grid=PatchGrid(3, 3), target_grid=encoder.grid)
    assert_holds(encoder, weights | {"pos_embed": expected})
    assert report.source_format == "ImageNet ViT, distilled"
    assert dict(report.adapted) == {
        "patch_embed.proj.weight": "sum of the red, green and blue kernels",
        "pos_embed": "3x3 to 5x9 (freq x time), aligned",
    }
    assert set(report.used) == set(weights) - {"patch_embed.proj.weight", "pos_embed"}
    assert report.ignored == tuple((key, "ImageNet head") for key in heads("head", "head_dist"))
    assert report.new == ()


def test_image_model_without_distillation_token_uses_the_class_token_twice(tmp_path: Path) -> None:
    encoder = make_encoder(num_frames=64, num_mels=64)
    weights = random_weights(encoder)
    assert encoder.grid == PatchGrid(5, 5)
    weights["dist_token"] = weights["cls_token"]
    weights["pos_embed"][:, 1] = weights["pos_embed"][:, 0]
    content = as_image_model(weights) | heads("head") | {"pos_embed": weights["pos_embed"][:, 1:].clone()}
    del content["dist_token"]
    save_file(content, tmp_path / "vit.safetensors")
    report = load(encoder, tmp_path / "vit.safetensors")
    assert_holds(encoder, weights)
    assert dict(report.adapted)["dist_token"] == "copy of the class token"
    assert dict(report.adapted)["pos_embed"] == "position of the class token also for the distillation token"
    assert report.source_format == "ImageNet ViT"


def test_real_deit_tiny(deit_tiny_path: Path) -> None:
    encoder = make_encoder(num_mels=128, num_frames=798, dim=TINY.dim, depth=TINY.depth, num_heads=TINY.num_heads)
    report = load(encoder, deit_tiny_path)
    stored = load_file(deit_tiny_path)
    assert report.sha256 == "bec653525d42fec4642813f9bb44f9d37bd642bc206190b36212256763b7b16c"
    assert {key for key, _ in report.adapted} == {"patch_embed.proj.weight", "pos_embed", "dist_token"}
    assert dict(report.adapted)["pos_embed"].endswith("14x14 to 12x79 (freq x time), aligned")
    assert set(report.used) == set(encoder.state_dict()) - {key for key, _ in report.adapted}
    assert report.ignored == (("head.bias", "ImageNet head"), ("head.weight", "ImageNet head"))
    assert report.new == ()
    assert all(torch.equal(encoder.state_dict()[key], stored[key]) for key in report.used)
    assert torch.equal(encoder.dist_token, stored["cls_token"])
    assert torch.equal(encoder.pos_embed[:, 1], stored["pos_embed"][:, 0])
    assert torch.allclose(encoder.patch_embed.proj.weight[:, 0], stored["patch_embed.proj.weight"].sum(1), atol=1e-6)
    frequency_rows = stored["pos_embed"][:, 1:].reshape(1, 14, 14, TINY.dim)[:, 1:13]  # 12 of 14, from the middle
    first, last = encoder.pos_embed[:, 2:].reshape(1, 12, 79, TINY.dim)[:, :, [0, -1]].unbind(2)
    assert torch.allclose(first, frequency_rows[:, :, 0], atol=1e-6)
    assert torch.allclose(last, frequency_rows[:, :, -1], atol=1e-6)
    features = encoder(torch.randn(2, 798, 128, generator=torch.Generator().manual_seed(2)))
    assert features.isfinite().all()
    assert (features[0] - features[1]).abs().max() > 1e-3
    assert report.summary().count("\n") == 4


# ---- AudioSet AST, original and Hugging Face


@pytest.mark.parametrize("position_grid", ["aligned", "published"])
@pytest.mark.parametrize(("num_positions", "stride"), [(1214, 10), (514, 16)])
def test_original_audioset_model(tmp_path: Path, num_positions: int, stride: int, position_grid: str) -> None:
    encoder = make_encoder(num_mels=128, num_frames=798, num_heads=1)
    weights = random_weights(encoder, num_positions=num_positions)
    source = PatchPlaces(128, 1024, stride, stride)
    content = prefixed("module.v.", weights | heads("head", "head_dist")) | heads("module.mlp_head.1", num_classes=527)
    report = load(encoder, saved(tmp_path / "ast.pth", OrderedDict(content)), position_grid=position_grid)
    if position_grid == "aligned":
        expected = place_positions(weights["pos_embed"], source=source, target=places_of(encoder))
    else:
        expected = adapt_positions(
            weights["pos_embed"], source_grid=source.grid, target_grid=encoder.grid, is_swapped=True
        )
    assert_holds(encoder, weights | {"pos_embed": expected})
    assert report.source_format == "AudioSet AST, original"
    assert report.adapted == (
        ("pos_embed", f"{source.grid.freq}x{source.grid.time} to 12x79 (freq x time), {position_grid}"),
    )
    assert ("mlp_head.1.weight", "AudioSet head") in report.ignored
    assert ("v.head_dist.bias", "ImageNet head") in report.ignored
    assert len(report.ignored) == 6


@pytest.fixture(scope="module")
def hugging_face() -> Any:
    """The transformers library; what it warns of on import is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers")


def save_hugging_face(library: Any, folder: Path, *, num_frames: int, has_head: bool, **changes: Any) -> None:
    """A random AST of transformers, saved in its layout; every parameter is drawn, so that none is 0."""
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_hidden_layers": 3, **changes}
    config = library.ASTConfig(max_length=num_frames, num_mel_bins=128, **sizes)
    model = (library.ASTForAudioClassification if has_head else library.ASTModel)(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    library.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)


def test_the_same_weights_under_the_original_names(hugging_face: Any, tmp_path: Path) -> None:
    save_hugging_face(hugging_face, tmp_path / "ast", num_frames=1024, has_head=True)
    from_folder = make_encoder(num_mels=128, num_frames=798, dim=192, depth=3, num_heads=3)
    report = load(from_folder, tmp_path / "ast")
    assert dict(report.adapted) == {"pos_embed": "12x101 to 12x79 (freq x time), aligned"}
    assert report.differences == ("layer_norm_eps is 1e-12 in the file and 1e-06 in the encoder",)

    whole = make_encoder(num_mels=128, num_frames=1024, dim=192, depth=3, num_heads=3)
    assert load(whole, tmp_path / "ast" / "model.safetensors").adapted == ()
    path = saved(tmp_path / "original.pth", prefixed("module.v.", whole.state_dict()))
    from_original = make_encoder(num_mels=128, num_frames=798, dim=192, depth=3, num_heads=3)
    load(from_original, path)
    assert_holds(from_original, from_folder.state_dict())
    assert from_original.blocks[0].norm1.eps == 1e-6


def test_hugging_face_strides_and_settings_come_from_its_config(hugging_face: Any, tmp_path: Path) -> None:
    folder = tmp_path / "ast"
    save_hugging_face(
        hugging_face,
        folder,
        num_frames=300,
        has_head=False,
        hidden_size=12,
        intermediate_size=48,
        num_hidden_layers=2,
        frequency_stride=16,
        time_stride=12,
    )
    encoder = make_encoder()
    report = load(encoder, folder)
    assert dict(report.adapted) == {"pos_embed": "8x24 to 5x9 (freq x time), aligned"}
    stored = load_file(folder / "model.safetensors")["embeddings.position_embeddings"]
    expected = place_positions(stored, source=PatchPlaces(128, 300, 16, 12), target=places_of(encoder))
    assert torch.equal(encoder.pos_embed, expected)
    assert_refused(make_encoder(num_heads=2), folder, "num_attention_heads is 3, but 2 in the encoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_length": 400}))
    assert_refused(encoder, folder, "192 patch positions, but its grid of 8x33 needs 264")
    (folder / "config.json").write_text(json.dumps(config | {"time_stride": None}))
    assert_refused(encoder, folder, "with the settings of the model: TypeError")
    (folder / "config.json").unlink()
    assert_refused(encoder, folder, "need their config.json beside them")
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.attention.attention.value.weight"]
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    assert_refused(encoder, folder, r"blocks.1.attn.qkv.weight is \(24, 12\), expected \(36, 12\)")


# ---- runs of our own


def save_own_run(path: Path, weights: Weights, *, head: Weights | None = None, **facts: Any) -> Path:
    batch_norm = {"projector.bn.num_batches_tracked": torch.tensor(7), "projector.bn.running_mean": torch.ones(12)}
    head = own_head(4) if head is None else head
    of_sounds = {"domain.mean": torch.zeros(3), "gate.mean": torch.zeros(3)}
    content = prefixed("encoder.", weights) | prefixed("head.", head) | heads("projector.linear1")
    content |= batch_norm | of_sounds
    save_file(content, path, metadata={"lungsound": json.dumps(facts)})
    return path


def own_head(num_classes: int) -> Weights:
    norm = {"0.weight": torch.full((12,), 2.0), "0.bias": torch.full((12,), 3.0)}
    return norm | heads("1", num_classes=num_classes)


def facts_of(encoder: AudioSpectrogramTransformer, **model: Any) -> dict[str, Any]:
    """The part of a header that the loader reads, as `save_model` writes it."""
    return {
        "audio": {"num_mels": encoder.num_mels, "duration_s": 8.0},
        "model": {"size": "micro", "stride": encoder.stride, **model},
        "patch_grid": [encoder.grid.freq, encoder.grid.time],
        "label_set": "sound4",
    }


@pytest.mark.parametrize("position_grid", ["aligned", "published"])
@pytest.mark.parametrize("has_facts", [False, True])
def test_a_run_of_our_own_on_the_same_grid_is_taken_verbatim(
    tmp_path: Path, has_facts: bool, position_grid: str
) -> None:
    encoder = make_encoder()
    weights = random_weights(encoder)
    path = save_own_run(tmp_path / "model.safetensors", weights, **(facts_of(encoder) if has_facts else {}))
    report = load(encoder, path.parent, position_grid=position_grid)
    assert all(torch.equal(value, weights[key]) for key, value in encoder.state_dict().items())
    assert set(report.used) == set(weights)
    assert report.adapted == ()
    ignored = ("projector of that run", "what that run was trained on", "gate of that run against sounds without lungs")
    assert {why for _, why in report.ignored} == {"head of that run", *ignored}
    assert len(report.ignored) == 10
    assert report.head_label_set is None


@pytest.mark.parametrize("changes", [{"num_frames": 128}, {"num_mels": 128}, {"stride": 16}, {"num_mels": 65}])
def test_a_run_of_our_own_with_other_patches_is_placed(tmp_path: Path, changes: dict[str, int]) -> None:
    encoder, run = make_encoder(), make_encoder(**changes)
    weights = random_weights(run)
    path = save_own_run(tmp_path / "run.safetensors", weights, **facts_of(run))
    report = load(encoder, path, position_grid="published")
    expected = place_positions(weights["pos_embed"], source=places_of(run), target=places_of(encoder))
    assert torch.allclose(encoder.pos_embed, expected, atol=1e-6)
    old = f"{run.grid.freq}x{run.grid.time}"
    assert dict(report.adapted) == {"pos_embed": f"{old} to 5x9 (freq x time), aligned"}


def test_a_run_of_our_own_that_names_no_grid_must_have_the_same_number_of_patches(tmp_path: Path) -> None:
    encoder = make_encoder()
    path = save_own_run(tmp_path / "run.safetensors", random_weights(encoder, num_positions=2 + 4 * 12))
    assert_refused(encoder, path, "48 learnt positions, on a grid that it does not name")


def test_the_head_of_a_run_of_our_own_is_taken_when_asked_for(tmp_path: Path) -> None:
    encoder = make_encoder()
    path = save_own_run(tmp_path / "run.safetensors", random_weights(encoder), **facts_of(encoder))
    head = torch.nn.Sequential(torch.nn.LayerNorm(12), torch.nn.Linear(12, 4))
    report = load(encoder, path, head=head)
    assert all(torch.equal(value, own_head(4)[key]) for key, value in head.state_dict().items())
    assert {key for key in report.used if key.startswith("head.")} == set(prefixed("head.", own_head(4)))
    assert "head of that run" not in {why for _, why in report.ignored}
    assert report.head_label_set == "sound4"
    assert "  among them the head of that run, for the classes of sound4" in report.summary().splitlines()


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (
            own_head(2),
            r"head.1.bias is \(2,\), expected \(4,\): a head is taken from a run with the same classes",
        ),
        (heads("1", num_classes=4), r"head.0.weight is missing, expected \(12,\)"),
        (own_head(4) | heads("2"), r"head.2.bias is \(10,\), expected no such weight"),
        ({}, "run of lungsound has no head for these classes"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(tmp_path: Path, head: Weights, match: str) -> None:
    encoder = make_encoder()
    path = save_own_run(tmp_path / "run.safetensors", random_weights(encoder), head=head, **facts_of(encoder))
    assert_refused(encoder, path, match, head=torch.nn.Sequential(torch.nn.LayerNorm(12), torch.nn.Linear(12, 4)))


def test_other_formats_have_no_head_for_these_classes(tmp_path: Path) -> None:
    encoder = make_encoder()
    content = as_image_model(random_weights(encoder, num_positions=11)) | heads("head", num_classes=4)
    path = saved(tmp_path / "deit.pth", content)
    head = torch.nn.Linear(12, 4)
    assert_refused(encoder, path, "ImageNet ViT, distilled has no head .* only a run of lungsound has one", head=head)


def test_settings_of_a_run_that_the_encoder_does_not_share_are_named(tmp_path: Path) -> None:
    encoder = make_encoder()
    facts = facts_of(encoder, norm_eps=1e-12, pooling="average_token")
    report = load(encoder, save_own_run(tmp_path / "run.safetensors", random_weights(encoder), **facts))
    assert report.differences == (
        "norm_eps is 1e-12 in the file and 1e-06 in the encoder",
        "pooling is average_token in the file and class_token in the encoder",
    )


# ---- SSAST


def save_ssast(path: Path, weights: Weights) -> Path:
    """The layout of SSAST-*-Patch-400.pth, with all that its training leaves in it."""
    dim = weights["cls_token"].shape[-1]
    training = {
        "p_input_fdim": torch.tensor(128),
        "p_input_tdim": torch.tensor(1024),
        "mask_embed": torch.ones(1, 1, dim),
        **heads("cpredlayer.0", "gpredlayer.0", num_classes=dim, dim=dim),
        **heads("cpredlayer.2", "gpredlayer.2", num_classes=256, dim=dim),
    }
    vision = prefixed("v.", weights | heads("head", "head_dist", num_classes=1000, dim=dim))
    return saved(path, OrderedDict(prefixed("module.", training | vision)))


@pytest.mark.parametrize("position_grid", ["aligned", "published"])
def test_ssast(tmp_path: Path, position_grid: str) -> None:
    encoder = make_encoder(num_mels=128, num_frames=798, pooling="average_token")
    weights = random_weights(encoder, num_positions=2 + 8 * 64)
    path = save_ssast(tmp_path / "SSAST-Tiny-Patch-400.pth", weights)
    report = load(encoder, path, position_grid=position_grid)
    source = PatchPlaces(128, 1024, 16, 16)
    if position_grid == "aligned":
        expected = place_positions(weights["pos_embed"], source=source, target=places_of(encoder))
    else:  # the authors' program gives SSAST its axes in the right order
        expected = adapt_positions(weights["pos_embed"], source_grid=source.grid, target_grid=encoder.grid)
    assert_holds(encoder, weights | {"pos_embed": expected})
    assert report.source_format == "SSAST"
    assert dict(report.adapted) == {"pos_embed": f"8x64 to 12x79 (freq x time), {position_grid}"}
    assert set(report.used) == set(weights) - {"pos_embed"}
    reasons = [why for _, why in report.ignored]
    assert {why: reasons.count(why) for why in reasons} == {
        "size of the training input": 2,
        "stands for a masked patch in self-supervised training": 1,
        "head of self-supervised training": 8,
        "ImageNet head": 4,
    }
    assert report.differences == report.new == ()


def test_ssast_of_frames_is_refused(tmp_path: Path) -> None:
    encoder = make_encoder(num_mels=128, num_frames=798)
    weights = random_weights(encoder, num_positions=514) | {"patch_embed.proj.weight": torch.ones(12, 1, 128, 2)}
    path = save_ssast(tmp_path / "SSAST-Base-Frame-400.pth", weights)
    assert_refused(encoder, path, r"patches of 128x2 \(mel x frame\), but 16x16 in the encoder")


# ---- runs of the published program


def save_published_run(path: Path, weights: Weights, *, prefix: str, **changes: Any) -> Path:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-5)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    settings = argparse.Namespace(epochs=50, lr_decay_epochs=[30, 40], nested=argparse.Namespace(method="patchmix_cl"))
    content = {
        "args": settings,
        "model": prefixed(prefix, prefixed("v.", weights | heads("head", "head_dist")) | heads("mlp_head.1")),
        "optimizer": optimizer.state_dict(),
        "epoch": 50,
        "classifier": heads("1", num_classes=4),
    }
    return saved(path, content | changes)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("position_grid", ["aligned", "published"])
def test_a_run_of_the_published_program_keeps_its_948_positions(
    tmp_path: Path, prefix: str, position_grid: str
) -> None:
    encoder = make_encoder(num_mels=128, num_frames=798)
    weights = random_weights(encoder)
    path = save_published_run(tmp_path / "best.pth", weights, prefix=prefix)
    report = load(encoder, path, position_grid=position_grid)
    assert all(torch.equal(value, weights[key]) for key, value in encoder.state_dict().items())
    assert report.source_format == "run of the published program"
    assert report.adapted == ()
    assert {key for key, _ in report.ignored[:4]} == {"args", "optimizer", "epoch", "classifier"}
    assert_refused(make_encoder(num_mels=128, num_frames=498), path, "its 948 learnt positions")


def test_a_published_run_whose_settings_hold_other_objects_is_not_opened(tmp_path: Path) -> None:
    encoder = make_encoder(num_mels=128, num_frames=798)
    weights = random_weights(encoder)
    settings = argparse.Namespace(split=Path("official"))
    path = save_published_run(tmp_path / "best.pth", weights, prefix="", args=settings)
    assert_refused(encoder, path, "save the weights alone: torch.save")
    path = save_published_run(tmp_path / "best.pth", weights, prefix="", queue=torch.ones(3))
    assert_refused(encoder, path, "unexplained parts beside 'model': queue")


# ---- dtypes, and what is refused


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_cast(tmp_path: Path, dtype: torch.dtype) -> None:
    encoder = make_encoder()
    weights = {key: value.to(dtype) for key, value in random_weights(encoder, num_positions=11).items()}
    content = as_image_model(random_weights(encoder, num_positions=11))
    load(encoder, saved(tmp_path / "deit.bin", {key: value.to(dtype) for key, value in content.items()}))
    assert all(value.dtype == torch.float32 for value in encoder.state_dict().values())
    assert torch.equal(encoder.blocks[1].mlp.fc1.weight, weights["blocks.1.mlp.fc1.weight"].float())


def test_old_serialisation_is_read(tmp_path: Path) -> None:
    encoder = make_encoder()
    weights = random_weights(encoder, num_positions=11)
    torch.save({"model": as_image_model(weights)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    load(encoder, tmp_path / "old.pth")
    assert torch.equal(encoder.cls_token, weights["cls_token"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"blocks.0.ls1.gamma": torch.ones(12)}, r"blocks.0.ls1.gamma is \(12,\), expected no such weight"),
        ({"norm.weight": None, "norm.bias": None}, "norm.weight is missing, expected"),
        ({"patch_embed.proj.weight": None}, "patch_embed.proj.weight is missing, expected"),
        ({"patch_embed.proj.weight": torch.ones(12, 3, 8, 8)}, r"is \(12, 1, 8, 8\), expected \(12, 1, 16, 16\)"),
        ({"patch_embed.proj.weight": torch.ones(12, 1, 16, 16)}, r"is \(12, 1, 16, 16\), expected \(dim, 3, 16, 16\)"),
        ({"norm.weight": torch.ones(13)}, r"norm.weight is \(13,\), expected \(12,\)"),
        ({"norm.bias": torch.full((12,), torch.nan)}, r"norm.bias \(torch.float32\) holds values"),
        ({"norm.bias": torch.full((12,), -torch.inf)}, r"norm.bias \(torch.float32\) holds values"),
        ({"norm.bias": torch.ones(12, dtype=torch.int8)}, r"norm.bias \(torch.int8\) holds values"),
        ({"pos_embed": torch.ones(1, 12, 12)}, "10 patch positions are no square grid"),
        ({"pos_embed": torch.ones(11, 12)}, r"pos_embed is \(11, 12\), expected \(1, positions, dim\)"),
        ({"pos_embed": None}, "no weights of a known kind, its keys begin with cls_token, dist_token, "),
    ],
)
def test_what_is_not_explained_is_refused(tmp_path: Path, change: dict[str, Tensor | None], match: str) -> None:
    encoder = make_encoder()
    content = as_image_model(random_weights(encoder, num_positions=11)) | change
    path = saved(tmp_path / "deit.pth", {key: value for key, value in content.items() if value is not None})
    assert_refused(encoder, path, match)


@pytest.mark.parametrize(
    ("dim", "depth", "advice"),
    [(192, 12, "choose encoder size 'tiny'"), (12, 3, "no encoder size")],
)
def test_a_wrong_size_names_the_right_one(tmp_path: Path, dim: int, depth: int, advice: str) -> None:
    content = as_image_model(random_weights(make_encoder(dim=dim, depth=depth), num_positions=11))
    match = f"dim {dim} with {depth} blocks do not fit an encoder of dim 12 with 2 blocks: {advice}"
    assert_refused(make_encoder(), saved(tmp_path / "deit.pth", content), match)


def test_the_summary_is_a_few_lines(tmp_path: Path) -> None:
    encoder = make_encoder()
    content = as_image_model(random_weights(encoder, num_positions=11)) | heads("head", "head_dist")
    report = load(encoder, saved(tmp_path / "deit.pth", content))
    assert report.summary().splitlines() == [
        f"ImageNet ViT, distilled, sha256 {report.sha256[:16]}: 29 parameters used as they are",
        "  adapted patch_embed.proj.weight: sum of the red, green and blue kernels",
        "  adapted pos_embed: 3x3 to 5x9 (freq x time), aligned",
        "  ignored 4: ImageNet head",
    ]
