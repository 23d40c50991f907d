"""Batches as a function of seed and epoch, and inputs of a corpus from its files to normalised filter banks."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from lungsound.audio import augment
from lungsound.audio.augment import change_waveform, draw_waveform_change
from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.audio.io import fade, read_waveform
from lungsound.config import RunConfig, TrainSettings, load_config
from lungsound.data.batches import (
    Batch,
    Inputs,
    TrainingBatches,
    sampling_weights,
    training_batches,
    training_inputs,
    weights_in_shares,
)
from lungsound.data.corpus import Corpus, Cycle, join
from lungsound.data.splits import Parts, load_corpus
from lungsound.errors import SettingsError
from lungsound.labels import LABEL_SETS
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
    soft_labels: Any = None,
    weights: Any = None,
    change: Any = None,
    augment: Any = None,
    **inputs: Any,
) -> TrainingBatches:
    """Rows 5, 6, ... of the store."""
    train = TrainSettings(batch_size=4, is_last_batch_dropped=is_last_dropped, seed=seed)
    rows = range(5, 5 + num_rows)
    given = {"soft_labels": soft_labels, "weights": weights, "change": change, "augment": augment}
    return TrainingBatches(make_inputs(**inputs), rows, train, **given)


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


# ---- sampling ----


def test_weights_are_a_power_of_the_inverse_class_count() -> None:
    labels = [2, 0, 0, 2, 0, 3, 0, 2, 2, 0]
    for power in (0.0, 0.5, 1.0, 2.5):
        found = sampling_weights(torch.tensor(labels), power=power)
        naive = torch.tensor([float(labels.count(label)) ** -power for label in labels], dtype=torch.float64)
        torch.testing.assert_close(found / found.sum(), naive / naive.sum(), rtol=1e-12, atol=0)
    assert sampling_weights(torch.tensor([0] * 9 + [1]), power=1e4).tolist() == [0.0] * 9 + [1.0]


def test_with_power_1_every_class_is_drawn_equally_often() -> None:
    """Rows 5 .. 14 have 3 cycles of the labels 1 and 2, 2 of 3 and 0; a share of 1,000 draws is off by 0.014."""
    weights = sampling_weights(torch.arange(5, 15) % 4, power=1.0)
    batches = make_batches(weights=weights)
    drawn = torch.cat([batch.labels for epoch in range(100) for batch in batches.epoch(epoch)])
    assert len(drawn) == 1000
    assert (torch.bincount(drawn) / 1000 - 0.25).abs().max() < 5 * 0.014


def test_each_corpus_has_its_share_of_the_draws_whatever_its_size_and_the_power() -> None:
    """Rows 5 .. 14, of which two are of corpus b; a share of 1,000 draws is off by 0.014."""
    corpora = ["a"] * 8 + ["b"] * 2
    for power in (0.0, 1.0):
        weights = sampling_weights(torch.arange(5, 15) % 4, power=power)
        scaled = weights_in_shares(weights, corpora, {"a": 3.0, "b": 1.0})
        torch.testing.assert_close(torch.stack([scaled[:8].sum(), scaled[8:].sum()]), torch.tensor([3.0, 1.0]).double())
        for own in (slice(8), slice(8, 10)):
            torch.testing.assert_close(scaled[own] / scaled[own][0], weights[own] / weights[own][0])
        batches = make_batches(weights=scaled)
        drawn = torch.cat([batch.fbank[:, 0, 0] for epoch in range(100) for batch in batches.epoch(epoch)])
        assert abs(float((drawn >= 13).double().mean()) - 0.25) < 5 * 0.014
    left_out = weights_in_shares(weights, ["a"] * 10, {"a": 1.0, "b": 1.0})  # none of b trains
    torch.testing.assert_close(left_out / left_out.sum(), weights / weights.sum())


def test_a_cycle_drawn_twice_is_changed_in_two_ways_and_the_epoch_can_be_taken_up() -> None:
    weights = torch.tensor([1.0, 9.0, *[0.0] * 8])
    batches = make_batches(weights=weights, augment=noise)
    whole = list(batches.epoch(2))
    values = torch.cat([batch.fbank for batch in whole]).flatten(1)
    assert set(values[:, 0].int().tolist()) == {5, 6}
    assert len({tuple(each) for each in values.tolist()}) == 10
    changed = torch.cat([batch.fbank for batch in make_batches(weights=weights, change=halves).epoch(2)]).flatten(1)
    assert len({tuple(each) for each in changed.tolist() if each[0] < 0}) == int((changed[:, 0] < 0).sum()) > 1
    for first_step in range(3):
        rest = list(batches.epoch(2, first_step=first_step))
        assert is_same(rest, whole[first_step:])
    assert not is_same(whole, list(batches.epoch(3)))


def test_equal_weights_take_each_cycle_once_as_without_them() -> None:
    plain = list(make_batches(augment=noise, change=halves).epoch(1))
    assert is_same(plain, list(make_batches(weights=torch.full((10,), 0.3), augment=noise, change=halves).epoch(1)))


QUIET = Console(quiet=True)
SMALL = [
    "audio.sample_rate_hz=4000",
    "audio.duration_s=1.5",
    "audio.num_mels=24",
    "audio.statistics=audioset",
    "train.batch_size=4",
    "train.seed=3",
]


@pytest.fixture
def corpus(synthetic_corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Cycles of the synthetic corpus's first recordings, and an empty cache."""
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / "cache"))
    whole = load_corpus(settings().data.model_copy(update={"root": str(synthetic_corpus_dir)}))
    kept = {recording.name for recording in whole.recordings[:4]}
    return whole.keep(lambda recording: recording.name in kept)


