"""The processor: its name, whether it computes in bfloat16, and how many threads may use it."""

import os
import platform
from pathlib import Path


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
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
