"""Where what can be had again is kept while something is measured."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "LUNGSOUND_CACHE"


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """What is kept goes into `folder` while this lasts."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
