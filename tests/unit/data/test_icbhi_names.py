"""A corpus by names: who is in which part, with no sound at hand; what is wrong with a file is a problem."""

import math
from pathlib import Path

import pytest

from lungsound.data.audit import audit_corpus
from lungsound.data.corpus import Corpus
from lungsound.data.icbhi import read_icbhi
from lungsound.errors import CorpusError
from tests.unit.data.trees import NORMAL, kinds

NAMES = ("101_1b1_Al_sc_Meditron", "102_1b1_Ar_sc_Litt3200", "101_2b1_Pl_mc_AKGC417L")


def read_names(root: Path, *, split: str = "official") -> Corpus:
    return read_icbhi(root, split=split, is_sound_read=False)


def annotations(folder: Path, names: tuple[str, ...] = NAMES, text: str = NORMAL) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.txt").write_text(text)
    return folder


def split_file(path: Path, parts: dict[str, str]) -> str:
    path.write_text("".join(f"{name}\t{part}\n" for name, part in parts.items()))
    return str(path)


def test_names_tell_patient_place_mode_and_device_and_a_length_is_not_known(tmp_path: Path) -> None:
    folder = annotations(tmp_path / "a")
    corpus = read_names(folder, split=split_file(tmp_path / "split.txt", dict.fromkeys(NAMES, "train")))
    first = corpus.recordings[0]
    assert [recording.name for recording in corpus.recordings] == sorted(NAMES)
    assert (first.patient, first.location, first.mode, first.device) == ("101", "Al", "sc", "Meditron")
    assert math.isnan(first.duration_s)
    assert (first.sample_rate_hz, first.path) == (0, folder / f"{first.name}.txt")
    assert [(cycle.start_s, cycle.end_s) for cycle in corpus.cycles] == [(0.5, 1.5)] * 3
    assert any("no sound was read" in note for note in corpus.notes)


def test_a_patient_in_two_parts_is_found_by_name(tmp_path: Path) -> None:
    split = split_file(tmp_path / "split.txt", dict(zip(NAMES, ("train", "test", "test"), strict=True)))
    audit = audit_corpus(read_names(annotations(tmp_path / "a"), split=split), is_audio_read=False)
    assert [(leak.patient, dict(leak.num_recordings)) for leak in audit.shared_patients] == [
        ("101", {"train": 1, "test": 1})
    ]
    assert not audit.is_clean
    assert all(finding.quality is None and not finding.defects for finding in audit.recordings)


def test_the_folder_of_the_official_zip_is_entered_and_a_split_file_beside_it_is_used(tmp_path: Path) -> None:
    annotations(tmp_path / "ICBHI_final_database")
    split_file(tmp_path / "ICBHI_challenge_train_test.txt", dict.fromkeys(NAMES, "test"))
    corpus = read_names(tmp_path)
    assert set(corpus.split.values()) == {"test"}


def test_what_is_wrong_is_a_problem(tmp_path: Path) -> None:
    folder = annotations(tmp_path / "a")
    (folder / f"{NAMES[0]}.txt").write_text("not a cycle\n")
    (folder / "notes.txt").write_text("left alone")
    corpus = read_names(folder, split=split_file(tmp_path / "split.txt", {NAMES[0]: "train", NAMES[1]: "test"}))
    assert sorted(kinds(corpus.problems)) == ["bad annotation", "in no split"]
    assert len(corpus.recordings) == 3
    assert len(corpus.cycles) == 2


def test_a_folder_without_such_names_is_an_error_of_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CorpusError) as error:
            read_names(folder)
        assert "\n" not in str(error.value)
