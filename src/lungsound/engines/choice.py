"""Which engine answers: the fastest of those that are known to answer as torch does."""

from pathlib import Path

import torch

from lungsound.checkpoint import TrainedModel
from lungsound.engines import kinds
from lungsound.engines.agreement import read_agreements, usable
from lungsound.engines.engine import Engine
from lungsound.engines.speed import speeds

AUTO, EXACT = "auto", "exact"


def choose(name: str, trained: TrainedModel, *, folder: Path | None, device: torch.device) -> Engine:
    """The engine that `name` asks for.

    "exact": the fastest float32 engine whose probabilities are those of torch to 1e-4, on the probes and, where that
    was measured, on real cycles. "auto": the fastest of these and of the others that were measured in `folder`, that
    of the model file, to decide as torch in 99 % of the cycles; without such a measurement "exact". Only engines whose
    graph was exported take part, so without an export both are torch. Any other name: that engine, measured or not.
    On a GPU "exact" and "auto" are torch.
    """
    if name not in (AUTO, EXACT):
        return kinds.make(name, trained, device=device)
    candidates = candidates_of(name, trained, folder) if device.type == "cpu" else ["torch"]
    if len(candidates) == 1:
        return kinds.make(candidates[0], trained, device=device)
    measured = speeds(trained, candidates)
    return kinds.make(min(candidates, key=lambda candidate: measured[candidate]), trained, device=device)


def candidates_of(name: str, trained: TrainedModel, folder: Path | None) -> list[str]:
    """Names of the engines that may answer under "auto" or "exact"; torch is always one of them."""
    found = kinds.available(trained)
    agreements = {} if folder is None else read_agreements(folder, trained)
    exact = [
        name for name in found if kinds.KINDS[name].is_float32 and (name not in agreements or agreements[name].is_exact)
    ]
    if name == EXACT:
        return exact
    return exact + usable(agreements, [name for name in found if name not in exact and name != "torch"])
