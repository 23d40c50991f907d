"""A trained model as an ONNX file: float32 as it is, and two ways of int8."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lungsound.checkpoint import TrainedModel
from lungsound.engines.extras import load
from lungsound.engines.graph import AnsweringGraph
from lungsound.errors import WeightsError
from lungsound.files import written_whole

GRAPH_VERSION = "3"  # part of the key of kept files: change it whenever the same model gives another graph
WAVEFORM, PROBABILITIES, FILTER_BANK = "waveform", "probabilities", "filter_bank"
EXACT_TOLERANCE = 1e-4  # in probability
OPSET = 20
NUM_PROBES = 2


def probes(trained: TrainedModel) -> Tensor:
    """Fitted waveforms (probe, num_samples) of a swelling noise with a tone, soft and loud: the same every time."""
    generator = torch.Generator().manual_seed(0)
    num_samples, rate_hz = trained.front_end.num_samples, trained.front_end.sample_rate_hz
    time_s = torch.arange(num_samples) / rate_hz
    noise = torch.randn(NUM_PROBES, num_samples, generator=generator).cumsum(dim=1)
    noise = noise / noise.abs().amax(dim=1, keepdim=True)
    swell = torch.sin(torch.pi * time_s / 2).square()
    tone = 0.1 * torch.sin(2 * torch.pi * 300 * time_s)
    loudness = torch.tensor([[0.02], [0.5]])
    return loudness * swell * (noise + tone)


@torch.inference_mode()
def export_onnx(trained: TrainedModel, path: Path) -> None:
    """Write the model with its filter bank; any batch size, and any length where padding is not encoded.

    WeightsError when the file answers otherwise than torch.
    """
    load("onnxscript", extra="onnx")
    clips = probes(trained)
    with quiet():
        program = torch.onnx.export(
            AnsweringGraph(trained).eval(),
            (clips,),
            input_names=[WAVEFORM],
            output_names=[PROBABILITIES, FILTER_BANK],
            dynamic_shapes={"waveform": _dynamic_shape(trained)},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise WeightsError(f"torch made no graph of the model for {path}; take the engine 'torch'")
    with written_whole(path) as partial:
        program.save(str(partial))
        difference = max(
            _difference(trained, partial, clips[:, : trained.num_input_samples(1)]),
            _difference(trained, partial, clips),
        )
        if not difference <= EXACT_TOLERANCE:
            raise WeightsError(
                f"the exported graph differs from torch by {difference:.1e} in probability, more than "
                f"{EXACT_TOLERANCE:g}; take the engine 'torch'"
            )


def _difference(trained: TrainedModel, path: Path, clips: Tensor) -> float:
    """Largest difference in probability of a graph from torch, for inputs (batch, samples)."""
    session = load("onnxruntime", extra="onnx").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    fbank = (trained.front_end.filter_banks(clips) - trained.mean) / (2 * trained.std)
    found = torch.from_numpy(session.run([PROBABILITIES], {WAVEFORM: clips.numpy()})[0])
    return float(torch.nan_to_num((found - trained.model(fbank).softmax(dim=1)).abs(), nan=torch.inf).max())


def _dynamic_shape(trained: TrainedModel) -> dict[int, torch.export.Dim]:
    """Of waveforms (batch, samples)."""
    batch = {0: torch.export.Dim("batch", min=1)}
    if trained.front_end.is_padding_encoded:
        return batch
    return batch | {1: torch.export.Dim("samples", min=trained.num_input_samples(1), max=trained.front_end.num_samples)}


def quantize_weights(source: Path, path: Path) -> bool:
    """int8 weights, activations quantised as they come (ONNX Runtime). False when nothing in it can be quantised."""
    names = _linear_maps(source)
    if not names:
        return False
    quantization = load("onnxruntime.quantization", extra="onnx")
    with written_whole(path) as partial, quiet():
        quantization.quantize_dynamic(
            source,
            partial,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=names,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    return True


def quantize_with(source: Path, path: Path, inputs: Sequence[Tensor]) -> bool:
    """int8 weights and activations, the range of each activation from some inputs (samples,), for OpenVINO.

    False when nothing in it can be quantised.
    """
    names = _linear_maps(source)
    if not names:
        return False
    quantization = load("onnxruntime.quantization", extra="onnx")
    rest = iter(inputs)

    class Clips(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def get_next(self) -> dict[str, Any] | None:
            clip = next(rest, None)
            return None if clip is None else {WAVEFORM: clip.unsqueeze(0).numpy()}

    with written_whole(path) as partial, quiet():
        quantization.quantize_static(
            source,
            partial,
            Clips(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=names,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    return True


def _linear_maps(source: Path) -> list[str]:
    """Names of the products with weights after the filter bank."""
    graph = load("onnx", extra="onnx").load(str(source)).graph
    maker = {output: node for node in graph.node for output in node.output}
    before, waiting = set(), [FILTER_BANK]
    while waiting:
        node = maker.get(waiting.pop())
        if node is not None and node.name not in before:
            before.add(node.name)
            waiting.extend(node.input)
    weights = {weight.name for weight in graph.initializer}
    products = (node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights)
    return [node.name for node in products if node.name not in before]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters print of their own work; errors are raised as ever."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
