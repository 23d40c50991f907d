"""Atomic writes of files and folders, JSON, the cache directory, short names of paths and short lists of names."""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os.path import normpath
from pathlib import Path
from typing import Any

from lungsound.errors import SettingsError


@contextmanager
def written_whole(path: Path, *, is_shared: bool = False) -> Iterator[Path]:
    """A place beside `path` to write to: renamed to it when the block ends without an error, else removed.

    Shared files may be written by several processes at once: the last one's stays. What a killed process left of
    any other is overwritten by the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial" if is_shared else f"{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def written_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to: renamed to `folder` when the block ends without an error, else removed.

    SettingsError, before anything is made, when `folder` is a file or holds something.
    """
    target = folder.resolve()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise SettingsError(f"{folder} is {'a file' if target.is_file() else 'not empty'}: give a new or empty folder")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if target.is_dir():
            target.rmdir()
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str, *, is_shared: bool = False) -> None:
    """Write the text (UTF-8) as a whole file."""
    with written_whole(path, is_shared=is_shared) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any, *, is_shared: bool = False) -> None:
    """Write the values as a whole JSON file, as `to_json` gives them."""
    write_text(path, f"{to_json(values, indent=1)}\n", is_shared=is_shared)


def to_json(values: Any, *, indent: int | None) -> str:
    """JSON of plain values and numpy's. A number that is not finite is null, which every program reads."""
    return json.dumps(_plain(values), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _plain(value.tolist()) if hasattr(value, "tolist") else value  # numpy's arrays and numbers


def cache_root() -> Path:
    """Cache directory: LUNGSOUND_CACHE, else ~/.cache/lungsound. It may be deleted whenever nothing runs."""
    return Path(os.environ.get("LUNGSOUND_CACHE") or "~/.cache/lungsound").expanduser()


def short_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """A name for each path: without the folders that all share at either end. Only equal paths have equal names."""
    every = [list(Path(normpath(path.absolute())).parts) for path in paths]
    for end in (0, -1):
        while all(len(parts) > 1 for parts in every) and len({parts[end] for parts in every}) == 1:
            for parts in every:
                del parts[end]
    return tuple("/".join(parts) for parts in every)


def first_names(names: Sequence[str], count: int = 3) -> str:
    """The first names of a list, for one line, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
