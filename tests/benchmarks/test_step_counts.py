"""What a step does, counted and not timed: a slower way to the same numbers breaks these, on any machine."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import pytest
import torch
from benchmarks.measure import flops_of
from torch.profiler import ProfilerActivity, profile

from benchmarks import ours
from lungsound.axes import PATCH_SIZE
from lungsound.models.ast import (
    BUFFER_BYTES,
    FEWEST_QUERIES,
    NUM_PREFIX_TOKENS,
    AudioSpectrogramTransformer,
    PatchEmbedding,
    attend,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*Profiler clears events")  # of torch 2.11, which is not asked to keep

CPU = torch.device("cpu")
BATCH = 2
LENGTHS_S = (1.0, 5.0)
EITHER = pytest.mark.parametrize("durations_s", [None, LENGTHS_S], ids=["padded", "packed"])
# Inputs of 8 s: attention takes the way of its own that it has for bfloat16 on a CPU.
CONFIG = ours.run_config("micro")
OWN = ours.run_config("micro", is_padding_encoded=False)


def make(durations_s: Sequence[float] | None = None) -> Callable[[], object]:
    return ours.our_step("micro", BATCH, CPU, durations_s=durations_s)


def patches_of(encoder: AudioSpectrogramTransformer, durations_s: Sequence[float] | None) -> list[int]:
    """Patches of each sample that are encoded."""
    num_frames = ours.batch(OWN, batch_size=BATCH, durations_s=durations_s).num_frames
    num_columns = encoder.columns(torch.full((BATCH,), encoder.num_frames) if num_frames is None else num_frames)
    assert num_columns is not None
    return [encoder.grid.freq * each for each in num_columns.tolist()]


def encoding_flops(num_patches: int, *, dim: int, depth: int) -> int:
    """Forward, one sample: full blocks, and a last one whose queries are the prefix tokens alone."""
    num_tokens, prefix = num_patches + NUM_PREFIX_TOKENS, NUM_PREFIX_TOKENS
    linear = 2 * dim * dim  # of one token through a square map; query, key, value, out, and eight of the perceptron
    block = 12 * linear * num_tokens + 4 * num_tokens * num_tokens * dim
    last = 2 * linear * num_tokens + 10 * linear * prefix + 4 * prefix * num_tokens * dim
    return (depth - 1) * block + last


@pytest.mark.parametrize(
    ("dtype", "num_queries"), [(torch.float32, 5), (torch.bfloat16, 5), (torch.bfloat16, FEWEST_QUERIES)]
)
def test_attention_counts_as_its_two_products_do(dtype: torch.dtype, num_queries: int) -> None:
    query, key, value = (torch.randn(2, 3, n, 8, dtype=dtype, requires_grad=True) for n in (num_queries, 70, 70))
    fused = flops_of(lambda: attend(query, key, value).sum().backward())
    naive = flops_of(lambda: ((query @ key.mT).softmax(dim=-1) @ value).sum().backward())
    assert fused == naive == 3 * 2 * 2 * 3 * num_queries * 70 * (8 + 8)


def saved_bytes(
    encoder: AudioSpectrogramTransformer, durations_s: Sequence[float] | None, *, num_views: int = 2
) -> int:
    """What a step in bfloat16 has to keep for its backward passes, the head and other small things left out.

    Of a token in a full block, by its width: the float32 input of both norms (8 bytes); in bfloat16 their results
    (4), query, key and value (6), attention's result (2), the perceptron before and after its GELU (16). Mean and
    deviation of both norms take 16 bytes. The last block keeps of the patches what its first norm and keys and
    values need. Nothing grows with the square of the tokens.
    """
    dim, depth = encoder.dim, len(encoder.blocks)
    num_tokens = num_views * sum(each + NUM_PREFIX_TOKENS for each in patches_of(encoder, durations_s))
    block, last = 36 * dim + 16, 10 * dim + 8
    weights = 2 * 12 * dim * dim * depth  # in bfloat16, once for all views
    fbank = 2 * BATCH * encoder.num_frames * encoder.num_mels
    return num_tokens * ((depth - 1) * block + last) + weights + fbank


@EITHER
def test_a_step_needs_no_more_operations_and_bytes_than_its_closed_forms(durations_s: Sequence[float] | None) -> None:
    train_step, saved = ours.train_step(CONFIG, device=CPU), dict[int, torch.UntypedStorage]()
    batch = ours.batch(OWN, batch_size=BATCH, durations_s=durations_s)
    weights = {value.untyped_storage().data_ptr() for value in train_step.model.parameters()}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        flops = flops_of(lambda: train_step(batch, learning_rate=0.0, generator=torch.Generator()))
    encoder, num_classes = train_step.model.patch_encoder, len(train_step.model.classes)
    dim, depth, grid = encoder.dim, len(encoder.blocks), encoder.grid
    num_patches = patches_of(encoder, durations_s)
    assert min(num_patches) >= FEWEST_QUERIES
    embedding = 2 * grid.num_patches * PATCH_SIZE**2 * dim  # backward: of the weights alone
    views = sum(2 * 3 * encoding_flops(each, dim=dim, depth=depth) for each in num_patches)
    head, projector = 3 * 2 * dim * num_classes, 3 * 2 * 2 * dim * dim
    similarities = 2 * 2 * BATCH * dim  # backward: of the projections alone
    assert flops == BATCH * (2 * embedding + head + projector + similarities) + views
    expected = saved_bytes(encoder, durations_s)
    assert expected <= sum(storage.nbytes() for storage in saved.values()) < 1.02 * expected


@EITHER
def test_a_step_allocates_little_beside_what_it_keeps(durations_s: Sequence[float] | None) -> None:
    """The views come one after the other, so that at no time there is what both have to keep."""
    encoder = ours.classifier(CONFIG).patch_encoder
    saved, num_blocks = saved_bytes(encoder, durations_s, num_views=1), len(encoder.blocks)
    gradients = sum(value.nbytes for value in encoder.parameters())
    sizes = allocations_in(make(durations_s))
    assert saved < max(accumulate(sizes)) < saved + gradients + 2 * BUFFER_BYTES
    # Those of the size of a view's tokens in bfloat16, of both views: two copies more of them in each block are over.
    size_of_view = 2 * encoder.dim * sum(each + NUM_PREFIX_TOKENS for each in patches_of(encoder, durations_s))
    assert sum(size >= size_of_view for size in sizes) < 39 * 2 * num_blocks


def allocations_in(step: Callable[[], object]) -> list[int]:
    """Bytes of each allocation of one step after a first one, and of each release less than nothing, in order.

    What an operator releases before it ends is left out. It is work space of a library, and how much that takes is a
    matter of the processor: oneDNN's products in bfloat16 take none on AVX2, rearranged operands where there are AMX
    tiles, and copies of their operands in float32 where AVX-512 has no bfloat16. A result of any line of ours outlives
    the operator that made it.
    """
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    events = memory_events(profiled.profiler.kineto_results.experimental_event_tree())
    sizes, allocated = dict[int, int](), dict[int, tuple[int, Any]]()
    for index, event in enumerate(sorted(events, key=lambda event: event.start_time_ns)):
        sizes[index], at = event.extra_fields.alloc_size, event.extra_fields.ptr
        if sizes[index] > 0:
            allocated[at] = index, event.parent
        elif at in allocated:
            first, operator = allocated.pop(at)
            if operator is not None and event.start_time_ns <= operator.end_time_ns:
                del sizes[first], sizes[index]
    return list(sizes.values())


def memory_events(events: Iterable[Any]) -> Iterator[Any]:
    """Those of a profile's events, and of what lies within them, that allocate or release."""
    for event in events:
        if event.name == "[memory]":
            yield event
        yield from memory_events(event.children)


