"""Progress of long work: a bar on a terminal, elsewhere a plain line when 30 seconds have passed without one."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SILENCE_S = 30.0
# Called with how many are done, and of how many (None: not known).
OnProgress = Callable[[int, int | None], None]


class ProgressDisplay:
    """The bars, or the lines, of one piece of work that may have several stages."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        is_disabled = not console.is_terminal
        self.bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=is_disabled)
        self.last_line_s = clock()

    def __enter__(self) -> "ProgressDisplay":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def print(self, line: str) -> None:
        """Print a line above the bars."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.last_line_s = self.clock()

    @contextmanager
    def stage(self, text: str, *, is_paced: bool = False) -> Iterator["Stage"]:
        """Show a stage until the block ends; paced: with how many are done in a minute."""
        stage = Stage(self, text, is_paced)
        try:
            yield stage
        finally:
            self.bars.remove_task(stage.task)


class Stage:
    """A stage under way: its bar appears, and its time begins, at the first update."""

    def __init__(self, display: ProgressDisplay, text: str, is_paced: bool) -> None:
        self.display, self.text, self.is_paced = display, text, is_paced
        self.task: TaskID = display.bars.add_task(text, total=None, visible=False)
        self._first: tuple[float, int] | None = None

    def per_second(self, done: int) -> float:
        """Number done in a second since the first update; 0 before there is any."""
        now_s = self.display.clock()
        first_s, first_done = self._first = self._first or (now_s, done)
        return (done - first_done) / (now_s - first_s) if done > first_done and now_s > first_s else 0.0

    def update(self, done: int, total: int | None) -> None:
        """Show how many are done, and of how many (None: not known)."""
        rate = self.per_second(done)
        pace = f", {60 * rate:.0f} a minute" if rate and self.is_paced else ""
        self.display.bars.update(self.task, description=self.text + pace, completed=done, total=total, visible=True)
        line = f"{self.text}: {done}{pace}" if total is None else f"{self.text}: {done} of {total}{pace}"
        if total is not None and rate:
            line += f", about {duration((total - done) / rate)} left"
        if self.display.bars.disable and self.display.clock() - self.display.last_line_s >= SILENCE_S:
            self.display.print(line)


@contextmanager
def track(console: Console, what: str, *, clock: Callable[[], float] = time.monotonic) -> Iterator[OnProgress]:
    """Show the progress of one long step; gives the function to call with how many are done, and of how many."""
    with ProgressDisplay(console, clock=clock) as display, display.stage(what, is_paced=True) as stage:
        yield stage.update


def duration(seconds: float) -> str:
    """A rounded time in words: "40 s", "12 min", "2 h 5 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
