"""The audit finds planted leaks, names the known ones of the real corpora, and finds none where there is none."""

import json
import shutil
from pathlib import Path

import pytest
import soundfile
import torch

from lungsound.audio.waveform import resample
from lungsound.data.reader import read_corpus
from tests.integration.command import lungsound


def audit(folder: Path, out: Path, *options: str) -> tuple[int, str]:
    """Exit code, and what is written as JSON."""
    code = lungsound("data", "audit", folder, "--out", out, *options)
    assert (out / "audit.html").is_file()
    return code, json.dumps(json.loads((out / "audit.json").read_text()))


def test_a_synthetic_corpus_leaks_nothing(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    assert audit(synthetic_corpus_dir, tmp_path / "out")[0] == 0


@pytest.mark.parametrize("suffix", [".ogg", ".mp3"])
def test_a_sound_that_was_coded_again_turned_down_and_trimmed_is_found(
    suffix: str, synthetic_corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = read_corpus(synthetic_corpus_dir)
    train = next(r for r in corpus.recordings if corpus.split[r.name] == "train")
    test = next(r for r in corpus.recordings if corpus.split[r.name] == "test")
    tree = tmp_path / "tree"
    shutil.copytree(synthetic_corpus_dir, tree)
    samples, rate = soundfile.read(train.path)
    trimmed = torch.from_numpy(0.4 * samples[int(0.3 * rate) : -int(0.2 * rate)]).float()
    coded_rate_hz = 8000  # the lowest that MP3 knows
    (tree / test.path.name).unlink()
    soundfile.write(
        (tree / test.path.name).with_suffix(suffix), resample(trimmed, rate, coded_rate_hz).numpy(), coded_rate_hz
    )
    (tree / f"{test.name}.txt").write_text("0.5\t2.0\t0\t0\n")
    code, found = audit(tree, tmp_path / "out")
    assert code == 1
    assert train.name in found
    assert test.name in found
    capsys.readouterr()
    assert audit(tree, tmp_path / "waived", "--waive", test.name)[0] == 0


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
