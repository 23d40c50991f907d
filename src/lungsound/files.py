"""Writing a file so that it is never half there.

Where what can be had again is kept: downloads and filter banks.

What paths are called in print: by what they differ in.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os.path import normpath
from pathlib import Path


@contextmanager
def written_whole(path: Path, *, is_shared: bool = False) -> Iterator[Path]:
    """A place beside `path` to write to: renamed to it when the block ends without an error, else removed.

    The folder is made when it is not there. Shared files may be written by several processes at once: the last one's
    stays. What a killed process left of any other is overwritten by the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial" if is_shared else f"{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, is_shared: bool = False) -> None:
    """Write the text (UTF-8) as a whole file."""
    with written_whole(path, is_shared=is_shared) as partial:
        partial.write_text(text, encoding="utf-8")


def cache_root() -> Path:
    """The folder LUNGSOUND_CACHE, else ~/.cache/lungsound. It may be deleted at any time when nothing runs."""
    return Path(os.environ.get("LUNGSOUND_CACHE") or "~/.cache/lungsound").expanduser()


def short_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """A name for each path: without the folders that all share at either end. Only equal paths have equal names."""
    every = [list(Path(normpath(path.absolute())).parts) for path in paths]
    for end in (0, -1):
        while all(len(parts) > 1 for parts in every) and len({parts[end] for parts in every}) == 1:
            for parts in every:
                del parts[end]
    return tuple("/".join(parts) for parts in every)
