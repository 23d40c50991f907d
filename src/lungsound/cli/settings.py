"""Recipes and settings: what a run can be told, as the command line lists it."""

from typing import Annotated, Literal

import typer

from lungsound.cli.shared import console

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
