"""Every error that a user can cause, as one tree.

Each message is one line that says what was given, what is needed and what to do. The command line prints it and ends
with exit code 2; any other exception is a bug and ends with exit code 1. An error carries the parts of
its message as fields.
"""

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MAX_DETAIL = 2000  # characters


class LungsoundError(Exception):
    """Base of all errors that a user can cause and fix: `detail`, at `line` (from 1) of the file `path` if known."""

    exit_code = 2

    def __init__(self, detail: str = "", *, path: Path | None = None, line: int | None = None) -> None:
        if len(detail) > MAX_DETAIL:  # of what was given nobody reads thousands of characters
            detail = f"{detail[: MAX_DETAIL // 2]} ... {detail[-MAX_DETAIL // 2 :]}"
        super().__init__(detail)
        self.detail, self.path, self.line = detail, path, line

    def __str__(self) -> str:
        place = "" if self.line is None else f", line {self.line}"
        return self.detail if self.path is None else f"{self.path}{place}: {self.detail}"


class DataError(LungsoundError):
    """An error in recordings, annotations, predictions or a corpus."""

    @property
    def where(self) -> str:
        """Name of the file, and the line in it."""
        name = "" if self.path is None else self.path.name
        return name if self.line is None else f"{name} line {self.line}"


class AudioError(DataError):
    """A sound file that cannot be read or used; its message is a sentence about the path."""

    def __str__(self) -> str:
        return self.detail if self.path is None else f"{self.path} {self.detail}"


class TooLongError(AudioError):
    """A sound file that holds more than is decoded of one."""


class CorpusFileError(DataError):
    """An error in a file of a corpus, whose folder is known: the message names the file alone."""

    def __str__(self) -> str:
        return self.detail if self.path is None else f"{self.where}: {self.detail}"


class AnnotationError(CorpusFileError):
    """An annotation file that cannot be understood."""


class CorpusError(CorpusFileError):
    """A folder that is not the corpus it should be."""


class SettingsError(LungsoundError):
    """A recipe, an override or an option that makes no sense."""


class RunBusyError(SettingsError):
    """The folder of a run in which another training is at work."""


class WeightsError(LungsoundError):
    """A checkpoint or pretrained weights that cannot be read or do not fit."""


class FetchError(LungsoundError):
    """Something that could not be downloaded or verified."""


def first_fault(faults: Sequence[Mapping[str, Any]]) -> str:
    """Place, given value and reason of the first of the `errors()` that pydantic found, and how many more."""
    first, num_more = faults[0], len(faults) - 1
    place = ".".join(map(str, first["loc"]))
    given = "" if first["type"] == "missing" else f" is {reprlib.repr(first['input'])}"
    more = f" (and {num_more} more)" if num_more else ""
    return f"{place}{given}: {first['msg']}{more}" if place else f"{first['msg']}{more}"
