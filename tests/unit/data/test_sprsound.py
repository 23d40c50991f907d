import pytest

from lungsound.data.reader import read_corpus
from lungsound.data.sprsound import read_sprsound
from lungsound.errors import CorpusError
from lungsound.labels import LungSound
from tests.unit.data.trees import kinds, write_event_file, write_sound

TRAIN, INTER, INTRA = "65101170_0.4_1_p1_3246", "40512331_8.1_0_p2_3544", "65101170_0.5_1_p4_77"
NORMAL = [("500", "1500", "Normal")]
JSON_FOLDERS = {"train": "train_json", "inter": "test_json/inter_test_json", "intra": "test_json/intra_test_json"}


def add(root, name, part, events=NORMAL, *, suffix=".wav", record="Normal"):
    write_sound(root / ("train_wav" if part == "train" else "test_wav") / f"{name}{suffix}")
    return write_event_file(root / JSON_FOLDERS[part] / f"{name}.json", events, record=record)


def only_problem(corpus):
    assert len(corpus.problems) == 1, corpus.problems
    return corpus.problems[0]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_three_parts_and_the_facts_of_the_name(tmp_path, suffix):
    add(tmp_path, TRAIN, "train", suffix=suffix)
    add(tmp_path, INTER, "inter", suffix=suffix)
    add(tmp_path, INTRA, "intra", suffix=suffix)
    corpus = read_corpus(tmp_path)
    assert corpus.name == "sprsound"
    assert corpus.split == {TRAIN: "train", INTER: "inter", INTRA: "intra"}
    assert corpus.parts == ("train", "inter", "intra")
    recording = next(r for r in corpus.recordings if r.name == TRAIN)
    assert (recording.patient, recording.age_years, recording.sex) == ("65101170", 0.4, "F")
    assert (recording.location, recording.device, recording.mode) == ("p1", "Yunting model II", None)
    assert next(r for r in corpus.recordings if r.name == INTER).sex == "M"
    assert [r.name for r in corpus.recordings] == sorted([TRAIN, INTER, INTRA])
    assert corpus.notes == ()
    assert corpus.known_patient_parts == {"intra"}


def test_tree_of_the_databases_repository_has_the_year_in_its_names(tmp_path):
    release = tmp_path / "BioCAS2022"
    write_sound(release / "train2022_wav" / f"{TRAIN}.wav")
    write_event_file(release / "train2022_json" / f"{TRAIN}.json", NORMAL)
    write_sound(release / "test2022_wav" / f"{INTER}.wav")
    write_event_file(release / "test2022_json" / "inter_test_json" / f"{INTER}.json", NORMAL)
    for root in (tmp_path, release):
        corpus = read_corpus(root)
        assert corpus.split == {TRAIN: "train", INTER: "inter"}
        assert len(corpus.cycles) == 2


def test_times_are_milliseconds_as_strings_or_numbers_in_any_order(tmp_path):
    add(tmp_path, TRAIN, "train", [("1500", "1999", "Wheeze"), (342, 1500, "Normal")])
    corpus = read_sprsound(tmp_path)
    assert [cycle.key for cycle in corpus.cycles] == [f"{TRAIN}#0.342-1.500", f"{TRAIN}#1.500-1.999"]
    assert [(cycle.term, cycle.position) for cycle in corpus.cycles] == [("Normal", 1), ("Wheeze", 0)]
    assert corpus.problems == ()


@pytest.mark.parametrize(
    ("event", "sound"),
    [
        ("Normal", LungSound.NORMAL),
        ("Fine Crackle", LungSound.CRACKLE),
        ("Coarse Crackle", LungSound.CRACKLE),
        ("Wheeze", LungSound.WHEEZE),
        ("Rhonchi", LungSound.WHEEZE),
        ("Stridor", LungSound.WHEEZE),
        ("Wheeze+Crackle", LungSound.BOTH),
    ],
)
def test_seven_event_types_fold_to_four_sounds(tmp_path, event, sound):
    add(tmp_path, TRAIN, "train", [("0", "1000", event)])
    corpus = read_sprsound(tmp_path)
    assert [(cycle.sound, cycle.term) for cycle in corpus.cycles] == [(sound, event)]
    assert corpus.vocabulary == "sprsound_event7"


def test_unknown_event_type_is_left_out_and_named(tmp_path):
    add(tmp_path, TRAIN, "train", [("0", "900", "Normal"), ("900", "1800", "Cough")])
    corpus = read_sprsound(tmp_path)
    problem = only_problem(corpus)
    assert (problem.kind, problem.where) == ("unknown event type", f"{TRAIN}.json event 2")
    assert "'Cough'" in problem.detail
    assert len(corpus.cycles) == 1


def test_recordings_without_events_are_normal_and_counted_in_a_note(tmp_path):
    add(tmp_path, TRAIN, "train", [])
    add(tmp_path, INTER, "inter")
    corpus = read_corpus(tmp_path)
    assert len(corpus.recordings) == 2
    assert len(corpus.cycles) == 1
    assert corpus.notes == ("1 recordings are annotated as without any event: they have no cycles",)


def test_known_twin_of_train_and_intra_is_noted(tmp_path):
    add(tmp_path, "41279835_14.1_0_p1_2945", "train")
    add(tmp_path, "41279835_14.1_0_p1_2050", "intra")
    assert any("hold the same sound" in note for note in read_sprsound(tmp_path).notes)


