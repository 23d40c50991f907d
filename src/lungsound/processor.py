"""The processor: its name, whether it computes in bfloat16, its threads, and work that a pool does ahead."""

import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def cpu_info() -> list[str]:
    """Lines of Linux's description of the processors; none on other systems."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def processor_name() -> str:
    """Name of the processor and its kind of machine."""
    names = (line.partition(":")[2].strip() for line in cpu_info() if line.startswith("model name"))
    return f"{platform.machine()} {next(names, platform.processor())}"


def has_bf16() -> bool:
    """Find bfloat16 among the processor's flags; elsewhere it is emulated, and slower than float32."""
    flags = {flag for line in cpu_info() for flag in line.split() if line.startswith(("flags", "Features"))}
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def num_threads() -> int:
    """Threads to compute with: OMP_NUM_THREADS, as torch reads it, else as many as this process has processors."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return num_processors()


def num_processors() -> int:
    """Processors on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_ahead(
    pool: Executor, function: Callable[[Item], Made], items: Iterable[Item], *, num_ahead: int
) -> Iterator[Made]:
    """Results of a function of each item, in their order; the pool is at most so many ahead of who takes them."""
    coming: deque[Future[Made]] = deque()
    for item in items:
        coming.append(pool.submit(function, item))
        if len(coming) > num_ahead:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()
