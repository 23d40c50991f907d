"""Read what `rescore` scores: our predictions, a CSV whose columns are named, or a confusion matrix (CSV or JSON)."""

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lungsound.data.tree import patient_name
from lungsound.errors import DataError, SettingsError
from lungsound.evaluation.predictions import FIXED_COLUMNS, CsvTable, read_predictions, require_few
from lungsound.evaluation.rescore import CycleTable, PatientCounts
from lungsound.evaluation.runs import files_of
from lungsound.files import MAX_TABLE_BYTES, parse_csv, parse_json, read_text

# Percentages are whole numbers too; rounded, they may sum to a little more or less.
PERCENT, PERCENT_TOLERANCE = 100, 1
MAX_CYCLES = 10**12  # in a cell of a matrix; sums of them are counted exactly
# As other programs write that a value is missing: no class and no patient has such a name.
MISSING = {"", "nan", "na", "n/a", "none", "null"}


_COUNT = re.compile(r"\s*\d{1,13}\s*", re.ASCII)


@dataclass(frozen=True)
class ReadOptions:
    """Facts that another program's file lacks: names of columns and classes. With a column it is read as a table.

    `classes` begin with the normal one; `is_transposed` and `are_counts` (no percentages) are those of a matrix.
    """

    label: str | None = None
    predicted: str | None = None
    probabilities: Mapping[str, str] = field(default_factory=dict)
    patient: str | None = None
    part: str | None = None
    classes: Sequence[str] = ()
    is_transposed: bool = False
    are_counts: bool = False


def parse_probabilities(texts: Sequence[str]) -> dict[str, str]:
    """Columns of probabilities by class, from CLASS=COLUMN each."""
    for text in texts:
        if not all(text.partition("=")):
            raise SettingsError(f"--probability is CLASS=COLUMN; got {text!r}")
    return {text.partition("=")[0]: text.partition("=")[2] for text in texts}


def file_of_run(folder: Path, epoch: str) -> Path:
    """The predictions file of one run folder, of this epoch (see `runs.files_of`)."""
    files = files_of(folder, epoch)
    if len(files) > 1:
        raise DataError(f"{folder} holds {len(files)} runs: rescore reads one, {files[0]} for example")
    return files[0]


def read_parts(path: Path, options: ReadOptions, parts: Sequence[str] = ()) -> list[PatientCounts]:
    """Read these parts of a file together, or each by itself; DataError with file, line and what is needed."""
    require_few(options.classes or tuple(options.probabilities), path)
    if options.classes and (len(options.classes) < 2 or len({*options.classes}) < len(options.classes)):
        raise SettingsError(f"--classes needs two or more different names; got {', '.join(options.classes)}")
    text = read_text(path, DataError, max_bytes=MAX_TABLE_BYTES)
    is_table = any((options.label, options.predicted, options.probabilities, options.patient, options.part))
    if not is_table and not text.startswith(",".join(FIXED_COLUMNS)):
        if parts:
            raise DataError(f"{path} is a confusion matrix, without parts: leave out --part")
        return [_read_matrix(path, text, options)]
    if options.is_transposed or options.are_counts:
        raise SettingsError(f"--transposed and --counts are for a confusion matrix; {path} has a row per cycle")
    cycles = _read_table(CsvTable.parse(path, text), options) if is_table else read_predictions(path)
    names = tuple(dict.fromkeys(cycles.parts))
    for part in parts:
        if part not in names:
            has = ", ".join(filter(None, names)) or "no parts"
            raise DataError(f"{path} has no part {part!r}; it has {has}: leave out --part, or give --part-column")
    return [PatientCounts.of(cycles, each) for each in ([parts] if parts else [[name] for name in names])]


