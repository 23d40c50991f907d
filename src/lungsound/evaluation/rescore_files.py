"""Read what `rescore` scores: our predictions, a CSV whose columns are named, or a confusion matrix (CSV or JSON)."""

import csv
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lungsound.errors import DataError, SettingsError
from lungsound.evaluation.metrics import Counts
from lungsound.evaluation.predictions import FIXED_COLUMNS, SUM_TOLERANCE, opened, read_predictions
from lungsound.evaluation.rescore import CycleTable, PatientCounts
from lungsound.evaluation.runs import files_of

# Percentages are whole numbers too; rounded, they may sum to a little more or less.
PERCENT, PERCENT_TOLERANCE = 100, 1


@dataclass(frozen=True)
class ReadOptions:
    """Names that a file of another program does not say by itself.

    `label`, `predicted`, `patient`, `part` are names of columns, `probabilities` those of the classes' probabilities;
    with any of them a file is a table. `classes` are its classes, the normal one first. `is_transposed`: the rows of a
    matrix are the predicted classes. `are_counts`: numbers that look like percentages are counts all the same.
    """

    label: str | None = None
    predicted: str | None = None
    probabilities: Mapping[str, str] = field(default_factory=dict)
    patient: str | None = None
    part: str | None = None
    classes: Sequence[str] = ()
    is_transposed: bool = False
    are_counts: bool = False

    def __post_init__(self) -> None:
        if self.classes and (len(self.classes) < 2 or len({*self.classes}) < len(self.classes)):
            raise SettingsError(f"--classes needs two or more different names; got {', '.join(self.classes)}")

    @property
    def is_of_table(self) -> bool:
        return any((self.label, self.predicted, self.probabilities, self.patient, self.part))


def parse_probabilities(texts: Sequence[str]) -> dict[str, str]:
    """Columns of probabilities by class, from CLASS=COLUMN each."""
    for text in texts:
        if not all(text.partition("=")):
            raise SettingsError(f"--probability is CLASS=COLUMN; got {text!r}")
    return {text.partition("=")[0]: text.partition("=")[2] for text in texts}


def file_of_run(folder: Path, epoch: str) -> Path:
    """The predictions file of one run folder, of this epoch (see `compare.files_of`)."""
    files = files_of(folder, epoch)
    if len(files) > 1:
        raise DataError(f"{folder} holds {len(files)} runs: rescore reads one, {files[0]} for example")
    return files[0]


def read_parts(path: Path, options: ReadOptions, parts: Sequence[str]) -> list[PatientCounts]:
    """The counts of these parts of the split together; without any, of each part by itself."""
    table = read_file(path, options)
    names = table.part_names() if isinstance(table, CycleTable) else ()
    for part in parts:
        if part not in names:
            has = ", ".join(filter(None, names)) or "no parts"
            raise DataError(f"{path} has no part {part!r}; it has {has}: leave out --part, or give --part-column")
    if isinstance(table, PatientCounts):
        return [table]
    return [table.counts(parts)] if parts else [table.counts([name]) for name in names]


def read_file(path: Path, options: ReadOptions) -> CycleTable | PatientCounts:
    """Read a file that may be compressed (.gz). Raises DataError with the file, the line and what is needed."""
    try:
        with opened(path, "r") as file:
            text = file.read()
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except (UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path} is no text in UTF-8: a CSV or JSON file is needed") from error
    is_ours = text.startswith(",".join(FIXED_COLUMNS))
    if (options.is_of_table or is_ours) and (options.is_transposed or options.are_counts):
        raise SettingsError(f"--transposed and --counts are for a confusion matrix; {path} has a row per cycle")
    if options.is_of_table:
        return _read_table(path, text, options)
    if is_ours:
        return CycleTable.of(read_predictions(path))
    rows, names = _json_matrix(path, text) if ".json" in path.suffixes else _csv_matrix(path, text)
    return _matrix_counts(path, rows, names, options)


def _read_table(path: Path, text: str, options: ReadOptions) -> CycleTable:
    classes = tuple(options.classes or options.probabilities)
    label, shares = options.label, options.probabilities
    if label is None or not (options.predicted or shares):
        raise SettingsError(f"{path}: name the columns with --label, and with --predicted or --probability")
    if not classes:
        raise SettingsError(f"{path}: name its classes, the normal one first, with --classes A,B,...")
    if shares and {*shares} != {*classes}:
        raise SettingsError(f"--probability names {', '.join(shares)}; each class of {', '.join(classes)} needs one")
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        numbered = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: no valid CSV ({error})") from error
    if len(numbered) < 2:
        raise DataError(f"{path} has no row: a header and one row per cycle are needed")
    header = numbered[0][1]
    columns = [label, options.predicted, options.patient, options.part, *shares.values()]
    for column in filter(None, columns):
        if header.count(column) != 1:
            raise DataError(f"{path}, line 1: needs one column {column!r}; its columns are {', '.join(header)}")
    for line, row in numbered[1:]:
        if len(row) != len(header):
            raise DataError(f"{path}, line {line}: {len(row)} columns where the header has {len(header)}")
    lines = [line for line, _ in numbered[1:]]
    cells = {name: [row[place] for _, row in numbered[1:]] for place, name in enumerate(header)}

    def indices(column: str) -> npt.NDArray[np.int64]:
        for line, text in zip(lines, cells[column], strict=True):
            if text not in classes:
                raise DataError(
                    f"{path}, line {line}: {column} is {text!r}, none of the classes {', '.join(classes)}: name all "
                    "with --classes"
                )
        return np.array([classes.index(text) for text in cells[column]], dtype=np.int64)

    patients = None if options.patient is None else tuple(cells[options.patient])
    if patients is not None and "" in patients:
        raise DataError(f"{path}, line {lines[patients.index('')]}: {options.patient} is blank; each row needs one")
    probabilities = _probabilities(path, lines, [cells[shares[name]] for name in classes]) if shares else None
    notes = [] if options.classes else [f"Class {classes[0]!r}, the first of --probability, is the normal one."]
    if options.predicted is not None:
        predicted = indices(options.predicted)
        if probabilities is not None and (num := int((predicted != probabilities.argmax(axis=1)).sum())):
            notes.append(f"{num} of {len(lines)} predicted classes are not the most probable; they are scored.")
    else:
        assert probabilities is not None
        predicted = np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
        notes.append("The most probable class is scored, since no column of predicted classes is named.")
    parts = ("",) * len(lines) if options.part is None else tuple(cells[options.part])
    return CycleTable(classes, indices(label), predicted, probabilities, patients, parts, tuple(notes))


