"""Features of the weights of every format against transformers' ASTModel, an implementation that is not ours.

One random ASTModel is written in each format at the real shapes, under names that this file maps on its own, with all
that the real files hold beside the encoder. The loaded encoder must give the features of ASTModel in float32.
"""

import argparse
import json
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lungsound.config import ModelSettings
from lungsound.models.ast import AudioSpectrogramTransformer
from lungsound.models.weights import load_weights
from tests.networks import make_ast

Weights = dict[str, Tensor]
TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_hidden_layers": 12}
BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_hidden_layers": 12}
ATOL = 1e-5


@cache
def transformers() -> Any:
    """The transformers library; what it warns of on import is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("transformers")
    library.utils.logging.disable_progress_bar()
    return library


@dataclass(frozen=True)
class Example:
    """An ASTModel of which every parameter is drawn, as transformers saved it, and its answer to two filter banks."""

    model: Any
    folder: Path
    fbank: Tensor
    answer: Any


Sizes = tuple[int, int, int]  # mels, frames, stride
MakeExample = Callable[..., Example]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> MakeExample:
    @cache
    def make(sizes: Sizes, *, size: str = "tiny", has_head: bool = False) -> Example:
        num_mels, num_frames, stride = sizes
        config = transformers().ASTConfig(
            num_mel_bins=num_mels,
            max_length=num_frames,
            frequency_stride=stride,
            time_stride=stride,
            **(TINY if size == "tiny" else BASE),
        )
        model = (transformers().ASTForAudioClassification if has_head else transformers().ASTModel)(config)
        generator = torch.Generator().manual_seed(num_mels + num_frames + stride)
        for parameter in model.eval().requires_grad_(False).parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
        folder = tmp_path_factory.mktemp("ast")
        model.save_pretrained(folder)
        bare = model.audio_spectrogram_transformer if has_head else model
        fbank = torch.randn(2, num_frames, num_mels, generator=generator)
        return Example(bare, folder, fbank, bare(fbank))

    return make


def timm_names(example: Example) -> Weights:
    """The weights under timm's names, from those in the file: transformers' names in memory change over the years."""
    state = load_file(example.folder / "model.safetensors")
    names = {
        "cls_token": "embeddings.cls_token",
        "dist_token": "embeddings.distillation_token",
        "pos_embed": "embeddings.position_embeddings",
    }
    layers = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
    joined = {}
    for index in range(example.model.config.num_hidden_layers):
        theirs, ours = f"encoder.layer.{index}.", f"blocks.{index}."
        layers |= {
            f"{ours}attn.proj": f"{theirs}attention.output.dense",
            f"{ours}norm1": f"{theirs}layernorm_before",
            f"{ours}norm2": f"{theirs}layernorm_after",
            f"{ours}mlp.fc1": f"{theirs}intermediate.dense",
            f"{ours}mlp.fc2": f"{theirs}output.dense",
        }
        for leaf in ("weight", "bias"):
            parts = [state[f"{theirs}attention.attention.{part}.{leaf}"] for part in ("query", "key", "value")]
            joined[f"{ours}attn.qkv.{leaf}"] = torch.cat(parts)
    names |= {f"{ours}.{leaf}": f"{theirs}.{leaf}" for ours, theirs in layers.items() for leaf in ("weight", "bias")}
    return {ours: state[theirs] for ours, theirs in names.items()} | joined


def linear(name: str, num_outputs: int, dim: int) -> Weights:
    return {f"{name}.weight": torch.ones(num_outputs, dim), f"{name}.bias": torch.ones(num_outputs)}


def image_heads(dim: int) -> Weights:
    return linear("head", 1000, dim) | linear("head_dist", 1000, dim)


def under(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def write(path: Path, content: dict[str, Any]) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def audioset(folder: Path, weights: Weights, *, suffix: str = ".pth") -> Path:
    """audioset_10_10_0.4593.pth: a state dict of DataParallel, both ImageNet heads still in it."""
    dim = weights["cls_token"].shape[-1]
    head = {"mlp_head.0.weight": torch.ones(dim), "mlp_head.0.bias": torch.ones(dim)} | linear("mlp_head.1", 527, dim)
    content = under("module.", under("v.", weights | image_heads(dim)) | head)
    return write(folder / f"audioset_10_10{suffix}", OrderedDict(content))


def ssast(folder: Path, weights: Weights, *, suffix: str = ".pth") -> Path:
    """SSAST-Tiny-Patch-400.pth."""
    dim = weights["cls_token"].shape[-1]
    training = {
        "p_input_fdim": torch.tensor(128),
        "p_input_tdim": torch.tensor(1024),
        "mask_embed": torch.ones(1, 1, dim),
        **linear("cpredlayer.0", dim, dim),
        **linear("cpredlayer.2", 256, dim),
        **linear("gpredlayer.0", dim, dim),
        **linear("gpredlayer.2", 256, dim),
    }
    content = under("module.", training | under("v.", weights | image_heads(dim)))
    return write(folder / f"SSAST-Tiny-Patch-400{suffix}", OrderedDict(content))


def image_model(folder: Path, weights: Weights, *, suffix: str = ".pth") -> Path:
    """deit_*_distilled_patch16_224-*.pth: three colours, whose kernels add up to the one of the filter bank."""
    kernel = weights["patch_embed.proj.weight"]
    red, green = torch.randn(2, *kernel.shape, generator=torch.Generator().manual_seed(5)) * kernel.std()
    colours = torch.cat([red, green, kernel - red - green], dim=1)
    state = weights | image_heads(weights["cls_token"].shape[-1]) | {"patch_embed.proj.weight": colours}
    return write(folder / f"deit{suffix}", state if suffix == ".safetensors" else {"model": state})


def published_run(folder: Path, weights: Weights, *, suffix: str = ".pth") -> Path:
    """What the published Patch-Mix program saves after an epoch."""
    dim = weights["cls_token"].shape[-1]
    content = {
        "args": argparse.Namespace(model="ast", method="patchmix_cl"),
        "model": under("module.v.", weights | image_heads(dim)) | linear("module.mlp_head.1", 4, dim),
        "classifier": linear("1", 4, dim),
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 50,
    }
    return write(folder / f"best{suffix}", content)


def own_run(folder: Path, weights: Weights, *, suffix: str = ".safetensors") -> Path:
    dim = weights["cls_token"].shape[-1]
    facts = {"audio": {"num_mels": 128}, "model": {"stride": 10}, "patch_grid": [12, 79], "label_set": "sound4"}
    path = folder / f"model{suffix}"
    content = under("encoder.", weights) | linear("head.1", 4, dim)
    save_file(content, path, metadata={"lungsound": json.dumps(facts)})
    return path


def encoder_like(model: Any) -> AudioSpectrogramTransformer:
    config = model.config
    return make_ast(
        num_mels=config.num_mel_bins,
        num_frames=config.max_length,
        dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        stride=config.time_stride,
        norm_eps=config.layer_norm_eps,
    ).requires_grad_(False)


def assert_same_features(encoder: AudioSpectrogramTransformer, example: Example) -> None:
    tokens = example.answer.last_hidden_state
    expected = example.answer.pooler_output
    if encoder.pooling == "average_token":
        expected = tokens[:, 2:].mean(dim=1)
    torch.testing.assert_close(encoder(example.fbank[:1]), expected[:1], rtol=0, atol=ATOL)
    assert (expected[0] - expected[1]).abs().max() > 100 * ATOL  # the input matters


Writer = Callable[..., Path]
AUDIOSET: Sizes = (128, 1024, 10)
SSAST: Sizes = (128, 1024, 16)
EIGHT_SECONDS: Sizes = (128, 798, 10)
IMAGE: Sizes = (146, 146, 10)  # 14 x 14 patches, as an image of 224 x 224 has
FORMATS: dict[str, tuple[Writer, str, Sizes]] = {
    "audioset .pth": (audioset, ".pth", AUDIOSET),
    "audioset .safetensors": (audioset, ".safetensors", AUDIOSET),
    "ssast .pth": (ssast, ".pth", SSAST),
    "ssast .safetensors": (ssast, ".safetensors", SSAST),
    "image model .pth": (image_model, ".pth", IMAGE),
    "image model .safetensors": (image_model, ".safetensors", IMAGE),
    "published run": (published_run, ".pth", EIGHT_SECONDS),
    "own run": (own_run, ".safetensors", EIGHT_SECONDS),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_features_of_transformers(tmp_path: Path, example: MakeExample, name: str) -> None:
    writer, suffix, sizes = FORMATS[name]
    made = example(sizes)
    encoder = encoder_like(made.model)
    report = load_weights(encoder, writer(tmp_path, timm_names(made), suffix=suffix), ModelSettings())
    assert "pos_embed" not in dict(report.adapted)
    assert_same_features(encoder, made)
    if writer is ssast:
        encoder.pooling = "average_token"
        assert_same_features(encoder, made)


@pytest.mark.parametrize("has_head", [False, True])
def test_what_transformers_saves_gives_its_features(tmp_path: Path, example: MakeExample, has_head: bool) -> None:
    made = example(EIGHT_SECONDS, has_head=has_head)
    torch.save(load_file(made.folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    shutil.copy(made.folder / "config.json", tmp_path)
    for folder in (made.folder, tmp_path):
        encoder = encoder_like(made.model)
        report = load_weights(encoder, folder, ModelSettings())
        assert_same_features(encoder, made)
        assert report.source_format == "AST, Hugging Face"
        assert report.adapted == report.differences == ()
        assert set(report.used) == set(encoder.state_dict())
        assert [why for _, why in report.ignored] == ["head of another task"] * (4 if has_head else 0)


def test_an_image_model_that_is_not_distilled_has_its_class_token_twice(tmp_path: Path, example: MakeExample) -> None:
    made = example(IMAGE)
    weights = timm_names(made)
    positions = torch.cat(
        [weights["pos_embed"][:, :1], weights["pos_embed"][:, :1], weights["pos_embed"][:, 2:]], dim=1
    )
    twice = with_weights(
        made.model.config,
        made,
        {"embeddings.distillation_token": weights["cls_token"], "embeddings.position_embeddings": positions},
    )
    stored = {name: value for name, value in weights.items() if name != "dist_token"}
    stored["pos_embed"] = positions[:, 1:].clone()
    encoder = encoder_like(made.model)
    load_weights(encoder, image_model(tmp_path, stored, suffix=".safetensors"), ModelSettings())
    assert_same_features(encoder, twice)


@pytest.mark.parametrize("writer", [audioset, None], ids=["original", "hugging face"])
def test_eight_seconds_of_an_audioset_model(tmp_path: Path, example: MakeExample, writer: Writer | None) -> None:
    """Against an ASTModel for eight seconds that is given the middle 79 of the 101 time columns by hand."""
    made = example(AUDIOSET)
    columns = [2 + 101 * f + t for f in range(12) for t in range(11, 90)]
    positions = made.model.embeddings.position_embeddings[:, [0, 1, *columns]]
    config = transformers().ASTConfig(max_length=798, **TINY)
    short = with_weights(config, made, {"embeddings.position_embeddings": positions})
    encoder = encoder_like(short.model)
    load_weights(encoder, made.folder if writer is None else writer(tmp_path, timm_names(made)), ModelSettings())
    assert_same_features(encoder, short)


def with_weights(config: Any, example: Example, changes: Weights) -> Example:
    """An ASTModel of `config` with the weights of the example but for some."""
    model = transformers().ASTModel(config).eval().requires_grad_(False)
    model.load_state_dict(example.model.state_dict() | changes)
    fbank = example.fbank[:, : config.max_length]
    return Example(model, example.folder, fbank, model(fbank))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["audioset .pth", "ssast .pth"])
def test_base(tmp_path: Path, example: MakeExample, name: str) -> None:
    writer, suffix, sizes = FORMATS[name]
    made = example(sizes, size="base")
    encoder = encoder_like(made.model)
    load_weights(encoder, writer(tmp_path, timm_names(made), suffix=suffix), ModelSettings())
    assert_same_features(encoder, made)
