"""Atomic writes of files and folders, checked records, the one gate for text that is read, the cache, names of paths.

Every text, CSV, JSON and TOML file that somebody may have written passes `read_text`, and its numbers `number` or the
limits of `parse_json` and `parse_toml`: too much, too deep or of another encoding is one error with file and place,
before it costs time or memory.
"""

import codecs
import contextlib
import csv
import fcntl
import gzip
import hashlib
import io
import json
import math
import os
import re
import reprlib
import secrets
import shutil
import tempfile
import tomllib
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from os.path import normpath
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lungsound.errors import LungsoundError, SettingsError, first_fault

# No real file comes near: a table of a million cycles has some 100 MB, the longest JSON of ours 2 MB, a recipe 4 kB.
MAX_TABLE_BYTES, MAX_JSON_BYTES, MAX_SETTINGS_BYTES = 2**28, 2**25, 2**20
MAX_DEPTH = 32  # of lists and tables in each other, and of the parts of a dotted key
MAX_COLUMNS = 1000
MAX_NUMBER = 400  # characters: the least float64 has 326 without an exponent
RECORD_SUFFIX = ".provenance.json"  # of the file beside a prediction in a format that has no room for it
_MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32"}  # the first begins as UTF-16's does
_MARKS |= {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*"""
_DEEP_KEY = re.compile(rf"(?:^|[{{,\[])[ \t]*{_PART}(?:\.[ \t]*{_PART}){{{MAX_DEPTH},}}+[=\]]", re.MULTILINE)

Model = TypeVar("Model", bound=BaseModel)

_PARTIAL = re.compile(r"\.[0-9a-f]{16}\.partial")
_SEAL = re.compile(r',\n "own_sha256": "([0-9a-f]{64})"\n\}\n\Z')
_RECORD = re.compile(r'\{"sha256": "(?P<sha256>[0-9a-f]{64})", (?P<rest>.*)\n')


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A new file beside `path` to write to: renamed to it when the block ends without an error, else removed.

    Several processes may write the same file at once: the last one's stays. A link at `path` is replaced, not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        raise SettingsError(f"{path} is a folder where a file is to be written: remove it, or choose another place")
    with _new_place(path.parent, wanted=path) as place:
        yield place
        place.replace(path)


def own_folder(root: Path, name: str) -> Path:
    """The folder `name` in `root`. SettingsError where a link stands in its place, which leads out of `root`."""
    folder = root / name
    if folder.is_symlink():
        raise SettingsError(f"{folder} is a link, and what is written there would land elsewhere: remove it")
    return folder


def require_room(out: Path) -> Path:
    """`out`, as a folder to write to. SettingsError for anything that stands in its way."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{out} cannot be made a folder ({error.strerror}): give another") from None
    return out


@contextmanager
def written_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to: renamed to `folder` when the block ends without an error, else removed.

    SettingsError, before anything is made, when `folder` is a file or holds something.
    """
    target = folder.resolve()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise SettingsError(f"{folder} is {'a file' if target.is_file() else 'not empty'}: give a new or empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _new_place(target.parent, wanted=folder, folder_mode=0o777) as place:
        yield place
        if target.is_dir():
            target.rmdir()
        place.replace(target)


@contextmanager
def written_together(folder: Path) -> Iterator[Path]:
    """A folder whose files move into `folder` when the block ends without an error, and are gone otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    with _new_place(folder, wanted=folder, folder_mode=0o777) as place:
        yield place
        for path in sorted(place.iterdir()):
            if path.is_file():
                path.replace(folder / path.name)