def _read_table(table: CsvTable, options: ReadOptions) -> CycleTable:
    path, shares = table.path, options.probabilities
    classes = tuple(options.classes or shares)
    if options.label is None or not (options.predicted or shares):
        raise SettingsError(f"{path}: name the columns with --label, and with --predicted or --probability")
    if not classes:
        raise SettingsError(f"{path}: name its classes, the normal one first, with --classes A,B,...")
    if shares and {*shares} != {*classes}:
        raise SettingsError(f"--probability names {', '.join(shares)}; each class of {', '.join(classes)} needs one")
    patients = None if options.patient is None else table.column(options.patient)
    for line, patient in zip(table.lines, patients or (), strict=patients is not None):
        if patient.strip().lower() in MISSING:
            raise DataError(f"{path}, line {line}: {options.patient} is missing ({patient!r}); each row needs one")
    patients = None if patients is None else tuple(map(patient_name, patients))
    notes = [] if options.classes else [f"Class {classes[0]!r}, the first of --probability, is the normal one."]
    labels = table.class_indices(options.label, classes)
    probabilities = table.probabilities([shares[name] for name in classes]) if shares else None
    if options.predicted is not None:
        predicted = table.class_indices(options.predicted, classes)
        if probabilities is not None and (num_others := int((predicted != probabilities.argmax(axis=1)).sum())):
            notes.append(f"{num_others} of {len(labels)} predicted classes are not the most probable; they are scored.")
    else:
        assert probabilities is not None
        predicted = np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
        notes.append("The most probable class is scored, since no column of predicted classes is named.")
    parts = ("",) * len(labels) if options.part is None else table.column(options.part)
    return CycleTable(classes, labels, predicted, probabilities, patients, parts, tuple(notes))


def _read_matrix(path: Path, text: str, options: ReadOptions) -> PatientCounts:
    """Counts with true classes along the rows and the normal class first.

    From a CSV with or without names of classes in its first line and column, or JSON as in report.json, or rows alone.
    """
    rows: Any
    names: list[str] = []
    if ".json" in path.suffixes:
        rows = parse_json(text, DataError, path=path)
        classes = rows.get("classes", []) if isinstance(rows, dict) else []
        is_list = isinstance(classes, list)
        names = [str(name) for name in classes] if is_list else []
        rows = rows.get("confusion") if isinstance(rows, dict) else rows
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows) or not is_list:
            raise DataError(f'{path}: no matrix: {{"confusion": [[...], ...], "classes": [...]}} is needed')
    else:
        rows = [row for _, row in parse_csv(text, DataError, path=path)]
        if rows and not all(_COUNT.fullmatch(cell) for cell in rows[0]):
            names = [name.strip() for name in rows[0][1:]]
            if not any(names) or [row[0].strip() for row in rows[1:]] != names:
                raise DataError(
                    f"{path}: neither our predictions nor a matrix with the same classes along its first line and "
                    "column; the columns of a table are named with --label and --predicted"
                )
            rows = [row[1:] for row in rows[1:]]
    num_classes = len(rows)
    require_few(rows, path)
    for place, row in enumerate(rows, start=1):
        if len(row) != num_classes:
            raise DataError(f"{path}: {len(row)} counts in row {place} of a matrix of {num_classes} rows")
        for cell in row:
            if not _COUNT.fullmatch(str(cell)) or int(cell) > MAX_CYCLES:
                given = reprlib.repr(str(cell).strip())
                raise DataError(f"{path}, row {place}: {given} is no count of cycles (shares are none)")
    counts = np.array([[int(cell) for cell in row] for row in rows], dtype=np.int64)
    if num_classes < 2 or not counts.any():
        raise DataError(f"{path}: a matrix of {num_classes} classes and {counts.sum()} cycles; two classes are needed")
    margins = [(table[:, -1] == table[:, :-1].sum(axis=1)).all() for table in (counts, counts.T)]
    if num_classes > 2 and all(margins):
        raise DataError(f"{path}: the last row and column are the sums of the others: leave them out")
    classes = tuple(options.classes or names)
    if not classes:
        raise SettingsError(f"{path}: name its classes, the normal one first, with --classes A,B,...")
    if not len(classes) == len({*classes}) == num_classes or (names and sorted(names) != sorted(classes)):
        raise DataError(
            f"{path}: {num_classes} rows of {', '.join(names) or 'no names'}, but the classes {', '.join(classes)}"
        )
    for line, table in (("row", counts), ("column", counts.T)):
        sums = table[table.any(axis=1)].sum(axis=1)
        if not options.are_counts and (abs(sums - PERCENT) <= PERCENT_TOLERANCE).all():
            raise DataError(
                f"{path}: every {line} sums to {PERCENT}, as percentages do: turn them back into counts of cycles, "
                "or say --counts if they are counts"
            )
    order = [names.index(name) for name in classes] if names else list(range(num_classes))
    confusion = (counts.T if options.is_transposed else counts)[order][:, order]
    note = f"Class {classes[0]!r}, the first of the file, is the normal one; --classes gives another order."
    notes = () if options.classes else (note,)
    return PatientCounts(classes, confusion[np.newaxis], has_patients=False, notes=notes)
