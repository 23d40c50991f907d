"""The sound and the pictures of a review page, as text that HTML holds."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor
from torch.nn import functional as F

from lungsound.audio.front_end import FrontEnd
from lungsound.evaluation.faithfulness import TILE_SIZE, tile_means, tiles

PLAYED_PEAK, MAX_GAIN = 0.9, 40.0  # quiet recordings are raised, as the service's page does
MAX_COLUMNS = 6000  # of a picture; longer recordings have means of neighbouring frames
NUM_WAVE_COLUMNS = 2000
LOWEST_SHARE, HIGHEST_SHARE = 0.1, 0.998  # of the levels, beyond which is white or darkest
MIN_RANGE = 4.6  # natural logarithm of power: 20 dB
# Colours (red, green, blue) of levels from none to most.
COLOURS = ((255, 255, 255), (214, 230, 240), (112, 172, 205), (22, 94, 142), (10, 34, 66))
MARKS_HZ = (250, 500, 1000, 2000, 4000)
TICKS_S = (0.5, 1, 2, 5, 10, 30, 60, 300)
MAX_TICKS = 24
MIN_SHARE = 0.25  # of the strongest box, below which none is drawn


@dataclass(frozen=True)
class Sound:
    """A recording to be heard and seen. `gain` is by how much it is played louder; `picture` "" when it is too short.

    Marks are (place from the top or the left, text); places and `picture_width` are in percent. `wave` are the points
    of a polygon in a box of `NUM_WAVE_COLUMNS` by 2.
    """

    flac: str
    gain: float
    picture: str
    picture_width: float
    wave: str
    marks: list[tuple[float, str]]
    ticks: list[tuple[float, str]]
    duration_s: float


@dataclass(frozen=True)
class Box:
    """A tile of a cycle's picture, in percent from its top left, and its relevance, -1 to 1, 1 that of the strongest.

    `start_s` and `end_s` are from the start of the cycle.
    """

    left: float
    top: float
    width: float
    height: float
    share: float
    start_s: float
    end_s: float
    low_hz: float
    high_hz: float


def sound(waveform: Tensor, front_end: FrontEnd) -> Sound:
    """Of a recording (samples,) at the model's rate."""
    log_mel, rate_hz = front_end.log_mel, front_end.sample_rate_hz
    duration_s = len(waveform) / rate_hz
    gain = min(MAX_GAIN, PLAYED_PEAK / max(float(waveform.abs().max()), 1e-6))
    num_frames = log_mel.num_frames(len(waveform))
    step_s = next((step_s for step_s in TICKS_S if duration_s / step_s <= MAX_TICKS), TICKS_S[-1])
    return Sound(
        flac=_flac(gain * waveform, rate_hz),
        gain=gain,
        picture=_png(_fbank(waveform, front_end)) if num_frames else "",
        picture_width=min(100.0, 100 * num_frames * log_mel.hop_size / len(waveform)),
        wave=_wave(waveform),
        marks=list(_frequency_marks(front_end)),
        ticks=[(100 * time_s / duration_s, f"{time_s:g} s") for time_s in np.arange(0, duration_s, step_s)],
        duration_s=duration_s,
    )


def explained_png(waveform: Tensor, front_end: FrontEnd) -> tuple[str, int]:
    """The picture of what is heard of a cycle (samples,), and its frames; ("", 0) when it is too short for one."""
    num_frames = front_end.log_mel.num_frames(len(waveform))
    return (_png(_fbank(waveform, front_end)) if num_frames else ""), num_frames


