import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from lungsound.cli.calibrate import calibrate, operate
from lungsound.config import load_config
from lungsound.errors import DataError, SettingsError, WeightsError
from lungsound.evaluation import bootstrap, calibration_report
from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.calibration import Calibration, fit_calibration
from lungsound.evaluation.evidence import Evidence, Measured
from lungsound.evaluation.predictions import Predictions, write_predictions
from lungsound.files import hash_file
from lungsound.training.model_file import (
    MODEL_FORMAT,
    PREDICTIONS,
    add_to_model,
    read_arrays,
    read_facts,
    write_arrays,
)
from lungsound.training.run import CorpusFacts, RunFacts, RunFolder
from tests.unit.evaluation.calibrated import drawn_predictions

app = typer.Typer()
app.command()(calibrate)
app.command()(operate)


def run(*arguments: object) -> str:
    """What the command prints; its error is raised."""
    result = CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(autouse=True)
def _quick_intervals_and_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few resamples, and copies of one small picture: to draw three takes a second in each test."""
    quick = Bootstrap(num_draws=100)
    monkeypatch.setattr(bootstrap, "Bootstrap", lambda: quick)

    def draw(*arguments: Any) -> None:
        for name in (calibration_report.RELIABILITY, calibration_report.RISK, calibration_report.COVERAGE):
            Image.new("RGB", (1, 1)).save(arguments[-1] / name)

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
    assert "scaling: temperature; chosen by cross-validation over 20 held-out patients" in output
    assert "ECE after scaling, corrected for chance, percent: " in output
    written = {path.name for path in tmp_path.iterdir()}
    pictures = {"reliability.png", "risk_coverage.png", "set_coverage.png"}
    assert written == {"calibration.md", "calibration.html", "calibration.json"} | pictures
    numbers = json.loads((tmp_path / "calibration.json").read_text())
    kept = Calibration.model_validate(numbers["calibration"])
    assert kept.abstain is not None
    assert (kept.abstain.wanted, kept.abstain.wanted_value) == ("error", 0.2)
    assert numbers["measures"]["after"]["top_label"]["seen"] < numbers["measures"]["before"]["top_label"]["seen"]
    assert "src=" in (tmp_path / "calibration.html").read_text()


def facts_of(path: Path) -> RunFacts:
    """Three patients of a synthetic corpus trained."""
    corpus = CorpusFacts(
        name="synthetic",
        root=str(path),
        num_recordings=3,
        num_cycles=9,
        problems=(),
        notes=(),
        split_origin="",
        fingerprint="0",
    )
    return RunFacts(
        command="",
        device="cpu",
        precision="fp32",
        pretrained=None,
        weights="random",
        corpus=corpus,
        num_cycles={"train": 9},
        patients={"train": ("a", "b", "c")},
        left_out_patients=(),
        versions={},
        revision=None,
    )


def write_model(folder: RunFolder, **facts: Any) -> None:
    """A model of one number, with the facts that each model has and these."""
    config = load_config("tiny_ce").model_dump(mode="json")
    each = {"format": MODEL_FORMAT, "mean": 0.0, "std": 1.0, "label_set": "sound4"}
    each |= {section: config[section] for section in ("audio", "model")}
    write_arrays(folder.model, {"weight": np.ones(2)}, each | facts)


def run_folder(path: Path, predictions: Predictions, *, is_finished: bool = True) -> RunFolder:
    """A run with these predictions; its model is one number."""
    folder = RunFolder(path)
    folder.start(load_config("tiny_ce"))
    folder.write_facts(facts_of(path))
    folder.write_column("last", predictions)
    write_model(folder, **{PREDICTIONS: hash_file(folder.column("last"))})
    if is_finished:
        (path / "report.json").write_text("{}")
    return folder


def both_parts(temperature: float = 1.0) -> Predictions:
    """12 patients of validation, 12 of the test, that lean to normal."""
    both = drawn_predictions(3, num_patients=24, temperature=temperature)
    shares = both.probabilities * [8.0, 1.0, 1.0]
    parts = tuple("validation" if patient < "p12" else "test" for patient in both.patients)
    return replace(both, probabilities=shares / shares.sum(axis=1, keepdims=True), parts=parts)


@pytest.fixture
def strict(tmp_path: Path) -> RunFolder:
    """A run as training leaves it: calibrated on its validation patients, with a temperature."""
    predictions = both_parts(temperature=3.0)
    folder = run_folder(tmp_path / "run", predictions)
    add_to_model(folder.model, calibration=fit_calibration(predictions.of_part("validation")))
    return folder


def kept_in(folder: RunFolder) -> Calibration:
    kept = read_facts(folder.model).calibration
    assert kept is not None
    return kept


def test_a_run_is_shown_what_its_model_keeps(strict: RunFolder) -> None:
    kept = kept_in(strict)
    assert kept.is_scaled
    output = run("calibrate", strict.path)
    assert "scaling: temperature; " in output
    assert "Warning: Sets at 95 % always hold every class" in output
    assert "keeps another calibration" not in output
    numbers = json.loads((strict.path / "calibration.json").read_text())
    assert numbers["calibration"] == kept.to_plain()
    assert numbers["calibration"]["num_patients"] == numbers["measures"]["num_patients"] == 12
    assert numbers["remarks"] == []
    output = run("operate", strict.path)
    assert f"probabilities {kept.scaling}, reaches" in output
    assert f"{kept.operating_points[0].threshold:.4f}" in output
    assert "predictions.csv holds the probabilities before scaling." in output
    assert "Research software, not a medical device." in output
    output = run("operate", strict.path, "--sensitivity", 0.8, "--sensitivity", 0.95, "--prevalence", 0.05)
    assert [line.split()[0] for line in output.splitlines() if " 5.0 " in line] == ["80", "95"]


def test_wanted_sensitivities_are_kept_when_asked_for(strict: RunFolder) -> None:
    before = kept_in(strict)
    run("operate", strict.path, "--sensitivity", 0.7)
    assert kept_in(strict) == before
    output = run("operate", strict.path, "--sensitivity", 0.7, "--sensitivity", 0.8, "--keep")
    assert "pages show it after 'lungsound evaluate' and 'calibrate' of the run" in output
    kept = kept_in(strict)
    assert [point.wanted_sensitivity for point in kept.operating_points] == [0.7, 0.8]
    assert kept.model_copy(update={"operating_points": before.operating_points}) == before
    rows = [line.split()[0] for line in run("operate", strict.path).splitlines() if line[:1].isdigit()]
    assert rows == ["70"] * 3 + ["80"] * 3  # each at the prevalence of the test and at two more
    run("calibrate", strict.path, "--coverage", 0.6, "--keep")
    assert kept_in(strict).operating_points == kept.operating_points


def test_a_calibration_is_kept_when_asked_for_and_the_page_names_the_difference(strict: RunFolder) -> None:
    output = run("calibrate", strict.path, "--coverage", 0.5)
    remark = "The model of this run keeps another calibration:"
    assert f"Warning: {remark}" in output
    assert remark in (strict.path / "calibration.md").read_text()
    output = run("calibrate", strict.path, "--coverage", 0.5, "--keep")
    assert "stored in" in output
    assert "keeps another" not in output
    assert kept_in(strict).abstain.wanted_value == 0.5  # type: ignore[union-attr]
    tensors, _ = read_arrays(strict.model, expected_format=MODEL_FORMAT)
    assert tensors["weight"].tolist() == [1.0, 1.0]
    write_model(strict)
    assert "Warning: The model of this run keeps no calibration" in run("calibrate", strict.path)


def test_a_kept_calibration_measures_the_held_out_patients_anew(strict: RunFolder) -> None:
    """By its own decision; what else the model file says of its measurements stays."""
    run("calibrate", strict.path, "--keep")
    held = both_parts(temperature=3.0).of_part("validation")
    found = read_facts(strict.model).evidence
    assert found is not None
    assert found.held_out == Measured.of(held, name="patients held out", ages_years=())
    assert (found.is_synthetic, "3 patients" in found.trained_on) == (True, True)
    other = found.held_out.model_copy(update={"ages_years": ((3.0, 9.0),), "score": 0.1})
    kept = Evidence(trained=(), is_synthetic=False, held_out=other, measured=(other,))
    add_to_model(strict.model, evidence=kept)
    run("operate", strict.path, "--sensitivity", 0.7, "--keep")
    assert read_facts(strict.model).evidence == kept
    run("calibrate", strict.path, "--keep")
    renewed = found.held_out.model_copy(update={"ages_years": ((3.0, 9.0),)})
    assert read_facts(strict.model).evidence == kept.model_copy(update={"held_out": renewed})


def test_a_run_whose_rule_chose_no_epoch_kept_the_last(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", both_parts())
    folder.start(load_config("tiny_ce", ["train.selection=validation"]))
    (folder.path / "report.json").write_text("{}")
    assert "wanted Se" in run("operate", tmp_path / "run")


def test_runs_that_cannot_be_calibrated(strict: RunFolder, tmp_path: Path) -> None:
    run_folder(tmp_path / "going", both_parts(), is_finished=False)
    run_folder(tmp_path / "published", drawn_predictions(4))
    for command in ("calibrate", "operate"):
        with pytest.raises(SettingsError, match=r"is not finished: 'lungsound train .* --resume' goes on"):
            run(command, tmp_path / "going")
        with pytest.raises(SettingsError, match=r"has no epochs/last\.csv with validation and test rows"):
            run(command, tmp_path / "published")
    other = kept_in(strict).model_copy(update={"num_cycles": 3})
    add_to_model(strict.model, calibration=other)
    with pytest.raises(DataError, match="fitted to 3 cycles of 12 patients, this run has 144 of 12"):
        run("operate", strict.path)
    older = other.to_plain() | {"format": "lungsound calibration 1"}
    write_model(strict, calibration=older)
    with pytest.raises(WeightsError, match=r"calibration\.format is 'lungsound calibration 1'.*train it again"):
        run("operate", strict.path)


@pytest.mark.parametrize("command", ["calibrate", "operate"])
def test_a_model_and_predictions_of_two_runs_are_refused(command: str, strict: RunFolder, tmp_path: Path) -> None:
    other = run_folder(tmp_path / "other", both_parts())
    before = strict.model.read_bytes()
    for kept, taken in ((strict.model, other.model), (strict.column("last"), other.column("last"))):
        own = kept.read_bytes()
        kept.write_bytes(taken.read_bytes())
        with pytest.raises(SettingsError, match=r"model\.safetensors did not make the predictions in .*epochs"):
            run(command, strict.path, "--keep")
        assert kept.read_bytes() == taken.read_bytes()
        kept.write_bytes(own)
    assert strict.model.read_bytes() == before
    assert "older version" not in run(command, strict.path)


def test_a_model_that_does_not_name_its_predictions_is_remarked(strict: RunFolder) -> None:
    tensors, facts = read_arrays(strict.model, expected_format=MODEL_FORMAT)
    facts.pop(PREDICTIONS)
    write_arrays(strict.model, tensors, facts)
    assert "is of an older version" in run("calibrate", strict.path).replace("\n", " ")


# ---- files ----


def test_of_a_file_with_both_parts_each_side_takes_its_own(tmp_path: Path) -> None:
    both = tmp_path / "last.csv"
    write_predictions(both, both_parts())
    run("calibrate", "--validation", both, "--test", both, "--out", tmp_path)
    numbers = json.loads((tmp_path / "calibration.json").read_text())
    assert numbers["calibration"]["num_cycles"] == numbers["measures"]["num_cycles"] == 144


def test_files_that_do_not_fit_together_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    write_predictions(other, replace(drawn_predictions(5), classes=("normal", "a", "b")))
    only = tmp_path / "validation.csv"
    write_predictions(only, both_parts().of_part("validation"))
    for test, message in (
        (files[0], "240 cycles are in validation and in the test, v00#0-1 among them"),
        (only, "rows of validation patients only"),
        (other, "both must come from one model"),
    ):
        with pytest.raises(DataError, match=message):
            run("operate", "--validation", files[0], "--test", test)


def test_patients_on_both_sides_are_warned_of_on_the_page_too(files: tuple[Path, Path], tmp_path: Path) -> None:
    test = drawn_predictions(1, num_patients=20, name="t")
    patients = tuple("v00" if name in {"t00", "t01"} else name for name in test.patients)
    write_predictions(tmp_path / "test.csv", replace(test, patients=patients))
    arguments = ("--validation", files[0], "--test", tmp_path / "test.csv")
    remark = "Patients in both validation and test: 1. The measurements are optimistic."
    assert f"Warning: {remark}" in run("operate", *arguments)
    assert f"Warning: {remark}" in run("calibrate", *arguments, "--out", tmp_path)
    assert remark in (tmp_path / "calibration.md").read_text()
    assert json.loads((tmp_path / "calibration.json").read_text())["remarks"] == [remark]


def test_two_patients_give_no_interval(files: tuple[Path, Path], tmp_path: Path) -> None:
    write_predictions(tmp_path / "test.csv", drawn_predictions(2, num_patients=2, name="t"))
    output = run("calibrate", "--validation", files[0], "--test", tmp_path / "test.csv", "--out", tmp_path)
    assert "corrected for chance, percent: n/a\n" in output
    assert "too few patients (2 of 10)" in output
    measured = json.loads((tmp_path / "calibration.json").read_text())["measures"]["after"]["top_label"]
    assert measured["corrected"]["interval"]["high"] is None


def test_mistakes_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    for arguments, message in (
        ("calibrate --out {t}", "give a RUN, or --validation FILE and --test FILE"),
        ("calibrate {t} --validation {v} --test {v}", "give a RUN"),
        ("operate --validation {v}", "give a RUN"),
        ("calibrate --validation {v} --test {v}", "give --out DIR"),
        ("calibrate {t} --error 0.1 --coverage 0.5", "one of them only"),
        ("operate {t}", "is not the folder of a run"),
        ("calibrate --validation {v} --test {v} --out {t} --keep", "--keep stores into"),
        ("operate --validation {v} --test {v} --keep", "--keep stores into"),
    ):
        with pytest.raises(SettingsError, match=message):
            run(*arguments.format(t=tmp_path, v=files[0]).split())
