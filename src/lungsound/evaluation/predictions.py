"""Predictions with the truth, and their file: one row per cycle, with the probability of each class.

A CSV file in UTF-8 whose first line is always

    key,patient,device,part,label,answer,p_<class 0>,p_<class 1>,...

`key` is `<recording>#<start>-<end>` (seconds), `device` and `part` (of the split: "test", "inter") may be blank
when unknown, `label` (the truth) and `answer` (the most probable class, the first of equals) are class names, and
probabilities carry as many digits as it takes to read back the same float64. Class 0 is the normal (healthy) one.
"""

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
import numpy.typing as npt

from lungsound.errors import DataError
from lungsound.files import written_whole

FIXED_COLUMNS = ("key", "patient", "device", "part", "label", "answer")
PROBABILITY_PREFIX = "p_"
SUM_TOLERANCE = 1e-3
VALIDATION_PART = "validation"
_KEY = re.compile(r".+#\d+(\.\d+)?-\d+(\.\d+)?")


@dataclass(frozen=True, eq=False)
class Predictions:
    """Probabilities of a model for each cycle, beside the truth. Arrays are copied and made read-only.

    `keys`, `patients`, `devices`, `parts` have one entry per cycle (a device or a part of the split is "" when
    unknown), `labels` is `(cycle,)` and `probabilities` `(cycle, class)` with rows that sum to 1 within 1e-3. Raises
    DataError when any of this does not hold, when a key comes twice, or when there is no cycle at all.
    """

    keys: tuple[str, ...]
    patients: tuple[str, ...]
    devices: tuple[str, ...]
    parts: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not np.issubdtype(np.asarray(self.labels).dtype, np.integer):
            raise DataError(f"labels are class indices, whole numbers; got {np.asarray(self.labels).dtype}")
        for name, dtype in (("labels", np.int64), ("probabilities", np.float64)):
            array = np.array(getattr(self, name), dtype=dtype)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        for name in ("keys", "patients", "devices", "parts", "classes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_shapes()
        problem = _first_problem(self.keys, self.patients, self.labels, self.probabilities)
        if problem is not None:
            row, what = problem
            raise DataError(f"prediction {row + 1} ({self.keys[row]}): {what}")

    def _check_shapes(self) -> None:
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

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The most probable class of each cycle `(cycle,)`; the first of equals."""
        return np.asarray(np.argmax(self.probabilities, axis=1), dtype=np.int64)

    def of_device(self, device: str) -> "Predictions":
        """The cycles that this device recorded, in the same order."""
        return self.of_rows([row for row, name in enumerate(self.devices) if name == device])

    def of_part(self, part: str) -> "Predictions":
        """The cycles of this part of the split, in the same order."""
        return self.of_rows([row for row, name in enumerate(self.parts) if name == part])

    def without_validation(self) -> "Predictions | None":
        """The cycles of all parts but validation, in the same order; None when there is none."""
        rows = [row for row, part in enumerate(self.parts) if part != VALIDATION_PART]
        return self.of_rows(rows) if rows else None

    def of_keys(self, keys: Sequence[str]) -> "Predictions":
        """The cycles with these keys, in the order of the keys."""
        rows = {key: row for row, key in enumerate(self.keys)}
        return self.of_rows([rows[key] for key in keys])

    def of_rows(self, rows: Sequence[int]) -> "Predictions":
        """These rows, in this order."""
        return Predictions(
            keys=tuple(self.keys[row] for row in rows),
            patients=tuple(self.patients[row] for row in rows),
            devices=tuple(self.devices[row] for row in rows),
            parts=tuple(self.parts[row] for row in rows),
            labels=self.labels[rows],
            probabilities=self.probabilities[rows],
            classes=self.classes,
        )


def _first_problem(
    keys: Sequence[str],
    patients: Sequence[str],
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float64],
) -> tuple[int, str] | None:
    """Index of the first row that breaks a rule of `Predictions`, and which rule; None when all is well."""
    seen: set[str] = set()
    num_classes = probabilities.shape[1]
    for row, (key, patient, label, shares) in enumerate(
        zip(keys, patients, labels.tolist(), probabilities.tolist(), strict=True)
    ):
        if not _KEY.fullmatch(key):
            return row, f"{key!r} is no key: <recording>#<start>-<end> is needed, with seconds as 0.500-2.250"
        if key in seen:
            return row, f"key {key!r} comes a second time; each cycle has one row"
        seen.add(key)
        if not patient:
            return row, "the patient is blank; intervals are over patients, so each cycle needs one"
        if not 0 <= label < num_classes:
            return row, f"label {label} is outside 0 to {num_classes - 1}"
        if not all(math.isfinite(share) and share >= 0.0 for share in shares):
            return row, f"probabilities must be numbers from 0 to 1; got {shares}"
        if abs(sum(shares) - 1.0) > SUM_TOLERANCE:
            return row, f"probabilities sum to {sum(shares):.6g}; they must sum to 1 within {SUM_TOLERANCE}"
    return None


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write a predictions file; `read_predictions` gives back the same bits. An older file is replaced.

    A name that ends in .gz is compressed; the same predictions give the same bytes.
    """
    classes = predictions.classes
    with written_whole(path) as partial, opened(partial, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*FIXED_COLUMNS, *(PROBABILITY_PREFIX + name for name in classes)])
        for key, patient, device, part, label, answer, shares in zip(
            predictions.keys,
            predictions.patients,
            predictions.devices,
            predictions.parts,
            predictions.labels.tolist(),
            predictions.predicted.tolist(),
            predictions.probabilities.tolist(),
            strict=True,
        ):
            writer.writerow([key, patient, device, part, classes[label], classes[answer], *map(repr, shares)])