def boxes(relevance: Tensor, front_end: FrontEnd) -> list[Box]:
    """Tiles of a cycle's relevance (time, mel) that weigh `MIN_SHARE` of the strongest or more, strongest first."""
    num_frames, num_mels = relevance.shape
    tile = tiles(num_frames, num_mels)
    means = tile_means(relevance, tile)
    shares = (means / means.abs().max().clamp(min=1e-12)).tolist()
    per_row, hop_s = -(-num_mels // TILE_SIZE), front_end.log_mel.hop_size / front_end.sample_rate_hz
    centres_hz = front_end.log_mel.mel_banks.argmax(dim=0) * front_end.sample_rate_hz / front_end.log_mel.fft_size
    found = []
    for place in sorted(range(len(shares)), key=lambda place: -abs(shares[place])):
        if abs(shares[place]) < MIN_SHARE:
            break
        frame, mel = (TILE_SIZE * each for each in divmod(place, per_row))
        last_frame, last_mel = min(frame + TILE_SIZE, num_frames), min(mel + TILE_SIZE, num_mels)
        found.append(
            Box(
                left=100 * frame / num_frames,
                top=100 * (num_mels - last_mel) / num_mels,
                width=100 * (last_frame - frame) / num_frames,
                height=100 * (last_mel - mel) / num_mels,
                share=shares[place],
                start_s=frame * hop_s,
                end_s=last_frame * hop_s,
                low_hz=float(centres_hz[mel]),
                high_hz=float(centres_hz[last_mel - 1]),
            )
        )
    return found


def _fbank(waveform: Tensor, front_end: FrontEnd) -> Tensor:
    """Filter bank (time, mel) of a waveform (samples,) of any length, with `MAX_COLUMNS` frames at most."""
    fbank = front_end.filter_banks(waveform[None])[0]
    size = -(-len(fbank) // MAX_COLUMNS)
    return F.avg_pool1d(fbank.T, size, ceil_mode=True).T


def _flac(waveform: Tensor, rate_hz: int) -> str:
    content = io.BytesIO()
    samples = (32767 * waveform.clamp(-1, 1)).round().to(torch.int16).numpy()
    soundfile.write(content, samples, rate_hz, format="FLAC", subtype="PCM_16")
    return base64.b64encode(content.getvalue()).decode("ascii")


def _png(fbank: Tensor) -> str:
    """A picture of one pixel for each bin (time, mel), low mels below, in base64."""
    from PIL import Image

    low, high = (float(np.quantile(fbank.numpy(), share)) for share in (LOWEST_SHARE, HIGHEST_SHARE))
    levels = (255 * (fbank - low) / max(high - low, MIN_RANGE)).clamp(0, 255).round().to(torch.uint8)
    image = Image.fromarray(np.ascontiguousarray(levels.T.flip(0).numpy()))
    places = np.linspace(0, 255, len(COLOURS))
    channels = [np.interp(np.arange(256), places, values) for values in zip(*COLOURS, strict=True)]
    image.putpalette(np.stack(channels, axis=1).round().astype(np.uint8).tobytes())
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode("ascii")


def _wave(waveform: Tensor) -> str:
    samples: npt.NDArray[np.float32] = (waveform / waveform.abs().max().clamp(min=1e-6)).numpy()
    parts = np.array_split(samples, min(NUM_WAVE_COLUMNS, len(samples)))
    step = NUM_WAVE_COLUMNS / len(parts)
    upper = [f"{step * column:g},{1 - part.max():.3f}" for column, part in enumerate(parts)]
    lower = [f"{step * column:g},{1 - part.min():.3f}" for column, part in enumerate(parts)]
    return " ".join([*upper, *reversed(lower)])


def _frequency_marks(front_end: FrontEnd) -> Iterator[tuple[float, str]]:
    """Where frequencies are in a picture of mels: where the mel that has most of them is."""
    banks = front_end.log_mel.mel_banks
    for frequency_hz in MARKS_HZ:
        fft_bin = round(frequency_hz * front_end.log_mel.fft_size / front_end.sample_rate_hz)
        if fft_bin < len(banks) and bool(banks[fft_bin].any()):
            text = f"{frequency_hz} Hz" if frequency_hz < 1000 else f"{frequency_hz / 1000:g} kHz"
            yield 100 * (1 - (int(banks[fft_bin].argmax()) + 0.5) / banks.shape[1]), text
