"""The lines of training on a GPU: share of its ceiling, the plain step beside ours, waiting for data."""

from collections.abc import Iterator

import torch
from rich.console import Console

from benchmarks import ours
from benchmarks.counts import flops_of
from benchmarks.kept import kept_in
from benchmarks.line import Line, seconds_in_numbers
from benchmarks.machine import wait_for
from benchmarks.measure import spread
from benchmarks.plan import Plan
from benchmarks.stand_in import write_stand_in
from benchmarks.training import LEARNING_RATE, make_step
from lungsound.data.batches import Batch, training_batches, training_inputs
from lungsound.data.splits import divide, load_corpus

BATCH_SIZES = (16, 32, 64, 128)


def gpu_lines(plan: Plan) -> list[Line]:
    """All lines for the device of the plan."""
    return [_share(plan), *([_step(plan)] if plan.is_against else []), _waiting(plan)]


def _share(plan: Plan) -> Line:
    """The best share over batch sizes."""
    size = plan.answering_size
    shares = {}
    for batch_size in (plan.batch_size,) if plan.is_quick else BATCH_SIZES:
        plan.say(f"step on the GPU at batch {batch_size}")
        step = make_step("ours", size, batch_size=batch_size, device=plan.device, is_quick=plan.is_quick)
        flops = flops_of(step)
        taken_s = plan.alone(step)
        shares[batch_size] = spread(tuple(100 * flops / each / 1e9 / plan.ceilings["bf16"] for each in taken_s))
    best = max(shares, key=lambda batch_size: shares[batch_size].median)
    note = f"batch {best}; " + ", ".join(f"{size}: {share.median:.0f} %" for size, share in shares.items())
    what = f"GPU, AST-{size.title()} patchmix_cl, bf16: share of the measured bf16 ceiling"
    return Line("gpu-share", what, "%", 50.0, shares[best], note=note)


def _step(plan: Plan) -> Line:
    plan.say("both steps on the GPU")
    size = plan.answering_size
    ours_, peer = (
        make_step(side, size, batch_size=plan.batch_size, device=plan.device, is_quick=plan.is_quick)
        for side in ("ours", "peer")
    )
    found = plan.compare(ours_, peer)
    numbers = seconds_in_numbers(found)
    note = f"ours {1e3 * numbers['ours_s']:.0f} ms, peer {1e3 * numbers['peer_s']:.0f} ms, {found.num_pairs} pairs"
    what = f"GPU, AST-{size.title()}, batch {plan.batch_size} / the plain step (eager, AMP, two forwards, deep copies)"
    return Line("gpu-step", what, "x", 3.0, found.ratio, note=note, numbers=numbers)


def _waiting(plan: Plan) -> Line:
    """Seconds of steps with their batches made on the way, beside the same steps on one batch that is there."""
    plan.say("waiting for data")
    num_recordings, num_cycles = (35, 70) if plan.is_quick else (64, 480)
    folder = write_stand_in(plan.work / "waiting", num_recordings=num_recordings, num_cycles=num_cycles)
    config = ours.run_config(plan.answering_size, is_quick=plan.is_quick)
    config = config.model_copy(update={"data": config.data.model_copy(update={"root": str(folder)})})
    corpus = load_corpus(config.data)
    parts = divide(corpus, config.data, config.train)
    with kept_in(plan.work / "waiting-store"):
        inputs = training_inputs(config, corpus, parts, console=Console(quiet=True))
    step = ours.train_step(config, device=plan.device)
    generator = torch.Generator().manual_seed(0)
    batches = training_batches(config, corpus, parts, inputs, console=Console(quiet=True))
    num_steps = 2 if plan.is_quick else batches.num_steps
    ready = next(batches.epoch(1))
    epochs = iter(range(1, 10**6))

    def train(given: Iterator[Batch]) -> None:
        for _ in range(num_steps):
            batch = next(given)
            step(batch, learning_rate=LEARNING_RATE, generator=generator)
        wait_for(plan.device)

    found = plan.compare(
        lambda: train(iter([ready] * num_steps)),
        lambda: train(batches.epoch(next(epochs))),
    )
    shares = spread(
        tuple(100 * max(0.0, 1 - bare / whole) for bare, whole in zip(found.ours_s, found.peer_s, strict=True))
    )
    what = "share of step time waiting for data, GPU"
    note = f"{num_steps} steps with their batches made on the way, beside the same on one batch"
    return Line("gpu-waiting", what, "%", 3.0, shares, is_most=True, note=note, numbers=seconds_in_numbers(found))
