"""From a sound file to a mono waveform at the wanted rate; fading, cutting and fitting to a length.

The published order: `read_waveform`, `fade` the complete recording, `cut` a cycle out of it, `fit` the cycle. soundfile
reads most formats; those of telephones and browsers go through FFmpeg (the extra `av`).
"""

import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lungsound.errors import AudioError
from lungsound.extras import load

Padding = Literal["repeat", "zero"]

ZERO_CROSSINGS = 6
ROLLOFF = 0.99
BLOCK_PHASES = 16  # output samples of one product: more need more taps that are 0, fewer leave the processor idle


def resample(waveform: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Waveform (samples,) at another rate: (ceil(samples * to_hz / from_hz),), zeros beyond its ends; no gradients.

    Band-limited interpolation with a Hann-windowed sinc, the resampler of the published program.
    """
    if from_hz == to_hz:
        return waveform
    step, num_phases, width = _period(from_hz, to_hz)
    num_periods, kernels = _block_kernels(from_hz, to_hz)
    row_step, row_phases = num_periods * step, num_periods * num_phases
    num_resampled = -(-len(waveform) * num_phases // step)
    num_rows = -(-num_resampled // row_phases)
    padded = F.pad(waveform, (width, num_rows * row_step + width + 1 - len(waveform)))
    rows = waveform.new_empty(num_rows, row_phases)
    for block, kernel in enumerate(kernels):
        first = block * BLOCK_PHASES
        samples = padded.as_strided((num_rows, len(kernel)), (row_step, 1), first * step // num_phases)
        torch.mm(samples, kernel.to(waveform), out=rows[:, first : first + kernel.shape[1]])
    return rows.view(-1)[:num_resampled]


@lru_cache(maxsize=8)
def _block_kernels(from_hz: int, to_hz: int) -> tuple[int, list[Tensor]]:
    """Kernels (tap, phase) of the blocks of a row of output samples, and the periods in a row.

    One kernel of all 160 phases of 44.1 -> 16 kHz would be zeros for nine tenths. A row is as long as the taps of a
    block at least: samples of neighbouring rows are then a matrix that needs no copy.
    """
    step, num_phases, width = _period(from_hz, to_hz)
    most_taps = (BLOCK_PHASES - 1) * step // num_phases + 2 * width + 2
    num_periods = -(-most_taps // step)
    end = num_periods * num_phases
    kernels = [
        resample_kernel(from_hz, to_hz, first_phase=first, num_phases=min(BLOCK_PHASES, end - first))[:, 0].T
        for first in range(0, end, BLOCK_PHASES)
    ]
    return num_periods, kernels


def resample_kernel(from_hz: int, to_hz: int, *, first_phase: int = 0, num_phases: int | None = None) -> Tensor:
    """Kernels (phase, 1, tap) in float64 of some output phases from `first_phase` on; default: one period, to_hz / gcd.

    Output sample i stands at input time i * from_hz / to_hz; that is its phase. The cut-off is .99 of the lower
    Nyquist frequency, the Hann window spans 6 zero crossings of the sinc on each side.
    """
    step, period, width = _period(from_hz, to_hz)
    cutoff = ROLLOFF * min(1.0, period / step)
    end_phase = first_phase + (period if num_phases is None else num_phases)
    first_tap = first_phase * step // period - width
    last_tap = (end_phase - 1) * step // period + width
    taps = torch.arange(first_tap, last_tap + 1, dtype=torch.float64)
    centres = torch.arange(first_phase, end_phase, dtype=torch.float64).unsqueeze(1) * step / period
    offset = ((taps - centres) * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = torch.cos(offset * (math.pi / (2 * ZERO_CROSSINGS))) ** 2
    return (torch.sinc(offset) * window * cutoff).unsqueeze(1)


def _period(from_hz: int, to_hz: int) -> tuple[int, int, int]:
    """Input and output samples until both meet again, and input samples on each side of an output one that count."""
    common = math.gcd(from_hz, to_hz)
    step, num_phases = from_hz // common, to_hz // common
    return step, num_phases, math.ceil(ZERO_CROSSINGS * step / (ROLLOFF * min(step, num_phases)))


def fade(waveform: Tensor, *, num_samples: int, is_in: bool = True, is_out: bool = True) -> Tensor:
    """Copy of the waveform (..., samples) with a linear fade from 0 at its start and to 0 at its end.

    A fade longer than the waveform is shortened to it (the published program fails on such a recording).
    """
    faded = waveform.clone()
    num_faded = min(num_samples, waveform.shape[-1])
    if num_faded > 0:
        ramp = torch.linspace(0, 1, num_faded, dtype=waveform.dtype, device=waveform.device)
        if is_in:
            faded[..., :num_faded] *= ramp
        if is_out:
            faded[..., -num_faded:] *= 1 - ramp
    return faded


def cut(waveform: Tensor, *, start_s: float, end_s: float, sample_rate_hz: int) -> Tensor:
    """View of the samples [int(start_s * rate), int(end_s * rate)) of a waveform (..., samples), ends truncated.

    What lies beyond the end of the waveform is left out, as published. Raises AudioError when nothing is left.
    """
    part = waveform[..., max(0, int(start_s * sample_rate_hz)) : max(0, int(end_s * sample_rate_hz))]
    if start_s < 0 or part.shape[-1] == 0:
        length_s = waveform.shape[-1] / sample_rate_hz
        raise AudioError(
            f"no samples from {start_s:g} s to {end_s:g} s of a recording of {length_s:g} s: "
            "the start must be 0 or more, before the end, and within the recording"
        )
    return part


def fit(waveform: Tensor, num_samples: int, *, padding: Padding, fade_samples: int) -> Tensor:
    """Waveform (samples,) brought to `num_samples`, by the published rules.

    A longer one gives its first part, without a fade. Otherwise, equality included, "repeat" tiles it, cuts the tiles
    to length and fades out the last `fade_samples`; "zero" puts it in the middle of zeros, without a fade.
    """
    length = len(waveform)
    if length == 0:
        raise AudioError("a waveform of 0 samples cannot be repeated or padded; leave this cycle out")
    if length > num_samples:
        return waveform[:num_samples]
    if padding == "repeat":
        tiled = waveform.repeat(math.ceil(num_samples / length))[:num_samples]
        return fade(tiled, num_samples=fade_samples, is_in=False)
    before = (num_samples - length) // 2
    return F.pad(waveform, (before, num_samples - length - before))


SUFFIXES = (".m4a", ".aac", ".mp4", ".webm")
# FFmpeg goes by content: a playlist under such a name would have it open other files.
OPTIONS = {"format_whitelist": "aac,mov,matroska,webm", "protocol_whitelist": "file"}


def decoded(path: Path) -> io.BytesIO:
    """The first sound of the file as a 32-bit float WAV file in memory; AudioError as `decoded_blocks`."""
    blocks = list(decoded_blocks(path))
    if not blocks:
        raise AudioError("has 0 samples; remove it, or convert it again", path=path)
    file, samples = io.BytesIO(), np.concatenate([block for block, _ in blocks], axis=1)
    soundfile.write(file, samples.T, blocks[0][1], format="WAV", subtype="FLOAT")
    file.seek(0)
    return file


def decoded_blocks(path: Path) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Samples (channel, samples) and rate of the file's first sound, block by block: few bytes may hold many hours.

    AudioError for a file that cannot be decoded or whose rate or channels change on the way; SettingsError without
    the extra.
    """
    av = load("av", extra="av", needed_by=f"{path.suffix} files as {path.name} need")
    try:
        with av.open(str(path), options=OPTIONS) as container:
            if not container.streams.audio:
                raise AudioError("holds no sound; give a recording", path=path)
            to_float, layouts = av.AudioResampler(format="fltp"), set()
            for frame in container.decode(container.streams.audio[0]):
                layouts.add((frame.sample_rate, frame.layout.name))
                if len(layouts) > 1:
                    raise AudioError("changes its rate or channels on the way; convert it to WAV", path=path)
                for part in to_float.resample(frame):
                    yield part.to_ndarray().astype(np.float32, copy=False), frame.sample_rate
    except (av.FFmpegError, OSError) as error:
        raise AudioError(f"cannot be decoded ({error}); copy or convert the file again", path=path) from error


ONE_SAMPLE_BLOCKS = (1, 3, 6, 7, 0xFFFE)  # WAV codecs with one sample in a block: PCM, float, A- and mu-law, extensible
UNKNOWN_SIZE = 0xFFFFFFFF  # in the header of a stream: as long as the file is
MIN_RATE_HZ, MAX_RATE_HZ = 100, 1_000_000  # beyond, a header is damaged; 1 Hz would become 16,000 times as many samples
UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile says of a FLAC stream whose header gives no length


@dataclass(frozen=True)
class AudioInfo:
    """Facts in the header of a sound file."""

    num_samples: int  # of each channel
    sample_rate_hz: int
    num_channels: int


def probe(path: Path) -> AudioInfo:
    """Length, rate and channels of a sound file, from its header.

    AudioError for a file that is missing, unreadable, without samples, of an impossible rate, or a WAV shorter than
    its header says.
    """
    with _open(path) as file:
        return AudioInfo(file.frames, file.samplerate, file.channels)


def read_waveform(path: Path, *, sample_rate_hz: int = 16000) -> Tensor:
    """Waveform (samples,) of a sound file: float32, the mean of its channels, at `sample_rate_hz`; full scale is 1.

    Any format and rate that soundfile reads, and `SUFFIXES`. AudioError for whatever `probe` refuses, for a file
    that ends before its header says, and for samples that are no finite numbers.
    """
    channels, from_hz = _read(path)
    return resample(channels[:, 0] if channels.shape[1] == 1 else channels.mean(dim=1), from_hz, sample_rate_hz)


def read_channels(path: Path) -> tuple[NDArray[np.float32], int]:
    """Samples (channel, samples) of a sound file at its own rate, and that rate. AudioError as `read_waveform`."""
    channels, rate_hz = _read(path)
    return np.ascontiguousarray(channels.numpy().T), rate_hz


def _read(path: Path) -> tuple[Tensor, int]:
    """Samples (samples, channel) of a sound file in float32, and their rate."""
    with _open(path) as file:
        try:
            # 16-bit samples come as they are: libsndfile takes many times as long to make floats of them as torch.
            dtype = "int16" if file.subtype == "PCM_16" else "float32"
            samples = file.read(file.frames, dtype=dtype, always_2d=True)
        except soundfile.LibsndfileError as error:
            reason = error.error_string
            raise AudioError(f"cannot be decoded ({reason}); copy or convert the file again", path=path) from error
        num_promised, rate_hz = file.frames, file.samplerate
    if len(samples) < num_promised:
        raise _truncated(path, num_promised, len(samples))
    channels = torch.from_numpy(samples)
    if dtype == "int16":
        return channels / 2**15, rate_hz
    if not channels.abs().max().isfinite():
        raise AudioError("has samples that are infinite or not a number; record or convert it again", path=path)
    return channels, rate_hz


def _open(path: Path) -> soundfile.SoundFile:
    """The file opened for decoding, when it has samples and all the bytes that a WAV header promises."""
    try:
        with path.open("rb") as raw:
            _check_riff(path, raw)
    except OSError as error:
        raise AudioError(f"cannot be read ({error.strerror}); check the path", path=path) from error
    try:
        # Names need not be UTF-8, which soundfile would have of text.
        file = soundfile.SoundFile(decoded(path) if path.suffix.lower() in SUFFIXES else os.fsencode(path))
    except soundfile.LibsndfileError as error:
        # libsndfile's own words mislead: of bytes that are no MP3 it says that the file does not exist.
        raise AudioError(
            "is no sound file that can be read: damaged, or not what its name says; copy or convert it again", path=path
        ) from error
    except TypeError as error:  # a headerless format, by its suffix: soundfile would need the rate
        raise AudioError("has no header that gives its sample rate; convert it to WAV or FLAC", path=path) from error
    if file.frames == 0:
        problem = "0 samples; remove it, or convert it again"
    elif file.frames == UNKNOWN_FRAMES:
        problem = "no length in its header; convert it again"
    elif MIN_RATE_HZ <= file.samplerate <= MAX_RATE_HZ:
        return file
    else:
        rate = f"a sample rate of {file.samplerate} Hz by its header"
        problem = f"{rate}, beyond {MIN_RATE_HZ} to {MAX_RATE_HZ}; convert it again, at its true rate"
    file.close()
    raise AudioError(f"has {problem}", path=path)


def _check_riff(path: Path, raw: BinaryIO) -> None:
    """Raise AudioError when a WAV file ends before the end of its data chunk: libsndfile would read less, silently."""
    header = raw.read(12)
    if header[:4] != b"RIFF" or header[8:] != b"WAVE":
        return
    file_size = path.stat().st_size
    block_size, samples_per_block = 1, 1
    while len(chunk := raw.read(8)) == 8:
        size = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"fmt ":
            fields = raw.read(20)
            block_size = max(1, int.from_bytes(fields[12:14], "little"))
            if int.from_bytes(fields[:2], "little") not in ONE_SAMPLE_BLOCKS:
                samples_per_block = int.from_bytes(fields[18:20], "little")
            raw.seek(-len(fields), os.SEEK_CUR)
        elif chunk[:4] == b"data":
            num_promised, num_found = (n // block_size for n in (size, file_size - raw.tell()))
            if size != UNKNOWN_SIZE and num_found < num_promised:
                raise _truncated(path, num_promised * samples_per_block, num_found * samples_per_block)
            return
        raw.seek(size + size % 2, os.SEEK_CUR)
    raise AudioError("is a WAV file that ends before its samples begin; copy it again", path=path)


def _truncated(path: Path, num_promised: int, num_found: int) -> AudioError:
    return AudioError(
        f"is truncated: its header promises {num_promised} samples, {num_found} are there; copy it again", path=path
    )
