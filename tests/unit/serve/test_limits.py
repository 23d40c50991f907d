"""Who may ask, how much, how many at once, and how long; and what is counted and logged of it."""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.types import Message

from lungsound.errors import SettingsError
from lungsound.inference.predictor import Predictor
from lungsound.serve.gate import Gate
from lungsound.serve.limits import Limits, json_lines, log
from lungsound.serve.routes import Service, application
from tests.unit.serve.served import HeldPredictor, client, sound

TOKEN = "a token of tests 01".replace(" ", "-")


def wait_for(is_so, *, most_s: float = 60.0) -> None:
    end_s = time.monotonic() + most_s
    while not is_so():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.01)


def ask(http: TestClient, results: list[httpx.Response] | None = None) -> threading.Thread:
    """Ask for an answer in a thread."""
    found = [] if results is None else results

    def post() -> None:
        found.append(http.post("/v1/predictions", files={"file": ("a.wav", sound())}))

    thread = threading.Thread(target=post)
    thread.start()
    return thread


def test_when_all_places_are_taken_others_are_told_to_come_again(tiny: Predictor, temporary: Path) -> None:
    held, results = HeldPredictor(tiny), []
    with client(held, limits=Limits(num_workers=1, max_waiting=1, timeout_s=30), is_warm=False) as http:
        queue = http.service.queue
        threads = [ask(http, results)]
        assert held.has_begun.wait(60)
        threads.append(ask(http, results))
        wait_for(lambda: queue.num_requests == 2)
        gauges = http.get("/metrics").text
        refused = http.post("/v1/predictions", files={"file": ("a.wav", sound())})
        held.may_go.set()
        for thread in threads:
            thread.join(20)
        after = http.post("/v1/predictions", files={"file": ("a.wav", sound())})
        assert (queue.num_requests, queue.num_waiting) == (0, 0)
    assert "lungsound_requests_in_progress 2.0" in gauges
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "2")
    assert refused.json() == {"error": "2 requests are in progress, which is the limit; ask again later"}
    assert [answer.status_code for answer in (*results, after)] == [200, 200, 200]
    assert list(temporary.iterdir()) == []


def asked(gate: Gate, *messages: Message, headers: dict[str, str] | None = None, then: float = 60) -> Awaitable[int]:
    """Status of a request of a sound, whose body comes in these messages, and after the last of them nothing."""
    waiting, statuses = list(messages), []

    async def receive() -> Message:
        if not waiting:
            await asyncio.sleep(then)
        return waiting.pop(0)

    async def send(message: Message) -> None:
        statuses.append(message.get("status"))

    async def ask() -> int:
        given = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {"type": "http", "method": "POST", "path": "/v1/predictions", "headers": given, "query_string": b""}
        await gate(scope, receive, send)
        return statuses[0]

    return ask()


def body(content: bytes, *, has_more: bool = False) -> Message:
    return {"type": "http.request", "body": content, "more_body": has_more}


