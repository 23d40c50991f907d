"""Batches as a function of seed, epoch and step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lungsound.config import TrainSettings
from lungsound.data.batches import Batch, Inputs, TrainingBatches
from lungsound.randomness import generator_at


def make_inputs(**changes: Any) -> Inputs:
    """A store of 20 rows whose every value is its row; the label is the row, modulo 4."""
    fbanks = np.arange(20, dtype=np.float32).reshape(20, 1, 1).repeat(3, axis=1).repeat(2, axis=2)
    inputs = Inputs(fbanks, torch.arange(20) % 4, None, num_classes=4, mean=0.0, std=0.5)
    return replace(inputs, **changes)


def make_batches(
    num_rows: int = 10,
    *,
    is_last_dropped: bool = False,
    seed: int = 1,
    change: Any = None,
    augment: Any = None,
    **inputs: Any,
) -> TrainingBatches:
    """Rows 5, 6, ... of the store."""
    train = TrainSettings(batch_size=4, is_last_batch_dropped=is_last_dropped, seed=seed)
    rows = range(5, 5 + num_rows)
    return TrainingBatches(make_inputs(**inputs), rows, train, change=change, augment=augment)


def rows_of(batches: list[Batch]) -> list[list[int]]:
    return [batch.fbank[:, 0, 0].int().tolist() for batch in batches]


@pytest.mark.parametrize(
    ("num_rows", "is_dropped", "sizes"),
    [(10, False, [4, 4, 2]), (10, True, [4, 4]), (8, False, [4, 4]), (8, True, [4, 4]), (3, True, []), (0, False, [])],
)
def test_an_epoch_has_every_row_once(num_rows: int, is_dropped: bool, sizes: list[int]) -> None:
    batches = make_batches(num_rows, is_last_dropped=is_dropped)
    found = rows_of(list(batches.epoch(1)))
    assert [len(batch) for batch in found] == sizes
    assert batches.num_steps == len(sizes)
    assert len(batches) == num_rows
    everything = sorted(row for batch in found for row in batch)
    assert len(set(everything)) == len(everything)
    assert set(everything) <= set(range(5, 5 + num_rows))


def test_labels_and_values_belong_to_the_row() -> None:
    for batch in make_batches(mean=1.0, std=2.0).epoch(3):
        rows = batch.fbank * 4 + 1
        assert torch.equal(rows, rows[:, :1, :1].expand(-1, 3, 2))
        assert batch.labels.tolist() == [int(row) % 4 for row in rows[:, 0, 0]]
        assert batch.labels.dtype == torch.int64
        assert batch.fbank.dtype == torch.float32


def test_the_order_is_drawn_from_seed_and_epoch() -> None:
    orders = [rows_of(list(make_batches(seed=seed).epoch(epoch))) for seed, epoch in [(1, 1), (1, 1), (1, 2), (2, 1)]]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] != orders[3] != orders[0]


def noise(fbank: torch.Tensor, generator: torch.Generator, num_frames: int | None) -> torch.Tensor:
    assert num_frames is None or num_frames == 1000 + int(fbank[0, 0])
    return fbank.add_(torch.rand(fbank.shape, generator=generator) / 2)


def test_an_epoch_can_be_taken_up_at_any_step() -> None:
    whole = list(make_batches(augment=noise).epoch(2))
    for first_step in range(4):
        rest = list(make_batches(augment=noise).epoch(2, first_step=first_step))
        assert len(rest) == 3 - first_step
        for found, expected in zip(rest, whole[first_step:], strict=True):
            assert torch.equal(found.fbank, expected.fbank)
            assert torch.equal(found.labels, expected.labels)


def test_augmentation_differs_by_row_and_epoch_and_leaves_the_store_alone() -> None:
    batches = make_batches(augment=noise)
    before = make_inputs().fbanks
    drawn = [
        {
            int(fbank[0, 0]): (fbank - fbank.floor()).flatten().tolist()
            for batch in batches.epoch(epoch)
            for fbank in batch.fbank
        }
        for epoch in (1, 2)
    ]
    assert drawn[0].keys() == drawn[1].keys() == set(range(5, 15))
    assert len({tuple(values) for epoch in drawn for values in epoch.values()}) == 20
    np.testing.assert_array_equal(batches.inputs.fbanks, before)


def halves(row: int, generator: torch.Generator) -> tuple[torch.Tensor, int | None] | None:
    """For half of the draws a filter bank of the negative row plus a drawn fraction, and a new length."""
    drawn = torch.rand(2, generator=generator)
    return None if drawn[0] < 0.5 else (torch.full((3, 2), -float(row)) - drawn[1] / 2, 100 + row)


def test_changed_cycles_take_the_place_of_the_stored_ones() -> None:
    num_changed = 0
    for epoch in range(1, 9):
        plain, changed = (list(make_batches(change=change).epoch(epoch)) for change in (None, halves))
        order = torch.randperm(10, generator=generator_at(1, "order", epoch)).tolist()
        for step, (before, after) in enumerate(zip(plain, changed, strict=True)):
            assert torch.equal(before.labels, after.labels)
            for place, position in enumerate(order[4 * step : 4 * step + 4]):
                drawn = halves(5 + position, generator_at(1, "waveform", epoch, position))
                assert torch.equal(after.fbank[place], before.fbank[place] if drawn is None else drawn[0])
                num_changed += drawn is not None
    assert 25 < num_changed < 55


def test_a_change_that_is_never_drawn_gives_the_same_batches() -> None:
    for plain, changed in zip(
        make_batches(augment=noise).epoch(1),
        make_batches(augment=noise, change=lambda _row, _generator: None).epoch(1),
        strict=True,
    ):
        assert torch.equal(plain.fbank, changed.fbank)


def test_changes_come_before_normalisation_and_augmentation_and_can_be_taken_up() -> None:
    settings = {"mean": 1.0, "std": 2.0, "augment": noise, "change": halves}
    whole = list(make_batches(**settings).epoch(2))
    inner = list(make_batches(change=halves).epoch(2))
    for batch, changed in zip(whole, inner, strict=True):
        masked = batch.fbank - (changed.fbank - 1) / 4
        assert (masked >= -1e-5).all()
        assert (masked <= 0.5 + 1e-5).all()
    for first_step in range(4):
        for found, expected in zip(
            make_batches(**settings).epoch(2, first_step=first_step), whole[first_step:], strict=True
        ):
            assert torch.equal(found.fbank, expected.fbank)
    first, second = ([batch.fbank for batch in make_batches(change=halves).epoch(epoch)] for epoch in (1, 2))
    assert not torch.equal(torch.cat(first).sum(), torch.cat(second).sum())


def test_prediction_takes_the_rows_in_order() -> None:
    inputs = make_inputs(num_frames=torch.arange(1000, 1020))
    batches = list(inputs.to_predict(range(5, 15), 4))
    assert [fbank[:, 0, 0].int().tolist() for fbank, _ in batches] == [[5, 6, 7, 8], [9, 10, 11, 12], [13, 14]]
    assert [lengths.tolist() for _, lengths in batches if lengths is not None][2] == [1013, 1014]
    assert [lengths for _, lengths in make_inputs().to_predict([3, 1], 8)] == [None]


def test_a_memory_map_gives_the_same_batches(tmp_path: Path) -> None:
    np.save(tmp_path / "store.npy", make_inputs().fbanks)
    mapped = make_batches(fbanks=np.load(tmp_path / "store.npy", mmap_mode="r"))
    assert rows_of(list(mapped.epoch(1))) == rows_of(list(make_batches().epoch(1)))


def test_lengths_belong_to_the_row_and_follow_its_change() -> None:
    assert all(batch.num_frames is None for batch in make_batches(change=halves).epoch(1))
    lengths = torch.arange(1000, 1020)
    for batch in make_batches(num_frames=lengths, augment=noise).epoch(1):
        assert batch.num_frames is not None
        assert batch.num_frames.tolist() == [1000 + int(row) for row in batch.fbank[:, 0, 0]]
    places = [
        (float(fbank[0, 0]), int(length))
        for batch in make_batches(num_frames=lengths, change=halves).epoch(1)
        for fbank, length in zip(batch.fbank, batch.num_frames, strict=True)  # type: ignore[arg-type]
    ]
    assert {length >= 1000 for _, length in places} == {True, False}
    for value, length in places:
        assert length == (1000 + value if value > 0 else 100 + int(-value))
