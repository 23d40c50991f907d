"""The way from waveforms to probabilities as one graph of plain operations, exported to ONNX and kept in the cache."""

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional

from lungsound.audio.filter_bank import EFFICIENTAT_OFFSET, LOG_FLOOR, PREEMPHASIS, EfficientATLogMel, LogMel, normalize
from lungsound.errors import WeightsError
from lungsound.extras import load
from lungsound.files import written_whole
from lungsound.inference.graph_files import (
    BESIDE,
    EXACT_TOLERANCE,
    FBANK,
    FEATURES,
    PROBABILITIES,
    SPECTRUM,
    WAVEFORM,
    cached_graph,
    is_as_made,
    probes,
    seal,
)
from lungsound.training.model_file import TrainedModel, tensor_places


class FilterBankGraph(nn.Module):
    """A front end's log-mel of plain operations: waveform (batch, samples) to (batch, frame, mel), not normalised.

    Everything from a frame to its spectrum is linear (Kaldi's removal of the mean and pre-emphasis, window, Fourier
    transform), so one matrix holds it: `steps` (sample of the frame, 2 * bin), real parts before imaginary ones. Frames
    are put together from blocks as long as the greatest common divisor of frame and hop.
    """

    steps: Tensor
    mel_banks: Tensor

    def __init__(self, log_mel: LogMel | EfficientATLogMel) -> None:
        super().__init__()
        self.is_kaldi, self.hop_size = isinstance(log_mel, LogMel), log_mel.hop_size
        self.frame_size = len(log_mel.window)
        self.block_size = math.gcd(self.frame_size, self.hop_size)
        frames = np.eye(self.frame_size)
        if self.is_kaldi:
            frames -= frames.mean(axis=1, keepdims=True)
            frames = frames - PREEMPHASIS * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        spectrum = np.fft.rfft(frames * log_mel.window.astype(np.float64), n=log_mel.fft_size)
        steps = np.concatenate([spectrum.real, spectrum.imag], axis=1).astype(np.float32)
        self.register_buffer("steps", torch.from_numpy(steps))
        self.register_buffer("mel_banks", torch.from_numpy(np.concatenate([log_mel.mel_banks, log_mel.mel_banks])))

    def forward(self, waveform: Tensor) -> Tensor:
        waveform = self.prepared(waveform)
        num_frames = 1 + (waveform.shape[1] - self.frame_size) // self.hop_size
        num_blocks, step = waveform.shape[1] // self.block_size, self.hop_size // self.block_size
        blocks = torch.unflatten(waveform[:, : num_blocks * self.block_size], 1, (num_blocks, self.block_size))
        end = (num_frames - 1) * step + 1
        frames = [blocks[:, place : place + end : step] for place in range(self.frame_size // self.block_size)]
        return self.log((torch.cat(frames, dim=-1) @ self.steps).square() @ self.mel_banks)

    def mean_spectrum(self, recording: Tensor) -> Tensor:
        """Mean (batch, mel) over the frames of recordings (batch, samples).

        Frames are the steps of a convolution, slower but without a shape that hangs on the length in its own way.
        """
        waveform, steps = self.prepared(recording).unsqueeze(1), self.steps.T.unsqueeze(1)
        spectrum = functional.conv1d(waveform, steps, stride=self.hop_size)
        return self.log(self.mel_banks.T @ spectrum.square()).mean(dim=2)

    def prepared(self, waveform: Tensor) -> Tensor:
        """The waveform that frames are taken from: EfficientAT's with pre-emphasis, its ends mirrored."""
        if self.is_kaldi:
            return waveform
        emphasised = waveform[:, 1:] - PREEMPHASIS * waveform[:, :-1]
        margin = self.frame_size // 2  # a frame is mirrored as far as its window reaches
        return functional.pad(emphasised, (margin, margin), mode="reflect")

    def log(self, power: Tensor) -> Tensor:
        return power.clamp(min=LOG_FLOOR).log() if self.is_kaldi else (power + EFFICIENTAT_OFFSET).log()


class PredictionGraph(nn.Module):
    """Inputs (batch, samples) (`TrainedModel.input_of`) to probabilities (batch, class), features, filter banks.

    Where the model is normalised by recording, a `spectrum` (batch, mel) is taken from the frames. The features
    (batch, dim) are the encoder's. The filter banks (batch, time, mel), normalised, are given too so that an engine can
    tell the part that must stay in float32.
    """

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.front = FilterBankGraph(trained.front_end.log_mel)
        self.model = trained.model
        self.mean, self.std = trained.mean, trained.std

    def forward(self, waveform: Tensor, spectrum: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        fbank = self.front(waveform)
        if spectrum is not None:
            fbank = fbank - spectrum.unsqueeze(1)
        fbank = normalize(fbank, mean=self.mean, std=self.std)
        features = self.model.encode(fbank)
        logits: Tensor = self.model.head(features)
        return logits.softmax(dim=1), features, fbank


OPSET = 20
LEAST_OUTSIDE = 4096  # bytes of a weight that a graph beside its model file does not hold itself


@torch.inference_mode()
def exported(trained: TrainedModel) -> Path:
    """Export the model with its filter bank into the cache unless it is there; programs wait for each other.

    It takes any batch size, and any length where padding is not encoded. What is there is taken when it is, to the
    byte, what was made of this model, else made again. WeightsError, and no file, when its probabilities of the probes
    are not those of torch.
    """
    path, front_end = cached_graph(trained), trained.front_end
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name("lock")):
        if is_as_made(path, trained):
            return path
        runtime, sounds = load("onnxruntime", extra=None), probes(trained)
        least, spectra = trained.num_input_samples(1), front_end.spectra(sounds)
        inputs = {WAVEFORM: np.stack([each.waveform for each in sounds])}
        sizes = {WAVEFORM: {0: torch.export.Dim("batch", min=1)}}
        if spectra is not None:
            inputs[SPECTRUM], sizes[SPECTRUM] = spectra, sizes[WAVEFORM].copy()
        if not front_end.audio.is_padding_encoded:
            sizes[WAVEFORM][1] = torch.export.Dim("samples", min=least, max=front_end.num_samples)
        tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
        program = to_onnx(PredictionGraph(trained), tensors, outputs=[PROBABILITIES, FEATURES, FBANK], sizes=sizes)
        with written_whole(path) as partial:
            program.save(str(partial))
            session = runtime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
            for clips in (inputs[WAVEFORM][:, :least], inputs[WAVEFORM]):
                given = normalize(front_end.filter_banks(clips, spectra), mean=trained.mean, std=trained.std)
                fbank = torch.from_numpy(given)
                probabilities = torch.from_numpy(session.run([PROBABILITIES], inputs | {WAVEFORM: clips})[0])
                difference = float((probabilities - trained.model(fbank).softmax(dim=1)).abs().max())
                if not difference <= EXACT_TOLERANCE:  # NaN is none either
                    raise WeightsError(
                        f"the exported graph differs from torch by {difference:.1e} in probability, more than "
                        f"{EXACT_TOLERANCE:g}; take the engine 'torch'"
                    )
            seal(path, partial, trained)
    return path


def write_beside(trained: TrainedModel) -> Path:
    """Write the graph beside the model file, whose weights it takes; with ONNX Runtime other programs can run it too.

    A large weight is external data of the graph: its bytes in the model file, widened to float32 and turned as the
    graph needs them when it is loaded. So it is small, and holds for this very file. ValueError for a model in memory.
    """
    if trained.file is None:
        raise ValueError("a model in memory has no file to lie beside")
    onnx = load("onnx", extra="onnx")
    model = onnx.load(str(exported(trained)))
    weights = {}
    for name, value in trained.weights.items():
        for is_turned in {False, value.ndim == 2}:
            wanted = value.astype(np.float32).T if is_turned else value.astype(np.float32)
            weights[wanted.shape, wanted.tobytes()] = (name, is_turned)
    places, inside, outside, widening = tensor_places(trained.file), [], {}, []
    for initializer in model.graph.initializer:
        values = onnx.numpy_helper.to_array(initializer)
        found = weights.get((values.shape, values.tobytes()))
        if found is None or values.nbytes < LEAST_OUTSIDE:
            inside.append(initializer)
            continue
        name, is_turned = found
        stored, (offset, length) = trained.weights[name], places[name]
        tensor = onnx.TensorProto(name=name, dims=stored.shape, data_location=onnx.TensorProto.EXTERNAL)
        tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(stored.dtype)
        facts = {"location": trained.file.name, "offset": str(offset), "length": str(length)}
        tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in facts.items())
        outside[name] = tensor
        wide = f"{initializer.name} of {name}" if is_turned else initializer.name
        widening.append(onnx.helper.make_node("Cast", [name], [wide], to=onnx.TensorProto.FLOAT))
        if is_turned:
            widening.append(onnx.helper.make_node("Transpose", [wide], [initializer.name], perm=[1, 0]))
    nodes = [*widening, *model.graph.node]
    for node in nodes:
        del node.metadata_props[:]  # where on this machine the line of the program lies that made it
    for field, values in ((model.graph.initializer, [*inside, *outside.values()]), (model.graph.node, nodes)):
        del field[:]
        field.extend(values)
    path = trained.file.with_name(BESIDE)
    with written_whole(path) as partial:
        partial.write_bytes(model.SerializeToString(deterministic=True))
        load("onnxruntime", extra=None).InferenceSession(str(partial), providers=["CPUExecutionProvider"])
        seal(path, partial, trained)
    return path


def to_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    outputs: Sequence[str],
    sizes: Mapping[str, dict[int, torch.export.Dim]],
) -> Any:
    """torch's ONNX program of a module on `inputs`, of each of which the dimensions `sizes` may vary."""
    load("onnxscript", extra="onnx")
    with quiet():
        return torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=dict(sizes),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what the exporters print of their own work; errors are raised as ever."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
