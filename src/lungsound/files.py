"""Writing a file so that it is never half there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
