"""The rows of the tables: one for each recording, one for each of its cycles.

All answers as one CSV table: UTF-8, comma, quoted where needed.

The CSV's table as Parquet, typed, with the provenance as metadata (extra `parquet`).
"""

import csv
import importlib
import io
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from lungsound.errors import SettingsError
from lungsound.inference.formats.json_lines import FORMAT_VERSION, provenance_record
from lungsound.inference.prediction import (
    SEPARATOR,
    CyclePrediction,
    Provenance,
    RecordingPrediction,
    aggregate_recordings,
)

# Columns never change their meaning or order within a format version; new ones come behind these.
COLUMNS = (
    "format_version",
    "path",
    "patient",
    "device",
    "duration_s",
    "cycles_from",
    "unit",
    "start_s",
    "end_s",
    "answer",
    "best_guess",
    "possible",
    "quality",
    "out_of_domain",
    "model_sha256",
    "calibration",
)
PROBABILITY_PREFIX = "p_"

Value = str | int | float | tuple[str, ...] | None


def columns(provenance: Provenance) -> tuple[str, ...]:
    """The fixed columns, then `p_<class>` for each class."""
    return (*COLUMNS, *(PROBABILITY_PREFIX + name for name in provenance.label_set.classes))


def rows(answers: Sequence[RecordingPrediction], provenance: Provenance) -> Iterator[tuple[Value, ...]]:
    """Of each recording the row of the whole, then those of its cycles; None for what is not known."""
    for answer in answers:
        yield _row(answer, answer.aggregate, provenance, unit="recording")
        for cycle in answer.cycles:
            yield _row(answer, cycle, provenance, unit="cycle")


def _row(
    answer: RecordingPrediction, cycle: CyclePrediction | None, provenance: Provenance, *, unit: str
) -> tuple[Value, ...]:
    return (
        FORMAT_VERSION,
        answer.path_text,
        answer.patient,
        answer.device,
        answer.duration_s,
        answer.cycles_from,
        unit,
        0.0 if cycle is None else cycle.start_s,
        answer.duration_s if cycle is None else cycle.end_s,
        None if cycle is None else cycle.label,
        None if cycle is None else cycle.best_guess,
        () if cycle is None else cycle.possible,
        answer.quality,
        answer.out_of_domain,
        provenance.model_sha256,
        provenance.calibration,
        *(None if cycle is None else cycle.probabilities[name] for name in provenance.label_set.classes),
    )


def csv_text(answers: Sequence[RecordingPrediction], provenance: Provenance) -> str:
    """A row for each recording and each cycle; unknown values are blank, several names in a cell parted by `;`.

    Numbers carry as many digits as it takes to read back the same float64.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns(provenance))
    for row in rows(answers, provenance):
        writer.writerow([SEPARATOR.join(value) if isinstance(value, tuple) else value for value in row])
    return text.getvalue()


def patients_csv(predictions: Sequence[RecordingPrediction], classes: Sequence[str]) -> str:
    """A row for each known patient, with the aggregate of the recordings; only the header for none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["patient", "num_recordings", "answer", "best_guess", *(PROBABILITY_PREFIX + c for c in classes)])
    known = sorted((each for each in predictions if each.patient is not None), key=lambda each: str(each.patient))
    for patient, group in groupby(known, key=lambda each: each.patient):
        recordings = list(group)
        aggregate = aggregate_recordings(recordings)
        cells = [""] * (2 + len(classes))
        if aggregate is not None:
            cells = [aggregate.label, aggregate.best_guess, *map(str, aggregate.probabilities.values())]
        writer.writerow([patient, len(recordings), *cells])
    return text.getvalue()


METADATA_KEY = "lungsound"
_TYPES = {
    "format_version": "int32",
    "duration_s": "float64",
    "start_s": "float64",
    "end_s": "float64",
    "out_of_domain": "float64",
}
_LISTS = ("possible", "quality")


def parquet_bytes(answers: Sequence[RecordingPrediction], provenance: Provenance) -> bytes:
    """The columns of the CSV; unknown values are null, several names are a list. SettingsError without pyarrow."""
    arrow, parquet = load_pyarrow()
    names = columns(provenance)
    schema = arrow.schema(
        [(name, _type(arrow, name)) for name in names],
        metadata={METADATA_KEY: json.dumps(provenance_record(provenance), allow_nan=False)},
    )
    table = [dict(zip(names, row, strict=True)) for row in rows(answers, provenance)]
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.Table.from_pylist(table, schema=schema), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def load_pyarrow() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet; SettingsError naming the extra when they are not installed."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise SettingsError(
            "pyarrow is not installed, which the format parquet needs: pip install 'lungsound[parquet]', "
            "or choose csv, which has the same columns"
        ) from None


def _type(arrow: Any, column: str) -> Any:
    if column in _LISTS:
        return arrow.list_(arrow.string())
    if column.startswith(PROBABILITY_PREFIX):
        return arrow.float64()
    return arrow.type_for_alias(_TYPES.get(column, "string"))
