import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from lungsound.cli.calibrate import calibrate, operate
from lungsound.config import load_config
from lungsound.errors import DataError, LungsoundError, SettingsError, WeightsError
from lungsound.evaluation import calibration_report
from lungsound.evaluation.calibration import Calibration, fit_calibration
from lungsound.evaluation.predictions import Predictions, write_predictions
from lungsound.training.checkpoint import MODEL_FORMAT, add_to_model, read_calibration, read_tensors, write_tensors
from lungsound.training.run import RunFolder
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


@pytest.fixture(autouse=True)
def _quick_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of one small picture, but in the test of pictures: to draw three takes a second in each test."""

    def draw(*arguments: Any) -> None:
        folder = next(each for each in arguments if isinstance(each, Path))
        for name in calibration_report.PICTURES:
            Image.new("RGB", (1, 1)).save(folder / name)

    if "pictures" not in request.node.name:
        monkeypatch.setattr(calibration_report, "draw_calibration", draw)


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


def run_folder(path: Path, predictions: Predictions, *, is_finished: bool = True) -> RunFolder:
    """A run that gave these answers; its model is one number."""
    folder = RunFolder(path)
    folder.start(load_config("tiny_ce"))
    folder.write_column("last", predictions)
    write_tensors(folder.model, {"weight": torch.ones(2)}, {"format": MODEL_FORMAT})
    if is_finished:
        (path / "report.json").write_text("{}")
    return folder


def both_parts(seed: int = 3, temperature: float = 1.0) -> Predictions:
    """12 patients of validation, 12 of the test, that lean to normal."""
    both = drawn_predictions(seed, num_patients=24, temperature=temperature)
    shares = both.probabilities * [8.0, 1.0, 1.0]
    parts = tuple("validation" if patient < "p12" else "test" for patient in both.patients)
    return replace(both, probabilities=shares / shares.sum(axis=1, keepdims=True), parts=parts)


@pytest.fixture
def strict(tmp_path: Path) -> RunFolder:
    """A run as training leaves it: calibrated on its validation patients."""
    folder = run_folder(tmp_path / "run", both_parts())
    calibration = fit_calibration(both_parts().of_part("validation"))
    add_to_model(folder.model, calibration=calibration, domain=None)
    return folder


def kept_in(folder: RunFolder) -> Calibration:
    kept = read_calibration(folder.model)
    assert kept is not None
    return kept


def test_a_run_is_fitted_on_its_validation_rows(strict: RunFolder) -> None:
    calibrated = run("calibrate", strict.path, "--coverage", 0.7)
    assert (strict.path / "calibration.html").is_file()
    numbers = json.loads((strict.path / "calibration.json").read_text())
    assert numbers["calibration"]["num_patients"] == 12
    assert numbers["measures"]["num_patients"] == 12
    assert numbers["calibration"]["abstain"]["wanted_value"] == 0.7
    assert "Warning: Sets at 95 % always hold every class" in calibrated
    output = run("operate", strict.path, "--sensitivity", 0.8, "--sensitivity", 0.95, "--prevalence", 0.05)
    assert output.count("wanted sensitivity") == 2
    assert output.count("prevalence 5.0: PPV") == 2
    assert "Research software, not a medical device." in output


def test_a_run_has_one_scaling_and_one_operating_point(strict: RunFolder) -> None:
    kept = kept_in(strict)
    assert kept == fit_calibration(both_parts().of_part("validation"))
    calibrated = run("calibrate", strict.path)
    assert f"scaling: {'temperature' if kept.is_scaled else 'none'}; " in calibrated
    assert "keeps another calibration" not in calibrated
    shown = json.loads((strict.path / "calibration.json").read_text())
    assert shown["calibration"] == kept.to_plain()
    assert shown["remarks"] == []
    output = run("operate", strict.path)
    assert f"probabilities {kept.scaling}." in output
    assert f"abnormal when P(abnormal) is {kept.operating_points[0].threshold:.4f} or more" in output


def test_operating_points_follow_what_the_model_keeps(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", both_parts(temperature=3.0))
    kept = fit_calibration(both_parts(temperature=3.0).of_part("validation"))
    assert kept.is_scaled
    add_to_model(folder.model, calibration=kept, domain=None)
    output = run("operate", folder.path)
    assert f"probabilities {kept.scaling}." in output
    assert f"abnormal when P(abnormal) is {kept.operating_points[0].threshold:.4f} or more" in output
    assert "predictions.csv holds the probabilities before scaling." in output


def test_wanted_sensitivities_are_kept_when_asked_for(strict: RunFolder) -> None:
    before = kept_in(strict)
    run("operate", strict.path, "--sensitivity", 0.7)
    assert kept_in(strict) == before
    output = run("operate", strict.path, "--sensitivity", 0.7, "--sensitivity", 0.8, "--keep")
    assert "pages show it after 'lungsound evaluate' and 'lungsound calibrate' of the run" in output
    kept = kept_in(strict)
    assert [point.wanted_sensitivity for point in kept.operating_points] == [0.7, 0.8]
    assert kept.model_copy(update={"operating_points": before.operating_points}) == before
    assert run("operate", strict.path).count("wanted sensitivity") == 2
    run("calibrate", strict.path, "--coverage", 0.6, "--keep")
    assert kept_in(strict).operating_points == kept.operating_points


def test_the_page_says_when_the_model_keeps_something_else(strict: RunFolder) -> None:
    output = run("calibrate", strict.path, "--coverage", 0.5)
    remark = "The model of this run keeps another calibration, which 'predict' uses (predictions withheld: below 0."
    assert f"Warning: {remark}" in output
    assert remark in (strict.path / "calibration.md").read_text()
    assert "keeps another" not in run("calibrate", strict.path, "--coverage", 0.5, "--keep")
    assert "keeps another" not in run("calibrate", strict.path, "--coverage", 0.5)
    write_tensors(strict.model, {"weight": torch.ones(2)}, {"format": MODEL_FORMAT})
    assert "Warning: The model of this run keeps no calibration" in run("calibrate", strict.path)


def test_a_run_whose_rule_chose_no_epoch_kept_the_last(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", both_parts())
    folder.start(load_config("tiny_ce", ["train.selection=validation"]))
    assert "wanted sensitivity 90" in run("operate", tmp_path / "run")


@pytest.mark.parametrize("command", ["calibrate", "operate"])
def test_an_interrupted_run_is_to_be_gone_on_with(command: str, tmp_path: Path) -> None:
    run_folder(tmp_path / "run", both_parts(), is_finished=False)
    with pytest.raises(SettingsError, match=r"run is not finished: 'lungsound train .* --resume' goes on"):
        run(command, tmp_path / "run")


# ---- files ----


def test_of_a_file_with_both_parts_each_side_takes_its_own(tmp_path: Path) -> None:
    both = tmp_path / "last.csv"
    write_predictions(both, both_parts())
    run("calibrate", "--validation", both, "--test", both, "--out", tmp_path)
    numbers = json.loads((tmp_path / "calibration.json").read_text())
    assert numbers["calibration"]["num_cycles"] == numbers["measures"]["num_cycles"] == 144


def test_cycles_on_both_sides_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="240 cycles are in validation and in the test, v00#0-1 among them"):
        run("operate", "--validation", files[0], "--test", files[0])
    only = tmp_path / "validation.csv"
    write_predictions(only, both_parts().of_part("validation"))
    with pytest.raises(DataError, match="rows of validation patients only"):
        run("operate", "--validation", files[0], "--test", only)


def test_patients_on_both_sides_are_warned_of_on_the_page_too(files: tuple[Path, Path], tmp_path: Path) -> None:
    test = drawn_predictions(1, num_patients=20, name="t")
    patients = tuple("v00" if name in {"t00", "t01"} else name for name in test.patients)
    write_predictions(tmp_path / "test.csv", replace(test, patients=patients))
    arguments = ("--validation", files[0], "--test", tmp_path / "test.csv")
    remark = "Validation and the test share 1 patient: the measurements are optimistic."
    assert f"Warning: {remark}" in run("operate", *arguments)
    assert f"Warning: {remark}" in run("calibrate", *arguments, "--out", tmp_path)
    assert remark in (tmp_path / "calibration.md").read_text()
    assert json.loads((tmp_path / "calibration.json").read_text())["remarks"] == [remark]


def test_nothing_is_said_for_two_patients(files: tuple[Path, Path], tmp_path: Path) -> None:
    write_predictions(tmp_path / "test.csv", drawn_predictions(2, num_patients=2, name="t"))
    output = run("calibrate", "--validation", files[0], "--test", tmp_path / "test.csv", "--out", tmp_path)
    assert "corrected for chance, percent: n/a: too few patients (2 of 10)" in output
    assert "is possible" not in output + (tmp_path / "calibration.md").read_text()
    measured = json.loads((tmp_path / "calibration.json").read_text())["measures"]["after"]["top_label"]
    assert measured["corrected"]["interval"]["high"] is None


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
    folder = run_folder(tmp_path / "run", both_parts())
    run("calibrate", tmp_path / "run", "--coverage", 0.6)
    assert read_calibration(folder.model) is None
    assert "stored in" in run("calibrate", tmp_path / "run", "--coverage", 0.6, "--keep")
    kept = kept_in(folder)
    assert kept.abstain is not None
    assert kept.abstain.wanted_value == 0.6
    tensors, _ = read_tensors(folder.model, expected_format=MODEL_FORMAT)
    assert tensors["weight"].tolist() == [1.0, 1.0]


def test_a_calibration_of_an_older_format_is_replaced(strict: RunFolder) -> None:
    older = kept_in(strict).to_plain() | {"format": "lungsound calibration 1"}
    write_tensors(strict.model, {"weight": torch.ones(2)}, {"format": MODEL_FORMAT, "calibration": older})
    with pytest.raises(WeightsError, match="calibrate it anew with 'lungsound calibrate RUN --keep'"):
        run("operate", strict.path)
    assert "Warning: the calibration in the model cannot be used" in run("calibrate", strict.path, "--keep")
    assert kept_in(strict).num_patients == 12


def test_keeping_needs_a_run(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--keep .* calibration"):
        run("calibrate", "--validation", files[0], "--test", files[1], "--out", tmp_path, "--keep")
    with pytest.raises(SettingsError, match=r"--keep .* thresholds"):
        run("operate", "--validation", files[0], "--test", files[1], "--keep")
