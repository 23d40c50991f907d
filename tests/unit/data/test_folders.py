import os

import pytest
import soundfile

from lungsound.data.folders import read_folders
from lungsound.data.reader import find_kind, read_corpus
from lungsound.errors import CorpusError
from tests.unit.data.trees import NORMAL, write_icbhi, write_sound


def write_sounds(root, *names):
    for name in names:
        write_sound(root / name)
    return root


def problems_of(root):
    return [str(problem) for problem in read_corpus(root, is_strict=False).problems]


def test_a_recording_with_an_impossible_sample_or_of_which_a_part_is_not_read_is_a_problem(tmp_path):
    write_sounds(tmp_path, "train/normal/a.wav", "train/normal/b.wav", "train/normal/c.wav")
    soundfile.write(tmp_path / "train/normal/a.wav", [0.1, 1e20, 0.1, 0.1], 4000, subtype="FLOAT")
    for name, share in (("b", 0), ("c", 0.5)):
        path = tmp_path / f"train/normal/{name}.wav"
        whole = path.read_bytes()
        path.write_bytes(whole[:40] + int(share * (len(whole) - 44)).to_bytes(4, "little") + whole[44:])
    corpus = read_corpus(tmp_path, is_strict=False)
    assert [(each.kind, each.where) for each in corpus.problems] == [
        ("bad sound file", "train/normal/a.wav"),
        ("odd sound file", "train/normal/c.wav"),
    ]
    assert "a sample of 1e+20 at 0.000 s" in corpus.problems[0].detail
    assert [each.duration_s for each in corpus.recordings] == [2.0, 1.0]


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
        ("path,patient\nnormal/1.wav\n", "line 2: 1 cells, but line 1 names 2 columns"),
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


def test_a_patient_with_a_comma_needs_quotes(tmp_path):
    write_sounds(tmp_path, "normal/1.wav", "crackle/2.wav")
    (tmp_path / "patients.csv").write_text("path,patient\nnormal/1.wav,Doe, J\ncrackle/2.wav,Doe, K\n")
    with pytest.raises(CorpusError, match=r"patients\.csv line 2: 3 cells, but line 1 names 2 columns"):
        read_corpus(tmp_path)
    lines = ("path,patient", './normal/1.wav,"Doe, J"', './crackle/../crackle/2.wav,"Doe, K"')
    (tmp_path / "patients.csv").write_text("\n".join(lines))
    assert {r.patient for r in read_corpus(tmp_path).recordings} == {"Doe, J", "Doe, K"}


def test_hidden_files_are_passed_over_and_counted(tmp_path):
    write_sounds(tmp_path, "normal/p1.wav", "crackle/p2.wav")
    for name in ("normal/._p1.wav", "crackle/._p2.wav", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    corpus = read_corpus(tmp_path)
    assert len(corpus.recordings) == 2
    assert corpus.notes[-1].startswith("2 files whose names begin with a dot")


def test_names_need_not_be_utf_8(tmp_path):
    try:
        write_sounds(tmp_path, "normal/p1.wav")
        write_sound(tmp_path / "p2.wav").rename(tmp_path / "normal" / os.fsdecode(b"\xe92_x.wav"))
    except OSError as error:
        pytest.skip(f"this file system has names in UTF-8 only ({error.strerror})")
    corpus = read_corpus(tmp_path)
    names = [(recording.name, recording.patient, recording.path.is_file()) for recording in corpus.recordings]
    assert names == [(r"normal/\udce92_x", r"\udce92", True), ("normal/p1", "p1", True)]
    assert len(corpus.fingerprint) == 64


def test_one_sound_in_two_classes_or_parts_is_one(tmp_path):
    write_sounds(tmp_path, "train/normal/p1.wav", "train/crackle/p2.wav")
    (tmp_path / "test" / "normal").mkdir(parents=True)
    (tmp_path / "test" / "normal" / "p3.wav").symlink_to(tmp_path / "train" / "normal" / "p1.wav")
    assert [problem.split(":")[0] for problem in problems_of(tmp_path)] == ["contradicting rows"]


@pytest.mark.parametrize(
    "inner",
    [
        "Respiratory_Sound_Database/audio_and_txt_files",
        "ICBHI_final_database/ICBHI_final_database/x",
        "a/b/c",
    ],
)
def test_the_folder_that_holds_the_recordings_is_named(inner, tmp_path):
    write_icbhi(tmp_path / inner, {"101_1b1_Al_sc_Meditron": NORMAL, "102_1b1_Ar_sc_Meditron": NORMAL})
    (tmp_path / inner).parent.joinpath("patient_diagnosis.csv").write_text("101,COPD\n")
    for root in (tmp_path, (tmp_path / inner).parent):
        with pytest.raises(CorpusError, match=rf"there is one in {tmp_path / inner}: give that folder"):
            read_corpus(root)
    assert len(read_corpus(tmp_path / inner).recordings) == 2


def test_a_loop_of_links_ends(tmp_path):
    write_sounds(tmp_path, "a/b/c/d/x.wav")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    with pytest.raises(CorpusError, match=rf"no corpus in .*there are sound files in {tmp_path / 'a/b/c/d'}"):
        read_corpus(tmp_path)
