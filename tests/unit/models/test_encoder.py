"""The encoder's parts against loops and torch's own layers."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from lungsound.axes import PatchGrid
from lungsound.models.ast import (
    ENCODER_SIZES,
    Attention,
    AudioSpectrogramTransformer,
    Block,
    FeedForward,
    PatchEmbedding,
)
from tests.networks import make_ast

# Of the published program, without its two ImageNet heads and its two copies of a four-class head.
NUM_PARAMETERS = {
    "tiny": 5_958_036 - 386_000 - 1_156,
    "small": 22_530_900 - 770_000 - 2_308,
    "base": 87_527_124 - 1_538_000 - 4_612,
}


def small_encoder(**changes: Any) -> AudioSpectrogramTransformer:
    sizes: dict[str, Any] = {"num_mels": 32, "num_frames": 48, "dim": 24, "depth": 2, "num_heads": 3, **changes}
    encoder = make_ast(**sizes)
    encoder.initialize(torch.Generator().manual_seed(0))
    return encoder


def randomized(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return module.double().requires_grad_(False)


@pytest.mark.parametrize(("size", "num_parameters"), NUM_PARAMETERS.items())
def test_sizes_have_the_published_numbers_of_parameters(size: str, num_parameters: int) -> None:
    made = ENCODER_SIZES[size]
    with torch.device("meta"):
        encoder = make_ast(num_mels=128, num_frames=798, dim=made.dim, depth=made.depth, num_heads=made.num_heads)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == num_parameters


def test_patches_equal_loops_and_are_frequency_major() -> None:
    embedding = randomized(PatchEmbedding(5, stride=10))
    fbank = torch.randn(2, 47, 36, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grid = PatchGrid.of(36, 47, stride=10)
    patches = embedding(fbank)
    assert patches.shape == (2, grid.num_patches, 5)
    for f in range(grid.freq):
        for t in range(grid.time):
            part = fbank[:, 10 * t : 10 * t + 16, 10 * f : 10 * f + 16]
            kernel = embedding.proj.weight[:, 0].transpose(1, 2)  # (dim, time, mel)
            expected = torch.einsum("btf,dtf->bd", part, kernel) + embedding.proj.bias
            assert torch.allclose(patches[:, grid.index(f, t)], expected, atol=1e-12)


def test_attention_equals_torchs_multi_head_attention() -> None:
    attention = randomized(Attention(12, 3))
    reference = nn.MultiheadAttention(12, 3, batch_first=True).double()
    reference.load_state_dict(
        {
            "in_proj_weight": attention.qkv.weight,
            "in_proj_bias": attention.qkv.bias,
            "out_proj.weight": attention.proj.weight,
            "out_proj.bias": attention.proj.bias,
        }
    )
    tokens = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected, _ = reference(tokens, tokens, tokens, need_weights=False)
    assert torch.allclose(attention(tokens), expected, atol=1e-12)


def test_feed_forward_uses_the_exact_gelu() -> None:
    layer = randomized(FeedForward(2, 3))
    tokens = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    hidden = [float(h) for h in layer.fc1(tokens)[0]]
    gelu = torch.tensor([h * 0.5 * (1 + math.erf(h / math.sqrt(2))) for h in hidden], dtype=torch.float64)
    assert torch.allclose(layer(tokens)[0], layer.fc2.weight @ gelu + layer.fc2.bias, atol=1e-12)


def test_a_block_equals_torchs_pre_norm_transformer_layer() -> None:
    block = randomized(Block(12, 3, norm_eps=1e-3))
    reference = nn.TransformerEncoderLayer(
        12, 3, 48, dropout=0.0, activation="gelu", layer_norm_eps=1e-3, batch_first=True, norm_first=True
    ).double()
    names = {
        "self_attn.in_proj_": "attn.qkv.",
        "self_attn.out_proj.": "attn.proj.",
        "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    state = block.state_dict()
    reference.load_state_dict(
        {theirs + leaf: state[ours + leaf] for theirs, ours in names.items() for leaf in ("weight", "bias")}
    )
    tokens = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert torch.allclose(block(tokens), reference(tokens), atol=1e-12)


def test_the_feature_is_the_mean_of_both_tokens_after_the_final_norm() -> None:
    encoder = small_encoder(depth=2)
    fbank = torch.randn(3, 48, 32, generator=torch.Generator().manual_seed(5))
    patches = encoder.embed_patches(fbank)
    prefix = torch.cat([encoder.cls_token, encoder.dist_token], dim=1).expand(3, -1, -1)
    tokens = torch.cat([prefix, patches], dim=1) + encoder.pos_embed
    for block in encoder.blocks:
        tokens = block(tokens)
    expected = nn.functional.layer_norm(tokens, (24,), eps=1e-6)[:, :2].mean(dim=1)
    assert torch.allclose(encoder(fbank), expected, atol=1e-6)


def test_the_average_token_is_the_mean_of_all_patch_tokens_after_the_final_norm() -> None:
    encoder = small_encoder(depth=2, pooling="average_token")
    fbank = torch.randn(3, 48, 32, generator=torch.Generator().manual_seed(5))
    seen: list[torch.Tensor] = []
    encoder.norm.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    features = encoder.encode(encoder.embed_patches(fbank))
    normed = nn.functional.layer_norm(seen[0], (24,), eps=1e-6)
    expected = sum(normed[:, 2 + k] for k in range(encoder.grid.num_patches)) / encoder.grid.num_patches
    assert torch.allclose(features, expected, atol=1e-6)
    assert not torch.allclose(features, normed[:, :2].mean(dim=1), atol=1e-3)


# ---- samples of different lengths ----


def masked(encoder: AudioSpectrogramTransformer, patches: torch.Tensor, num_columns: torch.Tensor) -> torch.Tensor:
    """The feature by torch's own transformer layers, with the keys of unheard patches masked: padded, not packed."""
    prefix = torch.cat([encoder.cls_token, encoder.dist_token], dim=1).expand(len(patches), -1, -1)
    tokens = torch.cat([prefix, patches], dim=1) + encoder.pos_embed
    is_heard = torch.ones(tokens.shape[:2], dtype=torch.bool)
    for sample, count in enumerate(num_columns.tolist()):
        for row in range(encoder.grid.freq):
            for column in range(count, encoder.grid.time):
                is_heard[sample, 2 + row * encoder.grid.time + column] = False
    for block in encoder.blocks:
        normed = block.norm1(tokens)
        query, key, value = block.attn.qkv(normed).reshape(*tokens.shape[:2], 3, 3, -1).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).masked_fill(
            ~is_heard[:, None, None, :], float("-inf")
        )
        seen = (weights.softmax(-1) @ value).transpose(1, 2).flatten(2)
        tokens = tokens + block.attn.proj(seen)
        tokens = tokens + block.mlp(block.norm2(tokens))
    tokens = encoder.norm(tokens)
    if encoder.pooling == "class_token":
        return tokens[:, :2].mean(dim=1)
    is_heard[:, :2] = False
    return torch.stack([own[kept].mean(dim=0) for own, kept in zip(tokens, is_heard, strict=True)])


