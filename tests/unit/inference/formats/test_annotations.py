import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungsound.data import icbhi, sprsound
from lungsound.data.reader import read_corpus
from lungsound.errors import CorpusError, SettingsError
from lungsound.inference.formats.annotations import (
    audacity_text,
    icbhi_prediction_text,
    raven_text,
    require_words,
    sprsound_prediction_text,
    textgrid_text,
)
from lungsound.inference.formats.tables import record
from lungsound.inference.formats.write import write_format
from lungsound.inference.prediction import RecordingPrediction
from lungsound.labels import LABEL_SETS, LungSound
from tests.unit.data.trees import write_sound
from tests.unit.inference.formats.examples import ANSWER, OVERLAPPING, PROVENANCE, SILENT, awkward_answer, cycle

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
    files = write_format([ANSWER], PROVENANCE, to="icbhi", out=tmp_path)
    (written,) = (path for path in files if path.suffix == ".txt")
    with pytest.raises(CorpusError, match="own prediction"):
        read_corpus(tmp_path)
    written.write_text(written.read_text().replace("1.5", "1.4", 1))  # corrected by hand: an annotation
    corpus = read_corpus(tmp_path)
    assert [(found.start_s, found.end_s, found.word) for found in corpus.cycles] == [
        (0.25, 1.4, "normal"),
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
        assert sprsound.read_annotation(tmp_path / "x.json") == sprsound.Annotation(
            record_annotation=word, event_annotation=[]
        )


def test_label_sets_that_a_format_can_say_are_let_through() -> None:
    for name in ("sound4", "sprsound_event7"):
        require_words("icbhi", LABEL_SETS[name])
    for name in ("sprsound_event7", "sprsound_record5"):
        require_words("sprsound", LABEL_SETS[name])


@pytest.mark.parametrize(
    ("to", "names"),
    [
        ("icbhi", ["sound2", "diagnosis3", "diagnosis2", "sprsound_event2", "sprsound_record5"]),
        ("sprsound", ["sound4", "sound2", "diagnosis3", "sprsound_event2", "sprsound_record3"]),
    ],
)
def test_a_format_has_no_words_for_other_label_sets(to: str, names: list[str]) -> None:
    for name in names:
        with pytest.raises(SettingsError, match=f"{to} has no word for .* of label set '{name}'; its words are"):
            require_words(to, LABEL_SETS[name])


# https://manual.audacityteam.org/man/importing_and_exporting_labels.html
LABEL = re.compile(r"(\d+\.\d{6})\t(\d+\.\d{6})\t([^\t\n]+)\n")


def read_labels(text: str) -> list[tuple[float, float, str]]:
    matches = list(LABEL.finditer(text))
    assert "".join(match[0] for match in matches) == text
    return [(float(match[1]), float(match[2]), match[3]) for match in matches]


def test_a_label_for_each_cycle() -> None:
    assert read_labels(audacity_text(ANSWER, PROVENANCE)) == [
        (0.25, 1.5, "normal 0.50"),
        (1.5, 2.75, "both 0.50"),
        (3.0, 4.5, "uncertain (wheeze 0.50): speech, low_confidence"),
    ]


def test_audacity_without_cycles_and_awkward_names() -> None:
    assert audacity_text(SILENT, PROVENANCE) == ""
    answer, provenance = awkward_answer()
    names = provenance.label_set.classes
    captions = [f"{names[1]} 0.50", f"uncertain ({names[3]} 0.50): speech, low_confidence", f"{names[2]} 0.50"]
    assert [caption for _, _, caption in read_labels(audacity_text(answer, provenance))] == captions


# The columns of Raven Pro's own tables (user's manual, "Selection tables"), in its order.
NEEDED = ["Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"]


def read_selections(text: str) -> list[dict[str, str]]:
    assert text.endswith("\n")
    head, *lines = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
    assert head[:7] == NEEDED
    assert len(set(head)) == len(head)
    found = [dict(zip(head, line, strict=True)) for line in lines]
    for number, row in enumerate(found, start=1):
        assert (row["Selection"], row["View"], row["Channel"]) == (str(number), "Spectrogram 1", "1")
        assert 0.0 <= float(row["Begin Time (s)"]) < float(row["End Time (s)"])
        assert 0.0 <= float(row["Low Freq (Hz)"]) < float(row["High Freq (Hz)"])
    return found


def test_a_selection_for_each_cycle() -> None:
    found = read_selections(raven_text(ANSWER, PROVENANCE))
    times = [(float(row["Begin Time (s)"]), float(row["End Time (s)"])) for row in found]
    assert times == [(0.25, 1.5), (1.5, 2.75), (3.0, 4.5)]
    assert [(row["Answer"], row["Best Guess"], row["Possible"]) for row in found] == [
        ("normal", "normal", ""),
        ("both", "both", "both;crackle"),
        ("uncertain", "wheeze", "normal;wheeze"),
    ]
    assert float(found[2]["p_wheeze"]) == 0.5
    assert [row["Reasons"] for row in found] == ["", "", "speech;low_confidence"]


def test_frequencies_are_those_that_the_model_hears_and_the_recording_has() -> None:
    slow = replace(ANSWER, sample_rate_hz=4000)
    for answer, high in ((ANSWER, "8000.0"), (slow, "2000.0")):
        row = read_selections(raven_text(answer, PROVENANCE))[0]
        assert (row["Low Freq (Hz)"], row["High Freq (Hz)"]) == ("20.0", high)


def test_raven_without_cycles_and_awkward_names() -> None:
    assert read_selections(raven_text(SILENT, PROVENANCE)) == []
    answer, provenance = awkward_answer()
    found = read_selections(raven_text(answer, provenance))
    assert [row["Best Guess"] for row in found] == [cycle.best_guess for cycle in answer.cycles]
    assert {f"p_{name}" for name in provenance.label_set.classes} <= found[0].keys()


Tier = list[tuple[float, float, str]]
NUMBER = r"(\d+\.\d{6})"
HEAD = re.compile(
    rf'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = {NUMBER}\nxmax = {NUMBER}\n'
    r"tiers\? <exists>\nsize = (\d+)\nitem \[\]:\n"
)
TIER = re.compile(
    rf' {{4}}item \[(\d+)\]:\n {{8}}class = "IntervalTier"\n {{8}}name = "([^"]+)"\n'
    rf" {{8}}xmin = {NUMBER}\n {{8}}xmax = {NUMBER}\n {{8}}intervals: size = (\d+)\n"
)
INTERVAL = re.compile(
    rf" {{8}}intervals \[(\d+)\]:\n {{12}}xmin = {NUMBER}\n {{12}}xmax = {NUMBER}\n"
    r' {12}text = "((?:[^"\n]|"")*)"\n'
)


def read_tiers(text: str) -> dict[str, Tier]:
    """Strictly the long form of https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html."""
    head = HEAD.match(text)
    assert head is not None
    place, tiers = head.end(), {}
    for number in range(1, int(head[3]) + 1):
        found = TIER.match(text, place)
        assert found is not None
        assert (int(found[1]), found[3], found[4]) == (number, head[1], head[2])
        place, reached, tier = found.end(), head[1], []
        for index in range(1, int(found[5]) + 1):
            interval = INTERVAL.match(text, place)
            assert interval is not None
            assert (int(interval[1]), interval[2]) == (index, reached)
            assert float(interval[2]) < float(interval[3])
            tier.append((float(interval[2]), float(interval[3]), interval[4].replace('""', '"')))
            place, reached = interval.end(), interval[3]
        assert reached == head[2]
        tiers[found[2]] = tier
    assert place == len(text)
    return tiers


def test_intervals_cover_the_recording() -> None:
    assert read_tiers(textgrid_text(ANSWER, PROVENANCE)) == {
        "lung sound": [
            (0.0, 0.25, ""),
            (0.25, 1.5, "normal 0.50"),
            (1.5, 2.75, "both 0.50"),
            (2.75, 3.0, ""),
            (3.0, 4.5, "uncertain (wheeze 0.50): speech, low_confidence"),
        ]
    }


def test_no_cycles_are_one_empty_interval() -> None:
    assert read_tiers(textgrid_text(SILENT, PROVENANCE)) == {"lung sound": [(0.0, 0.75, "")]}


def test_windows_that_overlap_stand_in_further_tiers() -> None:
    assert read_tiers(textgrid_text(OVERLAPPING, PROVENANCE)) == {
        "lung sound": [(0.0, 2.0, "crackle 0.50"), (2.0, 4.0, "wheeze 0.50"), (4.0, 4.5, "")],
        "lung sound 2": [(0.0, 1.0, ""), (1.0, 3.0, "normal 0.50"), (3.0, 4.5, "both 0.50")],
    }


def test_an_annotation_may_end_behind_its_recording() -> None:
    late = replace(ANSWER, cycles=(cycle(4.0, 4.51),))
    assert read_tiers(textgrid_text(late, PROVENANCE))["lung sound"][-1] == (4.0, 4.51, "crackle 0.50")


@given(st.lists(st.tuples(st.floats(0.0, 60.0), st.floats(1e-5, 9.0)), max_size=25))
def test_every_cycle_is_in_one_tier_of_as_few_as_possible(spans: list[tuple[float, float]]) -> None:
    cycles = tuple(cycle(start_s, start_s + length_s) for start_s, length_s in spans)
    answer = replace(ANSWER, duration_s=70.0, cycles=cycles)
    tiers = read_tiers(textgrid_text(answer, PROVENANCE))
    found = sorted((start_s, end_s) for tier in tiers.values() for start_s, end_s, text in tier if text)
    assert found == sorted((c.start_s, c.end_s) for c in answer.cycles)
    most_at_once = max((sum(a.start_s <= b.start_s < a.end_s for a in answer.cycles) for b in answer.cycles), default=1)
    assert len(tiers) == most_at_once


@pytest.mark.parametrize("answer", [ANSWER, SILENT, OVERLAPPING], ids=lambda answer: answer.name)
def test_praatio_reads_the_same_intervals(answer: RecordingPrediction, tmp_path: Path) -> None:
    praatio = pytest.importorskip("praatio.textgrid", reason="needs praatio")
    text = textgrid_text(answer, PROVENANCE)
    (tmp_path / "x.TextGrid").write_text(text, encoding="utf-8")
    grid = praatio.openTextgrid(str(tmp_path / "x.TextGrid"), includeEmptyIntervals=True, reportingMode="error")
    found = {tier.name: [(i.start, i.end, i.label) for i in tier.entries] for tier in grid.tiers}
    assert found == read_tiers(text)
    assert (grid.minTimestamp, grid.maxTimestamp) == (0.0, answer.duration_s)


def test_textgrid_awkward_names_come_back(tmp_path: Path) -> None:
    answer, provenance = awkward_answer()
    text = textgrid_text(answer, provenance)
    captions = [found.caption for found in answer.cycles]
    assert [caption for _, _, caption in read_tiers(text)["lung sound"] if caption] == captions
    praatio = pytest.importorskip("praatio.textgrid", reason="needs praatio")
    (tmp_path / "x.TextGrid").write_text(text, encoding="utf-8")
    grid = praatio.openTextgrid(str(tmp_path / "x.TextGrid"), includeEmptyIntervals=False, reportingMode="error")
    assert [interval.label for interval in grid.tiers[0].entries] == captions
