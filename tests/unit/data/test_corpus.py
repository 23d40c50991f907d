"""Recordings, cycles and corpora, their fingerprint, and their words by a label map."""

from dataclasses import replace
from pathlib import Path

import pytest

from lungsound.data.corpus import Corpus, Cycle, Problem, Recording, relabelled
from lungsound.data.reader import read_corpus
from lungsound.errors import CorpusError
from lungsound.labels import LABEL_SETS, LabelMap, LungSound, shipped_map
from tests.unit.data.trees import write_event_file, write_icbhi, write_sound


def make_corpus(folder: Path) -> Corpus:
    recordings = []
    for name, patient in (("a", "1"), ("b", "2"), ("c", "3")):
        path = folder / f"{name}.wav"
        path.write_bytes(name.encode())
        recordings.append(Recording(name, patient, path, duration_s=2.0, sample_rate_hz=4000, device=f"device {name}"))
    cycles = tuple(Cycle(recording, 0.0, 1.0, False, recording.name == "b") for recording in recordings)
    split = {"a": "inter", "b": "train"}
    return Corpus("made up", folder, tuple(recordings), cycles, split)


def test_key_has_three_decimals_of_both_times(tmp_path):
    recording = Recording("101_1b1_Al_sc_Meditron", "101", tmp_path, 2.0, 4000)
    assert Cycle(recording, 0.0361, 1.5, False, False).key == "101_1b1_Al_sc_Meditron#0.036-1.500"


@pytest.mark.parametrize(
    ("has_crackle", "has_wheeze", "sound"),
    [
        (False, False, LungSound.NORMAL),
        (True, False, LungSound.CRACKLE),
        (False, True, LungSound.WHEEZE),
        (True, True, LungSound.BOTH),
    ],
)
def test_sound_of_a_cycle(tmp_path, has_crackle, has_wheeze, sound):
    recording = Recording("r", "1", tmp_path, 2.0, 4000)
    assert Cycle(recording, 0.0, 1.0, has_crackle, has_wheeze).sound is sound


def test_parts_name_train_first_and_leave_out_recordings_in_no_part(tmp_path):
    corpus = make_corpus(tmp_path)
    assert corpus.parts == ("train", "inter")
    assert [cycle.recording.name for cycle in corpus.part("train", "inter")] == ["a", "b"]
    assert corpus.part("test") == ()


def test_a_corpus_prints_as_one_line(tmp_path):
    corpus = make_corpus(tmp_path)
    assert repr(corpus) == "<Corpus made up: 3 recordings of 3 patients, 3 cycles (train 1, inter 1), 0 problems>"


def test_keep_filters_recordings_with_their_cycles(tmp_path):
    kept = make_corpus(tmp_path).keep(lambda recording: recording.device == "device b")
    assert [recording.name for recording in kept.recordings] == ["b"]
    assert [cycle.recording.name for cycle in kept.cycles] == ["b"]
    assert kept.parts == ("train",)


def test_require_sound_returns_a_sound_corpus(tmp_path):
    corpus = make_corpus(tmp_path)
    assert corpus.require_sound() is corpus


def test_require_sound_counts_and_names_problems_in_one_line(tmp_path):
    problems = (Problem("b kind", "x.txt", "one"), Problem("a kind", "y.txt", "two"), Problem("b kind", "z", "three"))
    corpus = replace(make_corpus(tmp_path), problems=problems)
    with pytest.raises(CorpusError, match=r"3 problem.*1 x a kind, 2 x b kind.*b kind: x.txt: one") as caught:
        corpus.require_sound()
    assert "\n" not in str(caught.value)


def test_require_sound_refuses_an_empty_corpus(tmp_path):
    with pytest.raises(CorpusError, match="no recordings"):
        Corpus("made up", tmp_path, (), (), {}).require_sound()


