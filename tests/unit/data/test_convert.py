import json
import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lungsound.data import icbhi, sprsound
from lungsound.data.convert import icbhi_text, losses, sprsound_text, write_annotations
from lungsound.data.corpus import Corpus, Cycle, Recording
from lungsound.data.reader import read_corpus
from lungsound.errors import CorpusError, SettingsError
from lungsound.labels import LABEL_SETS, LungSound
from tests.unit.data.trees import write_event_file, write_icbhi, write_sound

ICBHI_NAMES = ("101_1b1_Al_sc_Meditron", "103_2b2_Ar_mc_LittC2SE")
TRAIN, INTER, INTRA = "65101170_0.4_1_p1_3246", "40512331_8.1_0_p2_3544", "65101170_0.5_1_p4_77"
JSON_FOLDERS = {TRAIN: "train_json", INTER: "test_json/inter_test_json", INTRA: "test_json/intra_test_json"}


def icbhi_corpus(folder: Path) -> Corpus:
    texts = ("0.036\t0.579\t0\t0\n0.579\t1\t1\t0\n", "0\t0.12345\t0\t1\n0.12345\t2\t1\t1\n")
    return read_corpus(write_icbhi(folder, dict(zip(ICBHI_NAMES, texts, strict=True))))


def sprsound_corpus(folder: Path, *, record: str | None = "CAS & DAS") -> Corpus:
    """An event out of order, a recording of poor quality without any, all three parts."""
    events = {
        TRAIN: [("1500", "1999", "Rhonchi"), ("342", "1500", "Normal")],
        INTER: [],
        INTRA: [("0", "9", "Stridor")],
    }
    for name, found in events.items():
        write_sound(folder / ("train_wav" if name == TRAIN else "test_wav") / f"{name}.wav")
        write_event_file(folder / JSON_FOLDERS[name] / f"{name}.json", found, record=record)
    return read_corpus(folder)


def beside_sounds(corpus: Corpus, written: Path) -> Path:
    """The written annotations with the sounds of a corpus where its readers look for them."""
    for recording in corpus.recordings:
        folder = recording.path.parent.name if corpus.name == "sprsound" else "."
        (written / folder).mkdir(exist_ok=True)
        (written / folder / recording.path.name).symlink_to(recording.path)
    return written


def content(corpus: Corpus) -> object:
    """Everything but where it lies."""
    recordings = [replace(recording, path=Path()) for recording in corpus.recordings]
    cycles = [(cycle.key, cycle.start_s, cycle.end_s, cycle.sound, cycle.term) for cycle in corpus.cycles]
    return recordings, cycles, corpus.split, corpus.vocabulary


# ---- every real annotation ----


def test_all_of_icbhis_annotations_come_back_byte_for_byte(shared_dir):
    paths = sorted((shared_dir / "data" / "icbhi" / "annotations_all").glob("*.txt"))
    assert len(paths) == 920
    for path in paths:
        recording = Recording(path.stem, path.stem[:3], path, 1000.0, 4000)
        found = icbhi.read_annotation(path)
        cycles = [Cycle(recording, *fields, position=number) for number, (_, fields) in enumerate(found)]
        assert icbhi_text(cycles).encode() == path.read_bytes()


@pytest.mark.slow
def test_all_of_sprsounds_annotations_come_back(sprsound_dir, tmp_path):
    corpus = read_corpus(sprsound_dir)
    assert write_annotations(corpus, tmp_path / "out", to="sprsound") == []
    paths = sorted((tmp_path / "out").rglob("*.json"))
    assert len(paths) == len(corpus.recordings)
    for path in paths:
        original = sprsound_dir / path.relative_to(tmp_path / "out")
        assert json.loads(path.read_text()) == json.loads(original.read_text())


@pytest.mark.slow
def test_real_corpora_through_a_table(sprsound_dir, icbhi_dir, tmp_path):
    whole = read_corpus(icbhi_dir)
    assert write_annotations(whole, tmp_path / "icbhi", to="table") == []
    again = read_corpus(tmp_path / "icbhi")
    assert content(again) == content(whole)
    events = read_corpus(sprsound_dir)
    assert len(write_annotations(events, tmp_path / "events", to="table", is_lossy=True)) == 3
    assert content(read_corpus(tmp_path / "events"))[1] == content(events)[1]
    records = read_corpus(sprsound_dir, unit="recording")
    write_annotations(records, tmp_path / "records", to="table", is_lossy=True)
    assert content(read_corpus(tmp_path / "records", unit="recording"))[1] == content(records)[1]


# ---- made up ----


def test_icbhi_through_icbhi(tmp_path):
    corpus = icbhi_corpus(tmp_path / "in")
    assert write_annotations(corpus, tmp_path / "out", to="icbhi") == []
    for name in ICBHI_NAMES:
        assert (tmp_path / "out" / f"{name}.txt").read_bytes() == (tmp_path / "in" / f"{name}.txt").read_bytes()
    again = read_corpus(beside_sounds(corpus, tmp_path / "out"))
    assert content(again) == content(corpus)
    assert "split: official, from official_split.txt" in again.notes