@contextmanager
def private_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder that nobody else can read, among the temporary ones or in `parent`, gone when the block ends."""
    folder = Path(tempfile.gettempdir()) if parent is None else parent
    folder.mkdir(parents=True, exist_ok=True)
    with _new_place(folder, wanted=folder, folder_mode=0o700) as place:
        yield place


def remove_folder(folder: Path) -> None:
    """Remove a folder at once: a process that is killed meanwhile leaves nothing of it in its place."""
    with _new_place(folder.parent, wanted=folder, folder_mode=0o777) as place:
        folder.replace(place)


@contextmanager
def _new_place(parent: Path, *, wanted: Path, folder_mode: int | None = None) -> Iterator[Path]:
    """A new file, or folder, whose name nobody can guess, and so none can link; gone at the end unless it was renamed.

    It is locked while it is written: one that nobody holds was left by a killed process. OSError by the `wanted` name,
    which the caller knows, where none can be made.
    """
    _remove_left(parent.absolute())
    try:
        place, handle = _locked_place(parent, folder_mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(wanted)) from None
    owner = os.getpid()
    try:
        yield place
    finally:
        if os.getpid() == owner:  # and not where a forked process lets go of what its parent goes on with
            _remove(place)
        os.close(handle)


def _locked_place(parent: Path, folder_mode: int | None) -> tuple[Path, int]:
    while True:
        place = parent / f".{secrets.token_hex(8)}.partial"
        if folder_mode is None:
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        else:
            place.mkdir(folder_mode)
            try:
                handle = os.open(place, os.O_RDONLY)
            except FileNotFoundError:
                continue  # as below
        with contextlib.suppress(OSError):  # a file system without locks, where nothing is taken for left either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if place.exists():
            return place, handle
        os.close(handle)  # another process took it, not yet locked, for one that was left


@cache
def _remove_left(folder: Path) -> None:
    """Remove what killed processes left in the folder; looked for once in each process."""
    for path in folder.iterdir() if os.access(folder, os.R_OK) else ():
        if _PARTIAL.fullmatch(path.name):
            with contextlib.suppress(OSError):  # it is being written, or is another user's
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(path)
                finally:
                    os.close(handle)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write the text (UTF-8) as a whole file; bytes of a name in it that are no UTF-8 are escaped."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, values: Any, *, is_sealed: bool = False) -> None:
    """Write the values as a whole JSON file, as `to_json` gives them.

    A sealed one, of a mapping, ends with a checksum over what stands before it, by which `parse_json` knows it again.
    """
    text = to_json(values, indent=1)
    if is_sealed:
        text = f'{text[:-2]},\n "own_sha256": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}'
    write_text(path, f"{text}\n")


def write_record(path: Path, values: Any, *, made_for: str) -> None:
    """Keep values that can be made again, as JSON under a checksum; `made_for` names all that they depend on."""
    rest = to_json({"made_for": made_for, "values": values}, indent=None)[1:]
    write_text(path, f'{{"sha256": "{hashlib.sha256(rest.encode()).hexdigest()}", {rest}\n')


def read_record(path: Path, *, made_for: str) -> Any:
    """The values that `write_record` kept; None where they are not there, damaged, or made for something else."""
    try:
        match = _RECORD.fullmatch(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    if match is None or hashlib.sha256(match["rest"].encode()).hexdigest() != match["sha256"]:
        return None
    record = json.loads("{" + match["rest"])
    return record["values"] if record["made_for"] == made_for else None


def hash_file(path: Path) -> str:
    """SHA-256 of the bytes of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def read_text(path: Path, error: type[LungsoundError], *, max_bytes: int = MAX_SETTINGS_BYTES) -> str:
    """Text of a file in UTF-8, with a byte order mark or without; decompressed if its name ends in .gz.

    `error`, with the path and the place in the file, for one that cannot be read, is too long, or is no such text.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, EOFError, zlib.error, ValueError) as reason:  # the last for a path that cannot be one
        raise error(f"cannot be read: {getattr(reason, 'strerror', None) or reason}", path=path) from None
    if len(data) > max_bytes:
        raise error(f"holds more than {max_bytes:,} bytes: no file of its kind is so long", path=path)
    return decoded(data, error, path=path)


def decoded(data: bytes, error: type[LungsoundError], *, path: Path | None = None) -> str:
    """Text in UTF-8. `error` that names another encoding, or the place of what is no text."""
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    if encoding is None and b"\0" in data[:2]:
        encoding = "UTF-16"  # without a mark
    if encoding is not None:
        raise error(f"is text in {encoding}: save it as UTF-8", path=path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        before = reason.object[: reason.start]
        column = len(before) - before.rfind(b"\n")
        detail = f"no text in UTF-8, from byte {column} of the line on: save it as UTF-8"
        raise error(detail, path=path, line=1 + before.count(b"\n")) from None


def parse_csv(
    text: str, error: type[LungsoundError], *, path: Path, delimiter: str = ","
) -> list[tuple[int, list[str]]]:
    """Rows that are not blank, with the numbers of the lines they end in. `error` for what is no CSV."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as reason:
        raise error(f"no valid CSV ({reason})", path=path, line=reader.line_num) from None
    if rows and len(rows[0][1]) > MAX_COLUMNS:
        raise error(f"{len(rows[0][1])} columns, of at most {MAX_COLUMNS}", path=path, line=rows[0][0])
    return rows


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV, in lines that end in LF; None is blank, a float written in full."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def number(text: str) -> float:
    """A finite number as people write it, in ASCII: 0.579, -3, 1e-3. ValueError for any other text."""
    if len(text) <= MAX_NUMBER and _NUMBER.fullmatch(text) and math.isfinite(value := float(text)):
        return value
    raise ValueError(f"{reprlib.repr(text)} is no number, such as 0.579")


def read_json(
    path: Path, error: type[LungsoundError], *, max_bytes: int = MAX_JSON_BYTES, is_nan_allowed: bool = False
) -> Any:
    """Values of a JSON file. `error`, with path and place, for any other file."""
    return parse_json(read_text(path, error, max_bytes=max_bytes), error, path=path, is_nan_allowed=is_nan_allowed)


