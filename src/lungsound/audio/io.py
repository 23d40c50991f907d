"""From a sound file to a mono waveform at the wanted rate; fading, cutting and fitting to a length.

The published order: `read_waveform`, `fade` the complete recording, `cut` a cycle out of it, `fit` the cycle. soundfile
reads most formats; those of telephones and browsers go through FFmpeg (the extra `av`).

All sound passes one gate, `_decode`, which lays what is there beside what the container promises (`containers`), and
puts the file's name to what is wrong with it.
"""

import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from lungsound.audio.containers import BYTES, SAMPLES, check_elements, inspect
from lungsound.errors import AudioError, TooLongError
from lungsound.extras import load

Padding = Literal["repeat", "zero"]
Samples = NDArray[np.float32]
Block = NDArray[np.float32 | np.int16]  # (samples, channel)

ZERO_CROSSINGS = 6
ROLLOFF = 0.99
BLOCK_PHASES = 16  # output samples of one product: more need more taps that are 0, fewer leave the processor idle


def resample(waveform: Samples, from_hz: int, to_hz: int) -> Samples:
    """Waveform (samples,) at another rate: (ceil(samples * to_hz / from_hz),), zeros beyond its ends.

    Band-limited interpolation with a Hann-windowed sinc, the resampler of the published program.
    """
    if from_hz == to_hz:
        return waveform
    step, num_phases, width = _period(from_hz, to_hz)
    num_periods, kernels = _block_kernels(from_hz, to_hz, waveform.dtype)
    row_step, row_phases = num_periods * step, num_periods * num_phases
    num_resampled = -(-len(waveform) * num_phases // step)
    num_rows = -(-num_resampled // row_phases)
    padded = np.pad(waveform, (width, num_rows * row_step + width + 1 - len(waveform)))
    rows = np.empty((num_rows, row_phases), waveform.dtype)
    for block, kernel in enumerate(kernels):
        first = block * BLOCK_PHASES
        taps = padded[first * step // num_phases :]
        samples = as_strided(taps, (num_rows, len(kernel)), (row_step * taps.itemsize, taps.itemsize), writeable=False)
        np.matmul(samples, kernel, out=rows[:, first : first + kernel.shape[1]])
    return rows.reshape(-1)[:num_resampled]


@lru_cache(maxsize=8)
def _block_kernels(from_hz: int, to_hz: int, dtype: np.dtype[Any]) -> tuple[int, list[Samples]]:
    """Kernels (tap, phase) of the blocks of a row of output samples, and the periods in a row.

    One kernel of all 160 phases of 44.1 -> 16 kHz would be zeros for nine tenths. A row is as long as the taps of a
    block at least: samples of neighbouring rows are then a matrix that needs no copy.
    """
    step, num_phases, width = _period(from_hz, to_hz)
    most_taps = (BLOCK_PHASES - 1) * step // num_phases + 2 * width + 2
    num_periods = -(-most_taps // step)
    end = num_periods * num_phases
    kernels = [
        resample_kernel(from_hz, to_hz, first_phase=first, num_phases=min(BLOCK_PHASES, end - first))
        for first in range(0, end, BLOCK_PHASES)
    ]
    return num_periods, [np.ascontiguousarray(kernel.T, dtype=dtype) for kernel in kernels]


def resample_kernel(
    from_hz: int, to_hz: int, *, first_phase: int = 0, num_phases: int | None = None
) -> NDArray[np.float64]:
    """Kernels (phase, tap) of some output phases from `first_phase` on; default: one period, to_hz / gcd.

    Output sample i stands at input time i * from_hz / to_hz; that is its phase. The cut-off is .99 of the lower
    Nyquist frequency, the Hann window spans 6 zero crossings of the sinc on each side.
    """
    step, period, width = _period(from_hz, to_hz)
    cutoff = ROLLOFF * min(1.0, period / step)
    end_phase = first_phase + (period if num_phases is None else num_phases)
    first_tap = first_phase * step // period - width
    last_tap = (end_phase - 1) * step // period + width
    centres = np.arange(first_phase, end_phase)[:, np.newaxis] * step / period
    offset = np.clip((np.arange(first_tap, last_tap + 1) - centres) * cutoff, -ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = np.cos(offset * (math.pi / (2 * ZERO_CROSSINGS))) ** 2
    return np.asarray(np.sinc(offset) * window * cutoff)


def _period(from_hz: int, to_hz: int) -> tuple[int, int, int]:
    """Input and output samples until both meet again, and input samples on each side of an output one that count."""
    common = math.gcd(from_hz, to_hz)
    step, num_phases = from_hz // common, to_hz // common
    return step, num_phases, math.ceil(ZERO_CROSSINGS * step / (ROLLOFF * min(step, num_phases)))


def fade(waveform: Samples, *, num_samples: int, is_in: bool = True, is_out: bool = True) -> Samples:
    """Copy of the waveform (..., samples) with a linear fade from 0 at its start and to 0 at its end.

    A fade longer than the waveform is shortened to it (the published program fails on such a recording).
    """
    faded = waveform.copy()
    num_faded = min(num_samples, waveform.shape[-1])
    if num_faded > 0:
        ramp = np.linspace(0, 1, num_faded, dtype=waveform.dtype)
        if is_in:
            faded[..., :num_faded] *= ramp
        if is_out:
            faded[..., -num_faded:] *= 1 - ramp
    return faded


def cut(waveform: Samples, *, start_s: float, end_s: float, sample_rate_hz: int) -> Samples:
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


def fit(waveform: Samples, num_samples: int, *, padding: Padding, fade_samples: int) -> Samples:
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
        return fade(np.resize(waveform, num_samples), num_samples=fade_samples, is_in=False)
    before = (num_samples - length) // 2
    return np.pad(waveform, (before, num_samples - length - before))


SUFFIXES = (".m4a", ".aac", ".mp4", ".webm")
# FFmpeg goes by content: a playlist under such a name would have it open other files.
OPTIONS = {"format_whitelist": "aac,mov,matroska,webm", "protocol_whitelist": "file"}
TIMED = ("mov", "matroska")  # these say how long they are; for others FFmpeg guesses
MAX_MISSING_S = 0.2  # of a promised duration: encoders count the samples before and after the sound, too

MIN_RATE_HZ, MAX_RATE_HZ = 100, 1_000_000  # beyond, a header is damaged; 1 Hz would become 16,000 times as many samples
LARGEST_SAMPLE = 2.0**31  # of 32-bit integers that were never scaled; the squares of far larger ones are infinite
BLOCK_VALUES = 2**20  # samples of all channels that are decoded at once
MIN_MORE_S = 0.010  # of sound beyond what a header counts

NO_LENGTH = "no length in the header"
COUNTS_TOO_LITTLE = "header counts too little"
UNCHECKED = "a format that does not tell whether it is whole"


@dataclass(frozen=True)
class SoundLimits:
    """The most that is decoded of one file; by default more than recordings of lungs have."""

    max_channels: int = 64
    max_duration_s: float = 24 * 3600.0
    max_values: int = 2**30  # samples of all channels, of 4 bytes each

    def check(self, *, num_samples: float, rate_hz: int, num_channels: int) -> None:
        """TooLongError for a file of more samples (of each channel) or channels."""
        if num_channels > self.max_channels:
            problem = f"{num_channels} channels; at most {self.max_channels} are read"
        elif num_samples > self.max_duration_s * rate_hz:
            problem = f"more than {self.max_duration_s:g} s of sound, which is the limit; cut it into parts"
        elif num_samples * num_channels > self.max_values:
            problem = f"more than {self.max_values} samples in all channels, which is the limit; cut it into parts"
        else:
            return
        raise TooLongError(f"has {problem}")


LIMITS = SoundLimits()


@dataclass(frozen=True)
class AudioInfo:
    """Facts of a sound file, and `remarks`: what its container leaves out or counts wrongly."""

    num_samples: int  # of each channel
    sample_rate_hz: int
    num_channels: int
    remarks: tuple[str, ...] = ()


def probe(path: Path, limits: SoundLimits = LIMITS) -> AudioInfo:
    """Facts of a sound file that `read_channels` would read, decoded only where bytes tell nothing; raises the same."""
    return _decode(path, limits, is_kept=False)[0]


def read_waveform(path: Path, *, sample_rate_hz: int = 16000) -> Samples:
    """Waveform (samples,), the mean of a file's channels, at this rate; full scale is 1. Errors as `read_channels`."""
    info, channels = _decode(path, LIMITS, is_kept=True)
    mono = channels[:, 0] if info.num_channels == 1 else channels.mean(axis=1)
    return resample(np.ascontiguousarray(mono), info.sample_rate_hz, sample_rate_hz)


def read_channels(path: Path, limits: SoundLimits = LIMITS) -> tuple[Samples, AudioInfo]:
    """Samples (channel, samples) of a sound file at its own rate, and its facts.

    Any format and rate that soundfile reads, and `SUFFIXES`. AudioError for a file that is missing, damaged, cut,
    without samples, of an impossible rate, or with a sample that is no number or beyond any scale; TooLongError beyond
    the limits, before anything is decoded where the header tells.
    """
    info, channels = _decode(path, limits, is_kept=True)
    return np.ascontiguousarray(channels.T), info


def _decode(path: Path, limits: SoundLimits, *, is_kept: bool) -> tuple[AudioInfo, Samples]:
    """The gate: facts of a sound file and its samples (samples, channel) in float32, none unless kept."""
    remarks: list[str] = []
    kept: list[Block] = []
    num_samples = num_channels = rate_hz = 0
    try:
        if "\0" in str(path):  # which no open() takes
            raise AudioError("cannot be read: no file has such a name; check the path")
        if not (path.is_file() or path.is_dir()) and path.exists():  # whoever opened a pipe would wait for ever
            raise AudioError("is a pipe, a socket or a device: give a sound file")
        is_for_ffmpeg = path.suffix.lower() in SUFFIXES
        blocks = decoded_blocks(path) if is_for_ffmpeg else _soundfile_blocks(path, limits, remarks, is_kept=is_kept)
        for block, rate_hz in blocks:
            num_channels = block.shape[1]
            limits.check(num_samples=num_samples + len(block), rate_hz=rate_hz, num_channels=num_channels)
            _check_samples(block, num_samples / rate_hz, rate_hz)
            num_samples += len(block)
            if is_kept:
                kept.append(block)
        if num_samples == 0:
            raise AudioError("has 0 samples; record or copy it again")
    except AudioError as error:
        error.path = path
        raise
    except OSError as error:
        raise AudioError(f"cannot be read ({error.strerror}); check the path", path=path) from error
    samples = np.concatenate(kept) if kept else np.empty((0, num_channels), np.float32)
    if samples.dtype == np.int16:
        samples = samples / np.float32(2**15)
    return AudioInfo(num_samples, rate_hz, num_channels, tuple(remarks)), samples.astype(np.float32, copy=False)


def _check_samples(block: Block, start_s: float, rate_hz: int) -> None:
    """Raise AudioError for a sample (samples, channel) of a block that no microphone gave."""
    if block.dtype == np.int16 or not block.size or np.abs((block.min(), block.max())).max() <= LARGEST_SAMPLE:
        return  # NaN is not less than anything
    sample, channel = np.argwhere(~(np.abs(block) <= LARGEST_SAMPLE))[0]
    raise AudioError(
        f"has a sample of {block[sample, channel]:g} at {start_s + sample / rate_hz:.3f} s, in channel {channel + 1}, "
        "and full scale is 1: record or convert it again"
    )


def decoded_blocks(path: Path) -> Iterator[tuple[Block, int]]:
    """Samples (samples, channel) and rate of the first sound of a file for FFmpeg: few bytes may hold many hours.

    AudioError for a file that cannot be decoded, is cut, or whose rate or channels change on the way; SettingsError
    without the extra.
    """
    av = load("av", extra="av", needed_by=f"{path.suffix} files as {path.name} need")
    check_elements(path)
    try:
        with av.open(str(path), options=OPTIONS, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise AudioError("holds no sound; give a recording")
            to_float, layouts, duration_s = av.AudioResampler(format="fltp"), set(), 0.0
            for frame in container.decode(container.streams.audio[0]):
                layouts.add((frame.sample_rate, frame.layout.name))
                if len(layouts) > 1:
                    raise AudioError("changes its rate or channels on the way; convert it to WAV")
                duration_s += frame.samples / frame.sample_rate
                for part in to_float.resample(frame):
                    yield part.to_ndarray().astype(np.float32, copy=False).T, frame.sample_rate
            is_timed = container.format.name.startswith(TIMED) and container.duration is not None
            promised_s = container.duration / av.time_base if is_timed else 0.0
    except (av.FFmpegError, OSError) as error:
        raise AudioError(f"cannot be decoded ({error}); copy or convert the file again") from error
    if duration_s < promised_s - MAX_MISSING_S:
        raise _truncated(f"{promised_s:.1f} s", f"{duration_s:.1f} s")


INTEGER_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "ULAW": 1, "ALAW": 1}
SAMPLE_BYTES = {**INTEGER_BYTES, "FLOAT": 4, "DOUBLE": 8}
COUNTED = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF")  # formats of which libsndfile counts the bytes there
CHECKED = (*COUNTED, "FLAC", "OGG", "MP3")


def _soundfile_blocks(
    path: Path, limits: SoundLimits, remarks: list[str], *, is_kept: bool
) -> Iterator[tuple[Block, int]]:
    """Samples (samples, channel) and rate of a file that libsndfile reads; errors as `read_channels`."""
    if (size := path.stat().st_size) > 8 * limits.max_values:
        raise TooLongError(f"has {size} bytes, more than the samples of the limit; cut it into parts")
    found = inspect(path)
    counted, there = found.counted or 0, found.there or 0
    truncated = _truncated(f"{counted} {found.unit}", str(there))
    try:
        # Names need not be UTF-8, which soundfile would have of text.
        file = soundfile.SoundFile(os.fsencode(path) if found.content is None else io.BytesIO(found.content))
    except soundfile.LibsndfileError as error:
        if counted > there:
            raise truncated from error
        # libsndfile's own words mislead: of bytes that are no MP3 it says that the file does not exist.
        raise AudioError(
            "is no sound file that can be read: damaged, or not what its name says; copy or convert it again"
        ) from error
    except TypeError as error:  # a headerless format, by its suffix: soundfile would need the rate
        raise AudioError("has no header that gives its sample rate; convert it to WAV or FLAC") from error
    with file:
        rate_hz, num_channels = file.samplerate, file.channels
        if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            rate = f"a sample rate of {rate_hz} Hz by its header"
            raise AudioError(f"has {rate}, beyond {MIN_RATE_HZ} to {MAX_RATE_HZ}; convert it again, at its true rate")
        num_promised = counted if found.unit == SAMPLES else file.frames
        limits.check(num_samples=max(num_promised, file.frames), rate_hz=rate_hz, num_channels=num_channels)
        step = num_channels * SAMPLE_BYTES.get(file.subtype, 1) if found.unit == BYTES else 1
        if counted // step > there // step:  # a size may also count the byte that pads it
            raise truncated
        if found.counted is None and found.there is not None:
            remarks.append(NO_LENGTH)
        elif 0 < counted < there:
            in_s = file.frames / rate_hz / (counted if found.unit == BYTES else there)
            if (there - counted) * in_s > MIN_MORE_S:
                remarks.append(f"{COUNTS_TOO_LITTLE}: {counted * in_s:.1f} s of {there * in_s:.1f} s")
        remarks.extend(found.remarks if file.format in CHECKED else (UNCHECKED,))
        if not is_kept and file.format in COUNTED and file.subtype in INTEGER_BYTES:
            yield np.broadcast_to(np.int16(0), (file.frames, num_channels)), rate_hz  # takes no memory
            return
        # 16-bit samples come as they are: libsndfile takes many times as long to make floats of them as NumPy.
        dtype = "int16" if file.subtype == "PCM_16" else "float32"
        num_left, at_once = file.frames, max(1, BLOCK_VALUES // num_channels)
        while num_left:
            try:
                block = file.read(min(num_left, at_once), dtype=dtype, always_2d=True)
            except soundfile.LibsndfileError as error:
                reason = error.error_string or "damaged"
                raise AudioError(f"cannot be decoded ({reason}); copy or convert the file again") from error
            if not len(block):
                raise _truncated(f"{file.frames} samples", str(file.frames - num_left))
            num_left -= len(block)
            yield block, rate_hz


def _truncated(promised: str, there: str) -> AudioError:
    return AudioError(f"is truncated: it promises {promised}, {there} are there; copy it again")
