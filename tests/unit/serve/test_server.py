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
from contextlib import contextmanager
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

predict = Predictor.predict

def slow(self, path, **facts):
    if Path(path).name != "probe.wav":
        time.sleep(float(sys.argv[2]))
    return predict(self, path, **facts)

Predictor.predict = slow
server.HEADERS_TIMEOUT_S = float(sys.argv[3])
serve(Path(sys.argv[1]), port=0, limits=Limits(max_bytes=2**20, timeout_s=20))
"""


class Process:
    """A served process, with the lines of its log so far."""

    def __init__(self, run: Path, temporary: Path, *, slow_s: float, headers_s: float, token: str | None) -> None:
        environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
        environment |= {} if token is None else {"LUNGSOUND_TOKEN": token}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(run), str(slow_s), str(headers_s)],
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


@contextmanager
def served(
    run: Path, temporary: Path, *, slow_s: float = 0.0, headers_s: float = 5.0, token: str | None = None
) -> Iterator[Process]:
    found = Process(run, temporary, slow_s=slow_s, headers_s=headers_s, token=token)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()
        found.thread.join()
        found.process.stderr.close()


def test_a_stop_answers_what_was_begun_and_nothing_else(tiny_path: Path, temporary: Path) -> None:
    results: list[httpx.Response] = []
    with served(tiny_path, temporary, slow_s=2.0) as process, httpx.Client(base_url=process.address) as http:
        assert process.lines[0]["event"] == "start"
        assert process.lines[0]["note"] == "research software, not a medical device"
        assert http.get("/health/ready").status_code == 200
        post = threading.Thread(
            target=lambda: results.append(http.post("/v1/predictions", content=sound(), timeout=20))
        )
        post.start()
        wait_for(lambda: "lungsound_requests_in_progress 1.0" in http.get("/metrics").text)
        process.process.send_signal(signal.SIGTERM)
        wait_for(lambda: process.of("stopping"))
        assert http.get("/health/ready").status_code == 503
        assert http.get("/health/live").status_code == 200
        assert http.post("/v1/predictions", content=sound()).status_code == 503
        assert not results
        post.join(20)
        assert process.process.wait(20) == 0
        process.thread.join(10)
        assert process.lines[-1]["event"] == "stop"
        assert not process.of("other"), process.of("other")
    assert results[0].status_code == 200
    assert results[0].json()["cycles"]
    assert list(temporary.iterdir()) == []


def test_a_real_connection_keeps_to_the_limits(tiny_path: Path, temporary: Path) -> None:
    with served(tiny_path, temporary, token=TOKEN) as process:
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=process.address, headers=bearer) as http:
            assert http.get("/v1/model").status_code == 200
            assert http.get("/v1/model", headers={"Authorization": ""}).status_code == 401
            large = bytes(8 * 2**20)
            announced = http.post("/v1/predictions", content=large)
            streamed = http.post("/v1/predictions", content=iter([large[:100_000]] * 80))
            assert (announced.status_code, streamed.status_code) == (413, 413)
            assert http.post("/v1/predictions", content=sound()).status_code == 200
        gone_while_sending(process.address, announced=100_000)
        wait_for(lambda: [line for line in process.of("request") if line["status"] == 499])
        assert process.of("request")[-1]["error"] == "client gone"
        assert answered_to_short_body(process.address) == 415
        assert list(temporary.iterdir()) == []
        process.process.send_signal(signal.SIGINT)
        assert process.process.wait(20) == 0


def connected(address: str) -> socket.socket:
    host, _, port = address.removeprefix("http://").rstrip("/").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def head(announced: int) -> bytes:
    lines = ("POST /v1/predictions HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKEN}")
    return "\r\n".join((*lines, f"Content-Length: {announced}", "", "")).encode()


def gone_while_sending(address: str, *, announced: int) -> None:
    """Send half of what was announced, then close."""
    with connected(address) as connection:
        connection.sendall(head(announced) + sound()[: announced // 2])
        time.sleep(0.2)


def answered_to_short_body(address: str) -> int:
    """The status when fewer bytes are announced than are sent: the body is what was announced."""
    with connected(address) as connection:
        connection.sendall(head(4) + sound()[:100])
        return int(connection.recv(1000).split()[1])


def test_who_asks_nothing_is_not_waited_for(tiny_path: Path, temporary: Path) -> None:
    """Nothing sent, half of the headers, and half of the second request's: closed. A slow answer is waited for."""
    first = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    sent = (b"", first[:20], first + first[:20])
    with served(tiny_path, temporary, slow_s=3.0, headers_s=1.0) as process, ThreadPoolExecutor(4) as pool:
        slow = pool.submit(httpx.post, f"{process.address}v1/predictions", content=sound(), timeout=30)
        found = list(pool.map(lambda text: until_closed(process.address, text), sent))
        answer = slow.result()
    assert [text.count(b"200 OK") for text, _ in found] == [0, 0, 1]
    assert max(seconds for _, seconds in found) < 3.0
    assert answer.status_code == 200


def until_closed(address: str, text: bytes) -> tuple[bytes, float]:
    """What is answered until the service closes the connection, and how long (s) that takes; bytes come slowly."""
    begin_s, found = time.monotonic(), b""
    with connected(address) as connection:
        connection.sendall(text)
        connection.settimeout(0.5)
        while time.monotonic() < begin_s + 30:
            try:
                part = connection.recv(4096)
            except TimeoutError:
                connection.sendall(b"x" if text else b"")
                continue
            except ConnectionResetError:
                part = b""
            if not part:
                break
            found += part
    return found, time.monotonic() - begin_s


def test_nobody_is_answered_who_is_gone(tiny_path: Path, temporary: Path) -> None:
    """Six clients leave while two are answered: what waited for them is not begun."""
    with served(tiny_path, temporary, slow_s=1.5) as process:
        content = sound()
        connections = [connected(process.address) for _ in range(6)]
        for connection in connections:
            connection.sendall(head(len(content)) + content)
        with httpx.Client(base_url=process.address) as http:
            wait_for(lambda: "lungsound_queue_length 4.0" in http.get("/metrics").text)
        for connection in connections:
            connection.close()
        wait_for(lambda: len([line for line in process.of("request") if line["route"] == "/v1/predictions"]) == 6)
        statuses = [line["status"] for line in process.of("request") if line["route"] == "/v1/predictions"]
    assert sorted(statuses) == [200, 200, 499, 499, 499, 499]
    assert list(temporary.iterdir()) == []


def test_a_port_that_is_taken_is_named(tiny_path: Path) -> None:
    from lungsound.errors import SettingsError
    from lungsound.serve.server import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"127.0.0.1 port {port} cannot be served .*; choose another"):
            serve(tiny_path, port=port)
