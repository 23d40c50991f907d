"""The service under many clients and under hostile ones: the answers of one alone, and a reason for each refusal."""

import io
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soundfile

from attacks.ground import Ground, prepare, timeless
from attacks.sound import whole
from attacks.watch import TRACEBACK, Ended, Fault, Row, Running, lungsound

NUM_CLIENTS, NUM_REQUESTS, NUM_SOUNDS = 64, 20, 16
WAIT_S = 150.0  # the service gives up after 120
ADDRESS = re.compile(rb"http://127\.0\.0\.1:(\d+)")
Answer = tuple[int, bytes]


def started(ground: Ground, *words: object) -> Running:
    """A service on any free port."""
    return Running(lungsound(*words, "--model", ground.run, "--port", 0), cache=ground.cache)


def port_of(running: Running) -> int:
    """The port of a service, once it says so."""
    while not (found := ADDRESS.search(running.text)) and not running.is_at_end:
        running.read(0.05)
    if found is None:
        raise RuntimeError(running.end().text)
    return int(found[1])


@contextmanager
def served(ground: Ground, *words: object) -> Iterator[tuple[int, list[Ended]]]:
    """The port of a service; when the block has ended, how the service ended by SIGTERM too."""
    running, ended, is_over = started(ground, *words), list[Ended](), threading.Event()
    port = port_of(running)

    def read() -> None:
        while not is_over.is_set():
            running.read(0.05)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield port, ended
    finally:
        os.kill(running.pid, signal.SIGTERM)
        is_over.set()
        reader.join()
        ended.append(running.end())


