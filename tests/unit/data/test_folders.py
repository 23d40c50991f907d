import pytest

from lungsound.data.folders import read_folders
from lungsound.data.reader import find_kind, read_corpus
from lungsound.errors import CorpusError
from tests.unit.data.trees import write_sound


def write_sounds(root, *names):
    for name in names:
        write_sound(root / name)
    return root


def problems_of(root):
    return [str(problem) for problem in read_corpus(root, is_strict=False).problems]


def test_parts_and_classes(tmp_path):
    write_sounds(tmp_path, "train/crackle/p1_left.wav", "train/normal/p1_right.flac", "test/wheeze/p2.wav")
    corpus = read_corpus(tmp_path)
    assert (corpus.name, find_kind(tmp_path), corpus.vocabulary) == ("folders", "folders", "sound4")
    assert [(c.key, c.sound.word, c.recording.patient, corpus.split[c.recording.name]) for c in corpus.cycles] == [
        ("test/wheeze/p2#0.000-2.000", "wheeze", "p2", "test"),
        ("train/crackle/p1_left#0.000-2.000", "crackle", "p1", "train"),
        ("train/normal/p1_right#0.000-2.000", "normal", "p1", "train"),
    ]
    assert corpus.notes == ("labels: the words of sound4",)


def test_without_parts_patients_are_split(tmp_path):
    write_sounds(tmp_path, *(f"{name}/p{n}_1.wav" for n in range(5) for name in ("normal", "crackle")))
    corpus = read_corpus(tmp_path)
    parts = {part: {c.recording.patient for c in corpus.part(part)} for part in corpus.parts}
    assert {part: len(patients) for part, patients in parts.items()} == {"train": 3, "test": 2}
    assert parts["train"].isdisjoint(parts["test"])
    assert corpus.notes[0].startswith("split: none given; 3 of 5 patients train")


def test_whole_recordings_are_cycles_of_either_unit(tmp_path):
    write_sounds(tmp_path, "train/CAS & DAS/a.wav", "test/Poor Quality/b.wav")
    corpus = read_corpus(tmp_path, unit="recording")
    assert [cycle.term for cycle in corpus.cycles] == ["Poor Quality", "CAS & DAS"]
    assert corpus.vocabulary == "sprsound_record5"


def test_patients_from_a_file(tmp_path):
    write_sounds(tmp_path, "normal/1.wav", "crackle/1.wav", "crackle/2.wav")
    (tmp_path / "patients.csv").write_text("path,patient\nnormal/1.wav,x\ncrackle/1.wav,y\n")
    corpus = read_corpus(tmp_path, is_strict=False)
    assert {r.name: r.patient for r in corpus.recordings} == {"normal/1": "x", "crackle/1": "y"}
    assert [str(p) for p in corpus.problems] == ["no patient: crackle/2.wav: patients.csv does not name it"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\nnormal/1.wav\n", "line 1: columns path and patient are needed; it names path"),
        ("path,patient\nnormal/1.wav,\n", "line 2: path and patient are needed on every line"),
        ("path,patient\nnormal/1.wav\n", "line 2: path and patient are needed on every line"),
        ("path,patient\nnormal/1.wav,x\nnormal/1.wav,y\n", "line 3: normal/1.wav has another patient"),
    ],
)
def test_a_bad_file_of_patients(tmp_path, text, message):
    write_sounds(tmp_path, "normal/1.wav")
    (tmp_path / "patients.csv").write_text(text)
    with pytest.raises(CorpusError, match=message):
        read_corpus(tmp_path)


def test_own_names_need_a_label_map(tmp_path):
    write_sounds(tmp_path, "sibilus/a.wav", "clear/b.wav")
    [problem] = problems_of(tmp_path)
    assert problem.startswith("unknown label: ")
    assert "labels 'clear', 'sibilus' are not all of one known set" in problem
    label_map = tmp_path / "map.toml"
    label_map.write_text('label_set = "sound4"\n[classes]\nclear = "normal"\n')
    corpus = read_corpus(tmp_path, is_strict=False, label_map=label_map)
    assert [(p.kind, p.where) for p in corpus.problems] == [("unknown label", "sibilus/a#0.000-2.000")]
    assert [cycle.sound.word for cycle in corpus.cycles] == ["normal"]


def test_what_is_wrong_is_named(tmp_path):
    write_sounds(tmp_path, "train/normal/a.wav", "train/normal/a.flac", "validation/normal/b.wav", "c.wav")
    write_sounds(tmp_path, "train/normal/_d.wav")
    (tmp_path / "train" / "normal" / "e.wav").write_text("no sound")
    found = [str(problem) for problem in read_folders(tmp_path).problems]
    assert [text.split(": ")[:2] for text in found] == [
        ["bad part", "validation"],
        ["bad sound file", "train/normal/e.wav"],
        ["duplicate recording", "train/normal/a.wav"],
        ["misplaced file", "c.wav"],
        ["no patient", "train/normal/_d.wav"],
    ]


def test_mixed_depths_and_parts_without_train(tmp_path):
    write_sounds(tmp_path, "test/normal/a.wav")
    with pytest.raises(CorpusError, match="has the parts test: one of them must be called 'train'"):
        read_corpus(tmp_path)
    write_sounds(tmp_path, "normal/b.wav")
    with pytest.raises(CorpusError, match="has sounds in normal/ and in test/normal/"):
        read_corpus(tmp_path)


def test_no_folders_of_classes(tmp_path):
    with pytest.raises(CorpusError, match="no folders of classes"):
        read_folders(tmp_path)
    with pytest.raises(CorpusError, match=r"no corpus in .*folders of classes"):
        read_corpus(tmp_path)
