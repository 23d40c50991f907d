"""The audit finds planted leaks, names the known ones of the real corpora, and finds none where there is none."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lungsound.audio.io import resample
from lungsound.data.reader import read_corpus
from tests.integration.command import lungsound


def audit(folder: Path, out: Path, *options: str) -> tuple[int, str]:
    """Exit code, and what is written as JSON."""
    code = lungsound("data", "audit", folder, "--out", out, *options)
    assert (out / "audit.html").is_file()
    return code, json.dumps(json.loads((out / "audit.json").read_text()))


def test_a_synthetic_corpus_leaks_nothing(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    assert audit(synthetic_corpus_dir, tmp_path / "out")[0] == 0


@pytest.mark.parametrize("suffix", [".ogg", pytest.param(".mp3", marks=pytest.mark.slow)])
def test_a_sound_that_was_coded_again_turned_down_and_trimmed_is_found(
    suffix: str, synthetic_corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = read_corpus(synthetic_corpus_dir)
    train = next(r for r in corpus.recordings if corpus.split[r.name] == "train")
    test = next(r for r in corpus.recordings if corpus.split[r.name] == "test")
    tree = tmp_path / "tree"
    shutil.copytree(synthetic_corpus_dir, tree)
    samples, rate = soundfile.read(train.path)
    trimmed = (0.4 * samples[int(0.3 * rate) : -int(0.2 * rate)]).astype(np.float32)
    coded_rate_hz = 8000  # the lowest that MP3 knows
    (tree / test.path.name).unlink()
    soundfile.write((tree / test.path.name).with_suffix(suffix), resample(trimmed, rate, coded_rate_hz), coded_rate_hz)
    (tree / f"{test.name}.txt").write_text("0.5\t2.0\t0\t0\n")
    code, found = audit(tree, tmp_path / "out")
    assert code == 1
    assert train.name in found
    assert test.name in found
    capsys.readouterr()
    assert audit(tree, tmp_path / "waived", "--waive", test.name)[0] == 0


def test_bad_input_is_one_line_and_exit_code_2(
    synthetic_corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, broken, file = tmp_path / "empty", tmp_path / "broken sound", tmp_path / "file"
    empty.mkdir()
    broken.mkdir()
    file.touch()
    name = "501_1b1_Al_sc_Meditron"
    (broken / f"{name}.wav").write_bytes(b"no sound")
    (broken / f"{name}.txt").write_text("0.5\t2.0\t0\t0\n")
    for arguments, word in (
        ((empty,), "no corpus in"),
        ((broken,), name),
        ((synthetic_corpus_dir, "--out", file), "is a file"),
    ):
        assert lungsound("data", "audit", *arguments) == 2
        printed = capsys.readouterr()
        assert word in printed.err
        assert printed.err.count("\n") == 1


def test_a_header_that_claims_another_rate_is_found(sprsound_dir: Path, tmp_path: Path) -> None:
    """59 recordings as they are, and one whose samples stand under a header of twice the rate."""
    lines = ["path,patient,start,end,label,split"]
    paths = sorted((sprsound_dir / "train_wav").iterdir())[:60]
    for number, path in enumerate(paths):
        samples, rate_hz = soundfile.read(path, dtype="int16")
        soundfile.write(tmp_path / f"{path.stem}.wav", samples, 2 * rate_hz if number == 30 else rate_hz)
        lines.append(f"{path.stem}.wav,{path.stem.split('_')[0]},0,1,normal,train")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    audit(tmp_path, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "audit.json").read_text())["recordings"]
    kinds = {one["name"]: [defect["kind"] for defect in one["defects"]] for one in found if one["defects"]}
    assert kinds == {paths[30].stem: ["rare rate"]}


def test_icbhis_patients_on_both_sides_are_found_by_name(icbhi_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = icbhi_dir.parent / "annotations_all"
    if not annotations.is_dir():
        pytest.skip("needs the annotations of all 920 recordings (annotations_all)")
    assert lungsound("data", "audit", annotations, "--names-only") == 1
    printed = capsys.readouterr().out
    assert "patient 156: recordings 9 in train, 8 in test" in printed
    assert "patient 218: recordings 4 in train, 4 in test" in printed
    assert "patients in train and test: 2" in printed


@pytest.mark.slow
def test_sprsounds_doubled_recording_is_found(sprsound_dir: Path, tmp_path: Path) -> None:
    code, found = audit(sprsound_dir, tmp_path / "out")
    assert code == 1
    assert "41279835_14.1_0_p1_2945" in found
    assert "41279835_14.1_0_p1_2050" in found
