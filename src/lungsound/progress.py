"""What a person sees while a run trains: a bar with loss, score, speed and time left; a line for each epoch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


@contextmanager
def track(console: Console, what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar for `what`; gives a function to call with how many are done, and of how many (None: not known)."""
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None, visible=False)
        yield lambda done, total: bars.update(task, completed=done, total=total, visible=True)
