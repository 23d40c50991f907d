"""Answers for many recordings in one folder: each once, none lost, none twice."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from lungsound.answers.json_lines import answer_of, record
from lungsound.app.predict_many import Done, predict_many, sound_files
from lungsound.app.predictor import Predictor
from lungsound.errors import SettingsError
from tests.unit.engines.models import saved_model

QUIET = Console(quiet=True)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(saved_model(tmp_path_factory.mktemp("run")), engine="torch")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six recordings in two folders, two of one name, and three that are broken."""
    rng = np.random.default_rng(0)
    place = tmp_path / "sounds"
    for name in ("101_a.wav", "101_b.flac", "102_a.WAV", "in/101_a.wav", "in/103_a.ogg", "in/104_a.wav"):
        path = place / name
        path.parent.mkdir(exist_ok=True, parents=True)
        soundfile.write(path, rng.normal(0, 0.1, 12000), 8000)
    (place / "empty.wav").touch()
    (place / "text.wav").write_text("no sound")
    (place / "cut.wav").write_bytes((place / "101_a.wav").read_bytes()[:9000])
    return place


def predict(predictor: Predictor, *paths: Path, out: Path, **more: object) -> Done:
    return predict_many(predictor, paths, out=out, console=QUIET, **more)  # type: ignore[arg-type]


def table(out: Path) -> list[dict[str, str]]:
    with (out / "answers.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_recording_is_answered_or_named(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    done = predict(predictor, folder, tmp_path / "none.wav", out=tmp_path / "out", formats=["csv", "jsonl"])
    assert (done.num_new, done.num_skipped) == (6, 0)
    assert len(done.errors) == 4
    for name in ("empty.wav", "text.wav", "cut.wav", "none.wav"):
        assert any(name in error for error in done.errors)
    rows = [row for row in table(tmp_path / "out") if row["unit"] == "recording"]
    assert len(rows) == 6
    assert {row["path"] for row in rows} == {
        str(path) for path in sound_files([folder]) if path.stem not in ("empty", "text", "cut")
    }
    whole = predictor.answer(folder / "102_a.WAV").whole
    assert whole is not None
    (row,) = (row for row in rows if row["path"].endswith("102_a.WAV"))
    assert float(row["p_crackle"]) == pytest.approx(whole.probabilities["crackle"], abs=1e-5)


def test_what_is_there_is_skipped_until_the_file_or_the_model_changes(
    predictor: Predictor, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = predict(predictor, folder / "in", out=out, is_existing_skipped=True)
    assert (first.num_new, first.num_skipped) == (3, 0)
    before = table(out)
    again = predict(predictor, folder / "in", out=out, is_existing_skipped=True)
    assert (again.num_new, again.num_skipped) == (0, 3)
    assert [{**row} for row in table(out)] == before
    soundfile.write(folder / "in" / "104_a.wav", np.random.default_rng(1).normal(0, 0.1, 16001), 8000)
    assert predict(predictor, folder / "in", out=out, is_existing_skipped=True).num_new == 1
    assert len([row for row in table(out) if row["unit"] == "recording"]) == 3
    other = Predictor(predictor.trained, engine="torch", find_by="windows")
    assert predict(other, folder / "in", out=out, is_existing_skipped=True).num_new == 3
    assert len([row for row in table(out) if row["unit"] == "recording"]) == 3


def test_two_calls_at_once_lose_nothing(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    halves = [[folder / "in"], [folder / "101_a.wav", folder / "101_b.flac", folder / "102_a.WAV"]]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda half: predict(predictor, *half, out=out, formats=["csv", "jsonl"]), halves))
    assert len([row for row in table(out) if row["unit"] == "recording"]) == 6
    assert len((out / "answers.jsonl").read_text().splitlines()) == 6
    assert not list(out.rglob("*.partial"))


def test_patients_are_found_in_names(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = predict(predictor, folder / "in", folder / "101_b.flac", out=out, patient_pattern=r"^(\d+)_")
    assert done.files[-1] == out / "patients.csv"
    lines = (out / "patients.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [["101", "2"], ["103", "1"], ["104", "1"]]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"patient_pattern": "("}, "no regular expression"),
        ({"patient_pattern": "a"}, "no group"),
        ({"formats": ["xls"]}, "xls"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(
    more: dict[str, object], message: str, predictor: Predictor, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        predict(predictor, folder, out=tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_folders_patterns_and_files_are_found_once(folder: Path, tmp_path: Path) -> None:
    names = [path.name for path in sound_files([folder / "1*.wav", folder / "101_a.wav", folder / "in"])]
    assert names == ["101_a.wav", "101_a.wav", "103_a.ogg", "104_a.wav"]
    for missing in (tmp_path / "no*.wav", tmp_path / "nothing"):
        if missing.name == "nothing":
            missing.mkdir()
        with pytest.raises(SettingsError, match="no sound files"):
            sound_files([missing])


def test_a_kept_answer_is_what_was_answered(predictor: Predictor, folder: Path) -> None:
    answer = predictor.answer(folder / "101_b.flac", patient="101")
    kept = json.loads(json.dumps(record(answer, predictor.provenance(NOON))))
    assert answer_of(kept) == answer


def test_pages_are_written_beside_the_tables(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    done = predict(predictor, folder / "in", out=tmp_path / "out", formats=["html"])
    assert done.files[0] == tmp_path / "out" / "review" / "index.html"
    assert len(done.files) == 1 + 3
    assert not (tmp_path / "out" / "answers.csv").exists()
