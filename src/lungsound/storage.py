"""Places near and far: paths, and URIs of http(s), s3, gs, az and what else fsspec has a library for.

Keys and addresses of a storage are those that its library finds in the environment.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lungsound.errors import FetchError, LungsoundError, SettingsError
from lungsound.extras import load

_URI = re.compile(r"((?:[a-zA-Z][\w+.-]+::)*[a-zA-Z][\w+.-]+):/+")


def as_uri(place: str | Path) -> str | None:
    """The URI that is meant, whose slashes a Path has folded ("s3:/bucket"); None for a path."""
    match = _URI.match(str(place))
    if match is None:
        return None
    return f"{match[1]}:{'///' if match[1] == 'file' else '//'}{str(place)[match.end() :]}"


@contextmanager
def reached(place: str, error: type[LungsoundError] = FetchError) -> Iterator[tuple[Any, str]]:
    """fsspec's file system for a path or URI, and the path in it; an error in the block names the place."""
    with place_named(place, error):
        yield load("fsspec.core", extra="remote", needed_by=f"{place} needs").url_to_fs(place)


@contextmanager
def place_named(place: str, error: type[LungsoundError] = FetchError) -> Iterator[None]:
    """Raise an `error` that names a place which cannot be read or written, SettingsError where a package is missing."""
    try:
        yield
    except LungsoundError:
        raise
    except ImportError as fault:
        advice = "pip install 'lungsound[remote]' is enough for http, https and s3"
        raise SettingsError(f"{place} needs a package that is not installed ({fault}): {advice}") from fault
    except Exception as fault:  # each of fsspec's file systems has errors of its own
        reason = getattr(fault, "strerror", None) or " ".join(str(fault).split()) or "no reason given"
        raise error(f"{place} is not reached ({type(fault).__name__}: {reason}); check it, and start again") from fault
