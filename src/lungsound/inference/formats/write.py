"""The table of output formats, and the writing of predictions in them.

A format that cannot hold its provenance has a file beside it, `<file>.provenance.json`, written last.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lungsound.errors import SettingsError
from lungsound.files import written_whole
from lungsound.inference.formats import annotations, tables
from lungsound.inference.formats.fhir import fhir_text
from lungsound.inference.prediction import Provenance, RecordingPrediction
from lungsound.labels import LabelSet

TABLE_NAME = "answers"
BESIDE = ".provenance.json"
MAX_NAME_BYTES = 235  # of 255 in common file systems: a file being written has an ending of its own


@dataclass(frozen=True)
class Format:
    """A format of one file for all recordings (`table`), or of one file for each (`single`; None writes no file).

    `require` raises SettingsError for a label set that the format has no words for, and for a missing extra. Annotation
    files are written over only if they are ours.
    """

    suffix: str
    table: Callable[[Sequence[RecordingPrediction], Provenance], str | bytes] | None = None
    single: Callable[[RecordingPrediction, Provenance], str | None] | None = None
    has_provenance: bool = False
    require: Callable[[LabelSet], object] | None = None
    is_annotation: bool = False


FORMATS = {
    "csv": Format(".csv", table=tables.csv_text),
    "jsonl": Format(".jsonl", table=tables.json_lines_text, has_provenance=True),
    "parquet": Format(
        ".parquet", table=tables.parquet_bytes, has_provenance=True, require=lambda _: tables.load_pyarrow()
    ),
    "audacity": Format(".audacity.txt", single=annotations.audacity_text),
    "raven": Format(".raven.txt", single=annotations.raven_text),
    "textgrid": Format(".TextGrid", single=annotations.textgrid_text),
    "icbhi": Format(
        ".txt",
        single=annotations.icbhi_prediction_text,
        require=partial(annotations.require_words, "icbhi"),
        is_annotation=True,
    ),
    "sprsound": Format(
        ".json",
        single=annotations.sprsound_prediction_text,
        has_provenance=True,
        require=partial(annotations.require_words, "sprsound"),
        is_annotation=True,
    ),
    "fhir": Format(".fhir.json", single=fhir_text, has_provenance=True),
}


def check_formats(names: Sequence[str], label_set: LabelSet, recordings: Sequence[Path]) -> None:
    """Check formats before anything is predicted.

    Raises SettingsError for an unknown format, one without words for the label set, or one whose extra is missing; and
    where a format has a file for each recording, if two share a name or one has too long a name.
    """
    for name in names:
        if name not in FORMATS:
            raise SettingsError(f"there is no output format {name!r}: choose one of {', '.join(FORMATS)}")
        chosen = FORMATS[name]
        if chosen.require is not None:
            chosen.require(label_set)
        if chosen.single is None:
            continue
        paths: dict[str, Path] = {}
        for path in recordings:
            other = paths.setdefault(path.stem.casefold(), path)  # one file where the case of letters does not count
            if other != path:
                raise SettingsError(
                    f"{name} writes a file for each recording, but {other} and {path} are both called "
                    f"{path.stem}: predict them apart, into folders of their own"
                )
            if len(os.fsencode(f"{path.stem}{chosen.suffix}{BESIDE}")) > MAX_NAME_BYTES:
                raise SettingsError(f"{path}: its name is too long for a file of {name}; give it a shorter one")


def write_format(
    predictions: Sequence[RecordingPrediction], provenance: Provenance, *, to: str, out: Path
) -> list[Path]:
    """Write predictions into the folder `out`, over files that are there; returns the paths.

    The files are `answers<suffix>`, or `<recording><suffix>` for each, and those of the provenance. Raises, before
    anything is written, SettingsError as `check_formats` does and when a file would replace an annotation that
    lungsound did not write; ValueError when a prediction is not about the label set's classes.
    """
    check_formats([to], provenance.label_set, [prediction.path for prediction in predictions])
    chosen, classes = FORMATS[to], provenance.label_set.classes
    for prediction in predictions:
        for cycle in (*prediction.cycles, *([] if prediction.aggregate is None else [prediction.aggregate])):
            if tuple(cycle.probabilities) != classes:
                given = ", ".join(cycle.probabilities)
                raise ValueError(
                    f"{prediction.path}: probabilities of {given}, but the classes are {', '.join(classes)}"
                )
    if chosen.table is not None:
        facts = {"format_version": tables.FORMAT_VERSION, "provenance": tables.provenance_record(provenance)}
        path = out / f"{TABLE_NAME}{chosen.suffix}"
        return _write(path, chosen.table(predictions, provenance), None if chosen.has_provenance else facts)
    assert chosen.single is not None
    paths = [out / f"{prediction.name}{chosen.suffix}" for prediction in predictions]
    for path in paths if chosen.is_annotation else ():
        if (
            path.exists()
            and not _beside(path).exists()
            and f'"{annotations.RECORD_KEY}"'.encode() not in path.read_bytes()
        ):
            raise SettingsError(f"{path} is an annotation that lungsound did not write: choose another folder")
    written = []
    for path, prediction in zip(paths, predictions, strict=True):
        facts = tables.record(prediction, provenance)
        written += _write(path, chosen.single(prediction, provenance), None if chosen.has_provenance else facts)
    return written


def _write(path: Path, content: str | bytes | None, beside: dict[str, Any] | None) -> list[Path]:
    if content is None:
        path.unlink(missing_ok=True)  # of an earlier prediction
    files = {} if content is None else {path: content}
    if beside is not None:
        files[_beside(path)] = json.dumps(beside, allow_nan=False, indent=1) + "\n"
    for place, text in files.items():
        with written_whole(place, is_shared=True) as partial:  # two runs may write into one folder
            partial.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return list(files)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + BESIDE)
