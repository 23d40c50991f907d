"""Measuring tools: seconds in turn, the ceilings of a machine, counted operations, and memory of a process."""

import contextlib
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.flop_counter import FlopCounterMode

import lungsound.models.ast  # noqa: F401 (registers the operators)
from lungsound.training.run import revision

Work = Callable[[], object]
Seconds = npt.NDArray[np.float64]


def seconds_in_turn(*works: Work, least: int, most: int, budget_s: float) -> Seconds:
    """Seconds (round, work) of things done in turn, after one call of each to warm up: A B A B.

    It ends after `most` rounds, or when `budget_s` is spent and there are `least`. Work on a GPU has to wait for it.
    """
    for work in works:
        work()
    rounds: list[list[float]] = []
    began = time.perf_counter()
    while len(rounds) < least or (len(rounds) < most and time.perf_counter() - began < budget_s):
        times = [time.perf_counter()]
        for work in works:
            work()
            times.append(time.perf_counter())
        rounds.append(np.diff(times).tolist())
    return np.array(rounds)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Table in Markdown."""
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (head, ["---"] * len(head), *rows))


LIBRARIES = ("torch", "numpy", "transformers", "torchaudio", "onnxruntime", "openvino")


def machine(device: torch.device) -> dict[str, str | int]:
    """Facts that place the numbers: processor, versions, threads, commit."""
    cpu_info = Path("/proc/cpuinfo")  # `platform` gives Linux's family of processors only
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    installed = {package.name: package.version for package in metadata.distributions()}
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
        **{name: installed.get(name, "not installed") for name in LIBRARIES},
        "commit": revision() or "unknown",
    }


# A square, and the widest map of AST-Base on a batch of 8: (tokens, in) by (in, out).
SHAPES = ((2048, 2048, 2048), (7600, 768, 3072))
CUDA_GROWTH = 4  # sizes are multiplied by this on a GPU, which small ones do not fill


@torch.inference_mode()
def ceilings(device: torch.device, *, is_quick: bool = False) -> dict[str, float]:
    """The most GFLOP/s of matrix products in fp32 and bf16 that this machine was seen to do.

    The best of torch's own product and, on the CPU, of oneDNN's with packed weights, over two shapes.
    """

    def fastest_s(work: Work) -> float:
        def done() -> None:
            work()
            wait_for(device)

        return float(seconds_in_turn(done, least=3, most=20, budget_s=1.0).min())

    def gflops(rows: int, inner: int, columns: int, dtype: torch.dtype) -> float:
        left = torch.randn(rows, inner, device=device).to(dtype)
        weights = torch.randn(columns, inner, device=device).to(dtype)
        products: list[Work] = [lambda: torch.nn.functional.linear(left, weights)]
        can_pack = dtype is torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if device.type == "cpu" and torch._C._has_mkldnn and can_pack:
            packed = torch.ops.mkldnn._reorder_linear_weight(weights, rows)
            products.append(lambda: torch.ops.mkldnn._linear_pointwise(left, packed, None, "none", [], ""))
        return 2 * rows * inner * columns / min(map(fastest_s, products)) / 1e9

    scale = CUDA_GROWTH if device.type == "cuda" else 1
    shapes = ((256, 256, 256),) if is_quick else SHAPES
    return {
        name: max(gflops(scale * rows, scale * inner, scale * columns, dtype) for rows, inner, columns in shapes)
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }


SAMPLE_S, SETTLE_S = 0.2, 3.0


def pss_mib(root: int) -> float:
    """Memory of a process and all that descend from it: PSS, which counts what n of them share for one nth."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone by now
            parents[int(stat.parent.name)] = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
    total_kib, wanted = 0, [root]
    for each in wanted:  # which grows
        wanted += [child for child, parent in parents.items() if parent == each]
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="ascii")
            total_kib += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total_kib / 1024


@contextmanager
def memory(root: int, *, every_s: float = SAMPLE_S) -> Iterator[dict[str, float]]:
    """The most memory that was seen while this lasts, looked at `every_s`, and what is left a moment after it."""
    found, is_over = {"peak_mib": 0.0}, threading.Event()

    def sample() -> None:
        while not is_over.wait(every_s):
            found["peak_mib"] = max(found["peak_mib"], pss_mib(root))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
        time.sleep(SETTLE_S)
    finally:
        is_over.set()
        thread.join()
    found["final_mib"] = pss_mib(root)
    found["peak_mib"] = max(found["peak_mib"], found["final_mib"])


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Operations of softmax(Q K^T) V, from the shapes (..., token, dim): two products."""
    del args, kwargs
    *heads, num_queries, dim = query
    return int(2 * math.prod(heads) * num_queries * key[-2] * (dim + value[-1]))


def attention_backward_flops(gradient: Any, *args: Any, **kwargs: Any) -> int:
    """Twice those of forward: what a kernel computes again to save memory is no work that is needed."""
    del gradient
    return 2 * attention_flops(*args, **kwargs)


# torch counts no attention on the CPU, and in the backward pass of a GPU's the products that it does twice.
aten, own = torch.ops.aten, torch.ops.lungsound
ATTENTION = {
    own.head_by_head: attention_flops,
    own.head_by_head_backward: attention_backward_flops,
    aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
    aten._scaled_dot_product_flash_attention_backward: attention_backward_flops,
    aten._scaled_dot_product_efficient_attention_backward: attention_backward_flops,
    aten._scaled_dot_product_cudnn_attention_backward: attention_backward_flops,
}


def flops_of(work: Work) -> int:
    """Operations of matrix products, convolutions and attention, forward and backward, in one call."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        work()
    return int(counter.get_total_flops())
