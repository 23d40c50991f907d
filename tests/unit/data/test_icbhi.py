import shutil

import pytest

from lungsound.data.icbhi import canonical_name, official_split, read_icbhi
from lungsound.data.reader import read_corpus
from lungsound.data.tree import manifest_rows
from lungsound.errors import CorpusError
from lungsound.labels import LungSound
from tests.unit.data.trees import NORMAL, kinds, write_icbhi, write_sound

TEST_NAME = "101_1b1_Al_sc_Meditron"  # official part: test; 101_1b1_Al_sc_AKGC417L in the other naming
OTHER_TEST_NAME = "101_1b1_Al_sc_AKGC417L"
TRAIN_NAME = "103_2b2_Ar_mc_LittC2SE"


def only_problem(corpus):
    assert len(corpus.problems) == 1, corpus.problems
    return corpus.problems[0]


class TestWhatIsRead:
    @pytest.mark.parametrize("suffix", [".wav", ".flac", ".WAV"])
    def test_a_recording_with_every_fact_of_its_name(self, tmp_path, suffix):
        corpus = read_icbhi(write_icbhi(tmp_path, {TRAIN_NAME: "0 0.5 0 0\n0.5 1 1 0\n"}, suffix=suffix))
        (recording,) = corpus.recordings
        assert (recording.name, recording.patient, recording.location) == (TRAIN_NAME, "103", "Ar")
        assert (recording.mode, recording.device) == ("mc", "LittC2SE")
        assert (recording.duration_s, recording.sample_rate_hz) == (2.0, 4000)
        assert recording.path == tmp_path / f"{TRAIN_NAME}{suffix}"
        assert [cycle.sound for cycle in corpus.cycles] == [LungSound.NORMAL, LungSound.CRACKLE]
        assert corpus.problems == ()

    @pytest.mark.parametrize(
        "text",
        [
            "0.1\t0.9\t0\t0\n0.9\t1.8\t1\t1\n",
            "0.1 0.9 0 0\n0.9  1.8 1 1\n",
            "0.1\t0.9\t0\t0\r\n0.9\t1.8\t1\t1\r\n",
            "0.1\t0.9\t0\t0\n0.9\t1.8\t1\t1",
            "0.1\t0.9\t0\t0\n0.9\t1.8\t1\t1\n\n",
            "\ufeff0.1\t0.9\t0\t0\n0.9\t1.8\t1\t1\n",
            "0.9\t1.8\t1\t1\n0.1\t0.9\t0\t0\n",
        ],
        ids=["tabs", "spaces", "crlf", "no last newline", "blank last line", "byte-order mark", "out of order"],
    )
    def test_ways_of_writing_an_annotation(self, tmp_path, text):
        corpus = read_icbhi(write_icbhi(tmp_path, {TEST_NAME: text}))
        assert [cycle.key for cycle in corpus.cycles] == [f"{TEST_NAME}#0.100-0.900", f"{TEST_NAME}#0.900-1.800"]
        assert [cycle.sound for cycle in corpus.cycles] == [LungSound.NORMAL, LungSound.BOTH]
        assert corpus.problems == ()

    def test_root_may_hold_the_folder_of_recordings(self, tmp_path):
        write_icbhi(tmp_path / "ICBHI_final_database", {TEST_NAME: NORMAL})
        corpus = read_icbhi(tmp_path)
        assert [recording.name for recording in corpus.recordings] == [TEST_NAME]
        assert corpus.root == tmp_path

    def test_text_files_of_the_archive_are_no_annotations(self, tmp_path):
        write_icbhi(tmp_path, {TEST_NAME: NORMAL})
        for name in ("filename_format.txt", "filename_differences.txt", "patient_list_foldwise.txt"):
            (tmp_path / name).write_text("Elements contained in the filenames:\n")
        (tmp_path / "provenance.csv").write_text("anything")
        assert read_icbhi(tmp_path).problems == ()

    def test_everything_is_sorted(self, tmp_path):
        write_icbhi(tmp_path, dict.fromkeys((TRAIN_NAME, "102_1b1_Ar_sc_Meditron", TEST_NAME), NORMAL))
        corpus = read_icbhi(tmp_path)
        names = [recording.name for recording in corpus.recordings]
        assert names == sorted(names)
        assert [cycle.recording.name for cycle in corpus.cycles] == names
        assert list(corpus.split) == names


