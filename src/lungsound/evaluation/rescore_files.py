"""What a file of answers holds once it is read: rows with classes and patients, and the counts made of them.

The classes of a stranger's file: what they are called, in which order, and which of them is the normal one.

A confusion matrix from anyone's file: JSON, CSV, TSV, or numbers with blanks between, as numpy prints them.

Anyone's file of answers: a table with a row per cycle, or a confusion matrix.

A table has a header. Its columns are found by their names (`ROLES`; case and signs do not matter), or are named by the
caller: the true class and the answer (without an answer the likeliest class is taken), and if there are such the
patient, the recording, the part of the split, and a probability for each class (`p_<class>`, `prob_<class>`,
`proba_<class>` or `probability_<class>`, the class by name or index). Classes are written by name or by index.
"""

import csv
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lungsound.errors import DataError, SettingsError
from lungsound.evaluation.metrics import Counts, Rankings
from lungsound.evaluation.predictions import SUM_TOLERANCE, opened
from lungsound.labels import LABEL_SETS

PATIENT, RECORDING = "patient", "recording"


@dataclass(frozen=True)
class Reading:
    """How a file is to be read, where its own words do not say it.

    `columns` are names of columns by role ("label", "answer", "patient", "recording", "part"), `classes` the classes in
    the order of the file's indices or rows, `normal` the one that is normal; `is_transposed` says that the rows of a
    matrix are the answers, `are_counts` that numbers which look like percentages are counts all the same.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    classes: Sequence[str] = ()
    normal: str | None = None
    is_transposed: bool = False
    are_counts: bool = False


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts `(unit, true class, answered class)` of some parts of a file; class 0 is the normal one.

    `parts` are the parts of the split, none where the file has none. `unit` is "patient" or "recording", "" when
    neither is known: there is then one unit, `no_unit` says why, and no interval can be given. `rankings` are None
    without probabilities.
    """

    parts: tuple[str, ...]
    classes: tuple[str, ...]
    confusions: Counts
    unit: str
    no_unit: str = ""
    rankings: Rankings | None = None
    notes: tuple[str, ...] = ()

    @property
    def part(self) -> str:
        """The parts in words; "" without any."""
        return ", ".join(self.parts)

    @property
    def confusion(self) -> Counts:
        """All units together."""
        return np.asarray(self.confusions.sum(axis=0))


@dataclass(frozen=True, eq=False)
class Answers:
    """The rows of a predictions file: class indices `(row,)`, probabilities `(row, class)` or None.

    `units` has the patient or recording of each row, and is empty when neither is known; `parts` has the part of the
    split of each row.
    """

    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64] | None
    parts: tuple[str, ...]
    unit: str
    units: tuple[str, ...]
    no_unit: str
    notes: tuple[str, ...]

    def part_names(self) -> tuple[str, ...]:
        """The parts of the split, in the order in which they first come."""
        return tuple(dict.fromkeys(self.parts))

    def tally(self, parts: Sequence[str]) -> Tally:
        """The counts of the rows of these parts of the split."""
        rows = np.flatnonzero([part in parts for part in self.parts])
        names = [self.units[row] for row in rows] if self.units else [""] * len(rows)
        _, place = np.unique(np.array(names), return_inverse=True)
        units = place.astype(np.int64)
        labels, answers, num_classes = self.labels[rows], self.answers[rows], len(self.classes)
        counts = np.zeros((int(units.max()) + 1, num_classes, num_classes), dtype=np.int64)
        np.add.at(counts, (units, labels, answers), 1)
        rankings = None
        if self.probabilities is not None:
            rankings = Rankings.of(self.probabilities[rows], labels, units)
        return Tally(tuple(filter(None, parts)), self.classes, counts, self.unit, self.no_unit, rankings, self.notes)


