"""One file for other programs: any length and batch, the facts inside, the answers of torch."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.config import AudioSettings
from lungsound.errors import SettingsError, WeightsError
from lungsound.inference.engines import Floats, make
from lungsound.inference.model_files import (
    FittingGraph,
    checked,
    facts_of,
    write_onnx,
    write_openvino,
    write_torch,
)
from lungsound.training.model_file import TrainedModel
from tests.documents import ROOT
from tests.unit.inference.models import AUDIO, MOBILENET, NORMALIZED, TRANSFORMER, saved_model, sounds

REPEATED = AUDIO
ZEROS = AUDIO.model_copy(update={"padding": "zero"})
OWN_SOUND = AUDIO.model_copy(update={"is_padding_encoded": False})


@pytest.fixture
def trained(tmp_path: Path) -> TrainedModel:
    return saved_model(tmp_path / "run")


def places_of_the_program(file: Path) -> int:
    """How often a file says where on this machine the program lies."""
    return sum(file.read_bytes().count(str(place).encode()) for place in (ROOT, Path(torch.__file__).parents[1]))


def answers(trained: TrainedModel, cycles: list[Sound]) -> Floats:
    return make("torch", trained).predict(cycles)[0]


@pytest.mark.parametrize("audio", [REPEATED, ZEROS, OWN_SOUND], ids=["repeat", "zero", "own sound"])
def test_cycles_are_fitted_as_the_front_end_fits_them(audio: AudioSettings, tmp_path: Path) -> None:
    trained = saved_model(tmp_path, audio=audio)
    whole = trained.front_end.num_samples
    graph, sound = FittingGraph(trained), np.random.default_rng(0).standard_normal(2 * whole, np.float32)
    for num_samples in (2, 401, 4000, 4001, whole // 2, whole - 1, whole, whole + 1, 2 * whole):
        cycle = sound[:num_samples]
        given = graph(torch.from_numpy(cycle[np.newaxis]))[0]
        np.testing.assert_allclose(given, trained.input_of(cycle), rtol=0, atol=3e-7)


@pytest.mark.slow
@pytest.mark.parametrize("audio", [REPEATED, OWN_SOUND], ids=["repeat", "own sound"])
def test_onnx_takes_any_batch_and_length(audio: AudioSettings, tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    trained = saved_model(tmp_path, audio=audio)
    cycles = sounds(trained)
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
    assert facts["license"].startswith("not stated; the terms of the training corpus")
    assert places_of_the_program(path) == 0
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,), (gives,) = session.get_inputs(), session.get_outputs()
    assert (given.name, gives.name) == ("waveform", "probabilities")
    assert all(isinstance(size, str) for size in given.shape)
    batch = np.stack([cycle.waveform[:4000] for cycle in cycles[:3]])
    (several,) = session.run(None, {"waveform": batch})
    np.testing.assert_allclose(several, answers(trained, [*map(Sound, batch)]), atol=1e-5)


@pytest.mark.slow
def test_openvino_reads_what_was_written(trained: TrainedModel, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    cycles = sounds(trained)
    found = write_openvino(trained, tmp_path / "out", cycles)
    assert found.share == 1.0
    assert found.largest_difference < 0.02
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.bin", "model.xml"]
    model = openvino.Core().read_model(str(tmp_path / "out" / "model.xml"))
    assert model.get_rt_info(["lungsound", "model_sha256"]).astype(str) == trained.sha256
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given = [compiled(cycle.waveform[None])[0][0] for cycle in cycles]
    np.testing.assert_allclose(np.stack(given), answers(trained, cycles), atol=1e-5)


@pytest.mark.slow
def test_openvino_needs_no_hint_where_it_computes_in_bfloat16(trained: TrainedModel, tmp_path: Path) -> None:
    """Its filter bank in bfloat16 would be another: so each layer is marked as one to be left in float32."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    time_s = np.arange(9000, dtype=np.float32) / 16000
    tones = [Sound(np.sin(2 * np.pi * f * time_s, dtype=np.float32)) for f in (100, 300, 900)]  # faint above and below
    write_openvino(trained, tmp_path / "out", tones)
    path, expected = tmp_path / "out" / "model.xml", answers(trained, tones)

    def largest_difference(file: Path) -> float:
        compiled = core.compile_model(str(file), "CPU")
        given = [compiled(tone.waveform[None])[0][0] for tone in tones]
        return float(np.abs(np.stack(given) - expected).max())

    marked = largest_difference(path)
    unmarked = tmp_path / "out" / "unmarked.xml"
    unmarked.write_text(re.sub(r"<rt_info><attribute name=.precise.[^>]*></rt_info>", "", path.read_text()))
    unmarked.with_suffix(".bin").write_bytes(path.with_suffix(".bin").read_bytes())
    assert marked < 0.02
    assert largest_difference(unmarked) > 5 * marked


