"""The parts that commands share: the console, options with one meaning, and the printing of errors and reports."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

NOTICE = "Research software, not a medical device."

console = Console(markup=False, highlight=False)  # names of files are no markup

CORPUS = (
    "Corpus: a folder (ICBHI 2017, SPRSound 2022, synthetic, or subfolders named by class) or a table (.csv, .tsv)."
)
CorpusArgument = Annotated[Path, typer.Argument(metavar="DIR", help=CORPUS)]
DataOption = Annotated[Path | None, typer.Option("--data", metavar="DIR", help=CORPUS)]
CorporaOption = Annotated[
    list[Path] | None, typer.Option("--data", metavar="DIR", help=f"{CORPUS} Repeatable: trains on all of them.")
]
EpochsOption = Annotated[
    int | None, typer.Option("--epochs", min=1, metavar="N", help="Epochs to train.  [default: the recipe's]")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Random seed.")]
DEVICES = "Compute device: auto, cpu, cuda, cuda:1 or mps."
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help=f"{DEVICES}  [default: cpu]")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. --set train.epochs=5. Repeatable."),
]
LabelMapOption = Annotated[
    Path | None,
    typer.Option("--label-map", metavar="FILE", help="Label map (TOML) that translates the labels of the corpus."),
]
AsPublishedOption = Annotated[
    bool, typer.Option("--as-published", help="Use the settings of the authors' program (docs/paper.md).")
]


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    table = Table(*head, box=None, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)


def print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        console.print(f"! {warning}", style="yellow")


def print_lines(*lines: str) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)


def print_error(message: str) -> None:
    print(f"lungsound: {' '.join(message.splitlines())}", file=sys.stderr)


def end_with(errors: Sequence[str], *, exit_code: int) -> None:
    """Print the errors; end with the exit code if there are any."""
    for error in errors:
        print_error(error)
    if errors:
        raise typer.Exit(exit_code)
