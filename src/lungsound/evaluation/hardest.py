"""The cycles that a model got most wrong, to look at and to listen to: spectrogram and sound."""

import io
import wave
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lungsound.evaluation.figures import picture
from lungsound.evaluation.predictions import Predictions

NUM_CYCLES = 10
MAX_PER_RECORDING = 2
# Of a page that holds ten of them a sound may take 0.1 MB or so. What is heard in lungs lies below 2 kHz.
SOUND_RATE_HZ = 8000
MAX_SOUND_S = 6.0
PEAK = 0.9
WINDOW_S, HOP_S = 0.040, 0.010
LOWEST_HZ, HIGHEST_HZ = 100.0, 2000.0  # heart and handling are louder below
RANGE_DB = 60.0

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class HardCycle:
    """One cycle with its sound: `waveform` (samples,), full scale 1; probabilities by class name."""

    key: str
    label: str
    predicted: str
    probabilities: Mapping[str, float]
    waveform: Waveform
    sample_rate_hz: int

    @classmethod
    def of_row(cls, predictions: Predictions, row: int, *, waveform: Waveform, sample_rate_hz: int) -> "HardCycle":
        """A row of the predictions with the sound of its cycle."""
        classes = predictions.classes
        return cls(
            key=predictions.keys[row],
            label=classes[int(predictions.labels[row])],
            predicted=classes[int(predictions.predicted[row])],
            probabilities=dict(zip(classes, predictions.probabilities[row].tolist(), strict=True)),
            waveform=waveform,
            sample_rate_hz=sample_rate_hz,
        )

    @property
    def shown_s(self) -> float:
        """Seconds of it that are drawn and heard: its beginning, `MAX_SOUND_S` at most."""
        return min(MAX_SOUND_S, len(self.waveform) / self.sample_rate_hz)


def hardest_rows(
    predictions: Predictions, *, num_cycles: int = NUM_CYCLES, max_per_recording: int = MAX_PER_RECORDING
) -> tuple[int, ...]:
    """Rows whose true class was given the least probability, least first, rows that are equal in their order.

    At most `num_cycles` of them, and at most `max_per_recording` of one recording, since one bad recording would
    fill the list.
    """
    of_truth = predictions.probabilities[np.arange(len(predictions.keys)), predictions.labels]
    taken: Counter[str] = Counter()
    rows: list[int] = []
    for row in np.argsort(of_truth, kind="stable").tolist():
        recording = predictions.keys[row].rpartition("#")[0]
        if len(rows) < num_cycles and taken[recording] < max_per_recording:
            taken[recording] += 1
            rows.append(row)
    return tuple(rows)


def spectrogram(waveform: Waveform, sample_rate_hz: int) -> tuple[npt.NDArray[np.float64], float]:
    """Level in dB below the loudest bin from 100 Hz up `(frequency, time)`, -60 to 0, and the highest frequency in Hz.

    Hann windows of 40 ms centred every 10 ms from the first sample on, zeros beyond the ends, up to 2 kHz. What is
    louder below 100 Hz (the heart) is 0 dB too; silence is -60 all over.
    """
    size, hop = (max(1, round(seconds * sample_rate_hz)) for seconds in (WINDOW_S, HOP_S))
    padded = np.pad(np.asarray(waveform, dtype=np.float64), size // 2)
    padded = np.pad(padded, (0, max(0, size - len(padded))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    lowest, highest = (min(power.shape[1] - 1, int(hz * size / sample_rate_hz)) for hz in (LOWEST_HZ, HIGHEST_HZ))
    shown = power[:, : highest + 1].T
    loudest = shown[lowest:].max()
    relative = shown / loudest if loudest > 0 else np.zeros_like(shown)
    levels = 10.0 * np.log10(np.clip(relative, 10.0 ** (-RANGE_DB / 10.0), 1.0))
    return levels, highest * sample_rate_hz / size


def draw_spectrogram(cycle: HardCycle, path: Path) -> None:
    """Draw a cycle as PNG: its waveform, and below it its spectrogram, time to the right and frequency up."""
    samples = cycle.waveform[: round(cycle.shown_s * cycle.sample_rate_hz)]
    levels, highest_hz = spectrogram(samples, cycle.sample_rate_hz)
    with picture(path, width_inch=7.2, height_inch=3.0) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3])
        above.plot(np.arange(len(samples)) / cycle.sample_rate_hz, samples, color="#595959", linewidth=0.5)
        above.set_yticks([])
        above.spines["left"].set_visible(False)
        image = below.imshow(
            levels,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            cmap="magma",
            vmin=-RANGE_DB,
            vmax=0.0,
            extent=(-HOP_S / 2, (levels.shape[1] - 0.5) * HOP_S, 0.0, highest_hz / 1000.0),
        )
        below.set_xlim(0.0, cycle.shown_s)
        below.set_xlabel("seconds")
        below.set_ylabel("kHz")
        figure.colorbar(image, ax=below, label="dB", pad=0.01)


def wav_bytes(cycle: HardCycle) -> bytes:
    """The sound of a cycle as a WAV file: 16-bit PCM, one channel, at most 8 kHz, its peak at 0.9 of full scale."""
    import torch

    from lungsound.audio.waveform import resample

    rate_hz = min(cycle.sample_rate_hz, SOUND_RATE_HZ)
    shown = np.array(cycle.waveform[: round(cycle.shown_s * cycle.sample_rate_hz)], dtype=np.float32)
    samples = resample(torch.from_numpy(shown), cycle.sample_rate_hz, rate_hz).numpy()
    peak = float(np.abs(samples).max(initial=0.0))
    scaled = np.round(samples * (PEAK * 32767.0 / peak)) if peak > 0 else np.zeros_like(samples)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(scaled.astype("<i2").tobytes())
    return buffer.getvalue()
