from pathlib import Path

import pytest

from lungsound.data.reader import find_kind, read_corpus
from lungsound.data.table import read_table
from lungsound.errors import CorpusError, SettingsError
from lungsound.labels import LABEL_SETS, LungSound
from tests.unit.data.trees import kinds, write_sound

HEADER = "path,start_s,end_s,label,patient,split"
# The words of a newcomer: twelve lines with the header, over SPRSound's recordings.
NEWCOMER = """\
path,start_s,end_s,label,patient,split
train_wav/41056352_4.3_0_p1_3430.flac,11.182,13.908,normal,41056352,train
train_wav/41056352_4.3_0_p1_3430.flac,7.569,9.198,crackle,41056352,train
train_wav/41056352_4.3_0_p1_3430.flac,10.138,10.993,wheeze,41056352,train
train_wav/40969263_4.0_0_p2_2067.flac,3.312,4.663,normal,40969263,train
train_wav/40969263_4.0_0_p2_2067.flac,1.824,2.593,both,40969263,train
train_wav/41161556_1.7_0_p2_2993.flac,0.194,0.878,crackle,41161556,train
train_wav/41161556_1.7_0_p2_2993.flac,2.303,2.807,wheeze,41161556,train
train_wav/41246720_4.2_0_p3_1516.flac,1.115,2.716,normal,41246720,train
train_wav/41067823_6.1_0_p1_1562.flac,1.485,2.818,normal,41067823,test
train_wav/41067823_6.1_0_p1_1562.flac,6.574,7.44,crackle,41067823,test
train_wav/41267024_0.3_0_p3_2329.flac,0.232,0.885,wheeze,41267024,test
"""


def write_table(folder: Path, *lines: str, header: str = HEADER, name: str = "cycles.csv") -> Path:
    """A table, and a sound of 2 s for each path in its first column, but those called missing."""
    path = folder / name
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    for line in lines:
        sound = folder / line.replace("\t", ",").replace(";", ",").split(",")[0]
        if sound.suffix == ".wav" and "missing" not in sound.name:
            write_sound(sound)
    return path


def problems_of(path: Path, **options: object) -> list[str]:
    return [str(problem) for problem in read_corpus(path, is_strict=False, **options).problems]


@pytest.mark.slow
def test_a_newcomers_table_over_real_recordings(sprsound_dir, tmp_path):
    (tmp_path / "train_wav").symlink_to((sprsound_dir / "train_wav").absolute())
    path = tmp_path / "first.csv"
    suffix = next((sprsound_dir / "train_wav").iterdir()).suffix
    path.write_text(NEWCOMER.replace(".flac", suffix))
    corpus = read_corpus(path)
    assert (corpus.name, corpus.parts, corpus.problems) == ("table", ("train", "test"), ())
    assert {cycle.sound for cycle in corpus.part("train")} == set(LungSound)
    whole = {cycle.key: cycle.sound for cycle in read_corpus(sprsound_dir).cycles}
    assert {cycle.key.removeprefix("train_wav/"): cycle.sound for cycle in corpus.cycles}.items() <= whole.items()


def test_the_same_lines_over_sounds_made_up(tmp_path):
    (tmp_path / "first.csv").write_text(NEWCOMER)
    for name in {line.split(",")[0] for line in NEWCOMER.splitlines()[1:]}:
        write_sound(tmp_path / name, num_samples=4000 * 15)
    corpus = read_corpus(tmp_path / "first.csv")
    assert [len(corpus.part(part)) for part in ("train", "test")] == [8, 3]
    assert corpus.cycles[0].key == "train_wav/40969263_4.0_0_p2_2067#1.824-2.593"
    assert corpus.cycles[0].sound is LungSound.BOTH
    assert corpus.notes == ("labels: the words of sound4",)
    assert {cycle.recording.patient for cycle in corpus.part("train")}.isdisjoint({"41067823", "41267024"})


def test_every_column(tmp_path):
    header = "name,sex,mode,split,patient,wheeze,crackle,start,end,path,device,location,age_years,bmi,diagnosis,note"
    path = tmp_path / "all.csv"
    path.write_text(f"{header}\nr1,Female,sc,inter,p1,TRUE,0,0.25,1.5,sub/a.wav,Littmann,Al,61.5,20,COPD,loud\n")
    write_sound(tmp_path / "sub" / "a.wav")
    corpus = read_corpus(path)
    [cycle] = corpus.cycles
    recording = cycle.recording
    assert (cycle.key, cycle.sound, cycle.term) == ("r1#0.250-1.500", LungSound.WHEEZE, None)
    assert (recording.patient, recording.device, recording.location, recording.mode) == ("p1", "Littmann", "Al", "sc")
    assert (recording.age_years, recording.sex, recording.bmi, recording.diagnosis) == (61.5, "F", 20.0, "COPD")
    assert (corpus.split, corpus.notes) == ({"r1": "inter"}, ("columns that are not read: note",))


