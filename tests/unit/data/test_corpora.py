"""Settings of the front end and of waveform changes, to inputs and batches."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from lungsound.audio import augment
from lungsound.audio.augment import change_waveform, draw_waveform_change
from lungsound.audio.front_end import FrontEnd
from lungsound.config import RunConfig, load_config
from lungsound.data.batches import Batch, Inputs, TrainingBatches, training_batches, training_inputs
from lungsound.data.corpus import Corpus
from lungsound.data.splits import Parts, load_corpus
from lungsound.errors import SettingsError
from lungsound.randomness import generator_at

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


def make_inputs(corpus: Corpus, config: RunConfig) -> Inputs:
    parts = Parts(train=tuple(range(len(corpus.cycles))), validation=(), test=())
    return training_inputs(config, corpus, parts, console=QUIET)


def make_batches(corpus: Corpus, config: RunConfig) -> TrainingBatches:
    parts = Parts(train=tuple(range(len(corpus.cycles))), validation=(), test=())
    return training_batches(config, corpus, parts, make_inputs(corpus, config), console=QUIET)


def epoch(corpus: Corpus, *overrides: str, number: int = 1) -> list[Batch]:
    return list(make_batches(corpus, settings(*overrides)).epoch(number))


def is_same(one: list[Batch], other: list[Batch]) -> bool:
    return all(torch.equal(a.fbank, b.fbank) for a, b in zip(one, other, strict=True))


# ---- the front end ----


def test_the_filter_bank_of_the_settings_and_its_statistics(corpus: Corpus) -> None:
    efficientat = settings("audio.filter_bank=efficientat", "audio.sample_rate_hz=32000", "audio.duration_s=8.0")
    assert FrontEnd(efficientat.audio).num_frames == 800
    inputs = make_inputs(corpus, settings("audio.filter_bank=efficientat", "audio.sample_rate_hz=32000"))
    assert (inputs.mean, inputs.std) == (-4.5, 2.5)
    inputs = make_inputs(corpus, settings())
    assert (inputs.mean, inputs.std) == (-4.2677393, 4.5689974)


def test_statistics_of_the_training_cycles(corpus: Corpus) -> None:
    config, train = settings("audio.statistics=corpus"), (1, 4)
    parts = Parts(train=train, validation=(), test=())
    inputs = training_inputs(config, corpus, parts, console=QUIET)
    values = inputs.fbanks[np.array(train)].astype(np.float64)
    assert (inputs.mean, inputs.std) == pytest.approx((values.mean(), values.std()))


# ---- waveform changes ----


def test_off_by_default(corpus: Corpus, tmp_path: Path) -> None:
    assert make_batches(corpus, settings()).change is None
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
    for step, batch in enumerate(make_batches(corpus, config).epoch(2)):
        for place, position in enumerate(order[4 * step : 4 * step + 4]):
            cycle = corpus.cycles[position]
            waveform = front_end.read(cycle.recording.path)
            part = front_end.cut(waveform, start_s=cycle.start_s, end_s=cycle.end_s)
            drawn = draw_waveform_change(
                ("noise", "loudness"), generator=generator_at(3, "waveform", 2, position), probability=0.6
            )
            if drawn is not None:
                part = change_waveform(part, drawn, sample_rate_hz=4000)
            kinds.add(None if drawn is None else drawn.kind)
            fbank = front_end.filter_banks(front_end.fit(part).unsqueeze(0))[0]
            expected = (fbank + 4.2677393) / (2 * 4.5689974)
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
    changed = make_inputs(corpus, settings(*changes))
    plain = make_inputs(corpus, settings("audio.statistics=corpus"))
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
        make_inputs(corpus, config)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cache" / "filter-banks").exists()


# ---- padding that is not encoded ----


def test_batches_know_how_much_of_a_cycle_is_its_own_sound(corpus: Corpus) -> None:
    assert all(batch.num_frames is None for batch in epoch(corpus))
    config = settings("audio.is_padding_encoded=false", "augment.is_on=false")
    front_end, inputs = FrontEnd(config.audio), make_inputs(corpus, config)
    for cycle, row in zip(corpus.cycles, range(len(corpus.cycles)), strict=True):
        batch = inputs.batch(np.array([row]))
        waveform = front_end.read(cycle.recording.path)
        part = front_end.cut(waveform, start_s=cycle.start_s, end_s=cycle.end_s)
        assert batch.num_frames is not None
        assert batch.num_frames.tolist() == [front_end.num_own_frames(len(part))]
        expected = (front_end.filter_banks_of([part]) + 4.2677393) / (2 * 4.5689974)
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
