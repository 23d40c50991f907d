"""One file for other programs: any length and batch, the facts inside, the answers of torch."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lungsound.app.model_files import FittingGraph, checked, facts_of, write_onnx, write_openvino, write_torch
from lungsound.audio.front_end import FrontEnd
from lungsound.checkpoint import TrainedModel
from lungsound.config import AudioSettings
from lungsound.engines import kinds
from lungsound.engines.engine import Engine
from lungsound.errors import SettingsError, WeightsError
from tests.unit.engines.models import AUDIO, saved_model, waveforms

REPEATED = AUDIO
ZEROS = AUDIO.model_copy(update={"padding": "zero"})
OWN_SOUND = AUDIO.model_copy(update={"is_padding_encoded": False})


@pytest.fixture
def trained(tmp_path: Path) -> TrainedModel:
    return saved_model(tmp_path / "run")


def answers(trained: TrainedModel, cycles: list[Tensor]) -> np.ndarray:
    engine: Engine = kinds.make("torch", trained)
    return engine.answer(cycles).numpy()


@pytest.mark.parametrize("audio", [REPEATED, ZEROS, OWN_SOUND], ids=["repeat", "zero", "own sound"])
def test_cycles_are_fitted_as_the_front_end_fits_them(audio: AudioSettings, tmp_path: Path) -> None:
    trained = saved_model(tmp_path, audio=audio)
    whole = trained.front_end.num_samples
    graph, sound = FittingGraph(trained), torch.randn(2 * whole)
    for num_samples in (2, 401, 4000, 4001, whole // 2, whole - 1, whole, whole + 1, 2 * whole):
        cycle = sound[:num_samples]
        torch.testing.assert_close(graph(cycle.unsqueeze(0))[0], trained.input_of(cycle), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "audio", [REPEATED, pytest.param(OWN_SOUND, marks=pytest.mark.slow)], ids=["repeat", "own sound"]
)
def test_onnx_takes_any_batch_and_length(audio: AudioSettings, tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    trained = saved_model(tmp_path, audio=audio)
    cycles = waveforms(trained)
    found = write_onnx(trained, tmp_path / "out", cycles)
    assert found.num_cycles == len(cycles)
    assert found.is_exact
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]
    path = tmp_path / "out" / "model.onnx"
    facts = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    assert json.loads(facts["classes"]) == ["normal", "crackle", "wheeze", "both"]
    assert json.loads(facts["sample_rate_hz"]) == 16000
    assert facts["model_sha256"] == trained.sha256
    assert facts["note"] == "research software, not a medical device"
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,), (gives,) = session.get_inputs(), session.get_outputs()
    assert (given.name, gives.name) == ("waveform", "probabilities")
    assert all(isinstance(size, str) for size in given.shape)
    batch = torch.stack([cycles[0][:4000], cycles[1][:4000], cycles[2][:4000]])
    (several,) = session.run(None, {"waveform": batch.numpy()})
    np.testing.assert_allclose(several, answers(trained, list(batch)), atol=1e-5)


def test_openvino_reads_what_was_written(trained: TrainedModel, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    cycles = waveforms(trained)
    assert write_openvino(trained, tmp_path / "out", cycles).is_exact
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.bin", "model.xml"]
    model = openvino.Core().read_model(str(tmp_path / "out" / "model.xml"))
    assert model.get_rt_info(["lungsound", "model_sha256"]).astype(str) == trained.sha256
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = [compiled(cycle.unsqueeze(0).numpy())[0][0] for cycle in cycles]
    np.testing.assert_allclose(np.stack(found), answers(trained, cycles), atol=1e-5)


@pytest.mark.parametrize("padding", [REPEATED, pytest.param(ZEROS, marks=pytest.mark.slow)], ids=["repeat", "zero"])
def test_torch_loads_its_program_without_us(padding: AudioSettings, tmp_path: Path) -> None:
    trained = saved_model(tmp_path, audio=padding)
    cycles = waveforms(trained)
    assert write_torch(trained, tmp_path / "out", cycles).is_exact
    extra = {"lungsound.json": ""}
    program = torch.export.load(tmp_path / "out" / "model.pt2", extra_files=extra)
    assert json.loads(extra["lungsound.json"]) == facts_of(trained)
    batch = torch.stack([cycles[0][:4000], cycles[1][:4000]])
    np.testing.assert_allclose(program.module()(batch).detach(), answers(trained, list(batch)), atol=1e-5)


def test_facts_survive_json_and_say_what_the_input_is(trained: TrainedModel) -> None:
    facts = json.loads(json.dumps(facts_of(trained)))
    own = facts["front_end"]
    assert (own.pop("mean"), own.pop("std")) == (trained.mean, trained.std)
    assert FrontEnd(**own) == trained.front_end
    assert facts["calibration"] is None


def test_a_model_that_leaves_out_padding_is_no_torch_program(tmp_path: Path) -> None:
    trained = saved_model(tmp_path, audio=OWN_SOUND)
    with pytest.raises(SettingsError, match=r"is_padding_encoded=false cannot be a torch program.*onnx"):
        write_torch(trained, tmp_path / "out", waveforms(trained))
    assert not (tmp_path / "out").exists()


def even(clip: Tensor) -> Tensor:
    return torch.full((len(clip), 4), 0.25)


def broken(clip: Tensor) -> Tensor:
    return torch.full((len(clip), 4), torch.nan)


@pytest.mark.parametrize("answer", [even, broken])
def test_another_answer_is_an_error(trained: TrainedModel, answer: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"differs from torch by .* on real cycles: it was not kept"):
        checked(trained, waveforms(trained), answer)


def test_an_export_that_cannot_be_checked_is_none(trained: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="checked on cycles, and there are none: give a corpus with --data"):
        write_torch(trained, tmp_path / "out", [])
    assert not any((tmp_path / "out").iterdir())
