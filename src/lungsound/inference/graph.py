"""The whole way from waveforms to probabilities as one module of plain operations, which other programs can run.

A trained model as an ONNX file: float32 as it is, and two ways of int8.

The exported graphs of a model, kept in the cache folder.
"""

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional

from lungsound.audio.filter_bank import EFFICIENTAT_OFFSET, LOG_FLOOR, PREEMPHASIS, EfficientATLogMel, LogMel, normalize
from lungsound.errors import WeightsError
from lungsound.extras import load
from lungsound.files import cache_root, written_whole
from lungsound.training.checkpoint import TrainedModel


class PowerSpectrum(nn.Module):
    """Waveform (batch, samples) to the power spectrum weighted by mel filters (batch, frame, mel), by matrices.

    Everything from a frame to its spectrum is linear (the mean's removal, pre-emphasis, window, Fourier transform),
    so one matrix holds it: `steps` (sample of the frame, 2 * bin), real parts before imaginary ones. Frames are put
    together from blocks as long as the greatest common divisor of frame and hop.
    """

    steps: Tensor
    mel_banks: Tensor

    def __init__(self, spectrum: Tensor, mel_banks: Tensor, *, hop_size: int) -> None:
        """`spectrum` (sample, bin), complex: what each sample of a frame gives. `mel_banks` (bin, mel)."""
        super().__init__()
        self.frame_size, self.hop_size = len(spectrum), hop_size
        self.block_size = math.gcd(self.frame_size, hop_size)
        self.register_buffer("steps", torch.cat([spectrum.real, spectrum.imag], dim=1).to(mel_banks.dtype))
        self.register_buffer("mel_banks", torch.cat([mel_banks, mel_banks]))

    def forward(self, waveform: Tensor) -> Tensor:
        num_frames = 1 + (waveform.shape[1] - self.frame_size) // self.hop_size
        num_blocks, step = waveform.shape[1] // self.block_size, self.hop_size // self.block_size
        blocks = torch.unflatten(waveform[:, : num_blocks * self.block_size], 1, (num_blocks, self.block_size))
        end = (num_frames - 1) * step + 1
        frames = [blocks[:, place : place + end : step] for place in range(self.frame_size // self.block_size)]
        spectrum = torch.cat(frames, dim=-1) @ self.steps
        return spectrum.square() @ self.mel_banks


class KaldiGraph(nn.Module):
    """`LogMel` of plain operations."""

    def __init__(self, log_mel: LogMel) -> None:
        super().__init__()
        frames = torch.eye(log_mel.frame_size, dtype=torch.float64)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        windowed = (frames - PREEMPHASIS * before) * log_mel.window.double()
        spectrum = torch.fft.rfft(windowed, n=log_mel.fft_size)
        self.power = PowerSpectrum(spectrum, log_mel.mel_banks, hop_size=log_mel.hop_size)

    def forward(self, waveform: Tensor) -> Tensor:
        power: Tensor = self.power(waveform)
        return power.clamp(min=LOG_FLOOR).log()


class EfficientATGraph(nn.Module):
    """`EfficientATLogMel` of plain operations."""

    def __init__(self, log_mel: EfficientATLogMel) -> None:
        super().__init__()
        windowed = torch.eye(log_mel.window_size, dtype=torch.float64) * log_mel.window.double()
        spectrum = torch.fft.rfft(windowed, n=log_mel.fft_size)
        self.power = PowerSpectrum(spectrum, log_mel.mel_banks, hop_size=log_mel.hop_size)
        self.margin = log_mel.window_size // 2  # a frame is mirrored as far as its window reaches

    def forward(self, waveform: Tensor) -> Tensor:
        emphasised = waveform[:, 1:] - PREEMPHASIS * waveform[:, :-1]
        mirrored = functional.pad(emphasised, (self.margin, self.margin), mode="reflect")
        power: Tensor = self.power(mirrored)
        return (power + EFFICIENTAT_OFFSET).log()


class AnsweringGraph(nn.Module):
    """Inputs (batch, samples) (`TrainedModel.input_of`) to probabilities (batch, class) and normalised filter banks.

    The filter banks (batch, time, mel) are given too so that an engine can tell the part that must stay in float32.
    """

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        log_mel = trained.front_end.log_mel
        self.front = KaldiGraph(log_mel) if isinstance(log_mel, LogMel) else EfficientATGraph(log_mel)
        self.model = trained.model
        self.mean, self.std = trained.mean, trained.std

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        fbank = normalize(self.front(waveform), mean=self.mean, std=self.std)
        logits: Tensor = self.model(fbank)
        return logits.softmax(dim=1), fbank


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


FLOAT, INT8_WEIGHTS, INT8 = "float.onnx", "int8-weights.onnx", "int8.onnx"


def folder(trained: TrainedModel) -> Path:
    """Where the graphs of this very model file are kept, made by this version of torch."""
    return cache_root() / "engines" / f"{trained.sha256[:24]}-{GRAPH_VERSION}-{version('torch')}"


def make(trained: TrainedModel, inputs: Sequence[Tensor] = ()) -> None:
    """Export what is not there yet; with some inputs (samples,) also the graph that learns its ranges by them.

    Two programs that start at once wait for each other.
    """
    place = folder(trained)
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / "lock"):
        if not (place / FLOAT).exists():
            export_onnx(trained, place / FLOAT)
        if not (place / INT8_WEIGHTS).exists():
            quantize_weights(place / FLOAT, place / INT8_WEIGHTS)
        if inputs:
            quantize_with(place / FLOAT, place / INT8, inputs)
