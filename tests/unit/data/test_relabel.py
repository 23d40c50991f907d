from lungsound.data.corpus import relabelled
from lungsound.data.reader import read_corpus
from lungsound.labels import LABEL_SETS, LabelMap, shipped_map
from tests.unit.data.trees import write_event_file, write_icbhi, write_sound

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
