"""Anyone's file of answers: a table with a row per cycle, or a confusion matrix.

A table has a header. Its columns are found by their names (`ROLES`; case and signs do not matter), or are named by the
caller: the true class and the answer (without an answer the likeliest class is taken), and if there are such the
patient, the recording, the part of the split, and a probability for each class (`p_<class>`, `prob_<class>`,
`proba_<class>` or `probability_<class>`, the class by name or index). Classes are written by name or by index.
"""

import csv
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lungsound.errors import DataError, SettingsError
from lungsound.evaluation.predictions import SUM_TOLERANCE, opened
from lungsound.evaluation.rescoring.class_names import (
    FileClasses,
    classes_of_indices,
    classes_of_names,
    given_classes,
    plain,
    whole_number,
)
from lungsound.evaluation.rescoring.count_files import may_be_matrix, read_json_matrix, read_text_matrix
from lungsound.evaluation.rescoring.tally import PATIENT, RECORDING, Answers, Reading, Tally

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
    classes = _classes(table, roles, how, list(shares) if probabilities is not None else [])
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


def _classes(
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
