"""Answers for many recordings in one folder: each once, none lost, none twice."""

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from lungsound.data.icbhi import read_icbhi
from lungsound.errors import AnnotationError, AudioError, SettingsError
from lungsound.inference.bulk import BulkResult, PredictionStore, find_sounds, predict_many, sound_files
from lungsound.inference.parallel import failure
from lungsound.inference.predictor import LoadedRecording, Predictor
from tests.unit.inference.models import saved_model

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


def predict(predictor: Predictor, *paths: Path, out: Path, **more: object) -> BulkResult:
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
    whole = predictor.predict(folder / "102_a.WAV").aggregate
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
    facts, copy = (folder / "in" / "104_a.wav").stat(), tmp_path / "copy"
    copy.write_bytes((folder / "in" / "104_a.wav").read_bytes()[::-1])  # as long, and as old
    os.utime(copy, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    copy.replace(folder / "in" / "104_a.wav")
    replaced = predict(predictor, folder / "in", out=out, is_existing_skipped=True)
    assert (replaced.num_new, replaced.num_skipped, len(replaced.errors)) == (0, 2, 1)
    soundfile.write(folder / "in" / "104_a.wav", np.random.default_rng(1).normal(0, 0.1, 16001), 8000)
    assert predict(predictor, folder / "in", out=out, is_existing_skipped=True).num_new == 1
    assert len([row for row in table(out) if row["unit"] == "recording"]) == 3
    other = Predictor(predictor.trained, engine="torch", find_by="windows")
    assert predict(other, folder / "in", out=out, is_existing_skipped=True).num_new == 3
    assert len([row for row in table(out) if row["unit"] == "recording"]) == 3


def test_what_an_answer_was_made_from_is_answered_again_when_it_changes(
    predictor: Predictor, folder: Path, tmp_path: Path
) -> None:
    """The annotation beside it, the patient, the stethoscope."""
    again = {"out": tmp_path / "out", "is_existing_skipped": True}
    assert predict(predictor, folder / "in", **again).num_new == 3
    (folder / "in" / "101_a.txt").write_text("0.1\t1.2\t0\t0\n")
    assert predict(predictor, folder / "in", **again).num_new == 1
    assert [row["end_s"] for row in table(tmp_path / "out")][:2] == ["1.5", "1.2"]
    assert predict(predictor, folder / "in", **again, patient_pattern=r"^(\d+)_").num_new == 3
    assert predict(predictor, folder / "in", **again, patient_pattern=r"^(\d+)_").num_new == 0
    named = {**again, "patient_pattern": r"^(\d+)_", "stethoscope": "Meditron"}
    assert predict(predictor, folder / "in", **named).num_new == 3
    assert {row["stethoscope"] for row in table(tmp_path / "out")} == {"Meditron"}
    assert predict(predictor, folder / "in", **named, age_years=7.5).num_new == 3
    assert predict(predictor, folder / "in", **named, age_years=7.5).num_new == 0
    assert {row["age_years"] for row in table(tmp_path / "out")} == {"7.5"}


def test_links_to_one_file_are_recordings_of_their_own(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    (folder / "in" / "link.wav").symlink_to(folder / "101_a.wav")
    (folder / "in" / "link.txt").write_text("0.1\t1.2\t0\t0\n")
    done = predict(predictor, folder / "101_a.wav", folder / "in" / "link.wav", out=tmp_path / "out")
    assert done.num_new == 2
    found = {Path(row["path"]).name: row["cycles_from"] for row in table(tmp_path / "out")}
    assert found == {"101_a.wav": "windows", "link.wav": "annotation"}


def test_a_mistake_of_ours_in_one_recording_loses_no_other(
    predictor: Predictor, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_recording(recording: Path) -> LoadedRecording:
        if recording.name == "103_a.ogg":
            raise ZeroDivisionError("by\nzero")
        return Predictor.load_recording(predictor, recording)

    monkeypatch.setattr(predictor, "load_recording", load_recording)
    done = predict(predictor, folder / "in", out=tmp_path / "out")
    assert done.num_new == 2
    (error,) = done.errors
    assert error.startswith(f"{folder / 'in' / '103_a.ogg'}: internal error (bug): ZeroDivisionError: by zero;")
    monkeypatch.setenv("LUNGSOUND_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        predict(predictor, folder / "in", out=tmp_path / "out")


def test_an_error_about_an_annotation_names_the_recording(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    (folder / "in" / "101_a.txt").write_text("not an annotation\n")
    (folder / "in" / "104_a.txt").write_text("3\t4\t0\t0\n")  # behind the end
    errors = predict(predictor, folder / "in", out=tmp_path / "out").errors
    assert [error.partition(": ")[0] for error in errors] == [str(folder / "in" / f"{n}_a.wav") for n in (101, 104)]


def test_an_error_names_its_recording_once() -> None:
    path, annotation = Path("ward/a.wav"), Path("ward/a.txt")
    for error, line in (
        (AnnotationError("no annotation a.txt beside it", path=path), "ward/a.wav: no annotation a.txt beside it"),
        (AudioError("is empty", path=path), "ward/a.wav is empty"),
        (AnnotationError("two numbers", path=annotation, line=3), "ward/a.wav: a.txt line 3: two numbers"),
        (SettingsError("no model"), "ward/a.wav: no model"),
    ):
        assert failure(path, error) == line


def test_a_recording_that_fails_now_keeps_no_earlier_answer(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    predict(predictor, folder / "in", out=tmp_path / "out")
    (folder / "in" / "104_a.wav").write_text("broken since")
    done = predict(predictor, folder / "in", out=tmp_path / "out", is_existing_skipped=True)
    assert (done.num_new, done.num_skipped, len(done.errors)) == (0, 2, 1)
    assert not [row for row in table(tmp_path / "out") if "104_a" in row["path"]]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"stamp": [1], "prediction": {"path": "a"}}', "another's"])
def test_a_kept_answer_that_is_damaged_is_made_again_or_named(
    predictor: Predictor, folder: Path, tmp_path: Path, content: str
) -> None:
    out = tmp_path / "out"
    predict(predictor, folder / "in", out=out)
    kept, other, *_ = sorted((out / "recordings").iterdir())
    kept.write_text(other.read_text() if content == "another's" else content)
    of_others = predict(predictor, folder / "101_a.wav", out=out)
    assert [kept.name in error and "damaged" in error for error in of_others.errors] == [True]
    assert (of_others.num_new, len({row["path"] for row in table(out)})) == (1, 3)
    again = predict(predictor, folder / "in", out=out, is_existing_skipped=True)
    assert (again.num_new, again.num_skipped, again.errors) == (1, 2, ())
    assert len({row["path"] for row in table(out)}) == 4


def test_a_name_need_not_be_utf_8(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    try:
        odd = (folder / "in" / "104_a.wav").rename(folder / "in" / os.fsdecode(b"\xe9.wav"))
    except OSError as error:
        pytest.skip(f"this file system has names in UTF-8 only ({error.strerror})")
    done = predict(predictor, folder / "in", out=tmp_path / "out", formats=["csv", "textgrid", "html"])
    assert done.num_new == 3
    assert any(row["path"].endswith(r"\udce9.wav") for row in table(tmp_path / "out"))
    assert (tmp_path / "out" / odd.with_suffix(".TextGrid").name).is_file()
    pages = [page.read_text(encoding="utf-8") for page in (tmp_path / "out" / "review").glob("*.html")]
    assert len(pages) == 4
    assert not any("No sound" in page for page in pages)


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
        ({"formats": ["csv", "audacity"]}, "both called 101_a"),
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


def test_a_kept_answer_is_what_was_answered(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    answer = predictor.predict(folder / "101_b.flac", patient="101")
    store = PredictionStore(tmp_path, predictor.provenance(NOON))
    store.add(answer)
    assert store.all() == ([answer], [])
    assert store.has(answer.path, ("101", None, None))
    assert not store.has(answer.path, ("102", None, None))


def test_pages_are_written_beside_the_tables(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    done = predict(predictor, folder / "in", out=tmp_path / "out", formats=["html"])
    assert done.files[0] == tmp_path / "out" / "review" / "index.html"
    assert len(done.files) == 1 + 3
    assert not (tmp_path / "out" / "answers.csv").exists()


def test_folders_behind_links_are_read_once_and_hidden_ones_counted(
    predictor: Predictor, folder: Path, tmp_path: Path
) -> None:
    linked = tmp_path / "linked"
    (linked / ".Trash").mkdir(parents=True)
    (linked / "there").symlink_to(folder / "in")
    (folder / "in" / "up").symlink_to(linked)
    (folder / "in" / "._101_a.wav").write_bytes(b"\0\5\x16\7")
    done = predict(predictor, linked, out=tmp_path / "out")
    assert (done.num_new, done.num_hidden, done.errors) == (3, 2, ())
    assert find_sounds([linked]).files == [linked / "there" / name for name in ("101_a.wav", "103_a.ogg", "104_a.wav")]


def test_a_folder_that_cannot_be_read_is_named(
    predictor: Predictor, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "in" / "locked").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read every folder
    done = predict(predictor, folder / "in", out=tmp_path / "out")
    assert done.num_new == 3
    assert done.errors == (f"{folder / 'in' / 'locked'}: cannot be read (Permission denied)",)
    with pytest.raises(SettingsError, match=r"no sound files in .*locked .*Permission denied"):
        predict(predictor, folder / "in" / "locked", out=tmp_path / "out")


def test_own_predictions_are_no_annotations_until_somebody_corrects_them(
    predictor: Predictor, folder: Path, tmp_path: Path
) -> None:
    sounds = folder / "in"
    for _ in range(2):
        predict(predictor, sounds, out=sounds, formats=["icbhi", "csv"])
        assert {row["cycles_from"] for row in table(sounds)} == {"windows"}
    assert predict(predictor, sounds, out=sounds, is_existing_skipped=True).num_skipped == 3
    own = sounds / "101_a.txt"
    own.write_text("0.1\t1.2\t0\t0\n")
    predict(predictor, sounds, out=tmp_path / "out")
    sources = {Path(row["path"]).name: row["cycles_from"] for row in table(tmp_path / "out")}
    assert sources == {"101_a.wav": "annotation", "103_a.ogg": "windows", "104_a.wav": "windows"}
    with pytest.raises(SettingsError, match="somebody corrected"):
        predict(predictor, sounds, out=sounds, formats=["icbhi"])
    assert own.read_text() == "0.1\t1.2\t0\t0\n"


def test_own_predictions_do_not_train(predictor: Predictor, folder: Path) -> None:
    sound = (folder / "101_a.wav").rename(folder / "in" / "101_1b1_Al_sc_Meditron.wav")
    predict(predictor, sound, out=sound.parent, formats=["icbhi"])
    corpus = read_icbhi(sound.parent)
    assert not corpus.cycles
    assert "own prediction" in {problem.kind for problem in corpus.problems}
