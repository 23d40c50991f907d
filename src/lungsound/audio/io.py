"""From a sound file to a mono waveform at the wanted rate; fading, cutting and fitting to a length.

The published order: `read_waveform`, `fade` the complete recording, `cut` a cycle out of it, `fit` the cycle. soundfile
reads most formats; those of telephones and browsers go through FFmpeg (the extra `av`).

All sound passes one gate, `_decode`. Decoders read a file that was cut, or whose header is wrong, as if it were whole:
so the gate goes through each container's own parts (chunks, pages, frames), and lays what is there beside what is
promised.
"""

import io
import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lungsound.errors import AudioError, TooLongError
from lungsound.extras import load

Padding = Literal["repeat", "zero"]
Block = NDArray[np.float32 | np.int16]  # (samples, channel)

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
TIMED = ("mov", "matroska")  # these say how long they are; for others FFmpeg guesses
MAX_MISSING_S = 0.2  # of a promised duration: encoders count the samples before and after the sound, too

MIN_RATE_HZ, MAX_RATE_HZ = 100, 1_000_000  # beyond, a header is damaged; 1 Hz would become 16,000 times as many samples
LARGEST_SAMPLE = 2.0**31  # of 32-bit integers that were never scaled; the squares of far larger ones are infinite
BLOCK_VALUES = 2**20  # samples of all channels that are decoded at once
MIN_MORE_S = 0.010  # of sound beyond what a header counts

NO_LENGTH = "no length in the header"
NO_END = "no end of stream"
COUNTS_TOO_LITTLE = "header counts too little"
UNCHECKED = "a format that does not tell whether it is whole"


@dataclass(frozen=True)
class SoundLimits:
    """The most that is decoded of one file; by default more than recordings of lungs have."""

    max_channels: int = 64
    max_duration_s: float = 24 * 3600.0
    max_values: int = 2**30  # samples of all channels, of 4 bytes each

    def check(self, path: Path, *, num_samples: float, rate_hz: int, num_channels: int) -> None:
        """TooLongError for a file of more samples (of each channel) or channels."""
        if num_channels > self.max_channels:
            problem = f"{num_channels} channels; at most {self.max_channels} are read"
        elif num_samples > self.max_duration_s * rate_hz:
            problem = f"more than {self.max_duration_s:g} s of sound, which is the limit; cut it into parts"
        elif num_samples * num_channels > self.max_values:
            problem = f"more than {self.max_values} samples in all channels, which is the limit; cut it into parts"
        else:
            return
        raise TooLongError(f"has {problem}", path=path)


LIMITS = SoundLimits()


@dataclass(frozen=True)
class AudioInfo:
    """Facts of a sound file, and `remarks`: what its container leaves out or counts wrongly."""

    num_samples: int  # of each channel
    sample_rate_hz: int
    num_channels: int
    remarks: tuple[str, ...] = ()


def probe(path: Path, limits: SoundLimits = LIMITS) -> AudioInfo:
    """Facts of a sound file that `read_channels` would read; raises the same errors.

    It is decoded, and not kept, unless it holds whole numbers whose bytes can be counted.
    """
    return _decode(path, limits, is_kept=False)[0]


def read_waveform(path: Path, *, sample_rate_hz: int = 16000) -> Tensor:
    """Waveform (samples,) of a sound file: float32, the mean of its channels, at `sample_rate_hz`; full scale is 1.

    Errors as `read_channels`.
    """
    info, channels = _decode(path, LIMITS, is_kept=True)
    mono = channels[:, 0] if info.num_channels == 1 else channels.mean(dim=1)
    return resample(mono, info.sample_rate_hz, sample_rate_hz)


def read_channels(path: Path, limits: SoundLimits = LIMITS) -> tuple[NDArray[np.float32], AudioInfo]:
    """Samples (channel, samples) of a sound file at its own rate, and its facts.

    Any format and rate that soundfile reads, and `SUFFIXES`. AudioError for a file that is missing, damaged, cut,
    without samples, of an impossible rate, or with a sample that is no number or beyond any scale; TooLongError beyond
    the limits, before anything is decoded where the header tells.
    """
    info, channels = _decode(path, limits, is_kept=True)
    return np.ascontiguousarray(channels.numpy().T), info


