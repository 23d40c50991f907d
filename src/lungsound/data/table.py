"""A corpus in one CSV or TSV file: a line for each cycle, with the sound file that it is in.

The first line names the columns, in any order:

    path              sound file, relative to the table
    start_s, end_s    the cycle, in seconds (also: start, end); without both, or blank: the whole recording
    label             the sound, in one word; or instead
    crackle, wheeze   two flags: 0 or 1, false or true
    patient           whose recording it is: nobody may train and be tested
    split             part of the recording: "train", and any other names for parts that are tested ("test")
    device, location, mode, age_years, sex, bmi, diagnosis, name    optional facts of the recording

path, patient and label (or both flags) are needed. Without a column split, 60 % of the patients train
(`tree.split_patients`). Without a column name a recording is called by its path without the suffix.

Labels are words of one label set ("normal, crackle, wheeze, both"; or SPRSound's), else a label map reads them.
Cells of a .tsv are separated by tabs, those of a .csv by commas, or semicolons when its first line has no comma.
"""

import csv
import math
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from lungsound.data.corpus import Corpus, Cycle, Placed, Problem, Recording, read_words
from lungsound.data.tree import (
    assemble,
    files_with_suffix,
    read_recording,
    require_folder,
    split_patients,
    unfit_part,
    usable_cycles,
)
from lungsound.errors import CorpusError
from lungsound.labels import LabelMap, Unit

SUFFIXES = (".csv", ".tsv")
FACTS = ("device", "location", "mode", "age_years", "sex", "bmi", "diagnosis")
COLUMNS = ("path", "start_s", "end_s", "label", "crackle", "wheeze", "patient", "split", *FACTS, "name")
_OTHER_NAMES = {"start": "start_s", "end": "end_s"}
# What every line of one recording must say alike.
_OF_RECORDING = ("name", "patient", "split", *FACTS)
_FLAGS = {"0": False, "false": False, "1": True, "true": True}
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}


@dataclass(frozen=True)
class _Row:
    """One line: where it stands, the path of its sound in one spelling, and its cells by column but for blank ones."""

    where: str
    sound: str
    cells: Mapping[str, str]


def read_table(root: Path, *, unit: Unit = "cycle", label_map: LabelMap | None = None) -> Corpus:
    """The corpus in a table: `root` is the file, or a folder that holds exactly one.

    unit: "recording" when whole recordings are told apart: then no line may name a start and an end.
    label_map: what the labels (or the flags, as normal, crackle, wheeze, both) mean; without, see `read_words`.

    Problems: "bad row", "contradicting rows" (it says else than an earlier line of its recording), whose cycle is
    left out; "unknown label", "bad sound file", "duplicate recording", and those of `usable_cycles`.

    Raises CorpusError when there is no such file, or its first line lacks a column, has one twice, or has one that
    looks like a slip of the pen. Other columns are not read, and stand in `notes`.
    """
    path = table_file(root)
    problems: list[Problem] = []
    columns, rows = _read_rows(path, problems)
    recordings, rows = _read_recordings(rows, path.parent, problems)
    placed: Placed = []
    for position, row in enumerate(rows):
        try:
            cycle = _read_cycle(row, recordings[row.sound], unit)
            placed.append((row.where, replace(cycle, position=position)))
        except ValueError as error:
            problems.append(Problem("bad row", row.where, str(error)))
    placed, vocabulary, notes = read_words(placed, label_map, path.name, problems)
    split = {recordings[row.sound].name: row.cells.get("split", "") for row in rows}
    split_origin = ""
    if "split" not in columns:
        split, split_origin = split_patients(recordings.values())
    ignored = [column for column in columns if column not in COLUMNS]
    return assemble(
        "table",
        root,
        recordings=recordings.values(),
        cycles=usable_cycles(placed, problems),
        split=split,
        problems=problems,
        notes=[*notes, *([f"columns that are not read: {', '.join(ignored)}"] if ignored else [])],
        vocabulary=vocabulary,
        split_origin=split_origin,
    )


def table_file(root: Path) -> Path:
    """The table that `root` is, or the only one in the folder; CorpusError when there is none, or more than one."""
    if root.is_file() and root.suffix.lower() in SUFFIXES:
        return root
    tables = tables_in(require_folder(root))
    if len(tables) != 1:
        names = ", ".join(table.name for table in tables) or "none"
        raise CorpusError(
            f"a table is one .csv or .tsv file with the columns path, patient and label; found in {root}: {names}"
        )
    return tables[0]


def tables_in(folder: Path) -> list[Path]:
    """The .csv and .tsv files of a folder whose first line names the columns that a table needs."""
    tables = []
    for path in files_with_suffix(folder, SUFFIXES):
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            if not _missing(_columns(file.readline(), path)):
                tables.append(path)
    return tables


