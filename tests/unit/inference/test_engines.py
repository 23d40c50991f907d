"""Engines give torch's probabilities within what their arithmetic can, and are selected by parity and speed."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from lungsound.audio.filter_bank import normalize
from lungsound.errors import SettingsError, WeightsError
from lungsound.evaluation.out_of_domain import NEIGHBOUR, Domain, Gate
from lungsound.files import hash_file, write_record
from lungsound.inference import engines, graph
from lungsound.inference.engines import (
    REGISTRY,
    SLOW,
    BatchOutputs,
    Engine,
    Floats,
    Parity,
    Tried,
    candidates,
    make,
    measure,
    parity,
    read_parity,
    select,
    speeds_of,
    write_parity,
)
from lungsound.inference.graph import exported
from lungsound.inference.graph_files import cached_graph, seal
from lungsound.training.model_file import TrainedModel
from tests.unit.data.trees import DAMAGED
from tests.unit.inference.models import AUDIO, EFFICIENTAT_AUDIO, MOBILENET, NORMALIZED, saved_model, sounds

CPU = torch.device("cpu")
# An export takes seconds.
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if REGISTRY[name].package != "torch" else []) for name in REGISTRY]
TOLERANCE = {"torch-bf16": 0.1, "openvino-bf16": 0.1}
EXACT = Parity(500, 1.0, 1e-6)
ALIKE = Parity(500, 0.99, 0.2)
OTHER = Parity(500, 0.988, 0.2)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("LUNGSOUND_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module", params=["padded", "packed", "padded, normalised", "packed, normalised"])
def trained(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> TrainedModel:
    audio = NORMALIZED if "normalised" in request.param else AUDIO
    audio = audio.model_copy(update={"is_padding_encoded": request.param.startswith("padded")})
    return saved_model(tmp_path_factory.mktemp("run"), audio=audio)


def need(package: str) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")


@torch.inference_mode()
def by_hand(trained: TrainedModel) -> Floats:
    """Each cycle alone, step by step: the whole filter bank, and with the number of its own frames."""
    rows = []
    for sound in sounds(trained):
        fbank = trained.front_end.filter_banks(trained.front_end.fit(sound.waveform)[np.newaxis])
        if sound.spectrum is not None:
            fbank = fbank - sound.spectrum
        num_own = trained.front_end.num_own_frames(len(sound.waveform))
        lengths = None if num_own is None else torch.tensor([num_own])
        given = torch.from_numpy(normalize(fbank, mean=trained.mean, std=trained.std))
        rows.append(trained.model(given, lengths).softmax(dim=1)[0])
    probabilities: Floats = torch.stack(rows).numpy()
    return probabilities


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_predicts_as_torch_does(name: str, trained: TrainedModel) -> None:
    need(REGISTRY[name].package)
    expected, seen = by_hand(trained), []
    found, features = make(name, trained).predict(sounds(trained), on_progress=lambda done, _: seen.append(done))
    assert found.dtype == np.float32
    assert features.shape == (7, trained.model.encoder.dim + 2 * trained.front_end.audio.num_mels)
    assert seen == ([4, 7] if trained.front_end.audio.is_padding_encoded else [1, 2, 3, 4, 7])  # 3 fill the input
    np.testing.assert_allclose(found, expected, atol=TOLERANCE.get(name, 1e-4), rtol=0)
    assert expected.std(axis=0).max() > 0.05, "the cycles must differ, or their order is not tested"
    if name in TOLERANCE and name.startswith(("torch", "onnx")):
        assert np.abs(found - expected).max() > 1e-6, "it computes in float32"


@pytest.mark.parametrize("name", NAMES)
def test_no_cycles_give_no_probabilities(name: str, trained: TrainedModel) -> None:
    need(REGISTRY[name].package)
    assert make(name, trained).predict([])[0].shape == (0, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_convolutional_network_on_its_filter_bank_is_exported_too(name: str, tmp_path: Path) -> None:
    need(REGISTRY[name].package)
    trained = saved_model(tmp_path, audio=EFFICIENTAT_AUDIO, architecture=MOBILENET)
    found = make(name, trained).predict(sounds(trained))[0]
    np.testing.assert_allclose(found, by_hand(trained), atol=1e-4, rtol=0)


def test_an_engine_that_is_not_known_is_refused(trained: TrainedModel) -> None:
    with pytest.raises(SettingsError, match="'tensorrt' is not known; use auto, exact, torch, torch-bf16"):
        make("tensorrt", trained)


def test_a_graph_is_for_the_cpu(trained: TrainedModel) -> None:
    with pytest.raises(SettingsError, match="'onnx' is for the CPU, and the device is meta"):
        make("onnx", trained, device="meta")


@pytest.mark.parametrize(("name", "extra"), [("torch", "train"), ("openvino", "openvino")])
def test_a_missing_extra_is_named(
    name: str, extra: str, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cached_graph(trained)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()  # the graph is there, what runs it is not
    seal(path, path, trained)

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(SettingsError, match=rf"pip install 'lungsound\[{extra}\]'"):
        make(name, trained)
    path.unlink()


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainedModel:
    """A model without an exported graph, of a processor with bfloat16."""
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engines, "has_bf16", lambda: True)
    return saved_model(tmp_path)


def test_parity_counts_the_same_classes() -> None:
    exact = np.array([[0.6, 0.4], [0.2, 0.8], [0.51, 0.49], [0.9, 0.1]], np.float32)
    probabilities = np.array([[0.7, 0.3], [0.3, 0.7], [0.49, 0.51], [0.9, 0.1]], np.float32)
    measured = parity([exact], [probabilities])
    assert (measured.num_cycles, measured.share) == (4, 0.75)
    assert measured.largest_difference == pytest.approx(0.1)
    other = np.array([[0.2, 0.8], [0.6, 0.4], [0.9, 0.1], [0.9, 0.1]], np.float32)  # another decision on these cycles
    measured = parity([exact, exact], [probabilities, other])
    assert (measured.num_cycles, measured.share) == (4, 0.25)
    assert measured.largest_difference == pytest.approx(0.4)
    assert parity([exact], [np.full_like(exact, np.nan)]).largest_difference == float("inf")


@pytest.mark.parametrize(
    ("measured", "is_exact", "is_enough"),
    [
        (EXACT, True, True),
        (ALIKE, False, True),
        (OTHER, False, False),
        (Parity(99, 1.0, 1e-6), True, False),
        (Parity(500, 1.0, 1.1e-4), False, True),
        (Parity(500, 1.0, float("inf")), False, True),
    ],
)
def test_what_parity_allows(
    measured: Parity, is_exact: bool, is_enough: bool, alone: TrainedModel, tmp_path: Path
) -> None:
    assert (measured.is_exact, measured.is_enough) == (is_exact, is_enough)
    write_parity(tmp_path, alone, {"torch-bf16": measured})
    assert candidates("auto", alone, tmp_path) == (["torch", "torch-bf16"] if is_enough else ["torch"])


def test_parity_is_kept_for_this_model_file_only(alone: TrainedModel, tmp_path: Path) -> None:
    assert read_parity(tmp_path, alone) == {}
    path = write_parity(tmp_path, alone, {"torch-bf16": ALIKE})
    assert read_parity(tmp_path, alone) == {"torch-bf16": ALIKE}
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "engines.json").symlink_to("nothing")
    with pytest.raises(WeightsError, match=r"engines\.json"):
        read_parity(tmp_path / "nowhere", alone)
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"model": "another"}))
    assert read_parity(tmp_path, alone) == {}
    for damaged in DAMAGED:
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"engines\.json.*remove it"):
            read_parity(tmp_path, alone)


def test_without_a_measurement_auto_is_exact(alone: TrainedModel, tmp_path: Path) -> None:
    assert candidates("auto", alone, None) == candidates("exact", alone, tmp_path) == ["torch"]
    assert select("auto", alone, folder=tmp_path, device="cpu").name == "torch"


def test_candidates_are_what_was_measured_to_be_alike(
    alone: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "available", lambda _: list(REGISTRY))
    measured = {"torch": EXACT, "torch-bf16": ALIKE, "onnx": EXACT, "openvino": ALIKE, "openvino-bf16": OTHER}
    write_parity(tmp_path, alone, measured)
    assert candidates("exact", alone, tmp_path) == ["torch", "onnx"]
    assert candidates("auto", alone, tmp_path) == ["torch", "onnx", "torch-bf16", "openvino"]


def test_bfloat16_is_tried_only_where_the_processor_has_it(
    alone: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parity(tmp_path, alone, {"torch": EXACT, "torch-bf16": ALIKE})
    assert candidates("auto", alone, tmp_path) == ["torch", "torch-bf16"]
    monkeypatch.setattr(engines, "has_bf16", lambda: False)
    assert candidates("auto", alone, tmp_path) == ["torch"]
    assert select("torch-bf16", alone, folder=tmp_path, device="cpu").name == "torch-bf16"


def test_the_fastest_is_taken_and_any_is_when_named(
    alone: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parity(tmp_path, alone, {"torch": EXACT, "torch-bf16": ALIKE})
    for seconds, fastest in (((2.0, 1.0), "torch-bf16"), ((1.0, 2.0), "torch"), ((float("inf"), 9.0), "torch-bf16")):
        known = dict(zip(("torch", "torch-bf16"), seconds, strict=True))
        monkeypatch.setattr(engines, "speeds_of", lambda _, names, known=known: {name: known[name] for name in names})
        assert select("auto", alone, folder=tmp_path, device="cpu").name == fastest
        assert select("exact", alone, folder=tmp_path, device="cpu").name == "torch"
    assert select("torch-bf16", alone, folder=None, device="cpu").name == "torch-bf16"


@pytest.mark.parametrize(
    ("seconds", "taken"), [((1.0, 0.7), "onnx"), ((1.0, 0.6), "torch"), ((float("inf"), 9.0), "torch")]
)
def test_the_engine_of_a_plain_installation_is_taken_unless_another_is_much_faster(
    seconds: tuple[float, float], taken: str, alone: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "candidates", lambda *_: ["torch", "onnx"])
    monkeypatch.setattr(engines, "speeds_of", lambda *_: dict(zip(("onnx", "torch"), seconds, strict=True)))
    monkeypatch.setattr(engines, "make", lambda name, trained, **_: Engine(name, trained, lambda *inputs: inputs))
    assert select("auto", alone, folder=None, device="cpu").name == taken


def test_speeds_are_measured_once_and_remembered(alone: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = speeds_of(alone, ["torch"])
    assert speeds["torch"] > 0
    asked = []

    def fake(trained: TrainedModel, names: list[str]) -> list[Tried]:
        asked.append(names)
        return [Tried(replace(make("torch", trained), name=name), 7.0, is_wrong=False) for name in names]

    monkeypatch.setattr(engines, "try_engines", fake)
    assert speeds_of(alone, ["torch", "torch-bf16"]) == {"torch": speeds["torch"], "torch-bf16": 7.0}
    assert asked == [["torch-bf16"]]
    monkeypatch.setenv("OMP_NUM_THREADS", "99")
    assert speeds_of(alone, ["torch"]) == {"torch": 7.0}, "another number of threads is another machine"


def test_a_slow_engine_is_tried_once_and_left_out(alone: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fake(name: str, trained: TrainedModel) -> Engine:
        engine = make("torch", trained)

        def run_batch(*inputs: Floats) -> BatchOutputs:
            calls.append(name)
            time.sleep(SLOW * 0.2 if name == "onnx" else 0.02)
            return engine.run_batch(*inputs)

        return Engine(name, trained, run_batch)

    monkeypatch.setattr(engines, "make", fake)
    monkeypatch.setattr(engines, "LONG_S", 0.5)
    assert list(measure(alone, ["onnx"], sounds(alone), console=Console(quiet=True))) == ["torch"]
    assert calls.count("onnx") == 1
    known = speeds_of(alone, ["onnx", "torch"])
    assert known["onnx"] > SLOW * known["torch"]
    assert calls.count("onnx") == 1, "it is known to be slow"


def test_a_measurement_is_of_all_cycles_and_leaves_the_speeds(alone: TrainedModel) -> None:
    measured = measure(alone, ["torch-bf16"], sounds(alone), console=Console(quiet=True))
    assert list(measured) == ["torch", "torch-bf16"]
    assert measured["torch"][0] == Parity(7, 1.0, 0.0)
    assert measured["torch-bf16"][0].num_cycles == 7
    assert 0 < measured["torch-bf16"][0].largest_difference < 0.1
    seconds = {name: seconds for name, (_, seconds) in measured.items()}
    assert speeds_of(alone, list(seconds)) == seconds


def test_a_float32_engine_that_is_wrong_is_never_fastest(alone: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(name: str, trained: TrainedModel) -> Engine:
        engine = make("torch", trained)
        return Engine(name, trained, lambda *inputs: wrong(engine, *inputs)) if name == "onnx" else engine

    def wrong(engine: Engine, *inputs: Floats) -> BatchOutputs:
        probabilities, *others = engine.run_batch(*inputs)
        return probabilities + np.float32(2e-4), *others

    monkeypatch.setattr(engines, "make", fake)
    speeds = speeds_of(alone, ["onnx", "torch"])
    assert speeds["onnx"] == float("inf") > speeds["torch"]


@pytest.mark.parametrize(("asked", "place"), [("gate", 1), ("doubted", 1), ("domain", 2)])
def test_an_engine_with_other_features_does_not_decide_as_torch(
    asked: str, place: int, alone: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its probabilities are right: what differs is asked by a gate (the encoder's), or the domain (filter banks)."""
    num_spectral = 2 * alone.front_end.audio.num_mels
    ones, of_domain = np.ones(alone.model.encoder.dim + num_spectral, np.float32), np.ones(num_spectral, np.float32)
    gate = Gate(0 * ones, ones, np.concatenate([ones, 0 * ones]), np.zeros(1, np.float32))
    cycles = np.zeros((NEIGHBOUR, num_spectral), np.float16)
    domain = Domain(0 * of_domain, of_domain, cycles, np.array([1e4], np.float32))
    kept: dict[str, Any] = {"gate": gate, "doubted": gate, "domain": domain}
    trained = replace(alone, **{name: each if name == asked else None for name, each in kept.items()})

    def fake(name: str, trained: TrainedModel) -> Engine:
        engine = make("torch", trained)
        return Engine(name, trained, lambda *inputs: wrong(engine, *inputs)) if name == "onnx" else engine

    def wrong(engine: Engine, *inputs: Floats) -> BatchOutputs:
        outputs = list(engine.run_batch(*inputs))
        outputs[place] = outputs[place] + np.float32(1e5)
        probabilities, features, fbanks = outputs
        return probabilities, features, fbanks

    monkeypatch.setattr(engines, "make", fake)
    measured = measure(trained, ["onnx"], sounds(trained), console=Console(quiet=True))
    assert measured["torch"][0] == Parity(7, 1.0, 0.0)
    parity_with_torch, seconds = measured["onnx"]
    assert parity_with_torch.share < 0.99
    assert parity_with_torch.largest_difference > 0.5
    assert seconds == float("inf")


@pytest.mark.slow
def test_a_kept_graph_that_is_not_as_it_was_made_is_made_again(
    alone: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("onnx")
    path = exported(alone)
    record, whole, made = path.with_suffix(".json"), path.read_bytes(), []

    class Program:
        def save(self, place: str) -> None:
            made.append(Path(place).write_bytes(whole))

    monkeypatch.setattr(graph, "to_onnx", lambda *_, **__: Program())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x80  # the sign of a weight, or as silent
    for damage in (
        lambda: path.write_bytes(flipped),
        lambda: path.write_bytes(whole[: len(whole) // 2]),
        lambda: write_record(record, hash_file(path), made_for="another model"),
        record.unlink,
        path.unlink,
    ):
        assert exported(alone).read_bytes() == whole
        made.clear()
        damage()
        assert exported(alone).read_bytes() == whole
        assert len(made) == 1