def _decode(path: Path, limits: SoundLimits, *, is_kept: bool) -> tuple[AudioInfo, Tensor]:
    """The gate: facts of a sound file and its samples (samples, channel) in float32, none unless kept."""
    if "\0" in str(path):  # which no open() takes
        raise AudioError("cannot be read: no file has such a name; check the path", path=path)
    remarks: list[str] = []
    kept: list[Block] = []
    num_samples = num_channels = rate_hz = 0
    if path.suffix.lower() in SUFFIXES:
        blocks = decoded_blocks(path)
    else:
        blocks = _soundfile_blocks(path, limits, remarks, is_kept=is_kept)
    try:
        for block, rate_hz in blocks:
            num_channels = block.shape[1]
            limits.check(path, num_samples=num_samples + len(block), rate_hz=rate_hz, num_channels=num_channels)
            _check_samples(path, block, num_samples / rate_hz, rate_hz)
            num_samples += len(block)
            if is_kept:
                kept.append(block)
    except OSError as error:
        raise AudioError(f"cannot be read ({error.strerror}); check the path", path=path) from error
    if num_samples == 0:
        raise AudioError("has 0 samples; record or copy it again", path=path)
    samples = torch.from_numpy(np.concatenate(kept)) if kept else torch.empty(0, num_channels)
    info = AudioInfo(num_samples, rate_hz, num_channels, tuple(remarks))
    return info, samples / 2**15 if samples.dtype == torch.int16 else samples


def _check_samples(path: Path, block: Block, start_s: float, rate_hz: int) -> None:
    """Raise AudioError for a sample (samples, channel) of a block that no microphone gave."""
    if (
        block.dtype == np.int16 or not block.size or (block.min() >= -LARGEST_SAMPLE and block.max() <= LARGEST_SAMPLE)
    ):  # False for NaN
        return
    sample, channel = np.argwhere(~(np.abs(block) <= LARGEST_SAMPLE))[0]
    raise AudioError(
        f"has a sample of {block[sample, channel]:g} at {start_s + sample / rate_hz:.3f} s, in channel {channel + 1}, "
        "and full scale is 1: record or convert it again",
        path=path,
    )


def decoded_blocks(path: Path) -> Iterator[tuple[Block, int]]:
    """Samples (samples, channel) and rate of the first sound of a file for FFmpeg: few bytes may hold many hours.

    AudioError for a file that cannot be decoded, is cut, or whose rate or channels change on the way; SettingsError
    without the extra.
    """
    av = load("av", extra="av", needed_by=f"{path.suffix} files as {path.name} need")
    _check_elements(path)
    try:
        with av.open(str(path), options=OPTIONS, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise AudioError("holds no sound; give a recording", path=path)
            to_float, layouts, duration_s = av.AudioResampler(format="fltp"), set(), 0.0
            for frame in container.decode(container.streams.audio[0]):
                layouts.add((frame.sample_rate, frame.layout.name))
                if len(layouts) > 1:
                    raise AudioError("changes its rate or channels on the way; convert it to WAV", path=path)
                duration_s += frame.samples / frame.sample_rate
                for part in to_float.resample(frame):
                    yield part.to_ndarray().astype(np.float32, copy=False).T, frame.sample_rate
            is_timed = container.format.name.startswith(TIMED) and container.duration is not None
            promised_s = container.duration / av.time_base if is_timed else 0.0
    except (av.FFmpegError, OSError) as error:
        raise AudioError(f"cannot be decoded ({error}); copy or convert the file again", path=path) from error
    if duration_s < promised_s - MAX_MISSING_S:
        raise _truncated(path, f"{promised_s:.1f} s", f"{duration_s:.1f} s")


INTEGER_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "ULAW": 1, "ALAW": 1}
SAMPLE_BYTES = {**INTEGER_BYTES, "FLOAT": 4, "DOUBLE": 8}
COUNTED = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF")  # formats of which libsndfile counts the bytes there
CHECKED = (*COUNTED, "FLAC", "OGG", "MP3")


