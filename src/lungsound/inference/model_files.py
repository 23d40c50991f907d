"""A trained model as one file that other programs run: a cycle's waveform in, probabilities out.

ONNX, OpenVINO's IR and torch's exported program hold the same way from sound to prediction and the same facts
(`facts_of`). A model that is normalised by recording takes the recording's spectrum beside the cycle, which a second,
small file makes of the complete recording. Each is checked against torch on real cycles; lungsound is not needed to
run it.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor, nn

from lungsound.audio.filter_bank import LogMel
from lungsound.audio.front_end import Sound
from lungsound.axes import PATCH_SIZE
from lungsound.errors import SettingsError, WeightsError
from lungsound.evaluation.evidence import statement
from lungsound.extras import load
from lungsound.files import written_together
from lungsound.inference.engines import Floats, Parity, make, parity
from lungsound.inference.graph import FilterBankGraph, PredictionGraph, exported, quiet, to_onnx
from lungsound.inference.graph_files import PROBABILITIES, SPECTRUM, WAVEFORM
from lungsound.training.model_file import TrainedModel

NOTE = "research software, not a medical device"
LICENSE = "not stated; the terms of the training corpus and of the pretrained weights hold"
RECORDING = "recording"  # whose spectrum the second file makes
SPECTRUM_TOLERANCE = 1e-3  # of a natural logarithm, a thousandth of what a class turns on
FACTS = "lungsound"  # section of an OpenVINO file; with .json the name in a torch archive
# Of waveforms (batch, samples). torch takes a size of one for a constant.
BATCH = torch.export.Dim("batch", min=1)
ANY_LENGTH = {0: BATCH, 1: torch.export.Dim("samples", min=2)}


def facts_of(trained: TrainedModel) -> dict[str, Any]:
    """Facts that give the numbers of a model their meaning, as JSON holds them."""
    front_end = trained.front_end
    faded = f"of which the first and the last {1000 * front_end.audio.fade_s:g} ms are faded"
    spectrum = {
        RECORDING: f"the complete recording, mono, full scale 1, at {front_end.sample_rate_hz} Hz, {faded}: the second "
        f"file makes of it the input {SPECTRUM!r} for all of its cycles"
    }
    return {
        "classes": list(trained.label_set.classes),
        "label_set": trained.label_set.name,
        "sample_rate_hz": front_end.sample_rate_hz,
        "input": f"a breathing cycle, mono, full scale 1, at {front_end.sample_rate_hz} Hz, cut from a recording "
        f"{faded}",
        **(spectrum if front_end.audio.is_recording_normalized else {}),
        "output": "softmax of the logits, not calibrated",
        "front_end": front_end.definition | {"mean": trained.mean, "std": trained.std},
        "calibration": None if trained.calibration is None else trained.calibration.to_plain(),
        "evidence": statement(trained.evidence),
        "model_sha256": trained.sha256,
        "license": LICENSE,
        "note": NOTE,
    }


class FittingGraph(nn.Module):
    """Cycles (batch, samples) of one length, any, to the model's inputs as `TrainedModel.input_of` makes them."""

    fade: Tensor

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.front_end = front_end = trained.front_end
        self.stride = trained.patch_stride
        ones = np.ones(front_end.num_samples, np.float32)
        self.register_buffer("fade", torch.from_numpy(front_end.fit(ones)))

    def forward(self, waveform: Tensor) -> Tensor:
        num_samples = len(self.fade)
        num_own = torch.scalar_tensor(waveform.shape[1], dtype=torch.int64)
        place = torch.arange(num_samples)
        if self.front_end.audio.padding == "zero":
            place = place - ((num_samples - num_own) // 2).clamp(min=0)
            is_sound = (place >= 0) & (place < num_own)
            return waveform[:, torch.minimum(place.clamp(min=0), num_own - 1)] * is_sound
        clips = waveform[:, place % num_own] * torch.where(num_own > num_samples, 1.0, self.fade)
        log_mel = self.front_end.log_mel
        if self.front_end.audio.is_padding_encoded:
            return clips
        assert isinstance(log_mel, LogMel)
        # `FrontEnd.num_input_samples` by divisions that a graph can follow; min() would choose one of two for good.
        least: Callable[[int, int], int] = torch.sym_min
        num_frames = least((waveform.shape[1] + log_mel.hop_size - 1) // log_mel.hop_size, self.front_end.num_frames)
        num_frames = (num_frames + self.stride - 1) // self.stride * self.stride - self.stride + PATCH_SIZE
        return clips[:, : least(num_samples, log_mel.frame_size + (num_frames - 1) * log_mel.hop_size)]


class WaveformGraph(nn.Module):
    """Cycles (batch, samples) of one length, any, with their spectra, to probabilities (batch, class)."""

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.fit, self.predict = FittingGraph(trained), PredictionGraph(trained)

    def forward(self, waveform: Tensor, spectrum: Tensor | None = None) -> Tensor:
        probabilities: Tensor = self.predict(self.fit(waveform), spectrum)[0]
        return probabilities


class SpectrumGraph(nn.Module):
    """Complete recordings (batch, samples) of one length, any, to their mean log-mel spectra (batch, mel)."""

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.front = FilterBankGraph(trained.front_end.log_mel)

    def forward(self, recording: Tensor) -> Tensor:
        return self.front.mean_spectrum(recording)


def sizes_of_recording(trained: TrainedModel) -> dict[int, torch.export.Dim]:
    """Dimensions of recordings that may vary, as `to_onnx` takes them: from two frames on."""
    log_mel = trained.front_end.log_mel
    return {0: BATCH, 1: torch.export.Dim("recording_samples", min=log_mel.reach_size + log_mel.hop_size)}


def write_onnx(trained: TrainedModel, folder: Path, cycles: Sequence[Sound]) -> Parity:
    """Write model.onnx into `folder`: `waveform` (batch, samples), any size of both, to `probabilities`.

    Where the model is normalised by recording it takes `spectrum` (batch, mel) too, which spectrum.onnx beside it makes
    of a `recording` (batch, samples). The facts stand in the metadata of the model, lists and dicts as JSON. It is the
    engines' graph behind one that fits cycles of any length to its input. `cycles` are as `FrontEnd.cut` gives them;
    ONNX Runtime must predict them as torch does; its parity is returned. WeightsError, and no file, when not.
    """
    onnx, runtime = load("onnx", extra="onnx"), load("onnxruntime", extra=None)
    compose = load("onnx.compose", extra="onnx")
    predicting = compose.add_prefix(onnx.load(str(exported(trained))), "predict_")
    clips = torch.zeros(2, trained.front_end.num_samples // 2)  # no size of it means anything
    fitting = to_onnx(
        FittingGraph(trained), {WAVEFORM: clips}, outputs=["clip"], sizes={WAVEFORM: ANY_LENGTH}
    ).model_proto
    fitting.ir_version = predicting.ir_version
    last, names = f"predict_{PROBABILITIES}", {f"predict_{name}": name for name in (PROBABILITIES, SPECTRUM)}
    io_map = [("clip", f"predict_{WAVEFORM}")]
    model = compose.merge_models(fitting, predicting, io_map=io_map, outputs=[last], name=FACTS, producer_name=FACTS)
    for node in model.graph.node:
        node.input[:] = [names.get(each, each) for each in node.input]
        node.output[:] = [names.get(each, each) for each in node.output]
    for given in (*model.graph.input, *model.graph.output):
        given.name = names.get(given.name, given.name)
    onnx.helper.set_model_props(model, {name: _text(value) for name, value in facts_of(trained).items()})
    model.doc_string = NOTE
    models = {"model": model}
    if trained.front_end.audio.is_recording_normalized:
        program = to_onnx(
            SpectrumGraph(trained),
            {RECORDING: clips},
            outputs=[SPECTRUM],
            sizes={RECORDING: sizes_of_recording(trained)},
        )
        models[SPECTRUM] = program.model_proto

    def runner(path: Path) -> Callable[..., Floats]:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        return lambda *given: session.run(None, dict(zip(names, given, strict=True)))[0]

    with written_together(folder) as staging:
        runners = {}
        for name, each in models.items():
            for node in each.graph.node:
                del node.metadata_props[:]  # where on this machine the line of the program lies that made it
            onnx.save(each, str(staging / f"{name}.onnx"))
            runners[name] = runner(staging / f"{name}.onnx")
        return checked(trained, cycles, runners["model"], runners.get(SPECTRUM))


def write_openvino(trained: TrainedModel, folder: Path, cycles: Sequence[Sound]) -> Parity:
    """Write model.xml and model.bin into `folder`, in float32; the facts stand in rt_info. Else as `write_onnx`.

    It must be exact when it is asked for float32. Its parity without being asked is returned.
    """
    openvino = load("openvino", extra="openvino")
    core = openvino.Core()
    with tempfile.TemporaryDirectory() as name:
        write_onnx(trained, Path(name), cycles)
        models = {path.stem: core.read_model(str(path)) for path in Path(name).glob("*.onnx")}
    for key, value in facts_of(trained).items():
        models["model"].set_rt_info(_text(value), [FACTS, key])
    with written_together(folder) as staging:
        for name, model in models.items():
            path = staging / f"{name}.xml"
            openvino.save_model(model, str(path), compress_to_fp16=False)
            # Mark every layer as one that is not to be computed in less than its own precision, which Python can do in
            # the file alone. On processors with bfloat16 OpenVINO takes it without being asked, and the logarithm of a
            # soft band is then wrong by tens of percents.
            tree = ElementTree.parse(path)
            for layer in tree.iterfind("layers/layer"):
                mark = ElementTree.Element("rt_info")
                ElementTree.SubElement(mark, "attribute", name="precise", version="0")
                layer.insert(0 if layer.find("data") is None else 1, mark)
            tree.write(path, encoding="utf-8", xml_declaration=True)

        def runner(name: str, **hints: str) -> Callable[..., Floats]:
            compiled = core.compile_model(str(staging / f"{name}.xml"), "CPU", hints)
            return lambda *given: compiled(given)[0].copy()

        exact = {name: runner(name, INFERENCE_PRECISION_HINT="f32") for name in models}
        checked(trained, cycles, exact["model"], exact.get(SPECTRUM))
        return checked(trained, cycles, runner("model"), is_exact_needed=False)


def write_torch(trained: TrainedModel, folder: Path, cycles: Sequence[Sound]) -> Parity:
    """Write model.pt2 into `folder`: `torch.export.load(path).module()(waveform)` needs no lungsound.

    Where the model is normalised by recording it is `module()(waveform, spectrum)`, with spectrum.pt2 beside it. The
    facts are the extra file lungsound.json. SettingsError for a model that leaves out its padding: how much it encodes
    hangs on the length in a way that torch's program cannot hold. Else as `write_onnx`.
    """
    if not trained.front_end.audio.is_padding_encoded:
        raise SettingsError(
            "a model with audio.is_padding_encoded=false cannot be a torch program, whose shapes would hang on the "
            "length of the cycle: export it to onnx or openvino, or load it with lungsound.Predictor"
        )
    audio, clips = trained.front_end.audio, torch.zeros(2, trained.front_end.num_samples // 2)
    # Of each file the graph, its inputs, and the dimensions of each that may vary.
    graphs: dict[str, tuple[nn.Module, tuple[Tensor, ...], tuple[dict[int, Any], ...]]]
    graphs = {"model": (WaveformGraph(trained), (clips,), (ANY_LENGTH,))}
    if audio.is_recording_normalized:
        both = (clips, torch.zeros(2, audio.num_mels))
        graphs["model"] = (WaveformGraph(trained), both, (ANY_LENGTH, {0: BATCH}))
        graphs[SPECTRUM] = (SpectrumGraph(trained), (clips,), (sizes_of_recording(trained),))
    with written_together(folder) as staging, quiet():
        runners = {}
        for name, (graph, inputs, sizes) in graphs.items():
            program = torch.export.export(graph.eval(), inputs, dynamic_shapes=sizes)
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # where on this machine our program lies
            with (staging / f"{name}.pt2").open("wb") as file:
                torch.export.save(program, file, extra_files={f"{FACTS}.json": json.dumps(facts_of(trained))})
            module = torch.export.load(staging / f"{name}.pt2").module()
            runners[name] = lambda *given, run=module: run(*map(torch.from_numpy, given)).numpy()
        return checked(trained, cycles, runners["model"], runners.get(SPECTRUM))


@torch.inference_mode()
def checked(
    trained: TrainedModel,
    cycles: Sequence[Sound],
    predict: Callable[..., Floats],
    spectrum_of: Callable[[Floats], Floats] | None = None,
    *,
    is_exact_needed: bool = True,
) -> Parity:
    """Parity with torch of `predict`: a cycle (1, samples), and its spectrum (1, mel), to probabilities (1, class).

    WeightsError if it must be exact, and when `spectrum_of` makes another spectrum of the cycles, taken for recordings.
    """
    if not cycles:
        raise SettingsError("an export is checked on cycles, and there are none: give a corpus with --data")
    exact = make("torch", trained).predict(cycles)[0]
    inputs = [[each for each in (cycle.waveform, cycle.spectrum) if each is not None] for cycle in cycles]
    probabilities = np.concatenate([predict(*(each[None] for each in own)) for own in inputs])
    measured = parity([exact], [probabilities])
    if spectrum_of is not None:
        given = np.concatenate([spectrum_of(cycle.waveform[None]) for cycle in cycles])
        expected = trained.front_end.spectra([trained.front_end.recording(cycle.waveform) for cycle in cycles])
        assert expected is not None
        difference = float(np.abs(given - expected).max())
        if not difference <= SPECTRUM_TOLERANCE:
            raise WeightsError(
                f"the spectrum of the exported file differs from torch's by {difference:.1e} on real cycles: the model "
                "was not kept; another version of torch or of the extra may do better"
            )
    if is_exact_needed and not measured.is_exact:
        raise WeightsError(
            f"the exported model differs from torch by {measured.largest_difference:.1e} in probability on real "
            "cycles: it was not kept; another version of torch or of the extra may do better"
        )
    return measured


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
