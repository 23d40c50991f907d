"""Train a table: every row with every seed, in turn or on a cluster, skipping what is done or in another's hands."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from socket import gethostname
from typing import Any

import torch
from filelock import FileLock
from rich.console import Console

from lungsound.cluster import joined_cluster, num_of
from lungsound.config import DataSettings, RunConfig, settings_of_corpora
from lungsound.data.splits import load_corpus
from lungsound.errors import CorpusError, LungsoundError, RunBusyError, SettingsError
from lungsound.experiments.results import RunResult, read_result, write_results
from lungsound.experiments.table import Row, Table
from lungsound.recipe import train
from lungsound.storage import as_uri
from lungsound.training.run import RunFolder
from lungsound.training.trainer import RunInterrupted

WIDTH = 240  # of the lines that a task prints
MAX_RETRIES = 10  # of a task whose worker was killed
BUSY_S = 35.0  # Ray ends the tasks of a command that was killed after 30 s


@dataclass(frozen=True)
class PlannedRun:
    row: Row
    seed: int
    config: RunConfig
    folder: Path

    @property
    def title(self) -> str:
        return f"{self.row.name}, seed {self.seed}"

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
    on: str | None = None,
    num_workers: int | None = None,
    console: Console,
) -> list[str]:
    """Train what is not done yet, then write and print the table; the failures, a line each.

    A run that a user's mistake or a missing file stops is left out and named; the others go on. The table is
    written anew after every run. Raises RunInterrupted when asked to stop; the same call goes on from there.
    Several calls may share `out`, each on a core of its own: a run that another one trains is passed over, and taken
    into the table by whoever comes to its end last. A cluster `on` ("ray" starts one here, ray://HOST:PORT is an
    address) trains `num_workers` runs at a time.
    """
    planned = plan_runs(table, data=data, out=out, num_seeds=num_seeds, settings=settings)
    if missing := [root for root in data if as_uri(root) is None and not root.exists()]:
        raise CorpusError(f"no folder {missing[0]}: give the folder of a corpus, or a table")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{out} cannot be made a folder ({error.strerror}): give another --out") from None
    results: dict[str, dict[int, RunResult]] = {}
    failures: dict[str, list[str]] = {}
    changes, lock = table.changes(settings), FileLock(out / ".lock")

    def write(console: Console) -> None:
        with lock:  # pages and pictures are written by one call at a time
            by_row = {row: [runs[seed] for seed in sorted(runs)] for row, runs in results.items()}
            write_results(out / name, table, by_row, changes=changes, console=console)

    carried_out = _in_turn(planned, console) if on is None else _on_cluster(planned, on, num_workers, console)
    try:
        for run, outcome in carried_out:
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                results.setdefault(run.row.folder, {})[run.seed] = read_result(run.folder)
            except RunInterrupted:
                raise
            except RunBusyError:
                console.print(f"  {run.title}: another process trains it", highlight=False, soft_wrap=True)
            except LungsoundError as error:
                failures.setdefault(str(error), []).append(run.title)
                console.print(f"  {run.title}: {error}", highlight=False, soft_wrap=True)
            else:
                console.print(
                    f"  {run.title}: {'trained' if outcome else 'done already'}", soft_wrap=True, markup=False
                )
                if outcome:
                    write(Console(quiet=True))
    except (RunInterrupted, KeyboardInterrupt):
        raise RunInterrupted("stopped; the same command goes on from there") from None
    if results:
        write(console)
        console.print(f"table: {out / f'{name}.md'}", highlight=False, soft_wrap=True)
    return [f"{', '.join(runs)}: {message}" for message, runs in failures.items()]


# What became of a run: whether it was trained now, or what stopped it.
Outcome = bool | Exception


def _in_turn(planned: Sequence[PlannedRun], console: Console) -> Iterator[tuple[PlannedRun, Outcome]]:
    """One run after the other; those that another process trains by then once more at the end."""
    fingerprints: dict[DataSettings, str] = {}
    busy: list[PlannedRun] = []
    for number, run in enumerate(_and_then(planned, busy), start=1):
        is_second_try = number > len(planned)
        counted = "once more" if is_second_try else f"{number} of {len(planned)}"
        console.print(f"[{counted}] {run.title}: {run.row.command()}", highlight=False, soft_wrap=True, markup=False)
        outcome = _tried(run, fingerprints, console)
        if isinstance(outcome, RunBusyError) and not is_second_try:
            busy.append(run)
        yield run, outcome


def _and_then(planned: Sequence[PlannedRun], busy: Sequence[PlannedRun]) -> Iterator[PlannedRun]:
    """The planned runs, then once more those that were passed over by then."""
    yield from planned
    yield from tuple(busy)


def _tried(run: PlannedRun, fingerprints: dict[DataSettings, str], console: Console) -> Outcome:
    try:
        return run.carry_out(fingerprints, console)
    except LungsoundError as error:
        return error


def _on_cluster(
    planned: Sequence[PlannedRun], on: str, num_workers: int | None, console: Console
) -> Iterator[tuple[PlannedRun, Outcome]]:
    """Runs as they are done, each by a task of its own, which starts when the run that it goes on from is done.

    A run whose worker is killed goes on from its checkpoint in another one, up to `MAX_RETRIES` times; one that another
    process trains is tried once more at the end.
    """
    fingerprints: dict[DataSettings, str] = {}
    finished = [run for run in planned if is_finished(run.folder)]
    for run in finished:
        yield run, _tried(run, fingerprints, console)
    waiting, running = [run for run in planned if run not in finished], dict[Any, PlannedRun]()
    busy, tried_again = list[PlannedRun](), list[PlannedRun]()
    if not waiting:
        return
    has_gpu = any(run.config.train.device != "cpu" for run in waiting)
    with joined_cluster(on, num_workers, is_output_shown=True) as ray:
        num_at_a_time = num_workers or num_of(ray, *(["GPU"] if has_gpu else []), "CPU")
        num_gpus = int(ray.cluster_resources().get("GPU", 0)) if has_gpu else 0
        share = {"num_cpus": 1, "num_gpus": min(1, num_gpus / num_at_a_time)}
        task = ray.remote(**share, max_retries=MAX_RETRIES)(_carry_out)

        def start() -> None:
            unfinished = {(run.row.folder, run.seed) for run in (*waiting, *running.values(), *busy)}
            ready = [run for run in waiting if (run.row.after, run.seed) not in unfinished]
            for run in ready[: num_at_a_time - len(running)]:
                waiting.remove(run)
                console.print(f"{run.title}: {run.row.command()}", highlight=False, soft_wrap=True, markup=False)
                given = task.options(name=run.title).remote(run, str(Path.cwd()), sys.argv, version("lungsound"))
                running[given] = run

        start()
        while running:
            (done, *_), _ = ray.wait([*running], num_returns=1)
            run = running.pop(done)
            try:
                outcome: Outcome = ray.get(done)
            except ray.exceptions.RayTaskError as error:  # a bug of ours
                cause: Exception = error.cause
                cause.__cause__ = error  # which has the traceback there
                outcome = cause
            except ray.exceptions.RayError as error:
                outcome = SettingsError(f"its worker was lost ({type(error).__name__}); the same call goes on")
            if isinstance(outcome, RunInterrupted):  # its worker was asked to stop, and not this command
                waiting.append(run)
            elif isinstance(outcome, RunBusyError) and run not in tried_again:
                busy.append(run)
            start()  # the next, before the table is written with this one
            if not isinstance(outcome, RunInterrupted):
                yield run, outcome
            if busy and not running:
                time.sleep(BUSY_S)
                tried_again += busy
                waiting += busy
                busy.clear()
                start()


def _carry_out(run: PlannedRun, folder: str, command: list[str], known_version: str) -> Outcome:
    """Carry out a run in a worker, in `folder`, with one thread; its facts name `command`."""
    node, own_version = gethostname(), version("lungsound")
    if own_version != known_version:
        return SettingsError(f"{node} has lungsound {own_version}, the command {known_version}: install the same there")
    sys.argv = command
    torch.set_num_threads(1)
    try:
        os.chdir(folder)
        return run.carry_out({}, Console(markup=False, highlight=False, width=WIDTH))
    except LungsoundError as error:
        return error
    except OSError as error:
        return SettingsError(f"{node}: {error.filename or 'the system'}: {error.strerror or error}")
