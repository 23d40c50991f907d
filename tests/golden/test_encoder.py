"""The encoder against the published program's: features, logits, patches, blocks, Patch-Mix given the draws.

Weights and inputs are formulas; the golden numbers are the published program's in float64. Suggested bounds: 1e-10 in
float64, 2e-5 in float32.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lungsound.models.ast import ENCODER_SIZES
from lungsound.models.classifier import LungSoundClassifier
from lungsound.models.patchmix import PatchMixDraw, mix_patches
from tests.golden.formulas import param, spec
from tests.networks import make_ast

DATA = Path(__file__).parent / "data"
KEPT_PATCHES = [0, 1, 78, 79, 80, 474, 947]
ATOL = {torch.float64: 1e-10, torch.float32: 2e-5}
DTYPES = pytest.mark.parametrize("dtype", ATOL, ids=["f64", "f32"])


@cache
def classifier(size: str) -> LungSoundClassifier:
    """The classifier of a size, every weight by its formula, in float32; `in_dtype` casts it."""
    made = ENCODER_SIZES[size]
    encoder = make_ast(num_mels=128, num_frames=798, dim=made.dim, depth=made.depth, num_heads=made.num_heads)
    model = LungSoundClassifier(encoder, ("normal", "crackle", "wheeze", "both"))
    weights = {f"encoder.{key}": param(f"v.{key}", value.shape) for key, value in encoder.state_dict().items()}
    weights |= {f"head.{key}": param(f"mlp_head.{key}", value.shape) for key, value in model.head.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    return model.eval().requires_grad_(False)


def in_dtype(size: str, dtype: torch.dtype) -> LungSoundClassifier:
    """Float32 values are exact in float64, so casting to and fro changes nothing."""
    return classifier(size).to(dtype)


def load(size: str) -> dict[str, NDArray[np.generic]]:
    with np.load(DATA / f"encoder_{size}.npz") as arrays:
        return dict(arrays)


def fbank(name: str, num_samples: int, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(spec(name, num_samples)).to(dtype)


def tokens_after_blocks(model: LungSoundClassifier, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Features, and class and distillation token after each block (block, batch, 2, dim)."""
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _module, _inputs, tokens: seen.append(tokens[:, :2]))
        for block in model.encoder.blocks
    ]
    features = model.encoder(inputs)
    for hook in hooks:
        hook.remove()
    return features, torch.stack(seen)


def check_clean(size: str, dtype: torch.dtype) -> None:
    golden, model, atol = load(size), in_dtype(size, dtype), ATOL[dtype]
    inputs = fbank("c_in", 2, dtype)
    features, tokens = tokens_after_blocks(model, inputs)
    np.testing.assert_allclose(features, golden["features"], rtol=0, atol=atol)
    np.testing.assert_allclose(model.head(features), golden["logits"], rtol=0, atol=atol)
    np.testing.assert_allclose(tokens[..., :8], golden["cls_dist_after_block"], rtol=0, atol=atol)
    patches = model.encoder.embed_patches(inputs)[:, KEPT_PATCHES, :16]
    np.testing.assert_allclose(patches, golden["patch_tokens_kept"], rtol=0, atol=atol)


def check_mixed(size: str, dtype: torch.dtype, axis: str) -> None:
    golden, model = load(size), in_dtype(size, dtype)
    grid = model.encoder.grid
    num_units = grid.num_patches if axis == "patch" else grid.time
    units = torch.zeros(num_units, dtype=torch.bool)
    units[torch.from_numpy(golden[f"mix_{axis}/mask"])] = True
    draw = PatchMixDraw(
        partner=torch.from_numpy(golden[f"mix_{axis}/index"]),
        replaced=units if axis == "patch" else units.repeat(grid.freq),
        lam=torch.tensor(float(golden[f"mix_{axis}/lam"]), dtype=torch.float64),
    )
    assert draw.lam.item() == pytest.approx(1 - int(units.sum()) / num_units, abs=1e-12)
    patches = model.encoder.embed_patches(fbank("c_mix", 3, dtype))
    features = model.encoder.encode(mix_patches(patches, draw))
    np.testing.assert_allclose(features, golden[f"mix_{axis}/features"], rtol=0, atol=ATOL[dtype])


@DTYPES
def test_tiny(dtype: torch.dtype) -> None:
    check_clean("tiny", dtype)


@pytest.mark.parametrize("axis", ["patch", "time"])
def test_tiny_mixed(axis: str) -> None:
    check_mixed("tiny", torch.float64, axis)


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["patch", "time"])
def test_tiny_mixed_in_float32(axis: str) -> None:
    check_mixed("tiny", torch.float32, axis)


def test_answer_of_the_whole_classifier_is_head_of_encoder() -> None:
    model = in_dtype("tiny", torch.float32)
    logits = model(fbank("c_in", 2, torch.float32))
    np.testing.assert_allclose(logits, load("tiny")["logits"], rtol=0, atol=2e-5)


@pytest.mark.slow
@DTYPES
def test_base(dtype: torch.dtype) -> None:
    check_clean("base", dtype)


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("axis", ["patch", "time"])
def test_base_mixed(dtype: torch.dtype, axis: str) -> None:
    check_mixed("base", dtype, axis)


@pytest.mark.slow
@DTYPES
def test_tiny_in_full_when_the_full_arrays_are_there(golden_dir: Path, dtype: torch.dtype) -> None:
    name = "tiny224/f64" if dtype == torch.float64 else "tiny224/f32"
    model, inputs = in_dtype("tiny", dtype), fbank("c_in", 2, dtype)
    features, tokens = tokens_after_blocks(model, inputs)
    patches = model.encoder.embed_patches(inputs)[:, KEPT_PATCHES]
    with np.load(golden_dir / "c_ast_features.npz") as full:
        np.testing.assert_allclose(features, full[f"{name}/features"], rtol=0, atol=ATOL[dtype])
        np.testing.assert_allclose(tokens, full[f"{name}/cls_dist_after_block"], rtol=0, atol=ATOL[dtype])
        np.testing.assert_allclose(patches, full[f"{name}/patch_tokens_kept"], rtol=0, atol=ATOL[dtype])
