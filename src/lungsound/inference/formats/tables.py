"""Predictions as JSON lines (an object for each recording), CSV and Parquet (rows of recordings and their cycles)."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from lungsound import files
from lungsound.extras import load
from lungsound.inference.prediction import (
    SEPARATOR,
    CyclePrediction,
    Provenance,
    RecordingPrediction,
    aggregate_recordings,
)

FORMAT_VERSION = 2


def json_lines_text(predictions: Sequence[RecordingPrediction], provenance: Provenance) -> str:
    """A line for each recording, in ASCII."""
    return "".join(f"{json.dumps(record(each, provenance), allow_nan=False)}\n" for each in predictions)


def record(prediction: RecordingPrediction, provenance: Provenance) -> dict[str, Any]:
    """Everything known of one recording's prediction; None (null) for what is not."""

    def cycle_record(cycle: CyclePrediction) -> dict[str, Any]:
        return {
            "start_s": cycle.start_s,
            "end_s": cycle.end_s,
            "answer": cycle.label,
            "best_guess": cycle.best_guess,
            "possible": list(cycle.possible),
            "reasons": list(cycle.reasons),
            "probabilities": dict(cycle.probabilities),
        }

    return {
        "format_version": FORMAT_VERSION,
        "path": prediction.path_text,
        "patient": prediction.patient,
        "stethoscope": prediction.stethoscope,
        "age_years": prediction.age_years,
        "duration_s": prediction.duration_s,
        "sample_rate_hz": prediction.sample_rate_hz,
        "cycles_from": prediction.cycles_from,
        "quality": list(prediction.quality),
        "out_of_domain": prediction.out_of_domain,
        "whole": None if prediction.aggregate is None else cycle_record(prediction.aggregate),
        "cycles": [cycle_record(cycle) for cycle in prediction.cycles],
        "provenance": provenance_record(provenance),
    }


def provenance_record(provenance: Provenance) -> dict[str, Any]:
    return {
        "evidence": provenance.evidence,
        "lungsound_version": provenance.lungsound_version,
        "model": provenance.model,
        "model_sha256": provenance.model_sha256,
        "label_set": provenance.label_set.name,
        "classes": list(provenance.label_set.classes),
        "band_hz": list(provenance.band_hz),
        "settings": provenance.settings,
        "calibration": provenance.calibration,
        "created": provenance.created_text,
        "note": provenance.note,
    }


# Columns never change their meaning or order within a format version; new ones come last. Types are Parquet's.
COLUMN_TYPES = {
    "format_version": "int32",
    "path": "string",
    "patient": "string",
    "stethoscope": "string",
    "duration_s": "float64",
    "cycles_from": "string",
    "unit": "string",
    "start_s": "float64",
    "end_s": "float64",
    "answer": "string",
    "best_guess": "string",
    "possible": "list",
    "quality": "list",
    "out_of_domain": "float64",
    "model_sha256": "string",
    "calibration": "string",
}
PROBABILITY_PREFIX = "p_"
LAST_TYPES = {"reasons": "list", "age_years": "float64"}
METADATA_KEY = "lungsound"

Value = str | int | float | tuple[str, ...] | None


def column_types(provenance: Provenance) -> dict[str, str]:
    """Columns with their types: the first ones, `p_<class>` for each class, and the last ones."""
    return COLUMN_TYPES | {PROBABILITY_PREFIX + name: "float64" for name in provenance.label_set.classes} | LAST_TYPES


def rows(predictions: Sequence[RecordingPrediction], provenance: Provenance) -> Iterator[tuple[Value, ...]]:
    """Row of each recording, followed by those of its cycles; None for what is not known."""
    classes = provenance.label_set.classes
    for prediction in predictions:
        for unit, cycle in [("recording", prediction.aggregate), *(("cycle", cycle) for cycle in prediction.cycles)]:
            of_cycle: tuple[Value, ...] = (0.0, prediction.duration_s, None, None, ())
            reasons: tuple[str, ...] = ()
            probabilities: list[float | None] = [None] * len(classes)
            if cycle is not None:
                of_cycle = (cycle.start_s, cycle.end_s, cycle.label, cycle.best_guess, cycle.possible)
                probabilities, reasons = [cycle.probabilities[name] for name in classes], cycle.reasons
            yield (
                FORMAT_VERSION,
                prediction.path_text,
                prediction.patient,
                prediction.stethoscope,
                prediction.duration_s,
                prediction.cycles_from,
                unit,
                *of_cycle,
                prediction.quality,
                prediction.out_of_domain,
                provenance.model_sha256,
                provenance.calibration,
                *probabilities,
                reasons,
                prediction.age_years,
            )


def csv_text(predictions: Sequence[RecordingPrediction], provenance: Provenance) -> str:
    """Table of recordings and cycles; unknown values are blank, several names in a cell parted by `;`."""
    return _csv([tuple(column_types(provenance)), *rows(predictions, provenance)])


def patients_csv(predictions: Sequence[RecordingPrediction], classes: Sequence[str]) -> str:
    """Table of the known patients, with the aggregate of their recordings; only the header for none."""
    columns = [PROBABILITY_PREFIX + name for name in classes]
    head = ("patient", "num_recordings", "answer", "best_guess", *columns, "reasons")
    table: list[tuple[Value, ...]] = [head]
    known = sorted((each for each in predictions if each.patient is not None), key=lambda each: str(each.patient))
    for patient, group in groupby(known, key=lambda each: each.patient):
        recordings = list(group)
        aggregate = aggregate_recordings(recordings)
        cells: list[Value] = [""] * (3 + len(classes))
        if aggregate is not None:
            cells = [aggregate.label, aggregate.best_guess, *aggregate.probabilities.values(), aggregate.reasons]
        table.append((patient, len(recordings), *cells))
    return _csv(table)


def _csv(table: Iterable[tuple[Value, ...]]) -> str:
    return files.csv_text([SEPARATOR.join(cell) if isinstance(cell, tuple) else cell for cell in row] for row in table)


def parquet_bytes(predictions: Sequence[RecordingPrediction], provenance: Provenance) -> bytes:
    """The table of `csv_text` with types: unknown values are null, several names a list; provenance as metadata."""
    types = column_types(provenance)
    return parquet_table(
        [dict(zip(types, row, strict=True)) for row in rows(predictions, provenance)], types, provenance
    )


def parquet_table(table: Sequence[Mapping[str, Value]], types: Mapping[str, str], provenance: Provenance) -> bytes:
    """Rows as Parquet, with the provenance as metadata; a column that a row lacks is null there."""
    arrow, parquet = load_pyarrow()
    schema = arrow.schema(
        [
            (name, arrow.list_(arrow.string()) if type_name == "list" else arrow.type_for_alias(type_name))
            for name, type_name in types.items()
        ],
        metadata={METADATA_KEY: json.dumps(provenance_record(provenance), allow_nan=False)},
    )
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.Table.from_pylist(list(table), schema=schema), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def load_pyarrow() -> tuple[Any, Any]:
    """Import pyarrow and pyarrow.parquet; SettingsError naming the extra when they are not installed."""
    return load("pyarrow", extra="parquet"), load("pyarrow.parquet", extra="parquet")
