"""The server: checks before it starts, limits on a real connection, and a graceful stop."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from lungsound import extras
from lungsound.cli import serve as serving
from lungsound.errors import SettingsError, WeightsError
from lungsound.serve import server
from lungsound.serve import server as run
from lungsound.serve.limits import Limits
from tests.unit.serve.served import sound
from tests.unit.serve.test_limits import TOKEN, wait_for


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[server.Server]:
    """Servers that would have been run."""
    found: list[server.Server] = []
    monkeypatch.setattr(server.Server, "run", lambda self, **_: found.append(self))
    monkeypatch.delenv("LUNGSOUND_TOKEN", raising=False)
    return found


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_it_is_ready_when_it_listens(
    tiny_path: Path, started: list[server.Server], capsys: pytest.CaptureFixture[str], temporary: Path
) -> None:
    serving.serve(tiny_path.parent, port=0, max_mb=0.5, max_duration_s=30, workers=3, timeout_s=5, engine="torch")
    (served,) = started
    told = lines(capsys)
    assert [line["event"] for line in told] == ["start", "ready", "stop"]
    assert told[0]["note"] == "research software, not a medical device"
    assert told[1]["address"].startswith("http://127.0.0.1:")
    assert served._service.is_ready
    assert served._service.folder is None
    assert served._service.limits == Limits(2**19, max_duration_s=30, num_workers=3, max_waiting=16, timeout_s=5)
    assert served.config.app.is_local_only
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(("token", "num_warnings"), [(None, 1), ("0123456789abcdef", 0)])
def test_all_the_world_without_a_token_is_warned_of(
    tiny_path: Path, started: list[server.Server], capsys: pytest.CaptureFixture[str], token: str, num_warnings: int
) -> None:
    run.serve(tiny_path, host="0.0.0.0", port=0, token=token)
    told = lines(capsys)
    assert sum(line["event"] == "warning" for line in told) == num_warnings
    assert started[0].config.app.token == token
    assert not started[0].config.app.is_local_only
    assert "0123456789abcdef" not in json.dumps(told)


def test_the_token_may_come_from_the_environment(
    tiny_path: Path, started: list[server.Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUNGSOUND_TOKEN", "from-the-environment")
    run.serve(tiny_path, port=0)
    run.serve(tiny_path, port=0, token="from-the-command-line")
    assert [each.config.app.token for each in started] == ["from-the-environment", "from-the-command-line"]


def test_review_serves_the_folder(tiny_path: Path, tmp_path: Path, started: list[server.Server]) -> None:
    (tmp_path / "ward").mkdir()
    (tmp_path / "ward" / "a.wav").write_bytes(sound())
    serving.review(tmp_path / "ward", model=str(tiny_path), port=0, max_duration_s=30, workers=1, reader_mb=700)
    (served,) = started
    assert served._service.limits == Limits(
        max_duration_s=30, num_workers=1, max_waiting=serving.REVIEW_WAITING, reader_mb=700
    )
    assert served._service.folder is not None
    assert [each.name for each in served._service.folder] == ["a.wav"]


def test_mistakes_are_named_in_one_line(tiny_path: Path, tmp_path: Path, started: list[server.Server]) -> None:
    with pytest.raises(SettingsError, match=r"a token has 16 characters or more .*; got 5 characters") as caught:
        run.serve(tiny_path, port=0, token="short")
    assert "short" not in str(caught.value)
    for value in (0, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match=f"timeout_s is {value}"):
            serving.serve(tiny_path, timeout_s=value)
        with pytest.raises(SettingsError, match="max_bytes is"):
            serving.review(tmp_path, model=str(tiny_path), max_mb=value)
    with pytest.raises(SettingsError, match="an empty --host is every address"):
        run.serve(tiny_path, host="", port=0)
    with pytest.raises(SettingsError, match="port 70000: ports are 1 to 65535"):
        run.serve(tiny_path, port=70000)
    with pytest.raises(SettingsError, match=r"no\.such\.host\.invalid port 8000 cannot be served"):
        run.serve(tiny_path, host="no.such.host.invalid")
    with pytest.raises(WeightsError):
        run.serve(tmp_path, port=0)
    with pytest.raises(SettingsError, match="is no folder"):
        run.serve(tiny_path, folder=tmp_path / "none", port=0)
    assert not started


def test_a_missing_extra_is_named(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda package: None if package == "prometheus_client" else object())
    with pytest.raises(
        SettingsError,
        match=r"prometheus_client is not installed, which the service needs: pip install 'lungsound\[serve\]'",
    ):
        serving.serve(str(tiny_path))


PROGRAM = """
import sys, time
from pathlib import Path
from lungsound.inference.predictor import Predictor
from lungsound.serve import server
from lungsound.serve.limits import Limits
from lungsound.serve.server import serve

