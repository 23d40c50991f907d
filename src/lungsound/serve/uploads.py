"""Forms and sounds that were sent: received up to the gate's limit into a private folder, sniffed, checked, deleted."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import soundfile
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from lungsound.audio.io import AudioInfo, SoundLimits, probe, read_channels
from lungsound.errors import AnnotationError, AudioError, SettingsError, TooLongError
from lungsound.extras import is_installed
from lungsound.serve.limits import HIGHEST_RATE_HZ, LOWEST_RATE_HZ, MAX_TEXT_BYTES, Limits, Refusal

FORMATS = ("wav", "flac", "ogg", "mp3")
FFMPEG_FORMATS = ("m4a", "aac", "webm")
SNIFFED = {b"fLaC": "flac", b"OggS": "ogg", b"\x1a\x45\xdf\xa3": "webm", b"ID3": "mp3"}
CHUNK_BYTES = 2**18
HEAD_BYTES = 12
MAX_NAME = 120
MAX_FIELDS = 8  # of a form, beside the files
_STEM = "recording"  # of the file here: nothing of the sender's name reaches the file system


class CompleteFormParser(MultiPartParser):
    """Takes no form that ends before its last boundary: the missing part may be an annotation."""

    spool_max_size = 2**16  # of a file in memory, and a form may hold many
    is_complete = False

    def on_end(self) -> None:
        self.is_complete = True

    async def parse(self) -> FormData:
        problem = "The form ends before its last boundary."
        try:
            form = await super().parse()
            if self.is_complete:
                return form
        except FormParserError:  # newer versions of starlette raise what is raised here
            problem = "Invalid multipart data."
        for file in self._files_to_close_on_error:
            file.close()
        raise MultiPartException(problem)


@asynccontextmanager
async def form_of(request: Request, *, max_files: int) -> AsyncIterator[FormData]:
    """The form of a request; Refusal for a damaged one. Larger files lie unnamed on disk until the block ends."""
    parser = CompleteFormParser(
        request.headers, request.stream(), max_files=max_files, max_fields=MAX_FIELDS, max_part_size=MAX_TEXT_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal("bad request", f"the form cannot be read: {error.message}") from None
    except OSError as error:
        raise _no_room(error) from None
    try:
        yield form
    finally:
        await form.close()


def files_of(form: FormData) -> list[UploadFile]:
    """The files in the form's fields `file`."""
    return [file for file in form.getlist("file") if isinstance(file, UploadFile)]


async def save_sound(chunks: AsyncIterator[bytes], folder: Path) -> Path:
    """The sound as a file with the suffix of its format. Refusal for nothing at all, and for what is no sound."""
    partial = folder / "received"
    await save(chunks, partial)
    with partial.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise Refusal("bad request", "0 bytes were sent; send a sound file")
    suffix = sniff(head)
    if suffix is None:
        raise Refusal("not sound", f"not a sound file of a format that is read; send {', '.join(formats())}")
    if suffix not in formats():
        message = f"{suffix} needs FFmpeg, which is not installed here (pip install 'lungsound[av]')"
        raise Refusal("not sound", f"{message}; send {', '.join(FORMATS)}")
    return partial.rename(folder / f"{_STEM}.{suffix}")


async def save(chunks: AsyncIterator[bytes], path: Path) -> None:
    """Write what is sent to a file. Refusal where there is no room."""
    try:
        with path.open("wb") as file:
            async for chunk in chunks:
                file.write(chunk)
    except OSError as error:
        raise _no_room(error) from None


def _no_room(error: OSError) -> Refusal:
    return Refusal("not ready", f"what was sent cannot be kept now ({error.strerror}); ask again later")


async def chunks_of(upload: UploadFile | str) -> AsyncIterator[bytes]:
    """The bytes of a form's field."""
    if isinstance(upload, str):
        yield upload.encode("utf-8", "surrogateescape")
        return
    while chunk := await upload.read(CHUNK_BYTES):
        yield chunk


async def chunks_of_file(file: BinaryIO) -> AsyncIterator[bytes]:
    """The bytes of an open file, which is closed behind them."""
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def write_wav(path: Path, out: Path) -> None:
    """Write a sound file as WAV of 16 bits."""
    channels, info = read_channels(path)
    soundfile.write(out, channels.T, info.sample_rate_hz, format="WAV", subtype="PCM_16")


def formats() -> tuple[str, ...]:
    """The formats of sound that are taken: more with the extra `av`."""
    return (*FORMATS, *FFMPEG_FORMATS) if is_installed("av") else FORMATS


def sniff(head: bytes) -> str | None:
    """The format of a sound file by its first 12 bytes; None for any other file."""
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[4:8] == b"ftyp":
        return "m4a"
    for start, format in SNIFFED.items():
        if head.startswith(start):
            return format
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS
        return "aac"
    is_mpeg_frame = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2  # layer III of any version
    return "mp3" if is_mpeg_frame else None


def check_sound(path: Path, limits: Limits) -> AudioInfo:
    """Facts of a sound file. Refusal for one that cannot be read, or holds more than the limits allow."""
    try:
        info = probe(path, SoundLimits(max_duration_s=limits.max_duration_s, max_values=limits.max_values))
    except (AudioError, SettingsError) as error:
        kind = "too long" if isinstance(error, TooLongError) else "unusable"
        raise Refusal(kind, error_text(error, path)) from None
    if not LOWEST_RATE_HZ <= info.sample_rate_hz <= HIGHEST_RATE_HZ:
        message = f"{info.sample_rate_hz} samples a second; send {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ}"
        raise Refusal("unusable", message)
    return info


def error_text(error: Exception, path: Path) -> str:
    """Message of an error without the place of the file here."""
    text = str(error)
    if isinstance(error, AudioError) and error.path == path:
        text = f"the recording {error.detail}"
    elif isinstance(error, AnnotationError):
        text = f"the annotation{'' if error.line is None else f' line {error.line}'}: {error.detail}"
    return text.replace(str(path), "the recording")  # which a library's part of the detail may name


def safe_name(given: str | None) -> str:
    """The last part of a name that was sent, printable and short; "recording" where nothing is left of it."""
    last = PurePosixPath((given or "").replace("\\", "/")).name
    printable = re.sub(r"\s+", " ", "".join(each if each.isprintable() else " " for each in last)).strip(" .")
    return printable[-MAX_NAME:] or _STEM
