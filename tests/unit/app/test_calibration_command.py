import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from lungsound.app.commands.calibration import calibrate, operate
from lungsound.checkpoint import MODEL_FORMAT, read_facts, read_tensors, write_tensors
from lungsound.config import load_config
from lungsound.errors import DataError, LungsoundError, SettingsError
from lungsound.evaluation.calibration.scaling import ORDER_KEEPING
from lungsound.evaluation.calibration.store import Calibration
from lungsound.evaluation.predictions import Predictions, write_predictions
from lungsound.run_folder import RunFolder
from tests.unit.evaluation.calibrated import drawn_predictions

app = typer.Typer()
app.command()(calibrate)
app.command()(operate)


def run(*arguments: object) -> str:
    """What the command prints; its error is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("predictions")
    paths = folder / "validation.csv", folder / "test.csv"
    for seed, (path, name) in enumerate(zip(paths, "vt", strict=True)):
        write_predictions(path, drawn_predictions(seed, num_patients=20, temperature=2.5, name=name))
    return paths


def test_calibrating_two_files_writes_page_numbers_and_pictures(files: tuple[Path, Path], tmp_path: Path) -> None:
    output = run("calibrate", "--validation", files[0], "--test", files[1], "--out", tmp_path, "--error", 0.2)
    assert "scaling: temperature; chosen by cross-validation over 20 validation patients" in output
    assert "ECE after scaling, corrected for chance, percent: " in output
    written = {path.name for path in tmp_path.iterdir()}
    pictures = {"reliability.png", "risk_coverage.png", "set_coverage.png"}
    assert written == {"calibration.md", "calibration.html", "calibration.json"} | pictures
    numbers = json.loads((tmp_path / "calibration.json").read_text())
    kept = Calibration.from_plain(numbers["calibration"])
    assert kept.abstain is not None
    assert (kept.abstain.wanted, kept.abstain.wanted_value) == ("error", 0.2)
    assert numbers["measures"]["after"]["top_label"]["seen"] < numbers["measures"]["before"]["top_label"]["seen"]
    assert "src=" in (tmp_path / "calibration.html").read_text()


def run_folder(path: Path, predictions: Predictions) -> RunFolder:
    folder = RunFolder(path)
    folder.start(load_config("tiny_ce"))
    folder.write_column("last", predictions)
    return folder


def test_a_run_is_fitted_on_its_validation_rows(tmp_path: Path) -> None:
    both = drawn_predictions(3, num_patients=24)
    parts = tuple("validation" if patient < "p12" else "test" for patient in both.patients)
    run_folder(tmp_path / "run", replace(both, parts=parts))
    calibrated = run("calibrate", tmp_path / "run", "--coverage", 0.7)
    assert (tmp_path / "run" / "calibration.html").is_file()
    numbers = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert numbers["calibration"]["num_patients"] == 12
    assert numbers["measures"]["num_patients"] == 12
    assert numbers["calibration"]["abstain"]["wanted_value"] == 0.7
    assert "Warning: Sets at 95 % always hold every class" in calibrated
    output = run("operate", tmp_path / "run", "--sensitivity", 0.8, "--sensitivity", 0.95, "--prevalence", 0.05)
    assert output.count("wanted sensitivity") == 2
    assert output.count("prevalence 5.0: PPV") == 2
    assert "Research software, not a medical device." in output


def test_patients_on_both_sides_are_warned_of(files: tuple[Path, Path]) -> None:
    output = run("operate", "--validation", files[0], "--test", files[0])
    assert "Warning: 20 patients are in validation and in the test" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("calibrate --out {t}", "give either a RUN, or --validation FILE and --test FILE"),
        ("calibrate {t} --validation {v} --test {v}", "give either a RUN"),
        ("operate --validation {v}", "give either a RUN"),
        ("calibrate --validation {v} --test {v}", "give --out DIR"),
        ("calibrate {t} --error 0.1 --coverage 0.5", "one of them only"),
        ("operate {t}", "is not the folder of a run"),
    ],
)
def test_mistakes_are_named(arguments: str, message: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        run(*arguments.format(t=tmp_path, v=files[0]).split())


def test_a_run_without_validation_rows_and_files_of_two_models(files: tuple[Path, Path], tmp_path: Path) -> None:
    run_folder(tmp_path / "run", drawn_predictions(4))
    with pytest.raises(SettingsError, match=r"has no epochs/last\.csv with validation and test rows"):
        run("calibrate", tmp_path / "run")
    other = tmp_path / "other.csv"
    write_predictions(other, replace(drawn_predictions(5), classes=("normal", "a", "b")))
    with pytest.raises(DataError, match="both must come from one model") as caught:
        run("operate", "--validation", files[0], "--test", other)
    assert isinstance(caught.value, LungsoundError)


def test_a_calibration_is_kept_with_the_model_when_asked_for(tmp_path: Path) -> None:
    both = drawn_predictions(3, num_patients=24)
    parts = tuple("validation" if patient < "p12" else "test" for patient in both.patients)
    folder = run_folder(tmp_path / "run", replace(both, parts=parts))
    write_tensors(folder.model, {"weight": torch.ones(2)}, {"format": MODEL_FORMAT})
    run("calibrate", tmp_path / "run", "--coverage", 0.6)
    assert "calibration" not in read_facts(folder.model, expected_format=MODEL_FORMAT)
    assert "kept with" in run("calibrate", tmp_path / "run", "--coverage", 0.6, "--keep")
    tensors, facts = read_tensors(folder.model, expected_format=MODEL_FORMAT)
    kept = Calibration.from_plain(facts["calibration"])
    assert kept.abstain is not None
    assert kept.abstain.wanted_value == 0.6
    assert kept.scaling.method in ORDER_KEEPING
    assert tensors["weight"].tolist() == [1.0, 1.0]


def test_keeping_needs_a_run(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--keep puts the calibration into the model of a run"):
        run("calibrate", "--validation", files[0], "--test", files[1], "--out", tmp_path, "--keep")
