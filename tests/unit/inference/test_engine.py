"""Every engine gives torch's probabilities, in the order of the cycles, within what its arithmetic can."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lungsound.audio.filter_bank import normalize
from lungsound.errors import SettingsError
from lungsound.extras import EXTRAS, is_installed
from lungsound.inference import engines as kinds
from lungsound.inference import graph as graphs
from lungsound.training.checkpoint import TrainedModel
from tests.unit.inference.models import AUDIO, EFFICIENTAT_AUDIO, MOBILENET, saved_model, waveforms

TOLERANCE = {"torch-bf16": 0.1, "onnx-int8": 0.2, "openvino-bf16": 0.1, "openvino-int8": 0.3}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("LUNGSOUND_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module", params=[True, False], ids=["padded", "packed"])
def trained(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> TrainedModel:
    """The model with all the graphs that can be made here."""
    audio = AUDIO.model_copy(update={"is_padding_encoded": request.param})
    trained = saved_model(tmp_path_factory.mktemp("run"), audio=audio)
    if is_installed("onnx"):
        graphs.make(trained, [trained.input_of(waveform) for waveform in waveforms(trained)])
    return trained


def need(extra: str | None) -> None:
    if extra is not None and not is_installed(extra):
        pytest.skip(f"the extra '{extra}' is not installed")


@torch.inference_mode()
def by_hand(trained: TrainedModel) -> torch.Tensor:
    """Each cycle alone, step by step: the whole filter bank, and with the number of its own frames."""
    rows = []
    for waveform in waveforms(trained):
        fbank = trained.front_end.filter_banks(trained.front_end.fit(waveform).unsqueeze(0))
        num_own = trained.front_end.num_own_frames(len(waveform))
        lengths = None if num_own is None else torch.tensor([num_own])
        rows.append(trained.model(normalize(fbank, mean=trained.mean, std=trained.std), lengths).softmax(dim=1)[0])
    return torch.stack(rows)


@pytest.mark.parametrize("name", kinds.KINDS)
def test_an_engine_answers_as_torch_does(name: str, trained: TrainedModel) -> None:
    need(kinds.KINDS[name].extra)
    expected, seen = by_hand(trained), []
    found = kinds.make(name, trained).answer(waveforms(trained), on_progress=seen.append)
    assert found.dtype == torch.float32
    assert seen == ([4, 7] if trained.front_end.is_padding_encoded else [1, 2, 3, 4, 7])  # 3 fill the input
    torch.testing.assert_close(found, expected, atol=TOLERANCE.get(name, 1e-4), rtol=0)
    assert expected.std(dim=0).max() > 0.05, "the cycles must differ, or their order is not tested"
    if name in TOLERANCE and name.startswith(("torch", "onnx")):
        assert (found - expected).abs().max() > 1e-6, "it computes in float32"


@pytest.mark.parametrize("name", kinds.KINDS)
def test_no_cycles_give_no_answers(name: str, trained: TrainedModel) -> None:
    need(kinds.KINDS[name].extra)
    assert kinds.make(name, trained).answer([]).shape == (0, 4)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_convolutional_network_on_its_filter_bank_is_exported_too(name: str, tmp_path: Path) -> None:
    need(kinds.KINDS[name].extra)
    trained = saved_model(tmp_path, audio=EFFICIENTAT_AUDIO, architecture=MOBILENET)
    found = kinds.make(name, trained).answer(waveforms(trained))
    torch.testing.assert_close(found, by_hand(trained), atol=1e-4, rtol=0)


def test_an_engine_that_is_not_known_is_refused(trained: TrainedModel) -> None:
    with pytest.raises(SettingsError, match="'tensorrt' is not known; use auto, exact, torch, torch-bf16"):
        kinds.make("tensorrt", trained)


def test_a_graph_is_for_the_cpu(trained: TrainedModel) -> None:
    with pytest.raises(SettingsError, match="'onnx' is for the CPU, and the device is meta"):
        kinds.make("onnx", trained, device=torch.device("meta"))


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_is_named(extra: str, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", _no_module)
    path = graphs.folder(trained) / graphs.FLOAT
    path.parent.mkdir(parents=True, exist_ok=True)
    told = rf"is not installed, which .*engines .* need: pip install 'lungsound\[{extra}\]'"
    with pytest.raises(SettingsError, match=told):
        kinds._of_graph(extra, kinds.KINDS[extra], trained, path)


def _no_module(name: str) -> None:
    raise ImportError(name)
