"""The whole way from waveforms to probabilities as one module of plain operations, which other programs can run."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lungsound.audio.fbank import EFFICIENTAT_OFFSET, LOG_FLOOR, PREEMPHASIS, EfficientATLogMel, LogMel, normalize
from lungsound.checkpoint import TrainedModel


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
