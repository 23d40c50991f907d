"""A table of the paper: every row trained with every seed, one run after the other, what is done skipped."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lungsound.app.table_report import RowResults, print_table, read_result, write_table
from lungsound.config import RunConfig
from lungsound.errors import LungsoundError
from lungsound.recipe import train
from lungsound.run_folder import RunFolder
from lungsound.table import Row, Table
from lungsound.training.trainer import RunInterrupted


@dataclass(frozen=True)
class PlannedRun:
    """One row with one seed."""

    row: Row
    seed: int
    config: RunConfig
    folder: Path

    def carry_out(self, console: Console) -> None:
        """Train and evaluate, from where an earlier call stopped; nothing when that call finished.

        SettingsError when the folder holds a run with other settings.
        """
        is_started = (self.folder / "config.json").is_file()
        RunFolder(self.folder).check(self.config, is_resumed=is_started)
        if (self.folder / "report.json").is_file():
            console.print("  done already")
        else:
            train(self.config, self.folder, console=console, is_resumed=is_started)


def plan_runs(
    table: Table, *, data: Path, out: Path, num_seeds: int, epochs: int | None, settings: Sequence[str]
) -> list[PlannedRun]:
    """All runs, the first seed of every row before the second of any.

    A row that goes on from another one's model takes that of the same seed.
    """
    planned = []
    for seed in range(num_seeds):
        for row in table.rows:
            folder = out / "runs" / row.folder / f"seed{seed}"
            more = [] if epochs is None else [f"train.epochs={epochs}"]
            more += [f"data.root={data.absolute()}", f"train.seed={seed}", *settings]
            if row.after is not None:
                model = out.absolute() / "runs" / row.after / f"seed{seed}" / RunFolder(folder).model.name
                more += [f"model.pretrained={model}", "model.is_head_pretrained=true"]
            planned.append(PlannedRun(row, seed, row.config(tuple(more)), folder))
    return planned


def reproduce(
    name: str,
    table: Table,
    *,
    data: Path,
    out: Path,
    num_seeds: int = 5,
    epochs: int | None = None,
    settings: Sequence[str] = (),
    console: Console,
) -> list[str]:
    """Train what is not done yet, then write and print the table; the failures, a line each.

    A run that a user's mistake or a missing file stops is left out and named; the others go on. The table is
    written anew after every run. Raises RunInterrupted when asked to stop; the same call goes on from there.
    """
    planned = plan_runs(table, data=data, out=out, num_seeds=num_seeds, epochs=epochs, settings=settings)
    finished: list[PlannedRun] = []
    failures = []
    for number, run in enumerate(planned, start=1):
        console.print(
            f"[{number} of {len(planned)}] {run.row.name}, seed {run.seed}: {run.row.command}", highlight=False
        )
        try:
            run.carry_out(console)
        except RunInterrupted:
            raise RunInterrupted("stopped; the same command goes on from there") from None
        except LungsoundError as error:
            failures.append(f"{run.row.name}, seed {run.seed}: {error}")
            console.print(f"  {error}", highlight=False)
            continue
        finished.append(run)
        results = [RowResults(r, [read_result(f.folder) for f in finished if f.row == r]) for r in table.rows]
        write_table(out / name, table.title, results, epochs=epochs, settings=settings)
    if finished:
        print_table(out / name, console)
    return failures
