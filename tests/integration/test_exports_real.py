"""100 real cycles: what each export decides is what torch decides."""

import json
from pathlib import Path

import pytest

from lungsound.data.reader import read_corpus
from lungsound.data.store import sounds_of
from lungsound.inference.engines import make
from lungsound.inference.hugging_face import write_hugging_face
from lungsound.inference.model_files import write_onnx, write_openvino, write_torch
from tests.unit.inference.models import saved_model

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
    given = [int(compiled(cycle.waveform.numpy()[None])[0].argmax()) for cycle in cycles]
    assert given == decided.tolist()
    fitted, _ = write_hugging_face(tmp_path / "run" / "model.safetensors", tmp_path / "hf", cycles)
    assert (fitted.num_cycles, fitted.share) == (NUM_CYCLES, 1.0)
    assert fitted.largest_difference < 1e-4
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["lungsound"]["model_sha256"] == trained.sha256
