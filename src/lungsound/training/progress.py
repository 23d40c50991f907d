"""What a person sees while a run trains: a bar with loss, score, speed and time left; a line for each epoch."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from lungsound.training.trainer import Listener, Progress


class ProgressBar(Listener):
    """Draws on a terminal; elsewhere only the line for each epoch is printed."""

    def __init__(self, console: Console, *, epochs: int, cycles_per_step: int) -> None:
        self.console = console
        self.epochs = epochs
        self.cycles_per_step = cycles_per_step
        self.bars = Bars(
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(),
            TextColumn(
                "{task.percentage:3.0f}%  loss {task.fields[loss]:.3f}  training Score {task.fields[score]:.1f}"
            ),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> "ProgressBar":
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bars.stop()

    def on_step(self, progress: Progress, *, num_steps: int, learning_rate: float) -> None:
        del learning_rate
        done = (progress.epoch - 1) * num_steps + progress.step
        fields: dict[str, Any] = {
            "epoch": progress.epoch,
            "loss": progress.mean_losses()["loss"],
            "score": 100 * progress.training_score().score,
        }
        if self.task is None:
            total = self.epochs * num_steps
            self.task = self.bars.add_task("train", total=total, completed=done, speed="", **fields)
            return
        speed = self.bars.tasks[0].speed
        text = f"{speed * self.cycles_per_step:.1f} cycles/s" if speed else ""
        self.bars.update(self.task, completed=done, speed=text, **fields)

    def on_epoch(self, progress: Progress) -> None:
        row = progress.history[-1]
        scores = {name.removesuffix("_score"): value for name, value in row.items() if name.endswith("_score")}
        shown = "  ".join(
            f"{name} Score {'n/a' if math.isnan(value) else f'{100 * value:.2f}'}" for name, value in scores.items()
        )
        spent = ", ".join(f"{name} {row[f'{name}_seconds']:.1f}" for name in ("data", "compute", "host"))
        self.console.print(
            f"epoch {row['epoch']:>3}/{self.epochs}  loss {row['loss']:.4f}  {shown}  {row['seconds']:.1f} s ({spent})",
            highlight=False,
            soft_wrap=True,
        )


@contextmanager
def track(console: Console, what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar for `what`; gives a function to call with how many are done, and of how many (None: not known)."""
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None, visible=False)
        yield lambda done, total: bars.update(task, completed=done, total=total, visible=True)