class TestTwoNamings:
    def test_other_name_keeps_its_name_and_gets_the_official_part_and_device(self, tmp_path):
        corpus = read_icbhi(write_icbhi(tmp_path, {OTHER_TEST_NAME: NORMAL}))
        (recording,) = corpus.recordings
        assert recording.name == OTHER_TEST_NAME
        assert recording.device == "Meditron"
        assert corpus.split == {OTHER_TEST_NAME: "test"}
        assert corpus.problems == ()
        assert any("1 recordings are in the other naming" in note for note in corpus.notes)

    def test_split_file_in_the_other_naming_finds_recordings_in_the_official_one(self, tmp_path):
        write_icbhi(tmp_path, {TEST_NAME: NORMAL})
        (tmp_path / "ICBHI_challenge_train_test.txt").write_text(f"{OTHER_TEST_NAME}\ttrain\n")
        assert read_icbhi(tmp_path).split == {TEST_NAME: "train"}

    def test_sound_and_annotation_may_follow_different_namings(self, tmp_path):
        write_sound(tmp_path / f"{TEST_NAME}.wav")
        (tmp_path / f"{OTHER_TEST_NAME}.txt").write_text(NORMAL)
        corpus = read_icbhi(tmp_path)
        assert corpus.problems == ()
        assert len(corpus.cycles) == 1

    def test_manifest_joins_91_recordings_of_the_official_split(self):
        rows = manifest_rows("icbhi_other_names.tsv")
        assert len(rows) == len({name for name, _ in rows}) == len({other for _, other in rows}) == 91
        for name, other in rows:
            assert name in official_split()
            assert other not in official_split()
            assert name.endswith("_Meditron")
            assert name.rsplit("_", 1)[0] == other.rsplit("_", 1)[0]
            assert canonical_name(other) == canonical_name(name) == name


