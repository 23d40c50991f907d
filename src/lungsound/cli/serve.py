"""`lungsound serve` and `lungsound review`: a model over HTTP, and the review of a folder."""

from pathlib import Path
from typing import Annotated

from lungsound.cli.predict import EngineOption, ModelOption
from lungsound.cli.shared import DeviceOption, argument, option
from lungsound.extras import BOX, require_installed

REVIEW_WAITING = 64  # a page may ask for many sounds at once

HostOption = Annotated[str, option("HOST", "Address to listen on; set a token if it is not local.")]
PortOption = Annotated[int, option("PORT", "Port to listen on; 0 takes any free one.")]
DurationOption = Annotated[float, option("SECONDS", "Longest recording to accept.")]


def serve(
    model: ModelOption = BOX,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    max_mb: Annotated[float, option("MB", "Largest request to accept.")] = 64.0,
    max_duration_s: DurationOption = 600.0,
    workers: Annotated[int, option("N", "Number of requests to process at the same time.", min=1)] = 2,
    max_waiting: Annotated[int, option("N", "Number of requests that may wait; further ones are refused.", min=0)] = 16,
    timeout_s: Annotated[float, option("SECONDS", "Time limit of a request.")] = 120.0,
    reader_s: Annotated[
        float, option("SECONDS", "Processor time to read a recording, in a process of its own.")
    ] = 60.0,
    reader_mb: Annotated[int, option("MB", "Memory of the process that reads a recording.")] = 600,
    device: DeviceOption = None,
    engine: EngineOption = "auto",
) -> None:
    """Serve a model over HTTP, with a web page.

    No recording is stored. With the environment variable LUNGSOUND_TOKEN set, clients must send its value as a
    bearer token.
    """
    require_installed("serve")
    from lungsound.serve.limits import Limits
    from lungsound.serve.server import serve as serve_model

    limits = Limits(
        max_bytes=int(max_mb * 2**20),
        max_duration_s=max_duration_s,
        num_workers=workers,
        max_waiting=max_waiting,
        timeout_s=timeout_s,
        reader_s=reader_s,
        reader_mb=reader_mb,
    )
    serve_model(model, limits=limits, host=host, port=port, device=device or "cpu", engine=engine)


def review(
    folder: Annotated[Path, argument("DIR", "Folder of recordings.")],
    model: ModelOption = BOX,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    max_duration_s: DurationOption = 600.0,
    device: DeviceOption = None,
    engine: EngineOption = "auto",
) -> None:
    """Review predictions on a web page, most uncertain first.

    Corrected labels are written to DIR/corrections/corrections.csv, a table that 'train' reads.
    """
    require_installed("serve")
    from lungsound.serve.limits import Limits
    from lungsound.serve.server import serve as serve_model

    limits = Limits(max_duration_s=max_duration_s, max_waiting=REVIEW_WAITING)
    serve_model(model, folder=folder, limits=limits, host=host, port=port, device=device or "cpu", engine=engine)
