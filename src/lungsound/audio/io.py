"""Sound files: their headers checked, their samples as mono waveforms at the wanted rate.

soundfile reads most formats; those of telephones and browsers go through FFmpeg (the extra `av`).
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from lungsound.audio.waveform import resample
from lungsound.errors import AudioError
from lungsound.extras import load

SUFFIXES = (".m4a", ".aac", ".mp4", ".webm")
# FFmpeg goes by content: a playlist under such a name would have it open other files.
OPTIONS = {"format_whitelist": "aac,mov,matroska,webm", "protocol_whitelist": "file"}


def decoded(path: Path) -> io.BytesIO:
    """The first sound of the file as a WAV file in memory, 32-bit float, at its own rate and with its channels.

    Raises as `decoded_blocks`, and AudioError for a file without samples.
    """
    blocks = list(decoded_blocks(path))
    if not blocks:
        raise AudioError("has 0 samples; remove it, or convert it again", path=path)
    file = io.BytesIO()
    soundfile.write(
        file, np.concatenate([block for block, _ in blocks], axis=1).T, blocks[0][1], format="WAV", subtype="FLOAT"
    )
    file.seek(0)
    return file


def decoded_blocks(path: Path) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Samples (channel, samples) and rate of the file's first sound, block by block: few bytes may hold many hours.

    Raises AudioError for a file without sound, that cannot be decoded, or whose rate or channels change on the way;
    SettingsError without the extra.
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
    """Facts in the header of a sound file. `num_samples` counts samples per channel."""

    num_samples: int
    sample_rate_hz: int
    num_channels: int


def probe(path: Path) -> AudioInfo:
    """Length, rate and channels of a sound file, from its header.

    Raises AudioError for a file that is missing, unreadable, without samples, of a rate beyond `MIN_RATE_HZ` to
    `MAX_RATE_HZ`, or a WAV shorter than its header says.
    """
    with _open(path) as file:
        return AudioInfo(file.frames, file.samplerate, file.channels)


def read_waveform(path: Path, *, sample_rate_hz: int = 16000) -> Tensor:
    """Waveform (samples,) of a sound file: float32, the mean of its channels, at `sample_rate_hz`.

    Full scale is 1. Any format and rate that soundfile reads, and `SUFFIXES`. Raises AudioError for whatever `probe`
    refuses, for a file that ends before its header says (a WAV or FLAC), and for samples that are infinite or not a
    number.
    """
    channels, from_hz = _read(path)
    return resample(channels[:, 0] if channels.shape[1] == 1 else channels.mean(dim=1), from_hz, sample_rate_hz)


def read_channels(path: Path) -> tuple[npt.NDArray[np.float32], int]:
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
            raise AudioError(
                f"cannot be decoded ({error.error_string}); copy or convert the file again", path=path
            ) from error
        num_promised, rate_hz = file.frames, file.samplerate
    if len(samples) < num_promised:
        raise _truncated(path, num_promised, len(samples))
    channels = torch.from_numpy(samples)
    if dtype == "int16":
        return channels / 2**15, rate_hz
    if not channels.abs().max().isfinite():
        num_bad = int((~torch.isfinite(channels)).any(dim=1).sum())
        raise AudioError(
            f"has {num_bad} samples that are infinite or not a number; record or convert it again", path=path
        )
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
    if file.frames in (0, UNKNOWN_FRAMES):
        file.close()
        count = "0 samples" if file.frames == 0 else "no length in its header"
        raise AudioError(f"has {count}; remove it, or convert it again", path=path)
    if not MIN_RATE_HZ <= file.samplerate <= MAX_RATE_HZ:
        file.close()
        raise AudioError(
            f"has a sample rate of {file.samplerate} Hz by its header, beyond {MIN_RATE_HZ} to {MAX_RATE_HZ}; "
            "convert it again, at its true rate",
            path=path,
        )
    return file


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