@pytest.mark.parametrize(
    ("name", "between"), [("t.csv", ","), ("t.CSV", ","), ("t.tsv", "\t"), ("t.csv", ";")], ids=str
)
def test_separators_byte_order_mark_blank_lines_and_quotes(tmp_path, name, between):
    text = f"{HEADER}\n\na.wav,0,1,normal,p1,train\n,,,,,\n'b.wav',0,1,both,'p2',test\n"
    text = text.replace(",", between).replace("'", '"')
    (tmp_path / name).write_text("\ufeff" + text.replace("\n", "\r\n"), encoding="utf-8", newline="")
    for sound in ("a.wav", "b.wav"):
        write_sound(tmp_path / sound)
    corpus = read_corpus(tmp_path)
    assert [(cycle.recording.patient, cycle.sound.word) for cycle in corpus.cycles] == [
        ("p1", "normal"),
        ("p2", "both"),
    ]


def test_a_cycle_without_times_is_the_whole_recording(tmp_path):
    write_table(tmp_path, "a.wav,normal,p1,train", "b.wav,wheeze,p2,test", header="path,label,patient,split")
    corpus = read_corpus(tmp_path, unit="recording")
    assert [cycle.key for cycle in corpus.cycles] == ["a#0.000-2.000", "b#0.000-2.000"]
    write_table(tmp_path, "a.wav,,,normal,p1,train", "a.wav,0.5,1,wheeze,p1,train")
    assert [cycle.key for cycle in read_corpus(tmp_path).cycles] == ["a#0.000-2.000", "a#0.500-1.000"]
    [problem] = problems_of(tmp_path, unit="recording")
    assert problem.startswith("bad row: cycles.csv line 3: start_s and end_s, but the label set tells whole recordings")


def test_without_a_split_patients_are_split_and_stay_whole(tmp_path):
    lines = [f"r{n}.wav,normal,p{n // 2}" for n in range(20)]
    corpus = read_corpus(write_table(tmp_path, *lines, header="path,label,patient"))
    parts = {part: {c.recording.patient for c in corpus.part(part)} for part in corpus.parts}
    assert {part: len(patients) for part, patients in parts.items()} == {"train": 6, "test": 4}
    assert parts["train"].isdisjoint(parts["test"])
    assert corpus.notes[0].startswith("split: none given; 6 of 10 patients train")
    other = read_corpus(write_table(tmp_path, *reversed(lines), header="path,label,patient"))
    assert other.split == corpus.split


@pytest.mark.parametrize(("num_patients", "num_train"), [(1, 1), (2, 1), (3, 2), (5, 3)])
def test_of_two_patients_one_is_tested(tmp_path, num_patients, num_train):
    lines = [f"r{n}.wav,normal,p{n}" for n in range(num_patients)]
    corpus = read_corpus(write_table(tmp_path, *lines, header="path,label,patient"))
    assert list(corpus.split.values()).count("train") == num_train


@pytest.mark.parametrize(
    ("words", "vocabulary", "sounds"),
    [
        (("normal", "crackle", "wheeze", "both"), "sound4", (0, 1, 2, 3)),
        (("Normal", "CRACKLE", "wheeze", "Both"), "sound4", (0, 1, 2, 3)),
        (("Normal", "Rhonchi", "Fine Crackle", "Wheeze+Crackle"), "sprsound_event7", (0, 2, 1, 3)),
        (("normal", "cas", "das", "cas & das"), "sprsound_record5", (0, 2, 1, 3)),
    ],
)
def test_words_of_a_known_label_set_need_no_map(tmp_path, words, vocabulary, sounds):
    lines = [f"{n}.wav,0,1,{word},p{n},train" for n, word in enumerate(words)]
    corpus = read_corpus(write_table(tmp_path, *lines))
    assert corpus.vocabulary == vocabulary
    assert [int(cycle.sound) for cycle in corpus.cycles] == list(sounds)
    assert all((cycle.term is None) == (vocabulary == "sound4") for cycle in corpus.cycles)