# Spellings as `plain` gives them.
NORMAL_SPELLINGS = frozenset({"normal", "healthy", "norm", "n", "none", "negative", "neg", "no", "healthy normal"})
POOR_QUALITY_SPELLINGS = frozenset({"poor quality", "poor", "pq"})
# What the indices of a file without names most likely mean.
USUAL_CLASSES = {2: LABEL_SETS["sound2"].classes, 4: LABEL_SETS["sound4"].classes}


def plain(name: str) -> str:
    """A class name without the differences that mean nothing: case, blanks, underscores, signs."""
    return re.sub(r"[^0-9a-z]+", " ", name.casefold()).strip()


def whole_number(text: str) -> int | None:
    """The index that "3", "3.0" or " 3 " writes; None for anything else."""
    found = re.fullmatch(r"\s*(-?\d+)(\.0*)?\s*", text)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class FileClasses:
    """The classes in the file's own order, `normal` the index of the normal one; `notes` say what was assumed."""

    names: tuple[str, ...]
    normal: int
    notes: tuple[str, ...] = ()

    @property
    def order(self) -> tuple[int, ...]:
        """Indices in the file's order, the normal class put first."""
        return (self.normal, *(index for index in range(len(self.names)) if index != self.normal))

    @property
    def normal_first(self) -> tuple[str, ...]:
        return tuple(self.names[index] for index in self.order)

    def index(self, text: str) -> int | None:
        """Place in `normal_first` of a class written by its name or its index; None when it is neither."""
        spellings = [plain(name) for name in self.names]
        if plain(text) in spellings:
            return self.order.index(spellings.index(plain(text)))
        number = whole_number(text)
        return self.order.index(number) if number is not None and 0 <= number < len(self.names) else None


def given_classes(names: Sequence[str], normal: str | None) -> FileClasses:
    """The classes that the user named, in the file's order. Raises SettingsError when they cannot be classes."""
    if len(names) < 2 or len({plain(name) for name in names}) != len(names) or not all(map(plain, names)):
        raise SettingsError(f"--classes needs two or more different names, as in normal,crackle; got {','.join(names)}")
    place = _normal_place(names, normal)
    if place is None:
        return FileClasses(tuple(names), 0, (f"Class {names[0]!r}, the first of --classes, is taken as normal.",))
    return FileClasses(tuple(names), place)


def classes_of_indices(num_classes: int, normal: str | None) -> FileClasses:
    """The classes of a file that writes indices only, 0 to `num_classes` - 1."""
    names = USUAL_CLASSES.get(num_classes, tuple(f"class {index}" for index in range(num_classes)))
    if normal is not None:
        return FileClasses(names, _required_place(names, normal))
    return FileClasses(
        names, 0, (f"Indices 0 to {num_classes - 1} are read as {', '.join(names)}; --classes says otherwise.",)
    )


def classes_of_names(names: Iterable[str], normal: str | None, *, source: str) -> FileClasses:
    """The classes of a file that writes names, in the order in which they come (spellings of one name count once).

    The four lung sounds are put into ICBHI's order. Raises DataError when none of them is called normal.
    """
    spelled = {plain(name): name.strip() for name in reversed(list(names))}
    first_seen = list(dict.fromkeys(reversed(spelled)))
    known = [plain(name) for name in USUAL_CLASSES[4]]
    ordered = known if set(first_seen) == set(known) else first_seen
    found = tuple(spelled[name] for name in ordered)
    if len(found) < 2:
        raise DataError(f"{source}: all rows are of class {', '.join(found)!r}; name all classes with --classes")
    place = _normal_place(found, normal)
    if place is None:
        raise DataError(f"{source}: no class is called normal ({', '.join(found)}): name it with --normal NAME")
    return FileClasses(found, place)


def _normal_place(names: Sequence[str], normal: str | None) -> int | None:
    """Index of the normal class: the one that the user names, else the one that is called so."""
    if normal is not None:
        return _required_place(names, normal)
    places = [index for index, name in enumerate(names) if plain(name) in NORMAL_SPELLINGS]
    return places[0] if len(places) == 1 else None