class TestSplit:
    def test_official_manifest_counts_parts_and_devices_as_published(self):
        found = {}
        for name, part in official_split().items():
            key = (name.rsplit("_", 1)[1], part)
            found[key] = found.get(key, 0) + 1
        assert found == {
            ("AKGC417L", "train"): 361,
            ("AKGC417L", "test"): 285,
            ("Meditron", "train"): 86,
            ("Meditron", "test"): 41,
            ("LittC2SE", "train"): 87,
            ("Litt3200", "train"): 5,
            ("Litt3200", "test"): 55,
        }

    def test_patients_on_both_sides_of_the_official_split(self):
        patients = {part: {n[:3] for n, p in official_split().items() if p == part} for part in ("train", "test")}
        assert patients["train"] & patients["test"] == {"156", "218"}

    @pytest.mark.parametrize("place", [".", ".."], ids=["beside", "one folder up"])
    @pytest.mark.parametrize("name", ["official_split.txt", "ICBHI_challenge_train_test.txt"])
    def test_split_file_on_disk_comes_before_the_shipped_one(self, tmp_path, place, name):
        root = write_icbhi(tmp_path / "recordings", {TEST_NAME: NORMAL})
        (root / place / name).write_text(f"{TRAIN_NAME}\ttest\n{TEST_NAME}\ttrain")
        corpus = read_icbhi(root)
        assert corpus.split == {TEST_NAME: "train"}
        assert f"split: official, from {name}" in corpus.notes

    def test_folds_hold_each_patient_out_once(self, tmp_path):
        write_icbhi(tmp_path, {TEST_NAME: NORMAL, TRAIN_NAME: NORMAL, "226_1b1_Al_sc_Meditron": NORMAL})
        splits = [read_icbhi(tmp_path, split=f"fold{number}").split for number in range(5)]
        for name in (TEST_NAME, TRAIN_NAME, "226_1b1_Al_sc_Meditron"):
            assert sorted(split[name] for split in splits) == ["test", "train", "train", "train", "train"]

    def test_folds_cover_the_126_patients_of_the_official_split(self):
        rows = manifest_rows("icbhi_folds.tsv")
        assert {patient for patient, _ in rows} == {name[:3] for name in official_split()}
        assert len(rows) == 126
        assert [sum(fold == str(k) for _, fold in rows) for k in range(5)] == [26, 25, 25, 25, 25]

    def test_own_split_file_may_have_other_parts_and_lie_beside_the_recordings(self, tmp_path):
        write_icbhi(tmp_path, {TEST_NAME: NORMAL, TRAIN_NAME: NORMAL})
        path = tmp_path / "mine.txt"
        path.write_bytes(f"\ufeff{TEST_NAME}\tward\r\n\r\n{TRAIN_NAME} train\r\n".encode())
        corpus = read_icbhi(tmp_path, split=str(path))
        assert corpus.split == {TEST_NAME: "ward", TRAIN_NAME: "train"}
        assert corpus.problems == ()

    def test_recording_in_no_split_is_a_problem_and_still_counted(self, tmp_path):
        write_icbhi(tmp_path, {TEST_NAME: NORMAL, "999_1b1_Al_sc_Meditron": NORMAL})
        for split in ("official", "fold0"):
            corpus = read_icbhi(tmp_path, split=split)
            problem = only_problem(corpus)
            assert (problem.kind, problem.where) == ("in no split", "999_1b1_Al_sc_Meditron")
            assert len(corpus.recordings) == len(corpus.cycles) == 2
            assert set(corpus.split) == {TEST_NAME}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("one\n", "line 1: 1 fields"),
            (f"{TEST_NAME}\ttest\n{TEST_NAME}\ttrain\n", "line 2: .* already into test"),
            (f"{TEST_NAME}\ttest\n{OTHER_TEST_NAME}\ttrain\n", "line 2: .* already into test"),
            ("\n", "names no recording"),
            *(
                (f"{TEST_NAME}\ttrain\n{TRAIN_NAME}\t{word}\n", f"line 2: part '{word}'")
                for word in ("val", "VAL", "validation", "dev", "Train", "TEST", "testing")
            ),
        ],
    )
    def test_split_file_that_cannot_be_understood(self, tmp_path, text, message):
        write_icbhi(tmp_path, {TEST_NAME: NORMAL})
        (tmp_path / "official_split.txt").write_text(text)
        with pytest.raises(CorpusError, match=message):
            read_icbhi(tmp_path)

    def test_split_file_that_is_no_text(self, tmp_path):
        write_icbhi(tmp_path, {TEST_NAME: NORMAL})
        (tmp_path / "official_split.txt").write_bytes(b"\xff\xfe\x00\x80")
        with pytest.raises(CorpusError, match=r"official_split\.txt: is text in UTF-16"):
            read_icbhi(tmp_path)

    @pytest.mark.parametrize("split", ["fold5", "official2", "nowhere.tsv"])
    def test_unknown_split(self, tmp_path, split):
        write_icbhi(tmp_path, {TEST_NAME: NORMAL})
        with pytest.raises(CorpusError, match=split):
            read_icbhi(tmp_path, split=split)


