"""Filter banks and waveforms in one file each, made once; batches as a function of seed, epoch and step."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lungsound.audio.front_end import FrontEnd
from lungsound.data.corpus import Cycle
from lungsound.data.dataset import Batch, CycleBatches, open_filter_banks, open_waveforms
from lungsound.data.icbhi import read_icbhi
from lungsound.errors import AudioError
from lungsound.randomness import generator_at
from tests.unit.data.trees import write_icbhi

FRONT_END = FrontEnd(duration_s=0.3, num_mels=16)
NAMES = ["101_1b1_Al_sc_Meditron", "102_1b1_Ar_mc_Litt3200"]
CYCLES = "0\t0.5\t0\t0\n0.5\t1.1\t1\t0\n1.2\t2.0\t0\t1\n"


@pytest.fixture
def cycles(tmp_path: Path) -> tuple[Cycle, ...]:
    folder = write_icbhi(tmp_path / "corpus", {NAMES[0]: CYCLES, NAMES[1]: "0.2\t1.9\t1\t1\n"})
    noise = np.random.default_rng(0).normal(0, 0.1, 8000)
    soundfile.write(folder / f"{NAMES[0]}.wav", noise, 4000, subtype="PCM_16")
    return read_icbhi(folder).cycles


# ---- filter banks ----


def test_each_row_is_the_filter_bank_of_its_cycle(cycles: tuple[Cycle, ...], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    fbanks = open_filter_banks(
        cycles,
        FRONT_END,
        cache_dir=tmp_path / "cache",
        fingerprint="x",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert fbanks.shape == (4, FRONT_END.num_frames, 16)
    assert fbanks.dtype == np.float32
    for row, cycle in zip(fbanks, cycles, strict=True):
        waveform = FRONT_END.read(cycle.recording.path)
        clip = FRONT_END.cycle(waveform, start_s=cycle.start_s, end_s=cycle.end_s)
        np.testing.assert_allclose(row, FRONT_END.filter_banks(clip.unsqueeze(0))[0], atol=1e-5)
    assert seen == [(3, 4), (4, 4)]


def test_they_are_computed_once_and_can_not_be_written(
    cycles: tuple[Cycle, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_filter_banks(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x")
    reads: list[Path] = []
    monkeypatch.setattr(FrontEnd, "read", lambda _, path: reads.append(path))
    second = open_filter_banks(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x")
    assert not reads
    assert np.array_equal(first, second)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with pytest.raises(ValueError, match="read-only"):
        second[0, 0, 0] = 1.0


def test_another_corpus_front_end_or_order_is_another_file(cycles: tuple[Cycle, ...], tmp_path: Path) -> None:
    others = [
        (cycles, FRONT_END, "x"),
        (cycles, FRONT_END, "y"),
        (cycles, FrontEnd(duration_s=0.3, num_mels=17), "x"),
        (cycles, FrontEnd(duration_s=0.3, num_mels=16, fade_s=0.0), "x"),
        (cycles[::-1], FRONT_END, "x"),
        (cycles[:2], FRONT_END, "x"),
    ]
    found = [open_filter_banks(c, f, cache_dir=tmp_path / "cache", fingerprint=x) for c, f, x in others]
    assert len(list((tmp_path / "cache").iterdir())) == len(others)
    np.testing.assert_array_equal(found[4], found[0][::-1])
    np.testing.assert_array_equal(found[5], found[0][:2])


def test_an_error_leaves_nothing_behind(cycles: tuple[Cycle, ...], tmp_path: Path) -> None:
    cycles[-1].recording.path.unlink()
    with pytest.raises(AudioError, match=NAMES[1]):
        open_filter_banks(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x")
    assert not list((tmp_path / "cache").iterdir())


# ---- waveforms ----


def test_each_row_is_the_waveform_of_its_cycle(cycles: tuple[Cycle, ...], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    waveforms = open_waveforms(
        cycles,
        FRONT_END,
        cache_dir=tmp_path / "cache",
        fingerprint="x",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert len(waveforms) == 4
    assert [len(waveforms[row]) for row in range(4)] == [8000, 9600, 12800, 27200]
    for row, cycle in enumerate(cycles):
        whole = FRONT_END.read(cycle.recording.path)
        assert torch.equal(waveforms[row], whole[int(cycle.start_s * 16000) : int(cycle.end_s * 16000)])
    assert seen == [(3, 4), (4, 4)]


@pytest.mark.parametrize("num_cycles", [1, 2, 3])
def test_any_number_and_length_of_waveforms(cycles: tuple[Cycle, ...], num_cycles: int, tmp_path: Path) -> None:
    """An odd number of samples before the places of the cycles, which are numbers of twice the size."""
    odd = tuple(
        replace(cycle, start_s=0.5, end_s=0.5 + (n + 1.5) / 16000) for n, cycle in enumerate(cycles[:num_cycles])
    )
    waveforms = open_waveforms(odd, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x")
    assert [len(waveforms[row]) for row in range(num_cycles)] == [*range(1, num_cycles + 1)]


def test_waveforms_are_read_once_and_a_change_of_one_stays_where_it_is(
    cycles: tuple[Cycle, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_waveforms(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x")
    reads: list[Path] = []
    monkeypatch.setattr(FrontEnd, "read", lambda _, path: reads.append(path))
    second = open_waveforms(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x")
    assert not reads
    before = first[1]
    second[1].zero_()
    assert torch.equal(second[1], before)
    assert before.abs().max() > 0


def test_waveforms_lie_beside_filter_banks_and_an_error_leaves_none(cycles: tuple[Cycle, ...], tmp_path: Path) -> None:
    open_filter_banks(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x")
    open_waveforms(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x")
    open_waveforms(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="y")
    assert len(list((tmp_path / "cache").iterdir())) == 3
    cycles[-1].recording.path.unlink()
    with pytest.raises(AudioError, match=NAMES[1]):
        open_waveforms(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="z")
    assert len(list((tmp_path / "cache").iterdir())) == 3


# ---- batches ----


def make_batches(num_rows: int = 10, **changes: object) -> CycleBatches:
    """Rows 5, 6, ... of a store whose every value is its row; the label is the row, modulo 4."""
    store = np.arange(20, dtype=np.float32).reshape(20, 1, 1).repeat(3, axis=1).repeat(2, axis=2)
    rows = range(5, 5 + num_rows)
    arguments = {"batch_size": 4, "mean": 0.0, "std": 0.5, "seed": 1, **changes}
    return CycleBatches(store, rows, [row % 4 for row in rows], **arguments)  # type: ignore[arg-type]


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
    for batch in [*make_batches(mean=1.0, std=2.0).epoch(3), *make_batches(mean=1.0, std=2.0).in_order()]:
        rows = batch.fbank * 4 + 1
        assert torch.equal(rows, rows[:, :1, :1].expand(-1, 3, 2))
        assert batch.labels.tolist() == [int(row) % 4 for row in rows[:, 0, 0]]
        assert batch.labels.dtype == torch.int64
        assert batch.fbank.dtype == torch.float32


def test_the_order_is_drawn_from_seed_and_epoch() -> None:
    orders = [rows_of(list(make_batches(seed=seed).epoch(epoch))) for seed, epoch in [(1, 1), (1, 1), (1, 2), (2, 1)]]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] != orders[3] != orders[0]


def noise(fbank: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
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
    before = batches.fbanks.copy()
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
    np.testing.assert_array_equal(batches.fbanks, before)


def halves(row: int, generator: torch.Generator) -> torch.Tensor | None:
    """For half of the draws a filter bank of the negative row plus a drawn fraction."""
    drawn = torch.rand(2, generator=generator)
    return None if drawn[0] < 0.5 else torch.full((3, 2), -float(row)) - drawn[1] / 2


def test_changed_cycles_take_the_place_of_the_stored_ones() -> None:
    num_changed = 0
    for epoch in range(1, 9):
        plain, changed = (list(make_batches(change=change).epoch(epoch)) for change in (None, halves))
        order = torch.randperm(10, generator=generator_at(1, "order", epoch)).tolist()
        for step, (before, after) in enumerate(zip(plain, changed, strict=True)):
            assert torch.equal(before.labels, after.labels)
            for place, position in enumerate(order[4 * step : 4 * step + 4]):
                drawn = halves(5 + position, generator_at(1, "waveform", epoch, position))
                assert torch.equal(after.fbank[place], before.fbank[place] if drawn is None else drawn)
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


def test_evaluation_takes_all_rows_in_order_without_augmentation() -> None:
    batches = make_batches(augment=noise, change=halves, is_last_dropped=True)
    assert rows_of(list(batches.in_order())) == [[5, 6, 7, 8], [9, 10, 11, 12], [13, 14]]
    assert all(torch.equal(batch.fbank, batch.fbank.floor()) for batch in batches.in_order())


def test_a_memory_map_gives_the_same_batches(tmp_path: Path) -> None:
    batches = make_batches()
    np.save(tmp_path / "store.npy", batches.fbanks)
    mapped = make_batches()
    mapped.fbanks = np.load(tmp_path / "store.npy", mmap_mode="r")
    assert rows_of(list(mapped.epoch(1))) == rows_of(list(batches.epoch(1)))