def settings(*overrides: str) -> RunConfig:
    return load_config("ce", [*SMALL, *overrides])


def corpus_inputs(corpus: Corpus, config: RunConfig) -> Inputs:
    parts = Parts(train=tuple(range(len(corpus.cycles))), validation=(), test=())
    return training_inputs(config, corpus, parts, console=QUIET)


def corpus_batches(corpus: Corpus, config: RunConfig) -> TrainingBatches:
    parts = Parts(train=tuple(range(len(corpus.cycles))), validation=(), test=())
    return training_batches(config, corpus, parts, corpus_inputs(corpus, config), console=QUIET)


def epoch(corpus: Corpus, *overrides: str, number: int = 1) -> list[Batch]:
    return list(corpus_batches(corpus, settings(*overrides)).epoch(number))


def cut_from_file(cycle: Cycle, front_end: FrontEnd) -> Sound:
    return front_end.cut(front_end.read(cycle.recording.path), start_s=cycle.start_s, end_s=cycle.end_s)


def is_same(one: list[Batch], other: list[Batch]) -> bool:
    return all(torch.equal(a.fbank, b.fbank) for a, b in zip(one, other, strict=True))


# ---- the front end ----


def test_the_filter_bank_of_the_settings_and_its_statistics(corpus: Corpus) -> None:
    efficientat = settings("audio.filter_bank=efficientat", "audio.sample_rate_hz=32000", "audio.duration_s=8.0")
    assert FrontEnd(efficientat.audio).num_frames == 800
    inputs = corpus_inputs(corpus, settings("audio.filter_bank=efficientat", "audio.sample_rate_hz=32000"))
    assert (inputs.mean, inputs.std) == (-4.5, 2.5)
    inputs = corpus_inputs(corpus, settings())
    assert (inputs.mean, inputs.std) == (-4.2677393, 4.5689974)


def test_statistics_of_the_training_cycles(corpus: Corpus) -> None:
    config, train = settings("audio.statistics=corpus"), (1, 4)
    parts = Parts(train=train, validation=(), test=())
    inputs = training_inputs(config, corpus, parts, console=QUIET)
    values = inputs.fbanks[np.array(train)].astype(np.float64)
    assert (inputs.mean, inputs.std) == pytest.approx((values.mean(), values.std()))


def test_the_power_of_the_settings_weights_the_training_cycles(corpus: Corpus) -> None:
    assert corpus_batches(corpus, settings()).weights is None
    batches = corpus_batches(corpus, settings("train.sampling_power=0.5"))
    assert batches.weights is not None
    assert torch.equal(batches.weights, sampling_weights(batches.inputs.labels, power=0.5))


def test_the_shares_of_the_settings_weight_the_training_cycles(corpus: Corpus) -> None:
    first = corpus.recordings[0]
    members = {"a": corpus.keep(lambda each: each == first), "b": corpus.keep(lambda each: each != first)}
    both = join(members, LABEL_SETS["sound4"])
    assert corpus_batches(both, settings("data.corpora=[{}, {}]")).weights is None
    weights = corpus_batches(both, settings("data.corpora=[{share=1.0}, {share=2.0}]")).weights
    assert weights is not None
    num = len(members["a"].cycles)
    assert float(weights[num:].sum() / weights[:num].sum()) == pytest.approx(2.0)
    with pytest.raises(SettingsError, match=r"is set for b only: set one for each of data\.corpora"):
        corpus_batches(both, settings("data.corpora=[{}, {share=2.0}]"))


