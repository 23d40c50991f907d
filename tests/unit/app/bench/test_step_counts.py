"""What a step does, counted and not timed: a slower way to the same numbers breaks these, on any machine."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from lungsound.app.bench import ours
from lungsound.app.bench.counts import flops_of
from lungsound.app.bench.training import make_step, own_frames
from lungsound.model.encoder import NUM_PREFIX_TOKENS, PATCH_SIZE, PatchEmbedding

CPU = torch.device("cpu")
BATCH = 6


LENGTHS_S = (0.2, 0.3, 0.55, 0.7, 1.0, 1.5)


def make(durations_s: Sequence[float] | None = None) -> Callable[[], object]:
    return make_step("ours", "micro", batch_size=BATCH, device=CPU, is_quick=True, durations_s=durations_s)


def encoding_flops(num_patches: int, *, dim: int, depth: int) -> int:
    """Forward, one sample: whole blocks, and a last one whose queries are the prefix tokens alone."""
    num_tokens, prefix = num_patches + NUM_PREFIX_TOKENS, NUM_PREFIX_TOKENS
    linear = 2 * dim * dim  # of one token through a square map; query, key, value, out, and eight of the perceptron
    whole = 12 * linear * num_tokens + 4 * num_tokens * num_tokens * dim
    last = 2 * linear * num_tokens + 10 * linear * prefix + 4 * prefix * num_tokens * dim
    return (depth - 1) * whole + last


@pytest.mark.parametrize("durations_s", [None, LENGTHS_S], ids=["padded", "packed"])
def test_a_step_needs_no_more_operations_than_its_closed_form(durations_s: Sequence[float] | None) -> None:
    config = ours.run_config("micro", is_quick=True)
    model = ours.classifier(config)
    encoder, num_classes = model.patch_encoder, len(model.classes)
    dim, depth, grid = encoder.dim, len(encoder.blocks), encoder.grid
    lengths = torch.full((BATCH,), encoder.num_frames) if durations_s is None else own_frames(config, durations_s)
    num_columns = encoder.columns(lengths).tolist()
    embedding = 2 * grid.num_patches * PATCH_SIZE**2 * dim  # backward: of the weights alone
    views = sum(2 * 3 * encoding_flops(grid.freq * each, dim=dim, depth=depth) for each in num_columns)
    head, projector = 3 * 2 * dim * num_classes, 3 * 2 * 2 * dim * dim
    similarities = 2 * 2 * BATCH * dim  # backward: of the projections alone
    assert flops_of(make(durations_s)) == BATCH * (2 * embedding + head + projector + similarities) + views


def test_attention_counts_as_its_two_products_do() -> None:
    query, key, value = (torch.randn(2, 3, tokens, 8, requires_grad=True) for tokens in (5, 7, 7))
    whole = flops_of(lambda: functional.scaled_dot_product_attention(query, key, value).sum().backward())
    naive = flops_of(lambda: ((query @ key.mT).softmax(dim=-1) @ value).sum().backward())
    assert whole == naive == 3 * 2 * 2 * 3 * 5 * 7 * (8 + 8)


def test_both_views_share_one_patch_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    forward = PatchEmbedding.forward

    def counted(self: PatchEmbedding, fbank: torch.Tensor) -> torch.Tensor:
        calls.append(len(fbank))
        return forward(self, fbank)

    monkeypatch.setattr(PatchEmbedding, "forward", counted)
    step = make()
    step()
    assert calls == [BATCH]


def test_no_weights_are_copied_deeply(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make()

    def refuse(*values: object) -> None:
        raise AssertionError(f"a step copies {values}")

    monkeypatch.setattr(copy, "deepcopy", refuse)
    step()


def calls_in(step: Callable[[], object]) -> Counter[str]:
    """Operators of one step after a first one, by name; a first one makes the optimizer's state."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    return Counter(event.key for event in profiled.events() or ())


def test_the_optimizer_is_one_kernel() -> None:
    calls = calls_in(make())
    assert calls["aten::_fused_adam_"] + calls["aten::_fused_adamw_"] == 1
    assert calls["aten::addcdiv_"] == 0
