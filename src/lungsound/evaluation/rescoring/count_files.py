"""A confusion matrix from anyone's file: JSON, CSV, TSV, or numbers with blanks between, as numpy prints them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lungsound.errors import DataError
from lungsound.evaluation.metrics import Counts
from lungsound.evaluation.rescoring.class_names import (
    FileClasses,
    classes_of_indices,
    classes_of_names,
    given_classes,
    plain,
    whole_number,
)
from lungsound.evaluation.rescoring.tally import Reading, Tally

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
