"""What is said before a run starts."""

from pathlib import Path

import numpy as np
import pytest

from lungsound.config import TrainSettings
from lungsound.data.batches import CycleBatches
from lungsound.data.corpus import Corpus
from lungsound.data.splits import Parts
from lungsound.training import trainer as training


def said(
    settings: TrainSettings, *, num_cycles: int = 8, batch_size: int = 4, left_out: tuple[str, ...] = ()
) -> list[str]:
    rows = range(num_cycles)
    batches = CycleBatches(
        np.zeros((num_cycles, 2, 2), np.float32), rows, list(rows), batch_size=batch_size, mean=0.0, std=1.0,
        is_last_dropped=True,
    )  # fmt: skip
    return training.remarks(
        settings, Corpus("icbhi", Path("x"), (), (), {}), Parts((), (), (), left_out), None, batches
    )


@pytest.mark.parametrize(("epochs", "rate"), [(1, "5e-08"), (2, "2.5e-05")])
def test_a_cosine_over_too_few_epochs_is_said(epochs: int, rate: str) -> None:
    """(1 + cos(pi * 1 / epochs)) / 2 is 0 for one epoch and a half for two."""
    (remark,) = said(TrainSettings(epochs=epochs))
    assert remark.startswith(f"the learning rate never rises above {rate}, of 5e-05 asked for")
    assert "train.schedule=constant" in remark


@pytest.mark.parametrize(
    "settings",
    [TrainSettings(epochs=3), TrainSettings(epochs=1, schedule="constant"), TrainSettings(epochs=1, schedule="step")],
)
def test_a_rate_that_is_reached_needs_no_word(settings: TrainSettings) -> None:
    assert said(settings) == []


def test_a_dropped_batch_is_said() -> None:
    assert said(TrainSettings(), num_cycles=11) == ["each epoch leaves out its last, smaller batch of 3 cycles"]
    assert said(TrainSettings(), num_cycles=9) == ["each epoch leaves out its last, smaller batch of 1 cycle"]


def test_patients_that_leave_the_training_part_are_named() -> None:
    (remark,) = said(TrainSettings(), left_out=("156", "218"))
    assert remark.startswith("patients 156, 218 are in the test set too and leave the training set")
    assert "data.are_shared_patients_kept=true" in remark
    (remark,) = said(TrainSettings(), left_out=("218",))
    assert remark.startswith("patient 218 is in the test set too and leaves the training set")
