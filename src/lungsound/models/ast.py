"""The Audio Spectrogram Transformer: filter bank to patches, patches to one feature vector per sample.

Parameter names are timm's (`patch_embed.proj`, `blocks.3.attn.qkv`, ...), so published weights load by name.
Two differences from the published program, none in the numbers: no ImageNet heads are built (they got no gradient
there), and patch embedding and encoding are two calls, so that Patch-Mix can stand between them.

Attention in bfloat16 on a CPU is computed by operators of our own (docs/decisions.md has the times): a few heads at a
time go through plain products in buffers that stay in the cache; the backward pass computes their weights again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lungsound.axes import PATCH_SIZE, PatchGrid

BUFFER_BYTES = 4 << 20  # of one buffer; three of them and the operands fit into a third-level cache
FEWEST_QUERIES = 64  # below, the fused attention is as fast


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(dim)) value for (batch, head, token, dim); keys may be more than queries."""
    is_own = query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[-2] >= FEWEST_QUERIES
    if not is_own:
        return functional.scaled_dot_product_attention(query, key, value)
    scaled = query * query.shape[-1] ** -0.5
    out: Tensor = head_by_head(*(part.flatten(0, 1).contiguous() for part in (scaled, key, value)))
    return torch.unflatten(out, 0, query.shape[:2])


