"""Demo, training, reproducing tables."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lungsound.cli.shared import AsPublishedOption, DataOption, SetOption, console, print_error, print_report

if TYPE_CHECKING:
    from lungsound.experiments.table import Table


def demo(
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="Folder for corpus, run and report.")] = Path("lungsound-demo"),
    patients: Annotated[int, typer.Option(min=4, help="Patients of the synthetic corpus.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the synthetic corpus and of the training.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of training; default: the recipe's.")] = None,
) -> None:
    """See the whole job in minutes: a corpus, training, a score with an interval, a report, one recording answered.

    Without --data it makes a synthetic corpus. Its score says nothing about real lungs.
    """
    from lungsound.cli.demo import run_demo

    run_demo(data, out, num_patients=patients, seed=seed, epochs=epochs, console=console)


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name of a recipe (see 'lungsound recipes') or a .toml file.")
    ],
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="New folder for the run.")] = Path("runs/run"),
    settings: SetOption = None,
    as_published: AsPublishedOption = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out where it stopped.")] = False,
) -> None:
    """Train by a recipe, evaluate on the test set, write a report.

    Ctrl-C stops after the step under way and writes a checkpoint; the same command with --resume goes on.
    """
    from lungsound.config import load_config
    from lungsound.recipe import train as train_by_recipe

    overrides = list(settings or []) + ([f"data.root={data.absolute()}"] if data is not None else [])
    config = load_config(recipe, overrides, is_as_published=as_published)
    report = train_by_recipe(config, out, console=console, is_resumed=resume)
    print_report(report)


def reproduce(
    name: Annotated[str | None, typer.Argument(metavar="TABLE", help="Name of a table, or 'table' for all.")] = None,
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="Folder for runs and tables.")] = Path("runs/tables"),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each row, with seeds 0, 1, ...")] = 5,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of training; default: the recipe's.")] = None,
    settings: SetOption = None,
    as_published: AsPublishedOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the rows; train nothing.")] = False,
) -> None:
    """Train every row of a table of the paper and print it beside the paper's numbers.

    Without a name the tables are listed. Runs that are done are skipped; after Ctrl-C the same command goes on.
    """
    from lungsound.experiments.table import WHOLE, load_table, table_names

    if name is None:
        for each in (*table_names(), WHOLE):
            table = load_table(each)
            console.print(f"{each:<14}  {table.title} ({len(table.rows)} rows)", highlight=False, soft_wrap=True)
        return
    table = load_table(name)
    if as_published:
        name, table = f"{name}-as-published", table.as_published()
    every = [*([] if epochs is None else [f"train.epochs={epochs}"]), *(settings or [])]
    if dry_run:
        _print_rows(table, every, seeds, data=data or Path("DIR"), out=out)
        return
    from lungsound.errors import SettingsError
    from lungsound.experiments.reproduce import reproduce as reproduce_table

    if data is None:
        raise SettingsError("no corpus given: name its folder with --data DIR, or list the rows with --dry-run")
    failures = reproduce_table(name, table, data=data, out=out, num_seeds=seeds, settings=every, console=console)
    for failure in failures:
        print_error(failure)
    if failures:
        raise typer.Exit(2)


def _print_rows(table: "Table", settings: list[str], num_seeds: int, *, data: Path, out: Path) -> None:
    """Each row with the command that trains it alone, with seed 0, where the table looks for it."""
    table.check(settings)
    console.print(f"{table.title}: {len(table.rows)} rows x {num_seeds} seeds", highlight=False)
    for row in table.rows:
        score = "" if row.paper is None else f"  # paper: {row.paper.score:.2f}"
        model = str(out.absolute() / "runs" / (row.after or "") / "seed0" / "model.safetensors")
        where = shlex.join(["--data", str(data), "--out", str(out / "runs" / row.folder / "seed0")])
        command = f"lungsound train {row.command(settings, model=model)} {where}"
        console.print(f"{row.name}\n    {command}{score}", highlight=False, soft_wrap=True)
