"""Our engines for the lines of answering, measured and chosen as for a trained model that is exported."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.counts import flops_of
from benchmarks.cycles import Cycles
from lungsound import extras
from lungsound.inference import engines as kinds
from lungsound.inference.engines import Parity, parity, speeds_of, write_parity
from lungsound.inference.graph import exported
from lungsound.training.checkpoint import TrainedModel

EXACT_ENGINE = "torch"


def prepare(
    trained: TrainedModel, folder: Path, cycles: Cycles, *, is_random: bool, is_exported: bool
) -> Mapping[str, Parity]:
    """Export, and measure what engines decide, into `folder` as `lungsound export` does for a run.

    The fastest come first, and it ends with the first that may answer: slower ones would not be chosen. Where weights
    are random, the head's bias is set first so that all classes are answered, and by margins as small as the answers
    to the cycles differ. As it is drawn, every cycle gets the same answer, in which no engine could err.
    """
    exact = kinds.make(EXACT_ENGINE, trained).predict(cycles.compared)
    if is_random:
        exact = _balance(trained, exact)
    if is_exported and extras.is_installed("onnx"):
        exported(trained)
    taken_s = speeds_of(trained, kinds.available(trained))
    found: dict[str, Parity] = {}
    for name in sorted(taken_s, key=lambda name: taken_s[name]):
        found[name] = parity(exact, kinds.make(name, trained).predict(cycles.compared))
        if found[name].is_exact if not kinds.REGISTRY[name].is_bf16 else found[name].is_enough:
            break
    folder.mkdir(exist_ok=True)
    write_parity(folder, trained, found)
    return found


@torch.no_grad()
def _balance(trained: TrainedModel, answers: Tensor) -> Tensor:
    """Give all classes the same mean logit over these cycles; the answers (cycle, class) that it then has."""
    linear = trained.model.head[-1]
    assert isinstance(linear, nn.Linear)
    mean = answers.log().mean(dim=0)
    linear.bias.sub_(mean)
    return (answers.log() - mean).softmax(dim=1)


def forward_flops(trained: TrainedModel, cycles: Sequence[Tensor]) -> float:
    """Operations of the model for a cycle, the mean of these; the filter bank left out."""
    front_end, model = trained.front_end, copy.deepcopy(trained.model).to("meta")
    sizes = [front_end.log_mel.num_frames(trained.num_input_samples(len(cycle))) for cycle in cycles]
    with torch.no_grad():
        of_size = {
            num_frames: flops_of(lambda: model(torch.empty(1, num_frames, front_end.num_mels, device="meta")))  # noqa: B023 (called at once)
            for num_frames in set(sizes)
        }
    return sum(of_size[num_frames] for num_frames in sizes) / len(sizes)
