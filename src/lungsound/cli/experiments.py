"""`lungsound reproduce`, `cross` and `study`: tables of runs, cross-device and cross-corpus tests, kept results."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

from lungsound.cli.shared import (
    AsPublishedOption,
    CorporaOption,
    EpochsOption,
    SetOption,
    argument,
    console,
    end_with,
    flag,
    option,
    print_lines,
)
from lungsound.cluster import check_address


def reproduce(
    name: Annotated[str | None, argument("TABLE", "Name of a table, or 'table' for all of the paper.")] = None,
    data: CorporaOption = None,
    out: Annotated[Path, option("DIR", "Folder for runs and tables.")] = Path("runs/tables"),
    seeds: Annotated[int, option("N", "Number of runs per row, with seeds 0, 1, ...", min=1)] = 5,
    epochs: EpochsOption = None,
    settings: SetOption = None,
    as_published: AsPublishedOption = False,
    on: Annotated[
        str | None,
        option("CLUSTER", "Train on a Ray cluster: ray (started here) or ray://HOST:PORT.", "--on"),
    ] = None,
    workers: Annotated[
        int | None,
        option("N", "Number of runs trained at a time, with --on.  [default: one for each GPU, or processor]", min=1),
    ] = None,
    dry_run: Annotated[bool, flag("--dry-run", "List the rows; train nothing.")] = False,
) -> None:
    """Train a table of runs and compare the results.

    Without TABLE the tables are listed. Finished runs are skipped: after Ctrl-C the same command continues. The same
    command in a second terminal shares the work: each run is trained by one of them.
    """
    from lungsound.experiments.table import WHOLE, load_table, table_names

    if name is None:
        for each in (*table_names(), WHOLE):
            table = load_table(each)
            print_lines(f"{each:<20}  {table.title} ({len(table.rows)} rows)")
        return
    table = load_table(name)
    if as_published:
        name, table = f"{name}-as-published", table.as_published()
    every = [*([] if epochs is None else [f"train.epochs={epochs}"]), *(settings or [])]
    if dry_run:
        table.check(every)
        console.print(f"{table.title}: {len(table.rows)} rows x {seeds} seeds")
        for row in table.rows:  # the command that trains each row alone, with seed 0, where the table looks for it
            score = "" if row.paper is None else f"  # paper: {row.paper.score:.2f}"
            score += "" if row.num_seeds is None else f"  # at most {row.num_seeds} seeds"
            model = str(out.absolute() / "runs" / (row.after or "") / "seed0" / "model.safetensors")
            roots = [word for root in data or [Path("DIR")] for word in ("--data", str(root))]
            where = shlex.join([*roots, "--out", str(out / "runs" / row.folder / "seed0")])
            command = f"lungsound train {row.command(every, model=model)} {where}"
            print_lines(f"{row.name}\n    {command}{score}")
        return
    from lungsound.errors import SettingsError
    from lungsound.experiments.reproduce import reproduce as reproduce_table

    if not data:
        raise SettingsError("no corpus given: name its folder with --data DIR, or list the rows with --dry-run")
    if on is not None:
        check_address(on)
    elif workers is not None:
        raise SettingsError("--workers is the number of runs that a cluster trains at a time: give --on too")
    failures = reproduce_table(
        name,
        table,
        data=data,
        out=out,
        num_seeds=seeds,
        settings=every,
        on=on,
        num_workers=workers,
        console=console,
    )
    end_with(failures, exit_code=2)


def cross(
    recipe: Annotated[str, argument("RECIPE", "Name of a recipe (see 'lungsound recipes') or a .toml file.")],
    data: CorporaOption = None,
    elsewhere: Annotated[
        list[str] | None,
        option("DIR[=MAP]", "Test on this corpus, its labels translated by the label map MAP. Repeatable.", "--on"),
    ] = None,
    by: Annotated[Literal["device", "corpus"], option("WHAT", "Leave each device out, or each corpus.")] = "device",
    out: Annotated[Path, option("DIR", "Folder for runs and the report.")] = Path("runs/cross"),
    seeds: Annotated[int, option("N", "Number of runs per training set, with seeds 0, 1, ...", min=1)] = 1,
    settings: SetOption = None,
) -> None:
    """Test on stethoscopes or corpora not in the training set.

    For each stethoscope, trains on all others and tests on it; with --by corpus, for each corpus of several --data.
    With --on, trains on --data and tests on the corpora named. Finished runs are skipped: after Ctrl-C the same command
    continues.
    """
    from lungsound.errors import SettingsError
    from lungsound.experiments.cross import PAGE, Crossing, leave_each_out, parse_other, try_elsewhere

    if not data:
        raise SettingsError("no corpus given: name the folder of the one to train on with --data DIR")
    others = [parse_other(text) for text in elsewhere or []]
    if others and by == "corpus":
        raise SettingsError("--by corpus leaves one of the --data out: give --on or --by corpus, not both")
    crossing = Crossing(recipe, data, out, seeds, settings or [], console)
    end_with(try_elsewhere(crossing, others) if others else leave_each_out(crossing, by), exit_code=2)
    print_lines(f"page: {out / f'{PAGE}.html'}")


def study_keep(
    run: Annotated[Path, argument("RUN", "Folder of a trained run.")],
    folder: Annotated[Path, argument("DIR", "Destination: STUDY/METHOD/seed0.")],
    columns: Annotated[
        list[str] | None,
        option("EPOCH", "last, or the best epoch on validation or test. Repeatable.  [default: all]", "--column"),
    ] = None,
) -> None:
    """Keep a run's predictions, small enough for a repository."""
    from lungsound.evaluation.selection import NAMES
    from lungsound.experiments.study import keep_run

    print_lines(*(f"written: {path}" for path in keep_run(run, folder, columns=columns or tuple(NAMES))))


def study_show(
    folders: Annotated[list[Path], argument("DIR", "Folders of studies, each with study.toml.")],
    into: Annotated[
        Path | None,
        option("FILE", "Text file to update between the markers of each study; pictures go into images/ beside it."),
    ] = None,
) -> None:
    """Print the tables of studies, computed from kept predictions."""
    from lungsound.experiments.study import study_markdown, write_between

    for folder in folders:
        text = study_markdown(folder, images=None if into is None else into.parent / "images")
        if into is None:
            print(text)
        else:
            write_between(into, folder.name, text)
            print_lines(f"{folder.name}: written into {into}")