class TestPatients:
    METADATA = "101\t3.0\tF\tNA\t19.0\t99.0\tPr\n103\t70.0\tM\t33.0\tNA\tNA\tAr\n104\tNA\tNA\tNA\tNA\tNA\tLl\n"

    def test_without_files_facts_are_unknown_and_a_note_says_so(self, tmp_path):
        corpus = read_icbhi(write_icbhi(tmp_path, {TEST_NAME: NORMAL}))
        (recording,) = corpus.recordings
        assert (recording.age_years, recording.sex, recording.bmi, recording.diagnosis) == (None, None, None, None)
        assert any(note.startswith("age, sex and body-mass index are unknown") for note in corpus.notes)
        assert any(note.startswith("diagnoses are unknown") for note in corpus.notes)
        assert corpus.problems == ()

    @pytest.mark.parametrize("place", [".", ".."], ids=["beside", "one folder up"])
    @pytest.mark.parametrize(
        ("demographics", "diagnoses", "separator"),
        [
            ("metadata.txt", "patient_diagnosis.txt", "\t"),
            ("demographic_info.txt", "patient_diagnosis.csv", ","),
            ("ICBHI_Challenge_demographic_information.txt", "ICBHI_Challenge_diagnosis.txt", " "),
        ],
    )
    def test_facts_of_children_adults_and_unknown_patients(self, tmp_path, place, demographics, diagnoses, separator):
        root = write_icbhi(
            tmp_path / "recordings", dict.fromkeys((TEST_NAME, TRAIN_NAME, "104_1b1_Al_sc_Litt3200"), NORMAL)
        )
        (root / place / demographics).write_text(self.METADATA)
        (root / place / diagnoses).write_bytes(f"101{separator}URTI\r\n103{separator}Asthma".encode())
        corpus = read_icbhi(root)
        child, adult, unknown = corpus.recordings
        assert (child.age_years, child.sex, child.diagnosis) == (3.0, "F", "URTI")
        assert child.bmi == pytest.approx(19.0 / 0.99**2)
        assert (adult.age_years, adult.sex, adult.bmi, adult.diagnosis) == (70.0, "M", 33.0, "Asthma")
        assert (unknown.age_years, unknown.sex, unknown.bmi, unknown.diagnosis) == (None, None, None, None)
        assert corpus.problems == ()

    def test_location_comes_from_the_name_not_from_the_table(self, tmp_path):
        root = write_icbhi(tmp_path, {TEST_NAME: NORMAL})
        (root / "metadata.txt").write_text("101\t3.0\tF\tNA\t19.0\t99.0\tPr\n")
        assert read_icbhi(root).recordings[0].location == "Al"

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("metadata.txt", "101\t3.0\tF\n"),
            ("metadata.txt", "101\tthree\tF\tNA\tNA\tNA\tPr\n"),
            ("metadata.txt", "101\t3.0\tF\tNA\t19.0\t0\tPr\n"),
            ("patient_diagnosis.txt", "101\n"),
        ],
    )
    def test_row_that_cannot_be_understood(self, tmp_path, name, text):
        root = write_icbhi(tmp_path, {TEST_NAME: NORMAL})
        (root / name).write_text(f"\n{text}")
        problem = only_problem(read_icbhi(root))
        assert (problem.kind, problem.where) == ("bad patient facts", f"{name} line 2")

    def test_file_that_is_no_text(self, tmp_path):
        root = write_icbhi(tmp_path, {TEST_NAME: NORMAL})
        (root / "metadata.txt").write_bytes(b"\xff\xfe\x00\x80")
        assert only_problem(read_icbhi(root)).kind == "bad patient facts"