def _required_place(names: Sequence[str], normal: str) -> int:
    spellings = [plain(name) for name in names]
    number = whole_number(normal)
    if plain(normal) in spellings:
        return spellings.index(plain(normal))
    if number is not None and 0 <= number < len(names):
        return number
    raise SettingsError(f"--normal {normal}: no such class; the classes are {', '.join(names)}")


MATRIX_KEYS = ("confusion", "confusion_matrix", "matrix", "cm")
CLASSES_KEYS = ("classes", "class_names", "labels")
NO_UNIT = (
    "a bare matrix does not say which cycles are of one patient, and a binomial interval, which takes every cycle for "
    "a patient of its own, would be too narrow"
)
# Row percentages are whole numbers too; rounded, they may sum to a little more or less.
PERCENT, PERCENT_TOLERANCE = 100, 1
_NEEDED = "a square table of counts of cycles is needed, rows the true class"


def read_json_matrix(path: Path, value: Any, reading: Reading) -> Tally:
    """The matrix in a JSON value: a list of rows, or an object with one of `MATRIX_KEYS` (and of `CLASSES_KEYS`)."""
    names: list[str] = []
    if isinstance(value, dict):
        key = next((key for key in MATRIX_KEYS if key in value), None)
        if key is None:
            raise DataError(f"{path}: no entry {', '.join(MATRIX_KEYS[:-1])} or {MATRIX_KEYS[-1]}; {_NEEDED}")
        names = next(([str(name) for name in value[key]] for key in CLASSES_KEYS if _is_list(value.get(key))), [])
        value = value[key]
    if not _is_list(value) or not all(_is_list(row) for row in value):
        raise DataError(f"{path}: the matrix is no list of lists; {_NEEDED}")
    rows = [[_text(cell) for cell in row] for row in value]
    places = [f"row {index + 1} of the matrix" for index in range(len(rows))]
    return _tally(path, places, rows, names, reading)


def may_be_matrix(text: str) -> bool:
    """Whether the first line holds a number, or as many names as there are rows of numbers (one more with a corner)."""
    first, *others = [cells for _, cells in _table(text)] or [[]]
    is_named = len(first) in (len(others), len(others) + 1) and all(_is_number(c) for row in others for c in row[1:])
    return any(map(_is_number, first)) or is_named


def read_text_matrix(path: Path, text: str, reading: Reading) -> Tally:
    """The matrix in a text, with or without a line and a column of class names; lines from # on are left out."""
    table = _table(text)
    if not table:
        raise DataError(f"{path} is empty: {_NEEDED}")
    names: list[str] = []
    if _is_head(table[0][1], num_lines=len(table)):
        names = table.pop(0)[1]
    rows = [cells for _, cells in table]
    row_names = []
    if _are_rows_named(rows):
        row_names, rows = [cells[0] for cells in rows], [cells[1:] for cells in rows]
    if len(names) == len(rows) + 1:
        names = names[1:]
    if names and row_names and [plain(name) for name in names] != [plain(name) for name in row_names]:
        raise DataError(
            f"{path}: the columns are {', '.join(names)} and the rows {', '.join(row_names)}; both need the same "
            "classes in the same order"
        )
    places = [place for place, _ in table]
    return _tally(path, places, rows, names or row_names, reading)


