"""A trained model as one file that other programs run: a cycle's waveform in, probabilities out.

ONNX, OpenVINO's IR and torch's exported program hold the same way from sound to prediction and the same facts
(`facts_of`). Each is checked against torch on real cycles; lungsound is not needed to run it.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor, nn

from lungsound.audio.filter_bank import LogMel
from lungsound.audio.front_end import Sound
from lungsound.audio.io import fit
from lungsound.axes import PATCH_SIZE
from lungsound.errors import SettingsError, WeightsError
from lungsound.evaluation.evidence import statement
from lungsound.extras import load
from lungsound.files import written_whole
from lungsound.inference.engines import Floats, Parity, make, parity
from lungsound.inference.graph import PROBABILITIES, WAVEFORM, PredictionGraph, exported, quiet, to_onnx
from lungsound.models.ast import AudioSpectrogramTransformer
from lungsound.training.checkpoint import TrainedModel

NOTE = "research software, not a medical device"
LICENSE = "not stated; the terms of the training corpus and of the pretrained weights hold"
FACTS = "lungsound"  # section of an OpenVINO file; with .json the name in a torch archive
# Of waveforms (batch, samples). torch takes a size of one for a constant.
ANY_LENGTH = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("samples", min=2)}


def facts_of(trained: TrainedModel) -> dict[str, Any]:
    """Facts that give the numbers of a model their meaning, as JSON holds them."""
    front_end = trained.front_end
    return {
        "classes": list(trained.label_set.classes),
        "label_set": trained.label_set.name,
        "sample_rate_hz": front_end.sample_rate_hz,
        "input": f"a breathing cycle, mono, full scale 1, at {front_end.sample_rate_hz} Hz, cut from a recording of "
        f"which the first and the last {1000 * front_end.audio.fade_s:g} ms are faded",
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
        front_end, encoder = trained.front_end, trained.model.encoder
        self.front_end = front_end
        self.stride = encoder.stride if isinstance(encoder, AudioSpectrogramTransformer) else 1
        ones = torch.ones(front_end.num_samples)
        fade = fit(ones, len(ones), padding=front_end.audio.padding, fade_samples=front_end.num_fade_samples)
        self.register_buffer("fade", fade)

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
    """Cycles (batch, samples) of one length, any, to probabilities (batch, class)."""

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.fit, self.predict = FittingGraph(trained), PredictionGraph(trained)

    def forward(self, waveform: Tensor) -> Tensor:
        probabilities: Tensor = self.predict(self.fit(waveform))[0]
        return probabilities


def check_standalone(trained: TrainedModel) -> None:
    """SettingsError for a model that needs more than a cycle: the spectrum of its recording."""
    if trained.front_end.audio.is_recording_normalized:
        raise SettingsError(
            "a model with audio.is_recording_normalized=true needs the spectrum of the complete recording, which a "
            "file for other programs does not compute: use it with lungsound, 'predict --engine' or lungsound.Predictor"
        )


def write_onnx(trained: TrainedModel, folder: Path, cycles: Sequence[Sound]) -> Parity:
    """Write model.onnx into `folder`: `waveform` (batch, samples), any size of both, to `probabilities`.

    The facts stand in its metadata, lists and dicts as JSON. It is the engines' graph behind one that fits cycles of
    any length to its input. `cycles` are as `FrontEnd.cut` gives them; ONNX Runtime must predict them as torch does;
    its parity is returned. WeightsError, and no file, when not. SettingsError by `check_standalone`.
    """
    check_standalone(trained)
    onnx, runtime = load("onnx", extra="onnx"), load("onnxruntime", extra="onnx")
    compose = load("onnx.compose", extra="onnx")
    predicting = compose.add_prefix(onnx.load(str(exported(trained))), "predict_")
    clips = torch.zeros(2, trained.front_end.num_samples // 2)  # no size of it means anything
    fitting = to_onnx(
        FittingGraph(trained), {WAVEFORM: clips}, outputs=["clip"], sizes={WAVEFORM: ANY_LENGTH}
    ).model_proto
    fitting.ir_version = predicting.ir_version
    last = f"predict_{PROBABILITIES}"
    io_map = [("clip", f"predict_{WAVEFORM}")]
    model = compose.merge_models(fitting, predicting, io_map=io_map, outputs=[last], name=FACTS, producer_name=FACTS)
    for node in model.graph.node:
        node.output[:] = [PROBABILITIES if each == last else each for each in node.output]
        del node.metadata_props[:]  # where on this machine the line of the program lies that made it
    model.graph.output[0].name = PROBABILITIES
    onnx.helper.set_model_props(model, {name: _text(value) for name, value in facts_of(trained).items()})
    model.doc_string = NOTE
    with written_whole(folder / "model.onnx") as partial:
        onnx.save(model, str(partial))
        session = runtime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
        return checked(trained, cycles, lambda clip: session.run(None, {WAVEFORM: clip})[0])


def write_openvino(trained: TrainedModel, folder: Path, cycles: Sequence[Sound]) -> Parity:
    """Write model.xml and model.bin into `folder`, in float32; the facts stand in rt_info. Else as `write_onnx`.

    It must be exact when it is asked for float32. Its parity without being asked is returned.
    """
    check_standalone(trained)
    openvino = load("openvino", extra="openvino")
    core = openvino.Core()
    with tempfile.TemporaryDirectory() as name:
        write_onnx(trained, Path(name), cycles)
        model = core.read_model(str(Path(name) / "model.onnx"))
    for key, value in facts_of(trained).items():
        model.set_rt_info(_text(value), [FACTS, key])
    with written_together(folder) as staging:
        path = staging / "model.xml"
        openvino.save_model(model, str(path), compress_to_fp16=False)
        # Mark every layer as one that is not to be computed in less than its own precision, which Python can do in the
        # file alone. On processors with bfloat16 OpenVINO takes it without being asked, and the logarithm of a soft
        # band is then wrong by tens of percents.
        tree = ElementTree.parse(path)
        for layer in tree.iterfind("layers/layer"):
            mark = ElementTree.Element("rt_info")
            ElementTree.SubElement(mark, "attribute", name="precise", version="0")
            layer.insert(0 if layer.find("data") is None else 1, mark)
        tree.write(path, encoding="utf-8", xml_declaration=True)
        asked = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        unasked = core.compile_model(str(path), "CPU", {})
        checked(trained, cycles, lambda clip: asked(clip)[0].copy())
        return checked(trained, cycles, lambda clip: unasked(clip)[0].copy(), is_exact_needed=False)


def write_torch(trained: TrainedModel, folder: Path, cycles: Sequence[Sound]) -> Parity:
    """Write model.pt2 into `folder`: `torch.export.load(path).module()(waveform)` needs no lungsound.

    The facts are the extra file lungsound.json. SettingsError for a model that leaves out its padding: how much it
    encodes hangs on the length in a way that torch's program cannot hold. Else as `write_onnx`.
    """
    check_standalone(trained)
    if not trained.front_end.audio.is_padding_encoded:
        raise SettingsError(
            "a model with audio.is_padding_encoded=false cannot be a torch program, whose shapes would hang on the "
            "length of the cycle: export it to onnx or openvino, or load it with lungsound.Predictor"
        )
    clips = torch.zeros(2, trained.front_end.num_samples // 2)
    with written_whole(folder / "model.pt2") as partial, quiet():
        program = torch.export.export(WaveformGraph(trained).eval(), (clips,), dynamic_shapes={"waveform": ANY_LENGTH})
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # where on this machine our program lies
        with partial.open("wb") as file:
            torch.export.save(program, file, extra_files={f"{FACTS}.json": json.dumps(facts_of(trained))})
        module = torch.export.load(partial).module()
        return checked(trained, cycles, lambda clip: module(torch.from_numpy(clip)).numpy())


@contextmanager
def written_together(folder: Path) -> Iterator[Path]:
    """A place in `folder` to write to: its files move up when the block ends without an error, else they go."""
    staging = folder / ".partial"
    shutil.rmtree(staging, ignore_errors=True)  # what a killed process left
    staging.mkdir(parents=True)
    try:
        yield staging
        for part in staging.iterdir():
            part.replace(folder / part.name)
    finally:
        shutil.rmtree(staging)


@torch.inference_mode()
def checked(
    trained: TrainedModel,
    cycles: Sequence[Sound],
    predict: Callable[[Floats], Floats],
    *,
    is_exact_needed: bool = True,
) -> Parity:
    """Parity of `predict`, (1, samples) to probabilities (1, class), with torch; WeightsError if it must be exact."""
    if not cycles:
        raise SettingsError("an export is checked on cycles, and there are none: give a corpus with --data")
    exact = make("torch", trained).predict(cycles)[0]
    measured = parity(exact, np.concatenate([predict(cycle.waveform.numpy()[None]) for cycle in cycles]))
    if is_exact_needed and not measured.is_exact:
        raise WeightsError(
            f"the exported model differs from torch by {measured.largest_difference:.1e} in probability on real "
            "cycles: it was not kept; another version of torch or of the extra may do better"
        )
    return measured


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
