"""`lungsound export`: what is measured, on which cycles, and that predict then takes what it found."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console

from lungsound.config import load_config
from lungsound.data.reader import read_corpus
from lungsound.errors import SettingsError
from lungsound.extras import is_installed
from lungsound.inference.engines import BatchOutputs, Engine, Floats, has_bf16, read_parity
from lungsound.inference.export import _model_and_cycles, export_files, export_run
from lungsound.inference.graph_files import cached_graph
from lungsound.inference.predictor import Predictor
from lungsound.training.model_file import TrainedModel
from lungsound.training.run import RunFolder
from tests.unit.inference.models import saved_model


@pytest.fixture
def run(tmp_path: Path, synthetic_corpus_dir: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, TrainedModel]:
    """A folder with a model of random weights, as if trained on the synthetic corpus."""
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    RunFolder(folder).start(load_config("tiny_ce", [f"data.root={synthetic_corpus_dir}"]))
    (folder / "run.json").write_text("{}")
    return folder, saved_model(folder)


@pytest.mark.slow
def test_what_was_measured_lies_beside_the_model(
    run: tuple[Path, TrainedModel], synthetic_corpus_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, trained = run
    path = export_run(folder, data_root=None, num_cycles=12, console=Console(width=160)) if _has_onnx() else None
    assert path == folder / "engines.json"
    found = read_parity(folder, trained)
    assert {"torch", "onnx"} <= set(found)
    assert {parity.num_cycles for parity in found.values()} == {12}
    assert found["torch"].share == 1
    assert found["torch"].largest_difference == 0
    assert found["onnx"].is_exact
    out = capsys.readouterr().out
    assert re.search(r"onnx +\S +\d+\.\d +\S +\d+\.\d% +\S +\d\.\de-\d\d +\S +exact, auto", out)
    if has_bf16():
        assert re.search(r"torch-bf16 .* by name only", out), "12 cycles are too few"
    recording = next(synthetic_corpus_dir.rglob("*.wav"))
    for engine in ("auto", "exact"):
        predictor = Predictor.load(folder, engine=engine)
        assert predictor.engine.name in ("torch", "onnx", "openvino")
        expected = Predictor.load(folder, engine="torch").predict(recording).cycles
        for answer, exact in zip(predictor.predict(recording).cycles, expected, strict=True):
            assert list(answer.probabilities.values()) == pytest.approx(list(exact.probabilities.values()), abs=1e-4)


def _has_onnx() -> bool:
    if not is_installed("onnx"):
        pytest.skip("the extra 'onnx' is not installed")
    return True


def test_cycles_are_drawn_from_the_test_set(run: tuple[Path, TrainedModel], synthetic_corpus_dir: Path) -> None:
    tested = read_corpus(synthetic_corpus_dir).part("test")
    rate_hz = run[1].front_end.sample_rate_hz
    lengths = {round(rate_hz * each.end_s) - round(rate_hz * each.start_s) for each in tested}
    cycles = _model_and_cycles(run[0] / "model.safetensors", None, 3)[1]
    assert len(cycles) == 3
    assert {len(cycle.waveform) for cycle in cycles} <= lengths
    again = _model_and_cycles(run[0] / "model.safetensors", synthetic_corpus_dir, 3)[1]
    assert all(np.array_equal(one.waveform, other.waveform) for one, other in zip(cycles, again, strict=True))


@pytest.mark.slow
def test_a_model_file_alone_is_checked_on_a_corpus_that_is_named(
    run: tuple[Path, TrainedModel], synthetic_corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, out = tmp_path / "anns.safetensors", tmp_path / "out"
    in_run = run[0] / "model.safetensors"
    export_files(in_run, to="torch", out=tmp_path / "a", data_root=None, num_cycles=3, console=Console(quiet=True))
    assert (tmp_path / "a" / "model.pt2").is_file()
    in_run.rename(alone)
    with pytest.raises(SettingsError, match=r"anns.safetensors alone names no cycles: give a corpus with --data"):
        export_files(alone, to="torch", out=out, data_root=None, num_cycles=3, console=Console(quiet=True))
    export_files(alone, to="torch", out=out, data_root=synthetic_corpus_dir, num_cycles=3, console=Console(width=20))
    assert [path.name for path in out.iterdir()] == ["model.pt2"]
    assert re.fullmatch(r"3 cycles: 100.0% of the same .* probability \d.\de-\d\d\n", capsys.readouterr().out)


def test_no_cycles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at least one cycle to be checked on, got 0"):
        export_run(tmp_path, data_root=None, num_cycles=0, console=Console(quiet=True))


def test_an_engine_of_the_callers_own_answers(run: tuple[Path, TrainedModel], tmp_path: Path) -> None:
    def certain(clips: Floats) -> BatchOutputs:
        fbanks = run[1].front_end.filter_banks(clips)
        features = np.zeros((len(clips), run[1].model.encoder.dim), np.float32)
        return np.tile(np.float32([0, 0, 1, 0]), (len(clips), 1)), features, fbanks

    trained = run[1]
    path = tmp_path / "noise.wav"
    soundfile.write(path, torch.randn(32000).clamp(-1, 1).numpy(), 16000)
    engine = Engine("certain", trained, certain)
    answers = Predictor(trained, engine=engine).predict(path).cycles
    assert answers
    assert {answer.best_guess for answer in answers} == {"wheeze"}
    assert not cached_graph(trained).parent.exists()