@torch.library.custom_op("lungsound::head_by_head", mutates_args=(), device_types="cpu")
def head_by_head(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T) value for (head, token, dim), as many heads at a time as the buffers take."""
    out = torch.empty_like(query)
    for heads, weights, _ in _softmax_head_by_head(query, key):
        torch.bmm(weights, value[heads], out=out[heads])
    return out


@torch.library.custom_op("lungsound::head_by_head_backward", mutates_args=(), device_types="cpu")
def head_by_head_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    grad = grad.contiguous()
    of_query, of_key, of_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    for heads, weights, change in _softmax_head_by_head(query, key):
        torch.bmm(weights.transpose(1, 2), grad[heads], out=of_value[heads])
        torch.bmm(grad[heads], value[heads].transpose(1, 2), out=change)
        torch._softmax_backward_data(change, weights, -1, weights.dtype, grad_input=change)
        torch.bmm(change, key[heads], out=of_query[heads])
        torch.bmm(change.transpose(1, 2), query[heads], out=of_key[heads])
    return of_query, of_key, of_value


def _softmax_head_by_head(query: Tensor, key: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Heads, their softmax(query key^T), and a buffer of its size; both buffers are used again for the next heads."""
    num_tokens, num_keys = query.shape[1], key.shape[1]
    step = max(1, min(len(query), BUFFER_BYTES // (num_tokens * num_keys * query.element_size())))
    scores, weights = (query.new_empty(step, num_tokens, num_keys) for _ in range(2))
    for first in range(0, len(query), step):
        heads = slice(first, min(first + step, len(query)))
        count = heads.stop - first
        torch.bmm(query[heads], key[heads].transpose(1, 2), out=scores[:count])
        torch.softmax(scores[:count], dim=-1, out=weights[:count])
        yield heads, weights[:count], scores[:count]


head_by_head.register_autograd(
    lambda ctx, grad: head_by_head_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, **_: ctx.save_for_backward(*inputs),
)
head_by_head.register_fake(lambda query, *_: torch.empty_like(query))
head_by_head_backward.register_fake(lambda _, *parts: tuple(map(torch.empty_like, parts)))


NUM_PREFIX_TOKENS = 2  # class and distillation token
BASE_DIM = 768


@dataclass(frozen=True)
class EncoderSize:
    """Width, depth and heads of an encoder."""

    dim: int
    depth: int
    num_heads: int


ENCODER_SIZES = {
    "micro": EncoderSize(dim=96, depth=4, num_heads=3),
    "tiny": EncoderSize(dim=192, depth=12, num_heads=3),
    "small": EncoderSize(dim=384, depth=12, num_heads=6),
    "base": EncoderSize(dim=768, depth=12, num_heads=12),
}


class PatchEmbedding(nn.Module):
    """Linear map of each 16 x 16 patch of the filter bank."""

    def __init__(self, dim: int, *, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, dim, kernel_size=PATCH_SIZE, stride=stride)

    def forward(self, fbank: Tensor) -> Tensor:
        """Filter bank (batch, time, mel) to patches (batch, patch, dim), frequency-major."""
        image = fbank.transpose(1, 2).unsqueeze(1)
        patches: Tensor = self.proj(image).flatten(2).transpose(1, 2)
        return patches


# Of samples of different lengths in one row of tokens (1, token, dim), one after the other.
Lengths = list[int]


class Attention(nn.Module):
    """Multi-head self-attention over all tokens of a sample."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.dim, self.num_heads = dim, num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, *, lengths: Lengths | None = None, is_prefix_only: bool = False) -> Tensor:
        """Tokens (batch, token, dim), or packed ones, to what each (or each prefix token) attends to in its sample."""
        if is_prefix_only:
            weights, biases = (torch.split(each, [self.dim, 2 * self.dim]) for each in (self.qkv.weight, self.qkv.bias))
            query = functional.linear(prefix_of(tokens, lengths), weights[0], biases[0])
            key, value = functional.linear(tokens, weights[1], biases[1]).chunk(2, dim=-1)
        else:
            query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        query, key, value = (torch.unflatten(x, -1, (self.num_heads, -1)).transpose(1, 2) for x in (query, key, value))
        if lengths is None:
            seen = attend(query, key, value)
        else:
            query_lengths = [NUM_PREFIX_TOKENS] * len(lengths) if is_prefix_only else lengths
            tensors = ((query, query_lengths), (key, lengths), (value, lengths))
            samples = zip(*(torch.split(tensor, sizes, 2) for tensor, sizes in tensors), strict=True)
            seen = torch.cat([attend(*sample) for sample in samples], dim=2)
        out: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return out


def prefix_of(tokens: Tensor, lengths: Lengths | None) -> Tensor:
    """The prefix tokens of each sample: (batch, 2, dim), or packed (1, 2 * batch, dim)."""
    if lengths is None:
        return tokens[:, :NUM_PREFIX_TOKENS]
    starts = accumulate(lengths[:-1], initial=0)
    rows = [start + place for start in starts for place in range(NUM_PREFIX_TOKENS)]
    return tokens.index_select(1, torch.tensor(rows).to(tokens.device, non_blocking=True))


class FeedForward(nn.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return out


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, dim: int, num_heads: int, *, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = FeedForward(dim, 4 * dim)

    def forward(self, tokens: Tensor, *, lengths: Lengths | None = None, is_prefix_only: bool = False) -> Tensor:
        """Tokens (batch, token, dim), or packed ones, to the same, or to the prefix tokens alone."""
        seen = self.attn(self.norm1(tokens), lengths=lengths, is_prefix_only=is_prefix_only)
        tokens = (prefix_of(tokens, lengths) if is_prefix_only else tokens) + seen
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class AudioSpectrogramTransformer(nn.Module):
    """AST encoder for filter banks of one size; ValueError for one smaller than a patch.

    The feature of a sample is the mean after the final norm of the class and the distillation token (`pooling`
    "class_token"), or of all patch tokens ("average_token": how SSAST is fine-tuned). With `is_checkpointed` set,
    training keeps only what goes into each block and makes the rest again backward: the same numbers in more time.
    """

    def __init__(
        self,
        *,
        num_mels: int,
        num_frames: int,
        dim: int,
        depth: int,
        num_heads: int,
        stride: int,
        norm_eps: float,
        pooling: str,
    ) -> None:
        super().__init__()
        self.num_mels, self.num_frames, self.stride = num_mels, num_frames, stride
        self.pooling = pooling
        self.is_checkpointed = False
        self.grid = PatchGrid.of(num_mels, num_frames, stride=stride)
        self.dim = dim
        self.patch_embed = PatchEmbedding(dim, stride=stride)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, NUM_PREFIX_TOKENS + self.grid.num_patches, dim))
        self.blocks = nn.ModuleList(Block(dim, num_heads, norm_eps=norm_eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=norm_eps)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Random weights: truncated normal, biases zero, norms one.

        Tokens and positions have timm's deviation of 0.02. Linear maps have it at the width of AST-Base and more in
        narrower encoders, in proportion to 1 / sqrt(dim): with 0.02 throughout they hardly learn from little data.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                is_token = name in ("cls_token", "dist_token", "pos_embed")
                std = 0.02 if is_token else 0.02 * (BASE_DIM / self.dim) ** 0.5
                nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std, generator=generator)

    def embed_patches(self, fbank: Tensor) -> Tensor:
        """Filter bank (batch, time, mel), maybe of fewer frames, to patches (batch, patch, dim), without positions."""
        if fbank.shape[2] != self.num_mels or not PATCH_SIZE <= fbank.shape[1] <= self.num_frames:
            raise ValueError(f"filter bank of {tuple(fbank.shape)} does not give the grid {self.grid} of this encoder")
        patches: Tensor = self.patch_embed(fbank)
        return patches

    def columns(self, num_frames: Tensor | None) -> Tensor | None:
        """Time columns of the grid (batch,) whose patches begin within so many frames (batch,); None for None."""
        return None if num_frames is None else (-(-num_frames // self.stride)).clamp(1, self.grid.time)

    def patch_mask(self, num_columns: Tensor) -> Tensor:
        """Mask (batch, patch) of the patches in the first `num_columns` (batch,) time columns of the grid."""
        column = torch.arange(self.grid.num_patches, device=num_columns.device) % self.grid.time
        return column < num_columns.unsqueeze(1)

    def encode(self, patches: Tensor, num_columns: Tensor | None = None) -> Tensor:
        """Patches (batch, patch, dim) to features (batch, dim).

        With `num_columns` (batch,), at least 1, only the patches of so many leading time columns are encoded; each
        keeps its position. Samples of different lengths are packed, never padded. Patches of a shorter filter bank, all
        of one length, are encoded in the same way. `num_columns` on the CPU keeps the host from waiting for a GPU.
        """
        prefix = torch.cat([self.cls_token, self.dist_token], dim=1).expand(patches.shape[0], -1, -1)
        prefix_places, places = torch.tensor_split(self.pos_embed, [NUM_PREFIX_TOKENS], dim=1)
        places = torch.unflatten(places, 1, (self.grid.freq, self.grid.time))
        places = places[:, :, : patches.shape[1] // self.grid.freq].flatten(1, 2)
        tokens = torch.cat([prefix, patches], dim=1) + torch.cat([prefix_places, places], dim=1)
        tokens, lengths = (tokens, None) if num_columns is None else self._pack(tokens, num_columns)
        *blocks, last = self.blocks
        for block in blocks:
            if self.is_checkpointed and self.training:  # nothing is drawn in a block: no random state to keep
                tokens = checkpoint(block, tokens, lengths=lengths, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens, lengths=lengths)
        if self.pooling == "class_token":
            # Nobody reads what the last block would make of the patches.
            prefix = self.norm(last(tokens, lengths=lengths, is_prefix_only=True))
            return torch.unflatten(prefix.flatten(0, 1), 0, (patches.shape[0], NUM_PREFIX_TOKENS)).mean(dim=1)
        tokens = self.norm(last(tokens, lengths=lengths))
        if lengths is None:  # not one by one: a graph would be of one size of batch
            averaged: Tensor = tokens[:, NUM_PREFIX_TOKENS:].mean(dim=1)
            return averaged
        samples = torch.split(tokens[0], lengths)
        return torch.stack([sample[NUM_PREFIX_TOKENS:].mean(dim=0) for sample in samples])

    def _pack(self, tokens: Tensor, num_columns: Tensor) -> tuple[Tensor, Lengths | None]:
        """The tokens that are encoded: packed, or (batch, token, dim) when all samples have the same length."""
        is_kept = functional.pad(self.patch_mask(num_columns), (NUM_PREFIX_TOKENS, 0), value=True)
        lengths: Lengths = (NUM_PREFIX_TOKENS + self.grid.freq * num_columns).tolist()
        is_same = len(set(lengths)) == 1
        places = (is_kept[0] if is_same else is_kept.flatten()).nonzero().squeeze(1)
        places = places.to(tokens.device, non_blocking=True)
        if is_same:
            return tokens.index_select(1, places), None
        return tokens.flatten(0, 1).index_select(0, places).unsqueeze(0), lengths

    def forward(self, fbank: Tensor, num_frames: Tensor | None = None) -> Tensor:
        """Filter bank (batch, time, mel) to features (batch, dim), of all or of the first `num_frames` (batch,)."""
        return self.encode(self.embed_patches(fbank), self.columns(num_frames))


# ---- position embeddings of one patch grid for the patches of another ----
#
# Where the places of both are known, each patch takes the embedding of its own place. An image has no place on a
# filter bank: its grid is cut or interpolated as the published program does it.


@dataclass(frozen=True)
class PatchPlaces:
    """Places of the 16 x 16 patches of a filter bank; strides in mels and in frames.

    Mels share one axis, whatever their number: 64 span the same 20-8000 Hz as 128.
    """

    num_mels: int
    num_frames: int
    freq_stride: int
    time_stride: int

    def __post_init__(self) -> None:
        if min(self.num_mels, self.num_frames) < PATCH_SIZE or min(self.freq_stride, self.time_stride) < 1:
            raise ValueError(f"no patch of {PATCH_SIZE} x {PATCH_SIZE} in {self}")

    @property
    def grid(self) -> PatchGrid:
        return PatchGrid(
            freq=(self.num_mels - PATCH_SIZE) // self.freq_stride + 1,
            time=(self.num_frames - PATCH_SIZE) // self.time_stride + 1,
        )

    def has_patches_of(self, other: "PatchPlaces") -> bool:
        """True when every patch k lies where patch k of `other` does; frames after the last patch do not matter."""
        settings = (self.num_mels, self.freq_stride, self.time_stride)
        return self.grid == other.grid and settings == (other.num_mels, other.freq_stride, other.time_stride)


def place_positions(positions: Tensor, *, source: PatchPlaces, target: PatchPlaces) -> Tensor:
    """Position embeddings (1, prefix + source patches, dim) to (1, prefix + target patches, dim), each at its place.

    A target patch takes the source's positions interpolated at its centre, linearly on each axis and clamped at the
    ends. On the frequency axis the place is the centre's share of the mel axis. In time the target's input is laid
    on the source's as the published program lays it: a shorter one on the middle columns, a longer one with the
    source stretched over it. Only the place is right: 16 of 64 mels cover twice the band of 16 of 128.
    """
    prefix, grid = _split(positions, source.grid)
    # The columns that the target would have at the source's stride, and those of its own among them.
    num_old, num_new = source.grid.time, (target.num_frames - PATCH_SIZE) // source.time_stride + 1
    columns = target.time_stride * torch.arange(target.grid.time, dtype=torch.float64) / source.time_stride
    if num_new <= num_old:
        columns = columns + (num_old // 2 - num_new // 2)
    else:
        columns = (columns + 0.5) * num_old / num_new - 0.5
    half = PATCH_SIZE / 2
    centers = half + target.freq_stride * torch.arange(target.grid.freq, dtype=torch.float64)
    # One division of whole numbers at the end: with the same mels and strides no row is rounded.
    rows = (source.num_mels * centers - half * target.num_mels) / (target.num_mels * source.freq_stride)
    for axis, places in ((3, columns), (2, rows)):
        places = places.to(grid.device).clamp(0, grid.shape[axis] - 1)
        low, high = (grid.index_select(axis, end.long()) for end in (places.floor(), places.ceil()))
        share = places.frac().to(grid.dtype)
        grid = torch.lerp(low, high, share if axis == 3 else share.unsqueeze(1))  # whole places are exact to the bit
    return torch.cat([prefix, grid.flatten(2).transpose(1, 2)], dim=1)


def adapt_positions(
    positions: Tensor, *, source_grid: PatchGrid, target_grid: PatchGrid, is_swapped: bool = False
) -> Tensor:
    """The same by the published rule, which knows the two grids alone.

    Time first, then frequency: an axis that shrinks is cut from its middle, one that grows is interpolated. So 12 x
    79 patches (eight seconds) take the time columns 11..89 of AudioSet's 12 x 101. `is_swapped` repeats the
    authors' exchanged axes: the grid is built as 79 x 12, then read as if it were 12 x 79.
    """
    built = PatchGrid(freq=target_grid.time, time=target_grid.freq) if is_swapped else target_grid
    prefix, grid = _split(positions, source_grid)
    for axis, size in ((3, built.time), (2, built.freq)):
        old_size = grid.shape[axis]
        if size <= old_size:
            grid = grid.narrow(axis, old_size // 2 - size // 2, size)
        else:
            sizes = (grid.shape[2], size) if axis == 3 else (size, grid.shape[3])
            grid = functional.interpolate(grid, size=sizes, mode="bilinear", align_corners=False)
    return torch.cat([prefix, grid.flatten(2).transpose(1, 2)], dim=1)


def _split(positions: Tensor, grid: PatchGrid) -> tuple[Tensor, Tensor]:
    """Prefix (1, prefix, dim), and the positions of the patches (1, dim, freq, time)."""
    num_prefix = positions.shape[1] - grid.num_patches
    patches = positions[:, num_prefix:].transpose(1, 2)
    return positions[:, :num_prefix], patches.reshape(1, -1, grid.freq, grid.time)
