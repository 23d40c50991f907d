"""Remarks before a run starts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lungsound.config import TrainSettings
from lungsound.data.batches import Inputs, TrainingBatches
from lungsound.data.corpus import Corpus
from lungsound.data.splits import Parts
from lungsound.training.trainer import remarks


def remarks_on(train: TrainSettings, *, num_cycles: int = 8, left_out: tuple[str, ...] = ()) -> list[str]:
    inputs = Inputs(np.zeros((num_cycles, 2, 2), np.float32), torch.arange(num_cycles), None, 4, mean=0.0, std=1.0)
    train = train.model_copy(update={"batch_size": 4})
    batches = TrainingBatches(inputs, range(num_cycles), train)
    return remarks(train, Corpus("icbhi", Path("x"), (), (), {}), Parts((), (), (), left_out=left_out), None, batches)


@pytest.mark.parametrize(("epochs", "rate"), [(1, "5e-08"), (2, "2.5e-05")])
def test_a_cosine_over_too_few_epochs_is_remarked(epochs: int, rate: str) -> None:
    """(1 + cos(pi * 1 / epochs)) / 2 is 0 for one epoch and a half for two."""
    (remark,) = remarks_on(TrainSettings(epochs=epochs))
    assert remark.startswith(f"the learning rate never rises above {rate}, of 5e-05 asked for")
    assert "train.schedule=cosine_by_step" in remark


@pytest.mark.parametrize("schedule", ["cosine", "cosine_by_step", "constant"])
def test_a_warm_up_longer_than_the_run_is_remarked(schedule: str) -> None:
    """Of the two steps of the epoch the second is a quarter of the way from 0.1 to 1, or at cosine to 1 / 1000."""
    settings = {"epochs": 1, "warmup_epochs": 2.0, "schedule": schedule}
    (remark,) = remarks_on(TrainSettings.model_validate(settings))
    assert "fewer train.warmup_epochs" in remark
    assert schedule == "cosine" or "never rises above 1.6e-05, of 5e-05" in remark


@pytest.mark.parametrize(
    "settings",
    [
        TrainSettings(epochs=3),
        TrainSettings(epochs=1, schedule="constant"),
        TrainSettings(epochs=1, schedule="step"),
        TrainSettings(epochs=1, schedule="cosine_by_step"),
        TrainSettings(epochs=1, schedule="cosine_by_step", warmup_epochs=0.5),
    ],
)
def test_a_rate_that_is_reached_needs_no_word(settings: TrainSettings) -> None:
    assert remarks_on(settings) == []


def test_a_dropped_batch_is_remarked() -> None:
    assert remarks_on(TrainSettings(), num_cycles=11) == ["each epoch leaves out its last, smaller batch (cycles: 3)"]
    assert remarks_on(TrainSettings(), num_cycles=9) == ["each epoch leaves out its last, smaller batch (cycles: 1)"]


def test_patients_that_leave_the_training_part_are_named() -> None:
    (remark,) = remarks_on(TrainSettings(), left_out=("156", "218"))
    assert remark.startswith("in the test set too, left out of the training set: patient 156, 218")
    assert "data.are_shared_patients_kept=true" in remark
    (remark,) = remarks_on(TrainSettings(), left_out=("218",))
    assert remark.startswith("in the test set too, left out of the training set: patient 218")