def test_two_class_words_can_be_told_apart_and_are_no_sounds(tmp_path):
    corpus = read_corpus(write_table(tmp_path, "a.wav,0,1,normal,p1,train", "b.wav,0,1,abnormal,p2,test"))
    labels = [[LABEL_SETS[name].label(sound=c.sound, term=c.term) for c in corpus.cycles] for name in ("sound2",)]
    assert labels == [[0, 1]]
    with pytest.raises(SettingsError, match="'sound4' has no class for 'abnormal'"):
        LABEL_SETS["sound4"].label(sound=corpus.cycles[1].sound, term=corpus.cycles[1].term)


def test_own_words_need_a_label_map_and_the_message_says_so(tmp_path):
    table = write_table(tmp_path, "a.wav,0,1,normal,p1,train", "b.wav,0,1,sibilus,p2,test", "c.wav,0,1,hum,p3,test")
    [problem] = problems_of(table)
    assert problem.startswith("unknown label: cycles.csv: labels 'normal', 'sibilus', 'hum' are not all of one known")
    assert "set data.label_map to a file" in problem
    label_map = tmp_path / "ours.toml"
    label_map.write_text('label_set = "sound4"\n[classes]\nnormal = "normal"\nsibilus = "wheeze"\n')
    [problem] = problems_of(table, label_map=label_map)
    assert problem.startswith("unknown label: c#0.000-1.000: 'hum' (of 1 cycles) has no entry in the label map ours")
    label_map.write_text(label_map.read_text() + 'hum = "wheeze"\n')
    corpus = read_corpus(table, label_map=str(label_map))
    assert [cycle.sound.word for cycle in corpus.cycles] == ["normal", "wheeze", "wheeze"]
    assert corpus.notes == ("label map ours.toml to sound4: sibilus and hum become wheeze",)


def test_a_label_map_reads_flags_too(tmp_path):
    table = write_table(tmp_path, "a.wav,1,0,p1,train", header="path,crackle,wheeze,patient,split")
    label_map = tmp_path / "ours.toml"
    label_map.write_text('label_set = "sprsound_event7"\n[classes]\ncrackle = "Coarse Crackle"\n')
    corpus = read_corpus(table, label_map=label_map)
    assert [cycle.term for cycle in corpus.cycles] == ["Coarse Crackle"]
    assert corpus.notes == ("label map ours.toml to sprsound_event7: nothing is lost",)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a.wav,0,1,normal,p1", "bad row: cycles.csv line 3: 5 cells, but line 1 names 6 columns"),
        ("a.wav,0,1,,p1,train", "bad row: cycles.csv line 3: label left blank, but needed on every line"),
        ("a.wav,0,1,normal,,", "bad row: cycles.csv line 3: patient and split left blank"),
        ("a.wav,0,1,normal,p1,Train", "bad row: cycles.csv line 3: part 'Train': the training set is called 'train'"),
        ("a.wav,0,1,normal,p1,TEST", "bad row: cycles.csv line 3: part 'TEST': the test set is called 'test'"),
        ("a.wav,0,1,normal,p1,TRAIN", "bad row: cycles.csv line 3: part 'TRAIN': the training set is called 'train'"),
        ("a.wav,0,1_0,normal,p1,train", "bad row: cycles.csv line 3: end_s is '1_0': "),
        ("a.wav,0,1e999,normal,p1,train", "bad row: cycles.csv line 3: end_s is '1e999': "),
        ("a.wav,0,\u0661,normal,p1,train", "bad row: cycles.csv line 3: end_s is '\u0661': "),
        ("a\0.wav,0,1,normal,p1,train", "bad row: cycles.csv line 3: path is "),
        (f"{'a' * 300}.flac,0,1,normal,p1,train", "bad sound file: cycles.csv line 3: "),
        ("a.wav,0,1,normal,\u200b,train", "bad row: cycles.csv line 3: patient is "),
        ("a.wav,0,1,normal,p1,val", "bad row: cycles.csv line 3: part 'val': validation patients are taken out of"),
        ("a.wav,0,,normal,p1,train", "bad row: cycles.csv line 3: one of start_s and end_s is blank"),
        ("a.wav,zero,1,normal,p1,train", "bad row: cycles.csv line 3: start_s is 'zero': "),
        ("a.wav,0,nan,normal,p1,train", "bad row: cycles.csv line 3: end_s is 'nan': "),
        ("a.wav,1,1,normal,p1,train", "empty cycle: cycles.csv line 3: from 1 s to 1 s"),
        ("a.wav,1,3,normal,p1,train", "cycle past the end: cycles.csv line 3: from 1 s to 3 s, but the recording is"),
        ("a.wav,1,1e308,normal,p1,train", "cycle past the end: cycles.csv line 3: from 1 s to 1e+308 s, but"),
        (".,0,1,normal,p1,train", "bad row: cycles.csv line 3: path '.' names no file"),
        ("./a.wav,0,0.5,normal,p1,train", "duplicate cycle: cycles.csv line 3: 0.000-0.500 s is there already"),
        ("missing.wav,0,1,normal,p1,train", "bad sound file: cycles.csv line 3: missing.wav: "),
        (
            "a.wav,1,2,normal,p2,train",
            "contradicting rows: cycles.csv line 3: patient 'p2', but cycles.csv line 2 says",
        ),
        ("a.flac,1,2,normal,p1,train", "duplicate recording: cycles.csv line 3: a.flac has the same name as a.wav"),
    ],
)
def test_what_is_wrong_with_a_line_is_named_and_left_out(tmp_path, line, problem):
    write_sound(tmp_path / "a.flac")
    table = write_table(tmp_path, "a.wav,0,0.5,normal,p1,train", line)
    found = problems_of(table)
    assert len(found) == 1, found
    assert found[0].startswith(problem)
    assert [cycle.key for cycle in read_corpus(table, is_strict=False).cycles] == ["a#0.000-0.500"]
    with pytest.raises(CorpusError, match="has 1 problem"):
        read_corpus(table)


