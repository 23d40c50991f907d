"""The container of a sound file: what it promises beside what is there.

Decoders read a file that was cut, or whose header is wrong, as if it were whole: so each container's own parts (chunks,
pages, frames, boxes, elements) are gone through first. Errors are AudioErrors that do not name the file yet.
"""

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from lungsound.errors import AudioError

NO_END = "no end of stream"
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


def inspect(path: Path) -> Found:
    """Find what a file for libsndfile promises and what it holds; AudioError where the file ends too early."""
    with path.open("rb") as raw:
        size, head = path.stat().st_size, raw.read(12)
        layout = LAYOUTS.get(head[:4])
        if layout is not None and (layout.kind is None or head[8:] in layout.kind):
            return _inspect_chunks(raw, layout, size)
        if head[:4] in (b".snd", b"dns."):
            order: Order = "big" if head[0] == ord(".") else "little"
            start, counted = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
            return _of_bytes(raw, counted, start, Field(8, 4, order), size, AU)
        if head[:4] == b"OggS":
            return _inspect_ogg(raw, size)
        start = _end_of_id3(head)
        raw.seek(start)
        is_flac = raw.read(4) == b"fLaC"
        is_mpeg = start > 0 or (head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0)
        if not is_flac and not is_mpeg:
            return Found()
        raw.seek(0)
        content = raw.read()
    return _inspect_flac(content, start) if is_flac else _inspect_mpeg(content, start)


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


ENDS_EARLY = "ends before its samples begin; copy it again"


def _inspect_chunks(raw: BinaryIO, layout: Layout, end: int) -> Found:
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
    raise AudioError(ENDS_EARLY)


def _of_bytes(raw: BinaryIO, size: int, start: int, field: Field, end: int, layout: Layout) -> Found:
    """Counted and present bytes of samples, which begin at `start`."""
    if start > end:
        raise AudioError(ENDS_EARLY)
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


def _inspect_ogg(raw: BinaryIO, end: int) -> Found:
    """Whole pages in their order, of one recording."""
    at, last_number, is_ended = 0, dict[bytes, int](), False
    while at < end:
        raw.seek(at)
        header = raw.read(27)
        if header[:4] != b"OggS"[: len(header)]:
            if is_ended:  # a tag of another program
                break
            raise AudioError(f"is damaged at byte {at}; copy it again")
        lengths = raw.read(header[26]) if len(header) == 27 else b""
        content = raw.read(sum(lengths))
        if len(header) < 27 or len(lengths) < header[26] or len(content) < sum(lengths):
            raise AudioError("is truncated: it ends within a page; copy it again")
        if is_ended and header[5] & 2:
            raise AudioError("holds several recordings, one after the other; take them apart")
        serial, number = header[14:18], int.from_bytes(header[18:22], "little")
        if _ogg_crc(header[:22] + bytes(4) + header[26:] + lengths + content) != int.from_bytes(
            header[22:26], "little"
        ):
            raise AudioError(f"is damaged within the page at byte {at}; copy it again")
        if number != last_number.get(serial, number - 1) + 1:
            raise AudioError(f"is damaged: pages before byte {at} are missing; copy it again")
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


def _inspect_flac(content: bytes, start: int) -> Found:
    """The count of samples in the header, and that by the last frame, which is put in its place."""
    if SECOND_FLAC in content[start + 8 :]:
        raise AudioError("holds several recordings, one after the other; take them apart")
    at = start + 21  # of 5 bytes, the low 36 bits
    counted, there = int.from_bytes(content[at : at + 5]) & (2**36 - 1), _num_flac_samples(content, start)
    if there is not None:
        number = (content[at] & 0xF0) << 32 | there
        content = content[:at] + number.to_bytes(5) + content[at + 5 :]
        return Found(counted or None, there, SAMPLES, None if counted == there else content)
    if counted == 0:
        raise AudioError("is truncated or damaged: it ends within a frame; copy it again")
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


def _inspect_mpeg(content: bytes, start: int) -> Found:
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
        raise AudioError("is truncated: it ends within a frame; copy it again")
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


def check_elements(path: Path) -> None:
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
                raise AudioError("holds several recordings, one after the other; take them apart")
            size = step(header, end - at)
            if size is None:
                raise AudioError(f"cannot be decoded: damaged at byte {at}; copy or convert the file again")
            at += size
        if at > end:
            raise AudioError(f"is truncated: {at - end} bytes are missing at its end; copy it again")


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
