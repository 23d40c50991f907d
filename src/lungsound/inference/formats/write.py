"""The table of output formats, and the writing of predictions in them.

A format that cannot hold its provenance has a file beside it, `<file>.provenance.json`, written last.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lungsound.errors import SettingsError
from lungsound.files import RECORD_SUFFIX, is_own_prediction, written_whole
from lungsound.inference.formats import annotations, tables
from lungsound.inference.prediction import Provenance, RecordingPrediction
from lungsound.labels import LabelSet

# Formats of one file for all recordings, and of one for each (None writes no file), with their suffixes.
TABLES: dict[str, tuple[str, Callable[[Sequence[RecordingPrediction], Provenance], str | bytes]]] = {
    "csv": (".csv", tables.csv_text),
    "jsonl": (".jsonl", tables.json_lines_text),
    "parquet": (".parquet", tables.parquet_bytes),
}
SINGLES: dict[str, tuple[str, Callable[[RecordingPrediction, Provenance], str | None]]] = {
    "audacity": (".audacity.txt", annotations.audacity_text),
    "raven": (".raven.txt", annotations.raven_text),
    "textgrid": (".TextGrid", annotations.textgrid_text),
    "icbhi": (".txt", annotations.icbhi_prediction_text),
    "sprsound": (".json", annotations.sprsound_prediction_text),
    "fhir": (".fhir.json", annotations.fhir_text),
}
FORMATS = (*TABLES, *SINGLES)
PAGES = "html"  # made elsewhere: it needs the sound and the model
CORRECTED = ("icbhi", "sprsound")  # annotations, to be corrected: written over only if they are ours
WITH_PROVENANCE = ("jsonl", "parquet", "sprsound", "fhir")
TABLE_NAME = "answers"
MAX_NAME_BYTES = 235  # of 255 in common file systems: a file being written has an ending of its own


def check_formats(names: Sequence[str], label_set: LabelSet, recordings: Sequence[Path]) -> None:
    """Raise SettingsError for a format that is unknown, has no words for the label set, or whose extra is missing.

    And where a format has a file for each recording, if two share a name or one has too long a name.
    """
    for name in names:
        if name not in FORMATS:
            raise SettingsError(f"there is no output format {name!r}: choose one of {', '.join((*FORMATS, PAGES))}")
        if name == "parquet":
            tables.load_pyarrow()
        if name in CORRECTED:
            annotations.require_words(name, label_set)
        paths: dict[str, Path] = {}
        for path in recordings if name in SINGLES else ():
            other = paths.setdefault(path.stem.casefold(), path)  # one file where the case of letters does not count
            if other != path:
                raise SettingsError(
                    f"{name} writes a file for each recording, but {other} and {path} are both called "
                    f"{path.stem}: predict them apart, into folders of their own"
                )
            if len(os.fsencode(f"{path.stem}{SINGLES[name][0]}{RECORD_SUFFIX}")) > MAX_NAME_BYTES:
                raise SettingsError(f"{path}: its name is too long for a file of {name}; give it a shorter one")


def write_format(
    predictions: Sequence[RecordingPrediction], provenance: Provenance, *, to: str, out: Path
) -> list[Path]:
    """Write predictions into the folder `out`, over files that are there; returns the paths.

    The files are `answers<suffix>`, or `<recording><suffix>` for each, and those of the provenance. SettingsError,
    before anything is written, as `check_formats` and when a file would replace an annotation that lungsound did not
    write.
    """
    check_formats([to], provenance.label_set, [prediction.path for prediction in predictions])
    classes = provenance.label_set.classes
    for prediction in predictions:
        for cycle in (*prediction.cycles, *([] if prediction.aggregate is None else [prediction.aggregate])):
            if tuple(cycle.probabilities) != classes:
                given = ", ".join(cycle.probabilities)
                raise ValueError(
                    f"{prediction.path}: probabilities of {given}, but the classes are {', '.join(classes)}"
                )
    if to in TABLES:
        suffix, table = TABLES[to]
        facts = {"format_version": tables.FORMAT_VERSION, "provenance": tables.provenance_record(provenance)}
        return _write(out / f"{TABLE_NAME}{suffix}", table(predictions, provenance), facts, to=to)
    suffix, single = SINGLES[to]
    paths, mark = [out / f"{prediction.name}{suffix}" for prediction in predictions], f'"{annotations.RECORD_KEY}"'
    for path in paths if to in CORRECTED else ():
        if path.exists() and not is_own_prediction(path) and mark.encode() not in path.read_bytes():
            raise SettingsError(
                f"{path} is an annotation that lungsound did not write, or somebody corrected: choose another folder"
            )
    written = []
    for path, prediction in zip(paths, predictions, strict=True):
        written += _write(path, single(prediction, provenance), tables.record(prediction, provenance), to=to)
    return written


def _write(path: Path, content: str | bytes | None, facts: dict[str, Any], *, to: str) -> list[Path]:
    if content is None:
        path.unlink(missing_ok=True)  # of an earlier prediction
    data = content.encode("utf-8") if isinstance(content, str) else content
    files = {} if data is None else {path: data}
    if to not in WITH_PROVENANCE:
        if to in CORRECTED and data is not None:
            facts = facts | {"file_sha256": hashlib.sha256(data).hexdigest()}
        record = json.dumps(facts, allow_nan=False, indent=1) + "\n"
        files[path.with_name(path.name + RECORD_SUFFIX)] = record.encode("utf-8")
    for place, part in files.items():
        with written_whole(place) as partial:
            partial.write_bytes(part)
    return list(files)
