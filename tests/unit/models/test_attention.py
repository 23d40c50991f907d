"""Attention in bfloat16 on a CPU against the formula in float64 and torch's own."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lungsound.models import ast as attention
from lungsound.models.ast import FEWEST_QUERIES, attend

SHAPES = [(2, 3, 70, 70), (1, 2, 64, 100), (3, 1, 129, 65)]


def operands(shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Query, key and value, which ask for gradients, and a gradient of the result."""
    batch, heads, num_queries, num_keys = shape
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(batch, heads, num, 16, generator=generator) for num in (num_queries, num_keys, num_keys)]
    grad = torch.randn(batch, heads, num_queries, 16, generator=generator)
    # Rounded once, so that every precision starts from the same numbers.
    rounded = [each.bfloat16().to(dtype) for each in (*made, grad)]
    return [each.requires_grad_() for each in rounded[:3]], rounded[3]


def by_formula(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1] ** 0.5
    exponentials = (scores - scores.amax(-1, keepdim=True)).exp()
    return torch.einsum("bhqk,bhkd->bhqd", exponentials / exponentials.sum(-1, keepdim=True), value)


def far_from(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("buffer_bytes", [1, 4 << 20, 70 * 70 * 2 * 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_result_and_gradients_are_those_of_the_formula(
    shape: tuple[int, int, int, int], buffer_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "BUFFER_BYTES", buffer_bytes)
    inputs, grad = operands(shape, torch.bfloat16)
    exact, exact_grad = operands(shape, torch.float64)
    found, expected = attend(*inputs), by_formula(*exact)
    found.backward(grad)
    expected.backward(exact_grad)
    assert found.dtype == torch.bfloat16
    # bfloat16 rounds by up to 0.4 %; scores, weights and the result are rounded.
    assert far_from(found, expected) < 0.012
    for own, exactly in zip(inputs, exact, strict=True):
        assert own.grad is not None
        assert exactly.grad is not None
        assert far_from(own.grad, exactly.grad) < 0.015


def test_it_is_as_good_as_torchs_own_but_for_the_rounding_of_scores() -> None:
    inputs, _ = operands(SHAPES[0], torch.bfloat16)
    exact, _ = operands(SHAPES[0], torch.float64)
    expected = by_formula(*exact)
    fused = functional.scaled_dot_product_attention(*inputs)
    assert far_from(attend(*inputs), expected) < 2.5 * far_from(fused, expected)


@pytest.mark.parametrize(
    ("dtype", "num_queries"), [(torch.float32, 70), (torch.float64, 70), (torch.bfloat16, FEWEST_QUERIES - 1)]
)
def test_elsewhere_it_is_torchs_own(dtype: torch.dtype, num_queries: int) -> None:
    inputs, _ = operands((2, 3, num_queries, 70), dtype)
    assert torch.equal(attend(*inputs), functional.scaled_dot_product_attention(*inputs))


@pytest.mark.slow
def test_compiled_it_is_one_graph_with_the_same_numbers() -> None:
    inputs, grad = operands(SHAPES[0], torch.bfloat16)
    found = torch.compile(attend, backend="aot_eager", fullgraph=True)(*inputs)
    found.backward(grad)
    again, _ = operands(SHAPES[0], torch.bfloat16)
    expected = attend(*again)
    expected.backward(grad)
    assert torch.equal(found, expected)
    assert all(torch.equal(own.grad, other.grad) for own, other in zip(inputs, again, strict=True))


def test_both_operators_say_the_truth_about_themselves() -> None:
    inputs, grad = operands(SHAPES[1], torch.bfloat16)
    flat = [part.detach().flatten(0, 1) for part in inputs]
    torch.library.opcheck(attention.head_by_head, tuple(flat), test_utils=("test_schema", "test_faketensor"))
    whole = (grad.flatten(0, 1), *flat)
    torch.library.opcheck(attention.head_by_head_backward, whole, test_utils=("test_schema", "test_faketensor"))