def _soundfile_blocks(
    path: Path, limits: SoundLimits, remarks: list[str], *, is_kept: bool
) -> Iterator[tuple[Block, int]]:
    """Samples (samples, channel) and rate of a file that libsndfile reads; errors as `read_channels`."""
    found = _inspect(path, limits)
    counted, there = found.counted or 0, found.there or 0
    truncated = _truncated(path, f"{counted} {found.unit}", str(there))
    try:
        # Names need not be UTF-8, which soundfile would have of text.
        file = soundfile.SoundFile(os.fsencode(path) if found.content is None else io.BytesIO(found.content))
    except soundfile.LibsndfileError as error:
        if counted > there:
            raise truncated from error
        # libsndfile's own words mislead: of bytes that are no MP3 it says that the file does not exist.
        raise AudioError(
            "is no sound file that can be read: damaged, or not what its name says; copy or convert it again", path=path
        ) from error
    except TypeError as error:  # a headerless format, by its suffix: soundfile would need the rate
        raise AudioError("has no header that gives its sample rate; convert it to WAV or FLAC", path=path) from error
    with file:
        rate_hz, num_channels = file.samplerate, file.channels
        if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            rate = f"a sample rate of {rate_hz} Hz by its header"
            problem = f"has {rate}, beyond {MIN_RATE_HZ} to {MAX_RATE_HZ}; convert it again, at its true rate"
            raise AudioError(problem, path=path)
        num_promised = counted if found.unit == SAMPLES else file.frames
        limits.check(path, num_samples=max(num_promised, file.frames), rate_hz=rate_hz, num_channels=num_channels)
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
        # 16-bit samples come as they are: libsndfile takes many times as long to make floats of them as torch.
        dtype = "int16" if file.subtype == "PCM_16" else "float32"
        num_left, at_once = file.frames, max(1, BLOCK_VALUES // num_channels)
        while num_left:
            try:
                block = file.read(min(num_left, at_once), dtype=dtype, always_2d=True)
            except soundfile.LibsndfileError as error:
                reason = error.error_string or "damaged"
                raise AudioError(f"cannot be decoded ({reason}); copy or convert the file again", path=path) from error
            if not len(block):
                raise _truncated(path, f"{file.frames} samples", str(file.frames - num_left))
            num_left -= len(block)
            yield block, rate_hz


def _truncated(path: Path, promised: str, there: str) -> AudioError:
    return AudioError(f"is truncated: it promises {promised}, {there} are there; copy it again", path=path)


BYTES, SAMPLES = "bytes of sound", "samples"


class Found(NamedTuple):
    """What a container counts (None: nothing) and what is there, in a unit (None: nobody can tell).

    `content` is the file with its counts set right, where the decoder would go by wrong ones.
    """

    counted: int | None = None
    there: int | None = None
    unit: str = BYTES
    content: bytes | None = None
    remarks: tuple[str, ...] = ()


def _inspect(path: Path, limits: SoundLimits) -> Found:
    """Find what a file for libsndfile promises and what it holds; AudioError where the file ends too early."""
    with path.open("rb") as raw:
        size, head = path.stat().st_size, raw.read(12)
        if size > 8 * limits.max_values:
            raise TooLongError(f"has {size} bytes, more than the samples of the limit; cut it into parts", path=path)
        layout = LAYOUTS.get(head[:4])
        if layout is not None and (layout.kind is None or head[8:] in layout.kind):
            return _inspect_chunks(path, raw, layout, size)
        if head[:4] in (b".snd", b"dns."):
            order: Order = "big" if head[0] == ord(".") else "little"
            start, counted = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
            return _of_bytes(raw, counted, start, Field(8, 4, order), size, AU)
        if head[:4] == b"OggS":
            return _inspect_ogg(path, raw, size)
        start = _end_of_id3(head)
        raw.seek(start)
        is_flac = raw.read(4) == b"fLaC"
        is_mpeg = start > 0 or (head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0)
        if not is_flac and not is_mpeg:
            return Found()
        raw.seek(0)
        content = raw.read()
    return _inspect_flac(path, content, start) if is_flac else _inspect_mpeg(path, content, start)


Order = Literal["big", "little"]


class Layout(NamedTuple):
    """Layout of a file of chunks, each an id, a size and so many bytes: where they begin, which holds the samples."""

    kind: tuple[bytes, ...] | None  # at byte 8, where one is
    start: int
    id_bytes: int
    size_bytes: int
    order: Order
    is_header_counted: bool  # in the sizes
    alignment: int
    samples_id: bytes
    num_before: int = 0  # bytes in that chunk before the samples


class Field(NamedTuple):
    """Place, bytes and order of the number that counts the bytes of the samples, and what it counts beside them."""

    at: int
    num_bytes: int
    order: Order
    num_others: int = 0


_RIFF = Layout((b"WAVE",), 12, 4, 4, "little", False, 2, b"data")
LAYOUTS = {
    b"RIFF": _RIFF,
    b"RF64": _RIFF,
    b"BW64": _RIFF,
    b"RIFX": _RIFF._replace(order="big"),
    b"riff": Layout(None, 40, 16, 8, "little", True, 8, b"data"),
    b"FORM": Layout((b"AIFF", b"AIFC"), 12, 4, 4, "big", False, 2, b"SSND", 8),
    b"caff": Layout(None, 8, 4, 8, "big", False, 1, b"data", 4),
}
AU = Layout(None, 0, 4, 4, "big", False, 1, b"")  # has no chunks
MAX_CHUNKS, FARTHEST = 10_000, 2**40


def _chunks(raw: BinaryIO, layout: Layout, at: int) -> Iterator[tuple[bytes, int, int]]:
    """First four bytes of the id, start and size of the content of each chunk from a place on."""
    num_bytes = layout.id_bytes + layout.size_bytes
    for _ in range(MAX_CHUNKS):
        raw.seek(min(at, FARTHEST))
        header = raw.read(num_bytes)
        if len(header) < num_bytes:
            return
        size = int.from_bytes(header[layout.id_bytes :], layout.order) - layout.is_header_counted * num_bytes
        yield header[:4], at + num_bytes, size
        if size < 0:
            return
        at += num_bytes + size
        at += -at % layout.alignment


def _inspect_chunks(path: Path, raw: BinaryIO, layout: Layout, end: int) -> Found:
    long_size = None
    for id, start, size in _chunks(raw, layout, layout.start):
        if id == b"ds64":  # of RF64: the sizes that 32 bits cannot hold
            raw.seek(start + 8)
            long_size = int.from_bytes(raw.read(8), "little"), Field(start + 8, 8, "little")
        elif id == layout.samples_id:
            num_others = layout.num_before + layout.is_header_counted * (layout.id_bytes + layout.size_bytes)
            field = Field(start - layout.size_bytes, layout.size_bytes, layout.order, num_others)
            if long_size is not None and size == 2**32 - 1:
                size, field = long_size
            start += layout.num_before
            return _of_bytes(raw, size - layout.num_before, start, field, end, layout)
    raise AudioError("ends before its samples begin; copy it again", path=path)


def _of_bytes(raw: BinaryIO, size: int, start: int, field: Field, end: int, layout: Layout) -> Found:
    """Counted and present bytes of samples, which begin at `start`."""
    most, num_more = 2 ** (8 * field.num_bytes), _num_unexplained(raw, layout, start + max(0, size), end)
    # Who writes into a pipe, or is killed, leaves 0 as the size, or about the most that the field holds.
    if (size <= 0 < num_more) or any(0.99 * each <= size + field.num_others <= each for each in (most, most // 2)):
        raw.seek(0)
        content = raw.read()
        counted = min(end - start + field.num_others, most - 1).to_bytes(field.num_bytes, field.order)
        content = content[: field.at] + counted + content[field.at + field.num_bytes :]
        return Found(None, end - start, content=content)
    raw.seek(0)
    # Of W64 libsndfile would read what follows as sound, too.
    capped = raw.read(start + size) if layout.is_header_counted and start + size < end else None
    return Found(size, max(0, min(size, end - start)) + num_more, content=capped)


def _num_unexplained(raw: BinaryIO, layout: Layout, at: int, end: int) -> int:
    """Bytes from the end of the samples on that are neither chunks nor zeros."""
    for id, start, size in _chunks(raw, layout, at + -at % layout.alignment) if layout.samples_id else ():
        if id in LAYOUTS or not (id.isascii() and id.decode().isprintable()) or not start <= start + size <= end:
            break
        at = start + size
    raw.seek(min(at, FARTHEST))
    return max(0, end - at) if raw.read(2**20).strip(b"\0") else 0


def _inspect_ogg(path: Path, raw: BinaryIO, end: int) -> Found:
    """Whole pages in their order, of one recording."""
    at, last_number, is_ended = 0, dict[bytes, int](), False
    while at < end:
        raw.seek(at)
        header = raw.read(27)
        if header[:4] != b"OggS"[: len(header)]:
            if is_ended:  # a tag of another program
                break
            raise AudioError(f"is damaged at byte {at}; copy it again", path=path)
        lengths = raw.read(header[26]) if len(header) == 27 else b""
        content = raw.read(sum(lengths))
        if len(header) < 27 or len(lengths) < header[26] or len(content) < sum(lengths):
            raise AudioError("is truncated: it ends within a page; copy it again", path=path)
        if is_ended and header[5] & 2:
            raise AudioError("holds several recordings, one after the other; take them apart", path=path)
        serial, number = header[14:18], int.from_bytes(header[18:22], "little")
        if _ogg_crc(header[:22] + bytes(4) + header[26:] + lengths + content) != int.from_bytes(
            header[22:26], "little"
        ):
            raise AudioError(f"is damaged within the page at byte {at}; copy it again", path=path)
        if number != last_number.get(serial, number - 1) + 1:
            raise AudioError(f"is damaged: pages before byte {at} are missing; copy it again", path=path)
        last_number[serial], is_ended = number, bool(header[5] & 4)
        at += 27 + len(lengths) + len(content)
    return Found(remarks=() if is_ended else (NO_END,))


REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_crc(page: bytes) -> int:
    """Checksum of a page, whose bits count from the other end than zlib's, and are not inverted."""
    value = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


def _end_of_id3(head: bytes) -> int:
    """Size of the tag with which a file begins, 0 without one."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << 7 * place for place, byte in enumerate(reversed(head[6:10])))


def _inspect_flac(path: Path, content: bytes, start: int) -> Found:
    """The count of samples in the header, and that by the last frame, which is put in its place."""
    if SECOND_FLAC in content[start + 8 :]:
        raise AudioError("holds several recordings, one after the other; take them apart", path=path)
    at = start + 21  # of 5 bytes, the low 36 bits
    counted, there = int.from_bytes(content[at : at + 5]) & (2**36 - 1), _num_flac_samples(content, start)
    if there is not None:
        number = (content[at] & 0xF0) << 32 | there
        content = content[:at] + number.to_bytes(5) + content[at + 5 :]
        return Found(counted or None, there, SAMPLES, None if counted == there else content)
    if counted == 0:
        raise AudioError("is truncated or damaged: it ends within a frame; copy it again", path=path)
    return Found(counted, counted, SAMPLES)  # decoding it will tell


SECOND_FLAC = b"fLaC\0\0\0\x22"  # a file's first eight bytes
MAX_FRAME_BYTES, MAX_CANDIDATES = 2**18, 8
MIN_REST_BYTES = 5  # of a frame behind its number: a checksum, one value for all samples of silence, a checksum


def _num_flac_samples(content: bytes, start: int) -> int | None:
    """Samples up to the end of the last frame of a FLAC file (RFC 9639, 9); None where the file ends with none."""
    tail = content[max(start + 42, len(content) - MAX_FRAME_BYTES) :]
    fixed_size, num_candidates = int.from_bytes(content[start + 10 : start + 12]), 0
    for match in reversed([*re.finditer(rb"\xff[\xf8\xf9](?=.{8})", tail, re.DOTALL)]):
        frame = tail[match.start() :]
        size_code, rate_code = divmod(frame[2], 16)
        num_ones = 8 - (frame[4] ^ 0xFF).bit_length()  # the number is coded as characters are in UTF-8, up to 7 bytes
        end = 4 + max(1, num_ones)
        number = frame[4] & (0x7F >> num_ones)
        for byte in frame[5:end]:
            number = number << 6 | byte & 0x3F
        num_size_bytes, num_rate_bytes = {6: 1, 7: 2}.get(size_code, 0), {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
        num_samples = 576 << size_code - 2 if 2 <= size_code <= 5 else 256 << max(0, size_code - 8)
        if num_size_bytes:
            num_samples = int.from_bytes(frame[end : end + num_size_bytes]) + 1
        elif size_code == 1:
            num_samples = 192
        end += num_size_bytes + num_rate_bytes
        if size_code == 0 or num_ones in (1, 8) or len(frame) < end + MIN_REST_BYTES:
            continue
        if _crc(frame[:end], polynomial=0x07, num_bits=8) != frame[end]:
            continue
        if _crc(frame[:-2], polynomial=0x8005, num_bits=16) == int.from_bytes(frame[-2:]):
            return (number if frame[1] & 1 else number * fixed_size) + num_samples
        num_candidates += 1
        if num_candidates == MAX_CANDIDATES:
            break
    return None


def _crc(content: bytes, *, polynomial: int, num_bits: int) -> int:
    """Cyclic redundancy check, from 0 on, the highest bit first."""
    value, top = 0, 1 << num_bits
    for byte in content:
        value ^= byte << num_bits - 8
        for _ in range(8):
            value <<= 1
            if value & top:
                value ^= top | polynomial
    return value


# Of layers I, II and III of MPEG 1, then of 2 and 2.5, by the code in a frame's header.
_KBPS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
KBPS = (
    tuple(range(0, 480, 32)),
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    _KBPS_2,
    _KBPS_2,
)
MPEG_RATES_HZ = (44100, 48000, 32000)
TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN")  # of other programs, at the end of a file


def _mpeg_frame_size(header: bytes) -> int | None:
    """Bytes of the frame with this header (4 bytes); None where it is none, or does not tell."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 3 - (header[1] >> 1 & 3)  # 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    bit_rate_code, rate_code, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 3 or rate_code == 3 or bit_rate_code in (0, 15):
        return None
    bits_per_s = 1000 * KBPS[layer + 3 * (version != 3)][bit_rate_code]
    rate_hz = MPEG_RATES_HZ[rate_code] // {3: 1, 2: 2, 0: 4}[version]
    if layer == 0:
        return 4 * (12 * bits_per_s // rate_hz + padding)
    return (72 if layer == 2 and version != 3 else 144) * bits_per_s // rate_hz + padding


def _inspect_mpeg(path: Path, content: bytes, start: int) -> Found:
    """The count of frames that an encoder put into the first one, and the frames that are there.

    A wrong count is set right, and where frames of unlike size have none, one is put before them: libsndfile would stop
    at the length that it estimates by the first frame.
    """
    at, end, sizes, first, num_lost, is_synced = start, len(content), list[int](), b"", 0, False
    while at < end:
        header = content[at : at + 4]
        size = _mpeg_frame_size(header)
        is_alike = not first or not size or (header[1] & 0xFE, header[2] & 0x0C) == (first[1] & 0xFE, first[2] & 0x0C)
        follower = b"" if size is None else content[at + size : at + size + 4]
        if size is not None and is_alike and (is_synced or not follower or _mpeg_frame_size(follower)):
            start, first = (start, first) if sizes else (at, header)
            sizes.append(size)
            at, is_synced = at + size, True
        elif sizes and content.startswith(TAGS, at):
            break
        else:
            place = content.find(b"\xff", at + 1)
            place = end if place < 0 else place
            num_lost += len(content[at:place].strip(b"\0")) if sizes else 0
            at, is_synced = place, False
    if not sizes:
        return Found()  # free format, or no sound
    if at > end:
        raise AudioError("is truncated: it ends within a frame; copy it again", path=path)
    remarks = (f"{num_lost} bytes are no sound",) if num_lost else ()
    is_mono, is_mpeg_1 = first[3] >> 6 == 3, first[1] >> 3 & 3 == 3
    place = start + 4 + {(True, True): 17, (True, False): 9, (False, True): 32, (False, False): 17}[is_mono, is_mpeg_1]
    flags = content[place + 7] if content[place : place + 4] in (b"Xing", b"Info") and place + 16 <= end else 0
    if flags & 1:
        counted, there = int.from_bytes(content[place + 8 : place + 12]), len(sizes) - 1
        size_there = (end - start).to_bytes(4) if flags & 2 else content[place + 12 : place + 16]
        content = content[: place + 8] + there.to_bytes(4) + size_there + content[place + 16 :]
        return Found(counted, there, "frames", None if counted == there else content, remarks)
    if max(sizes) <= min(sizes) + 1:
        return Found(remarks=remarks)
    header = bytes((0xFF, first[1] | 1, 0xC0 | first[2] & 0x0C, first[3]))
    counts = b"Xing" + (1).to_bytes(4) + len(sizes).to_bytes(4)
    frame = (header + bytes(place - start - 4) + counts).ljust(_mpeg_frame_size(header) or 0, b"\0")
    return Found(content=content[:start] + frame + content[start:], remarks=remarks)


def _check_elements(path: Path) -> None:
    """Raise AudioError when a file for FFmpeg ends within a box, element or frame; without its end it would be read."""
    with path.open("rb") as raw:
        at, end, head = 0, path.stat().st_size, raw.read(12)
        if head[:4] == b"\x1a\x45\xdf\xa3":
            step = _ebml_size
        elif head[4:8] == b"ftyp":
            step = _box_size
        else:
            at, step = _end_of_id3(head), _adts_size
        while at < end:
            raw.seek(at)
            header = raw.read(16)
            if at > 0 and (header.startswith(TAGS) or not header.strip(b"\0")):
                return
            if at > 0 and step is _box_size and header[4:8] == b"ftyp":
                raise AudioError("holds several recordings, one after the other; take them apart", path=path)
            size = step(header, end - at)
            if size is None:
                raise AudioError(f"cannot be decoded: damaged at byte {at}; copy or convert the file again", path=path)
            at += size
        if at > end:
            raise AudioError(f"is truncated: {at - end} bytes are missing at its end; copy it again", path=path)


def _box_size(header: bytes, num_left: int) -> int | None:
    """Bytes of an MP4 box; None for what is none."""
    size = int.from_bytes(header[:4])
    if size == 0:
        return num_left
    if size == 1:
        size = int.from_bytes(header[8:16])
    return size if size >= 8 else None


def _ebml_size(header: bytes, num_left: int) -> int | None:
    """Bytes to the next element of Matroska: all of this one, or its head where it does not say its size."""
    id_bytes = 9 - header[0].bit_length()
    size_bytes = 9 - header[id_bytes].bit_length() if len(header) > id_bytes else 1
    if id_bytes > 4 or size_bytes > 8:
        return None
    if id_bytes + size_bytes > num_left:
        return num_left + 1
    unknown = (1 << 7 * size_bytes) - 1
    size = int.from_bytes(header[id_bytes : id_bytes + size_bytes]) & unknown
    return id_bytes + size_bytes + (0 if size == unknown else size)


def _adts_size(header: bytes, num_left: int) -> int | None:
    """Bytes of a frame of AAC; None for what is none."""
    if len(header) < 7:
        return num_left + 1 if header[0] == 0xFF else None
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return size if header[0] == 0xFF and header[1] & 0xF6 == 0xF0 and size >= 7 else None
