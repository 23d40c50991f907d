"""How fast each engine is on this machine, measured once and remembered."""

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from lungsound.checkpoint import TrainedModel
from lungsound.engines import graphs, kinds
from lungsound.engines.agreement import agreement
from lungsound.engines.engine import Engine
from lungsound.engines.export import EXACT_TOLERANCE, probes
from lungsound.files import write_text

PACKAGES = ("torch", "onnxruntime", "openvino")
NUM_ROUNDS = 3


def speeds(trained: TrainedModel, names: Sequence[str]) -> dict[str, float]:
    """Seconds per cycle of engines on the CPU of this machine with the threads of now.

    What is not known yet is measured (seconds for each engine) and kept with the exported graphs. A float32 engine
    whose answers to the probes are not those of torch to 1e-4 gets infinity.
    """
    path = graphs.folder(trained) / f"speeds-{_machine()}.json"
    known: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    missing = [name for name in names if name not in known]
    if missing:
        known |= _measured(trained, missing)
        write_text(path, json.dumps(known, indent=2) + "\n")
    return {name: known[name] for name in names}


def _measured(trained: TrainedModel, names: Sequence[str]) -> dict[str, float]:
    clips = list(probes(trained))
    expected = kinds.make("torch", trained).answer(clips)
    found = {}
    for name in names:
        engine = kinds.make(name, trained)
        difference = agreement(expected, engine.answer(clips)).largest_difference
        is_wrong = kinds.KINDS[name].is_float32 and difference > EXACT_TOLERANCE
        found[name] = float("inf") if is_wrong else seconds_per_cycle(engine, clips)
    return found


def seconds_per_cycle(engine: Engine, waveforms: Sequence[Tensor]) -> float:
    """Median of some rounds; the caller has let it answer once before."""
    times = []
    for _ in range(NUM_ROUNDS):
        start_s = time.perf_counter()
        engine.answer(waveforms)
        times.append((time.perf_counter() - start_s) / len(waveforms))
    return median(times)


def _machine() -> str:
    """A name for this processor, its threads, and the versions of what computes."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else [platform.processor()]
    processor = next((line for line in lines if line.startswith("model name")), lines[0] if lines else "")
    facts = [platform.machine(), processor, str(torch.get_num_threads()), *(_version(name) for name in PACKAGES)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