@pytest.mark.parametrize("pooling", ["class_token", "average_token"])
@pytest.mark.parametrize("columns", [(1, 4, 2), (4, 1, 3), (2, 2, 2), (4, 4, 4)])
def test_packed_samples_equal_padded_and_masked_ones(columns: tuple[int, ...], pooling: str) -> None:
    encoder = small_encoder(depth=3, pooling=pooling).double()
    fbank = torch.randn(3, 48, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    patches, num_columns = encoder.embed_patches(fbank), torch.tensor(columns)
    packed = encoder.encode(patches, num_columns)
    assert torch.allclose(packed, masked(encoder, patches, num_columns), atol=1e-12)
    if len(set(columns)) == 1:  # a shorter filter bank is the same
        shorter = fbank[:, : 16 + encoder.stride * (columns[0] - 1)]
        assert torch.allclose(packed, encoder(shorter), atol=1e-12)
    # What is not heard cannot matter.
    changed = torch.where(encoder.patch_mask(num_columns).unsqueeze(-1), patches, patches + 1)
    assert torch.equal(packed, encoder.encode(changed, num_columns))
    assert torch.allclose(packed, encoder(fbank)) == (columns == (4, 4, 4))


def test_packed_samples_have_the_gradients_of_masked_ones() -> None:
    encoder = small_encoder(depth=2).double()
    patches = torch.randn(2, encoder.grid.num_patches, 24, dtype=torch.float64, requires_grad=True)
    num_columns = torch.tensor([1, 3])
    (own,) = torch.autograd.grad(encoder.encode(patches, num_columns).square().sum(), patches)
    (expected,) = torch.autograd.grad(masked(encoder, patches, num_columns).square().sum(), patches)
    assert torch.allclose(own, expected, atol=1e-12)


def test_positions_make_the_order_of_patches_matter() -> None:
    encoder = small_encoder()
    patches = encoder.embed_patches(torch.randn(1, 48, 32, generator=torch.Generator().manual_seed(6)))
    nn.init.normal_(encoder.pos_embed, generator=torch.Generator().manual_seed(7))
    assert not torch.allclose(encoder.encode(patches), encoder.encode(patches.flip(1)), atol=1e-4)
    with torch.no_grad():
        encoder.pos_embed.zero_()
    assert torch.allclose(encoder.encode(patches), encoder.encode(patches.flip(1)), atol=1e-5)


def test_initialisation_is_determined_by_the_generator() -> None:
    first, second = small_encoder().state_dict(), small_encoder().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert first["blocks.0.attn.qkv.bias"].abs().max() == 0
    assert (first["norm.weight"] == 1).all()
    # timm's 0.02 at the width of AST-Base, cut off at two deviations (which leaves 0.88 of it)
    expected = 0.88 * 0.02 * (768 / small_encoder().dim) ** 0.5
    assert first["blocks.1.mlp.fc1.weight"].std() == pytest.approx(expected, rel=0.1)
    assert 0 < first["cls_token"].abs().max() < 0.1


@pytest.mark.parametrize(("num_mels", "num_frames", "stride"), [(128, 198, 10), (64, 998, 16), (16, 16, 10)])
def test_other_sizes_work(num_mels: int, num_frames: int, stride: int) -> None:
    encoder = small_encoder(num_mels=num_mels, num_frames=num_frames, stride=stride)
    assert encoder.grid == PatchGrid.of(num_mels, num_frames, stride=stride)
    assert (encoder.num_mels, encoder.num_frames, encoder.stride) == (num_mels, num_frames, stride)
    assert encoder(torch.zeros(1, num_frames, num_mels)).shape == (1, 24)


def test_a_filter_bank_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="does not give the grid"):
        small_encoder()(torch.zeros(1, 32, 48 + 10))
    with pytest.raises(ValueError, match="smaller than one patch"):
        small_encoder(num_mels=15)