def test_problems_stand_in_the_order_of_the_lines_and_name_a_sound_once(tmp_path):
    table = write_table(tmp_path, *(f"missing{n}.wav,0,1,normal,p1,train" for n in range(11)))
    found = problems_of(table)
    assert [problem.split(": ")[1] for problem in found] == [f"cycles.csv line {n}" for n in range(2, 13)]
    assert found[0] == (
        "bad sound file: cycles.csv line 2: missing0.wav: cannot be read (No such file or directory); check the path"
    )


@pytest.mark.parametrize(
    ("header", "line", "problem"),
    [
        ("crackle,wheeze", "1,2", "wheeze is '2': "),
        ("label,sex", "normal,x", "sex is 'x': "),
        ("label,age_years", "normal,old", "age_years is 'old': "),
        ("label,bmi", "normal,-1", "bmi is -1.0: "),
    ],
)
def test_what_is_wrong_with_a_fact(tmp_path, header, line, problem):
    table = write_table(tmp_path, f"a.wav,p1,train,{line}", header=f"path,patient,split,{header}")
    (found,) = problems_of(table)
    assert found.startswith(f"bad row: cycles.csv line 2: {problem}")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("path,label", "no column patient; it names 'path', 'label'"),
        ("patient", r"no column path and no label \(or crackle and wheeze\)"),
        ("path,patient,crackle", r"no column label \(or crackle and wheeze\)"),
        ("path,patient,label,crackle,wheeze", "both name the sound: keep one"),
        ("path,patient,label,start_s", "start_s and end_s, one without the other"),
        ("path,patient,label,path", "two columns are called 'path'"),
        ("path,patient,label,start,start_s,end", "two columns are called 'start_s'"),
        ("path,patient,label,spilt", "unknown column 'spilt': write 'split' if that is meant"),
        ("", "no column path"),
    ],
)
def test_what_is_wrong_with_the_first_line(tmp_path, header, message):
    with pytest.raises(CorpusError, match=f"cycles.csv line 1: .*{message}"):
        read_corpus(write_table(tmp_path, header=header))


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "cycles.csv").write_bytes(b"path,\xff\xfe")
    with pytest.raises(CorpusError, match=r"cycles\.csv line 1: no text in UTF-8, from byte 6"):
        read_corpus(tmp_path / "cycles.csv")


def test_which_table_is_meant(tmp_path):
    with pytest.raises(CorpusError, match=r"a table is one .csv or .tsv file.*found in .*: none"):
        read_table(tmp_path)
    (tmp_path / "notes.csv").write_text("what,ever\n")
    table = write_table(tmp_path, "a.wav,0,1,normal,p1,train")
    assert find_kind(tmp_path) == find_kind(table) == "table"
    assert len(read_corpus(tmp_path).cycles) == 1
    write_table(tmp_path, "a.wav,0,1,normal,p1,train", name="more.tsv", header=HEADER.replace(",", "\t"))
    with pytest.raises(CorpusError, match=r"found in .*: cycles\.csv, more\.tsv"):
        read_corpus(tmp_path)


