"""What "auto" and "exact" take: by agreement, by speed, and only what was measured."""

import json
from pathlib import Path

import pytest
import torch

from lungsound.errors import WeightsError
from lungsound.inference import engines as choice
from lungsound.inference import engines as kinds
from lungsound.inference import engines as speed
from lungsound.inference.engines import Agreement, Engine, agreement, read_agreements, usable, write_agreements
from lungsound.training.checkpoint import TrainedModel
from tests.unit.inference.models import saved_model

CPU = torch.device("cpu")
EXACT = Agreement(500, 1.0, 1e-6)
ALIKE = Agreement(500, 0.99, 0.2)
OTHER = Agreement(500, 0.988, 0.2)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainedModel:
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / "cache"))
    return saved_model(tmp_path)


def test_agreement_counts_the_same_answers() -> None:
    exact = torch.tensor([[0.6, 0.4], [0.2, 0.8], [0.51, 0.49], [0.9, 0.1]])
    found = torch.tensor([[0.7, 0.3], [0.3, 0.7], [0.49, 0.51], [0.9, 0.1]])
    measured = agreement(exact, found)
    assert (measured.num_cycles, measured.share) == (4, 0.75)
    assert measured.largest_difference == pytest.approx(0.1)
    assert agreement(exact, torch.full_like(exact, torch.nan)).largest_difference == float("inf")
    with pytest.raises(ValueError, match=r"\(3, 2\) cannot be compared with \(4, 2\)"):
        agreement(exact, found[:3])


@pytest.mark.parametrize(
    ("measured", "is_exact", "is_enough"),
    [
        (EXACT, True, True),
        (ALIKE, False, True),
        (OTHER, False, False),
        (Agreement(99, 1.0, 1e-6), True, False),
        (Agreement(500, 1.0, 1.1e-4), False, True),
        (Agreement(500, 1.0, float("inf")), False, True),
    ],
)
def test_what_an_agreement_allows(measured: Agreement, is_exact: bool, is_enough: bool) -> None:
    assert (measured.is_exact, measured.is_enough) == (is_exact, is_enough)
    assert usable({"torch-bf16": measured}, ["torch-bf16", "onnx-int8"]) == (["torch-bf16"] if is_enough else [])


def test_what_was_measured_is_kept_for_this_model_file_only(trained: TrainedModel, tmp_path: Path) -> None:
    assert read_agreements(tmp_path, trained) == {}
    path = write_agreements(tmp_path, trained, {"torch-bf16": ALIKE})
    assert read_agreements(tmp_path, trained) == {"torch-bf16": ALIKE}
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"model": "another"}))
    assert read_agreements(tmp_path, trained) == {}
    path.write_text("{")
    with pytest.raises(WeightsError, match=r"engines\.json cannot be read"):
        read_agreements(tmp_path, trained)


def test_without_a_measurement_auto_is_exact(trained: TrainedModel, tmp_path: Path) -> None:
    assert choice.candidates_of("auto", trained, None) == choice.candidates_of("exact", trained, tmp_path) == ["torch"]
    assert choice.choose("auto", trained, folder=tmp_path, device=CPU).name == "torch"


def test_candidates_are_what_was_measured_to_be_alike(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "available", lambda _: list(kinds.KINDS))
    write_agreements(
        tmp_path,
        trained,
        {"torch": EXACT, "torch-bf16": ALIKE, "onnx": EXACT, "onnx-int8": OTHER, "openvino": ALIKE},
    )
    assert choice.candidates_of("exact", trained, tmp_path) == ["torch", "onnx"]
    assert choice.candidates_of("auto", trained, tmp_path) == ["torch", "onnx", "torch-bf16", "openvino"]


def test_the_fastest_is_taken_and_any_is_when_named(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_agreements(tmp_path, trained, {"torch": EXACT, "torch-bf16": ALIKE})
    for seconds, fastest in (((2.0, 1.0), "torch-bf16"), ((1.0, 2.0), "torch"), ((float("inf"), 9.0), "torch-bf16")):
        known = dict(zip(("torch", "torch-bf16"), seconds, strict=True))
        monkeypatch.setattr(choice, "speeds", lambda _, names, known=known: {name: known[name] for name in names})
        assert choice.choose("auto", trained, folder=tmp_path, device=CPU).name == fastest
        assert choice.choose("exact", trained, folder=tmp_path, device=CPU).name == "torch"
    assert choice.choose("torch-bf16", trained, folder=None, device=CPU).name == "torch-bf16"


def test_speeds_are_measured_once_and_remembered(trained: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    found = speed.speeds(trained, ["torch"])
    assert found["torch"] > 0
    measured = []
    monkeypatch.setattr(speed, "_measured", lambda _, names: measured.append(names) or dict.fromkeys(names, 7.0))
    assert speed.speeds(trained, ["torch", "torch-bf16"]) == {"torch": found["torch"], "torch-bf16": 7.0}
    assert measured == [["torch-bf16"]]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert speed.speeds(trained, ["torch"]) == {"torch": 7.0}, "another number of threads is another machine"


def test_a_float32_engine_that_answers_otherwise_is_never_fastest(
    trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = kinds.make

    def wrong(name: str, trained: TrainedModel) -> Engine:
        engine = make("torch", trained)
        if name == "onnx":
            answer = engine.answer
            monkeypatch.setattr(engine, "answer", lambda waveforms: answer(waveforms) + 2e-4)
        return engine

    monkeypatch.setattr(speed.kinds, "make", wrong)
    found = speed.speeds(trained, ["onnx", "torch"])
    assert found["onnx"] == float("inf") > found["torch"]