def _tally(
    path: Path,
    places: Sequence[str],
    rows: Sequence[Sequence[str]],
    names: Sequence[str],
    reading: Reading,
) -> Tally:
    """The tally of the rows, checked, with true classes along the rows and the normal class first."""
    num_classes = len(rows)
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for index, (place, row) in enumerate(zip(places, rows, strict=True)):
        if len(row) != num_classes:
            raise DataError(f"{path}, {place}: {len(row)} numbers in a matrix of {num_classes} rows; {_NEEDED}")
        for column, cell in enumerate(row):
            number = whole_number(cell)
            if number is None or number < 0:
                raise DataError(f"{path}, {place}: {cell!r} is no count of cycles; {_NEEDED}, not of shares")
            counts[index, column] = number
    if num_classes < 2 or not counts.any():
        raise DataError(f"{path}: a matrix of {num_classes} classes and {counts.sum()} cycles; {_NEEDED}")
    found = _classes(path, num_classes, names, reading)
    if not reading.are_counts:
        _refuse_percentages(path, counts)
    if reading.is_transposed:
        counts = counts.T
    order = list(found.order)
    confusions = counts[np.newaxis][:, order][:, :, order]
    return Tally((), found.normal_first, confusions, unit="", no_unit=NO_UNIT, notes=found.notes)


def _refuse_percentages(path: Path, counts: Counts) -> None:
    """DataError when every row, or every column, that has anything sums to 100."""
    for lines, table in (("row", counts), ("column", counts.T)):
        filled = table[table.any(axis=1)]
        if (abs(filled.sum(axis=1) - PERCENT) <= PERCENT_TOLERANCE).all():
            example = " + ".join(str(number) for number in filled[0].tolist())
            raise DataError(
                f"{path}: every {lines} sums to {PERCENT} ({example}), as percentages do: turn them back into counts "
                "of cycles, or say --counts if they are counts"
            )


def _classes(path: Path, num_classes: int, names: Sequence[str], reading: Reading) -> FileClasses:
    given, normal = reading.classes, reading.normal
    if names and len(names) != num_classes:
        raise DataError(f"{path}: {len(names)} class names ({', '.join(names)}) for {num_classes} rows of counts")
    if given:
        found = given_classes(given, normal)
        if len(given) != num_classes:
            raise DataError(f"{path}: {num_classes} rows of counts, but --classes names {len(given)}")
        written = [plain(name) for name in names]
        if any(whole_number(name) is None for name in names) and written != [plain(name) for name in given]:
            raise DataError(f"{path}: its classes are {', '.join(names)}, but --classes says {', '.join(given)}")
        return found
    if not names or all(whole_number(name) is not None for name in names):
        return classes_of_indices(num_classes, normal)
    if len({plain(name) for name in names}) != num_classes:
        raise DataError(f"{path}: a class comes twice in {', '.join(names)}")
    # Not `classes_of_names`, which may reorder: the order of the names is that of the counts.
    return given_classes(names, normal if normal is not None else _normal_of(path, names))


def _normal_of(path: Path, names: Sequence[str]) -> str:
    found = classes_of_names(names, None, source=str(path))
    return found.names[found.normal]


def _table(text: str) -> list[tuple[str, list[str]]]:
    """Where each line of a matrix stands, and its cells."""
    lines = [(number, line.split("#")[0].strip(" \r")) for number, line in enumerate(text.splitlines(), 1)]
    return [(f"line {number}", _cells(line)) for number, line in lines if line.strip(" []{}();,\t")]


def _cells(line: str) -> list[str]:
    for delimiter in ("\t", ";", ","):
        if delimiter in line:
            cells = [cell.strip(" []{}()\"'") for cell in line.split(delimiter)]
            return cells[:-1] if cells[-1] == "" else cells
    return [cell.strip("[]{}()\"'") for cell in line.split() if cell.strip("[]{}()")]


def _is_head(cells: Sequence[str], *, num_lines: int) -> bool:
    """Whether a first line holds names: words, or indices 0, 1, ... where there is a line too many for a matrix."""
    numbers = [whole_number(cell) for cell in cells]
    if all(_is_number(cell) for cell in cells):
        return num_lines == len(cells) + 1 and numbers == list(range(len(cells)))
    # A first row of counts that starts with its class's name is no head.
    return not all(_is_number(cell) for cell in cells[1:]) or num_lines == len(cells)


