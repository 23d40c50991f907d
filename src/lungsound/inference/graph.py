"""The way from waveforms to probabilities as one graph of plain operations, exported to ONNX and kept in the cache."""

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


class PredictionGraph(nn.Module):
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
FILE_NAME = "float.onnx"
WAVEFORM, PROBABILITIES, FILTER_BANK = "waveform", "probabilities", "filter_bank"
EXACT_TOLERANCE = 1e-4  # in probability
OPSET = 20
NUM_PROBES = 2


def exported_path(trained: TrainedModel) -> Path:
    """Place of the graph of this very model file, made by this version of torch."""
    folder = f"{trained.sha256[:24]}-{GRAPH_VERSION}-{version('torch')}"
    return cache_root() / "engines" / folder / FILE_NAME


def exported(trained: TrainedModel) -> Path:
    """Export the graph unless it is there; two programs that start at once wait for each other. Its path."""
    path = exported_path(trained)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name("lock")):
        if not path.exists():
            _export(trained, path)
    return path


def to_onnx(module: nn.Module, example: Tensor, *, outputs: Sequence[str], sizes: dict[int, torch.export.Dim]) -> Any:
    """torch's ONNX program of a module on waveforms (batch, samples) whose dimensions `sizes` may vary."""
    load("onnxscript", extra="onnx")
    with quiet():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            input_names=[WAVEFORM],
            output_names=list(outputs),
            dynamic_shapes={"waveform": sizes},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise WeightsError("torch made no ONNX graph of the model: take the engine 'torch'")
    return program


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
def _export(trained: TrainedModel, path: Path) -> None:
    """Write the model with its filter bank; any batch size, and any length where padding is not encoded.

    WeightsError, and no file, when its probabilities of the probes are not those of torch.
    """
    runtime = load("onnxruntime", extra="onnx")
    front_end, clips = trained.front_end, probes(trained)
    least = trained.num_input_samples(1)
    sizes = {0: torch.export.Dim("batch", min=1)}
    if not front_end.is_padding_encoded:
        sizes[1] = torch.export.Dim("samples", min=least, max=front_end.num_samples)
    program = to_onnx(PredictionGraph(trained), clips, outputs=[PROBABILITIES, FILTER_BANK], sizes=sizes)
    with written_whole(path) as partial:
        program.save(str(partial))
        session = runtime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
        for given in (clips[:, :least], clips):
            fbank = normalize(front_end.filter_banks(given), mean=trained.mean, std=trained.std)
            probabilities = torch.from_numpy(session.run([PROBABILITIES], {WAVEFORM: given.numpy()})[0])
            difference = float((probabilities - trained.model(fbank).softmax(dim=1)).abs().max())
            if not difference <= EXACT_TOLERANCE:  # NaN is none either
                raise WeightsError(
                    f"the exported graph differs from torch by {difference:.1e} in probability, more than "
                    f"{EXACT_TOLERANCE:g}; take the engine 'torch'"
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
