import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lungsound.data.check import corpus_table, print_check
from lungsound.data.corpus import Corpus, Cycle, Recording
from lungsound.data.icbhi import official_split
from lungsound.data.reader import read_corpus
from tests.unit.data.trees import NORMAL, kinds, write_icbhi, write_sound

TEST_NAME, TRAIN_NAME = "101_1b1_Al_sc_Meditron", "103_2b2_Ar_mc_LittC2SE"
CYCLES = {"train": (2063, 1215, 501, 363), "test": (1579, 649, 385, 143)}


def printed(corpus: Corpus, *, width: int = 200) -> tuple[bool, str]:
    stream = io.StringIO()
    is_sound = print_check(corpus, Console(file=stream, width=width))
    return is_sound, stream.getvalue()


@pytest.fixture(scope="module")
def whole_icbhi() -> Corpus:
    """All 920 names with the published number of cycles of each class, given to the first recording of each part."""
    recordings = {
        name: Recording(name, name[:3], Path(f"{name}.wav"), 90.0, 4000, device=name.rsplit("_", 1)[1])
        for name in sorted(official_split())
    }
    cycles = []
    for part, counts in CYCLES.items():
        recording = next(recordings[name] for name in recordings if official_split()[name] == part)
        sounds = [sound for sound, count in enumerate(counts) for _ in range(count)]
        cycles += [Cycle(recording, k * 0.01, k * 0.01 + 0.01, s in (1, 3), s in (2, 3)) for k, s in enumerate(sounds)]
    return Corpus("icbhi", Path("somewhere"), tuple(recordings.values()), tuple(cycles), dict(official_split()))


def test_counts_of_a_small_tree(tmp_path):
    write_icbhi(
        tmp_path,
        {
            TEST_NAME: "0 0.5 0 0\n0.5 1 1 0\n",
            "101_1b1_Pr_sc_Meditron": "0 0.5 1 1\n",
            TRAIN_NAME: "0 0.5 0 1\n0.5 1 0 1\n",
        },
    )
    table = corpus_table(read_corpus(tmp_path, is_strict=False))
    assert list(table.parts) == ["train", "test"]
    assert table.parts["test"].cycles == (1, 1, 0, 1)
    assert table.parts["train"].cycles == (0, 0, 2, 0)
    assert table.total.cycles == (1, 1, 2, 1)
    assert (table.parts["test"].num_recordings, table.parts["test"].num_patients) == (2, 1)
    assert (table.total.num_recordings, table.total.num_patients, table.total.duration_s) == (3, 2, 6.0)
    assert table.devices == {"LittC2SE": {"train": 1, "test": 0}, "Meditron": {"train": 0, "test": 2}}
    assert table.shared_patients == {}


def test_part_of_icbhi_is_said_not_to_be_comparable(tmp_path):
    write_icbhi(tmp_path, {TEST_NAME: NORMAL})
    table = corpus_table(read_corpus(tmp_path, is_strict=False))
    assert (
        table.completeness == "1 of the 920 published recordings: scores on it cannot be compared with published ones"
    )
    assert table.comparisons == {}


def test_other_corpus_in_the_layout_of_icbhi(tmp_path):
    write_icbhi(tmp_path, {"501_1b1_Al_sc_Meditron": NORMAL})
    (tmp_path / "official_split.txt").write_text("501_1b1_Al_sc_Meditron\ttrain\n")
    is_sound, text = printed(read_corpus(tmp_path, is_strict=False))
    assert is_sound
    assert "none of the 920 published recordings: another corpus in the same layout" in text


def test_published_and_other_recordings_are_told_apart(tmp_path):
    write_icbhi(tmp_path, {TEST_NAME: NORMAL, "501_1b1_Al_sc_Meditron": NORMAL})
    assert corpus_table(read_corpus(tmp_path, is_strict=False)).completeness.startswith(
        "1 of the 920 published recordings and 1 others:"
    )


def test_whole_icbhi_equals_the_published_totals(whole_icbhi):
    table = corpus_table(whole_icbhi)
    assert table.completeness == "whole"
    assert table.comparisons == {
        "whole corpus": ((920, 3642, 1864, 886, 506), (920, 3642, 1864, 886, 506)),
        "train": ((539, 2063, 1215, 501, 363), (539, 2063, 1215, 501, 363)),
        "test": ((381, 1579, 649, 385, 143), (381, 1579, 649, 385, 143)),
    }
    assert table.shared_patients == {("train", "test"): ("156", "218")}
    assert table.devices["Litt3200"] == {"train": 5, "test": 55}
    is_sound, text = printed(whole_icbhi)
    assert is_sound
    assert "patients in both train and test: 2 (156, 218)" in text
    assert text.count("equal") == 3


def test_whole_icbhi_with_a_lost_cycle_differs(whole_icbhi):
    is_sound, text = printed(replace(whole_icbhi, cycles=whole_icbhi.cycles[1:]))
    assert not is_sound
    assert "3,641 not 3,642" in text
    assert text.count("DIFFERS") == 2


def test_parts_of_another_split_are_not_compared(whole_icbhi):
    folds = {name: "test" if name < "120" else "train" for name in whole_icbhi.split}
    table = corpus_table(replace(whole_icbhi, split=folds))
    assert list(table.comparisons) == ["whole corpus"]
    assert table.completeness == "whole, with a split that is not the official one"


