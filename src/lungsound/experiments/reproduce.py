"""Train a table: every row with every seed, one run after the other, skipping what is done or in another's hands."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from lungsound.config import DataSettings, RunConfig, settings_of_corpora
from lungsound.data.splits import load_corpus
from lungsound.errors import CorpusError, LungsoundError, RunBusyError, SettingsError
from lungsound.experiments.results import RunResult, read_result, write_results
from lungsound.experiments.table import Row, Table
from lungsound.recipe import train
from lungsound.training.run import RunFolder
from lungsound.training.trainer import RunInterrupted


@dataclass(frozen=True)
class PlannedRun:
    row: Row
    seed: int
    config: RunConfig
    folder: Path

    def carry_out(self, fingerprints: dict[DataSettings, str], console: Console) -> bool:
        """Train and evaluate, from where an earlier call stopped; False when an earlier call had finished it.

        SettingsError when the folder holds a run with other settings, CorpusError when it is one on other recordings:
        `fingerprints` keeps those of the corpora as they are now, so that each is read once.
        """
        is_started = (self.folder / "config.json").is_file()
        RunFolder(self.folder).check(self.config, is_resumed=is_started)
        if is_finished(self.folder):
            data = self.config.data
            if data not in fingerprints:
                fingerprints[data] = load_corpus(data).fingerprint
            if RunFolder(self.folder).facts().corpus.fingerprint != fingerprints[data]:
                raise CorpusError(
                    f"the corpus is not what {self.folder} was trained on: delete that folder to train it anew"
                )
            console.print("  done already")
            return False
        if self.row.after is not None and not is_finished(Path(self.config.model.pretrained).parent):
            raise SettingsError(f"goes on from {self.row.after}, seed {self.seed}, which is not finished")
        train(self.config, self.folder, console=console, is_resumed=is_started)
        return True


def is_finished(folder: Path) -> bool:
    return (folder / "report.json").is_file()


def plan_runs(
    table: Table, *, data: Sequence[Path], out: Path, num_seeds: int, settings: Sequence[str]
) -> list[PlannedRun]:
    """All runs, the first seed of every row before the second of any.

    A row that goes on from another one's model takes that of the same seed. SettingsError for settings that do not
    fit the table.
    """
    table.check(settings)
    planned = []
    for seed in range(num_seeds):
        for row in table.rows:
            if row.num_seeds is not None and seed >= row.num_seeds:
                continue
            folder = run_folder(out, row.folder, seed)
            more = [*settings_of_corpora(data), f"train.seed={seed}", *settings]
            if row.after is not None:
                model = RunFolder(run_folder(out.absolute(), row.after, seed)).model
                more += [f"model.pretrained={model}", "model.is_head_pretrained=true"]
            planned.append(PlannedRun(row, seed, row.config(tuple(more)), folder))
    return planned


def run_folder(out: Path, row: str, seed: int) -> Path:
    return out / "runs" / row / f"seed{seed}"


def reproduce(
    name: str,
    table: Table,
    *,
    data: Sequence[Path],
    out: Path,
    num_seeds: int,
    settings: Sequence[str],
    console: Console,
) -> list[str]:
    """Train what is not done yet, then write and print the table; the failures, a line each.

    A run that a user's mistake or a missing file stops is left out and named; the others go on. The table is
    written anew after every run. Raises RunInterrupted when asked to stop; the same call goes on from there.
    Several calls may share `out`, each on a core of its own: a run that another one trains is passed over, and taken
    into the table by whoever comes to its end last.
    """
    planned = plan_runs(table, data=data, out=out, num_seeds=num_seeds, settings=settings)
    if missing := [root for root in data if not root.exists()]:
        raise CorpusError(f"no folder {missing[0]}: give the folder of a corpus, or a table")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{out} cannot be made a folder ({error.strerror}): give another --out") from None
    fingerprints: dict[DataSettings, str] = {}
    results: dict[str, dict[int, RunResult]] = {}
    failures: dict[str, list[str]] = {}
    changes, lock = table.changes(settings), FileLock(out / ".lock")

    def write(console: Console) -> None:
        with lock:  # pages and pictures are written by one call at a time
            by_row = {row: [runs[seed] for seed in sorted(runs)] for row, runs in results.items()}
            write_results(out / name, table, by_row, changes=changes, console=console)

    busy: list[PlannedRun] = []
    for number, run in enumerate(_and_then(planned, busy), start=1):
        is_second_try, title = number > len(planned), f"{run.row.name}, seed {run.seed}"
        counted = "once more" if is_second_try else f"{number} of {len(planned)}"
        console.print(f"[{counted}] {title}: {run.row.command()}", highlight=False, soft_wrap=True, markup=False)
        try:
            is_trained = run.carry_out(fingerprints, console)
            results.setdefault(run.row.folder, {})[run.seed] = read_result(run.folder)
        except RunInterrupted:
            raise RunInterrupted("stopped; the same command goes on from there") from None
        except RunBusyError:
            console.print("  another process trains it", highlight=False, soft_wrap=True)
            busy += [] if is_second_try else [run]
        except LungsoundError as error:
            failures.setdefault(str(error), []).append(title)
            console.print(f"  {error}", highlight=False, soft_wrap=True)
        else:
            if is_trained:
                write(Console(quiet=True))
    if results:
        write(console)
        console.print(f"table: {out / f'{name}.md'}", highlight=False, soft_wrap=True)
    return [f"{', '.join(runs)}: {message}" for message, runs in failures.items()]


def _and_then(planned: Sequence[PlannedRun], busy: Sequence[PlannedRun]) -> Iterator[PlannedRun]:
    """The planned runs, then once more those that were passed over by then."""
    yield from planned
    yield from tuple(busy)
