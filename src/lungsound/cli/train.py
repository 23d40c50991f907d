"""`lungsound demo`, `train`, `recipes` and `settings`."""

from pathlib import Path
from typing import Annotated, Literal

from lungsound.cli.shared import (
    AsPublishedOption,
    CorporaOption,
    DataOption,
    EpochsOption,
    SeedOption,
    SetOption,
    argument,
    console,
    flag,
    option,
    print_lines,
)

PAGE = """\
# Settings

Change one with `--set SECTION.KEY=VALUE`, in a recipe of your own, or from Python with
`load_config(RECIPE, {"SECTION.KEY": VALUE})`. A run's `config.json` has the values of that run.
This page is what `lungsound settings --format markdown` prints; a test compares them.
"""


def recipes(name: Annotated[str | None, argument("NAME", "Recipe to print with every setting.")] = None) -> None:
    """List the recipes, or print one with every setting.

    The printed recipe is TOML with all defaults filled in; saved as a file, it trains the same.
    """
    from lungsound.config import load_config, recipe_names, to_toml

    if name is not None:
        print(to_toml(load_config(name)), end="")
        return
    width = max(map(len, recipe_names()))
    for each in recipe_names():
        print_lines(f"{each:<{width}}  {load_config(each).description}")


def settings(
    section: Annotated[str | None, argument("SECTION", "Section to list, e.g. train.  [default: all]")] = None,
    to: Annotated[Literal["text", "markdown"], option("FORMAT", "text or markdown.", "--format")] = "text",
) -> None:
    """List the settings of a run: defaults, values, meaning.

    Change one with --set SECTION.KEY=VALUE, or in a recipe of your own.
    """
    import textwrap

    from lungsound.config import describe_settings

    if to == "markdown":
        print(PAGE, end="")
    for name, rows in describe_settings(section).items():
        if to == "markdown":
            print(f"\n## {name}\n\n| setting | default | allowed | meaning |\n| --- | --- | --- | --- |")
        for setting, default, allowed, meaning in rows:
            key = f"{name}.{setting}"
            if to == "markdown":
                print(f"| `{key}` | `{default}` | {allowed} | {meaning} |")
                continue
            print(f"{key} = {default}")
            for line in (meaning, f"Allowed: {allowed}."):
                print(textwrap.fill(line, width=80, initial_indent="    ", subsequent_indent="    "))


def demo(
    data: DataOption = None,
    out: Annotated[Path, option("DIR", "Folder for corpus, run and report.")] = Path("lungsound-demo"),
    patients: Annotated[int, option("N", "Patients in the synthetic corpus.", min=4)] = 60,
    seed: SeedOption = 0,
    epochs: EpochsOption = None,
) -> None:
    """Try training, evaluation and prediction in a few minutes.

    Without --data it makes a synthetic corpus, whose scores say nothing about real lungs.
    """
    from lungsound.cli.demo import run_demo

    run_demo(data, out, num_patients=patients, seed=seed, epochs=epochs, console=console)


def train(
    recipe: Annotated[str, argument("RECIPE", "Name of a recipe (see 'lungsound recipes') or a .toml file.")],
    data: CorporaOption = None,
    out: Annotated[Path, option("DIR", "New folder for the run.")] = Path("runs/run"),
    settings: SetOption = None,
    as_published: AsPublishedOption = False,
    resume: Annotated[bool, flag("--resume", "Continue the run in --out where it stopped.")] = False,
) -> None:
    """Train with a recipe, evaluate on the test set and report.

    Ctrl-C stops after the current step and writes a checkpoint; the same command with --resume continues.
    """
    from lungsound.config import load_config, settings_of_corpora
    from lungsound.recipe import train as train_by_recipe

    overrides = [*(settings or []), *settings_of_corpora(data or [])]
    config = load_config(recipe, overrides, is_as_published=as_published)
    print_lines(f"report: {train_by_recipe(config, out, console=console, is_resumed=resume)}")