def _are_rows_named(rows: Sequence[Sequence[str]]) -> bool:
    """Whether every row starts with a word, or with its index where it has a cell too many."""
    first = [cells[0] for cells in rows]
    is_indexed = all(len(cells) == len(rows) + 1 for cells in rows)
    is_counting = [whole_number(cell) for cell in first] == list(range(len(rows)))
    return bool(rows) and (not any(map(_is_number, first)) or (is_indexed and is_counting))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _text(cell: Any) -> str:
    return json.dumps(cell) if isinstance(cell, bool) else str(cell)


LABEL, ANSWER, PART = "label", "answer", "part"
# Names of columns as `plain` gives them.
ROLES: Mapping[str, tuple[str, ...]] = {
    LABEL: (
        *("label", "labels", "y true", "true", "target", "targets", "truth", "true label", "label true", "true class"),
        *("ground truth", "gt", "actual", "y"),
    ),
    ANSWER: (
        *("answer", "answers", "y pred", "pred", "preds", "prediction", "predictions", "predicted", "predicted label"),
        *("pred label", "predicted class", "pred class", "y hat", "output"),
    ),
    PATIENT: ("patient", "patient id", "patients", "subject", "subject id", "participant", "pid"),
    RECORDING: (
        *("recording", "recording id", "record", "filename", "file name", "file", "wav", "path", "audio", "key"),
        *("rec", "cycle", "name", "id"),
    ),
    PART: ("part", "split", "subset"),
}
_PROBABILITY = re.compile(r"(?:p|prob|proba|probability)[ _](?P<name>.+)", re.IGNORECASE)
# Recordings of ICBHI 2017 and SPRSound wherever they stand in a path or a name of a cycle: the patient comes first.
_RECORDING_NAMES = (
    re.compile(r"(?P<patient>\d{3})_[0-9A-Za-z]+_(?:Tc|[APL][lr])_(?:sc|mc)_[0-9A-Za-z]+"),
    re.compile(r"(?P<patient>\d{6,9})_\d+(?:\.\d+)?_[01]_p\d_\d+"),
)


@dataclass(frozen=True, eq=False)
class _TextTable:
    path: Path
    header: list[str]
    lines: list[int]
    rows: list[list[str]]

    def values(self, column: int) -> list[str]:
        return [row[column].strip() for row in self.rows]


def read_answer_file(path: Path, reading: Reading | None = None) -> Answers | Tally:
    """The answers of a table, or the counts of a matrix; .gz is read too.

    Raises DataError with file, line and what is needed.
    """
    how = reading or Reading()
    try:
        with opened(path, "r") as file:
            text = file.read()
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except (UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path} is no text in UTF-8: a table or a confusion matrix is needed") from error
    if not text.strip():
        raise DataError(f"{path} is empty: a table with a row per cycle or a confusion matrix is needed")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if path.name.lower().endswith((".json", ".json.gz")):
            raise DataError(f"{path}, line {error.lineno}: no valid JSON ({error.msg})") from error
    else:
        return read_json_matrix(path, value, how)
    table = _read_table(path, text)
    roles = _find_roles(table, how.columns)
    # pandas writes the name of the rows, "label" say, into the corner of a matrix.
    has_corner = len(table.rows) > 1 and all(len(row) == len(table.rows) + 1 for row in (table.header, *table.rows))
    has_both = {LABEL, ANSWER} <= roles.keys()
    if how.columns or has_both or ({LABEL, ANSWER} & roles.keys() and not has_corner):
        return _answers(table, roles, how)
    if not may_be_matrix(text):
        raise DataError(
            f"{path}, line 1: neither a table with columns for the true class and the answer nor a square matrix of "
            f"counts; its columns are {', '.join(table.header)}: name two with --label-column and --answer-column"
        )
    return read_text_matrix(path, text, how)


