"""Predictions as a FHIR R4 Bundle: a preliminary DiagnosticReport, its Observations, and the Device that made them.

https://hl7.org/fhir/R4/diagnosticreport.html, observation.html, device.html. No code of a terminology is used but for
units and for absent values: a prediction is no finding. Nothing names the patient or the file: the subject is the
pseudonym, or left out.
"""

import json
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from lungsound.inference.prediction import UNCERTAIN, CyclePrediction, Provenance, RecordingPrediction

RESEARCH_USE = "research use only, not for diagnosis"
_UNITS = "http://unitsofmeasure.org"
_ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"

Resource = dict[str, Any]


def fhir_text(prediction: RecordingPrediction, provenance: Provenance) -> str:
    """The Bundle (type "collection") of one recording. The same prediction gives the same ids."""

    def url(part: str) -> str:
        facts = (provenance.model_sha256, provenance.created_text, prediction.path_text, part)
        return uuid5(NAMESPACE_URL, "\n".join(facts)).urn

    patient = {"type": "Patient", "identifier": {"value": prediction.patient}}
    about = {} if prediction.patient is None else {"subject": patient}
    method = f"lungsound {provenance.lungsound_version}, model SHA-256 {provenance.model_sha256}"
    method += f", calibration {provenance.calibration or 'none'}; cycles from {prediction.cycles_from}"
    shared = {
        **about,
        "issued": provenance.created_text,
        "method": {"text": method},
        "device": {"reference": url("device")},
    }
    cycles = {
        url(f"cycle {index}"): _observation(cycle, "breathing cycle", shared)
        for index, cycle in enumerate(prediction.cycles)
    }
    conclusion = "no answer" if prediction.aggregate is None else prediction.aggregate.caption
    report = {
        "resourceType": "DiagnosticReport",
        "status": "preliminary",
        "code": {"text": f"Lung sounds as answered by a program; {RESEARCH_USE}"},
        **about,
        "issued": provenance.created_text,
        "result": [{"reference": each} for each in (url("recording"), *cycles)],
        "conclusion": f"{conclusion}. {provenance.note}",
    }
    entries = {
        url("device"): _device(provenance),
        url("recording"): _recording(prediction, shared, list(cycles)),
        **cycles,
        url("report"): report,
    }
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": provenance.created_text,
        "entry": [{"fullUrl": each, "resource": resource} for each, resource in entries.items()],
    }
    return json.dumps(bundle, allow_nan=False, indent=1) + "\n"


def _recording(prediction: RecordingPrediction, shared: Resource, members: list[str]) -> Resource:
    remarks = [f"quality: {name}" for name in prediction.quality]
    if prediction.out_of_domain is not None:
        remarks.append(f"out-of-domain score: {prediction.out_of_domain:g}")
    return {
        **_observation(prediction.aggregate, "recording", shared),
        **({"note": [{"text": remark} for remark in remarks]} if remarks else {}),
        **({"hasMember": [{"reference": url} for url in members]} if members else {}),
    }


def _observation(cycle: CyclePrediction | None, what: str, shared: Resource) -> Resource:
    """Observation of a stretch; without a prediction, or where it is uncertain, the reason in place of a value."""
    if cycle is None or cycle.is_uncertain:
        absent = {"coding": [{"system": _ABSENT, "code": "unknown"}], "text": UNCERTAIN if cycle else "no answer"}
        value = {"dataAbsentReason": absent}
    else:
        value = {"valueCodeableConcept": {"text": cycle.best_guess}}
    return {
        "resourceType": "Observation",
        "status": "preliminary",
        "code": {"text": f"Lung sound of a {what}; {RESEARCH_USE}"},
        **shared,
        **value,
        **({} if cycle is None else {"component": _components(cycle)}),
    }


def _components(cycle: CyclePrediction) -> list[Resource]:
    span = {"low": _quantity(cycle.start_s, "s"), "high": _quantity(cycle.end_s, "s")}
    return [
        {"code": {"text": "place in the recording"}, "valueRange": span},
        *(
            {"code": {"text": f"probability of {name}"}, "valueQuantity": _quantity(round(probability, 6), "1")}
            for name, probability in cycle.probabilities.items()
        ),
        *({"code": {"text": "cannot be ruled out"}, "valueCodeableConcept": {"text": name}} for name in cycle.possible),
    ]


def _device(provenance: Provenance) -> Resource:
    versions = {"lungsound": provenance.lungsound_version, "model SHA-256": provenance.model_sha256}
    if provenance.calibration is not None:
        versions["calibration"] = provenance.calibration
    settings = json.dumps(dict(provenance.settings), allow_nan=False)
    return {
        "resourceType": "Device",
        "deviceName": [{"name": provenance.model, "type": "user-friendly-name"}],
        "version": [{"type": {"text": name}, "value": value} for name, value in versions.items()],
        "safety": [{"text": provenance.note}],
        "note": [{"text": f"label set {provenance.label_set.name}; settings {settings}"}],
    }


def _quantity(value: float, unit: str) -> Resource:
    return {"value": value, "unit": unit, "system": _UNITS, "code": unit}
