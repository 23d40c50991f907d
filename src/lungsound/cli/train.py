"""Demo and training."""

from pathlib import Path
from typing import Annotated

import typer

from lungsound.cli.shared import AsPublishedOption, DataOption, SetOption, console, print_report


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