def test_fingerprint_depends_on_sound_labels_split_and_order_only(tmp_path):
    corpus = make_corpus(tmp_path)
    original = corpus.fingerprint
    (tmp_path / "elsewhere").mkdir()
    assert make_corpus(tmp_path / "elsewhere").fingerprint == original

    relabelled = tuple(replace(cycle, has_crackle=True) for cycle in corpus.cycles)
    assert replace(corpus, cycles=relabelled).fingerprint != original
    assert replace(corpus, split={"a": "train", "b": "inter"}).fingerprint != original
    assert replace(corpus, recordings=corpus.recordings[::-1]).fingerprint != original
    (tmp_path / "a.wav").write_bytes(b"other sound")
    assert replace(corpus).fingerprint != original


def test_word_of_a_cycle_is_its_term_else_its_sound(tmp_path):
    recording = Recording("r", "1", tmp_path, 2.0, 4000)
    assert Cycle(recording, 0.0, 1.0, True, True).word == "both"
    assert Cycle(recording, 0.0, 1.0, False, True, "Rhonchi").word == "Rhonchi"


def test_fingerprint_tells_words_apart_and_not_the_place_in_the_file(tmp_path):
    corpus = make_corpus(tmp_path)

    def with_first(**changes) -> str:
        return replace(corpus, cycles=(replace(corpus.cycles[0], **changes), *corpus.cycles[1:])).fingerprint

    assert with_first(term="Rhonchi") != with_first(term="Wheeze") != corpus.fingerprint
    assert with_first(position=5) == corpus.fingerprint


ICBHI_NAME, SPRSOUND_NAME = "101_1b1_Al_sc_Meditron", "65101170_0.4_1_p1_3246"


def test_icbhi_in_the_words_of_sprsound(tmp_path):
    write_icbhi(tmp_path, {ICBHI_NAME: "0 0.5 0 0\n0.5 1 1 0\n1 1.5 0 1\n1.5 1.8 1 0\n"})
    label_map = LabelMap(
        "ours", LABEL_SETS["sprsound_event7"], {"normal": "Normal", "crackle": "Fine Crackle", "both": "Wheeze+Crackle"}
    )
    corpus = relabelled(read_corpus(tmp_path), label_map)
    assert [(c.term, c.sound.word, c.position) for c in corpus.cycles] == [
        ("Normal", "normal", 0),
        ("Fine Crackle", "crackle", 1),
        ("Fine Crackle", "crackle", 3),
    ]
    assert corpus.vocabulary == "sprsound_event7"
    assert [str(problem) for problem in corpus.problems] == [
        f"unknown label: {ICBHI_NAME}#1.000-1.500: 'wheeze' (of 1 cycles) has no entry in the label map ours, "
        "which has normal, crackle, both"
    ]


def test_sprsound_by_a_file_says_what_falls_together(tmp_path):
    write_sound(tmp_path / "train_wav" / f"{SPRSOUND_NAME}.wav")
    events = [("0", "500", "Rhonchi"), ("500", "900", "Fine Crackle"), ("900", "1200", "Normal")]
    write_event_file(tmp_path / "train_json" / f"{SPRSOUND_NAME}.json", events)
    path = tmp_path / "map.toml"
    path.write_text(
        'label_set = "sound4"\n[classes]\n"Rhonchi" = "crackle"\n"Fine Crackle" = "crackle"\n"Stridor" = "crackle"\n'
        '"Normal" = "normal"\n'
    )
    corpus = read_corpus(tmp_path, label_map=path)
    assert [(c.term, c.sound.word) for c in corpus.cycles] == [(None, "crackle"), (None, "crackle"), (None, "normal")]
    assert corpus.vocabulary == "sound4"
    assert corpus.notes == ("label map map.toml to sound4: Rhonchi and Fine Crackle become crackle",)


def test_a_shipped_map_gives_the_flags_that_the_reader_gives(tmp_path):
    write_sound(tmp_path / "train_wav" / f"{SPRSOUND_NAME}.wav")
    words = LABEL_SETS["sprsound_event7"].classes
    events = [(n * 100, n * 100 + 100, word) for n, word in enumerate(words)]
    write_event_file(tmp_path / "train_json" / f"{SPRSOUND_NAME}.json", events)
    corpus = read_corpus(tmp_path)
    mapped = relabelled(corpus, shipped_map("sprsound_event7", "sound4"))
    assert [c.sound for c in mapped.cycles] == [c.sound for c in corpus.cycles]
    assert len(mapped.notes) == 2