def read_predictions(path: Path) -> Predictions:
    """Read a predictions file. Raises DataError that names the file, the line and what is wrong with it."""
    try:
        with opened(path, "r") as file:
            reader = csv.reader(file, strict=True)
            numbered = [(reader.line_num, row) for row in reader]
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"predictions file {path} cannot be read: {reason}") from error
    except (UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise DataError(f"predictions file {path} is not a CSV file in UTF-8: {error}") from error
    if not numbered:
        raise DataError(f"predictions file {path} is empty: a header line and one line per cycle are needed")
    classes = _classes_of_header(path, numbered[0][1])
    lines, rows = [line for line, _ in numbered[1:]], [row for _, row in numbered[1:]]
    if not rows:
        raise DataError(f"predictions file {path} has a header but no cycle: one line per cycle is needed")
    labels, written_classes, probabilities = [], [], []
    for line, row in zip(lines, rows, strict=True):
        label, written, shares = _parse_row(path, line, row, classes)
        labels.append(label)
        written_classes.append(written)
        probabilities.append(shares)
    keys, patients, devices, parts = (tuple(row[column] for row in rows) for column in range(4))
    label_array, share_array = np.array(labels, dtype=np.int64), np.array(probabilities, dtype=np.float64)
    problem = _first_problem(keys, patients, label_array, share_array)
    if problem is not None:
        raise DataError(f"{path}, line {lines[problem[0]]}: {problem[1]}")
    predictions = Predictions(keys, patients, devices, parts, label_array, share_array, classes)
    for line, written, computed in zip(lines, written_classes, predictions.predicted.tolist(), strict=True):
        if written != computed:
            raise DataError(
                f"{path}, line {line}: the answer is {classes[written]!r} but the most probable class is "
                f"{classes[computed]!r}; they must agree"
            )
    return predictions


def joined(folds: Sequence[Predictions]) -> Predictions:
    """All rows of predictions of different cycles with the same classes. DataError when a cycle comes twice."""
    if len({fold.classes for fold in folds}) != 1:
        raise DataError(f"predictions of {len(folds)} folds with different classes cannot be joined")
    return Predictions(
        keys=tuple(key for fold in folds for key in fold.keys),
        patients=tuple(patient for fold in folds for patient in fold.patients),
        devices=tuple(device for fold in folds for device in fold.devices),
        parts=tuple(part for fold in folds for part in fold.parts),
        labels=np.concatenate([fold.labels for fold in folds]),
        probabilities=np.concatenate([fold.probabilities for fold in folds]),
        classes=folds[0].classes,
    )


def rounded(predictions: Predictions, digits: int) -> Predictions:
    """The predictions with probabilities rounded, but for rows in which that would change the predicted class."""
    probabilities = np.round(predictions.probabilities, digits)
    is_changed = probabilities.argmax(axis=1) != predictions.predicted
    probabilities[is_changed] = predictions.probabilities[is_changed]
    return replace(predictions, probabilities=probabilities)


@contextmanager
def opened(path: Path, mode: Literal["r", "w"]) -> Iterator[TextIO]:
    """The file as text in UTF-8, compressed if its name ends in .gz (or, half written, in .gz.partial).

    What is compressed holds neither time nor name. Raises OSError, EOFError, UnicodeDecodeError or zlib.error for what
    cannot be read.
    """
    is_compressed = path.name.removesuffix(".partial").endswith(".gz")
    encoding = "utf-8-sig" if mode == "r" else "utf-8"
    with path.open(f"{mode}b") as plain:
        binary = gzip.GzipFile(filename="", mode=f"{mode}b", fileobj=plain, mtime=0) if is_compressed else plain
        with io.TextIOWrapper(binary, encoding=encoding, newline="") as text:
            yield text


def _classes_of_header(path: Path, header: list[str]) -> tuple[str, ...]:
    missing = [name for name in FIXED_COLUMNS if name not in header]
    if missing:
        raise DataError(f"{path}, line 1: no column {missing[0]!r}; the header must be {_header_text()}")
    columns = header[len(FIXED_COLUMNS) :]
    if tuple(header[: len(FIXED_COLUMNS)]) != FIXED_COLUMNS or not all(
        c.startswith(PROBABILITY_PREFIX) for c in columns
    ):
        raise DataError(f"{path}, line 1: the header is {','.join(header)}; it must be {_header_text()}")
    classes = tuple(column.removeprefix(PROBABILITY_PREFIX) for column in columns)
    if len(classes) < 2 or len(set(classes)) != len(classes) or "" in classes:
        raise DataError(
            f"{path}, line 1: two or more probability columns with different names are needed; got {columns}"
        )
    return classes


def _header_text() -> str:
    return ",".join(FIXED_COLUMNS) + ",p_<class 0>,p_<class 1>,..."


def _parse_row(path: Path, line: int, row: list[str], classes: tuple[str, ...]) -> tuple[int, int, list[float]]:
    """Label, predicted class and probabilities of one line."""
    num_columns = len(FIXED_COLUMNS) + len(classes)
    if len(row) != num_columns:
        raise DataError(f"{path}, line {line}: {len(row)} columns where the header has {num_columns}")
    for column, name in (("label", row[4]), ("answer", row[5])):
        if name not in classes:
            raise DataError(f"{path}, line {line}: unknown {column} {name!r}; the classes are {', '.join(classes)}")
    shares = []
    for name, text in zip(classes, row[len(FIXED_COLUMNS) :], strict=True):
        try:
            shares.append(float(text))
        except ValueError as error:
            raise DataError(f"{path}, line {line}: {PROBABILITY_PREFIX}{name} is {text!r}, not a number") from error
    return classes.index(row[4]), classes.index(row[5]), shares
