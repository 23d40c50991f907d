"""The server as a process of its own: it starts, keeps to its limits on a real connection, and stops gracefully."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.unit.serve.served import sound
from tests.unit.serve.test_limits import TOKEN, wait_for

PROGRAM = """
import sys, time
from pathlib import Path
from lungsound.inference.predictor import Predictor
from lungsound.serve import server
from lungsound.serve.limits import Limits
from lungsound.serve.server import serve

predict, hold = Predictor.predict, Path(sys.argv[2])

def held(self, path, **facts):
    while hold.exists():
        time.sleep(0.02)
    return predict(self, path, **facts)

Predictor.predict = held
server.HEADERS_TIMEOUT_S = float(sys.argv[3])
serve(Path(sys.argv[1]), port=0, limits=Limits(max_bytes=2**20, timeout_s=60))
"""
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Process:
    """A served process, with the lines of its log so far. While the file `hold` is there, no prediction ends."""

    def __init__(self, run: Path, folder: Path, *, headers_s: float) -> None:
        self.temporary, self.hold = folder / "received", folder / "hold"
        self.temporary.mkdir()
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
        wait_for(lambda: self.of("ready") or self.process.poll() is not None, most_s=60)
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


def test_a_real_connection_keeps_to_the_limits(running: Process) -> None:
    assert running.get("v1/model").status_code == 200
    assert httpx.get(f"{running.address}v1/model").status_code == 401
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
    assert list(running.temporary.iterdir()) == []


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


def test_nobody_is_answered_who_is_gone(running: Process) -> None:
    """Six clients leave while two are answered: what waited for them is not begun."""

    def statuses() -> list[int]:
        return [line["status"] for line in running.of("request") if line["route"] == "/v1/predictions"]

    num_before, content = len(statuses()), sound()
    running.hold.touch()
    connections = [connected(running.address) for _ in range(6)]
    for connection in connections:
        connection.sendall(head(len(content)) + content)
    wait_for(lambda: "lungsound_queue_length 4.0" in running.get("metrics").text)
    for connection in connections:
        connection.close()
    running.hold.unlink()
    wait_for(lambda: len(statuses()) == num_before + 6)
    assert sorted(statuses()[num_before:]) == [200, 200, 499, 499, 499, 499]
    assert list(running.temporary.iterdir()) == []


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
        assert begun.result(20).json()["cycles"]
    assert running.process.wait(20) == 0
    running.thread.join(10)
    assert running.lines[-1]["event"] == "stop"
    assert not running.of("other"), running.of("other")
    assert list(running.temporary.iterdir()) == []


def test_a_port_that_is_taken_is_named(tiny_path: Path) -> None:
    from lungsound.errors import SettingsError
    from lungsound.serve.server import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"127.0.0.1 port {port} cannot be served .*; choose another"):
            serve(tiny_path, port=port)
