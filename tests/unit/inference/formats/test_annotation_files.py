import json
from dataclasses import replace
from pathlib import Path

import pytest

from lungsound.data import icbhi, sprsound
from lungsound.data.reader import read_corpus
from lungsound.errors import SettingsError
from lungsound.inference.formats.annotations import (
    icbhi_prediction_text,
    require_icbhi_words,
    require_sprsound_words,
    sprsound_prediction_text,
)
from lungsound.inference.formats.tables import record
from lungsound.inference.formats.write import write_format
from lungsound.labels import LABEL_SETS, LungSound
from tests.unit.data.trees import write_sound
from tests.unit.inference.formats.examples import ANSWER, PROVENANCE, SILENT, cycle

EVENTS, RECORDS = LABEL_SETS["sprsound_event7"], LABEL_SETS["sprsound_record5"]
EVENT_NAME = "65101170_0.4_1_p1_3246"


def test_icbhi_is_read_back_with_both_sounds_and_the_guess_of_the_uncertain(tmp_path: Path) -> None:
    text = icbhi_prediction_text(ANSWER, PROVENANCE)
    assert text is not None
    (tmp_path / "x.txt").write_text(text, encoding="utf-8")
    assert [fields for _, fields in icbhi.read_annotation(tmp_path / "x.txt")] == [
        (0.25, 1.5, False, False),
        (1.5, 2.75, True, True),
        (3.0, 4.5, False, True),
    ]


def test_a_folder_of_icbhi_answers_beside_the_sounds_is_a_corpus(tmp_path: Path) -> None:
    write_sound(tmp_path / ANSWER.path.name, num_samples=18000)
    write_format([ANSWER], PROVENANCE, to="icbhi", out=tmp_path)
    corpus = read_corpus(tmp_path)
    assert [(found.start_s, found.end_s, found.word) for found in corpus.cycles] == [
        (0.25, 1.5, "normal"),
        (1.5, 2.75, "both"),
        (3.0, 4.5, "wheeze"),
    ]


def test_icbhi_has_no_file_for_a_recording_without_cycles() -> None:
    assert icbhi_prediction_text(SILENT, PROVENANCE) is None


def test_real_annotations_come_back(icbhi_dir: Path, tmp_path: Path) -> None:
    paths = sorted(icbhi_dir.glob("[0-9]*_*.txt"))[:200]
    assert paths
    for path in paths:
        cycles = [fields for _, fields in icbhi.read_annotation(path)]
        words = [LungSound.of(has_crackle=crackle, has_wheeze=wheeze).word for _, _, crackle, wheeze in cycles]
        rows = tuple(cycle(fields[0], fields[1], word) for fields, word in zip(cycles, words, strict=True))
        text = icbhi_prediction_text(replace(ANSWER, duration_s=cycles[-1][1], cycles=rows), PROVENANCE)
        assert text is not None
        (tmp_path / "x.txt").write_text(text, encoding="utf-8")
        found = [fields for _, fields in icbhi.read_annotation(tmp_path / "x.txt")]
        assert [fields[2:] for fields in found] == [fields[2:] for fields in sorted(cycles)]
        for ours, theirs in zip(found, sorted(cycles), strict=True):
            assert ours[:2] == pytest.approx(theirs[:2], abs=5.1e-7)


def test_words_of_sprsound_become_the_flags_of_icbhi() -> None:
    cycles = tuple(cycle(n, n + 0.5, word, label_set=EVENTS4) for n, word in enumerate(EVENTS4.classes))
    text = icbhi_prediction_text(replace(ANSWER, duration_s=4.0, cycles=cycles), replace(PROVENANCE, label_set=EVENTS4))
    assert text == "0\t0.5\t0\t0\n1\t1.5\t0\t1\n2\t2.5\t1\t0\n3\t3.5\t1\t1\n"


# Four of the types of SPRSound's events.
EVENTS4 = replace(EVENTS, classes=("Normal", "Rhonchi", "Fine Crackle", "Wheeze+Crackle"))


def test_sprsound_is_read_back_as_a_corpus(tmp_path: Path) -> None:
    cycles = (cycle(0.5, 1.25, "Fine Crackle", label_set=EVENTS4), cycle(0.0, 0.5, "Rhonchi", label_set=EVENTS4))
    path = write_sound(tmp_path / "train_wav" / f"{EVENT_NAME}.wav")
    answer = replace(ANSWER, path=path, duration_s=2.0, cycles=cycles, aggregate=None)
    provenance = replace(PROVENANCE, label_set=EVENTS4)
    (tmp_path / "train_json").mkdir()
    file = tmp_path / "train_json" / f"{EVENT_NAME}.json"
    file.write_text(sprsound_prediction_text(answer, provenance), encoding="utf-8")
    corpus = read_corpus(tmp_path)
    assert [(c.start_s, c.end_s, c.word) for c in corpus.cycles] == [(0.0, 0.5, "Rhonchi"), (0.5, 1.25, "Fine Crackle")]
    assert corpus.recordings[0].term is None
    assert json.loads(file.read_text(encoding="utf-8"))["lungsound"] == record(answer, provenance)


def test_the_word_for_a_whole_recording_is_sprsounds_record_annotation(tmp_path: Path) -> None:
    four = replace(RECORDS, classes=("Normal", "CAS", "DAS", "CAS & DAS"))
    whole = cycle(0.0, 4.5, "CAS & DAS", label_set=four)
    provenance = replace(PROVENANCE, label_set=four)
    for answer, word in ((replace(ANSWER, cycles=(whole,), aggregate=whole), "CAS & DAS"), (SILENT, None)):
        (tmp_path / "x.json").write_text(sprsound_prediction_text(answer, provenance), encoding="utf-8")
        assert sprsound.read_annotation(tmp_path / "x.json") == sprsound.Annotation("x.json", word, ())


def test_label_sets_that_a_format_can_say_are_let_through() -> None:
    for name in ("sound4", "sprsound_event7"):
        require_icbhi_words(LABEL_SETS[name])
    for name in ("sprsound_event7", "sprsound_record5"):
        require_sprsound_words(LABEL_SETS[name])


@pytest.mark.parametrize("name", ["sound2", "diagnosis3", "diagnosis2", "sprsound_event2", "sprsound_record5"])
def test_icbhi_has_no_word_for_other_label_sets(name: str) -> None:
    with pytest.raises(SettingsError, match=f"icbhi has no word for .* of label set '{name}'; its words are normal,"):
        require_icbhi_words(LABEL_SETS[name])


@pytest.mark.parametrize("name", ["sound4", "sound2", "diagnosis3", "sprsound_event2", "sprsound_record3"])
def test_sprsound_has_no_word_for_other_label_sets(name: str) -> None:
    with pytest.raises(SettingsError, match=f"sprsound has no word for .* of label set '{name}'; its words are Normal"):
        require_sprsound_words(LABEL_SETS[name])
