"""Leaving devices and corpora out, and results that can be printed again."""

from pathlib import Path
from typing import Annotated

import typer

from lungsound.cli.shared import DataOption, SetOption, console, print_error


def cross(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name of a recipe (see 'lungsound recipes') or a .toml file.")
    ],
    data: DataOption = None,
    elsewhere: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            metavar="DIR[=MAP]",
            help="Test on this corpus, its words read by the label map MAP; no device is left out. Repeatable.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for runs and the page.")] = Path("runs/cross"),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each training, with seeds 0, 1, ...")] = 1,
    settings: SetOption = None,
) -> None:
    """Train without one device and test on it, for each device; or with --on train on one corpus and test on others.

    Runs that are done are skipped; after Ctrl-C the same command goes on.
    """
    from lungsound.errors import SettingsError
    from lungsound.experiments.cross import PAGE, Elsewhere, leave_devices_out, try_elsewhere

    if data is None:
        raise SettingsError("no corpus given: name the folder of the one to train on with --data DIR")
    every = list(settings or [])
    if elsewhere:
        others = [Elsewhere.parse(text) for text in elsewhere]
        failures = try_elsewhere(
            recipe, data=data, elsewhere=others, out=out, num_seeds=seeds, settings=every, console=console
        )
    else:
        failures = leave_devices_out(recipe, data=data, out=out, num_seeds=seeds, settings=every, console=console)
    for failure in failures:
        print_error(failure)
    if failures:
        raise typer.Exit(2)
    console.print(f"page: {out / f'{PAGE}.html'}", highlight=False, soft_wrap=True)


def study_keep(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to keep it: STUDY/METHOD/seed0.")],
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="last, validation or test; all by default. Repeatable.")
    ] = None,
) -> None:
    """Keep a run's answers to the test, small enough for a repository."""
    from lungsound.evaluation.selection import NAMES
    from lungsound.experiments.results import HOLDS, STUDY_FILE, keep_run

    for path in keep_run(run, folder, columns=columns or tuple(NAMES)):
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
    if not any((parent / STUDY_FILE).is_file() for parent in folder.absolute().parents[:3]):
        told = f"'lungsound study show STUDY' wants STUDY/{STUDY_FILE}, which you write: {HOLDS}"
        console.print(told, highlight=False, soft_wrap=True)


def study_show(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Folders of studies, each with study.toml.")],
    into: Annotated[
        Path | None, typer.Option(help="A text file: replace what stands between the marks of each study.")
    ] = None,
) -> None:
    """Print the tables of studies, computed from the answers that they keep."""
    from lungsound.experiments.results import study_blocks, write_between
    from lungsound.page import render_blocks

    for folder in folders:
        text = render_blocks(study_blocks(folder))
        if into is None:
            print(text)
        else:
            write_between(into, folder.name, text)
            console.print(f"{folder.name}: written into {into}", highlight=False, soft_wrap=True)
