"""Predictions with the truth, and their file: one row per cycle, with the probability of each class.

A CSV file in UTF-8 whose first line is always

    key,patient,device,part,label,answer,p_<class 0>,p_<class 1>,...

`key` is `<recording>#<start>-<end>` (seconds), `device` and `part` (of the split: "test", "inter") may be blank
when unknown, `label` (the truth) and `answer` (the predicted class) are class names, and probabilities carry as many
digits as it takes to read back the same float64. Class 0 is the normal (healthy) one. The answer is the most probable
class, the first of equals; a model that keeps a threshold for class 0 answers class 0 or the most probable of the rest.
"""

import csv
import gzip
import io
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lungsound.errors import DataError
from lungsound.files import MAX_TABLE_BYTES, number, parse_csv, read_text, written_whole

FIXED_COLUMNS = ("key", "patient", "device", "part", "label", "answer")
PROBABILITY_PREFIX = "p_"
SUM_TOLERANCE = 1e-3
MAX_CLASSES = 50
VALIDATION_PART, CALIBRATION_PART = HELD_OUT_PARTS = ("validation", "calibration")
_KEY = re.compile(r".+#\d+(\.\d+)?-\d+(\.\d+)?")


@dataclass(frozen=True, eq=False)
class Predictions:
    """Probabilities of a model for each cycle, beside the truth. Arrays are copied and made read-only.

    `keys`, `patients`, `devices`, `parts` have one entry per cycle ("" when unknown), `labels` is `(cycle,)` and
    `probabilities` `(cycle, class)` with rows that sum to 1 within 1e-3. `by_threshold` are the classes `(cycle,)` that
    a threshold for class 0 predicts. DataError when any of this does not hold, or a key comes twice.
    """

    keys: tuple[str, ...]
    patients: tuple[str, ...]
    devices: tuple[str, ...]
    parts: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    classes: tuple[str, ...]
    by_threshold: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if not np.issubdtype(np.asarray(self.labels).dtype, np.integer):
            raise DataError(f"labels are class indices, whole numbers; got {np.asarray(self.labels).dtype}")
        for name, dtype in (("labels", np.int64), ("probabilities", np.float64), ("by_threshold", np.int64)):
            if (given := getattr(self, name)) is not None:
                array = np.array(given, dtype=dtype)
                array.flags.writeable = False
                object.__setattr__(self, name, array)

        num_cycles, num_classes = len(self.keys), len(self.classes)
        if num_cycles == 0:
            raise DataError("predictions of no cycle: at least one is needed")
        if num_classes < 2 or len(set(self.classes)) != num_classes or "" in self.classes:
            raise DataError(f"predictions need two or more classes with different names; got {self.classes}")
        columns = (self.patients, self.devices, self.parts)
        shapes = (*map(len, columns), self.labels.shape, self.probabilities.shape)
        wanted = (*(num_cycles for _ in columns), (num_cycles,), (num_cycles, num_classes))
        if shapes != wanted:
            raise DataError(
                f"{num_cycles} keys and {num_classes} classes need patients, devices, parts, labels and "
                f"probabilities of shapes {wanted}; got {shapes}"
            )

        sums, least = self.probabilities.sum(axis=1), self.probabilities.min(axis=1)
        seen: set[str] = set()
        for row, (key, label) in enumerate(zip(self.keys, self.labels.tolist(), strict=True)):
            where = f"prediction {row + 1} ({key})"
            if not _KEY.fullmatch(key):
                raise DataError(f"{where}: no key: <recording>#<start>-<end> is needed, with seconds as 0.500-2.250")
            if key in seen:
                raise DataError(f"{where}: the key comes a second time; each cycle has one row")
            if not self.patients[row]:
                raise DataError(f"{where}: the patient is blank; intervals are over patients, so each cycle needs one")
            if not 0 <= label < num_classes:
                raise DataError(f"{where}: label {label} is outside 0 to {num_classes - 1}")
            if not (least[row] >= 0.0 and abs(sums[row] - 1.0) <= SUM_TOLERANCE):
                shares = self.probabilities[row].tolist()
                raise DataError(f"{where}: {shares} must be numbers from 0 to 1 that sum to 1 within {SUM_TOLERANCE}")
            seen.add(key)
        if self.by_threshold is not None and self.by_threshold.shape != (num_cycles,):
            raise DataError(f"{num_cycles} cycles, but a threshold predicts classes {self.by_threshold.shape}")

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The predicted class of each cycle `(cycle,)`: the most probable, or that of a threshold."""
        return predicted_classes(self.probabilities) if self.by_threshold is None else self.by_threshold

    def of_part(self, part: str) -> "Predictions":
        """The cycles of this part of the split, in the same order."""
        return self.of_rows([row for row, name in enumerate(self.parts) if name == part])

    def of_test(self) -> "Predictions | None":
        """The cycles of patients who were not held out from training, in the same order; None when there is none."""
        rows = [row for row, part in enumerate(self.parts) if part not in HELD_OUT_PARTS]
        return self.of_rows(rows) if rows else None

    def to_calibrate(self) -> "Predictions | None":
        """The cycles that a calibration is fitted on: of the patients held out for it, else of validation patients."""
        for part in (CALIBRATION_PART, VALIDATION_PART):
            if part in self.parts:
                return self.of_part(part)
        return None

    def of_keys(self, keys: Sequence[str]) -> "Predictions":
        """The cycles with these keys, in the order of the keys."""
        rows = {key: row for row, key in enumerate(self.keys)}
        return self.of_rows([rows[key] for key in keys])

    def of_rows(self, rows: Sequence[int]) -> "Predictions":
        """These rows, in this order."""
        columns = (self.keys, self.patients, self.devices, self.parts)
        keys, patients, devices, parts = (tuple(column[row] for row in rows) for column in columns)
        labels, probabilities = self.labels[rows], self.probabilities[rows]
        by_threshold = None if self.by_threshold is None else self.by_threshold[rows]
        return Predictions(keys, patients, devices, parts, labels, probabilities, self.classes, by_threshold)


def predicted_classes(
    probabilities: npt.NDArray[np.float64], normal_threshold: float | None = None
) -> npt.NDArray[np.int64]:
    """Class `(...)` of most probability, the first of equals; with a threshold, class 0 from that on, else another."""
    if normal_threshold is None:
        return np.asarray(probabilities.argmax(axis=-1), dtype=np.int64)
    is_normal = probabilities[..., 0] >= normal_threshold
    return np.asarray(np.where(is_normal, 0, abnormal_classes(probabilities)), dtype=np.int64)


def abnormal_classes(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The most probable class `(...)` but class 0, of probabilities `(..., class)`; the first of equals."""
    return np.asarray(1 + probabilities[..., 1:].argmax(axis=-1), dtype=np.int64)