def _delimiter(first_line: str, path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return ";" if ";" in first_line and "," not in first_line else ","


def _columns(first_line: str, path: Path) -> list[str]:
    names = next(csv.reader([first_line], delimiter=_delimiter(first_line, path)), [])
    return [_OTHER_NAMES.get(name.strip().lower(), name.strip().lower()) for name in names]


def _missing(columns: Sequence[str]) -> list[str]:
    missing = [name for name in ("path", "patient") if name not in columns]
    if "label" not in columns and not {"crackle", "wheeze"} <= set(columns):
        missing.append("label (or crackle and wheeze)")
    return missing


def _check_columns(columns: Sequence[str], path: Path) -> None:
    detail = None
    if _missing(columns):
        detail = f"no column {' and no '.join(_missing(columns))}; it names {', '.join(columns)}"
    elif "label" in columns and {"crackle", "wheeze"} & set(columns):
        detail = "columns label and crackle, wheeze both name the sound: keep one of them"
    elif ("start_s" in columns) != ("end_s" in columns):
        detail = "start_s and end_s, one without the other: give both columns or neither"
    for column in columns if detail is None else ():
        meant = get_close_matches(column, COLUMNS, n=1, cutoff=0.75)
        if columns.count(column) > 1:
            detail = f"two columns are called {column!r}: keep one of them"
        elif column not in COLUMNS and meant:
            detail = f"unknown column {column!r}: write {meant[0]!r} if that is meant, else rename it"
    if detail is not None:
        raise CorpusError(detail, path=path, line=1)


def read_lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Columns of a CSV or TSV file (lower case), and its other lines with their numbers; CorpusError for no text."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first_line = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=_delimiter(first_line, path), strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"cannot be read as a table in UTF-8 ({error})", path=path) from None
    return _columns(first_line, path), [(number, cells) for number, cells in lines[1:] if any(cells)]


def _read_rows(path: Path, problems: list[Problem]) -> tuple[list[str], list[_Row]]:
    """The columns, and the lines that have as many cells and none blank that is needed."""
    columns, lines = read_lines(path)
    _check_columns(columns, path)
    needed = [name for name in ("path", "label", "crackle", "wheeze", "patient", "split") if name in columns]
    rows = []
    for number, values in lines:
        where = f"{path.name} line {number}"
        cells = {column: value for column, value in zip(columns, values, strict=False) if value}
        blank = [name for name in needed if name not in cells]
        problem = unfit_part(cells.get("split", "train"))
        if blank:
            problem = f"{' and '.join(blank)} left blank, but needed on every line"
        if len(values) != len(columns):
            problem = f"{len(values)} cells, but line 1 names {len(columns)} columns"
        if problem is not None:
            problems.append(Problem("bad row", where, problem))
        else:
            rows.append(_Row(where, posixpath.normpath(cells["path"]), cells))
    return columns, rows


def _read_recordings(
    rows: Iterable[_Row], folder: Path, problems: list[Problem]
) -> tuple[dict[str, Recording], list[_Row]]:
    """Recordings by the path of their sound, and the rows that agree with the first row of theirs."""
    first: dict[str, _Row] = {}
    recordings: dict[str, Recording] = {}
    sound_of: dict[str, str] = {}
    kept = []
    for row in rows:
        if row.sound not in first:
            recording = _read(row, folder, problems)
            if recording is not None and sound_of.setdefault(recording.name, row.sound) != row.sound:
                same = sound_of[recording.name]
                detail = f"{row.sound} has the same name as {same}: give them names in a column 'name'"
                problems.append(Problem("duplicate recording", row.where, detail))
            elif recording is not None:
                recordings[row.sound] = recording
        earlier = first.setdefault(row.sound, row)
        differing = [name for name in _OF_RECORDING if row.cells.get(name) != earlier.cells.get(name)]
        if differing:
            given = ", ".join(f"{name} {row.cells.get(name, '')!r}" for name in differing)
            detail = f"{given}, but {earlier.where} says otherwise of {row.sound}: make them agree"
            problems.append(Problem("contradicting rows", row.where, detail))
        elif row.sound in recordings:
            kept.append(row)
    return recordings, kept


def _read(row: _Row, folder: Path, problems: list[Problem]) -> Recording | None:
    cells = row.cells
    try:
        age_years, bmi = _number(cells, "age_years"), _number(cells, "bmi")
        sex = _SEXES[cells["sex"].lower()] if "sex" in cells else None
    except (ValueError, KeyError) as error:
        detail = f"sex {cells['sex']!r}, expected M or F, or blank" if isinstance(error, KeyError) else str(error)
        problems.append(Problem("bad row", row.where, detail))
        return None
    name = cells.get("name", str(PurePosixPath(row.sound).with_suffix("")))
    facts = {key: cells.get(key) for key in FACTS} | {"age_years": age_years, "sex": sex, "bmi": bmi}
    where = f"{row.where}: {row.sound}"
    return read_recording(folder / row.sound, problems, name=name, patient=cells["patient"], where=where, **facts)


def _read_cycle(row: _Row, recording: Recording, unit: Unit) -> Cycle:
    """The cycle of a row, its label as its term. ValueError for times or flags that are none."""
    cells = row.cells
    start_s, end_s = _number(cells, "start_s"), _number(cells, "end_s")
    if (start_s is None) != (end_s is None):
        raise ValueError("one of start_s and end_s is blank: fill both, or none for the whole recording")
    if start_s is not None and unit == "recording":
        raise ValueError("start_s and end_s, but the label set tells whole recordings apart: leave them blank")
    flags = {name: _FLAGS.get(cells.get(name, "0").lower()) for name in ("crackle", "wheeze")}
    for name, flag in flags.items():
        if flag is None:
            raise ValueError(f"{name} is {cells[name]!r}, expected 0 or 1, false or true")
    return Cycle(
        recording,
        0.0 if start_s is None else start_s,
        recording.duration_s if end_s is None else end_s,
        has_crackle=bool(flags["crackle"]),
        has_wheeze=bool(flags["wheeze"]),
        term=cells.get("label"),
    )


def _number(cells: Mapping[str, str], name: str) -> float | None:
    if name not in cells:
        return None
    try:
        value = float(cells[name])
    except ValueError:
        raise ValueError(f"{name} is {cells[name]!r}, expected a number") from None
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is {cells[name]!r}, expected 0 or more")
    return value
