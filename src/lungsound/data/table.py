"""A corpus in one CSV or TSV file: a line for each cycle, with the sound file that it is in (docs/corpora.md)."""

import csv
import posixpath
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, FiniteFloat, ValidationError

from lungsound.data import tree
from lungsound.data.corpus import Corpus, Cycle, Problem, Recording, in_known_words, relabelled
from lungsound.errors import CorpusError, first_fault
from lungsound.labels import LabelMap, Unit

SUFFIXES = (".csv", ".tsv")
FACTS = ("device", "location", "mode", "age_years", "sex", "bmi", "diagnosis")
# What every line of one recording must say alike.
OF_RECORDING = ("name", "patient", "split", *FACTS)
OTHER_NAMES = {"start": "start_s", "end": "end_s"}
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}

Number = Annotated[FiniteFloat, Field(ge=0)]


class Row(BaseModel):
    """One line, without its blank cells."""

    path: str
    start_s: Number | None = None
    end_s: Number | None = None
    label: str | None = None
    crackle: bool = False
    wheeze: bool = False
    patient: str
    split: str = ""
    device: str | None = None
    location: str | None = None
    mode: str | None = None
    age_years: Number | None = None
    sex: Annotated[Literal["M", "F"] | None, BeforeValidator(lambda word: SEXES.get(word.lower(), word))] = None
    bmi: Number | None = None
    diagnosis: str | None = None
    name: str | None = None


COLUMNS = tuple(Row.model_fields)


def read_table(root: Path, *, unit: Unit = "cycle", label_map: LabelMap | None = None) -> Corpus:
    """The corpus in a table: `root` is the file, or a folder that holds exactly one.

    unit: "recording" when whole recordings are told apart: then no line may name a start and an end.
    label_map: what the labels (or the flags, as normal, crackle, wheeze, both) mean; without, see `in_known_words`.

    Problems: "bad row", "contradicting rows" (it says else than an earlier line of its recording), "unknown label",
    "bad sound file", "duplicate recording", and those of `cycle_faults`. CorpusError when there is no such file, or its
    first line lacks a column, has one twice, or has one that looks like a slip of the pen.
    """
    path = table_file(root)
    columns, lines = read_lines(path)
    _check_columns(columns, path)
    needed = [name for name in ("path", "label", "crackle", "wheeze", "patient", "split") if name in columns]
    problems, rows = [], []
    for number, values in lines:
        where = f"{path.name} line {number}"
        cells = {column: value for column, value in zip(columns, values, strict=False) if value}
        blank = [name for name in needed if name not in cells]
        fault = tree.unfit_part(cells.get("split", "train"))
        if blank:
            fault = f"{' and '.join(blank)} left blank, but needed on every line"
        if len(values) != len(columns):
            fault = f"{len(values)} cells, but line 1 names {len(columns)} columns"
        if fault is None:
            rows.append((where, cells))
        else:
            problems.append(Problem("bad row", where, fault))
    ignored = [column for column in columns if column not in COLUMNS]
    notes = [f"columns that are not read: {', '.join(ignored)}"] if ignored else []
    return corpus_of_rows("table", root, path.parent, rows, problems, notes=notes, unit=unit, label_map=label_map)


def corpus_of_rows(
    name: str,
    root: Path,
    folder: Path,
    rows: Sequence[tuple[str, Mapping[str, str]]],
    problems: list[Problem],
    *,
    notes: Sequence[str] = (),
    unit: Unit = "cycle",
    label_map: LabelMap | None = None,
) -> Corpus:
    """The corpus of the cycles in some rows, each a place and the cells that are not blank; sounds lie in `folder`."""
    first: dict[str, tuple[str, Row]] = {}
    recordings: dict[str, Recording] = {}
    split: dict[str, str] = {}
    cycles: list[tuple[str, Cycle]] = []
    sound_of_name: dict[str, str] = {}
    split_origin = ""
    for position, (where, cells) in enumerate(rows):
        try:
            row = Row.model_validate(cells)
        except ValidationError as error:
            problems.append(Problem("bad row", where, first_fault(error.errors())))
            continue
        sound = posixpath.normpath(row.path)
        if sound not in first:
            recording = tree.read_recording(
                folder / sound,
                problems,
                name=row.name or str(PurePosixPath(sound).with_suffix("")),
                patient=row.patient,
                where=where if where == sound else f"{where}: {sound}",
                **row.model_dump(include=set(FACTS)),
            )
            same = sound if recording is None else sound_of_name.setdefault(recording.name, sound)
            if same != sound:
                detail = f"{sound} has the same name as {same}: rename one, or give them names in a column 'name'"
                problems.append(Problem("duplicate recording", where, detail))
            elif recording is not None:
                recordings[sound], split[recording.name] = recording, row.split
        earlier_where, earlier = first.setdefault(sound, (where, row))
        differing = [name for name in OF_RECORDING if getattr(row, name) != getattr(earlier, name)]
        if differing:
            given = ", ".join(f"{name} {cells.get(name, '')!r}" for name in differing)
            detail = f"{given}, but {earlier_where} says otherwise of {sound}: make them agree"
            problems.append(Problem("contradicting rows", where, detail))
        elif (row.start_s is None) != (row.end_s is None):
            detail = "one of start_s and end_s is blank: fill both, or none for the whole recording"
            problems.append(Problem("bad row", where, detail))
        elif row.start_s is not None and unit == "recording":
            detail = "start_s and end_s, but the label set tells whole recordings apart: leave them blank"
            problems.append(Problem("bad row", where, detail))
        elif sound in recordings:
            own = recordings[sound]
            end_s = own.duration_s if row.end_s is None else row.end_s
            cycle = Cycle(own, row.start_s or 0.0, end_s, row.crackle, row.wheeze, row.label, position)
            cycles.append((where, cycle))
    if not any("split" in cells for _, cells in rows):
        split, split_origin = tree.split_patients(recordings.values())
    corpus = tree.assemble(
        name,
        root,
        recordings=recordings.values(),
        cycles=tree.usable_cycles(cycles, problems),
        split=split,
        problems=problems,
        notes=notes,
        split_origin=split_origin,
    )
    return in_known_words(corpus) if label_map is None else relabelled(corpus, label_map)


def table_file(root: Path) -> Path:
    """The table that `root` is, or the only one in the folder; CorpusError when there is none, or more than one."""
    if root.is_file() and root.suffix.lower() in SUFFIXES:
        return root
    tables = tables_in(tree.require_folder(root))
    if len(tables) != 1:
        names = ", ".join(table.name for table in tables) or "none"
        raise CorpusError(
            f"a table is one .csv or .tsv file with the columns path, patient and label; found in {root}: {names}"
        )
    return tables[0]


def tables_in(folder: Path) -> list[Path]:
    """The .csv and .tsv files of a folder whose first line names the columns that a table needs."""
    tables = []
    for path in tree.files_with_suffix(folder, SUFFIXES):
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            if not _missing(_columns(file.readline(), path)):
                tables.append(path)
    return tables


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


def _delimiter(first_line: str, path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return ";" if ";" in first_line and "," not in first_line else ","


def _columns(first_line: str, path: Path) -> list[str]:
    names = next(csv.reader([first_line], delimiter=_delimiter(first_line, path)), [])
    return [OTHER_NAMES.get(name.strip().lower(), name.strip().lower()) for name in names]


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
