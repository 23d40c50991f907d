"""Measuring speed on the machine at hand."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from lungsound.app.commands.shared import DataOption, console
from lungsound.errors import SettingsError


def bench(
    part: Annotated[
        Literal["data", "train", "infer", "all", "profile"], typer.Argument(help="What is measured.")
    ] = "all",
    of: Annotated[str | None, typer.Argument(metavar="[train|infer]", help="After profile: of what.")] = None,
    against: Annotated[
        Literal["transformers", "nothing"], typer.Option(help="The peer: the library transformers, or none.")
    ] = "transformers",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of both sides; default: every core.")] = None,
    size: Annotated[
        Literal["base", "tiny"] | None, typer.Option(help="One encoder; default: base, and tiny for training.")
    ] = None,
    data: DataOption = None,
    model: Annotated[
        Path | None, typer.Option(help="With infer: the folder of a run, measured instead of random weights.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for JSON and Markdown, or a .md with the marks of 'speed'.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small model, few repeats: shows that it works.")] = False,
) -> None:
    """Measure speed and memory beside a peer's, in turn, and as a share of what the machine can do.

    'bench profile train' and 'bench profile infer' say where the time goes. Let nothing else run meanwhile.
    """
    _check(part, of, model, is_sized=quick or size is not None)
    from lungsound.app.bench.report import print_table, write
    from lungsound.app.bench.run import run_bench, run_profile

    num_threads = threads or os.cpu_count() or 1
    if of is not None:
        run_profile(
            of, size="micro" if quick else size or "base", num_threads=num_threads, is_quick=quick, console=console
        )
        return
    sizes: tuple[str, ...] = ("micro",) if quick else ("base", "tiny") if size is None else (size,)
    found = run_bench(
        part,
        sizes=sizes,
        num_threads=num_threads,
        is_against=against == "transformers",
        is_quick=quick,
        data=data,
        model=model,
        console=console,
    )
    print_table(found, console)
    for path in [] if out is None else write(found, out):
        console.print(f"written: {path}", highlight=False, soft_wrap=True)


def _check(part: str, of: str | None, model: Path | None, *, is_sized: bool) -> None:
    """SettingsError for a profile of nothing, for a second word that means nothing, and for a model not asked."""
    if model is not None and (part != "infer" or is_sized):
        raise SettingsError("--model measures answers: 'lungsound bench infer --model RUN', without --size and --quick")
    if part == "profile" and of not in ("train", "infer"):
        raise SettingsError(f"'lungsound bench profile' needs train or infer after it, got {of or 'nothing'}")
    if part != "profile" and of is not None:
        raise SettingsError(f"'lungsound bench {part}' takes no further word, got {of!r}")
