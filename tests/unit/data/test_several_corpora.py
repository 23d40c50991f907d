"""Several corpora as one: names, parts, labels, settings of each, validation in proportion, one left out."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings, DataSettings, RunConfig, TrainSettings, load_config, to_toml
from lungsound.data.corpus import Corpus, join
from lungsound.data.splits import corpora_of, divide, leave_corpus_out, leave_device_out, load_corpus
from lungsound.data.store import open_filter_banks, open_waveforms
from lungsound.errors import CorpusError, SettingsError
from lungsound.labels import LABEL_SETS
from tests.unit.data.test_splits import make_corpus
from tests.unit.data.trees import write_event_file, write_icbhi, write_sound

ADULTS = {"101_1b1_Al_sc_Meditron": "train", "102_1b1_Ar_mc_Litt3200": "train", "103_1b1_Ar_sc_AKGC417L": "test"}
CHILDREN = {
    "40512331_8.1_0_p2_3544": ("test_wav", "test_json/inter_test_json"),
    "65101170_0.4_1_p1_3246": ("train_wav", "train_json"),
    "65101170_0.5_1_p4_77": ("test_wav", "test_json/intra_test_json"),
}
QUIET = Console(quiet=True)


@pytest.fixture
def adults(tmp_path: Path) -> Path:
    folder = write_icbhi(tmp_path / "adults", dict.fromkeys(ADULTS, "0.0\t0.5\t0\t0\n0.5\t1.5\t1\t1\n"))
    (folder / "official_split.txt").write_text("".join(f"{name}\t{part}\n" for name, part in ADULTS.items()))
    return folder


@pytest.fixture
def children(tmp_path: Path) -> Path:
    for name, (sounds, annotations) in CHILDREN.items():
        write_sound(tmp_path / "children" / sounds / f"{name}.wav")
        events: list[tuple[object, object, str]] = [("0", "900", "Rhonchi"), ("900", "1500", "Normal")]
        write_event_file(tmp_path / "children" / annotations / f"{name}.json", events)
    return tmp_path / "children"


def settings(*corpora: dict[str, Any], **shared: Any) -> DataSettings:
    tables = [{key: str(value) if key == "root" else value for key, value in table.items()} for table in corpora]
    return load_config("demo", {"data.corpora": tables, **{f"data.{key}": value for key, value in shared.items()}}).data


def test_names_and_parts_say_which_corpus_and_words_become_classes(adults: Path, children: Path) -> None:
    corpus = load_corpus(settings({"root": children}, {"root": adults}))
    assert list(corpus.members) == ["sprsound", "icbhi"]
    assert corpus.parts == ("train", "icbhi.test", "sprsound.inter", "sprsound.intra")
    assert corpus.known_patient_parts == {"sprsound.intra"}
    names = [*(f"sprsound/{name}" for name in CHILDREN), *(f"icbhi/{name}" for name in ADULTS)]
    assert [recording.name for recording in corpus.recordings] == names
    patients = {recording.patient for recording in corpus.recordings}
    assert patients == {"sprsound/40512331", "sprsound/65101170", "icbhi/101", "icbhi/102", "icbhi/103"}
    assert Counter(corpus.split.values()) == {"train": 3, "icbhi.test": 1, "sprsound.inter": 1, "sprsound.intra": 1}
    assert {cycle.term for cycle in corpus.cycles} == {None}
    assert [cycle.word for cycle in corpus.cycles] == ["wheeze", "normal"] * 3 + ["normal", "both"] * 3
    assert corpus.cycles[0].key == "sprsound/40512331_8.1_0_p2_3544#0.000-0.900"
    assert [note for note in corpus.notes if "label map" in note] == [
        "sprsound: label map sprsound_event7 to sound4: nothing is lost"
    ]
    # Each member is what it is alone.
    alone = load_corpus(DataSettings(root=str(children)))
    assert corpus.members["sprsound"] == alone
    assert corpus.members["sprsound"].fingerprint == alone.fingerprint != corpus.fingerprint


def test_the_labels_are_those_of_each_corpus_alone(adults: Path, children: Path) -> None:
    corpus = load_corpus(settings({"root": adults}, {"root": children}, label_set="sprsound_event2"))
    assert {cycle.word for cycle in corpus.cycles} == {"Normal", "Adventitious"}
    label_set, place = LABEL_SETS["sprsound_event2"], 0
    for member in corpus.members.values():
        for own in member.cycles:
            joined = corpus.cycles[place]
            assert label_set.label(sound=joined.sound, term=joined.term) == label_set.label(
                sound=own.sound, term=own.term
            )
            place += 1
    assert place == len(corpus.cycles)


@pytest.mark.parametrize(
    ("label_set", "named"), [("sprsound_event7", "corpus 'icbhi' in .*adults"), ("diagnosis2", "corpus 'sprsound'")]
)
def test_a_label_set_that_one_cannot_serve_names_it(adults: Path, children: Path, label_set: str, named: str) -> None:
    tables = [{"root": children}, {"root": adults}]
    with pytest.raises(SettingsError, match=f"{named}.*label set '{label_set}'"):
        load_corpus(settings(*tables, label_set=label_set))


def test_each_corpus_has_its_settings_and_else_the_shared_ones(adults: Path, children: Path) -> None:
    left_out = "65101170_0.4_1_p1_3246"
    corpus = load_corpus(
        settings(
            {"root": adults, "modes": ["sc"], "name": "home"},
            {"root": children, "left_out_recordings": [left_out], "parts": []},
            parts=["train"],
        )
    )
    assert [recording.name for recording in corpus.members["home"].recordings] == ["101_1b1_Al_sc_Meditron"]
    assert [recording.name for recording in corpus.members["sprsound"].recordings] == sorted({*CHILDREN} - {left_out})
    with pytest.raises(SettingsError, match=f"children has no recording '{left_out}x'"):
        load_corpus(settings({"root": adults}, {"root": children, "left_out_recordings": [f"{left_out}x"]}))
    with pytest.raises(CorpusError, match=r"no cycles in .*children from .* modes \['sc'\]"):
        load_corpus(settings({"root": adults}, {"root": children}, modes=["sc"]))


def test_corpora_of_one_format_are_numbered_and_names_are_unique(adults: Path) -> None:
    assert list(load_corpus(settings({"root": adults}, {"root": adults})).members) == ["icbhi", "icbhi2"]
    with pytest.raises(SettingsError, match="two corpora are called 'icbhi'"):
        load_corpus(settings({"root": adults}, {"root": adults, "name": "icbhi"}))
    with pytest.raises(SettingsError, match=r"data\.corpora\.0\.name"):
        settings({"root": adults, "name": "a/b"})


def test_one_corpus_and_several_exclude_each_other(adults: Path) -> None:
    with pytest.raises(SettingsError, match="are both given"):
        load_corpus(settings({"root": adults}, root=str(adults)))
    with pytest.raises(SettingsError, match=r"corpus 2 of data\.corpora has no root"):
        load_corpus(settings({"root": adults}, {"modes": ["sc"]}))


def test_tables_are_merged_one_by_one_and_written_as_they_are(tmp_path: Path) -> None:
    recipe = tmp_path / "both.toml"
    recipe.write_text('[[data.corpora]]\nmodes = ["sc"]\n[[data.corpora]]\nshare = 0.5\n')
    config = load_config(recipe, ['data.corpora=[{root = "A"}, {root = "B", share = 2.0}]'])
    assert [(each.root, each.modes, each.share) for each in config.data.corpora] == [
        ("A", ("sc",), None),
        ("B", None, 2.0),
    ]
    again = tmp_path / "again.toml"
    again.write_text(to_toml(config))
    assert load_config(again).data == config.data
    assert RunConfig.model_validate(json.loads(config.model_dump_json())) == config
    with pytest.raises(SettingsError, match="corpora: 3 are given where the recipe or a setting has 2"):
        load_config(recipe, ["data.corpora=[{}, {}, {}]"])
    with pytest.raises(SettingsError, match=r"unknown key 'data\.corpora\.1\.splitt'; the keys there are: name, root"):
        load_config(recipe, ["data.corpora=[{}, {splitt = 'x'}]"])


def many(name: str, num_patients: int, *, is_wheezy: bool = False) -> Corpus:
    """A corpus of one recording of six cycles for each patient, half of the patients in the test."""
    corpus = make_corpus(
        [(f"p{i}", "train" if i < num_patients else "test", "A") for i in range(2 * num_patients)], num_cycles=6
    )
    cycles = tuple(replace(cycle, has_wheeze=is_wheezy) for cycle in corpus.cycles)
    return replace(corpus, name=name, cycles=cycles)


def test_validation_is_held_out_of_each_corpus_in_proportion() -> None:
    """A corpus of 40 and one of 10 training patients: a fifth of each, with any seed."""
    corpus = join({"icbhi": many("icbhi", 40), "own": many("table", 10, is_wheezy=True)}, LABEL_SETS["sound4"])
    for seed in range(5):
        parts = divide(corpus, DataSettings(), TrainSettings(seed=seed, validation_share=0.2))
        held = {corpus.cycles[row].recording.patient for row in parts.validation}
        assert Counter(patient.partition("/")[0] for patient in held) == {"icbhi": 8, "own": 2}
        assert parts.left_out == ()  # the same number in another corpus is another patient
        assert len(parts.test) == 300


def test_one_corpus_is_left_out_and_all_of_it_tested(adults: Path, children: Path) -> None:
    tables = [{"root": adults}, {"root": children}]
    corpus = load_corpus(settings(*tables, split="corpus:sprsound"))
    assert corpus.parts == ("train", "sprsound.inter", "sprsound.intra", "sprsound.train")
    assert {cycle.recording.corpus for cycle in corpus.part("train")} == {"icbhi"}
    assert len(corpus.part("train")) == 4  # the test of the others stays closed
    parts = divide(corpus, DataSettings(), TrainSettings(validation_share=0.5))
    assert {corpus.cycles[row].recording.corpus for row in parts.test} == {"sprsound"}
    assert len(parts.test) == 6
    assert parts.left_out == ()
    with pytest.raises(CorpusError, match="cannot leave the corpus 'x' out; the corpora are icbhi, sprsound"):
        load_corpus(settings(*tables, split="corpus:x"))
    with pytest.raises(CorpusError, match="cannot leave the corpus 'icbhi' out; the corpora are icbhi"):
        leave_corpus_out(load_corpus(DataSettings(root=str(adults))), "icbhi")


def test_one_device_is_left_out_of_all(adults: Path, children: Path) -> None:
    corpus = load_corpus(settings({"root": adults}, {"root": children}, split="device:Meditron", parts=["train"]))
    assert corpus.parts == ("train", "test")
    assert [cycle.recording.name for cycle in corpus.part("test")] == ["icbhi/101_1b1_Al_sc_Meditron"] * 2
    assert len(corpus.part("train")) == 4
    assert leave_device_out(corpus, "Meditron").split == corpus.split


def test_settings_of_each_alone_have_nothing_of_the_others(adults: Path, children: Path) -> None:
    joined = settings({"root": adults, "devices": ["Meditron"]}, {"root": children}, split="corpus:icbhi")
    one, other = corpora_of(joined)
    assert (one.root, one.devices, one.split, one.corpora) == (str(adults), ("Meditron",), "official", ())
    assert (other.root, other.devices) == (str(children), ())
    single = DataSettings(root="a", split="fold2")
    assert corpora_of(single) == [single]


def test_filter_banks_are_those_of_each_corpus_alone_and_made_once(
    adults: Path, children: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / "cache"))
    front_end = FrontEnd(AudioSettings(duration_s=0.3, num_mels=16))
    alone = [
        open_filter_banks(load_corpus(DataSettings(root=str(root))), front_end, console=QUIET)
        for root in (adults, children)
    ]
    stores = set((tmp_path / "cache" / "filter-banks").iterdir())
    corpus = load_corpus(settings({"root": adults}, {"root": children}))
    for each in (corpus, leave_corpus_out(corpus, "icbhi")):
        joined = open_filter_banks(each, front_end, console=QUIET)
        assert set((tmp_path / "cache" / "filter-banks").iterdir()) == stores
        assert joined.shape == (12, *alone[0].shape[1:])
        expected = np.concatenate([own[np.arange(6)] for own in alone])
        np.testing.assert_array_equal(joined[np.arange(12)], expected)
        np.testing.assert_array_equal(joined[np.array([11, 0, 6, 5])], expected[[11, 0, 6, 5]])
        assert joined.num_samples.tolist() == [n for own in alone for n in own.num_samples.tolist()]
        assert joined.statistics(range(12)) == pytest.approx((expected.mean(), expected.std()), rel=1e-4)
    waveforms = open_waveforms(corpus, front_end, console=QUIET)
    own = open_waveforms(corpus.members["sprsound"], front_end, console=QUIET)
    assert all(np.array_equal(waveforms[6 + row].waveform, own[row].waveform) for row in range(6))
