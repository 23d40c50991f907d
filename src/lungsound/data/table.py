"""A corpus in one CSV or TSV file: a line for each cycle, with the sound file that it is in (docs/corpora.md)."""

import posixpath
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, FiniteFloat, ValidationError

from lungsound.data import tree
from lungsound.data.corpus import Corpus, Cycle, Problem, Recording, in_known_words, relabelled
from lungsound.errors import CorpusError, first_fault
from lungsound.files import MAX_TABLE_BYTES, as_text, decoded, first_names, number, parse_csv, read_text
from lungsound.labels import LabelMap, Unit

SUFFIXES = (".csv", ".tsv")
MAX_LINE_BYTES = 2**16  # of the first
ESCAPED = re.compile(r"\\u(dc[89a-f][0-9a-f])")  # a byte of a name that is no UTF-8, as `as_text` writes it
FACTS = ("device", "location", "mode", "age_years", "sex", "bmi", "diagnosis")
# What every line of one recording must say alike.
OF_RECORDING = ("name", "patient", "split", *FACTS)
OTHER_NAMES = {"start": "start_s", "end": "end_s"}
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}

Number = Annotated[FiniteFloat, Field(ge=0)]
Cell = Annotated[Number, BeforeValidator(lambda cell: number(cell) if isinstance(cell, str) else cell)]


class Row(BaseModel):
    """One line, without its blank cells."""

    path: Annotated[str, AfterValidator(lambda path: _printable(path))]
    start_s: Cell | None = None
    end_s: Cell | None = None
    label: str | None = None
    crackle: bool = False
    wheeze: bool = False
    patient: Annotated[str, AfterValidator(tree.patient_name), Field(min_length=1)]
    split: str = ""
    device: str | None = None
    location: str | None = None
    mode: str | None = None
    age_years: Cell | None = None
    sex: Annotated[Literal["M", "F"] | None, BeforeValidator(lambda word: SEXES.get(word.lower(), word))] = None
    bmi: Cell | None = None
    diagnosis: str | None = None
    name: str | None = None


COLUMNS = tuple(Row.model_fields)