def test_bodies_that_come_slowly_take_no_place_and_are_cut_off(
    tiny: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty trickle, two places are there: the whole request among them is answered."""
    monkeypatch.setattr("lungsound.serve.gate.BODY_S", 3.0)
    gate = application(Service(tiny, limits=Limits(num_workers=1, max_waiting=1, timeout_s=50)))

    async def all_of_them() -> tuple[int, list[int]]:
        slow = [asyncio.create_task(asked(gate, body(sound()[:100], has_more=True))) for _ in range(20)]
        await asyncio.sleep(0)
        whole = await asked(gate, body(sound()))
        return whole, list(await asyncio.gather(*slow))

    assert asyncio.run(all_of_them()) == (200, [408] * 20)


def test_no_more_is_received_at_once_than_the_limit(tiny: Predictor) -> None:
    limits = Limits(num_workers=1, max_waiting=0, max_bytes=200_000, timeout_s=50)
    gate = application(Service(tiny, limits=limits))

    async def two() -> list[int]:
        first = asyncio.create_task(asked(gate, body(bytes(150_000), has_more=True), body(b""), then=0))
        await asyncio.sleep(0)
        held = asyncio.create_task(asked(gate, body(bytes(150_000), has_more=True)))
        await asyncio.sleep(0.1)
        refused = await asked(gate, body(bytes(150_000)))
        held.cancel()
        return [await first, refused, await held]

    assert asyncio.run(two()) == [415, 429, 503]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"Origin": "http://ward.example:8000", "Host": "ward.example:8000"}, 415),
        ({"Origin": "https://ward.example", "Sec-Fetch-Site": "same-origin", "Host": "127.0.0.1:8000"}, 415),
        ({"Origin": "https://evil.example", "Host": "ward.example:8000"}, 403),
        ({"Origin": "null", "Host": "ward.example:8000"}, 403),
        ({"Origin": "http://ward.example", "Sec-Fetch-Site": "same-site", "Host": "ward.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_pages_of_other_sites_send_nothing(tiny: Predictor, headers: dict[str, str], status: int) -> None:
    assert asyncio.run(asked(application(Service(tiny)), body(b"text"), headers=headers)) == status


def test_a_method_that_is_refused_comes_with_those_that_are_not(tiny: Predictor) -> None:
    with client(tiny) as http:
        for path in ("/", "/health/live", "/v1/model", "/openapi.json"):
            assert http.head(path).status_code == 200
        answer = http.delete("/v1/predictions")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_every_line_of_standard_error_is_json(capfd: pytest.CaptureFixture[str]) -> None:
    """Also what C libraries and other processes write, and control characters in it."""
    with json_lines():
        log("event", name="a\x1b[31m\x7f\x9b")
        os.write(2, b"\x1b[31mlibmpg123: error\n{}\n[1]\n")
        subprocess.run([sys.executable, "-c", "1 / 0"], check=False)
    text = capfd.readouterr().err
    told = [json.loads(line) for line in text.splitlines()]
    assert told[0]["name"] == "a\x1b[31m\x7f\x9b"
    assert [each.get("message") for each in told[1:4]] == ["\x1b[31mlibmpg123: error", None, "[1]"]
    assert told[-1]["message"].startswith("ZeroDivisionError")
    assert not [each for each in text.replace("\n", "") if not each.isprintable()]


def test_standard_error_that_nobody_reads_holds_nothing_up() -> None:
    code = (
        "import os\n"
        "from lungsound.serve.limits import json_lines, log\n"
        "read_end, write_end = os.pipe()\n"
        "os.dup2(write_end, 2)\n"
        "os.close(read_end)\n"
        "os.close(write_end)\n"
        "with json_lines():\n"
        "    for _ in range(300):\n"
        "        log('x' * 1000)\n"
        "os._exit(3)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 3


def test_two_at_once_get_their_own_answers(tiny: Predictor) -> None:
    sounds = [sound(seed=seed, duration_s=2 + seed) for seed in range(4)]
    with client(tiny) as http, ThreadPoolExecutor(4) as pool:
        alone = [http.post("/v1/predictions", content=each).json()["cycles"] for each in sounds]
        together = list(pool.map(lambda each: http.post("/v1/predictions", content=each).json()["cycles"], sounds))
    assert together == alone
    assert alone[0] != alone[1]


def test_after_the_time_limit_nothing_is_left(tiny: Predictor, temporary: Path) -> None:
    """The request is given up, its files go at once; the thread is free again when the work ends."""
    held, results = HeldPredictor(tiny), []
    with client(held, limits=Limits(num_workers=1, timeout_s=3), is_warm=False) as http:
        for _ in range(20):  # on a busy machine the time may be over before the work begins
            ask(http, results).join(20)
            if held.has_begun.is_set():
                break
        ask(http, results).join(20)  # waits for the thread until its time is over
        assert list(temporary.iterdir()) == []
        assert http.service.queue.num_requests == 0
        held.may_go.set()
        wait_for(lambda: http.post("/v1/predictions", content=sound()).status_code == 200)
        metrics = http.get("/metrics").text
    assert {answer.status_code for answer in results} == {503}
    assert results[0].json() == {"error": "no answer within 3 s; send less, or ask again later"}
    assert re.search(r'lungsound_errors_total{kind="timeout"} [2-9]\.0', metrics)  # more on a busy machine


@pytest.mark.parametrize("path", ["/v1/predictions", "/v1/batch"])
def test_no_more_bytes_are_taken_than_allowed(tiny: Predictor, temporary: Path, path: str) -> None:
    """Announced, or not announced: then reading ends at the limit, however much would come."""
    sent = 0

    def endless():
        nonlocal sent
        for _ in range(1000):
            sent += 2**16
            yield bytes(2**16)

    with client(tiny, limits=Limits(max_bytes=2**18, timeout_s=30)) as http:
        announced = http.post(path, files={"file": ("a.wav", bytes(2**19))})
        boundary = {"Content-Type": "multipart/form-data; boundary=x"}
        streamed = http.post(path, content=endless(), headers=boundary if path == "/v1/batch" else {})
    assert announced.status_code == streamed.status_code == 413
    assert "at most 262144" in announced.json()["error"]
    assert streamed.json() == {"error": "more than 262144 bytes were sent, which is the limit"}
    assert list(temporary.iterdir()) == []


def test_the_limit_is_the_last_byte_that_is_taken(tiny: Predictor) -> None:
    content = sound()
    with client(tiny, limits=Limits(max_bytes=len(content), timeout_s=30)) as http:
        assert http.post("/v1/predictions", content=content).status_code == 200
        assert http.post("/v1/predictions", content=content + b"\0").status_code == 413


def test_a_recording_may_be_as_long_as_the_limit(tiny: Predictor) -> None:
    with client(tiny, limits=Limits(max_duration_s=3.2, timeout_s=30)) as http:
        assert http.post("/v1/predictions", content=sound(duration_s=3.2)).status_code == 200
        long = http.post("/v1/predictions", content=sound("FLAC", duration_s=3.3))
    assert long.status_code == 413
    assert "3.2 s" in long.json()["error"]


def test_a_batch_takes_so_many_files(tiny: Predictor) -> None:
    with client(tiny, limits=Limits(max_files=2, timeout_s=30)) as http:
        assert http.post("/v1/batch", files=[("file", ("a.wav", sound()))] * 2).status_code == 200
        assert http.post("/v1/batch", files=[("file", ("a.wav", sound()))] * 3).status_code == 400


def test_a_token_is_asked_for_where_something_is_answered(tiny: Predictor) -> None:
    with client(tiny, token=TOKEN) as http:
        for path in ("/v1/model", "/metrics"):
            for given in (None, "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer \xe9"):
                headers = {} if given is None else {"Authorization": given.encode("latin-1")}
                answer = http.get(path, headers=headers)
                assert answer.status_code == 401, given
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert TOKEN not in answer.text
            assert http.get(path, headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200
        assert http.post("/v1/predictions", content=sound()).status_code == 401
        assert http.get("/v1/nowhere").status_code == 401
        for path in ("/health/live", "/health/ready", "/openapi.json"):
            assert http.get(path).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8000", 200), ("LOCALHOST", 200), ("[::1]:80", 200), ("evil.example", 400), ("127.0.0.1.evil", 400)],
)
def test_without_a_token_a_foreign_name_for_this_machine_is_refused(tiny: Predictor, host: str, status: int) -> None:
    with TestClient(application(Service(tiny), is_local_only=True)) as http:
        assert http.get("/v1/model", headers={"Host": host}).status_code == status


def test_ready_after_the_probe_and_until_the_stop(tiny: Predictor) -> None:
    with client(tiny, is_warm=False) as http:
        cold = http.get("/health/ready")
        assert (cold.status_code, http.get("/health/live").status_code) == (503, 200)
        http.service.is_ready = True
        assert http.get("/health/ready").json() == {"status": "ready"}
        http.service.queue.is_stopping = True
        stopping = [http.get("/health/ready"), http.post("/v1/predictions", content=sound())]
        assert [answer.status_code for answer in stopping] == [503, 503]
        assert http.get("/health/live").status_code == 200


def test_every_answer_has_the_headers_that_keep_a_page_in(tiny: Predictor) -> None:
    with client(tiny) as http:
        origin = {"Origin": "https://evil.example"}
        answers = [http.get(path, headers=origin) for path in ("/health/live", "/v1/model", "/nowhere")]
        preflight = http.options("/v1/predictions", headers={**origin, "Access-Control-Request-Method": "POST"})
    for answer in (*answers, preflight):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert preflight.status_code == 405


def test_what_is_counted(tiny: Predictor) -> None:
    with client(tiny) as http:
        num_cycles = sum(len(http.post("/v1/predictions", content=sound()).json()["cycles"]) for _ in range(2))
        http.post("/v1/predictions", content=b"text")
        http.get("/patient-ann")
        text = http.get("/metrics").text
    for line in (
        'lungsound_requests_total{route="/v1/predictions",status="200"} 2.0',
        'lungsound_requests_total{route="/v1/predictions",status="415"} 1.0',
        'lungsound_requests_total{route="unknown",status="404"} 1.0',
        'lungsound_request_seconds_count{route="/v1/predictions"} 3.0',
        f"lungsound_cycles_answered_total {float(num_cycles)}",
        "lungsound_queue_length 0.0",
        "lungsound_requests_in_progress 0.0",
        'lungsound_errors_total{kind="not sound"} 1.0',
        'lungsound_errors_total{kind="not found"} 1.0',
    ):
        assert line in text.splitlines()
    assert "ann" not in text.replace("channel", "")


def test_the_log_names_nobody(tiny: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    with client(tiny) as http:
        answer = http.post("/v1/predictions?stethoscope=ann-1", files={"file": ("ann.wav", sound(duration_s=2.0))})
        http.post("/v1/predictions", files={"file": ("ann.wav", b"ann")})
        http.get("/ann")
        http.get("/health/live")
    text = capsys.readouterr().err
    first, second, third = (json.loads(line) for line in text.splitlines())
    assert list(first) == [
        "time",
        "event",
        "id",
        "method",
        "route",
        "status",
        "ms",
        "bytes",
        "duration_s",
        "cycles",
        "error",
    ]
    assert (first["route"], first["status"], first["duration_s"]) == ("/v1/predictions", 200, 2.0)
    assert first["id"] == answer.headers["X-Request-ID"]
    assert first["bytes"] > len(sound(duration_s=2.0))
    assert (second["status"], second["error"]) == (415, "not sound")
    assert (third["route"], third["status"]) == ("unknown", 404)
    assert "ann" not in text


def test_of_our_mistake_the_type_and_place_are_logged_alone(
    tiny: Predictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], temporary: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of patient ann")

    with client(tiny) as http:
        monkeypatch.setattr(tiny, "predict_loaded", fail)
        answer = http.post("/v1/predictions", files={"file": ("ann.wav", sound())})
        metrics = http.get("/metrics").text
    error, request = (json.loads(line) for line in capsys.readouterr().err.splitlines()[:2])
    assert answer.status_code == request["status"] == 500
    assert answer.json() == {"error": f"internal error (bug), request {request['id']}"}
    assert error["error"].startswith("ZeroDivisionError at ")
    assert "ann" not in json.dumps([error, request])
    assert 'lungsound_errors_total{kind="internal"} 1.0' in metrics
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["max_bytes", "max_duration_s", "num_workers", "timeout_s", "max_files", "max_waiting", "reader_s", "reader_mb"],
)
def test_limits_that_cannot_be(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is -1"):
        Limits(**{name: -1})