def parse_json(text: str, error: type[LungsoundError], *, path: Path, is_nan_allowed: bool = False) -> Any:
    """Values of JSON; `error` for NaN and infinities (unless allowed), numbers without end, and too deep nesting.

    And for a file that was sealed and is not what was written.
    """

    def refuse(name: str) -> float:
        raise ValueError(f"{name} is no number of JSON")

    def of_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
            raise ValueError(f"the name {reprlib.repr(twice)} stands twice in an object")
        return values

    try:
        value = json.loads(
            text,
            parse_int=_whole,
            parse_float=number,
            parse_constant=float if is_nan_allowed else refuse,
            object_pairs_hook=of_unique_names,
        )
    except json.JSONDecodeError as reason:
        raise error(f"no valid JSON at column {reason.colno} ({reason.msg})", path=path, line=reason.lineno) from None
    except ValueError as reason:
        raise error(f"no valid JSON ({reason})", path=path) from None
    except RecursionError:
        raise error(f"is nested deeper than {MAX_DEPTH} levels", path=path) from None
    _check_depth(value, error, path)
    seal = _SEAL.search(text)
    if seal and hashlib.sha256(f"{text[: seal.start()]}\n}}".encode()).hexdigest() != seal[1]:
        raise error("is damaged, or was changed: it is not as it was written", path=path)
    return value


def _whole(digits: str) -> int:
    if len(digits) > MAX_NUMBER:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def parse_toml(text: str, error: type[LungsoundError], *, path: Path | None = None) -> dict[str, Any]:
    """Values of TOML. `error` for anything else, for numbers without end, and for too deep nesting."""
    if deep := _DEEP_KEY.search(text):  # the time of tomllib grows with the square of the parts of a key
        detail = f"a key of more than {MAX_DEPTH} parts"
        raise error(detail, path=path, line=1 + text.count("\n", 0, deep.start()))
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as reason:
        raise error(f"no valid TOML: {reason}", path=path) from None
    except ValueError:  # Python's own, for thousands of digits
        raise error("no valid TOML: a number of too many digits", path=path) from None
    except RecursionError:
        raise error(f"is nested deeper than {MAX_DEPTH} levels", path=path) from None
    _check_depth(values, error, path)
    return values


def _check_depth(value: Any, error: type[LungsoundError], path: Path | None) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for values in inner for each in values]
        if not level:
            return
    raise error(f"is nested deeper than {MAX_DEPTH} levels", path=path)


def shipped(*place: str) -> dict[str, Any]:
    """Values of a TOML file of the package."""
    return tomllib.loads(resources.files("lungsound").joinpath(*place).read_text(encoding="utf-8"))


def shipped_names(folder: str) -> list[str]:
    """Names of the TOML files in a folder of the package, without their suffix, sorted."""
    names = (each.name for each in resources.files("lungsound").joinpath(folder).iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def read_model(
    path: Path, model: type[Model], error: type[LungsoundError], *, advice: str = "", **options: Any
) -> Model:
    """A JSON file as a typed model, with the options of `read_json`. `error` that names what is not as expected."""
    try:
        return validated(read_json(path, error, **options), model, error, path=path)
    except error as reason:
        raise error(f"{reason.detail}{advice and f'; {advice}'}", path=path, line=reason.line) from None


def validated(values: Any, model: type[Model], error: type[LungsoundError], *, path: Path, advice: str = "") -> Model:
    """Values that were read from a file, as a typed model. `error` as `read_model`."""
    try:
        return model.model_validate(values)
    except ValidationError as reason:
        fault = first_fault(reason.errors())
        raise error(f"is not as expected: {fault}{advice and f'; {advice}'}", path=path) from None


class PredictionRecord(BaseModel):
    """The part of the record beside a predicted annotation by which one that somebody corrected is told."""

    file_sha256: str | None = None


def is_own_prediction(annotation: Path) -> bool:
    """True for an annotation that lungsound predicted and nobody has changed since, by the record beside it."""
    record = annotation.with_name(annotation.name + RECORD_SUFFIX)
    if not record.is_file():
        return False
    try:
        sha256 = read_model(record, PredictionRecord, LungsoundError).file_sha256
    except LungsoundError:
        return True  # nobody can say that it was corrected
    return sha256 is None or sha256 == hash_file(annotation)


def is_unfinished(folder: Path) -> bool:
    """True for the folder of a run that was not trained to its end and evaluated."""
    is_of_transformers = (folder / "preprocessor_config.json").is_file()  # an export, which has a config.json too
    return (folder / "config.json").is_file() and not (folder / "report.json").is_file() and not is_of_transformers


def as_text(name: str | os.PathLike[str]) -> str:
    """A name of a file as text that every encoding holds: bytes that are no UTF-8 are escaped."""
    return os.fspath(name).encode("utf-8", "backslashreplace").decode("utf-8")


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