def joined(folds: Sequence[Predictions]) -> Predictions:
    """All rows of predictions of different cycles with the same classes. DataError when a cycle comes twice."""
    if len({fold.classes for fold in folds}) != 1:
        raise DataError(f"predictions of {len(folds)} folds with different classes cannot be joined")
    columns = zip(*((fold.keys, fold.patients, fold.devices, fold.parts) for fold in folds), strict=True)
    keys, patients, devices, parts = (tuple(chain.from_iterable(column)) for column in columns)
    labels = np.concatenate([fold.labels for fold in folds])
    probabilities = np.concatenate([fold.probabilities for fold in folds])
    is_by_threshold = any(fold.by_threshold is not None for fold in folds)
    by_threshold = np.concatenate([fold.predicted for fold in folds]) if is_by_threshold else None
    return Predictions(keys, patients, devices, parts, labels, probabilities, folds[0].classes, by_threshold)


def rounded(predictions: Predictions, digits: int) -> Predictions:
    """The predictions with probabilities rounded, but for rows in which that would change their order."""
    probabilities = np.round(predictions.probabilities, digits)
    is_changed = probabilities.argmax(axis=1) != predictions.probabilities.argmax(axis=1)
    if predictions.by_threshold is not None:
        is_changed |= abnormal_classes(probabilities) != abnormal_classes(predictions.probabilities)
    probabilities[is_changed] = predictions.probabilities[is_changed]
    return replace(predictions, probabilities=probabilities)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write a predictions file; `read_predictions` gives back the same bits. An older file is replaced.

    A name that ends in .gz is compressed; the same predictions give the same bytes.
    """
    classes = predictions.classes
    texts = zip(predictions.keys, predictions.patients, predictions.devices, predictions.parts, strict=True)
    named = ([classes[index] for index in indices] for indices in (predictions.labels, predictions.predicted))
    with written_whole(path) as partial, partial.open("wb") as file:
        is_compressed = path.suffix == ".gz"
        binary = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) if is_compressed else file
        with io.TextIOWrapper(binary, encoding="utf-8", newline="") as text:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow([*FIXED_COLUMNS, *(PROBABILITY_PREFIX + name for name in classes)])
            for row, label, predicted, shares in zip(texts, *named, predictions.probabilities.tolist(), strict=True):
                writer.writerow([*row, label, predicted, *map(repr, shares)])


def read_predictions(path: Path) -> Predictions:
    """Read a predictions file. Raises DataError that names the file, the line and what is wrong with it."""
    table = CsvTable.parse(path, read_text(path, DataError, max_bytes=MAX_TABLE_BYTES))
    fixed, columns = tuple(table.header[: len(FIXED_COLUMNS)]), table.header[len(FIXED_COLUMNS) :]
    if fixed != FIXED_COLUMNS or not all(name.startswith(PROBABILITY_PREFIX) for name in columns):
        raise DataError(
            f"{path}, line 1: the header is {','.join(table.header)}; it must be {','.join(FIXED_COLUMNS)},"
            "p_<class 0>,p_<class 1>,..."
        )
    classes = tuple(column.removeprefix(PROBABILITY_PREFIX) for column in columns)
    require_few(classes, path)
    keys, patients, devices, parts = (table.column(name) for name in FIXED_COLUMNS[:4])
    labels, predicted = (table.class_indices(name, classes) for name in FIXED_COLUMNS[4:])
    probabilities = table.probabilities(columns)
    try:
        predictions = Predictions(keys, patients, devices, parts, labels, probabilities, classes)
    except DataError as error:
        raise DataError(f"{path}, {error}") from None
    others = abnormal_classes(predictions.probabilities)
    if (is_other := (predicted != 0) & (predicted != others)).any():
        row = int(is_other.argmax())
        raise DataError(
            f"{path}, line {table.lines[row]}: the answer is {classes[predicted[row]]!r} but the most probable class "
            f"beside {classes[0]!r} is {classes[others[row]]!r}; they must agree"
        )
    is_by_threshold = bool((predicted != predictions.predicted).any())
    return replace(predictions, by_threshold=predicted) if is_by_threshold else predictions


def require_few(classes: Sequence[str], path: Path) -> None:
    """DataError for more classes than any label set has: each takes its share of every patient's counts."""
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{path}: {len(classes)} classes, of at most {MAX_CLASSES}")


