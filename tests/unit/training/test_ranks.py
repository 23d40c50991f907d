"""Several processes that train together do as one with the whole batch."""

import multiprocessing
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed

from lungsound.config import ObjectiveSettings, PatchMixSettings, TrainSettings
from lungsound.data.batches import Inputs, TrainingBatches
from lungsound.ranks import ALONE, Alone, Ranks
from lungsound.training.objectives import make_objective
from lungsound.training.trainer import TrainStep
from tests.unit.training.small import CPU, NUM_FRAMES, small_batch, small_model

NUM_CYCLES, BATCH_SIZE = 21, 8  # the last batch of an epoch has 5: uneven for two
LEARNING_RATE = 1e-3
# Of weights that change no output (behind the keys' biases comes a softmax, behind the projector's a batch norm, which
# sees their sum) the gradient is rounding alone, which Adam scales up: these agree in float64.
WITHOUT_EFFECT = ("attn.qkv.bias", "projector.linear1.bias", "projector.bn.running_mean")
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}
SETTINGS: dict[str, dict[str, object]] = {
    "ce": {"name": "ce", "label_smoothing": 0.1, "is_class_weighted": True},
    "patchmix_ce": {"name": "patchmix_ce", "is_class_weighted": True},
    "patchmix_cl": {"name": "patchmix_cl", "is_class_weighted": True},
    "projected": {"name": "patchmix_cl", "target": "project_flow", "negatives": "diff_label"},
}
CASES = list(product(SETTINGS, (False, True), TOLERANCES))


def trained(name: str, is_own_length: bool, dtype: torch.dtype, ranks: Alone) -> list[Tensor]:
    """Losses of three steps, one of them over two batches, then the weights and statistics after them."""
    fbank, labels = small_batch(NUM_CYCLES, dtype=dtype)
    num_frames = torch.arange(NUM_CYCLES) % 3 * 16 + 16 if is_own_length else None
    assert num_frames is None or int(num_frames.max()) == NUM_FRAMES
    settings = TrainSettings(batch_size=BATCH_SIZE, is_last_batch_dropped=False, blend=0.5)
    inputs = Inputs(fbank.numpy(), labels, num_frames, 4, 0.0, 0.5)
    soft_labels = torch.randn(NUM_CYCLES, 4, generator=torch.Generator().manual_seed(8), dtype=dtype).softmax(1)
    batches = list(TrainingBatches(inputs, range(NUM_CYCLES), settings, soft_labels=soft_labels, ranks=ranks).epoch(1))
    objective = make_objective(
        ObjectiveSettings.model_validate(SETTINGS[name] | {"teacher_weight": 0.3}),
        PatchMixSettings(),
        class_counts=[6, 5, 5, 5],
        device=CPU,
        ranks=ranks,
    )
    if objective.class_weights is not None:
        objective = replace(objective, class_weights=objective.class_weights.to(dtype))
    step = TrainStep(small_model(dtype=dtype, depth=2), objective, settings, device=CPU, ranks=ranks)
    found: list[Tensor] = []
    for number, together in enumerate([batches[:1], batches[:2], batches[2:]]):
        loss = step(*together, learning_rate=LEARNING_RATE, generator=torch.Generator().manual_seed(number))
        assert len(loss.logits) == sum(len(batch.labels) for batch in together)
        found += [loss.total, *loss.parts.values()]
    state = step.model.state_dict()
    is_kept = {key: dtype is torch.float64 or not key.endswith(WITHOUT_EFFECT) for key in state}
    return [*found, *(value for key, value in state.items() if is_kept[key])]


def in_a_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'met'}", rank=rank, world_size=2)
    ranks = Ranks()
    for number, case in enumerate(CASES):
        np.savez(folder / f"{number}-{rank}.npz", *(each.numpy() for each in trained(*case, ranks)))
    facts = [ranks.any(rank == 1), ranks.any(False), ranks.of_first(lambda: f"of {rank}") == "of 0"]
    rows = torch.arange(5.0)[ranks.own(5)].requires_grad_()
    (ranks.gather(rows, 5) * torch.arange(1.0, 6.0) * (rank + 1)).sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    np.savez(folder / f"facts-{rank}.npz", facts, rows.grad.numpy())
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have computed, each in files of its own."""
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=in_a_rank, args=(rank, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    return folder


def arrays(path: Path) -> list[np.ndarray]:
    with np.load(path) as file:
        return [file[name] for name in file.files]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{n}-{'own' if o else 'full'}-{d}" for n, o, d in CASES])
def test_two_ranks_do_as_one_with_the_whole_batch(number: int, folder: Path) -> None:
    first, second = (arrays(folder / f"{number}-{rank}.npz") for rank in range(2))
    expected, atol = trained(*CASES[number], ALONE), TOLERANCES[CASES[number][2]]
    assert len(first) == len(second) == len(expected)
    for one, other, alone in zip(first, second, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(one, alone.numpy(), atol=atol, rtol=0)


@pytest.mark.slow
def test_what_ranks_tell_each_other(folder: Path) -> None:
    for rank, own in enumerate([[1, 2], [3, 4, 5]]):
        facts, gradient = arrays(folder / f"facts-{rank}.npz")
        assert facts.tolist() == [True, False, True]
        assert gradient.tolist() == [3.0 * each for each in own]  # the sum over both: once and twice


@pytest.mark.parametrize("num_rows", [4, 5, 7])
def test_each_row_is_of_one_rank(num_rows: int) -> None:
    ranks = [Alone() for _ in range(3)]
    for number, each in enumerate(ranks):
        each.rank, each.num = number, 3
    own = [list(range(num_rows))[each.own(num_rows)] for each in ranks]
    assert [row for rows in own for row in rows] == list(range(num_rows))
    assert max(map(len, own)) - min(map(len, own)) <= 1