predict, hold = Predictor.predict_loaded, Path(sys.argv[2])

def held(self, *facts):
    while hold.exists():
        time.sleep(0.02)
    return predict(self, *facts)

Predictor.predict_loaded = held
server.HEADERS_TIMEOUT_S = float(sys.argv[3])
serve(Path(sys.argv[1]), port=0, limits=Limits(max_bytes=2**20, timeout_s=60))
"""
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Process:
    """A served process, with the lines of its log so far. While the file `hold` is there, no prediction ends."""

    def __init__(self, run: Path, folder: Path, *, headers_s: float, temporary: Path | None = None) -> None:
        # A short path: it holds a socket.
        self.temporary = temporary or Path(tempfile.mkdtemp(prefix="lungsound-test-", dir="/tmp"))
        self.hold = folder / "hold"
        environment = {
            **os.environ,
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",
            "LUNGSOUND_TOKEN": TOKEN,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(run), str(self.hold), str(headers_s)],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.lines: list[dict] = []
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(json.loads(line) if line.startswith("{") else {"event": "other", "text": line})

    def of(self, event: str) -> list[dict]:
        return [line for line in self.lines if line["event"] == event]

    @property
    def address(self) -> str:
        wait_for(lambda: self.of("ready") or self.process.poll() is not None, most_s=300)
        assert self.of("ready"), self.lines
        return self.of("ready")[0]["address"]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.address}{path}", headers=BEARER, timeout=30)

    def post(self, content: bytes | Iterator[bytes]) -> httpx.Response:
        return httpx.post(f"{self.address}v1/predictions", headers=BEARER, content=content, timeout=60)


@pytest.fixture(scope="module")
def running(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A served process; the last test stops it."""
    process = Process(tiny_path, tmp_path_factory.mktemp("served"), headers_s=1.0)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()
        process.thread.join()
        process.process.stderr.close()
        shutil.rmtree(process.temporary)


def test_a_real_connection_keeps_to_the_limits(running: Process) -> None:
    assert running.get("v1/model").status_code == 200
    assert httpx.get(f"{running.address}v1/model").status_code == 401
    head_only = httpx.head(f"{running.address}v1/model", headers=BEARER)
    assert (head_only.status_code, head_only.content) == (200, b"")
    assert int(head_only.headers["Content-Length"]) == len(running.get("v1/model").content)
    large = bytes(8 * 2**20)
    assert running.post(large).status_code == 413
    assert running.post(iter([large[:100_000]] * 80)).status_code == 413
    assert running.post(sound()).status_code == 200
    with connected(running.address) as connection:  # closed when half of what was announced is sent
        connection.sendall(head(100_000) + sound()[:50_000])
        time.sleep(0.2)
    wait_for(lambda: [line for line in running.of("request") if line["status"] == 499])
    assert running.of("request")[-1]["error"] == "client gone"
    with connected(running.address) as connection:  # the body is as long as was announced
        connection.sendall(head(4) + sound()[:100])
        assert int(connection.recv(1000).split()[1]) == 415
    assert len(list(running.temporary.iterdir())) == 1  # of the readers


def connected(address: str) -> socket.socket:
    host, _, port = address.removeprefix("http://").rstrip("/").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def head(announced: int) -> bytes:
    lines = ("POST /v1/predictions HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKEN}")
    return "\r\n".join((*lines, f"Content-Length: {announced}", "", "")).encode()