def test_a_normalised_cycle_is_less_the_spectrum_of_its_complete_recording(corpus: Corpus) -> None:
    config = settings("audio.is_recording_normalized=true", "audio.statistics=corpus")
    front_end, inputs = FrontEnd(config.audio), corpus_inputs(corpus, config)
    rows = []
    for cycle in corpus.cycles:
        waveform = fade(read_waveform(cycle.recording.path, sample_rate_hz=4000), num_samples=250)
        part = front_end.fit(waveform[int(cycle.start_s * 4000) : int(cycle.end_s * 4000)])
        rows.append(front_end.filter_banks(part[None])[0] - front_end.filter_banks(waveform[None]).mean(axis=1))
    expected = torch.from_numpy(np.stack(rows))
    assert (inputs.mean, inputs.std) == pytest.approx((expected.mean().item(), expected.std().item()), abs=1e-3)
    fbank = inputs.batch(np.arange(len(rows))).fbank
    torch.testing.assert_close(fbank, (expected - inputs.mean) / (2 * inputs.std), rtol=0, atol=1e-5)


# ---- waveform changes ----


def test_off_by_default(corpus: Corpus, tmp_path: Path) -> None:
    assert corpus_batches(corpus, settings()).change is None
    assert not list((tmp_path / "cache").rglob("*.waveforms"))


def test_probability_0_gives_the_very_same_batches(corpus: Corpus) -> None:
    plain = epoch(corpus)
    assert is_same(plain, epoch(corpus, 'augment.waveform=["loudness"]', "augment.waveform_probability=0.0"))
    assert not is_same(plain, epoch(corpus, 'augment.waveform=["loudness"]', "augment.waveform_probability=0.5"))


def test_a_changed_cycle_is_the_filter_bank_of_its_changed_waveform(corpus: Corpus) -> None:
    config = settings(
        'augment.waveform=["noise", "loudness"]', "augment.waveform_probability=0.6", "augment.is_on=false"
    )
    front_end = FrontEnd(config.audio)
    order = torch.randperm(len(corpus.cycles), generator=generator_at(3, "order", 2)).tolist()
    kinds = set()
    for step, batch in enumerate(corpus_batches(corpus, config).epoch(2)):
        for place, position in enumerate(order[4 * step : 4 * step + 4]):
            cycle = corpus.cycles[position]
            part = cut_from_file(cycle, front_end).waveform
            drawn = draw_waveform_change(
                ("noise", "loudness"), generator=generator_at(3, "waveform", 2, position), probability=0.6
            )
            if drawn is not None:
                part = change_waveform(torch.from_numpy(part), drawn, sample_rate_hz=4000).numpy()
            kinds.add(None if drawn is None else drawn.kind)
            fbank = front_end.filter_banks(front_end.fit(part)[np.newaxis])[0]
            expected = torch.from_numpy((fbank + 4.2677393) / (2 * 4.5689974))
            torch.testing.assert_close(batch.fbank[place], expected, rtol=0, atol=1e-5)
    assert kinds == {None, "noise", "loudness"}


