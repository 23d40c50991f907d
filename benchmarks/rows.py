"""Rows of the table of speed, each with its aim, and what the parts that measure them share."""

import os
import shlex
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.measure import Seconds, Work, machine, seconds_in_turn
from lungsound.experiments.study import write_between
from lungsound.extras import BOX

CPU = torch.device("cpu")
HEAD = ("what", "measured", "quartiles", "aim", "how")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Row:
    """Values of a measurement in a unit (x: times a peer), and the value that is wanted: at least, or `at_most`."""

    what: str
    values: Sequence[float] | npt.NDArray[np.float64]
    unit: str
    how: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """Median, quartiles and aim as text, under `HEAD`."""
        digits = 2 if self.unit in ("x", "s") else 0
        low, median, high = (f"{each:.{digits}f}" for each in np.quantile(self.values, (0.25, 0.5, 0.75)))
        aim = "" if self.at_least is None else f"at least {self.at_least:g}"
        aim = aim if self.at_most is None else f"at most {self.at_most:g}"
        return self.what, f"{median} {self.unit}", f"{low} to {high}", aim, self.how

    @property
    def is_reached(self) -> bool | None:
        """Whether the median reaches the aim; None without one."""
        median = np.median(self.values)
        if self.at_least is not None:
            return bool(median >= self.at_least)
        return None if self.at_most is None else bool(median <= self.at_most)


@dataclass(frozen=True)
class Bench:
    """Settings of one call.

    recordings  sound files for the parts that take files
    ceilings    GFLOP/s that this machine was seen to reach in the same call, by dtype
    work        folder for what is made on the way
    """

    recordings: Sequence[Path]
    model: str
    ceilings: dict[str, float]
    work: Path
    is_quick: bool = False
    device: torch.device = field(default=CPU)
    batch_size: int = 8

    @property
    def fastest(self) -> str:
        """The dtype of the highest ceiling."""
        return max(self.ceilings, key=self.ceilings.__getitem__)

    def in_turn(self, *works: Work, least: int = 3, most: int = 5) -> Seconds:
        """Seconds (round, work) of things done in turn: as many rounds as fit in 30 s, at least `least`.

        Two in a quick call.
        """
        if self.is_quick:
            least = most = 2
        return seconds_in_turn(*works, least=least, most=most, budget_s=30.0)


def without_files(words: Sequence[str], recordings: Sequence[Path]) -> list[str]:
    """The words of a command as they were given, and RECORDING... in place of files of this machine."""
    own = [word for word in words if Path(word) not in recordings]
    return [*own, *["RECORDING..."] * bool(recordings)]


def command_of(program: str, words: Sequence[str], recordings: Sequence[Path]) -> str:
    return shlex.join([*program.split(), *without_files(words, recordings)])


def made_by(program: str, words: Sequence[str], recordings: Sequence[Path], *more: str) -> str:
    """Lines that say by which command numbers were made, when (and `more`), and on which machine."""
    when = ", ".join([str(datetime.now(UTC).date()), *more])
    facts = ", ".join(f"{name} {value}" for name, value in machine(CPU).items())
    return f"- Command: `{command_of(program, words, recordings)}`, {when}\n- Machine: {facts}"


def parser_of(program: str, about: str | None, mark: str, *, are_recordings_needed: bool = True) -> ArgumentParser:
    """A parser of sound files, the model, and the file between whose marks the numbers are written."""
    parser = ArgumentParser(prog=program, description=about)
    nargs = "+" if are_recordings_needed else "*"
    parser.add_argument(
        "recordings", nargs=nargs, type=Path, metavar="RECORDING", help="sound files, or folders of them"
    )
    parser.add_argument("--model", default=BOX, help="model that is measured  [default: the model in the box]")
    parser.add_argument("--into", type=Path, help=f"file with the marks of '{mark}'  [default: print]")
    return parser


def print_or_write(text: str, into: Path | None, mark: str) -> None:
    """Print a text, or write it between its marks in a file."""
    print(text) if into is None else write_between(into, mark, text)


def in_a_process(function: Callable[..., Result], *arguments: object, num_threads: int) -> Result:
    """Call a function in a new process with so many threads, under the settings of the command; its result."""
    threads = {"OMP_NUM_THREADS": str(num_threads), "OPENBLAS_NUM_THREADS": "1"}
    with patch.dict(os.environ, threads), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def cache_in(folder: Path) -> AbstractContextManager[object]:
    """Keep the package's cache in `folder` while this lasts."""
    return patch.dict(os.environ, LUNGSOUND_CACHE=str(folder))
