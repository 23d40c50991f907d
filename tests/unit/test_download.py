"""Downloads from servers on this machine that cut, slow down, lie, give pages and other files."""

import contextlib
import hashlib
import http.server
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lungsound import download as downloads
from lungsound.download import ERRORS, HASH_SUFFIX, download, recorded_hash

CONTENT = bytes(range(256)) * 400
HASH = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
Handler = http.server.BaseHTTPRequestHandler
Respond = Callable[[Handler], None]


def send(handler: Handler, content: bytes, *, status: int = 200, **headers: str) -> None:
    """A response with these headers; by default the length is that of the content."""
    handler.send_response(status)
    for name, value in {"Content_Length": str(len(content)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def send_rest(handler: Handler) -> None:
    """The file, or what is asked for of it."""
    start = int((handler.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    send(handler, CONTENT[start:], status=206 if start else 200)


@contextmanager
def serving(respond: Respond, *, certificate: Path | None = None) -> Iterator[str]:
    """The address of a file that the server gives with `respond`."""

    class Bound(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            respond(self)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # of a client that refuses it
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"{'http' if certificate is None else 'https'}://127.0.0.1:{server.server_port}/file.bin"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def refused(url: str, path: Path, match: str, hash: str | None = HASH, **more: int) -> None:
    with pytest.raises(ERRORS, match=match):
        download(url, path, hash=hash, is_hash_stated=False, **more)
    assert not path.exists()


@pytest.mark.parametrize("length", ["abc", "", "-5", "1_0", "+7", "9" * 5000])
def test_a_length_that_is_no_number_is_refused(length: str, tmp_path: Path) -> None:
    with serving(lambda handler: send(handler, CONTENT, Content_Length=length)) as url:
        refused(url, tmp_path / "file.bin", "which is no number|got more than 65536 bytes")


def test_a_length_that_is_a_lie_is_found(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    with serving(lambda handler: send(handler, CONTENT, Content_Length=str(len(CONTENT) + 9))) as url:
        refused(url, path, f"broke off after {len(CONTENT)} of {len(CONTENT) + 9} bytes")
    with serving(lambda handler: send(handler, CONTENT, Content_Length="1000")) as url:
        refused(url, path, "has sha256")


def test_a_page_and_another_file_are_no_file(tmp_path: Path) -> None:
    with serving(lambda handler: send(handler, b"<html>log in</html>", Content_Type="text/html; charset=utf-8")) as url:
        refused(url, tmp_path / "file.bin", "a page in place of the file")
        refused(url, tmp_path / "file.bin", "a page in place of the file", hash=None)
    with serving(lambda handler: send(handler, CONTENT[::-1])) as url:
        refused(url, tmp_path / "file.bin", "has sha256 .* deleted")
    assert not list(tmp_path.glob("*.partial"))


def test_more_than_the_file_can_have_is_refused(tmp_path: Path) -> None:
    with serving(lambda handler: send(handler, CONTENT)) as url:
        refused(url, tmp_path / "file.bin", "gives more than 5000 bytes", max_bytes=5000)
    assert not list(tmp_path.glob("*.partial"))


def test_a_server_that_trickles_is_left_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trickle(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        with contextlib.suppress(OSError):  # of a client that left
            for place in range(len(CONTENT)):
                handler.wfile.write(CONTENT[place : place + 1])
                handler.wfile.flush()
                time.sleep(0.01)

    monkeypatch.setattr(downloads, "TIMEOUT_S", 0.2)
    path = tmp_path / "file.bin"
    with serving(trickle) as url:
        refused(url, path, "is too slow: ")
    (partial,) = tmp_path.glob("*.partial")
    assert CONTENT.startswith(partial.read_bytes())
    with serving(send_rest) as url:
        download(url, path, hash=HASH)
    assert path.read_bytes() == CONTENT


def test_a_server_that_says_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT_S", 0.1)
    with serving(lambda _: time.sleep(0.5)) as url:
        refused(url, tmp_path / "file.bin", "timed out")


def test_another_part_than_asked_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    (tmp_path / f"file.bin.{'0' * 16}.partial").write_bytes(CONTENT[:1000])
    with serving(lambda handler: send(handler, CONTENT, status=206, Content_Range="bytes 0-9/10")) as url:
        refused(url, path, "where the bytes from 1000 on were asked for")
    with serving(send_rest) as url:
        download(url, path, hash=HASH)
    assert path.read_bytes() == CONTENT


def test_without_a_hash_nothing_is_resumed(tmp_path: Path) -> None:
    (tmp_path / f"file.bin.{'0' * 16}.partial").write_bytes(b"of another file")
    with serving(send_rest) as url:
        download(url, tmp_path / "file.bin", is_hash_stated=False)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert recorded_hash(tmp_path / "file.bin") == HASH


@pytest.mark.parametrize("planted", ["symlink", "hard link", "pipe", "folder"])
def test_what_others_planted_is_not_written_to(planted: str, tmp_path: Path) -> None:
    mine, place = tmp_path / "mine", tmp_path / f"file.bin.{'0' * 16}.partial"
    mine.write_bytes(b"mine")
    if planted == "symlink":
        place.symlink_to(mine)
    elif planted == "hard link":
        place.hardlink_to(mine)
    elif planted == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    with serving(send_rest) as url:
        download(url, tmp_path / "file.bin", hash=HASH)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("record", [b"", b"5", b"0123", b"\xff\xfe", b"x" * 64 + b"  file.bin\n"])
def test_a_record_that_is_damaged_is_named(record: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.with_name(path.name + HASH_SUFFIX).write_bytes(record)
    with pytest.raises(ValueError, match=r"file\.bin\.sha256 is damaged: delete it"):
        recorded_hash(path)


@pytest.mark.slow
def test_four_cold_starts_download_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def respond(handler: Handler) -> None:
        asked.append(handler.path)
        time.sleep(0.5)
        send_rest(handler)

    code = "import sys; from pathlib import Path; from lungsound.download import download\n"
    code += "download(sys.argv[1], Path(sys.argv[2]), hash=sys.argv[3])"
    with serving(respond) as url:
        command = [sys.executable, "-c", code, url, tmp_path / "file.bin", HASH]
        started = [subprocess.Popen(command) for _ in range(4)]
        assert [each.wait(60) for each in started] == [0] * 4
    assert len(asked) == 1


@pytest.fixture
def expired(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that was valid until yesterday, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    file, request, key = (tmp_path / name for name in ("expired.pem", "request.pem", "key.pem"))
    new = [
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        "/CN=localhost",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *new, *names, "-keyout", key, "-out", request], check=True, capture_output=True)
    sign = ["x509", "-req", "-in", request, "-signkey", key, "-days", "-1", "-copy_extensions", "copy", "-out", file]
    if subprocess.run(["openssl", *sign], check=False, capture_output=True).returncode:
        pytest.skip("this openssl makes no expired certificates")
    file.write_bytes(file.read_bytes() + key.read_bytes())
    return file


def test_an_expired_certificate_is_no_certificate(
    expired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(expired))  # trusted, but for its age
    with serving(send_rest, certificate=expired) as url:
        refused(url, tmp_path / "file.bin", "certificate has expired")