def test_twice_as_loud_adds_log_4_before_normalisation(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(augment.RANGES, "loudness", (2.0, 2.0))
    plain = epoch(corpus, "augment.is_on=false")
    louder = epoch(corpus, "augment.is_on=false", 'augment.waveform=["loudness"]', "augment.waveform_probability=1.0")
    for before, after in zip(plain, louder, strict=True):
        rise = (after.fbank - before.fbank)[before.fbank > -1.2]  # above the floor of the logarithm
        assert len(rise) > 100
        torch.testing.assert_close(rise, torch.full_like(rise, np.log(4) / (2 * 4.5689974)), rtol=0, atol=1e-4)


def test_a_changed_cycle_is_less_the_spectrum_of_the_unchanged_recording(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(augment.RANGES, "loudness", (2.0, 2.0))
    given = ("augment.is_on=false", "audio.is_recording_normalized=true", "audio.statistics=corpus")
    std = corpus_inputs(corpus, settings(*given)).std
    plain = epoch(corpus, *given)
    louder = epoch(corpus, *given, 'augment.waveform=["loudness"]', "augment.waveform_probability=1.0")
    for before, after in zip(plain, louder, strict=True):
        rise = (after.fbank - before.fbank).flatten()
        assert rise.median() == pytest.approx(np.log(4) / (2 * std), abs=1e-4)


def test_a_shorter_cycle_is_repeated_after_the_change(corpus: Corpus) -> None:
    pytest.importorskip("python_stretch", reason="the extra 'augment' is not installed; see docs/install.md")
    everything = 'augment.waveform=["noise", "speed", "loudness", "pitch", "warp"]'
    first = epoch(corpus, everything, "augment.waveform_probability=1.0")
    assert is_same(first, epoch(corpus, everything, "augment.waveform_probability=1.0"))
    assert all(batch.fbank.shape[1:] == (148, 24) for batch in first)
    assert all(batch.fbank.isfinite().all() for batch in first)
    assert not is_same(first, epoch(corpus, everything, "augment.waveform_probability=1.0", number=2))


def test_evaluation_and_statistics_never_see_a_change(corpus: Corpus) -> None:
    changes = ('augment.waveform=["noise"]', "augment.waveform_probability=1.0", "audio.statistics=corpus")
    changed = corpus_inputs(corpus, settings(*changes))
    plain = corpus_inputs(corpus, settings("audio.statistics=corpus"))
    assert (changed.mean, changed.std) == (plain.mean, plain.std)
    rows = range(len(corpus.cycles))
    for (one, _), (other, _) in zip(changed.to_predict(rows, 4), plain.to_predict(rows, 4), strict=True):
        assert torch.equal(one, other)


def test_a_missing_extra_is_said_before_anything_is_computed(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "python_stretch", None)
    config = settings('augment.waveform=["noise", "pitch"]')
    with pytest.raises(SettingsError, match=r"lungsound\[augment\]") as error:
        corpus_inputs(corpus, config)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cache" / "filter-banks").exists()


# ---- another stethoscope ----


def test_another_stethoscope_is_drawn_for_each_cycle_before_masks(corpus: Corpus) -> None:
    given = ("augment.response_db=5.0", "augment.gain_db=3.0")
    plain, masked = epoch(corpus, "augment.is_on=false"), epoch(corpus)
    found, both = epoch(corpus, "augment.is_on=false", *given), epoch(corpus, *given)
    order = torch.randperm(len(corpus.cycles), generator=generator_at(3, "order", 1)).tolist()
    drawn = []
    for step, (before, after) in enumerate(zip(plain, found, strict=True)):
        for place, position in enumerate(order[4 * step : 4 * step + 4]):
            drawn.append(
                augment.draw_response(24, settings(*given).augment, generator=generator_at(3, "response", 1, position))
            )
            # 10 dB are a factor of 10 in power, whose logarithm the filter bank is.
            expected = before.fbank[place] + drawn[-1] / 10 * np.log(10) / (2 * 4.5689974)
            torch.testing.assert_close(after.fbank[place], expected, rtol=0, atol=1e-5)
    assert torch.stack(drawn).unique(dim=0).shape == (len(drawn), 24)
    for before, after, unmasked, whole in zip(masked, both, plain, found, strict=True):
        is_masked = before.fbank != unmasked.fbank
        assert is_masked.any()
        assert torch.equal(after.fbank[~is_masked], whole.fbank[~is_masked])
    assert is_same(epoch(corpus, *given), both)
    assert not is_same(epoch(corpus, *given, number=2), both)
    assert is_same(epoch(corpus, "augment.response_db=0.0", "augment.gain_db=0.0"), masked)


# ---- padding that is not encoded ----


def test_batches_know_how_much_of_a_cycle_is_its_own_sound(corpus: Corpus) -> None:
    assert all(batch.num_frames is None for batch in epoch(corpus))
    config = settings("audio.is_padding_encoded=false", "augment.is_on=false")
    front_end, inputs = FrontEnd(config.audio), corpus_inputs(corpus, config)
    for cycle, row in zip(corpus.cycles, range(len(corpus.cycles)), strict=True):
        batch = inputs.batch(np.array([row]))
        part = cut_from_file(cycle, front_end)
        assert batch.num_frames is not None
        assert batch.num_frames.tolist() == [front_end.num_own_frames(len(part.waveform))]
        expected = torch.from_numpy((front_end.filter_banks_of([part]) + 4.2677393) / (2 * 4.5689974))
        torch.testing.assert_close(batch.fbank, expected, rtol=0, atol=1e-5)


def test_a_faster_cycle_has_fewer_frames(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(augment.RANGES, "speed", (2.0, 2.0))
    pytest.importorskip("python_stretch")
    packed = ("audio.is_padding_encoded=false", "audio.duration_s=16", "augment.is_on=false")
    plain = epoch(corpus, *packed)
    faster = epoch(corpus, *packed, 'augment.waveform=["speed"]', "augment.waveform_probability=1.0")
    for before, after in zip(plain, faster, strict=True):
        assert before.num_frames is not None
        assert after.num_frames is not None
        torch.testing.assert_close(after.num_frames, before.num_frames // 2, rtol=0, atol=1)


def test_soft_labels_belong_to_the_row() -> None:
    """Also where cycles are drawn by weights, some of them more than once."""
    soft_labels = torch.arange(10).unsqueeze(1) + torch.arange(4) / 4
    for weights in (None, torch.tensor([1.0, 2.0] * 5, dtype=torch.float64)):
        for batch in make_batches(soft_labels=soft_labels, weights=weights).epoch(2):
            rows = (batch.fbank[:, 0, 0].int() - 5).tolist()
            assert batch.soft_labels is not None
            assert torch.equal(batch.soft_labels, soft_labels[rows])
    assert all(batch.soft_labels is None for batch in make_batches().epoch(2))
