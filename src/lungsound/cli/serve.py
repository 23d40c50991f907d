"""`lungsound serve` and `lungsound review`: a model over HTTP, and the review of a folder."""

from pathlib import Path
from typing import Annotated

from lungsound.cli.predict import EngineOption, ModelOption
from lungsound.cli.shared import DeviceOption, argument, option
from lungsound.extras import BOX, require_installed
from lungsound.serve.limits import MOST, Limits

DEFAULTS = Limits()
REVIEW_WAITING = 64  # a page may ask for many sounds at once

HostOption = Annotated[str, option("HOST", "Address to listen on; set a token if it is not local.")]
PortOption = Annotated[int, option("PORT", "Port to listen on; 0 takes any free one.")]
MaxMbOption = Annotated[float, option("MB", "Largest request to accept.")]
DurationOption = Annotated[float, option("SECONDS", "Longest recording to accept.")]
WorkersOption = Annotated[int, option("N", "Number of recordings to read at the same time.")]
WaitingOption = Annotated[int, option("N", "Number of requests that may wait; further ones are refused.")]
TimeoutOption = Annotated[float, option("SECONDS", "Time limit of a request.")]
ReaderSOption = Annotated[float, option("SECONDS", "Processor time to read a recording, in a process of its own.")]
ReaderMbOption = Annotated[int, option("MB", "Memory of the process that reads a recording.")]


def serve(
    model: ModelOption = BOX,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    max_mb: MaxMbOption = DEFAULTS.max_bytes / 2**20,
    max_duration_s: DurationOption = DEFAULTS.max_duration_s,
    workers: WorkersOption = DEFAULTS.num_workers,
    max_waiting: WaitingOption = DEFAULTS.max_waiting,
    timeout_s: TimeoutOption = DEFAULTS.timeout_s,
    reader_s: ReaderSOption = DEFAULTS.reader_s,
    reader_mb: ReaderMbOption = DEFAULTS.reader_mb,
    device: DeviceOption = None,
    engine: EngineOption = "auto",
) -> None:
    """Serve a model over HTTP, with a web page.

    No recording is stored. With the environment variable LUNGSOUND_TOKEN set, clients must send its value as a
    bearer token.
    """
    limits = _limits(max_mb, max_duration_s, workers, max_waiting, timeout_s, reader_s, reader_mb)
    _serve(model, None, limits, host=host, port=port, device=device, engine=engine)


def review(
    folder: Annotated[Path, argument("DIR", "Folder of recordings.")],
    model: ModelOption = BOX,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    max_mb: MaxMbOption = DEFAULTS.max_bytes / 2**20,
    max_duration_s: DurationOption = DEFAULTS.max_duration_s,
    workers: WorkersOption = DEFAULTS.num_workers,
    max_waiting: WaitingOption = REVIEW_WAITING,
    timeout_s: TimeoutOption = DEFAULTS.timeout_s,
    reader_s: ReaderSOption = DEFAULTS.reader_s,
    reader_mb: ReaderMbOption = DEFAULTS.reader_mb,
    device: DeviceOption = None,
    engine: EngineOption = "auto",
) -> None:
    """Review predictions on a web page, most uncertain first.

    Corrected labels are written to DIR/corrections/corrections.csv, a table that 'train' reads.
    """
    limits = _limits(max_mb, max_duration_s, workers, max_waiting, timeout_s, reader_s, reader_mb)
    _serve(model, folder, limits, host=host, port=port, device=device, engine=engine)


def _limits(
    max_mb: float,
    max_duration_s: float,
    num_workers: int,
    max_waiting: int,
    timeout_s: float,
    reader_s: float,
    reader_mb: int,
) -> Limits:
    max_bytes = int(max_mb * 2**20) if max_mb < MOST else MOST  # also for what is no number
    return Limits(
        max_bytes, max_duration_s, num_workers, max_waiting, timeout_s, reader_s=reader_s, reader_mb=reader_mb
    )


def _serve(
    model: str, folder: Path | None, limits: Limits, *, host: str, port: int, device: str | None, engine: str
) -> None:
    require_installed("serve")
    from lungsound.serve.server import serve as serve_model

    serve_model(model, folder=folder, limits=limits, host=host, port=port, device=device or "cpu", engine=engine)
