"""Predicting and serving where neither torch nor anything else of the extra `train` can be imported."""

import copy
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from lungsound.evaluation.out_of_domain import Gate, fit_domain
from lungsound.extras import BOX, EXTRAS
from lungsound.inference.engines import make
from lungsound.inference.predictor import Predictor
from lungsound.training.model_file import add_to_model, load_model, write_rounded
from tests.integration.command import lungsound
from tests.unit.inference.models import AUDIO, saved_model, sounds

MISSING = [package for extra in ("train", "onnx", "baselines") for package in EXTRAS[extra].packages]
COMMAND = f"import sys; sys.modules.update(dict.fromkeys({MISSING})); from lungsound.cli.main import main; main()"
OWN_LENGTH = AUDIO.model_copy(
    update={"is_padding_encoded": False, "is_recording_normalized": True, "statistics": "corpus"}
)
WITH_TORCH = 1e-4  # the largest difference in probability


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", COMMAND, *map(str, arguments)]


def light(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """What the command prints, in a process of its own."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model with domain and gate, its weights rounded, its graph beside it."""
    graph = pytest.importorskip("lungsound.inference.graph")
    pytest.importorskip("onnxscript", reason="exporting needs pip install 'lungsound[onnx]'")
    made, folder = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("model")
    saved_model(made, audio=OWN_LENGTH)
    file = folder / "model.safetensors"
    write_rounded(made / "model.safetensors", file)
    trained, rng = load_model(file), np.random.default_rng(0)
    ones = np.ones(96 + 2 * 32, np.float32)
    gate = Gate(0 * ones, ones, rng.standard_normal(2 * len(ones), np.float32), np.zeros(1, np.float32))
    features = make("torch", replace(trained, gate=gate)).predict(sounds(trained, num=40))[1]
    domain = fit_domain(features[:, -64:], [str(row % 8) for row in range(40)], generator=rng)
    threshold = np.median(gate.scores(features), keepdims=True)
    add_to_model(file, domain=domain, gate=replace(gate, threshold=threshold))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUNGSOUND_CACHE", str(made / "cache"))
        assert graph.write_beside(load_model(file)).name == "model.onnx"
    assert (folder / "model.onnx").stat().st_size < file.stat().st_size
    return folder


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Breathing-like noises of several rates and lengths, one with an annotation, one silent."""
    folder, rng = tmp_path / "recordings", np.random.default_rng(1)
    folder.mkdir()
    for number, (rate_hz, duration_s) in enumerate([(16000, 3.3), (4000, 7.0), (44100, 2.0), (8000, 12.5)]):
        time_s = np.arange(int(rate_hz * duration_s)) / rate_hz
        noise = rng.standard_normal(len(time_s)) * (1.1 - np.cos(2 * np.pi * time_s / 2.5)) * 0.05
        soundfile.write(folder / f"r{number}.wav", noise, rate_hz)
    (folder / "r0.txt").write_text("0.2\t0.9\t0\t0\n1.0\t3.1\t0\t0\n")
    soundfile.write(folder / "silent.wav", np.zeros(16000), 8000)
    return folder


def answers(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]


def in_both_ways(out: Path, *paths: Path, model: object) -> list[dict[str, Any]]:
    """The answers without torch, held against those with it."""
    asked = ("predict", *paths, "--model", model, "--format", "jsonl", "--format", "html", "--out")
    done = light(*asked, out / "light")
    assert done.returncode == 0, done.stderr
    assert lungsound(*asked, out / "torch", "--engine", "torch") == 0
    ours, theirs = answers(out / "light"), answers(out / "torch")
    assert len(ours) == len(theirs)
    for one, other in zip(copy.deepcopy(ours), theirs, strict=True):
        cycles, expected = (each.pop("cycles") for each in (one, other))
        assert len(cycles) == len(expected)
        for cycle, of_torch in zip(cycles, expected, strict=True):
            probabilities, wanted = cycle.pop("probabilities"), of_torch.pop("probabilities")
            assert probabilities == pytest.approx(wanted, abs=WITH_TORCH)
            assert cycle == of_torch
        assert one["quality"] == other["quality"]
        # A rank among some hundred distances: a last digit may be one rank.
        assert one["out_of_domain"] == pytest.approx(other["out_of_domain"], abs=0.002)
    return ours


def test_a_folder_is_predicted_as_with_torch(model: Path, recordings: Path, tmp_path: Path) -> None:
    ours = in_both_ways(tmp_path, recordings, model=model)
    assert len(ours) == 5
    assert any(each["out_of_domain"] for each in ours)
    shown = light("predict", recordings / "r0.wav", "--model", model)
    assert shown.returncode == 0, shown.stderr
    assert "0.20 - 0.90" in shown.stdout
    assert (tmp_path / "light" / "review" / "index.html").is_file()


@pytest.mark.slow
def test_real_recordings_are_predicted_as_with_torch(shared_dir: Path, tmp_path: Path) -> None:
    """The model in the box, on a hundred recordings of each corpus."""
    folders = [shared_dir / "data/icbhi/ICBHI_final_database", shared_dir / "data/sprsound/test_wav"]
    paths = [path for folder in folders for path in sorted(folder.glob("*.flac"))[::2][:100]]
    assert len(in_both_ways(tmp_path, *paths, model=BOX)) == len(paths) == 200


def test_features_are_those_of_torch(model: Path, recordings: Path, tmp_path: Path) -> None:
    paths = sorted(recordings.glob("r*.wav"))
    done = light("embed", *paths, "--model", model, "--out", tmp_path / "f.npz")
    assert done.returncode == 0, done.stderr
    predictor = Predictor.load(model, engine="torch")
    loaded = [predictor.load_recording(path) for path in paths]
    expected = np.concatenate([features[:, :96] for _, features in predictor.predict_together(loaded)])
    with np.load(tmp_path / "f.npz") as found:
        np.testing.assert_allclose(found["features"], expected, atol=1e-4)


def test_it_serves(model: Path, recordings: Path) -> None:
    pytest.importorskip("fastapi", reason="the service needs pip install 'lungsound[serve]'")
    sound = recordings / "r3.wav"
    with subprocess.Popen(
        command("serve", "--model", model, "--port", 0), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines = (json.loads(line) for line in process.stderr)
        address = next(line["address"] for line in lines if line["event"] == "ready")
        answer = httpx.post(f"{address}v1/predictions", content=sound.read_bytes(), timeout=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert answer.status_code == 200, answer.text
    expected = Predictor.load(model, engine="torch").predict(sound)
    assert [cycle["best_guess"] for cycle in answer.json()["cycles"]] == [c.best_guess for c in expected.cycles]


def test_a_model_without_its_graph_says_what_to_do(model: Path, recordings: Path, tmp_path: Path) -> None:
    shutil.copy(model / "model.safetensors", tmp_path)
    done = light("predict", recordings / "r0.wav", "--model", tmp_path)
    assert done.returncode == 2
    assert "has no graph beside it, and torch is not installed" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("damage", ["graph", "another model"])
def test_a_graph_that_is_not_this_models_is_not_taken(
    damage: str, model: Path, recordings: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model, tmp_path / "copy")
    if damage == "graph":
        content = bytearray((folder / "model.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "model.onnx").write_bytes(content)
    else:
        add_to_model(folder / "model.safetensors", predictions_sha256="0" * 64)
    done = light("predict", recordings / "r0.wav", "--model", folder)
    assert done.returncode == 2
    assert "has no graph beside it" in done.stderr


@pytest.mark.parametrize("arguments", [("train", "demo"), ("data", "audit", "."), ("explain", "r0.wav")])
def test_what_needs_torch_names_the_extra(
    arguments: tuple[str, ...], model: Path, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recordings)
    more = ("--model", model, "--out", "pages") if arguments[0] == "explain" else ()
    done = light(*arguments, *more)
    assert done.returncode == 2
    assert "pip install 'lungsound[train]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