@pytest.mark.parametrize("record", ["CAS & DAS", None])
def test_sprsound_through_sprsound(tmp_path, record):
    corpus = sprsound_corpus(tmp_path / "in", record=record)
    assert write_annotations(corpus, tmp_path / "out", to="sprsound") == []
    again = read_corpus(beside_sounds(corpus, tmp_path / "out"))
    assert content(again) == content(corpus)
    assert [c.position for c in again.cycles] == [c.position for c in corpus.cycles] == [1, 0, 0]
    if record is not None:
        for name, folder in JSON_FOLDERS.items():
            place = Path(folder) / f"{name}.json"
            assert (tmp_path / "out" / place).read_bytes() == (tmp_path / "in" / place).read_bytes()


def test_table_through_table(tmp_path):
    corpus = icbhi_corpus(tmp_path / "in")
    assert write_annotations(corpus, tmp_path / "one", to="table") == []
    one = read_corpus(tmp_path / "one")
    assert content(one) == content(corpus)
    assert write_annotations(one, tmp_path / "two", to="table") == []
    assert (tmp_path / "two" / "annotations.csv").read_text() == (tmp_path / "one" / "annotations.csv").read_text()
    header, first = (tmp_path / "one" / "annotations.csv").read_text().splitlines()[:2]
    assert header == "path,start_s,end_s,crackle,wheeze,patient,split,device,location,mode,name"
    assert first.startswith(f"../in/{ICBHI_NAMES[0]}.wav,0.036,0.579,0,0,101,test,Meditron,Al,sc,")


def test_a_whole_recording_has_no_times_in_a_table(tmp_path):
    sprsound_corpus(tmp_path / "in")
    records = read_corpus(tmp_path / "in", unit="recording")
    write_annotations(records, tmp_path / "out", to="table", is_lossy=True)
    assert f"{TRAIN}.wav,,,CAS & DAS,65101170,train," in (tmp_path / "out" / "annotations.csv").read_text()
    assert content(read_corpus(tmp_path / "out", unit="recording"))[1] == content(records)[1]


def test_what_is_lost_is_refused_unless_it_is_given_up(tmp_path):
    corpus = sprsound_corpus(tmp_path / "in")
    expected = {
        "icbhi": [
            "words of sprsound_event7 are written as the four sounds",
            "Rhonchi and Stridor become wheeze",
            "3 recordings are not named as those of icbhi, so their patients are lost",
            "3 recordings have a word for the whole recording, which is not written",
            "1 recordings without any cycle are not written",
            "that patients of intra are in train by design",
        ],
        "table": [
            "3 recordings have a word for the whole recording, which is not written",
            "1 recordings without any cycle are not written",
            "that patients of intra are in train by design",
        ],
        "sprsound": [],
    }
    assert {to: losses(corpus, to) for to in expected} == expected
    with pytest.raises(CorpusError, match=r"icbhi cannot say everything: words of .*To go without, add --lossy"):
        write_annotations(corpus, tmp_path / "out", to="icbhi")
    assert not (tmp_path / "out").exists()
    assert write_annotations(corpus, tmp_path / "out", to="icbhi", is_lossy=True) == expected["icbhi"]
    assert (tmp_path / "out" / f"{TRAIN}.txt").read_text() == "1.5\t1.999\t0\t1\n0.342\t1.5\t0\t0\n"
    assert not (tmp_path / "out" / f"{INTER}.txt").exists()


def test_icbhi_as_sprsound_needs_a_label_map(tmp_path):
    corpus = icbhi_corpus(tmp_path / "in")
    with pytest.raises(CorpusError, match=r"sprsound has no word for 'both', 'crackle', .*--label-map FILE"):
        write_annotations(corpus, tmp_path / "out", to="sprsound", is_lossy=True)
    label_map = tmp_path / "map.toml"
    label_map.write_text(
        'label_set = "sprsound_event7"\n[classes]\nnormal = "Normal"\ncrackle = "Coarse Crackle"\nwheeze = "Wheeze"\n'
        'both = "Wheeze+Crackle"\n'
    )
    corpus = read_corpus(tmp_path / "in", label_map=label_map)
    assert losses(corpus, "sprsound") == [
        "2 recordings are not named as those of sprsound, so their patients are lost",
        "the part 'test' is written as 'inter'",
    ]
    write_annotations(corpus, tmp_path / "out", to="sprsound", is_lossy=True)
    events = json.loads((tmp_path / "out" / "train_json" / f"{ICBHI_NAMES[1]}.json").read_text())
    assert events == {
        "event_annotation": [
            {"start": "0", "end": "123.45", "type": "Wheeze"},
            {"start": "123.45", "end": "2000", "type": "Wheeze+Crackle"},
        ]
    }


