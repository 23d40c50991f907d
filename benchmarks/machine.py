"""The machine of a measurement: what it is, and the most that it was seen to do."""

import os
import platform
from collections.abc import Callable
from importlib import metadata

import torch
from torch import Tensor

from benchmarks.measure import seconds_each
from lungsound.training.run import revision

LIBRARIES = ("torch", "numpy", "transformers", "torchaudio", "onnxruntime", "openvino")
# A square, and the widest map of AST-Base on a batch of 8: (tokens, in) by (in, out).
SHAPES = ((2048, 2048, 2048), (7600, 768, 3072))
COPY_MIB = 512
CUDA_GROWTH = 4  # sizes are multiplied by this on a GPU, which small ones do not fill


def facts(*, num_threads: int, device: torch.device) -> dict[str, str | int]:
    """What a reader needs to place the numbers: processor, versions, threads, commit."""
    found: dict[str, str | int] = {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count() or 1,
        "threads": num_threads,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found | _versions() | {"commit": revision() or "unknown"}


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
    """The processor's name; on Linux from /proc, because `platform` gives the family only."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 (a virtual file)
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
