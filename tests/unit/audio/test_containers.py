"""Sound files that were cut, and whose headers count wrongly: refused, or read with a remark, in each format."""

import contextlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lungsound.audio.containers import NO_END
from lungsound.audio.io import COUNTS_TOO_LITTLE, NO_LENGTH, SoundLimits, probe, read_channels
from lungsound.errors import AudioError, TooLongError
from tests.unit.audio.test_compressed import encode

RATE_HZ, NUM_SAMPLES = 8000, 20000
SOUND = (3000 * np.random.default_rng(0).standard_normal(NUM_SAMPLES)).astype(np.int16)
COUNTED = {"WAV": 1, "RF64": 1, "W64": 1, "AIFF": 1, "CAF": 1, "AU": 1}
FORMATS = (*COUNTED, "FLAC", "VORBIS", "OPUS", "MP3")


def encoded(format: str, samples: np.ndarray = SOUND) -> bytes:
    content = io.BytesIO()
    of_ogg = {"format": "OGG", "subtype": format} if format in ("VORBIS", "OPUS") else {"format": format}
    soundfile.write(content, samples, RATE_HZ, **of_ogg)
    return content.getvalue()


WHOLE = {format: encoded(format) for format in FORMATS}


def read(path: Path, content: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
    """Samples and remarks; `probe` says the same of the file."""
    path.write_bytes(content)
    channels, info = read_channels(path)
    assert probe(path) == info
    assert channels.shape == (info.num_channels, info.num_samples)
    return channels[0], info.remarks


def refused(path: Path, content: bytes) -> str:
    """The error, which is the same of both ways to read."""
    path.write_bytes(content)
    texts = []
    for function in (probe, read_channels):
        with pytest.raises(AudioError) as caught:
            function(path)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert str(path) in texts[0]
    assert "\n" not in texts[0]
    return texts[0]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("tail", [b"", bytes(64)], ids=["alone", "zeros behind"])
def test_a_whole_file_is_read_without_a_remark(format: str, tail: bytes, tmp_path: Path) -> None:
    samples, remarks = read(tmp_path / "a.wav", WHOLE[format] + tail)
    assert (len(samples), remarks) == (NUM_SAMPLES, ())
    expected, _ = soundfile.read(io.BytesIO(WHOLE[format]), dtype="float32")
    np.testing.assert_allclose(samples, expected, atol=1e-7)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_cut_file_is_refused(format: str, share: float, tmp_path: Path) -> None:
    whole = WHOLE[format]
    refused(tmp_path / "a.wav", whole[: int(share * len(whole))])
    refused(tmp_path / "a.wav", whole[:-1])


@pytest.mark.parametrize("format", ["FLAC", "VORBIS", "OPUS"])
def test_a_damaged_or_incomplete_middle_is_refused(format: str, tmp_path: Path) -> None:
    whole, middle = WHOLE[format], len(WHOLE[format]) // 2
    refused(tmp_path / "a.wav", whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    refused(tmp_path / "a.wav", whole[: middle - 100] + whole[middle:])


def ogg_pages(content: bytes) -> list[bytes]:
    return [b"OggS" + page for page in content.split(b"OggS")[1:]]


@pytest.mark.parametrize("format", ["VORBIS", "OPUS"])
def test_an_ogg_file_cut_between_pages_gets_a_remark_and_one_with_a_missing_page_is_refused(
    format: str, tmp_path: Path
) -> None:
    pages = ogg_pages(WHOLE[format])
    assert read(tmp_path / "a.ogg", b"".join(pages[:-1]))[1] == (NO_END,)
    assert "pages before" in refused(tmp_path / "a.ogg", b"".join([*pages[:2], *pages[3:]]))


def field_of(format: str) -> tuple[int, str, int]:
    """Place, form and excess of the number that counts the bytes of the samples."""
    whole = WHOLE[format]
    return {
        "WAV": (whole.find(b"data") + 4, "<I", 0),
        "RF64": (whole.find(b"ds64") + 16, "<Q", 0),
        "W64": (whole.find(b"data") + 16, "<Q", 24),
        "AIFF": (whole.find(b"SSND") + 4, ">I", 8),
        "CAF": (whole.find(b"data") + 4, ">Q", 4),
        "AU": (8, ">I", 0),
    }[format]


def with_count(format: str, count: int) -> bytes:
    at, form, _ = field_of(format)
    whole = WHOLE[format]
    return whole[:at] + struct.pack(form, count) + whole[at + struct.calcsize(form) :]


@pytest.mark.parametrize("format", COUNTED)
@pytest.mark.parametrize(
    "open_size", ["nothing", "empty", "signed", "unsigned", "sox"], ids=lambda each: f"size {each}"
)
def test_a_stream_without_a_size_is_read_to_its_end(format: str, open_size: str, tmp_path: Path) -> None:
    _, form, excess = field_of(format)
    most = 2 ** (8 * struct.calcsize(form))
    sizes = {"nothing": 0, "empty": excess, "signed": most // 2 - 1, "unsigned": most - 1}
    samples, remarks = read(tmp_path / "a.wav", with_count(format, sizes.get(open_size, int(0.9999 * most / 2))))
    assert remarks == (NO_LENGTH,)
    np.testing.assert_array_equal(samples, SOUND.astype(np.float32) / 2**15)


@pytest.mark.parametrize("format", COUNTED)
def test_a_header_that_counts_half_gets_a_remark(format: str, tmp_path: Path) -> None:
    samples, remarks = read(tmp_path / "a.wav", with_count(format, NUM_SAMPLES + field_of(format)[2]))
    assert len(samples) == NUM_SAMPLES // 2
    assert remarks == (f"{COUNTS_TOO_LITTLE}: 1.2 s of 2.5 s",)


@pytest.mark.parametrize("format", COUNTED)
def test_a_header_that_counts_more_is_refused(format: str, tmp_path: Path) -> None:
    assert "is truncated" in refused(tmp_path / "a.wav", with_count(format, 4 * NUM_SAMPLES))


@pytest.mark.parametrize("format", FORMATS)
def test_a_second_recording_behind_the_first_is_not_passed_over(format: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(2 * WHOLE[format])
    try:
        remarks = read_channels(path)[1].remarks
    except AudioError:
        return
    assert remarks[0].startswith(COUNTS_TOO_LITTLE)


def test_an_empty_file_is_not_said_to_hold_sound(tmp_path: Path) -> None:
    empty = encoded("WAV", SOUND[:0])
    for content in (empty, empty + b"LIST\x04\0\0\0INFO"):
        assert "0 samples" in refused(tmp_path / "a.wav", content)


@pytest.mark.parametrize("is_padded", [True, False])
def test_an_odd_number_of_bytes_need_not_be_padded(is_padded: bool, tmp_path: Path) -> None:
    whole = encoded("WAV", SOUND[:0])
    content = whole[:34] + struct.pack("<H4sI", 8, b"data", 5) + b"\x90\x80\x70\x80\x90" + is_padded * b"\0"
    content = content[:28] + struct.pack("<IHH", RATE_HZ, 1, 8) + content[36:] + b"LIST\x04\0\0\0INFO"
    samples, remarks = read(tmp_path / "a.wav", content)
    assert (len(samples), remarks) == (5, ())
    at, form, _ = field_of("WAV")
    whole = WHOLE["WAV"]
    assert read(tmp_path / "a.wav", whole[:at] + struct.pack(form, 2 * NUM_SAMPLES + 1) + whole[at + 4 :])[1] == ()


def flac_with_count(count: int) -> bytes:
    whole = WHOLE["FLAC"]
    return whole[:21] + bytes([whole[21] & 0xF0 | count >> 32]) + (count & 0xFFFFFFFF).to_bytes(4) + whole[26:]


@pytest.mark.parametrize(
    ("count", "remark"), [(0, NO_LENGTH), (NUM_SAMPLES // 2, f"{COUNTS_TOO_LITTLE}: 1.2 s of 2.5 s")]
)
def test_a_flac_file_is_read_to_its_end_whatever_its_header_counts(count: int, remark: str, tmp_path: Path) -> None:
    samples, remarks = read(tmp_path / "a.flac", flac_with_count(count))
    assert remarks == (remark,)
    np.testing.assert_array_equal(samples, SOUND.astype(np.float32) / 2**15)


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("num_more", [1, 17, 300, 4095, 4096])
def test_a_flac_file_that_ends_in_silence_is_whole(num_more: int, num_channels: int, tmp_path: Path) -> None:
    """Its last frame, of one value for all samples, has as few bytes as a frame may have."""
    sound = np.zeros((3 * 4096 + num_more, num_channels))
    sound[:4096] = np.random.default_rng(0).normal(0, 0.1, (4096, num_channels))
    for subtype in ("PCM_S8", "PCM_16", "PCM_24"):
        soundfile.write(tmp_path / "a.flac", sound, 4000, subtype=subtype)
        channels, info = read_channels(tmp_path / "a.flac")
        assert channels.shape == (num_channels, len(sound))
        assert info.remarks == ()


def test_a_flac_file_that_promises_more_is_refused(tmp_path: Path) -> None:
    assert "promises 20001 samples, 20000 are there" in refused(tmp_path / "a.flac", flac_with_count(NUM_SAMPLES + 1))
    refused(tmp_path / "a.flac", flac_with_count(2**35))
    assert "ends within a frame" in refused(tmp_path / "a.flac", flac_with_count(0)[:-1])


def test_an_mp3_file_is_read_to_its_end_whatever_its_header_counts(tmp_path: Path) -> None:
    whole = WHOLE["MP3"]
    at = whole.find(b"Xing")
    num_frames = int.from_bytes(whole[at + 8 : at + 12])

    def with_frames(count: int) -> bytes:
        return whole[: at + 8] + count.to_bytes(4) + whole[at + 12 :]

    expected, _ = read(tmp_path / "a.mp3", whole)
    samples, remarks = read(tmp_path / "a.mp3", with_frames(num_frames // 2))
    np.testing.assert_array_equal(samples, expected)
    assert remarks == (f"{COUNTS_TOO_LITTLE}: 1.2 s of 2.5 s",)
    assert "is truncated" in refused(tmp_path / "a.mp3", with_frames(2 * num_frames))
    samples, remarks = read(tmp_path / "a.mp3", whole[:at] + b"none" + whole[at + 4 :])
    assert (len(samples) > NUM_SAMPLES, remarks) == (True, ())  # libsndfile by itself would give a part of them
    assert read(tmp_path / "a.mp3", b"ID3\x04\0\0\0\0\0\x04tags" + whole + b"TAG" + bytes(125))[1] == ()
    assert read(tmp_path / "a.mp3", whole + b"no frames at all")[1] == ("16 bytes are no sound",)
    assert read(tmp_path / "a.mp3", whole + b"\xff")[1] == ("1 bytes are no sound",)


def test_other_formats_get_a_remark(tmp_path: Path) -> None:
    assert len(read(tmp_path / "a.wav", encoded("NIST"))[1]) == 1


COMPRESSED = {"a.m4a": "aac", "a.aac": "aac", "a.webm": "libopus"}


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_cut_recording_of_a_telephone_or_browser_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    encode(path, SOUND[np.newaxis] / 2**15, COMPRESSED[name])
    whole = path.read_bytes()
    assert read(path, whole)[1] == ()
    for size in (len(whole) // 3, len(whole) // 2, len(whole) - 1):
        assert "is truncated" in refused(path, whole[:size])


def test_a_box_that_promises_more_than_is_decoded_is_refused(tmp_path: Path) -> None:
    """The table of an MP4 file tells the seconds, and its sound is made to end before."""
    path = tmp_path / "a.webm"
    encode(path, SOUND[np.newaxis] / 2**15, "libopus")
    whole = path.read_bytes()
    at = whole.find(b"\x44\x89\x88") + 3  # the duration in ms, as a float of 8 bytes
    assert "promises 9.0 s" in refused(path, whole[:at] + struct.pack(">d", 9000) + whole[at + 8 :])


def test_damaged_recordings_of_telephones_are_read_or_refused(tmp_path: Path) -> None:
    for name, codec in COMPRESSED.items():
        encode(tmp_path / name, SOUND[np.newaxis, :4000] / 2**15, codec)
        whole, rng = (tmp_path / name).read_bytes(), np.random.default_rng(0)
        for _ in range(20):
            content = bytearray(whole)
            for place in rng.integers(0, len(whole), 3):
                content[place] = rng.integers(256)
            (tmp_path / name).write_bytes(content)
            with contextlib.suppress(AudioError):
                read_channels(tmp_path / name)


@pytest.mark.parametrize(
    ("format", "shape", "limits"),
    [
        ("WAV", (10, 65), SoundLimits()),
        ("WAV", (8001, 1), SoundLimits(max_duration_s=1.0)),
        ("FLAC", (8001, 1), SoundLimits(max_duration_s=1.0)),
        ("FLAC", (8001, 2), SoundLimits(max_values=16001)),
        ("MP3", (20000, 1), SoundLimits(max_values=16001)),
    ],
)
def test_beyond_the_limits_nothing_is_decoded(
    format: str, shape: tuple[int, int], limits: SoundLimits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.wav").write_bytes(encoded(format, np.zeros(shape, np.int16)))
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    for function in (probe, read_channels):
        with pytest.raises(TooLongError):
            function(tmp_path / "a.wav", limits)


@pytest.mark.parametrize("num_bytes", [0, 3, 11, 20, 30, 43])
@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_ends_within_its_header_is_refused(format: str, num_bytes: int, tmp_path: Path) -> None:
    refused(tmp_path / "a.wav", WHOLE[format][:num_bytes])


@pytest.mark.parametrize("counted", [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xf0"])
def test_an_au_file_whose_samples_begin_behind_its_end_is_refused(counted: bytes, tmp_path: Path) -> None:
    content = WHOLE["AU"][:4] + (2**31).to_bytes(4) + counted + WHOLE["AU"][12:]
    assert "ends before its samples begin" in refused(tmp_path / "a.au", content)
