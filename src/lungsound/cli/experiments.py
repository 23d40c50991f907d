"""Tables of the paper, devices and corpora left out, and results that can be printed again."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lungsound.cli.shared import AsPublishedOption, DataOption, SetOption, console, print_error

if TYPE_CHECKING:
    from lungsound.experiments.table import Table


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
    _end(failures)


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


def _end(failures: Sequence[str]) -> None:
    """Print what failed, and end with exit code 2 where anything did."""
    for failure in failures:
        print_error(failure)
    if failures:
        raise typer.Exit(2)


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
    from lungsound.experiments.cross import PAGE, Crossing, OtherCorpus, leave_devices_out, try_elsewhere

    if data is None:
        raise SettingsError("no corpus given: name the folder of the one to train on with --data DIR")
    others = [OtherCorpus.parse(text) for text in elsewhere or []]
    crossing = Crossing(recipe, data, out, seeds, settings or [], console)
    _end(try_elsewhere(crossing, others) if others else leave_devices_out(crossing))
    console.print(f"page: {out / f'{PAGE}.html'}", highlight=False, soft_wrap=True)


def study_keep(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to keep it: STUDY/METHOD/seed0.")],
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="last, validation or test; all by default. Repeatable.")
    ] = None,
) -> None:
    """Keep a run's predictions for the test, small enough for a repository."""
    from lungsound.evaluation.selection import NAMES
    from lungsound.experiments.study import keep_run, missing_study

    for path in keep_run(run, folder, columns=columns or tuple(NAMES)):
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
    if advice := missing_study(folder):
        console.print(advice, highlight=False, soft_wrap=True)


def study_show(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Folders of studies, each with study.toml.")],
    into: Annotated[
        Path | None, typer.Option(help="A text file: replace what stands between the marks of each study.")
    ] = None,
) -> None:
    """Print the tables of studies, computed from the predictions that they keep."""
    from lungsound.experiments.study import study_blocks, write_between
    from lungsound.page import render_blocks

    for folder in folders:
        text = render_blocks(study_blocks(folder))
        if into is None:
            print(text)
        else:
            write_between(into, folder.name, text)
            console.print(f"{folder.name}: written into {into}", highlight=False, soft_wrap=True)
