"""The precision that is taken: what was asked for, what was measured, what a run has; no test hangs on this machine."""

import json
from pathlib import Path

import pytest
import torch

from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings, ModelSettings, TrainSettings
from lungsound.errors import SettingsError
from lungsound.labels import LABEL_SETS
from lungsound.models import precision
from lungsound.models.classifier import LungSoundClassifier, make_classifier
from lungsound.models.precision import block_seconds, choose_precision, find_precision

CPU = torch.device("cpu")


def make(architecture: str = "ast") -> LungSoundClassifier:
    front_end = FrontEnd(AudioSettings(duration_s=1.5, num_mels=32))
    settings = ModelSettings.model_validate({"architecture": architecture, "size": "micro", "stride": 16})
    return make_classifier(settings, front_end, LABEL_SETS["sound4"])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path))
    return tmp_path / "precision"


@pytest.mark.parametrize(
    ("asked", "fp32_s", "bf16_s", "taken", "is_told"),
    [
        ("auto", 1.0, 0.5, "bf16", False),
        ("auto", 1.0, 0.9, "fp32", False),  # not clearly
        ("auto", 1.0, 5.0, "fp32", False),
        ("bf16", 1.0, 5.0, "bf16", True),
        ("bf16", 1.0, 1.1, "bf16", False),
        ("fp32", 1.0, 0.5, "fp32", True),
        ("fp32", 1.0, 2.0, "fp32", False),
    ],
)
def test_what_is_clearly_faster_is_taken_and_what_is_slow_is_told(
    asked: str, fp32_s: float, bf16_s: float, taken: str, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "block_seconds", lambda *_: {"fp32": fp32_s, "bf16": bf16_s})
    train = TrainSettings.model_validate({"precision": asked})
    name, remark = choose_precision(train, make(), None, CPU, of_run=None)
    assert name == taken
    assert (remark is not None) is is_told
    if remark is not None:
        assert f"{1e3 * fp32_s:.1f} ms" in remark
        assert f"{1e3 * bf16_s:.1f} ms" in remark


def test_a_block_is_timed_once_for_a_processor_and_a_length(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, before = make().patch_encoder, torch.random.get_rng_state()
    short, long = torch.tensor([16, 20]), torch.tensor([140, 148])
    measured = block_seconds(encoder, short, 8)
    assert measured.keys() == {"fp32", "bf16"}
    assert all(seconds > 0 for seconds in measured.values())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)
    (file,) = cache.iterdir()
    assert json.loads(file.read_text())["values"] == measured
    block_seconds(encoder, long, 8)
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(precision, "_seconds", lambda *_: pytest.fail("it is known already"))
    assert block_seconds(encoder, short - 1, 8) == measured
    monkeypatch.setattr(precision, "processor_name", lambda: "another")
    monkeypatch.setattr(precision, "_seconds", lambda *_: 3.0)
    assert block_seconds(encoder, short, 8) == {"fp32": 3.0, "bf16": 3.0}


def test_a_run_goes_on_in_its_precision_and_nothing_is_measured(cache: Path) -> None:
    assert choose_precision(TrainSettings(), make(), None, CPU, of_run="bf16") == ("bf16", None)
    assert not cache.exists()


def test_a_cnn_is_not_measured_and_fp16_needs_a_gpu(cache: Path) -> None:
    assert choose_precision(TrainSettings(), make("resnet10"), None, CPU, of_run=None) == ("fp32", None)
    assert not cache.exists()
    assert [find_precision(name, CPU) for name in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]
    with pytest.raises(SettingsError, match="fp16 needs a GPU"):
        find_precision("fp16", CPU)
