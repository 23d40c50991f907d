"""What is sent in bad faith, or broken: refused in one line, never a mistake of ours, nothing left on disk."""

import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lungsound.audio import io
from lungsound.inference.predictor import Predictor
from lungsound.serve import uploads
from lungsound.serve.limits import Limits, Refusal
from tests.unit.serve.served import client, recorded, sound


def wav(samples: bytes, *, rate_hz: int = 8000, channels: int = 1, promised: int | None = None) -> bytes:
    """A WAV file of 16 bits, byte by byte; `promised` is the size of its samples by the header."""
    size = len(samples) if promised is None else promised
    fmt = struct.pack(
        "<4sIHHIIHH", b"fmt ", 16, 1, channels, rate_hz, rate_hz * 2 * channels & 0xFFFFFFFF, 2 * channels, 16
    )
    return (
        struct.pack("<4sI4s", b"RIFF", (size + 36) & 0xFFFFFFFF, b"WAVE")
        + fmt
        + struct.pack("<4sI", b"data", size)
        + samples
    )


def flac_that_promises(num_samples: int) -> bytes:
    """A FLAC file whose header promises any number of samples, which it does not hold."""
    content = bytearray(sound("FLAC"))
    content[21:26] = (content[21] & 0xF0 | num_samples >> 32).to_bytes(1) + (num_samples & 0xFFFFFFFF).to_bytes(4)
    return bytes(content)


IN_NAME_ONLY = 415 if find_spec("av") is None else 422  # what only FFmpeg reads
MP4, WEBM, ADTS = b"\0\0\0\x1cftypM4A \0\0\2\0", b"\x1aE\xdf\xa3", b"\xff\xf1L@\x22\xbf\xfc"
HOSTILE = {
    "empty": (b"", 400),
    "1 byte": (b"R", 415),
    "text": (b"dear nurse, here is the sound", 415),
    "a page": (b"<html><script>alert(1)</script>", 415),
    "JSON": (b'{"file": "a.wav"}', 415),
    "AIFF": (sound("AIFF"), 415),
    "RIFF alone": (b"RIFF\x00\x00\x00\x00WAVE", 422),
    "truncated WAV": (sound()[:2000], 422),
    "truncated FLAC": (sound("FLAC")[:2000], 422),
    "truncated OGG": (sound("OGG")[:200], 422),
    "MP3 in name only": (b"ID3" + bytes(100), 422),
    "MP4 in name only": (MP4 + bytes(100), IN_NAME_ONLY),
    "WebM in name only": (WEBM + bytes(100), IN_NAME_ONLY),
    "AAC in name only": (ADTS + bytes(100), IN_NAME_ONLY),
    "no samples": (wav(b""), 422),
    "4 GB promised": (wav(bytes(100), promised=0xF0000000), 422),
    "FLAC of a day": (flac_that_promises(2**35), 413),
    "FLAC of 100 s": (flac_that_promises(800_000), 413),
    "rate of 4 GHz": (wav(bytes(2000), rate_hz=4_000_000_000), 422),
    "rate of 1 Hz": (wav(bytes(20), rate_hz=1), 422),
    "too many channels": (wav(bytes(2 * 1000 * 480), rate_hz=1000, channels=1000), 413),
    "1,024 channels": (wav(bytes(2 * 1024 * 100), channels=1024), 413),
    "1e20": (
        wav(b"")[:20]
        + struct.pack("<HHIIHH", 3, 1, 8000, 32000, 4, 32)
        + struct.pack("<4sI4f", b"data", 16, 0, 1e20, 0, 0),
        422,
    ),
    "not a number": (
        sound("WAV")[:0]
        + wav(b"")[:20]
        + struct.pack("<HHIIHH", 3, 1, 8000, 32000, 4, 32)
        + struct.pack("<4sI4f", b"data", 16, *[float("nan")] * 4),
        422,
    ),
}


