"""Commands that serve a model over HTTP: to programs and people, and for the review of a folder."""

from pathlib import Path
from typing import Annotated

import typer

from lungsound.cli.predict import EngineOption, ModelOption, required_model
from lungsound.cli.shared import DeviceOption
from lungsound.extras import require_installed

REVIEW_WAITING = 64  # a page may ask for many sounds at once

HostOption = Annotated[
    str, typer.Option(metavar="HOST", help="Address to listen on; any but this machine's own should have a token.")
]
PortOption = Annotated[int, typer.Option(metavar="PORT", help="Port to listen on; 0 is any that is free.")]
DurationOption = Annotated[float, typer.Option(metavar="SECONDS", help="Longest recording that is taken.")]


def serve(
    model: ModelOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    max_mb: Annotated[float, typer.Option(metavar="MB", help="Largest request in MB.")] = 64.0,
    max_duration_s: DurationOption = 600.0,
    workers: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Requests to work on at the same time.")] = 2,
    max_waiting: Annotated[
        int, typer.Option(min=0, metavar="NUMBER", help="Requests that may wait; one more is refused.")
    ] = 16,
    timeout_s: Annotated[float, typer.Option(metavar="SECONDS", help="Longest time for a request.")] = 120.0,
    device: DeviceOption = None,
    engine: EngineOption = "auto",
) -> None:
    """Serve a model over HTTP, with a page for people.

    Nothing that is sent is kept. Where the environment variable LUNGSOUND_TOKEN is set, clients must show its value.
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
    )
    serve_model(required_model(model), limits=limits, host=host, port=port, device=device or "cpu", engine=engine)


def review(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of recordings.")],
    model: ModelOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    max_duration_s: DurationOption = 600.0,
    device: DeviceOption = None,
    engine: EngineOption = "auto",
) -> None:
    """Review the recordings of a folder on a page, the most uncertain first.

    Corrected labels are written into DIR/corrections/corrections.csv, a table that 'train' reads.
    """
    require_installed("serve")
    from lungsound.serve.limits import Limits
    from lungsound.serve.server import serve as serve_model

    limits = Limits(max_duration_s=max_duration_s, max_waiting=REVIEW_WAITING)
    model = required_model(model)
    serve_model(model, folder=folder, limits=limits, host=host, port=port, device=device or "cpu", engine=engine)