def _probabilities(path: Path, lines: Sequence[int], columns: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
    """Probabilities `(cycle, class)`. Raises DataError with the first line whose numbers are none."""
    rows = []
    for line, texts in zip(lines, zip(*columns, strict=True), strict=True):
        try:
            row = [float(text) for text in texts]
        except ValueError:
            row = [np.nan]
        if not (min(row) >= 0.0 and abs(sum(row) - 1.0) <= SUM_TOLERANCE):
            raise DataError(
                f"{path}, line {line}: {', '.join(texts)} are no probabilities; they must sum to 1 within "
                f"{SUM_TOLERANCE}"
            )
        rows.append(row)
    return np.array(rows)


Matrix = tuple[
    Sequence[Sequence[Any]], Sequence[str]
]  # rows of counts, and names of classes, none where none are given


def _json_matrix(path: Path, text: str) -> Matrix:
    """The matrix in {"confusion": [[...], ...], "classes": [...]}, as report.json has it, or a list of rows alone."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: no valid JSON ({error.msg})") from error
    names = value.get("classes", []) if isinstance(value, dict) else []
    rows = value.get("confusion") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise DataError(f'{path}: no matrix: {{"confusion": [[...], ...], "classes": [...]}} is needed')
    return rows, [str(name) for name in names]


def _csv_matrix(path: Path, text: str) -> Matrix:
    """The matrix in a CSV with the classes in its first line and column, or of numbers alone."""
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if not rows or all(cell.strip().isdecimal() for cell in rows[0]):
        return rows, []
    names = [name.strip() for name in rows[0][1:]]
    if [row[0].strip() for row in rows[1:]] != names:
        raise DataError(
            f"{path}: neither our predictions nor a matrix with the same classes along its first line and column; the "
            "columns of a table are named with --label and --predicted"
        )
    return [row[1:] for row in rows[1:]], names


def _matrix_counts(
    path: Path, rows: Sequence[Sequence[Any]], names: Sequence[str], options: ReadOptions
) -> PatientCounts:
    """The checked counts with true classes along the rows and the normal class first."""
    num_classes = len(rows)
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for place, row in enumerate(rows, start=1):
        if len(row) != num_classes:
            raise DataError(f"{path}: {len(row)} counts in row {place} of a matrix of {num_classes} rows")
        for column, cell in enumerate(row):
            text = str(cell).strip()
            if not text.isdecimal():
                raise DataError(f"{path}, row {place}: {text!r} is no count of cycles (shares are none)")
            counts[place - 1, column] = int(text)
    if num_classes < 2 or not counts.any():
        raise DataError(f"{path}: a matrix of {num_classes} classes and {counts.sum()} cycles; two classes are needed")
    classes = tuple(options.classes or names)
    if not classes:
        raise SettingsError(f"{path}: name its classes, the normal one first, with --classes A,B,...")
    if len({*classes}) != num_classes or (names and sorted(names) != sorted(classes)):
        raise DataError(
            f"{path}: {num_classes} rows of {', '.join(names) or 'no names'}, but the classes {', '.join(classes)}"
        )
    first = f"Class {classes[0]!r}, the first of the file, is the normal one; --classes gives another order."
    if not options.are_counts:
        _refuse_percentages(path, counts)
    if options.is_transposed:
        counts = counts.T
    order = [list(names).index(name) for name in classes] if names else list(range(num_classes))
    confusions = counts[np.newaxis][:, order][:, :, order]
    return PatientCounts(classes, confusions, has_patients=False, notes=() if options.classes else (first,))


def _refuse_percentages(path: Path, counts: Counts) -> None:
    """DataError when every row, or every column, that has anything sums to 100."""
    for lines, table in (("row", counts), ("column", counts.T)):
        sums = table[table.any(axis=1)].sum(axis=1)
        if (abs(sums - PERCENT) <= PERCENT_TOLERANCE).all():
            raise DataError(
                f"{path}: every {lines} sums to {PERCENT}, as percentages do: turn them back into counts of cycles, "
                "or say --counts if they are counts"
            )
