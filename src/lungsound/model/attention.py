"""Attention, with a way of its own for bfloat16 on a CPU.

There torch's fused attention reaches about a third of the speed of its matrix products, and the plain formula falls
out of the cache. Here a few heads at a time go through plain products in buffers that stay in the cache; the backward
pass makes their weights again instead of keeping them. Scores are rounded to bfloat16 before the softmax, as in any
unfused attention in bfloat16. Both passes are operators of torch, so that compiling and counting see one each.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

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
    scores, weights = _buffers(query, key, count=2)
    for heads in _heads_at_a_time(query, key):
        _weights_of(query[heads], key[heads], scores, weights)
        torch.bmm(weights[: len(query[heads])], value[heads], out=out[heads])
    return out


@torch.library.custom_op("lungsound::head_by_head_backward", mutates_args=(), device_types="cpu")
def head_by_head_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    grad = grad.contiguous()
    of_query, of_key, of_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    scores, weights = _buffers(query, key, count=2)
    for heads in _heads_at_a_time(query, key):
        count = len(query[heads])
        _weights_of(query[heads], key[heads], scores, weights)
        own, change = weights[:count], scores[:count]
        torch.bmm(own.transpose(1, 2), grad[heads], out=of_value[heads])
        torch.bmm(grad[heads], value[heads].transpose(1, 2), out=change)
        torch._softmax_backward_data(change, own, -1, own.dtype, grad_input=change)
        torch.bmm(change, key[heads], out=of_query[heads])
        torch.bmm(change.transpose(1, 2), query[heads], out=of_key[heads])
    return of_query, of_key, of_value


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = head_by_head_backward(grad, *ctx.saved_tensors)
    return found


head_by_head.register_autograd(_gradients, setup_context=_keep)


@head_by_head.register_fake
def _shape_of(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    del key, value
    return torch.empty_like(query)


@head_by_head_backward.register_fake
def _shapes_of(grad: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    del grad
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _buffers(query: Tensor, key: Tensor, *, count: int) -> list[Tensor]:
    shape = (_num_at_a_time(query, key), query.shape[1], key.shape[1])
    return [query.new_empty(shape) for _ in range(count)]


def _num_at_a_time(query: Tensor, key: Tensor) -> int:
    return max(1, min(len(query), BUFFER_BYTES // (query.shape[1] * key.shape[1] * query.element_size())))


def _heads_at_a_time(query: Tensor, key: Tensor) -> list[slice]:
    step = _num_at_a_time(query, key)
    return [slice(first, min(first + step, len(query))) for first in range(0, len(query), step)]


def _weights_of(query: Tensor, key: Tensor, scores: Tensor, weights: Tensor) -> None:
    """Write the weights of some heads into `weights`; `scores` is overwritten."""
    own = scores[: len(query)]
    torch.bmm(query, key.transpose(1, 2), out=own)
    torch.softmax(own, dim=-1, out=weights[: len(query)])
