"""The OpenAPI description of each route: bodies, and examples of responses."""

from typing import Any

RECORD = {
    "format_version": 1,
    "path": "101_1b1_Al_sc_Meditron.wav",
    "device": "Meditron",
    "duration_s": 20.0,
    "sample_rate_hz": 44100,
    "cycles_from": "segmentation",
    "quality": [],
    "out_of_domain": 0.31,
    "whole": {
        "start_s": 0.0,
        "end_s": 20.0,
        "answer": "crackle",
        "best_guess": "crackle",
        "possible": ["crackle"],
        "probabilities": {"normal": 0.1, "crackle": 0.7, "wheeze": 0.1, "both": 0.1},
    },
    "cycles": [
        {
            "start_s": 0.036,
            "end_s": 1.579,
            "answer": "uncertain",
            "best_guess": "crackle",
            "possible": ["normal", "crackle"],
            "probabilities": {"normal": 0.42, "crackle": 0.44, "wheeze": 0.07, "both": 0.07},
        }
    ],
    "provenance": {
        "lungsound_version": "0.1.0",
        "model": "first",
        "model_sha256": "9f2c61d0" * 8,
        "label_set": "sound4",
        "classes": ["normal", "crackle", "wheeze", "both"],
        "band_hz": [0.0, 8000.0],
        "settings": {"engine": "torch", "device": "cpu", "cycles": "auto"},
        "calibration": "c41d7a02",
        "created": "2026-01-31T14:05:00+00:00",
        "note": "Research software, not a medical device.",
    },
}
MODEL = {
    "classes": ["normal", "crackle", "wheeze", "both"],
    "label_set": "sound4",
    "sample_rate_hz": 16000,
    "duration_s": 8.0,
    "model_sha256": "9f2c61d0" * 8,
    "model": "first",
    "calibration": "c41d7a02",
    "is_calibrated": True,
    "scaling": "after temperature scaling with T 1.320",
    "note": "Research software, not a medical device.",
    "limits": {"max_bytes": 67108864, "max_duration_s": 600.0},
    "sound_formats": ["wav", "flac", "ogg", "mp3"],
    "formats": ["icbhi", "sprsound", "csv"],
    "is_review": False,
}
CORRECTED: dict[str, Any] = {
    "name": "101_1b1_Al_sc_Meditron.wav",
    "duration_s": 20.0,
    "sample_rate_hz": 44100,
    "cycles": [{"start_s": 0.036, "end_s": 1.579, "label": "crackle"}],
}
ERROR = {"error": "the recording lasts 812.0 s; at most 600 s"}

_BINARY = {"type": "string", "format": "binary"}
_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": _BINARY, "annotation": {**_BINARY, "description": "ICBHI's .txt: where the cycles are"}},
}
_SEVERAL = {"type": "object", "required": ["file"], "properties": {"file": {"type": "array", "items": _BINARY}}}


def _json(example: Any, description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


ERRORS: dict[int | str, dict[str, Any]] = {
    status: _json(ERROR, description)
    for status, description in {
        400: "The request cannot be understood.",
        401: "The token is missing or wrong.",
        413: "Too many bytes, or too long a recording.",
        415: "No sound file that is known.",
        422: "A sound file, annotation or field that cannot be used.",
        429: "All places are taken: ask again after Retry-After.",
        503: "Stopping, or not ready.",
        504: "No response within the time limit.",
    }.items()
}
PREDICTION: dict[str, Any] = {
    "responses": {200: _json(RECORD, "The prediction, as docs/outputs.md describes it for `jsonl`."), **ERRORS},
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": _FORM}, "application/octet-stream": {"schema": _BINARY}},
        },
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": {"type": "string"}, "description": description}
            for name, description in {"name": "of a raw body", "device": "that recorded it, when known"}.items()
        ],
    },
}
BATCH: dict[str, Any] = {
    "responses": {200: _json({"results": [RECORD, {"name": "b.wav", **ERROR}]}, "In the order of the form."), **ERRORS},
    "openapi_extra": {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _SEVERAL}}}},
}
