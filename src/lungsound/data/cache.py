"""Where what can be had again is kept: downloads and filter banks."""

import os
from pathlib import Path


def cache_root() -> Path:
    """The folder LUNGSOUND_CACHE, else ~/.cache/lungsound. It may be deleted at any time when nothing runs."""
    return Path(os.environ.get("LUNGSOUND_CACHE") or "~/.cache/lungsound").expanduser()