@pytest.mark.slow
@pytest.mark.parametrize("padding", [REPEATED, ZEROS], ids=["repeat", "zero"])
def test_torch_loads_its_program_without_us(padding: AudioSettings, tmp_path: Path) -> None:
    trained = saved_model(tmp_path, audio=padding)
    cycles = sounds(trained)
    assert write_torch(trained, tmp_path / "out", cycles).is_exact
    extra = {"lungsound.json": ""}
    zipfile.ZipFile(tmp_path / "out" / "model.pt2").extractall(tmp_path / "parts")
    parts = [part for part in (tmp_path / "parts").rglob("*") if part.is_file()]
    assert sum(map(places_of_the_program, parts)) == 0
    program = torch.export.load(tmp_path / "out" / "model.pt2", extra_files=extra)
    assert json.loads(extra["lungsound.json"]) == facts_of(trained)
    batch = np.stack([cycle.waveform[:4000] for cycle in cycles[:2]])
    given = program.module()(torch.from_numpy(batch)).detach()
    np.testing.assert_allclose(given, answers(trained, [*map(Sound, batch)]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["onnx", "onnx, own sound", "onnx, efficientat", "openvino", "torch", "torch, efficientat"]
)
def test_a_normalised_model_takes_the_spectrum_that_its_second_file_makes(case: str, tmp_path: Path) -> None:
    """From the complete recording to the probabilities of its cycles by these two files alone, in any batch."""
    name = case.partition(",")[0]
    if name != "torch":
        pytest.importorskip(name)
        pytest.importorskip("onnxruntime")
    is_efficientat, extra = case.endswith("efficientat"), NORMALIZED_CHANGES.get(case, {})
    architecture = MOBILENET if is_efficientat else TRANSFORMER
    trained = saved_model(tmp_path / "run", audio=NORMALIZED.model_copy(update=extra), architecture=architecture)
    write = {"onnx": write_onnx, "openvino": write_openvino, "torch": write_torch}[name]
    found = write(trained, tmp_path / "out", sounds(trained))
    assert found.is_exact or (name == "openvino" and found.largest_difference < 0.05)
    suffixes = {"onnx": ["onnx"], "openvino": ["bin", "xml"], "torch": ["pt2"]}[name]
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files] == [
        f"{each}.{suffix}" for each in ("model", "spectrum") for suffix in suffixes
    ]
    if name == "onnx":
        assert sum(map(places_of_the_program, files)) == 0
    model, spectrum_of = runners(name, tmp_path / "out")
    rate_hz = trained.front_end.sample_rate_hz
    for duration_s in (1.3, 3.00007):
        swelling = np.linspace(0.01, 0.3, int(duration_s * rate_hz), dtype=np.float32)
        noise = np.random.default_rng(3).standard_normal(len(swelling), np.float32)
        recording = trained.front_end.prepare(noise * swelling, rate_hz)
        spectrum = spectrum_of(recording.waveform[None])
        assert recording.spectrum is not None
        np.testing.assert_allclose(spectrum[0], recording.spectrum, atol=1e-3)
        cycles = [trained.front_end.cut(recording, start_s=at, end_s=at + 0.4) for at in (0.0, 0.5, 0.8)]
        batch = np.stack([cycle.waveform for cycle in cycles])
        given = model(batch, np.repeat(spectrum, 3, axis=0))
        np.testing.assert_allclose(given, answers(trained, cycles), atol=1e-4)


