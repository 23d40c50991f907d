"""Structured logs: an object in JSON on a line of standard error. No names of files or patients, no sound."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any


def log(event: str, **facts: Any) -> None:
    """Write one line."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
    sys.stderr.write(json.dumps(line, allow_nan=False) + "\n")  # at once: other threads write lines too
    sys.stderr.flush()


def place_of(error: BaseException) -> str:
    """Type and line of an error; its message may hold a name."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename.rpartition('site-packages/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


class JsonLines(logging.Handler):
    """What a library logs, as such lines; of an exception its type and place."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        log(record.name, message=record.getMessage(), **({} if error is None else {"error": place_of(error)}))


def log_uvicorn() -> None:
    """Warnings of the server itself as JSON; its line for each request, which names the path, is not written."""
    logger = logging.getLogger("uvicorn")
    logger.handlers, logger.propagate = [JsonLines(logging.WARNING)], False
    logger.setLevel(logging.WARNING)
