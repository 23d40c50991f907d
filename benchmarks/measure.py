"""Measuring tools: two things in turn, the ceilings of a machine, counted operations, and memory of a process."""

import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import lungsound.models.ast  # noqa: F401 (registers the operators)
from lungsound.training.run import revision

Work = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some values."""

    median: float
    low: float
    high: float


def spread(values: tuple[float, ...]) -> Spread:
    """Median and quartiles, interpolated linearly between values."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return Spread(float(median), float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """Seconds that ours and the peer took, pair by pair."""

    ours_s: tuple[float, ...]
    peer_s: tuple[float, ...]

    @property
    def num_pairs(self) -> int:
        return len(self.ours_s)

    @property
    def ratio(self) -> Spread:
        """Ratio of the peer's seconds to ours, of each pair: what slows both down cancels."""
        return spread(tuple(peer / ours for ours, peer in zip(self.ours_s, self.peer_s, strict=True)))


def seconds_of(work: Work, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call. On a GPU the work has to end with waiting for it."""
    began = clock()
    work()
    return clock() - began


def compare(
    ours: Work,
    peer: Work,
    *,
    least_pairs: int,
    most_pairs: int,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Call both once to warm up, then in turn: ours, peer, ours, peer.

    It ends after `most_pairs`, or when `budget_s` is spent and there are `least_pairs`.
    """
    ours()
    peer()
    ours_s: list[float] = []
    peer_s: list[float] = []
    began = clock()
    while len(ours_s) < least_pairs or (len(ours_s) < most_pairs and clock() - began < budget_s):
        ours_s.append(seconds_of(ours, clock=clock))
        peer_s.append(seconds_of(peer, clock=clock))
    return Comparison(tuple(ours_s), tuple(peer_s))


def seconds_each(
    work: Work, *, least: int, most: int, budget_s: float, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, ...]:
    """Seconds of each call of one thing alone, after one to warm up; for what has no peer."""
    work()
    seconds: list[float] = []
    began = clock()
    while len(seconds) < least or (len(seconds) < most and clock() - began < budget_s):
        seconds.append(seconds_of(work, clock=clock))
    return tuple(seconds)


LIBRARIES = ("torch", "numpy", "transformers", "torchaudio", "onnxruntime", "openvino")
# A square, and the widest map of AST-Base on a batch of 8: (tokens, in) by (in, out).
SHAPES = ((2048, 2048, 2048), (7600, 768, 3072))
COPY_MIB = 512
CUDA_GROWTH = 4  # sizes are multiplied by this on a GPU, which small ones do not fill


def machine(*, num_threads: int, device: torch.device) -> dict[str, str | int]:
    """Facts that place the numbers: processor, versions, threads, commit."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count() or 1,
        "threads": num_threads,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
        **versions,
        "commit": revision() or "unknown",
    }


def ceilings(device: torch.device, *, is_quick: bool = False) -> dict[str, float]:
    """The most this machine was seen to do: GFLOP/s of matrix products by dtype, GB/s of a copy ("copy").

    The best of torch's own product and, on the CPU, of oneDNN's with packed weights, over two shapes. A copy reads
    and writes each byte once.
    """
    shapes = ((256, 256, 256),) if is_quick else SHAPES
    scale = CUDA_GROWTH if device.type == "cuda" else 1
    found = {
        name: max(_matmul_gflops(tuple(scale * each for each in shape), dtype, device) for shape in shapes)
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    return found | {"copy": _copy_gb_per_s(1 if is_quick else COPY_MIB, device)}


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _matmul_gflops(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> float:
    rows, inner, columns = shape
    left = torch.randn(rows, inner, device=device).to(dtype)
    weights = torch.randn(columns, inner, device=device).to(dtype)
    products: list[Callable[[], Tensor]] = [lambda: torch.nn.functional.linear(left, weights)]
    if device.type == "cpu" and torch._C._has_mkldnn:
        packed = torch.ops.mkldnn._reorder_linear_weight(weights, rows)
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(left, packed, None, "none", [], ""))
    fastest_s = min(_fastest_s(product, device) for product in products)
    return 2 * rows * inner * columns / fastest_s / 1e9


def _copy_gb_per_s(num_mib: int, device: torch.device) -> float:
    source = torch.ones(num_mib * 2**18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest_s(lambda: target.copy_(source), device) / 1e9


@torch.inference_mode()
def _fastest_s(work: Callable[[], Tensor], device: torch.device) -> float:
    def done() -> None:
        work()
        wait_for(device)

    return min(seconds_each(done, least=3, most=20, budget_s=1.0))


def _processor() -> str:
    """Name of the processor; on Linux from /proc, because `platform` gives the family only."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


aten, own = torch.ops.aten, torch.ops.lungsound


def attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Operations of softmax(Q K^T) V, from the shapes (..., token, dim): two products."""
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
    """Operations of matrix products, convolutions and attention, forward and backward, in one call."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        work()
    return int(counter.get_total_flops())


STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Memory of this process that is in use now; its peak where the system does not say."""
    return _status("VmRSS") or peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The most memory that this process had in use.

    Linux's own count is asked first: `getrusage` starts with the peak of the process that started this one.
    """
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _status(name: str) -> int:
    """Bytes of an entry of this process's status; 0 where there is none."""
    if not STATUS.exists():
        return 0
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