EFFICIENTAT = {"filter_bank": "efficientat", "sample_rate_hz": 32000, "num_mels": 128}
NORMALIZED_CHANGES: dict[str, dict[str, object]] = {
    "onnx, own sound": {"is_padding_encoded": False},
    "onnx, efficientat": EFFICIENTAT,
    "torch, efficientat": EFFICIENTAT,
}


def runners(name: str, folder: Path) -> list[Callable[..., Floats]]:
    """The model and the file of spectra as another program runs them."""

    def runner(stem: str) -> Callable[..., Floats]:
        if name == "torch":
            module = torch.export.load(folder / f"{stem}.pt2").module()
            return lambda *given: module(*map(torch.from_numpy, given)).detach().numpy()
        if name == "openvino":
            openvino = pytest.importorskip("openvino")
            hints = {"INFERENCE_PRECISION_HINT": "f32"}
            compiled = openvino.Core().compile_model(str(folder / f"{stem}.xml"), "CPU", hints)
            return lambda *given: compiled(given)[0].copy()
        runtime = pytest.importorskip("onnxruntime")
        session = runtime.InferenceSession(str(folder / f"{stem}.onnx"), providers=["CPUExecutionProvider"])
        names = {"model": ["waveform", "spectrum"], "spectrum": ["recording"]}[stem]
        return lambda *given: session.run(None, dict(zip(names, given, strict=True)))[0]

    return [runner("model"), runner("spectrum")]


def test_a_second_file_that_makes_another_spectrum_is_an_error(tmp_path: Path) -> None:
    trained = saved_model(tmp_path, audio=NORMALIZED)
    cycles = sounds(trained)
    given = iter(answers(trained, cycles))

    def spectrum_of(recording: Floats) -> Floats:
        spectrum = trained.front_end.recording(recording[0]).spectrum
        assert spectrum is not None
        return spectrum[None] + np.float32(2e-3)

    with pytest.raises(WeightsError, match=r"the spectrum of the exported file differs .* by 2.* was not kept"):
        checked(trained, cycles, lambda *_: next(given)[None], spectrum_of)


def test_the_facts_of_a_normalised_model_say_what_recording_is_meant(tmp_path: Path) -> None:
    facts = facts_of(saved_model(tmp_path, audio=NORMALIZED))
    assert "the first and the last 62.5 ms are faded" in facts["recording"]
    assert "recording" not in facts_of(saved_model(tmp_path))


@pytest.mark.slow
def test_a_model_that_averages_its_patches_takes_any_batch_too(tmp_path: Path) -> None:
    trained = saved_model(tmp_path, architecture=TRANSFORMER.model_copy(update={"pooling": "average_token"}))
    assert write_torch(trained, tmp_path / "out", sounds(trained)).is_exact
    program = torch.export.load(tmp_path / "out" / "model.pt2")
    for num_cycles in (1, 3):
        assert program.module()(torch.randn(num_cycles, 5000)).shape == (num_cycles, 4)


def test_facts_survive_json_and_say_what_the_input_is(trained: TrainedModel) -> None:
    facts = json.loads(json.dumps(facts_of(trained)))
    own = facts["front_end"]
    assert (own.pop("mean"), own.pop("std")) == (trained.mean, trained.std)
    assert FrontEnd(AudioSettings(**own)) == trained.front_end
    assert facts["calibration"] is None


def test_a_model_that_leaves_out_padding_is_no_torch_program(tmp_path: Path) -> None:
    trained = saved_model(tmp_path, audio=OWN_SOUND)
    with pytest.raises(SettingsError, match=r"is_padding_encoded=false cannot be a torch program.*onnx"):
        write_torch(trained, tmp_path / "out", sounds(trained))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.25, np.nan])
def test_another_answer_is_an_error(trained: TrainedModel, share: float) -> None:
    with pytest.raises(WeightsError, match=r"differs from torch by .* on real cycles: it was not kept"):
        checked(trained, sounds(trained), lambda clip: np.full((len(clip), 4), share, np.float32))


@pytest.mark.slow
def test_an_export_that_cannot_be_checked_is_none(trained: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="checked on cycles, and there are none: give a corpus with --data"):
        write_torch(trained, tmp_path / "out", [])
    assert not any((tmp_path / "out").iterdir())