def test_bad_annotation_leaves_no_cycle(tmp_path):
    path = add(tmp_path, TRAIN, "train")
    for content in (
        "{not json",
        "[]",
        "[" * 100_000,
        '{"event_annotation": "none"}',
        '{"event_annotation": [{"start": "1", "end": "900"}]}',
        '{"event_annotation": ["Normal"]}',
        '{"event_annotation": [{"start": "a", "end": "900", "type": "Normal"}]}',
        '{"event_annotation": [{"start": null, "end": "900", "type": "Normal"}]}',
        '{"event_annotation": [{"start": "-1", "end": "900", "type": "Normal"}]}',
        '{"event_annotation": [{"start": "1", "end": "NaN", "type": "Normal"}]}',
        '{"event_annotation": [{"start": "1", "end": "1e999999999999999999", "type": "Normal"}]}',
        '{"event_annotation": [{"start": "1", "end": 1e999999999999999999, "type": "Normal"}]}',
        '{"event_annotation": [{"start": "1", "end": "9_00", "type": "Normal"}]}',
        f'{{"event_annotation": [{{"start": "1", "end": {"9" * 5_000}, "type": "Normal"}}]}}',
        '{"event_annotation": [], "record_annotation": ["CAS"]}',
    ):
        path.write_text(content)
        corpus = read_sprsound(tmp_path)
        problem = only_problem(corpus)
        assert (problem.kind, problem.where.partition(" ")[0]) == ("bad annotation", f"{TRAIN}.json"), content
        assert "\n" not in problem.detail
        assert len(corpus.recordings) == 1
        assert (corpus.cycles, corpus.notes) == ((), ())


def test_cycles_that_cannot_be_used(tmp_path):
    events = [("0", "900", "Normal"), ("0", "900", "Wheeze"), ("900", "900", "Normal"), ("1000", "2011", "Normal")]
    add(tmp_path, TRAIN, "train", events)
    corpus = read_sprsound(tmp_path)
    assert kinds(corpus.problems) == ["cycle past the end", "duplicate cycle", "empty cycle"]
    assert [cycle.sound for cycle in corpus.cycles] == [LungSound.NORMAL]


def test_files_that_do_not_pair(tmp_path):
    add(tmp_path, TRAIN, "train")
    write_sound(tmp_path / "test_wav" / f"{INTER}.wav")
    write_event_file(tmp_path / "test_json" / "intra_test_json" / f"{INTRA}.json", NORMAL)
    write_sound(tmp_path / "train_wav" / "cough.wav")
    corpus = read_sprsound(tmp_path)
    assert [(p.kind, p.where) for p in corpus.problems] == [
        ("annotation without audio", f"{INTRA}.json"),
        ("missing annotation", INTER),
        ("unknown name", "cough.wav"),
    ]
    assert [recording.name for recording in corpus.recordings] == sorted([TRAIN, INTER])
    assert corpus.split == {TRAIN: "train"}


def test_annotation_in_two_parts(tmp_path):
    add(tmp_path, INTER, "inter")
    write_event_file(tmp_path / JSON_FOLDERS["intra"] / f"{INTER}.json", NORMAL)
    corpus = read_sprsound(tmp_path)
    assert only_problem(corpus).kind == "duplicate annotation"
    assert corpus.split == {INTER: "inter"}


def test_same_recording_in_train_and_test(tmp_path):
    add(tmp_path, TRAIN, "train")
    write_sound(tmp_path / "test_wav" / f"{TRAIN}.wav")
    assert only_problem(read_sprsound(tmp_path)).kind == "duplicate recording"


def test_bad_sound_file(tmp_path):
    add(tmp_path, TRAIN, "train")
    (tmp_path / "train_wav" / f"{TRAIN}.wav").write_text("no sound")
    corpus = read_sprsound(tmp_path)
    assert only_problem(corpus).kind == "bad sound file"
    assert (corpus.recordings, corpus.cycles, dict(corpus.split)) == ((), (), {})


def test_folder_without_sound_folders(tmp_path):
    with pytest.raises(CorpusError, match="looked for train_wav"):
        read_sprsound(tmp_path)


def test_only_the_official_split(tmp_path):
    add(tmp_path, TRAIN, "train")
    with pytest.raises(CorpusError, match="'fold0'"):
        read_corpus(tmp_path, split="fold0")


@pytest.mark.parametrize(
    ("record", "sound"),
    [
        ("Normal", LungSound.NORMAL),
        ("CAS", LungSound.WHEEZE),
        ("DAS", LungSound.CRACKLE),
        ("CAS & DAS", LungSound.BOTH),
        ("Poor Quality", LungSound.NORMAL),
    ],
)
def test_whole_recordings_with_their_own_word(tmp_path, record, sound):
    add(tmp_path, TRAIN, "train", [] if record == "Poor Quality" else NORMAL, record=record)
    corpus = read_corpus(tmp_path, unit="recording")
    [cycle] = corpus.cycles
    assert (cycle.key, cycle.term, cycle.sound) == (f"{TRAIN}#0.000-2.000", record, sound)
    assert (corpus.vocabulary, corpus.notes) == ("sprsound_record5", ())
    assert [recording.term for recording in read_corpus(tmp_path).recordings] == [record]


@pytest.mark.parametrize("record", ["Wheezy", None])
def test_unknown_word_for_a_recording_leaves_it_out_of_the_record_task_only(tmp_path, record):
    add(tmp_path, TRAIN, "train", record=record)
    corpus = read_corpus(tmp_path, unit="recording", is_strict=False)
    problem = only_problem(corpus)
    assert (problem.kind, problem.where) == ("unknown record annotation", f"{TRAIN}.json")
    assert "CAS & DAS" in problem.detail
    assert corpus.cycles == ()
    assert len(read_corpus(tmp_path).cycles) == 1