class TestProblems:
    def test_missing_annotation_leaves_a_recording_without_cycles(self, tmp_path):
        write_sound(tmp_path / f"{TEST_NAME}.wav")
        corpus = read_icbhi(tmp_path)
        assert (only_problem(corpus).kind, only_problem(corpus).where) == ("missing annotation", TEST_NAME)
        assert len(corpus.recordings) == 1
        assert corpus.cycles == ()

    def test_annotation_without_audio(self, tmp_path):
        (tmp_path / f"{TEST_NAME}.txt").write_text(NORMAL)
        problem = only_problem(read_icbhi(tmp_path))
        assert (problem.kind, problem.where) == ("annotation without audio", f"{TEST_NAME}.txt")

    @pytest.mark.parametrize("stem", ["cough", "101_1b1_Xx_sc_Meditron", "101_1b1_Al_st_Meditron", "101_1b1_Al_sc"])
    def test_unknown_name_of_sound_and_of_text(self, tmp_path, stem):
        write_icbhi(tmp_path, {TEST_NAME: NORMAL, stem: NORMAL})
        corpus = read_icbhi(tmp_path)
        assert [(p.kind, p.where) for p in corpus.problems] == [
            ("unknown name", f"{stem}.txt"),
            ("unknown name", f"{stem}.wav"),
        ]
        assert [recording.name for recording in corpus.recordings] == [TEST_NAME]

    @pytest.mark.parametrize(
        ("text", "line", "detail"),
        [
            ("0.1\t0.9\t0\t0\n0.9\tabc\t0\t0\n", 2, "'abc' is no number"),
            ("0.1\t0_9\t0\t0\n", 1, "'0_9' is no number"),
            ("0.1\t0.9\t0\n", 1, "3 fields"),
            ("0.1\t0.9\t0\t0\t1\n", 1, "5 fields"),
            ("0.1\t0.9\t2\t0\n", 1, "flags '2' and '0'"),
            ("0.1\t0.9\t0\t-1\n", 1, "flags '0' and '-1'"),
            ("0.1\t0.9\t0\t0\n\n0.9\tnan\t0\t0\n", 3, "'nan' is no number"),
            ("-0.1\t0.9\t0\t0\n", 1, "'-0.1' is no time"),
            ("0.1\t1e999\t0\t0\n", 1, "'1e999' is no number"),
        ],
    )
    def test_bad_annotation_names_the_line_and_leaves_no_cycle(self, tmp_path, text, line, detail):
        corpus = read_icbhi(write_icbhi(tmp_path, {TEST_NAME: text, TRAIN_NAME: NORMAL}))
        problem = only_problem(corpus)
        assert (problem.kind, problem.where) == ("bad annotation", f"{TEST_NAME}.txt line {line}")
        assert detail in problem.detail
        assert len(corpus.recordings) == 2
        assert [cycle.recording.name for cycle in corpus.cycles] == [TRAIN_NAME]

    @pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe0\x00.\x00"], ids=["empty", "blank", "no text"])
    def test_annotation_without_any_cycle_is_bad(self, tmp_path, content):
        write_sound(tmp_path / f"{TEST_NAME}.wav")
        (tmp_path / f"{TEST_NAME}.txt").write_bytes(content)
        assert only_problem(read_icbhi(tmp_path)).kind == "bad annotation"

    @pytest.mark.parametrize(
        ("end", "problem_kinds"), [("2.0", []), ("2.0099", []), ("2.0101", ["cycle past the end"])]
    )
    def test_cycle_may_end_10_ms_past_the_recording(self, tmp_path, end, problem_kinds):
        corpus = read_icbhi(write_icbhi(tmp_path, {TEST_NAME: f"0.5\t1.5\t0\t0\n1.5\t{end}\t1\t0\n"}))
        assert kinds(corpus.problems) == problem_kinds
        assert len(corpus.cycles) == 2 - len(problem_kinds)
        if problem_kinds:
            assert corpus.problems[0].where == f"{TEST_NAME}.txt line 2"

    def test_cycle_within_the_tolerance_must_still_hold_a_sample(self, tmp_path):
        corpus = read_icbhi(write_icbhi(tmp_path, {TEST_NAME: NORMAL + "2.0\t2.005\t0\t0\n"}))
        assert only_problem(corpus).kind == "cycle past the end"

    @pytest.mark.parametrize(
        ("times", "is_empty"),
        [("1.5\t1.5", True), ("1.5\t1.2", True), ("1.50000\t1.50005", True), ("1.5000\t1.5001", False)],
    )
    def test_empty_cycle_holds_no_sample_at_16_khz(self, tmp_path, times, is_empty):
        corpus = read_icbhi(write_icbhi(tmp_path, {TEST_NAME: f"{NORMAL}{times}\t0\t0\n"}))
        assert kinds(corpus.problems) == ["empty cycle"] * is_empty
        assert len(corpus.cycles) == 2 - is_empty

    def test_duplicate_cycle_keeps_the_first(self, tmp_path):
        corpus = read_icbhi(write_icbhi(tmp_path, {TEST_NAME: "0.5\t1.5\t1\t0\n0.5001\t1.5001\t0\t0\n"}))
        assert (only_problem(corpus).kind, only_problem(corpus).where) == ("duplicate cycle", f"{TEST_NAME}.txt line 2")
        assert [cycle.sound for cycle in corpus.cycles] == [LungSound.CRACKLE]

    @pytest.mark.parametrize("damage", ["text", "truncated", "no samples"])
    def test_bad_sound_file(self, tmp_path, damage):
        write_icbhi(tmp_path, {TEST_NAME: NORMAL, TRAIN_NAME: NORMAL})
        path = tmp_path / f"{TEST_NAME}.wav"
        if damage == "text":
            path.write_text("no sound at all")
        elif damage == "truncated":
            path.write_bytes(path.read_bytes()[:1000])
        else:
            write_sound(path, num_samples=0)
        corpus = read_icbhi(tmp_path)
        assert (only_problem(corpus).kind, only_problem(corpus).where) == ("bad sound file", f"{TEST_NAME}.wav")
        assert [recording.name for recording in corpus.recordings] == [TRAIN_NAME]

    @pytest.mark.parametrize("second", [f"{TEST_NAME}.flac", f"{OTHER_TEST_NAME}.wav"])
    def test_same_recording_twice(self, tmp_path, second):
        write_icbhi(tmp_path, {TEST_NAME: NORMAL})
        write_sound(tmp_path / second)
        corpus = read_icbhi(tmp_path)
        assert only_problem(corpus).kind == "duplicate recording"
        assert len(corpus.recordings) == len(corpus.cycles) == 1

    def test_same_annotation_in_both_namings(self, tmp_path):
        write_icbhi(tmp_path, {TEST_NAME: NORMAL})
        shutil.copy(tmp_path / f"{TEST_NAME}.txt", tmp_path / f"{OTHER_TEST_NAME}.txt")
        assert only_problem(read_icbhi(tmp_path)).kind == "duplicate annotation"


