"""Settings of the front end and of waveform changes, to inputs and batches."""

import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from rich.console import Console

from lungsound.audio import augment as waveform_changes
from lungsound.audio.augment import change_waveform, draw_waveform_change
from lungsound.config import RunConfig, load_config
from lungsound.data import batches as corpora
from lungsound.data.batches import Batch
from lungsound.data.corpus import Corpus
from lungsound.data.store import FilterBanks
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
    whole = corpora.corpus(settings().data.model_copy(update={"root": str(synthetic_corpus_dir)}))
    kept = {recording.name for recording in whole.recordings[:4]}
    return whole.keep(lambda recording: recording.name in kept)


def settings(*overrides: str) -> RunConfig:
    return load_config("ce", [*SMALL, *overrides])


def make_inputs(corpus: Corpus, config: RunConfig) -> tuple[corpora.Inputs, range]:
    rows = range(len(corpus.cycles))
    parts = corpora.Parts(train=tuple(rows), validation=(), test=())
    return corpora.inputs(config, corpus, parts, console=QUIET), rows


def epoch(corpus: Corpus, *overrides: str, number: int = 1) -> list[Batch]:
    config = settings(*overrides)
    inputs, rows = make_inputs(corpus, config)
    return list(inputs.training_batches(config, rows).epoch(number))


def is_same(one: list[Batch], other: list[Batch]) -> bool:
    return all(torch.equal(a.fbank, b.fbank) for a, b in zip(one, other, strict=True))


# ---- the front end ----


def test_the_filter_bank_of_the_settings_and_its_statistics() -> None:
    fbanks = Mock(spec=FilterBanks)
    efficientat = load_config("ce", ["audio.filter_bank=efficientat", "audio.sample_rate_hz=32000"]).audio
    assert corpora.front_end(efficientat).filter_bank == "efficientat"
    assert corpora.front_end(efficientat).num_frames == 800
    assert corpora.statistics(efficientat, fbanks, [0]) == (-4.5, 2.5)
    kaldi = load_config("ce").audio
    assert corpora.front_end(kaldi).filter_bank == "kaldi"
    assert corpora.statistics(kaldi, fbanks, [0]) == (-4.2677393, 4.5689974)


# ---- waveform changes ----


def test_off_by_default(corpus: Corpus, tmp_path: Path) -> None:
    assert make_inputs(corpus, settings())[0].change is None
    assert not list((tmp_path / "cache").rglob("*.waveforms"))


def test_probability_0_gives_the_very_same_batches(corpus: Corpus) -> None:
    plain = epoch(corpus)
    assert is_same(plain, epoch(corpus, 'augment.waveform=["loudness"]', "augment.waveform_probability=0.0"))
    assert not is_same(plain, epoch(corpus, 'augment.waveform=["loudness"]', "augment.waveform_probability=0.5"))


def test_a_changed_cycle_is_the_filter_bank_of_its_changed_waveform(corpus: Corpus) -> None:
    config = settings(
        'augment.waveform=["noise", "loudness"]', "augment.waveform_probability=0.6", "augment.is_on=false"
    )
    inputs, rows = make_inputs(corpus, config)
    front_end = corpora.front_end(config.audio)
    order = torch.randperm(len(rows), generator=generator_at(3, "order", 2)).tolist()
    kinds = set()
    for step, batch in enumerate(inputs.training_batches(config, rows).epoch(2)):
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
    monkeypatch.setitem(waveform_changes.RANGES, "loudness", (2.0, 2.0))
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
    changed, rows = make_inputs(corpus, settings(*changes))
    plain, _ = make_inputs(corpus, settings("audio.statistics=corpus"))
    assert (changed.mean, changed.std) == (plain.mean, plain.std)
    assert is_same(list(changed.batches(rows, 4).in_order()), list(plain.batches(rows, 4).in_order()))


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
    inputs, rows = make_inputs(corpus, config)
    front_end = corpora.front_end(config.audio)
    for row, batch in zip(rows, inputs.batches(rows, 1).in_order(), strict=True):
        cycle = corpus.cycles[row]
        waveform = front_end.read(cycle.recording.path)
        part = front_end.cut(waveform, start_s=cycle.start_s, end_s=cycle.end_s)
        assert batch.num_frames is not None
        assert batch.num_frames.tolist() == [front_end.num_own_frames(len(part))]
        expected = (front_end.filter_banks_of([part]) + 4.2677393) / (2 * 4.5689974)
        torch.testing.assert_close(batch.fbank, expected, rtol=0, atol=1e-5)


def test_a_faster_cycle_has_fewer_frames(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(waveform_changes.RANGES, "speed", (2.0, 2.0))
    pytest.importorskip("python_stretch")
    packed = ("audio.is_padding_encoded=false", "audio.duration_s=16", "augment.is_on=false")
    plain = epoch(corpus, *packed)
    faster = epoch(corpus, *packed, 'augment.waveform=["speed"]', "augment.waveform_probability=1.0")
    for before, after in zip(plain, faster, strict=True):
        assert before.num_frames is not None
        assert after.num_frames is not None
        torch.testing.assert_close(after.num_frames, before.num_frames // 2, rtol=0, atol=1)