def asked(port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    """Status and body of an answer; 0 when there is none."""
    connection = HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except TimeoutError:
        return 0, b"no answer"
    except (HTTPException, OSError) as error:
        return -1, str(error).encode()
    finally:
        connection.close()


def predicted(port: int, sound: bytes) -> Answer:
    """The prediction of a sound, without what is of the moment; asked again while all places are taken."""
    while (answer := asked(port, "POST", "/v1/predictions?name=a.wav", sound))[0] in (429, 503):
        time.sleep(0.05)
    if answer[0] != 200:
        return answer
    return 200, json.dumps(rounded(timeless(json.loads(answer[1]))), sort_keys=True).encode()


def rounded(values: Any) -> Any:
    """Numbers to three digits: which cycles share a batch changes the last ones."""
    if isinstance(values, dict):
        return {key: rounded(value) for key, value in values.items()}
    if isinstance(values, list):
        return [rounded(value) for value in values]
    return round(values, 3) if isinstance(values, float) else values


def _raw(port: int, parts: Sequence[bytes], *, pause_s: float = 0.0, is_half_closed: bool = False) -> Answer:
    """Status and body for bytes that are sent as they are."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        answer = b""
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause_s)
            if is_half_closed:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(2**16):
                answer += part
                if re.search(rb"\r\n\r\n.*\}$", answer, re.DOTALL):
                    break
        except TimeoutError:
            return 0, b"no answer"
        except OSError as error:  # it hung up before all was sent
            return (-1, str(error).encode()) if not answer else _parsed(answer)
    return _parsed(answer)


def _parsed(answer: bytes) -> Answer:
    status = re.match(rb"HTTP/1.1 (\d+)", answer)
    return (int(status[1]), answer.partition(b"\r\n\r\n")[2]) if status else (-1, answer[:200])


def _wav(num_channels: int, num_samples: int, rate_hz: int = 8000, format: str = "WAV") -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.zeros((num_samples, num_channels)), rate_hz, format=format)
    return content.getvalue()


def _form(sound: bytes, annotation: bytes) -> tuple[bytes, dict[str, str]]:
    parts = (b'name="file"; filename="a.wav"', sound), (b'name="annotation"; filename="a.txt"', annotation)
    body = b"".join(
        b"--x\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + part + b"\r\n" for head, part in parts
    )
    return body + b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def hostile(port: int, sound: bytes) -> dict[str, Callable[[], Answer]]:
    """Requests in bad faith, by name; each gets an answer below 500 with a reason."""
    post = b"POST /v1/predictions HTTP/1.1\r\nHost: localhost\r\n"
    length = f"Content-Length: {len(sound)}\r\n\r\n".encode()
    cycles = {
        "name": "a.wav",
        "duration_s": 9.0,
        "sample_rate_hz": 8000,
        "cycles": [{"start_s": 0, "end_s": 1, "label": "normal"}],
    }

    def answers(values: object) -> Callable[[], Answer]:
        headers = {"Content-Type": "application/json"}
        return lambda: asked(port, "POST", "/v1/answers/csv", json.dumps(values).encode(), headers)

    def at(path: str, method: str = "GET", **headers: str) -> Callable[[], Answer]:
        return lambda: asked(port, method, path, sound if method != "GET" else b"", headers)

    return {
        "annotation of 131,000 lines": lambda: asked(
            port, "POST", "/v1/predictions", *_form(sound, b"0 9 0 0\n" * 131_000)
        ),
        "annotation of a deep line": lambda: asked(
            port, "POST", "/v1/predictions", *_form(sound, b"0 1e999 0 0\n\0\xff")
        ),
        "1,024 channels": lambda: asked(port, "POST", "/v1/predictions", _wav(1024, 100)),
        "290 s at 192 kHz": lambda: asked(port, "POST", "/v1/predictions", _wav(1, 290 * 192_000, 192_000, "FLAC")),
        "lone surrogate": answers({**cycles, "patient": "\ud800"}),
        "samples of 3e38": answers({**cycles, "sample_rate_hz": 3e38}),
        "cycles of no length": answers({**cycles, "cycles": [{"start_s": 0, "end_s": 1e-9, "label": "normal"}]}),
        "deep JSON": lambda: asked(
            port, "POST", "/v1/answers/csv", b"[" * 100_000, {"Content-Type": "application/json"}
        ),
        "unknown name in the query": at("/v1/predictions?age=3", "POST"),
        "traversal in a name": at("/v1/predictions?name=../../../../tmp/x.wav", "POST"),
        "traversal in a path": at("/static/..%2f..%2f..%2f..%2fetc/passwd"),
        "traversal without escapes": lambda: _raw(
            port, [b"GET /static/../../../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n"]
        ),
        "zero in a path": at("/v1/recordings/%00"),
        "path of 60,000 characters": at("/" + "a" * 60_000),
        "unknown method": at("/v1/predictions", "BREW"),
        "length that is no number": lambda: _raw(port, [post + b"Content-Length: abc\r\n\r\n"]),
        "negative length": lambda: _raw(port, [post + b"Content-Length: -5\r\n\r\n"]),
        "two lengths": lambda: _raw(port, [post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345"]),
        "both lengths": lambda: _raw(port, [post + b"Transfer-Encoding: chunked\r\n" + length + b"0\r\n\r\n"]),
        "chunk that is no number": lambda: _raw(port, [post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"]),
        "headers without end": lambda: _raw(port, [post, *[b"X-A: " + b"a" * 8000 + b"\r\n"] * 40]),
        "no HTTP": lambda: _raw(port, [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"]),
        "half-closed": lambda: _raw(port, [post + length + sound], is_half_closed=True),
        "half-closed within the body": lambda: _raw(port, [post + length + sound[:100]], is_half_closed=True),
        "length of a terabyte": lambda: _raw(port, [post + b"Content-Length: 1099511627776\r\n\r\n" + sound]),
        "trickled headers": lambda: _raw(port, [bytes([byte]) for byte in post + b"X: "], pause_s=0.1),
    }


def attack(folder: Path, *, seed: int, share: float) -> list[Row]:
    """Many clients, then hostile ones, then whether it still answers, what it wrote, and how it ends."""
    ground, many, bad = prepare(folder), Row("service", f"{NUM_CLIENTS} clients"), Row("service", "hostile requests")
    sounds = [whole("WAV", duration_s=1 + place / 8, seed=seed + place)[1] for place in range(NUM_SOUNDS)]
    num_requests = max(1, round(share * NUM_REQUESTS))
    with served(ground, "serve") as (port, ended):
        alone = [predicted(port, sound) for sound in sounds]
        if any(status != 200 for status, _ in alone):
            raise RuntimeError(str(alone))

        def client(number: int) -> list[tuple[int, Answer]]:
            rng = Random(f"{seed} client {number}")
            chosen = [rng.randrange(NUM_SOUNDS) for _ in range(num_requests)]
            return [(place, predicted(port, sounds[place])) for place in chosen]

        with ThreadPoolExecutor(NUM_CLIENTS) as pool:
            for number, answers in enumerate(pool.map(client, range(NUM_CLIENTS))):
                for place, answer in answers:
                    many.add(
                        None if answer == alone[place] else _wrong(answer), where=f"client {number}, sound {place}"
                    )
        print(f"service: {many.num_tries} requests of {NUM_CLIENTS} clients", flush=True)
        stop = threading.Event()
        slow = [threading.Thread(target=_trickle, args=(port, stop), daemon=True) for _ in range(40)]
        for each in slow:
            each.start()
        for name, ask in hostile(port, sounds[0]).items():
            status, body = ask()
            bad.add(_fault_of(name, status, body), where=name)
            if (answer := predicted(port, sounds[1])) != alone[1]:
                bad.judge(_wrong(answer), where=f"the request after {name}")
        stop.set()
    (end,) = ended
    bad.add(end.fault() or _fault_of_log(end), where="its end and its log")
    review = _review(ground)
    print(f"service: {bad.num_tries} hostile requests, {review.num_tries} of review", flush=True)
    return [many, bad, review]


def _trickle(port: int, stop: threading.Event) -> None:
    """A client that sends a byte now and then, and comes again when it is cut off."""
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
                connection.sendall(b"POST /v1/predictions HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nRIFF")
                while not stop.wait(0.5):
                    connection.sendall(b"\0")
        except OSError:
            stop.wait(0.5)


def _wrong(answer: Answer) -> Fault:
    return Fault(
        "hung" if answer[0] == 0 else "silent" if answer[0] == 200 else "lost", f"{answer[0]} {answer[1][:200]!r}"
    )


def _fault_of(name: str, status: int, body: bytes) -> Fault | None:
    if status == 0:
        return Fault("hung", f"{name}: no answer after {WAIT_S:g} s")
    if status >= 500 and status != 503:
        return Fault("internal", f"{status} {body[:200]!r}")
    if status >= 400 and b"error" not in body:
        return Fault("silent", f"{status} without a reason: {body[:200]!r}")
    if b"root:" in body:
        return Fault("lost", "a file of the machine was sent")
    return None


def _fault_of_log(ended: Ended) -> Fault | None:
    if ended.code not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
        return Fault("lost", f"exit code {ended.code} after SIGTERM: {ended.text[-300:]}")
    for line in ended.text.splitlines():
        if line.startswith("{") and TRACEBACK not in line:
            try:
                json.loads(line)
            except ValueError:
                return Fault("silent", f"a line of the log is no JSON: {line[:200]}")
    return None


def _review(ground: Ground) -> Row:
    """What review writes only for who is asked for by its own page, and reads back."""
    row, headers = Row("service", "review in bad faith"), {"Content-Type": "application/json"}
    good = [{"start_s": 0.0, "end_s": 1.0, "label": "normal"}]
    bad_cycles: list[object] = [
        [{**good[0], "end_s": 1e-9}],
        [good[0], {**good[0], "start_s": 1e-7}],
        [{**good[0], "start_s": 900.0, "end_s": 901.0}],
        [{**good[0], "label": "\ud800"}],
        [{**good[0], "end_s": "1_0"}],
        [],
        {},
        good * 100_000,
    ]
    with served(ground, "review", ground.sounds) as (port, ended):
        ids = [each["id"] for each in json.loads(asked(port, "GET", "/v1/recordings")[1])]
        path = f"/v1/recordings/{ids[0]}/cycles"
        for origin in ("http://evil.example", "null", f"http://127.0.0.1.evil.example:{port}"):
            status, body = asked(port, "PUT", path, json.dumps(good).encode(), {**headers, "Origin": origin})
            fault = Fault("silent", f"{status} for {origin}") if status == 200 else _fault_of(origin, status, body)
            row.add(fault, where=f"origin {origin}")
        for place, cycles in enumerate(bad_cycles):
            status, body = asked(port, "PUT", path, json.dumps(cycles).encode(), headers)
            listed = asked(port, "GET", "/v1/recordings")
            fault = _fault_of("cycles", status, body)
            if fault is None and listed[0] != 200:
                fault = Fault("lost", f"the list answers {listed[0]} {listed[1][:200]!r}")
            row.add(fault, where=f"cycles {place}: {status}")
        status, _ = asked(port, "PUT", path, json.dumps(good).encode(), headers)
        kept = json.loads(asked(port, "GET", f"/v1/recordings/{ids[0]}")[1]).get("corrected")
        row.add(None if status == 200 and kept == good else Fault("lost", f"{status}, {kept}"), where="read back")
    row.add(ended[0].fault() or _fault_of_log(ended[0]), where="its end and its log")
    return row