def _read_table(path: Path, text: str) -> _TextTable:
    lines = text.splitlines()
    first = next(line for line in lines if line.strip())
    delimiter = max((",", "\t", ";"), key=first.count)
    try:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        numbered = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: no valid table ({error})") from error
    header = [name.strip() for name in numbered[0][1]]
    return _TextTable(path, header, [line for line, _ in numbered[1:]], [row for _, row in numbered[1:]])


def _find_roles(table: _TextTable, named: Mapping[str, str]) -> dict[str, int]:
    """Index of the column of each role that the table has."""
    roles = {}
    spellings = [plain(name) for name in table.header]
    for role, names in ROLES.items():
        if role in named:
            if named[role] not in table.header:
                raise DataError(
                    f"{table.path}, line 1: no column {named[role]!r} for the {role}; its columns are "
                    f"{', '.join(table.header)}"
                )
            roles[role] = table.header.index(named[role])
            continue
        found = [column for column, name in enumerate(spellings) if name in names]
        # A recording may be named in several ways; the first in the order of the names is as good as any.
        if len(found) > 1 and role in (LABEL, ANSWER, PATIENT, PART):
            both = " or ".join(repr(table.header[column]) for column in found)
            raise DataError(f"{table.path}, line 1: the {role} could be {both}; say which with --{role}-column")
        if found:
            roles[role] = min(found, key=lambda column: names.index(spellings[column]))
    return roles


def _answers(table: _TextTable, roles: Mapping[str, int], how: Reading) -> Answers:
    path, width = table.path, len(table.header)
    for option, is_on in (("--transposed", how.is_transposed), ("--counts", how.are_counts)):
        if is_on:
            raise SettingsError(f"{option} is for a confusion matrix; {path} is a table with a row per cycle")
    if LABEL not in roles:
        raise DataError(
            f"{path}, line 1: no column for the true class among {', '.join(table.header)}; name it with --label-column"
        )
    if not table.rows:
        raise DataError(f"{path} has a header but no row: one row per cycle is needed")
    for line, row in zip(table.lines, table.rows, strict=True):
        if len(row) != width:
            raise DataError(f"{path}, line {line}: {len(row)} columns where the header has {width}")
    shares = {
        found["name"]: column for column, name in enumerate(table.header) if (found := _PROBABILITY.fullmatch(name))
    }
    probabilities, note = _probabilities(table, shares)
    classes = _answer_files_classes(table, roles, how, list(shares) if probabilities is not None else [])
    notes = [*classes.notes, *note]
    if probabilities is not None:
        columns = [classes.index(name) for name in shares]
        if sorted(column for column in columns if column is not None) == list(range(len(classes.names))):
            probabilities = probabilities[:, np.argsort(np.array(columns))]
        else:
            notes.append(f"The probabilities of {', '.join(shares)} are not used: they are not those of the classes.")
            probabilities = None
    labels = _indices(table, roles[LABEL], classes, LABEL)
    if ANSWER in roles:
        answers = _indices(table, roles[ANSWER], classes, ANSWER)
        if probabilities is not None and (num := int((answers != probabilities.argmax(axis=1)).sum())):
            notes.append(f"{num} of {len(answers)} answers are not the likeliest class; the answers are scored.")
    elif probabilities is not None:
        answers = np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
        notes.append("There is no column of answers: the likeliest class is taken.")
    else:
        raise DataError(
            f"{path}, line 1: no column for the answer among {', '.join(table.header)}; name it with --answer-column"
        )
    parts = tuple(table.values(roles[PART])) if PART in roles else ("",) * len(labels)
    unit, units, no_unit, unit_notes = _units(table, roles)
    every = (*notes, *unit_notes)
    return Answers(classes.normal_first, labels, answers, probabilities, parts, unit, units, no_unit, every)


