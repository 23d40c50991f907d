"""The rows of the tables: one for each recording, one for each of its cycles.

Answers as JSON: one object for a recording that holds everything, with what made it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lungsound.inference.prediction import UNCERTAIN, CyclePrediction, Provenance, RecordingPrediction

FORMAT_VERSION = 1


def json_lines_text(answers: Sequence[RecordingPrediction], provenance: Provenance) -> str:
    """A line for each recording, in ASCII."""
    return "".join(f"{json.dumps(record(answer, provenance), allow_nan=False)}\n" for answer in answers)


def record(answer: RecordingPrediction, provenance: Provenance) -> dict[str, Any]:
    """Everything that is known of one recording's answers; None (null) for what is not."""
    return {
        "format_version": FORMAT_VERSION,
        "path": answer.path_text,
        "patient": answer.patient,
        "device": answer.device,
        "duration_s": answer.duration_s,
        "sample_rate_hz": answer.sample_rate_hz,
        "cycles_from": answer.cycles_from,
        "quality": list(answer.quality),
        "out_of_domain": answer.out_of_domain,
        "whole": None if answer.aggregate is None else _cycle_record(answer.aggregate),
        "cycles": [_cycle_record(cycle) for cycle in answer.cycles],
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
    """What `record` was made from, but for its provenance."""
    whole = values["whole"]
    return RecordingPrediction(
        path=Path(values["path"]),
        duration_s=values["duration_s"],
        sample_rate_hz=values["sample_rate_hz"],
        cycles_from=values["cycles_from"],
        cycles=tuple(_cycle_of(cycle) for cycle in values["cycles"]),
        aggregate=None if whole is None else _cycle_of(whole),
        patient=values["patient"],
        device=values["device"],
        quality=tuple(values["quality"]),
        out_of_domain=values["out_of_domain"],
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