def test_corpus_without_published_totals(whole_icbhi):
    table = corpus_table(replace(whole_icbhi, name="ours"))
    assert (table.completeness, table.comparisons) == ("no published totals to compare with", {})


def test_problems_are_counted_by_kind_and_all_named(tmp_path):
    write_icbhi(tmp_path, {TEST_NAME: "0.5 x 0 0\n", TRAIN_NAME: "0.5 y 0 0\n", "501_1b1_Al_sc_Meditron": NORMAL})
    (tmp_path / "[bold]cough.txt").write_text("x")
    corpus = read_corpus(tmp_path, is_strict=False)
    table = corpus_table(corpus)
    assert kinds(corpus.problems) == ["bad annotation", "bad annotation", "in no split", "unknown name"]
    assert table.parts["in no part"].num_recordings == 1
    is_sound, text = printed(corpus, width=40)
    assert not is_sound
    assert "bad annotation: 2\n" in text
    for problem in corpus.problems:
        assert f"  {problem.where}: {problem.detail}\n" in text
    assert "problems: 4" in text


def test_sound_corpus_prints_its_notes_and_no_problems(tmp_path):
    write_icbhi(tmp_path, {TEST_NAME: NORMAL})
    is_sound, text = printed(read_corpus(tmp_path))
    assert is_sound
    assert "note: split: official, shipped with lungsound\n" in text
    assert "problems: none" in text


def test_empty_corpus_is_not_sound(tmp_path):
    is_sound, text = printed(read_corpus(tmp_path, kind="icbhi", is_strict=False))
    assert not is_sound
    assert "none of the 920" in text


def test_long_lists_of_shared_patients_are_cut_in_print_only(tmp_path):
    root = write_icbhi(tmp_path, {f"{n}_1b{k}_Al_sc_Meditron": NORMAL for n in range(501, 513) for k in (1, 2)})
    rows = [f"{n}_1b{k}_Al_sc_Meditron\t{part}" for n in range(501, 513) for k, part in ((1, "train"), (2, "test"))]
    (root / "official_split.txt").write_text("\n".join(rows))
    corpus = read_corpus(root)
    assert len(corpus_table(corpus).shared_patients["train", "test"]) == 12
    assert "12 (501, 502, 503, 504, 505, 506, 507, 508, 509, 510 and 2 more)" in printed(corpus)[1]


def test_unnamed_device_is_unknown(tmp_path):
    write_sound(tmp_path / "train_wav" / "65101170_0.4_1_p1_3246.wav")
    corpus = read_corpus(tmp_path, is_strict=False)
    assert corpus_table(corpus).devices == {"Yunting model II": {"in no part": 1}}
    unnamed = tuple(replace(recording, device=None) for recording in corpus.recordings)
    assert corpus_table(replace(corpus, recordings=unnamed)).devices == {"unknown": {"in no part": 1}}


def test_own_words_are_counted_by_part_and_said_not_to_be_published(tmp_path):
    write_sound(tmp_path / "train" / "crackle" / "a_1.wav")
    write_sound(tmp_path / "test" / "normal" / "b_1.wav")
    assert corpus_table(read_corpus(tmp_path, is_strict=False)).words == {}
    (tmp_path / "test" / "normal").rename(tmp_path / "test" / "Rhonchi")
    (tmp_path / "train" / "crackle").rename(tmp_path / "train" / "Fine Crackle")
    corpus = read_corpus(tmp_path)
    table = corpus_table(corpus)
    assert table.words == {"Fine Crackle": {"train": 1, "test": 0}, "Rhonchi": {"train": 0, "test": 1}}
    assert (table.total.num_cycles, table.total.cycles) == (2, (0, 1, 1, 0))
    _, text = printed(corpus)
    assert "cycles by word" in text
    assert "recordings by word" not in text


def test_words_that_are_none_of_the_four_sounds_are_not_counted_as_normal(tmp_path):
    write_sound(tmp_path / "train" / "abnormal" / "a_1.wav")
    write_sound(tmp_path / "train" / "normal" / "b_1.wav")
    whole = corpus_table(read_corpus(tmp_path)).total
    assert (whole.num_cycles, whole.cycles) == (2, (1, 0, 0, 0))


def test_another_vocabulary_is_not_compared_with_published_totals(whole_icbhi):
    table = corpus_table(replace(whole_icbhi, vocabulary="sound2"))
    assert (table.completeness, table.comparisons) == (
        "in the words of sound2, for which there are no published totals to compare with",
        {},
    )


def test_recordings_that_a_split_does_not_name_are_summed_up(tmp_path):
    write_icbhi(tmp_path, {f"{n}_1b1_Al_sc_Meditron": NORMAL for n in range(501, 506)})
    is_sound, text = printed(read_corpus(tmp_path, split="fold0", is_strict=False))
    assert not is_sound
    lines = text.splitlines()
    first = lines.index("in no split: 5")
    assert [line.split("_")[0] for line in lines[first + 1 : first + 4]] == ["  501", "  502", "  503"]
    assert lines[first + 4 :] == ["  and 2 more", "problems: 5"]
