"""Our engines for the lines of answering: the exact one, and the fastest that decides as it does."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lungsound.app.bench.counts import flops_of
from lungsound.audio.fbank import normalize
from lungsound.checkpoint import TrainedModel
from lungsound.engines import extras, graphs, kinds
from lungsound.engines.agreement import LEAST_AGREEMENT, agreement
from lungsound.engines.engine import Engine
from lungsound.engines.speed import speeds

EXACT_ENGINE = "torch"
NUM_COMPARED = 4  # cycles: weights are random here, so that this only finds an engine that is broken


def export(trained: TrainedModel, cycles: Sequence[Tensor]) -> None:
    """Make the graphs that the engines of the extras need, where these are installed."""
    if extras.is_installed("onnx"):
        graphs.make(trained, [trained.front_end.fit(cycle) for cycle in cycles])


def engine(trained: TrainedModel, *, is_exact: bool, cycles: Sequence[Tensor]) -> tuple[Engine, float]:
    """The fastest on this machine, and the share of a few cycles that it decides as torch in float32.

    Exact: of the engines in float32 with torch's probabilities. Else of all that decide alike in 99 %.
    """
    cycles = cycles[:NUM_COMPARED]
    known = [kinds.make(name, trained) for name in kinds.available(trained)]
    reference = kinds.make(EXACT_ENGINE, trained).answer(cycles)
    found = {each.name: agreement(reference, each.answer(cycles)) for each in known}
    fit = [
        name
        for name, agreed in found.items()
        if (agreed.is_exact and kinds.KINDS[name].is_float32 if is_exact else agreed.share >= LEAST_AGREEMENT)
    ]
    taken_s = speeds(trained, fit)
    best = min(fit, key=lambda name: taken_s[name])
    return next(each for each in known if each.name == best), found[best].share


def forward_flops(trained: TrainedModel) -> int:
    """Operations of the model for one cycle of the whole input, the filter bank left out."""
    clip = torch.zeros(1, trained.front_end.num_samples)
    fbank = normalize(trained.front_end.filter_banks(clip), mean=trained.mean, std=trained.std)
    with torch.no_grad():
        return flops_of(lambda: trained.model(fbank))