def test_of_hours_in_few_bytes_no_more_is_decoded_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MB of silence in AAC or Opus are two days, and the header need not say so."""
    num_blocks = 0

    def silence(_: Path) -> Iterator[tuple[np.ndarray, int]]:
        nonlocal num_blocks
        for num_blocks in range(1_000_000):  # noqa: B007, counted from outside
            yield np.zeros((1024, 1), np.float32), 8000

    monkeypatch.setattr(io, "decoded_blocks", silence)
    (tmp_path / "any.m4a").write_bytes(MP4 + bytes(100))
    with pytest.raises(Refusal, match="more than 4 s of sound, which is the limit") as refused:
        uploads.check_sound(tmp_path / "any.m4a", Limits(max_duration_s=4.0))
    assert (refused.value.kind, num_blocks) == ("too long", 4 * 8000 // 1024)


@pytest.mark.parametrize("format", ["m4a", "aac", "webm"])
def test_what_ffmpeg_reads_keeps_to_the_limit(tiny: Predictor, format: str) -> None:
    content = recorded(format, duration_s=4.5)
    with client(tiny, limits=Limits(max_duration_s=4.0, timeout_s=30)) as http:
        assert http.post("/v1/predictions", content=content).status_code == 413
        assert http.post("/v1/predictions", content=content[: len(content) // 2]).status_code in (200, 422)


@pytest.mark.parametrize("kind", HOSTILE)
def test_it_is_refused_in_one_line(tiny: Predictor, temporary: Path, kind: str) -> None:
    content, status = HOSTILE[kind]
    limits = Limits(max_bytes=2**20, max_duration_s=4.0, timeout_s=30)
    with client(tiny, limits=limits) as http:
        form = http.post("/v1/predictions", files={"file": ("a.wav", content, "audio/wav")})
        raw = http.post("/v1/predictions?name=a.wav", content=content)
        batch = http.post("/v1/batch", files={"file": ("a.wav", content)})
    assert (form.status_code, raw.status_code, batch.status_code) == (status, status, 200)
    (error,) = form.json().values()
    assert error == raw.json()["error"] == batch.json()["results"][0]["error"]
    assert "\n" not in error
    assert str(temporary) not in error
    assert list(temporary.iterdir()) == []


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=st.sampled_from(
        [b"", sound()[:44], sound("FLAC")[:60], sound("OGG")[:80], b"ID3\x03", b"\xff\xfb\x90", MP4, WEBM, ADTS]
    ),
    rest=st.binary(max_size=400),
    place=st.integers(0, 80),
    name=st.text(max_size=40),
)
def test_bytes_at_random_are_answered_or_refused(
    hostile_client, temporary: Path, head: bytes, rest: bytes, place: int, name: str
) -> None:
    content = head[:place] + rest + head[place:]
    answer = hostile_client.post("/v1/predictions", params={"name": name}, content=content)
    assert answer.status_code in (200, 400, 413, 415, 422), answer.text
    if answer.status_code != 200:
        assert list(answer.json()) == ["error"]
        assert "\n" not in answer.json()["error"]
    assert list(temporary.iterdir()) == []


@pytest.fixture(scope="module")
def hostile_client(tiny: Predictor):
    with client(tiny, limits=Limits(max_bytes=2**20, max_duration_s=4.0, timeout_s=30)) as http:
        yield http


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("../../../etc/passwd", "passwd"),
        ("/etc/ssh/id.wav", "id.wav"),
        ("C:\\ward\\ann.wav", "ann.wav"),
        ("..", "recording"),
        ("...", "recording"),
        ("a\x00b\r\nX-Evil: 1.wav", "a b X-Evil: 1.wav"),
        ("", "recording"),
        ("x" * 300 + ".wav", "x" * 116 + ".wav"),
        ("\u202egnp.wav", "gnp.wav"),
        ("\N{SNOWMAN} 1.wav", "\N{SNOWMAN} 1.wav"),
    ],
)
def test_of_a_name_the_last_part_is_left(given_name: str, name: str) -> None:
    assert uploads.safe_name(given_name) == name


def test_no_name_reaches_the_file_system(tiny: Predictor, tmp_path: Path, temporary: Path) -> None:
    target = tmp_path / "evil.wav"
    with client(tiny) as http:
        for name in (f"../../..{target}", str(target)):
            answer = http.post("/v1/predictions", files={"file": (name, sound())})
            assert answer.json()["path"] == "evil.wav"
            raw = http.post("/v1/predictions", headers={"X-Filename": "..%2F..%2Fevil.wav"}, content=sound())
            assert raw.json()["path"] == "evil.wav"
    assert not target.exists()
    assert list(temporary.iterdir()) == []


BOUNDARY = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'


@pytest.mark.parametrize(
    ("content_type", "content", "status"),
    [
        ("multipart/form-data", PART, 400),
        (BOUNDARY, b"", 400),
        (BOUNDARY, b"no form at all", 400),
        (BOUNDARY, PART + b"RIFF", 400),
        (BOUNDARY, PART + sound() + b"\r\n" + PART.replace(b"file", b"annotation") + b"0 1", 400),
        (BOUNDARY, b"--x--\r\n", 422),
        (BOUNDARY, b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--x--\r\n', 422),
        (BOUNDARY, b"--x\r\nContent-Disposition: form-data\r\n\r\ntext\r\n--x--\r\n", 400),
        (BOUNDARY, PART + b"a\r\n" + PART + b"b\r\n--x--\r\n", 422),
        (BOUNDARY, (PART + b"a\r\n") * 5 + b"--x--\r\n", 400),
        (BOUNDARY, b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 500 + b"--x--\r\n", 400),
        (
            BOUNDARY,
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"1" * (2**20 + 1) + b"\r\n--x--\r\n",
            400,
        ),
        (BOUNDARY, b"--x\r\n" + b"X-Header: 1\r\n" * 10000 + b"\r\n\r\n--x--\r\n", 400),
        (f"{BOUNDARY}; charset=nonsense", PART + b"RIFF\r\n--x--\r\n", 415),
    ],
)
def test_forms_that_are_none(tiny: Predictor, temporary: Path, content_type: str, content: bytes, status: int) -> None:
    with client(tiny) as http:
        answer = http.post("/v1/predictions", headers={"Content-Type": content_type}, content=content)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert "\n" not in answer.json()["error"]
    assert list(temporary.iterdir()) == []


def test_a_long_annotation_is_refused(tiny: Predictor) -> None:
    with client(tiny) as http:
        files = {"file": ("a.wav", sound()), "annotation": ("a.txt", b"0 1 0 0\n" * 140_000)}
        answer = http.post("/v1/predictions", files=files)
    assert (answer.status_code, "holds more than" in answer.json()["error"]) == (422, True)


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/nowhere", None, 404),
        ("GET", "/metrics/", None, 404),
        ("GET", "/v1/predictions", None, 405),
        ("GET", "/static/../application.py", None, 404),
        ("GET", "/static/%2e%2e/application.py", None, 404),
        ("GET", "/v1/recordings", None, 404),
        ("POST", "/v1/batch", b"RIFF", 415),
        ("POST", "/v1/answers/exe", b"{}", 422),
        ("POST", "/v1/answers/icbhi", b"{", 422),
        ("POST", "/v1/answers/icbhi", b'{"name": "a", "cycles": "none"}', 422),
        ("POST", "/v1/answers/icbhi", b"[" * 100_000, 400),
        ("POST", "/v1/answers/icbhi", b" " * (2**20 + 1), 413),
    ],
)
def test_other_requests_that_cannot_be_answered(
    tiny: Predictor, method: str, path: str, content: bytes | None, status: int
) -> None:
    with client(tiny) as http:
        headers = {"Content-Type": "application/json"}
        answer = http.request(method, path, content=content, headers=headers)
        unannounced = http.request(method, path, content=iter([content or b""]), headers=headers)
    assert answer.status_code == unannounced.status_code == status, (answer.text, unannounced.text)
    assert list(answer.json()) == list(unannounced.json()) == ["error"]


def test_what_is_no_json_is_named(tiny: Predictor) -> None:
    with client(tiny) as http:
        for content_type in ("text/plain", "application/x-www-form-urlencoded"):
            answer = http.post("/v1/answers/icbhi", content=b"{}", headers={"Content-Type": content_type})
            assert (answer.status_code, "application/json" in answer.json()["error"]) == (415, True)
