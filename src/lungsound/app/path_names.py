"""What paths are called in print: by what they differ in."""

from collections.abc import Sequence
from os.path import normpath
from pathlib import Path


def short_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """A name for each path: without the folders that all share at either end. Only equal paths have equal names."""
    every = [list(Path(normpath(path.absolute())).parts) for path in paths]
    for end in (0, -1):
        while all(len(parts) > 1 for parts in every) and len({parts[end] for parts in every}) == 1:
            for parts in every:
                del parts[end]
    return tuple("/".join(parts) for parts in every)
