"""Where the time goes: the operators of a training step or of an answer, by group."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import ours
from benchmarks.answering import EXACT_ENGINE
from benchmarks.machine import wait_for
from benchmarks.measure import Work
from benchmarks.plan import Plan
from benchmarks.training import make_step
from lungsound.config import RunConfig
from lungsound.data.batches import specaugment
from lungsound.inference import engines as kinds

# The first group of which a part of an operator's name is known.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "attention": ("scaled_dot_product", "flash_attention", "efficient_attention", "softmax"),
    "matmul": ("mm", "linear", "matmul", "dot", "gemm", "convolution", "conv2d"),
    "norm": ("layer_norm", "batch_norm", "LayerNorm", "BatchNorm"),
    "filter bank": ("fft", "unfold", "log"),
    "copies and casts": ("copy", "_to_copy", "clone", "contiguous", "cat", "index", "fill", "zero", "empty", "Memcpy"),
}
OPTIMIZER = "optimizer"
REST = "elementwise and other"
DATA = "data"
NUM_OPERATORS = 3


@dataclass(frozen=True)
class Share:
    """Seconds of a group of operators in one call, and those of its operators that take most."""

    group: str
    seconds: float
    operators: tuple[str, ...]


def profile_training(plan: Plan) -> list[Share]:
    """Of one step of ours, and of making its batch from stored filter banks (SpecAugment)."""
    config = ours.run_config(plan.answering_size, is_quick=plan.is_quick)
    step = make_step(
        "ours", plan.answering_size, batch_size=plan.batch_size, device=plan.device, is_quick=plan.is_quick
    )
    return sorted([*shares_of(step, plan.device), _data_share(config, plan)], key=lambda each: -each.seconds)


def profile_answering(plan: Plan) -> list[Share]:
    """Of one batch of cycles by torch in float32, whose operators can be seen."""
    config = ours.run_config(plan.answering_size, precision="fp32", is_quick=plan.is_quick)
    trained = ours.trained_model(config)
    cycles = ours.waveforms(trained.front_end, [trained.front_end.audio.duration_s] * plan.batch_size)
    torch_engine = kinds.make(EXACT_ENGINE, trained, device=plan.device)
    return shares_of(lambda: torch_engine.predict(cycles), plan.device)


def group_of(operator: str) -> str:
    """Name of the group of an operator, by its name."""
    return next((group for group, parts in GROUPS.items() if any(part in operator for part in parts)), REST)


def shares_of(work: Work, device: torch.device) -> list[Share]:
    """Groups by time of one call, the longest first: time on the device, on the CPU an operator's own."""
    work()
    is_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    with profile(activities=activities) as profiled:
        work()
        wait_for(device)
    taken: dict[str, dict[str, float]] = {}
    for event in profiled.events() or ():
        micros = event.self_device_time_total if is_cuda else event.self_cpu_time_total
        of_group = taken.setdefault(OPTIMIZER if _is_of_optimizer(event) else group_of(event.key), {})
        of_group[event.key] = of_group.get(event.key, 0.0) + micros / 1e6
    found = []
    for group, seconds in taken.items():
        longest = sorted(seconds, key=lambda name: -seconds[name])[:NUM_OPERATORS]
        told = tuple(f"{name.removeprefix('aten::')} {seconds[name]:.3f}" for name in longest)
        found.append(Share(group, sum(seconds.values()), told))
    return sorted(found, key=lambda each: -each.seconds)


def _is_of_optimizer(event: Any) -> bool:
    """Whether an operator was called, at some depth, by the optimizer."""
    while event is not None:
        if event.key.startswith("Optimizer."):
            return True
        event = event.cpu_parent
    return False


def _data_share(config: RunConfig, plan: Plan) -> Share:
    fbank, _ = ours.batch(config, batch_size=plan.batch_size)
    augment = specaugment(config.augment)
    generator = torch.Generator().manual_seed(0)
    began = time.perf_counter()
    if augment is not None:
        torch.stack([augment(each, generator, None) for each in fbank])
    return Share(DATA, time.perf_counter() - began, ("SpecAugment",))