@dataclass(frozen=True)
class CsvTable:
    """A CSV file with a header and a row per cycle, at these `lines`; its errors name the file and the line."""

    path: Path
    header: list[str]
    lines: list[int]
    rows: list[list[str]]

    @classmethod
    def parse(cls, path: Path, text: str) -> "CsvTable":
        """Parse the text of the file; blank lines are skipped."""
        numbered = parse_csv(text, DataError, path=path)
        if len(numbered) < 2:
            raise DataError(f"{path} has no row: a header and one row per cycle are needed")
        (_, header), *body = numbered
        for line, row in body:
            if len(row) != len(header):
                raise DataError(f"{path}, line {line}: {len(row)} columns where the header has {len(header)}")
        return cls(path, header, [line for line, _ in body], [row for _, row in body])

    def column(self, name: str) -> tuple[str, ...]:
        """Cells of the column of this name."""
        if self.header.count(name) != 1:
            columns = ", ".join(self.header)
            raise DataError(f"{self.path}, line 1: needs one column {name!r}; its columns are {columns}")
        place = self.header.index(name)
        return tuple(row[place] for row in self.rows)

    def class_indices(self, name: str, classes: Sequence[str]) -> npt.NDArray[np.int64]:
        """Indices `(cycle,)` of the classes in the column of this name."""
        cells = self.column(name)
        place_of = {each: place for place, each in enumerate(classes)}
        for line, cell in zip(self.lines, cells, strict=True):
            if cell not in place_of:
                known, given = ", ".join(classes), reprlib.repr(cell)
                raise DataError(f"{self.path}, line {line}: {name} is {given}, none of the classes {known}")
        return np.array([place_of[cell] for cell in cells], dtype=np.int64)

    def probabilities(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Probabilities `(cycle, class)` in the columns of these names."""
        shares = []
        for line, cells in zip(self.lines, zip(*map(self.column, names), strict=True), strict=True):
            try:
                row = [number(cell.strip()) for cell in cells]
            except ValueError:
                row = [np.nan]
            if not (min(row) >= 0.0 and abs(sum(row) - 1.0) <= SUM_TOLERANCE):
                raise DataError(
                    f"{self.path}, line {line}: {', '.join(cells)} are no probabilities; they must sum to 1 within "
                    f"{SUM_TOLERANCE}"
                )
            shares.append(row)
        return np.array(shares)
