"""The lines of training on the CPU: seconds and peak memory of a step beside the plain step in float32."""

import torch

from benchmarks.counts import flops_of
from benchmarks.cycles import lengths
from benchmarks.line import Line, seconds_in_numbers, single
from benchmarks.measure import spread
from benchmarks.memory import peak_bytes
from benchmarks.plan import Plan
from benchmarks.training import make_step

WANTED = {"base": 3.5, "tiny": 2.8, "micro": 1.0}
WANTED_PACKED = 8.0
WANTED_MEMORY = 60.0
CPU = torch.device("cpu")


def train_lines(plan: Plan) -> list[Line]:
    """Time and memory of each size; then the largest with cycles of their own length."""
    memory = [_memory_line(plan, size) for size in plan.sizes]  # first, while this process holds nothing
    lines = [line for size, beside in zip(plan.sizes, memory, strict=True) for line in (_time_line(plan, size), beside)]
    return [*lines, _time_line(plan, plan.answering_size, is_packed=True)]


def _time_line(plan: Plan, size: str, *, is_packed: bool = False) -> Line:
    plan.say(f"training step of AST-{size.title()}{', own lengths' if is_packed else ''}")
    durations_s, source = lengths(plan) if is_packed else (None, "")
    ours = make_step(
        "ours", size, batch_size=plan.batch_size, device=CPU, is_quick=plan.is_quick, durations_s=durations_s
    )
    flops = flops_of(ours)
    if plan.is_against:
        peer = make_step("peer", size, batch_size=plan.batch_size, device=CPU, is_quick=plan.is_quick)
        found = plan.compare(ours, peer, least_pairs=2 if size == "base" else 3)
        measured, numbers = found.ratio, seconds_in_numbers(found)
    else:
        measured, numbers = None, {"ours_s": spread(plan.alone(ours)).median}
    gflops = flops / numbers["ours_s"] / 1e9
    numbers |= {"gflop": flops / 1e9, "gflop_per_s": gflops, "ceiling_share": gflops / plan.ceilings["bf16"]}
    how = f", padding-aware, {source}" if is_packed else ""
    what = f"patchmix_cl step, AST-{size.title()}, batch {plan.batch_size}{how}, CPU, bf16 / plain step, fp32"
    key, wanted = (f"train-{size}-packed", WANTED_PACKED) if is_packed else (f"train-{size}", WANTED[size])
    return Line(key, what, "x", wanted, measured, note=_note(numbers), numbers=numbers)


def _note(numbers: dict[str, float]) -> str:
    peer = f", peer {numbers['peer_s']:.2f} s, {numbers['num_pairs']:g} pairs" if "peer_s" in numbers else ""
    return (
        f"ours {numbers['ours_s']:.2f} s{peer}; {numbers['gflop']:.0f} GFLOP, "
        f"{100 * numbers['ceiling_share']:.0f} % of the bf16 ceiling"
    )


def _memory_line(plan: Plan, size: str) -> Line:
    what = f"the same, peak memory over the plain step's, AST-{size.title()}"
    key = f"train-{size}-memory"
    if not plan.is_against:
        return Line(key, what, "%", WANTED_MEMORY, None, is_most=True, note="needs --against transformers")
    plan.say(f"memory of both steps of AST-{size.title()}")
    ours, peer = (
        peak_bytes(side, size, batch_size=plan.batch_size, num_threads=plan.num_threads, is_quick=plan.is_quick) / 2**20
        for side in ("ours", "peer")
    )
    note = f"ours {ours:,.0f} MiB, peer {peer:,.0f} MiB, each in a process of its own, less imports"
    numbers = {"ours_mib": ours, "peer_mib": peer}
    return Line(key, what, "%", WANTED_MEMORY, single(100 * ours / peer), is_most=True, note=note, numbers=numbers)