def test_a_table_has_no_other_split(tmp_path):
    table = write_table(tmp_path, "a.wav,0,1,normal,p1,train")
    with pytest.raises(CorpusError, match="'table' has its official split only, got split 'fold0'"):
        read_corpus(table, split="fold0")
    assert kinds(read_corpus(table).problems) == []


def test_sounds_that_are_all_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "first.flac").write_bytes(b"")
    table = tmp_path / "first.csv"
    table.write_text("path,patient,label\nfirst.wav,p1,normal\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"first\.wav: cannot be read .*; there is first\.flac"):
        read_corpus(table)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("M\u00fcller", "Mu\u0308ller"),
        ("101", "101.0"),
        ("101", "\uff11\uff10\uff11"),
        ("101", "101\u200b"),
        ("Doe J", "Doe\u00a0 J"),
    ],
)
def test_a_patient_of_two_spellings_is_one(one: str, other: str, tmp_path: Path) -> None:
    table = write_table(
        tmp_path, f"a.wav,0,1,normal,{one},train", f"a.wav,1,2,normal,{other},train", f"b.wav,0,1,both,{other},test"
    )
    corpus = read_corpus(table)
    assert {recording.patient for recording in corpus.recordings} == {one}


def test_patients_who_may_be_the_same_are_named(tmp_path: Path) -> None:
    table = write_table(tmp_path, "a.wav,0,1,normal,p01,train", "b.wav,0,1,both,P1,test", "c.wav,0,1,both,p10,test")
    assert "patients who may be the same: 'P1' and 'p01'" in read_corpus(table).notes


def test_one_part_is_written_in_one_way(tmp_path: Path) -> None:
    rows = [f"{name}.wav,0,1,normal,{name},{part}" for name, part in zip("abc", ("Ward", "train", "ward"), strict=True)]
    assert problems_of(write_table(tmp_path, *rows)) == [
        "bad row: cycles.csv line 4: part 'ward' is called 'Ward' elsewhere: write it in one way"
    ]


@pytest.mark.parametrize("is_hard", [False, True])
def test_one_file_under_two_paths_is_one_recording(is_hard: bool, tmp_path: Path) -> None:
    table = write_table(tmp_path, "a.wav,0,1,normal,p1,train", "c.flac,0,1,wheeze,p9,test", "c.flac,1,2,both,p1,train")
    if is_hard:
        (tmp_path / "c.flac").hardlink_to(tmp_path / "a.wav")
    else:
        (tmp_path / "c.flac").symlink_to("a.wav")
    corpus = read_corpus(table, is_strict=False)
    assert [str(problem) for problem in corpus.problems] == [
        "contradicting rows: cycles.csv line 3: patient 'p9', split 'test', but cycles.csv line 2 says otherwise of "
        "a.wav: make them agree"
    ]
    assert [cycle.key for cycle in corpus.cycles] == ["a#0.000-1.000", "a#1.000-2.000"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("path,label,patient\n".encode("utf-16"), "UTF-16"),
        (b"path|label|patient\n", "no column path .* 'path|label|patient'"),
        (b"file,label,patient\n", "no column path; it names 'file'"),
        (b'"path,label\n', "no valid CSV"),
        (b"x" * 200_000, "no valid CSV|no column path"),
    ],
)
def test_a_table_that_is_none_is_named_in_its_folder(data: bytes, reason: str, tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav")
    (tmp_path / "mine.csv").write_bytes(data)
    with pytest.raises(CorpusError, match=rf"no table that says what they are \(mine\.csv: .*({reason})"):
        read_corpus(tmp_path)


def test_a_header_of_thousands_of_columns_is_refused_at_once(tmp_path: Path) -> None:
    table = write_table(tmp_path, header=",".join(["path", "patient", "label", *map(str, range(20_000))]))
    with pytest.raises(CorpusError, match="20003 columns"):
        read_corpus(table)


def test_columns_may_be_parted_by_tabs_in_a_csv(tmp_path: Path) -> None:
    table = write_table(tmp_path, "a.wav\tnormal\tp1", header="path\tlabel\tpatient")
    assert read_corpus(table).recordings[0].patient == "p1"


def test_a_place_may_hold_a_number_of_any_length(tmp_path: Path) -> None:
    table = write_table(tmp_path, f"missing{'9' * 5_000}.wav,0,1,normal,p1,train", "missing.wav,0,1,normal,p1,train")
    assert [problem.partition(": ")[0] for problem in problems_of(table)] == ["bad sound file"] * 2
