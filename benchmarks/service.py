"""Latency, throughput and memory of the service under load: `python -m benchmarks.service MODEL RECORDING...`.

`lungsound serve` runs as a process of its own. Clients send the recordings in turn, each client the next when it is
answered; then come hostile requests. Memory is the PSS of all its processes, on Linux only. Prints tables in Markdown.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile

from benchmarks.measure import machine, memory, table
from benchmarks.rows import CPU, Bench, Row, command_of, made_by
from lungsound.config import MAX_CYCLES
from lungsound.files import write_json
from lungsound.serve.limits import Limits

PROGRAM = "python -m benchmarks.service"
LIMITS = Limits()
ANSWER_S = 600  # that a client waits for
HOSTILE_CLIENTS = 8
NUM_CLIENTS, NUM_SENT = 8, 64  # for the table of speed
Form = Mapping[str, Any]
Answers = list[tuple[float, int]]  # seconds and status of each


@contextmanager
def served(model: str, *, max_waiting: int) -> Iterator[tuple[int, str]]:
    """Process id and address of `lungsound serve` with its default limits, but for the requests that may wait."""
    command = [sys.executable, "-m", "lungsound", "serve", "--model", model, "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "LUNGSOUND_TOKEN"}
    command += ["--max-waiting", str(max_waiting)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        lines = deque[str](maxlen=5)
        for line in process.stderr:
            lines.append(line)
            if line.startswith("{") and (told := json.loads(line))["event"] == "ready":
                break
        else:
            raise SystemExit(f"the service did not start: {' '.join(lines)}")
        rest = threading.Thread(target=deque, args=(process.stderr, 0))  # or the pipe fills
        rest.start()
        try:
            yield process.pid, told["address"]
        finally:
            process.terminate()
            rest.join()


def send(address: str, forms: Sequence[Form], num_requests: int, num_clients: int) -> tuple[Answers, float]:
    """The answers to some requests, and the seconds of all: each client sends the next form when it is answered."""
    places = iter(range(num_requests))

    def client(_: int) -> Answers:
        answers = []
        with httpx.Client(base_url=address, timeout=ANSWER_S) as http:
            for place in places:  # of one iterator, which all clients share
                began = time.perf_counter()
                status = http.post("v1/predictions", **forms[place % len(forms)]).status_code
                answers.append((time.perf_counter() - began, status))
        return answers

    began = time.perf_counter()
    with ThreadPoolExecutor(num_clients) as pool:
        answers = [each for own in pool.map(client, range(num_clients)) for each in own]
    return answers, time.perf_counter() - began


def load(address: str, forms: Sequence[Form], num_requests: int, num_clients: int) -> dict[str, float]:
    """Latency and throughput of the answered among some requests, and the number of the others."""
    answers, total_s = send(address, forms, num_requests, num_clients)
    answered_s = [seconds for seconds, status in answers if status == httpx.codes.OK]
    if not answered_s:
        raise SystemExit(f"no request was answered, but with {Counter(status for _, status in answers)}")
    p50_s, p95_s, p99_s = np.quantile(answered_s, (0.5, 0.95, 0.99)).tolist()
    return {
        "num_clients": num_clients,
        "num_requests": num_requests,
        "p50_s": p50_s,
        "p95_s": p95_s,
        "p99_s": p99_s,
        "requests_per_s": len(answered_s) / total_s,
        "num_refused": num_requests - len(answered_s),
    }


def service_rows(bench: Bench) -> list[Row]:
    """Requests a second of eight clients beside one, in turn, recording by recording."""
    forms = [{"content": path.read_bytes()} for path in bench.recordings[:NUM_SENT]]
    num_rounds = 1 if bench.is_quick else 3
    with served(bench.model, max_waiting=NUM_CLIENTS) as (_, address):
        load(address, forms, len(forms), NUM_CLIENTS)  # warm up
        loads = [[load(address, forms, len(forms), num) for num in (1, NUM_CLIENTS)] for _ in range(num_rounds)]
    alone, together = np.array([[each["requests_per_s"] for each in pair] for pair in loads]).T
    p95_s = np.median([pair[1]["p95_s"] for pair in loads])
    how = f"{np.median(together):.1f} and {np.median(alone):.1f} requests a second, {len(forms)} recordings"
    how += f"; {num_rounds} rounds"
    what = f"service, {NUM_CLIENTS} clients / one client, requests a second"
    return [
        Row(what, together / alone, "x", how, at_least=1.7),
        Row("the same, 95 % answered within", [p95_s], "s", f"{NUM_CLIENTS} clients; nothing is shed"),
    ]


def sound(seconds: float, *, num_channels: int = 1, rate_hz: int = 48_000, format: str = "FLAC") -> bytes:
    """Bytes of a sound file of silence, which are few in FLAC."""
    content, silence = io.BytesIO(), np.zeros((rate_hz, num_channels), np.int16)
    silence[0] = 1000
    with soundfile.SoundFile(content, "w", rate_hz, num_channels, "PCM_16", format=format) as file:
        for _ in range(max(1, round(seconds))):
            file.write(silence)
    return content.getvalue()


def hostile_forms(recording: bytes, longest_s: float) -> dict[str, Form]:
    """Requests that cost as much as their sender can make them, by name."""
    spans = ((n % 1000 / 1000, longest_s - n // 1000 / 1000) for n in range(MAX_CYCLES))
    annotation = "".join(f"{start_s:.3f} {end_s:.3f} 0 0\n" for start_s, end_s in spans)
    contents: dict[str, Callable[[], bytes]] = {
        f"{longest_s:g} s at 48 kHz in FLAC": lambda: sound(longest_s),
        f"{longest_s:g} s at 48 kHz in two channels": lambda: sound(longest_s, num_channels=2),
        "a second more than the limit": lambda: sound(LIMITS.max_duration_s + 1, rate_hz=8000),
        "64 channels": lambda: sound(2, num_channels=64, format="WAV"),
        "1,024 channels": lambda: sound(2, num_channels=1024, rate_hz=8000, format="WAV"),
        "half a recording": lambda: recording[: len(recording) // 2],
        "noise behind a header": lambda: recording[:44] + np.random.default_rng(0).bytes(2**20),
        "more bytes than the limit": lambda: recording + bytes(LIMITS.max_bytes),
    }
    forms: dict[str, Form] = {name: {"content": content()} for name, content in contents.items()}
    overlapping = {"file": ("a.flac", sound(longest_s, rate_hz=8000)), "annotation": ("a.txt", annotation.encode())}
    return {**forms, f"{MAX_CYCLES:,} cycles, each of all of it": {"files": overlapping}}


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("model", help="a run folder, a model file, or box")
    parser.add_argument("recordings", type=Path, nargs="+", metavar="RECORDING")
    parser.add_argument("--requests", type=int, default=1000, help="of each number of clients")
    parser.add_argument("--clients", type=int, action="append", help="repeatable; 1, 8 and 64")
    parser.add_argument("--hostile", type=int, default=10, help="times that each hostile request is sent")
    parser.add_argument("--longest", type=float, default=LIMITS.max_duration_s, help="seconds of hostile sounds")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args(words)
    numbers_of_clients = options.clients or [1, 8, 64]
    forms = [{"content": path.read_bytes()} for path in options.recordings]
    hostile = hostile_forms(forms[0]["content"], options.longest)
    used: dict[str, dict[str, float]] = {}
    statuses: dict[str, dict[str, int]] = {}
    with served(options.model, max_waiting=max(numbers_of_clients)) as (pid, address):
        with memory(pid) as used["1 request"]:
            send(address, forms, 1, 1)
        with memory(pid) as used["all requests"]:
            loads = [load(address, forms, options.requests, num) for num in numbers_of_clients]
        with memory(pid) as used["hostile requests"]:
            for name, form in hostile.items():
                answers, _ = send(address, [form], options.hostile, HOSTILE_CLIENTS)
                statuses[name] = {str(status): num for status, num in Counter(each for _, each in answers).items()}
        if load(address, forms, len(forms), 1)["num_refused"]:
            raise SystemExit("after the hostile requests a recording was refused that had been answered before")
    if options.json:
        values = {"load": loads, "memory": used, "hostile": statuses}
        command = command_of(PROGRAM, words, options.recordings)
        when = {"command": command, "date": str(datetime.now(UTC).date()), "machine": machine(CPU)}
        write_json(options.json, {**when, **values})
    one_per_s, rows = loads[0]["requests_per_s"], []
    for each in loads:
        seconds = [f"{each[name]:.2f}" for name in ("p50_s", "p95_s", "p99_s", "requests_per_s")]
        beside = f"{each['requests_per_s'] / one_per_s:.2f}"
        rows.append([each["num_clients"], each["num_requests"], *seconds, beside, each["num_refused"]])
    beside = f"beside {loads[0]['num_clients']} client"
    head = ("clients", "requests", "p50, s", "p95, s", "p99, s", "requests / s", beside, "refused")
    print(table(head, rows), end="\n\n")
    in_mib = [[name, *(f"{each[key]:.0f}" for key in ("peak_mib", "final_mib"))] for name, each in used.items()]
    print(table(("memory of", "peak, MiB", "left, MiB"), in_mib), end="\n\n")
    counts = [[name, ", ".join(f"{num} x {status}" for status, num in each.items())] for name, each in statuses.items()]
    print(table(("hostile request", "answers"), counts))
    print(f"\n{made_by(PROGRAM, words, options.recordings)}")


if __name__ == "__main__":
    main(sys.argv[1:])
