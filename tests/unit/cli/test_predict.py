"""What is written below predictions, and of a run that is not finished."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import typer
from typer.testing import CliRunner

from lungsound import extras
from lungsound.audio.front_end import FrontEnd
from lungsound.cli.predict import embed, evaluate, explain, models, predict, probabilities_text
from lungsound.config import AudioSettings, ModelSettings, load_config
from lungsound.errors import SettingsError
from lungsound.evaluation.calibration import Calibration, fit_calibration
from lungsound.evaluation.evidence import Measured, statement
from lungsound.inference import embed as embed_module
from lungsound.inference import predictor as predictor_module
from lungsound.inference.explain import relevance
from lungsound.inference.predictor import Predictor, load_recording
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import make_classifier
from lungsound.models.hub import KNOWN_WEIGHTS
from lungsound.training.model_file import add_to_model, load_model, save_model
from lungsound.training.run import RunFolder
from tests.unit.evaluation.calibrated import GOOD_EVIDENCE, drawn_predictions
from tests.unit.inference.models import EFFICIENTAT_AUDIO, MOBILENET, saved_model

AUDIO = AudioSettings(duration_s=1.0, num_mels=32)
ARCHITECTURE = ModelSettings(size="micro", stride=16)

app = typer.Typer()
app.command()(evaluate)
app.command()(predict)
app.command()(explain)
app.command()(embed)


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    """A model alone in its folder."""
    model = make_classifier(ARCHITECTURE, FrontEnd(AUDIO), LABEL_SETS["sound4"])
    model.initialize(torch.Generator().manual_seed(0))
    path = tmp_path / "run" / "model.safetensors"
    path.parent.mkdir()
    facts = {"audio": AUDIO, "architecture": ARCHITECTURE, "label_set": LABEL_SETS["sound4"], "evidence": GOOD_EVIDENCE}
    save_model(path, model, mean=-8.0, std=3.0, **facts)
    return path


def test_explain_without_a_page_or_a_model_of_patches_is_refused(model_path: Path, tmp_path: Path) -> None:
    saved_model(tmp_path, audio=EFFICIENTAT_AUDIO, architecture=MOBILENET)
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    out = ["--out", str(tmp_path / "answers")]
    no_page = "html pages: give --out DIR and --format html too"
    for model, words, message in (
        (model_path, [], no_page),
        (model_path, out, no_page),
        (model_path, [*out, "--format", "csv"], no_page),
        (tmp_path, [*out, "--format", "html"], "mn04 cannot be explained"),
    ):
        result = CliRunner().invoke(
            app, ["predict", str(tmp_path / "a.wav"), "--model", str(model), "--explain", *words]
        )
        assert isinstance(result.exception, SettingsError)
        assert message in str(result.exception)
        assert not (tmp_path / "answers").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [*(("age", each) for each in ("nan", "inf", "-1", "1_0")), ("stethoscope", "\udcff"), ("stethoscope", "a\nb")],
)
def test_an_age_or_a_stethoscope_of_nobody_is_refused(option: str, value: str, model_path: Path) -> None:
    result = CliRunner().invoke(app, ["predict", "a.wav", "--model", str(model_path), f"--{option}", value])
    assert isinstance(result.exception, SettingsError)
    assert option in str(result.exception)


def told_with(calibration: Calibration | None, model_path: Path) -> str:
    return probabilities_text(Predictor(replace(load_model(model_path), calibration=calibration)))


def test_probabilities_are_called_what_they_are(model_path: Path) -> None:
    assert told_with(None, model_path) == "Probabilities are not calibrated."
    scaled = fit_calibration(drawn_predictions(0, temperature=2.5))
    assert told_with(scaled, model_path) == (
        f"Probabilities: after temperature scaling with T {scaled.temperature:.3f}."
    )
    few = fit_calibration(drawn_predictions(0, num_patients=4))
    assert told_with(few, model_path) == "Probabilities: as the model gives them, not scaled."


def test_nothing_is_written_of_probabilities_where_there_are_none(model_path: Path, tmp_path: Path) -> None:
    broken, sound = tmp_path / "a.wav", tmp_path / "b.wav"
    broken.write_bytes(b"no sound")
    soundfile.write(sound, np.random.default_rng(0).normal(0, 0.1, 8000), 4000)
    for words in ([], ["--out", str(tmp_path / "answers")]):
        command = ["--model", str(model_path), *words]
        result = CliRunner().invoke(app, ["predict", str(broken), *command])
        assert result.exit_code == 1
        assert "Probabilities" not in result.output
        assert "Probabilities" in CliRunner().invoke(app, ["predict", str(broken), str(sound), *command]).output


@pytest.mark.usefixtures("box")
def test_without_a_model_the_box_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 8000), 4000)
    words = ["predict", str(tmp_path / "a.wav")]
    assert CliRunner().invoke(app, words).output == CliRunner().invoke(app, [*words, "--model", "box"]).output
    assert "a.wav, cycles by" in CliRunner().invoke(app, words).output
    monkeypatch.setattr(extras, "BOX_PACKAGE", "no_such_package")
    for command in (words, ["explain", words[1], "--out", str(tmp_path / "why")]):
        assert isinstance(CliRunner().invoke(app, command).exception, SettingsError)


def test_the_models_that_are_there_are_listed(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path))
    known = KNOWN_WEIGHTS["deit-tiny"].path(tmp_path / "weights")
    known.parent.mkdir()
    known.touch()
    groups = {"ages_years": ((0.0, 80.0),), "devices": (), "num_patients": 12, "num_cycles": 90, "auc": 0.9}
    measured = Measured(name="here", score=0.6, score_interval=(0.5, 0.7), **groups)
    evidence = GOOD_EVIDENCE.model_copy(update={"held_out": None, "measured": (measured,)})
    add_to_model(box, evidence=evidence)
    models()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"box: {box}"
    assert lines[1:4] == [f"    {each}" for each in (evidence.trained_on, measured.summary, "licence: GPL-3.0-only")]
    cached = {line.split()[0]: line.split()[-1] for line in lines[lines.index("") + 2 :]}
    assert cached == dict.fromkeys(KNOWN_WEIGHTS, "no") | {"deit-tiny": "yes"}
    monkeypatch.setattr(extras, "BOX_PACKAGE", "no_such_package")
    models()
    assert "box: the model in the box is not installed" in capsys.readouterr().out


def test_an_unknown_device_is_said_with_the_option_that_names_it(model_path: Path, tmp_path: Path) -> None:
    facts = {"audio": AUDIO, "architecture": ARCHITECTURE, "label_set": LABEL_SETS["sound4"], "devices": ("Meditron",)}
    save_model(model_path, load_model(model_path).model, mean=-8.0, std=3.0, **facts)
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, np.random.default_rng(0).normal(0, 0.1, 8000), 4000)
    words = ["predict", str(sound), "--model", str(model_path)]
    assert "stethoscope not stated (--stethoscope NAME)" in " ".join(CliRunner().invoke(app, words).output.split())
    assert "not stated" not in CliRunner().invoke(app, [*words, "--stethoscope", "meditron"]).output


def test_the_first_line_says_on_whom_and_a_stated_patient_is_heeded(model_path: Path, tmp_path: Path) -> None:
    measured = GOOD_EVIDENCE.groups[0].model_copy(update={"ages_years": ((20.0, 80.0),)})
    evidence = GOOD_EVIDENCE.model_copy(update={"held_out": measured, "is_synthetic": True})
    add_to_model(model_path, evidence=evidence)
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, np.random.default_rng(0).normal(0, 0.1, 8000), 4000)
    words = ["predict", str(sound), "--model", str(model_path)]
    for more in ([], ["--out", str(tmp_path / "out")]):
        printed = " ".join(CliRunner().invoke(app, [*words, *more, "--age", "40"]).output.split())
        assert printed.startswith(statement(evidence))
        assert "age_outside" not in printed
    assert "age_outside: the model was not" in CliRunner().invoke(app, [*words, "--age", "3"]).output
    assert "age not stated (--age YEARS)" in " ".join(CliRunner().invoke(app, words).output.split())
    facts = json.loads((tmp_path / "out" / "answers.csv.provenance.json").read_text())
    assert facts["provenance"]["evidence"] == statement(evidence)


def test_a_run_that_is_not_finished_predicts_with_a_warning_and_is_not_evaluated(
    model_path: Path, tmp_path: Path
) -> None:
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, np.random.default_rng(0).normal(0, 0.1, 8000), 4000, subtype="PCM_16")

    def printed(model: Path) -> str:
        return CliRunner().invoke(app, ["predict", str(sound), "--model", str(model)]).output

    assert "not finished" not in printed(model_path)
    RunFolder(model_path.parent).start(load_config("tiny_ce"))
    for model in (model_path, model_path.parent):
        assert "Warning: " in printed(model)
        assert "these are predictions of an intermediate epoch" in printed(model)
    result = CliRunner().invoke(app, ["evaluate", str(model_path.parent)])
    assert isinstance(result.exception, SettingsError)
    assert "run is not finished: 'lungsound train RECIPE --out " in str(result.exception)
    (model_path.parent / "report.json").write_text("{}")
    assert "not finished" not in printed(model_path)


def test_silence_is_shown_without_cycles(model_path: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 4000)
    result = CliRunner().invoke(app, ["predict", str(tmp_path / "silent.wav"), "--model", str(model_path)])
    assert result.exit_code == 0
    assert "no prediction" in result.output


@pytest.mark.parametrize("command", [["predict"], ["embed", "--out", "features.npz"]])
def test_a_recording_without_sound_or_that_meets_a_bug_loses_no_other(
    command: list[str], model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, level in (("a", 0.1), ("b", 0.0), ("c", 0.2), ("d", 0.1)):
        soundfile.write(f"{name}.wav", np.random.default_rng(0).normal(0, level, 8000), 4000)
    load = {"predict": predictor_module, "embed": embed_module}[command[0]]

    def with_a_bug(path: Path, *words: object, **more: object) -> object:
        if path.name == "c.wav":
            raise IndexError("planted")
        return load_recording(path, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(load, "load_recording", with_a_bug)
    words = [*command, *(f"{name}.wav" for name in "abcd"), "--model", str(model_path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "c.wav: internal error (bug): IndexError: planted" in " ".join(result.output.split())
    if command[0] == "embed":
        assert set(np.load("features.npz")["recording"]) == {"a.wav", "b.wav", "d.wav"}
    else:
        assert "d.wav, cycles by" in result.output
        assert "b.wav, cycles by windows: no prediction remarks: silent" in " ".join(result.output.split())


def test_explain_writes_a_page_and_the_relevance_of_every_cycle(model_path: Path, tmp_path: Path) -> None:
    sound, broken, out = tmp_path / "a.wav", tmp_path / "b.wav", tmp_path / "why"
    soundfile.write(sound, np.random.default_rng(0).normal(0, 0.1, 8000), 4000, subtype="PCM_16")
    sound.with_suffix(".txt").write_text("0.1\t0.6\t0\t0\n0.6\t1.9\t0\t0\n")
    broken.write_bytes(b"no sound")
    result = CliRunner().invoke(
        app, ["explain", str(sound), str(broken), "--model", str(model_path), "--out", str(out)]
    )
    assert result.exit_code == 1
    assert " ".join(result.output.split()).startswith(statement(GOOD_EVIDENCE))
    assert "1 explained, 1 failed" in result.output
    page, arrays = sorted(out.iterdir())
    assert (page.suffix, arrays.suffix, page.stem) == (".html", ".npz", arrays.stem)
    assert page.read_text(encoding="utf-8").count("Spectrogram of cycle") == 2
    predictor = Predictor.load(model_path, engine="torch")
    cycles, front_end = predictor.predict(sound).cycles, predictor.trained.front_end
    waveform = front_end.read(sound)
    with np.load(arrays, allow_pickle=False) as written:
        assert str(written["format"]) == "lungsound relevance 1"
        assert str(written["model_sha256"]) == predictor.trained.sha256
        assert written["start_s"].tolist() == [0.1, 0.6]
        assert written["best_guess"].tolist() == [cycle.best_guess for cycle in cycles]
        assert len(written["mel_hz"]) == front_end.audio.num_mels
        for number, cycle in enumerate(cycles, start=1):
            cut = front_end.cut(waveform, start_s=cycle.start_s, end_s=cycle.end_s)
            expected = relevance(predictor.trained, cut, class_index=predictor.classes.index(cycle.best_guess))
            np.testing.assert_allclose(written[f"relevance_{number}"], expected.numpy(), atol=1e-6)
