"""Floating-point operations that a piece of work needs: one multiplication and addition are two."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import lungsound.models.ast  # noqa: F401 (registers the operators)

aten, own = torch.ops.aten, torch.ops.lungsound


def attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Of softmax(Q K^T) V, from the shapes (..., token, dim): two products."""
    del args, kwargs
    *heads, num_queries, dim = query
    return int(2 * math.prod(heads) * num_queries * key[-2] * (dim + value[-1]))


def attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Twice those of forward: what a kernel computes again to save memory is no work that is needed."""
    del gradient
    return 2 * attention_flops(query, key, value, *args, **kwargs)


# torch counts no attention on the CPU, and in the backward pass of a GPU's the products that it does twice.
ATTENTION = {
    own.head_by_head: attention_flops,
    own.head_by_head_backward: attention_backward_flops,
    aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
    aten._scaled_dot_product_flash_attention_backward: attention_backward_flops,
    aten._scaled_dot_product_efficient_attention_backward: attention_backward_flops,
    aten._scaled_dot_product_cudnn_attention_backward: attention_backward_flops,
}


def flops_of(work: Callable[[], object]) -> int:
    """Of matrix products, convolutions and attention, forward and backward, in one call."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        work()
    return int(counter.get_total_flops())