class TestReadCorpus:
    def test_strict_refuses_a_problem_and_lenient_keeps_it(self, tmp_path):
        write_icbhi(tmp_path, {TEST_NAME: "0.1\tx\t0\t0\n"})
        with pytest.raises(CorpusError, match="1 x bad annotation"):
            read_corpus(tmp_path)
        assert kinds(read_corpus(tmp_path, is_strict=False).problems) == ["bad annotation"]

    def test_missing_folder(self, tmp_path):
        for kind in ("auto", "icbhi", "sprsound"):
            with pytest.raises(CorpusError, match=r"no folder .*nowhere"):
                read_corpus(tmp_path / "nowhere", kind=kind)

    def test_file_instead_of_a_folder(self, tmp_path):
        with pytest.raises(CorpusError, match="is a file"):
            read_corpus(write_sound(tmp_path / "a.wav"))

    def test_folder_that_holds_no_corpus_says_what_was_looked_for(self, tmp_path):
        (tmp_path / "notes.txt").write_text("nothing")
        with pytest.raises(CorpusError, match=r"ICBHI.*SPRSound.*train_wav") as caught:
            read_corpus(tmp_path)
        assert "\n" not in str(caught.value)

    def test_named_kind_without_recordings(self, tmp_path):
        with pytest.raises(CorpusError, match="no recordings"):
            read_corpus(tmp_path, kind="icbhi")
        assert read_corpus(tmp_path, kind="icbhi", is_strict=False).recordings == ()

    def test_annotations_alone_are_an_icbhi_tree_without_audio(self, tmp_path):
        (tmp_path / f"{TEST_NAME}.txt").write_text(NORMAL)
        assert kinds(read_corpus(tmp_path, is_strict=False).problems) == ["annotation without audio"]

    def test_unknown_kind(self, tmp_path):
        with pytest.raises(CorpusError, match="'coswara'"):
            read_corpus(tmp_path, kind="coswara")
