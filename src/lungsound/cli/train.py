"""Training: the demo, recipes, settings, and `lungsound train`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lungsound.cli.shared import AsPublishedOption, DataOption, SetOption, console, print_report

PAGE = """\
# Settings

Change one with `--set SECTION.KEY=VALUE`, in a recipe of your own, or from Python with
`load_config(RECIPE, {"SECTION.KEY": VALUE})`. A run's `config.json` has the values of that run.
This page is what `lungsound settings --format markdown` prints; a test compares them.
"""


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Recipe to print, with every setting.")] = None,
) -> None:
    """List the recipes, or print one resolved: every setting, also those that it leaves at their defaults.

    What is printed is TOML; saved as a file, it is a recipe that trains the same.
    """
    from lungsound.config import load_config, recipe_names, to_toml

    if name is not None:
        print(to_toml(load_config(name)), end="")
        return
    width = max(map(len, recipe_names()))
    for each in recipe_names():
        console.print(f"{each:<{width}}  {load_config(each).description}", highlight=False, soft_wrap=True)


def settings(
    section: Annotated[
        str | None, typer.Argument(metavar="[SECTION]", help="One section, e.g. train; default: all of them.")
    ] = None,
    to: Annotated[Literal["text", "markdown"], typer.Option("--format", help="Form of the list.")] = "text",
) -> None:
    """List the settings of a run: the default of each, what it may be, and what it does.

    Change one with --set SECTION.KEY=VALUE, or in a recipe of your own.
    """
    import textwrap

    from lungsound.config import describe_settings

    if to == "markdown":
        print(PAGE, end="")
    for name, rows in describe_settings(section).items():
        if to == "markdown":
            print(f"\n## {name}\n\n| setting | default | allowed | meaning |\n| --- | --- | --- | --- |")
        for row in rows:
            key = f"{name}.{row.name}"
            if to == "markdown":
                print(f"| `{key}` | `{row.default}` | {row.allowed} | {row.meaning} |")
                continue
            print(f"{key} = {row.default}")
            for line in (row.meaning, f"Allowed: {row.allowed}."):
                print(textwrap.fill(line, width=80, initial_indent="    ", subsequent_indent="    "))


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