def table_corpus(folder: Path, lines: str) -> Corpus:
    for name in ("a/x.wav", "b/x.wav", "c d.wav"):
        write_sound(folder / name)
    (folder / "t.csv").write_text("path,label,patient,split\n" + lines)
    return read_corpus(folder / "t.csv")


@pytest.mark.parametrize(
    ("to", "lines", "message"),
    [
        ("icbhi", "a/x.wav,abnormal,p,train\n", "icbhi has no word for 'abnormal'; its words are normal, crackle"),
        ("sprsound", "a/x.wav,Poor Quality,p,train\n", "sprsound has no word for 'Poor Quality'"),
        ("icbhi", "a/x.wav,normal,p,train\nb/x.wav,normal,q,test\n", "several are called x"),
        ("icbhi", "c d.wav,normal,p,train\n", "cannot say 'c d': a split file cannot hold blanks"),
        (
            "sprsound",
            "a/x.wav,Rhonchi,p,train\nc d.wav,Rhonchi,q,other\n",
            "cannot say 'other': parts are train, inter",
        ),
    ],
)
def test_what_cannot_be_written_at_all(tmp_path, to, lines, message):
    corpus = table_corpus(tmp_path, lines)
    with pytest.raises(CorpusError, match=message):
        write_annotations(corpus, tmp_path / "out", to=to, is_lossy=True)


def test_nothing_is_overwritten_and_nothing_is_left_behind(tmp_path, monkeypatch):
    corpus = icbhi_corpus(tmp_path / "in")
    with pytest.raises(SettingsError, match="is not empty"):
        write_annotations(corpus, tmp_path / "in", to="icbhi")
    (tmp_path / "empty").mkdir()
    write_annotations(corpus, tmp_path / "empty", to="icbhi")
    assert len(list((tmp_path / "empty").iterdir())) == 3

    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="disk full"):
        write_annotations(corpus, tmp_path / "out", to="icbhi")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "in"]


def test_a_corpus_with_problems_and_one_made_by_a_program(tmp_path):
    corpus = replace(icbhi_corpus(tmp_path / "in"), name="synthetic")
    assert losses(corpus, "table") == ["that a program made the recordings"]
    (tmp_path / "bad.txt").write_text("1 2 3 4")
    with pytest.raises(CorpusError, match="problem"):
        write_annotations(read_corpus(tmp_path, kind="icbhi", is_strict=False), tmp_path / "out", to="icbhi")


# ---- any cycles ----

times = st.floats(0, 1e4)
sounds = st.sampled_from(LungSound)
events = st.sampled_from(LABEL_SETS["sprsound_event7"].classes)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(times, times, sounds), min_size=1, max_size=8))
@example([(5e-324, -0.0, LungSound.BOTH)])
def test_any_cycles_come_back_from_icbhis_text(found):
    recording = Recording("r", "p", Path("r.wav"), 1.0, 4000)
    cycles = [Cycle(recording, a, b, s.has_crackle, s.has_wheeze, position=n) for n, (a, b, s) in enumerate(found)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "r.txt"
        path.write_text(icbhi_text(cycles))
        read = [Cycle(recording, *fields, position=n) for n, (_, fields) in enumerate(icbhi.read_annotation(path))]
    assert read == cycles


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(times, times, events), max_size=8), st.none() | st.text(max_size=20))
@example([(3e-05, 1e4, "Normal")], None)
def test_any_events_come_back_from_sprsounds_json(found, record):
    recording = Recording("r", "p", Path("r.wav"), 1.0, 4000)
    cycles = [Cycle(recording, a, b, False, False, term, n) for n, (a, b, term) in enumerate(found)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "r.json"
        path.write_text(sprsound_text(record, cycles))
        annotation = sprsound.read_annotation(path)
    assert annotation.record_annotation == record
    seconds = [(float(e.start.scaleb(-3)), float(e.end.scaleb(-3)), e.type) for e in annotation.event_annotation]
    assert seconds == found


def test_names_that_are_no_utf_8_come_back_through_a_table(tmp_path):
    sound = write_sound(tmp_path / "sounds" / "normal" / "p1.wav")
    try:
        sound.rename(sound.with_name(os.fsdecode(b"p1_caf\xe9.wav")))
    except OSError as error:
        pytest.skip(f"this file system has names in UTF-8 only ({error.strerror})")
    corpus = read_corpus(tmp_path / "sounds")
    write_annotations(corpus, tmp_path / "out", to="table")
    back = read_corpus(tmp_path / "out")
    assert [(r.name, r.path.is_file()) for r in back.recordings] == [(r"normal/p1_caf\udce9", True)]
    write_annotations(corpus, tmp_path / "icbhi", to="icbhi", is_lossy=True)
    assert (tmp_path / "icbhi" / os.fsdecode(b"p1_caf\xe9.txt")).is_file()
