"""100 real cycles: what each export decides is what torch decides."""

import json
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from lungsound.data.reader import read_corpus
from lungsound.data.store import sounds_of
from lungsound.inference.engines import make
from lungsound.inference.hugging_face import write_hugging_face
from lungsound.inference.model_files import write_onnx, write_openvino, write_torch
from tests.unit.inference.models import NORMALIZED, saved_model

NUM_CYCLES = 100
pytestmark = pytest.mark.slow


def test_every_export_decides_as_torch_does(icbhi_dir: Path, tmp_path: Path) -> None:
    for package in ("transformers", "onnxruntime"):
        pytest.importorskip(package)
    openvino = pytest.importorskip("openvino")
    trained = saved_model(tmp_path / "run")
    corpus = read_corpus(icbhi_dir.parent)
    step = len(corpus.cycles) // NUM_CYCLES
    selected = corpus.cycles[: step * NUM_CYCLES : step]
    cycles = sounds_of(selected, trained.front_end)
    assert len(cycles) == NUM_CYCLES
    decided = make("torch", trained).predict(cycles)[0].argmax(axis=1)
    assert len(set(decided)) > 1
    for write in (write_onnx, write_torch):
        found = write(trained, tmp_path / "out", cycles)
        assert (found.num_cycles, found.share) == (NUM_CYCLES, 1.0)
    unasked = write_openvino(trained, tmp_path / "out", cycles)
    assert unasked.share >= 0.99  # in bfloat16, where the processor has it
    compiled = openvino.compile_model(tmp_path / "out" / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given = [int(compiled(cycle.waveform[None])[0].argmax()) for cycle in cycles]
    assert given == decided.tolist()
    fitted, _ = write_hugging_face(tmp_path / "run" / "model.safetensors", tmp_path / "hf", cycles)
    assert (fitted.num_cycles, fitted.share) == (NUM_CYCLES, 1.0)
    assert fitted.largest_difference < 1e-4
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["lungsound"]["model_sha256"] == trained.sha256


def test_a_normalised_model_decides_as_torch_does_from_the_recording_on(icbhi_dir: Path, tmp_path: Path) -> None:
    """The two files alone, on complete recordings and the cycles cut from them."""
    runtime = pytest.importorskip("onnxruntime")
    # Of the last digits of faint bands random weights make ten times more than trained ones.
    trained = saved_model(tmp_path / "run", audio=NORMALIZED, mean=0.0, head_std=0.05)
    corpus = read_corpus(icbhi_dir.parent)
    step = len(corpus.cycles) // NUM_CYCLES
    selected = corpus.cycles[: step * NUM_CYCLES : step]
    cycles = sounds_of(selected, trained.front_end)
    exact = make("torch", trained).predict(cycles)[0]
    assert len(set(exact.argmax(axis=1))) > 1
    found = write_onnx(trained, tmp_path / "out", cycles)
    assert (found.num_cycles, found.share) == (NUM_CYCLES, 1.0)
    spectrum_of, predict = (
        runtime.InferenceSession(str(tmp_path / "out" / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("spectrum", "model")
    )
    rows = []
    for recording, own in groupby(selected, key=lambda cycle: cycle.recording):
        waveform = trained.front_end.read(recording.path).waveform[None]
        (spectrum,) = spectrum_of.run(None, {"recording": waveform})
        for cycle in own:
            start, end = (int(at_s * trained.front_end.sample_rate_hz) for at_s in (cycle.start_s, cycle.end_s))
            rows.append(predict.run(None, {"waveform": waveform[:, start:end], "spectrum": spectrum})[0])
    given = np.concatenate(rows)
    assert given.argmax(axis=1).tolist() == exact.argmax(axis=1).tolist()
    np.testing.assert_allclose(given, exact, atol=1e-4)
