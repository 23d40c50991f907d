"""The formats that answers are written in, and the writing of them.

A format that cannot hold what made it has a file beside it, `<file>.provenance.json`, written last.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lungsound.errors import SettingsError
from lungsound.files import written_whole
from lungsound.inference.formats.annotations import (
    RECORD_KEY,
    audacity_text,
    icbhi_prediction_text,
    raven_text,
    require_icbhi_words,
    require_sprsound_words,
    sprsound_prediction_text,
    textgrid_text,
)
from lungsound.inference.formats.fhir import fhir_text
from lungsound.inference.formats.json_lines import FORMAT_VERSION, json_lines_text, provenance_record, record
from lungsound.inference.formats.tables import csv_text, load_pyarrow, parquet_bytes
from lungsound.inference.prediction import Provenance, RecordingPrediction
from lungsound.labels import LabelSet

BESIDE = ".provenance.json"
MAX_NAME_BYTES = 235  # of 255 in common file systems: a file being written has an ending of its own


@dataclass(frozen=True)
class OneTable:
    """A format of one file for all recordings."""

    suffix: str
    render: Callable[[Sequence[RecordingPrediction], Provenance], str | bytes]
    has_provenance: bool = True
    require: Callable[[LabelSet], object] | None = None


@dataclass(frozen=True)
class FilePerRecording:
    """A format of one file for each recording; no text, no file. An annotation is written over only if it is ours."""

    suffix: str
    render: Callable[[RecordingPrediction, Provenance], str | None]
    has_provenance: bool = False
    require: Callable[[LabelSet], object] | None = None
    is_annotation: bool = False


Format = OneTable | FilePerRecording

FORMATS: dict[str, Format] = {
    "csv": OneTable(".csv", csv_text, has_provenance=False),
    "jsonl": OneTable(".jsonl", json_lines_text),
    "parquet": OneTable(".parquet", parquet_bytes, require=lambda _: load_pyarrow()),
    "audacity": FilePerRecording(".audacity.txt", audacity_text),
    "raven": FilePerRecording(".raven.txt", raven_text),
    "textgrid": FilePerRecording(".TextGrid", textgrid_text),
    "icbhi": FilePerRecording(".txt", icbhi_prediction_text, require=require_icbhi_words, is_annotation=True),
    "sprsound": FilePerRecording(
        ".json", sprsound_prediction_text, has_provenance=True, require=require_sprsound_words, is_annotation=True
    ),
    "fhir": FilePerRecording(".fhir.json", fhir_text, has_provenance=True),
}


def find_format(name: str, label_set: LabelSet) -> Format:
    """The format of this name; to be asked before anything is answered.

    Raises SettingsError when there is none, when it has no words for the label set, or when its extra is missing.
    """
    if name not in FORMATS:
        raise SettingsError(f"there is no output format {name!r}: choose one of {', '.join(FORMATS)}")
    found = FORMATS[name]
    if found.require is not None:
        found.require(label_set)
    return found


def check_names(recordings: Sequence[Path], formats: Sequence[str]) -> None:
    """SettingsError when a format has a file for each recording, and two share a name or one has too long a name."""
    for to in (name for name in formats if isinstance(FORMATS[name], FilePerRecording)):
        paths: dict[str, Path] = {}
        for path in recordings:
            other = paths.setdefault(path.stem.casefold(), path)  # one file where letters' cases are not told apart
            if other != path:
                raise SettingsError(
                    f"{to} writes a file for each recording, but {other} and {path} are both called "
                    f"{path.stem}: answer them apart, into folders of their own"
                )
            if len(os.fsencode(f"{path.stem}{FORMATS[to].suffix}{BESIDE}")) > MAX_NAME_BYTES:
                raise SettingsError(f"{path}: its name is too long for a file of {to} beside it; give it a shorter one")


def last_file(to: Format, out: Path, name: str) -> Path:
    """What is written last for a recording (or a table) of this name: when it is there, the answer is complete."""
    path = out / f"{name}{to.suffix}"
    return path if to.has_provenance else _beside(path)


def write_predictions(
    answers: Sequence[RecordingPrediction], provenance: Provenance, *, to: str, out: Path, table_name: str = "answers"
) -> list[Path]:
    """Write the answers into the folder `out`, over what is there; returns the files.

    They are `<table_name><suffix>`, or `<recording><suffix>` for each, and those of the provenance.

    Raises SettingsError, before anything is written, as `find_format` does, when two recordings would be written to
    the same file, and when one would be written over an annotation that lungsound did not write; ValueError when an
    answer is not about the label set's classes.
    """
    found = find_format(to, provenance.label_set)
    _check_classes(answers, provenance)
    if isinstance(found, OneTable):
        facts = {"format_version": FORMAT_VERSION, "provenance": provenance_record(provenance)}
        beside = None if found.has_provenance else facts
        return _write(out / f"{table_name}{found.suffix}", found.render(answers, provenance), beside)
    paths = [out / f"{answer.name}{found.suffix}" for answer in answers]
    check_names([answer.path for answer in answers], [to])
    if found.is_annotation:
        _check_ours(paths)
    written = []
    for path, answer in zip(paths, answers, strict=True):
        beside = None if found.has_provenance else record(answer, provenance)
        written += _write(path, found.render(answer, provenance), beside)
    return written


def _write(path: Path, content: str | bytes | None, beside: dict[str, Any] | None) -> list[Path]:
    if content is None:
        path.unlink(missing_ok=True)  # of an earlier answer
    files = {} if content is None else {path: content}
    if beside is not None:
        files[_beside(path)] = json.dumps(beside, allow_nan=False, indent=1) + "\n"
    for place, text in files.items():
        with written_whole(place, is_shared=True) as partial:  # two runs may answer into one folder
            partial.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return list(files)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + BESIDE)


def _check_classes(answers: Sequence[RecordingPrediction], provenance: Provenance) -> None:
    classes = provenance.label_set.classes
    for answer in answers:
        for cycle in (*answer.cycles, *([] if answer.aggregate is None else [answer.aggregate])):
            if tuple(cycle.probabilities) != classes:
                given = ", ".join(cycle.probabilities)
                raise ValueError(f"{answer.path}: probabilities of {given}, but the classes are {', '.join(classes)}")


def _check_ours(paths: Sequence[Path]) -> None:
    """SettingsError when one of these annotations is there without a sign that lungsound wrote it."""
    for path in paths:
        if path.exists() and not _beside(path).exists() and f'"{RECORD_KEY}"'.encode() not in path.read_bytes():
            raise SettingsError(f"{path} is an annotation that lungsound did not write: choose another folder")
