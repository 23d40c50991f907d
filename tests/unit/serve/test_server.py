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
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.unit.serve.served import sound
from tests.unit.serve.test_limits import TOKEN, wait_for

PROGRAM = """
import sys, time
from pathlib import Path
from lungsound.app.predictor import Predictor
from lungsound.serve.run import serve

answer = Predictor.answer

def slow(self, path, **facts):
    if Path(path).name != "probe.wav":
        time.sleep(float(sys.argv[2]))
    return answer(self, path, **facts)

Predictor.answer = slow
serve(Path(sys.argv[1]), port=0, max_mb=1, timeout_s=20)
"""


class Process:
    """A served process, with the lines of its log so far."""

    def __init__(self, run: Path, temporary: Path, *, slow_s: float, token: str | None = None) -> None:
        environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
        environment |= {} if token is None else {"LUNGSOUND_TOKEN": token}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(run), str(slow_s)], stderr=subprocess.PIPE, text=True, env=environment
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
def served(run: Path, temporary: Path, *, slow_s: float = 0.0, token: str | None = None) -> Iterator[Process]:
    found = Process(run, temporary, slow_s=slow_s, token=token)
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


def test_a_port_that_is_taken_is_named(tiny_path: Path) -> None:
    from lungsound.errors import SettingsError
    from lungsound.serve.run import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"127.0.0.1 port {port} cannot be served .*; choose another"):
            serve(tiny_path, port=port)
