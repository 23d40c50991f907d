"""The parts that commands share: the console, options with one meaning, and the printing of errors and reports."""

import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

NOTICE = "Research software, not a medical device."

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with characters that steer a terminal escaped: names of files may hold any."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class PlainConsole(Console):
    """Console that prints text as it is, without control sequences."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        if isinstance(renderable, Text) and _CONTROLS.search(renderable.plain):
            renderable = renderable.copy()
            renderable.plain = printable(renderable.plain)
        return super().render(renderable, options)


# Only the first of the processes that torchrun starts prints. File names are not markup.
is_silent = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") != "0"
console = PlainConsole(markup=False, highlight=False, quiet=is_silent)


def option(metavar: str, help: str, *names: str, min: float | None = None, max: float | None = None) -> Any:
    """An option with a value; it is named as its parameter unless names are given."""
    return typer.Option(*names, metavar=metavar, help=help, min=min, max=max)


def flag(name: str, help: str) -> Any:
    """An option without a value."""
    return typer.Option(name, help=help)


def argument(metavar: str, help: str) -> Any:
    """Positional argument."""
    return typer.Argument(metavar=metavar, help=help)


CORPUS = (
    "Corpus: a folder (ICBHI 2017, SPRSound 2022, synthetic, or subfolders named by class), a table (.csv, .tsv), or a "
    "packed corpus (a folder or a URI)."
)
CorpusArgument = Annotated[Path, argument("DIR", CORPUS)]
DataOption = Annotated[Path | None, option("DIR", CORPUS, "--data")]
CorporaOption = Annotated[list[Path] | None, option("DIR", f"{CORPUS} Repeatable: trains on all of them.", "--data")]
EpochsOption = Annotated[int | None, option("N", "Epochs to train.  [default: the recipe's]", "--epochs", min=1)]
SeedOption = Annotated[int, option("N", "Random seed.", "--seed", min=0)]
DEVICES = "Compute device: auto, cpu, cuda, cuda:1 or mps."
DeviceOption = Annotated[str | None, option("DEVICE", f"{DEVICES}  [default: cpu]", "--device")]
SetOption = Annotated[
    list[str] | None, option("KEY=VALUE", "Change a setting, e.g. --set train.epochs=5. Repeatable.", "--set")
]
LabelMapOption = Annotated[
    Path | None, option("FILE", "Label map (TOML) that translates the labels of the corpus.", "--label-map")
]
AsPublishedOption = Annotated[bool, flag("--as-published", "Use the settings of the authors' program (docs/paper.md).")]


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    from lungsound.page import terminal_table

    console.print(terminal_table(head, rows, num_texts=len(head)))


def print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        console.print(f"! {warning}", style="yellow")


def print_lines(*lines: str) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)


def print_error(message: str) -> None:
    print(f"lungsound: {printable(' '.join(message.splitlines()))}", file=sys.stderr)


def end_with(errors: Sequence[str], *, exit_code: int) -> None:
    """Print the errors; end with the exit code if there are any."""
    for error in errors:
        print_error(error)
    if errors:
        raise typer.Exit(exit_code)
