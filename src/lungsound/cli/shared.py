"""What several commands share: the console, options of one meaning, and how errors and reports are printed."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

NOTICE = "Research software, not a medical device."

console = Console(markup=False)  # names of files are no markup

CORPUS = "Corpus: a folder (ICBHI 2017, SPRSound 2022, synthetic, folders of classes) or a table (.csv, .tsv)."
CorpusArgument = Annotated[Path, typer.Argument(metavar="DIR", help=CORPUS)]
DataOption = Annotated[Path | None, typer.Option("--data", metavar="DIR", help=CORPUS)]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. --set train.epochs=5. Repeatable."),
]

LabelMapOption = Annotated[
    Path | None, typer.Option("--label-map", metavar="FILE", help="TOML that reads the corpus's words as others.")
]
AsPublishedOption = Annotated[
    bool, typer.Option("--as-published", help="With the choices of the authors' program (docs/paper.md).")
]


def print_report(report: Path) -> None:
    console.print(f"report: {report}", highlight=False, soft_wrap=True)


def print_error(message: str) -> None:
    print(f"lungsound: {' '.join(message.splitlines())}", file=sys.stderr)
