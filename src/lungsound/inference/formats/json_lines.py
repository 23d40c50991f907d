"""Predictions as JSON: an object for each recording that holds everything, with its provenance."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lungsound.inference.prediction import UNCERTAIN, CyclePrediction, Provenance, RecordingPrediction

FORMAT_VERSION = 1


def json_lines_text(predictions: Sequence[RecordingPrediction], provenance: Provenance) -> str:
    """A line for each recording, in ASCII."""
    return "".join(f"{json.dumps(record(each, provenance), allow_nan=False)}\n" for each in predictions)


def record(prediction: RecordingPrediction, provenance: Provenance) -> dict[str, Any]:
    """Everything known of one recording's prediction; None (null) for what is not."""
    return {
        "format_version": FORMAT_VERSION,
        "path": prediction.path_text,
        "patient": prediction.patient,
        "device": prediction.device,
        "duration_s": prediction.duration_s,
        "sample_rate_hz": prediction.sample_rate_hz,
        "cycles_from": prediction.cycles_from,
        "quality": list(prediction.quality),
        "out_of_domain": prediction.out_of_domain,
        "whole": None if prediction.aggregate is None else _cycle_record(prediction.aggregate),
        "cycles": [_cycle_record(cycle) for cycle in prediction.cycles],
        "provenance": provenance_record(provenance),
    }


def provenance_record(provenance: Provenance) -> dict[str, Any]:
    return {
        "lungsound_version": provenance.lungsound_version,
        "model": provenance.model,
        "model_sha256": provenance.model_sha256,
        "label_set": provenance.label_set.name,
        "classes": list(provenance.label_set.classes),
        "band_hz": list(provenance.band_hz),
        "settings": dict(provenance.settings),
        "calibration": provenance.calibration,
        "created": provenance.created_text,
        "note": provenance.note,
    }


def _cycle_record(cycle: CyclePrediction) -> dict[str, Any]:
    return {
        "start_s": cycle.start_s,
        "end_s": cycle.end_s,
        "answer": cycle.label,
        "best_guess": cycle.best_guess,
        "possible": list(cycle.possible),
        "probabilities": dict(cycle.probabilities),
    }


def prediction_of(values: Mapping[str, Any]) -> RecordingPrediction:
    """Prediction that `record` was made from, without its provenance."""
    shared = ("duration_s", "sample_rate_hz", "cycles_from", "patient", "device", "out_of_domain")
    return RecordingPrediction(
        path=Path(values["path"]),
        cycles=tuple(_cycle_of(cycle) for cycle in values["cycles"]),
        aggregate=None if values["whole"] is None else _cycle_of(values["whole"]),
        quality=tuple(values["quality"]),
        **{name: values[name] for name in shared},
    )


def _cycle_of(values: Mapping[str, Any]) -> CyclePrediction:
    return CyclePrediction(
        values["start_s"],
        values["end_s"],
        values["best_guess"],
        values["probabilities"],
        is_uncertain=values["answer"] == UNCERTAIN,
        possible=tuple(values["possible"]),
    )
