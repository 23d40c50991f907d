"""A model behind HTTP: for programs and people, and the page on a folder whose labels are to be corrected."""

from pathlib import Path
from typing import Annotated

import typer

from lungsound.cli.predict import EngineOption
from lungsound.cli.shared import DeviceOption

REVIEW_WAITING = 64  # a page may ask for many sounds at once

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run, or its model.safetensors.")]
HostOption = Annotated[str, typer.Option(help="Address to listen at; others than this machine's want a token.")]
PortOption = Annotated[int, typer.Option(help="Port to listen at.")]
DurationOption = Annotated[float, typer.Option(metavar="SECONDS", help="Longest recording that is taken.")]


def serve(
    run: RunArgument,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    max_mb: Annotated[float, typer.Option(help="Largest request in MB.")] = 64.0,
    max_duration_s: DurationOption = 600.0,
    workers: Annotated[int, typer.Option(min=1, help="Requests that are worked on at the same time.")] = 2,
    max_waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait; one more is refused.")] = 16,
    timeout_s: Annotated[float, typer.Option(metavar="SECONDS", help="Longest time for a request.")] = 120.0,
    device: DeviceOption = None,
    engine: EngineOption = "auto",
) -> None:
    """Serve a model over HTTP, with a page for people. Nothing that is sent is kept.

    The environment variable LUNGSOUND_TOKEN is what clients must then show.
    """
    from lungsound.serve.gate import Limits
    from lungsound.serve.server import serve as serve_run

    limits = Limits(
        max_bytes=int(max_mb * 2**20),
        max_duration_s=max_duration_s,
        num_workers=workers,
        max_waiting=max_waiting,
        timeout_s=timeout_s,
    )
    serve_run(run, limits=limits, host=host, port=port, device=device or "cpu", engine=engine)


def review(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of recordings.")],
    run: Annotated[Path, typer.Option("--run", metavar="RUN", help="Whose doubt puts them in order.")],
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    max_duration_s: DurationOption = 600.0,
    device: DeviceOption = None,
    engine: EngineOption = "auto",
) -> None:
    """Open the page on a folder, the most doubtful recordings first; corrected labels are kept for 'train'."""
    from lungsound.serve.gate import Limits
    from lungsound.serve.server import serve as serve_run

    limits = Limits(max_duration_s=max_duration_s, max_waiting=REVIEW_WAITING)
    serve_run(run, folder=folder, limits=limits, host=host, port=port, device=device or "cpu", engine=engine)