def explained(durations_s: Sequence[float] | None) -> tuple[list[int], list[str]]:
    """Own attentions in each graph that the compiler makes of the encoder in bfloat16, and where a graph ends early."""
    encoder = ours.classifier(CONFIG).patch_encoder
    batch = ours.batch(OWN, batch_size=BATCH, durations_s=durations_s)
    torch._dynamo.reset()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        explanation = torch._dynamo.explain(encoder)(batch.fbank, batch.num_frames)
    targets = [[str(node.target) for node in module.graph.nodes] for module in explanation.graphs]
    return [sum("head_by_head" in name for name in names) for names in targets], [
        reason.user_stack[-1].name for reason in explanation.break_reasons
    ]


NUM_OWN = len(ours.classifier(CONFIG).patch_encoder.blocks) - 1  # the last block has too few queries


@pytest.mark.slow
def test_the_encoder_is_one_graph() -> None:
    assert explained(None) == ([NUM_OWN], [])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler's own, when a graph goes on after a break
def test_only_packing_breaks_the_graph() -> None:
    """Lengths are read on the host before the blocks, which are one graph again."""
    num_own, places = explained(LENGTHS_S)
    assert set(places) == {"_pack"}
    assert [each for each in num_own if each] == [BATCH * NUM_OWN]


def test_a_step_embeds_once_copies_no_weights_and_has_one_optimizer_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    step, forward, num_embedded = make(), PatchEmbedding.forward, list[int]()
    step()  # makes the optimizer's state

    def counted(self: PatchEmbedding, fbank: torch.Tensor) -> torch.Tensor:
        num_embedded.append(len(fbank))
        return forward(self, fbank)

    def refuse(*values: object) -> None:
        raise AssertionError(f"a step copies {values}")

    monkeypatch.setattr(PatchEmbedding, "forward", counted)
    with profile(activities=[ProfilerActivity.CPU]) as profiled, monkeypatch.context() as patch:
        patch.setattr(copy, "deepcopy", refuse)
        step()
    calls = Counter(event.key for event in profiled.events() or ())
    assert num_embedded == [BATCH]
    assert calls["aten::_fused_adam_"] + calls["aten::_fused_adamw_"] == 1
    assert calls["aten::addcdiv_"] == 0