def test_who_asks_nothing_is_not_waited_for(running: Process) -> None:
    """Nothing sent, half of the headers, and half of the second request's: closed. A slow answer is waited for."""
    first = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    sent = (b"", first[:20], first + first[:20])
    running.hold.touch()
    with ThreadPoolExecutor(4) as pool:
        slow = pool.submit(running.post, sound())
        received = list(pool.map(lambda text: until_closed(running.address, text), sent))
        assert not slow.done()
        running.hold.unlink()
        assert slow.result().status_code == 200
    assert [text.count(b"200 OK") for text in received] == [0, 0, 1]


def until_closed(address: str, text: bytes) -> bytes:
    """What is received until the service closes the connection, to which bytes come slowly."""
    received, end_s = b"", time.monotonic() + 30
    with connected(address) as connection:
        connection.sendall(text)
        connection.settimeout(0.2)
        while time.monotonic() < end_s:
            try:
                part = connection.recv(4096)
            except TimeoutError:
                connection.sendall(b"x" if text else b"")
                continue
            except (ConnectionResetError, BrokenPipeError):
                return received
            if not part:
                return received
            received += part
    raise AssertionError("the connection stays open")


def test_who_closes_the_sending_half_is_answered(running: Process) -> None:
    """All of a request, or two at once, is answered; half a request, and what is none, is refused with the reason."""
    content, health = sound(), b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for sent, statuses in (
        (head(len(content)) + content, [b"200"]),
        (health + health, [b"200", b"200"]),
        (head(len(content)) + content[:100], [b"400"]),
        (b"\x1b[31m what is this\r\n\r\n", [b"400"]),
        (health[:-2] + b"X: " + b"x" * 100_000, [b"431"]),
    ):
        with connected(running.address) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while part := connection.recv(65536):
                received += part
        assert re.findall(rb"HTTP/1.1 (\d+)", received) == statuses
        if statuses[0] != b"200":
            assert list(json.loads(received.partition(b"\r\n\r\n")[2])) == ["error"]


def test_a_stop_answers_what_was_begun_and_nothing_else(running: Process) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert running.get("health/ready").status_code == 200
        assert running.lines[0]["event"] == "start"
        assert running.lines[0]["note"] == "research software, not a medical device"
        running.hold.touch()
        begun = pool.submit(running.post, sound())
        wait_for(lambda: "lungsound_requests_in_progress 1.0" in running.get("metrics").text)
        running.process.send_signal(signal.SIGTERM)
        wait_for(lambda: running.of("stopping"))
        assert running.get("health/ready").status_code == 503
        assert running.get("health/live").status_code == 200
        assert running.post(sound()).status_code == 503
        assert not begun.done()
        running.hold.unlink()
        assert begun.result(120).json()["cycles"]
    assert running.process.wait(120) == 0
    running.thread.join(60)
    assert running.lines[-1]["event"] == "stop"
    assert not running.of("other"), running.of("other")
    assert list(running.temporary.iterdir()) == []


@pytest.mark.slow
def test_what_a_killed_service_leaves_is_swept_by_the_next(tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    processes = [Process(tiny_path, tmp_path, headers_s=1.0)]
    first = processes[0]
    try:
        assert first.get("health/ready").status_code == 200
        first.hold.touch()
        with ThreadPoolExecutor(1) as pool:
            begun = pool.submit(first.post, sound())
            wait_for(lambda: "lungsound_requests_in_progress 1.0" in first.get("metrics").text, most_s=30)
            first.process.kill()
            with pytest.raises(httpx.HTTPError):
                begun.result(120)
        assert len(list(first.temporary.iterdir())) == 2  # of the request, and of the readers
        processes.append(Process(tiny_path, tmp_path / "again", headers_s=1.0, temporary=first.temporary))
        again = processes[1]
        assert again.get("health/ready").status_code == 200
        assert len(list(first.temporary.iterdir())) == 1
        again.process.terminate()
        assert again.process.wait(120) == 0
    finally:
        for each in processes:
            each.process.kill()
            each.process.wait()
            each.thread.join()
            each.process.stderr.close()
    assert list(first.temporary.iterdir()) == []


def test_a_port_that_is_taken_is_named(tiny_path: Path) -> None:
    from lungsound.errors import SettingsError
    from lungsound.serve.server import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"127.0.0.1 port {port} cannot be served .*; choose another"):
            serve(tiny_path, port=port)