def _answer_files_classes(
    table: _TextTable, roles: Mapping[str, int], how: Reading, probability_names: Sequence[str]
) -> FileClasses:
    if how.classes:
        return given_classes(how.classes, how.normal)
    written = [text for role in (LABEL, ANSWER) if role in roles for text in table.values(roles[role])]
    numbers = [whole_number(text) for text in written]
    whole = [number for number in numbers if number is not None]
    if len(whole) == len(written):
        if min(whole) < 0:
            raise DataError(f"{table.path}: class index {min(whole)}; indices start at 0, or name --classes")
        if len(probability_names) > max(whole) and any(whole_number(name) is None for name in probability_names):
            return classes_of_names(probability_names, how.normal, source=str(table.path))
        return classes_of_indices(max(len(probability_names), max(whole) + 1, 2), how.normal)
    for line, text, number in zip(table.lines * 2, written, numbers, strict=False):
        if not plain(text):
            raise DataError(
                f"{table.path}, line {line}: a class is blank; each row needs the true class and the answer"
            )
        if number is None and 2 * len(whole) > len(written):
            raise DataError(f"{table.path}, line {line}: {text!r} is no class index, as the other rows have it")
    names = {plain(text) for text in written}
    if names <= {plain(name) for name in probability_names}:
        return classes_of_names(probability_names, how.normal, source=str(table.path))
    return classes_of_names(written, how.normal, source=str(table.path))


def _indices(table: _TextTable, column: int, classes: FileClasses, role: str) -> npt.NDArray[np.int64]:
    """Class indices of a column, the normal class being 0."""
    known = {text: classes.index(text) for text in set(table.values(column))}
    for line, text in zip(table.lines, table.values(column), strict=True):
        if known[text] is None:
            raise DataError(
                f"{table.path}, line {line}: {role} {text!r} is no class; the classes are {', '.join(classes.names)}"
            )
    return np.array([known[text] for text in table.values(column)], dtype=np.int64)


def _probabilities(
    table: _TextTable, shares: Mapping[str, int]
) -> tuple[npt.NDArray[np.float64] | None, tuple[str, ...]]:
    """Numbers `(row, column)` of the columns that look like probabilities; None and why when they are none."""
    if len(shares) < 2:
        return None, ()
    try:
        numbers = np.array([[float(row[column]) for column in shares.values()] for row in table.rows])
    except ValueError:
        return None, (f"The columns of {', '.join(shares)} are not used: not all of their cells are numbers.",)
    if not np.isfinite(numbers).all() or (numbers < 0).any() or (abs(numbers.sum(axis=1) - 1) > SUM_TOLERANCE).any():
        return None, (f"The columns of {', '.join(shares)} are not used: their rows do not sum to 1.",)
    return numbers, ()


def _units(table: _TextTable, roles: Mapping[str, int]) -> tuple[str, tuple[str, ...], str, tuple[str, ...]]:
    """Over what intervals are taken: "patient" or "recording", the one of each row, why there is none, notes."""
    if PATIENT in roles:
        patients = tuple(table.values(roles[PATIENT]))
        blank = next((line for line, name in zip(table.lines, patients, strict=True) if not name), None)
        if blank is not None:
            raise DataError(f"{table.path}, line {blank}: the patient is blank; each row needs one, or none has")
        return PATIENT, patients, "", ()
    if RECORDING not in roles:
        return "", (), "no column names the patient or the recording", ()
    names, column = table.values(roles[RECORDING]), table.header[roles[RECORDING]]
    for form in _RECORDING_NAMES:
        found = [form.search(name) for name in names]
        if all(found):
            patients = tuple(match["patient"] for match in found if match)
            return PATIENT, patients, "", (f"The patients are read from the names of recordings in {column!r}.",)
    recordings = tuple(re.sub(r"#.*|\.(wav|flac|mp3|ogg|txt|npy|pt)$", "", Path(name).name) for name in names)
    if len(set(recordings)) == len(recordings):
        return "", (), f"each row has another {column!r} and no column names the patient", ()
    return RECORDING, recordings, "", ()
