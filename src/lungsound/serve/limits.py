"""The limits of the service, its refusals, and its log.

The log is structured: an object in JSON on a line of standard error, without names of files or patients, without sound.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Thread
from typing import Any
from uuid import uuid4

from lungsound.errors import SettingsError

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1000, 192_000  # beyond, resampling takes memory out of all proportion
MAX_TEXT_BYTES = 2**20  # of a form's text, and of a JSON body
COMMON_RATE_HZ, COMMON_CHANNELS = 48_000, 2
MIN_READER_MB = 256  # Python, torch and the rest of what reads take 190 by themselves
MOST = 2**31  # of seconds and bytes: system calls take no more


@dataclass(frozen=True)
class Limits:
    """Limits of the service. `max_bytes` is of a request's whole body, `max_duration_s` of a recording.

    `num_workers` recordings are read at the same time, each in a process that may take `reader_s` of processor time and
    `reader_mb` of memory; `max_waiting` complete requests wait beside them, and `timeout_s` after its first byte a
    request is given up.
    """

    max_bytes: int = 64 * 2**20
    max_duration_s: float = 600.0
    num_workers: int = 2
    max_waiting: int = 16
    timeout_s: float = 120.0
    max_files: int = 64
    reader_s: float = 60.0
    reader_mb: int = 600

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = {"max_waiting": 0, "reader_mb": MIN_READER_MB}.get(name, 1 if isinstance(value, int) else 0.001)
            if not least <= value < MOST:
                raise SettingsError(f"{name} is {value}: {least} or more, and less than {MOST}, is needed")

    @property
    def max_values(self) -> int:
        """Samples of all channels of a recording: a small file may promise any number of them."""
        return int(self.max_duration_s * COMMON_RATE_HZ * COMMON_CHANNELS)

    @property
    def max_received(self) -> int:
        """Bytes of all requests at the same time."""
        return self.max_bytes * (self.num_workers + self.max_waiting)


STATUS_OF = {
    "bad request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not found": 404,
    "wrong method": 405,
    "slow": 408,
    "conflict": 409,
    "too large": 413,
    "too long": 413,
    "not sound": 415,
    "unusable": 422,
    "busy": 429,
    "internal": 500,
    "not ready": 503,
    "timeout": 503,
}


class Refusal(Exception):
    """A request that is refused; `kind` is one of `STATUS_OF`, the message is for the client."""

    def __init__(self, kind: str, message: str) -> None:
        text = message.encode("utf-8", "backslashreplace").decode()  # halves of characters are no text to send
        super().__init__(" ".join(text.splitlines()))
        self.kind = kind

    def __reduce__(self) -> tuple[type["Refusal"], tuple[str, str]]:
        return Refusal, (self.kind, str(self))


def log(event: str, **values: Any) -> None:
    """Write one line."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **values}
    text = json.dumps(line, allow_nan=False).replace("\x7f", "\\u007f")  # JSON lets this control character stand
    sys.stderr.write(f"{text}\n")  # at once: other threads write lines too
    sys.stderr.flush()


def place_of(error: BaseException) -> str:
    """Type and line of an error; its message may hold a name."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename.rpartition('site-packages/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


class JsonLines(logging.Handler):
    """Records of libraries as lines of JSON; of an exception, its type and place."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        log(record.name, message=record.getMessage(), **({} if error is None else {"error": place_of(error)}))


def log_libraries() -> None:
    """Warnings of libraries and of Python as JSON; uvicorn's line for each request, which names the path, is none."""
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.WARNING, handlers=[JsonLines()])


@contextmanager
def json_lines() -> Iterator[None]:
    """Standard error in JSON only: each line of another form, as C libraries and dying threads write, becomes one."""
    kept, (read_end, write_end) = os.dup(2), os.pipe()
    end = f"end {uuid4().hex}\n".encode()  # forked processes have the pipe open too, so that it may never end

    def copy() -> None:
        with os.fdopen(read_end, "rb") as lines:
            for line in iter(lines.readline, end):
                with suppress(OSError):  # when nobody reads it any more: whoever writes into a full pipe waits for ever
                    os.write(kept, line if _is_json(line) else _as_json(line))

    thread = Thread(target=copy, name="standard error", daemon=True)
    thread.start()
    os.dup2(write_end, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.write(write_end, end)
        thread.join()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(write_end)


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _as_json(line: bytes) -> bytes:
    return json.dumps({"event": "library", "message": line.decode("utf-8", "replace").rstrip("\n")}).encode() + b"\n"