def read_table(
    root: Path, *, unit: Unit = "cycle", label_map: LabelMap | None = None, text: str | None = None
) -> Corpus:
    """The corpus in a table: `root` is the file, or a folder that holds exactly one.

    `unit` "recording" tells whole recordings apart: then no line may name a start and an end. Problems: "bad row",
    "contradicting rows" (it says else than an earlier line of its recording), "unknown label", "bad sound file",
    "duplicate recording", and those of `cycle_faults`. CorpusError for no such file, or a first line with columns that
    cannot be. `text` is what the file will hold, in place of what it holds.
    """
    path = table_file(root) if text is None else root
    columns, lines = read_lines(path, text=text)
    _check_columns(columns, path)
    needed = [name for name in ("path", "label", "crackle", "wheeze", "patient", "split") if name in columns]
    problems, rows, spellings = [], [], dict[str, str]()
    for line, values in lines:
        where = f"{path.name} line {line}"
        cells = {column: value for column, value in zip(columns, values, strict=False) if value}
        blank = [name for name in needed if name not in cells]
        fault = _misfit(columns, values)
        if fault is None and blank:
            fault = f"{' and '.join(blank)} left blank, but needed on every line"
        if fault is None:
            fault = tree.unfit_part(cells.get("split", "train"), spellings)
        if fault is None:
            rows.append((where, cells))
        else:
            problems.append(Problem("bad row", where, fault))
    ignored = [column for column in columns if column not in COLUMNS]
    notes = [f"columns that are not read: {first_names(ignored, 10)}"] if ignored else []
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
    first_path: dict[str | tuple[int, int], str] = {}
    recordings: dict[str, Recording] = {}
    split: dict[str, str] = {}
    cycles: list[tuple[str, Cycle]] = []
    sound_of_name: dict[str, str] = {}
    split_origin = ""
    for position, (where, cells) in enumerate(rows):
        try:
            row = Row.model_validate(cells)
        except ValidationError as error:
            problems.append(Problem("bad row", as_text(where), first_fault(error.errors())))
            continue
        where = as_text(where)
        if not PurePosixPath(row.path).name:
            problems.append(Problem("bad row", where, f"path {row.path!r} names no file"))
            continue
        sound = _one_path(folder, row.path, first_path)
        if sound not in first:
            recording = tree.read_recording(
                folder / sound,
                problems,
                name=row.name or str(PurePosixPath(sound).with_suffix("")),
                patient=row.patient,
                where=where if where == as_text(sound) else f"{where}: {sound}",
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
            problems.append(Problem("contradicting rows", where, as_text(detail)))
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
    return [path for path in tree.files_with_suffix(folder, SUFFIXES) if misread(path) is None]


def misread(path: Path) -> str | None:
    """Reason why a file is no table of a corpus, by its first line; None for one."""
    with path.open("rb") as file:
        first_line = re.split(rb"[\r\n]", file.read(MAX_LINE_BYTES), maxsplit=1)[0]
    try:
        return _missing(_columns(decoded(first_line, CorpusError, path=path), path))
    except CorpusError as error:
        return error.detail


def read_lines(path: Path, *, text: str | None = None) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Columns of a CSV or TSV file (lower case), and its other lines with their numbers; CorpusError for no text.

    With `text` these are what the file will hold.
    """
    if text is None:
        text = read_text(path, CorpusError, max_bytes=MAX_TABLE_BYTES)
    first_line = re.split(r"[\r\n]", text[:MAX_LINE_BYTES], maxsplit=1)[0]
    rows = parse_csv(text, CorpusError, path=path, delimiter=_delimiter(first_line, path))
    lines = [(line, [cell.strip() for cell in cells]) for line, cells in rows]
    return _columns(first_line, path), [(line, cells) for line, cells in lines[1:] if any(cells)]


def cells_of(columns: Sequence[str], values: Sequence[str], path: Path, line: int) -> dict[str, str]:
    """Cells of a line by their columns. CorpusError for more or fewer of them."""
    if fault := _misfit(columns, values):
        raise CorpusError(fault, path=path, line=line)
    return dict(zip(columns, values, strict=True))


def _misfit(columns: Sequence[str], values: Sequence[str]) -> str | None:
    if len(values) == len(columns):
        return None
    return f'{len(values)} cells, but line 1 names {len(columns)} columns: put cells with a separator into "..."'


def _one_path(folder: Path, path: str, known: dict[str | tuple[int, int], str]) -> str:
    """The path as first written of the file that a path leads to, by whatever way (a link, `./`, escaped bytes)."""
    sound = posixpath.normpath(path)
    if ESCAPED.search(sound) and not (folder / sound).exists():
        sound = ESCAPED.sub(lambda match: chr(int(match[1], 16)), sound)
    if sound not in known:
        try:
            facts = (folder / sound).stat()
        except OSError:
            known[sound] = sound
        else:
            known[sound] = known.setdefault((facts.st_dev, facts.st_ino), sound)
    return known[sound]


def _printable(path: str) -> str:
    if not all(each.isprintable() or "\udc80" <= each <= "\udcff" for each in path):  # the latter: no UTF-8
        raise ValueError("holds a character that names of files do not have")
    return path


def _delimiter(first_line: str, path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return next((each for each in ",;\t" if each in first_line), ",")


def _columns(first_line: str, path: Path) -> list[str]:
    rows = parse_csv(first_line, CorpusError, path=path, delimiter=_delimiter(first_line, path))
    names = rows[0][1] if rows else []
    return [OTHER_NAMES.get(name.strip().lower(), name.strip().lower()) for name in names]


def _missing(columns: Sequence[str]) -> str | None:
    missing = [name for name in ("path", "patient") if name not in columns]
    if "label" not in columns and not {"crackle", "wheeze"} <= set(columns):
        missing.append("label (or crackle and wheeze)")
    names = first_names([repr(each) for each in columns], 12)
    return f"no column {' and no '.join(missing)}; it names {names}" if missing else None


def _check_columns(columns: Sequence[str], path: Path) -> None:
    detail = _missing(columns)
    if detail is None and "label" in columns and {"crackle", "wheeze"} & set(columns):
        detail = "columns label and crackle, wheeze both name the sound: keep one of them"
    if detail is None and ("start_s" in columns) != ("end_s" in columns):
        detail = "start_s and end_s, one without the other: give both columns or neither"
    for column in columns if detail is None else ():
        meant = get_close_matches(column, COLUMNS, n=1, cutoff=0.75)
        if columns.count(column) > 1:
            detail = f"two columns are called {column!r}: keep one of them"
        elif column not in COLUMNS and meant:
            detail = f"unknown column {column!r}: write {meant[0]!r} if that is meant, else rename it"
    if detail is not None:
        raise CorpusError(detail, path=path, line=1)
