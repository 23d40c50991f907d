"""Answers as a FHIR R4 Bundle: a preliminary DiagnosticReport, its Observations, and the Device that made them.

https://hl7.org/fhir/R4/diagnosticreport.html, observation.html, device.html. No code of a terminology is used but for
units and for absent values: what a model says is no finding. Nothing names the patient or the file: the subject is the
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


def fhir_text(answer: RecordingPrediction, provenance: Provenance) -> str:
    """The Bundle (type "collection") of one recording. The same answer gives the same ids."""
    shared = _shared(answer, provenance)
    observations = [_observation(cycle, "breathing cycle", shared) for cycle in answer.cycles]
    members = [_url(answer, provenance, f"cycle {index}") for index in range(len(observations))]
    whole_url = _url(answer, provenance, "recording")
    entries = {
        shared["device"]["reference"]: _device(provenance),
        whole_url: _whole(answer, shared, members),
        **dict(zip(members, observations, strict=True)),
        _url(answer, provenance, "report"): _report(answer, provenance, [whole_url, *members]),
    }
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": provenance.created_text,
        "entry": [{"fullUrl": url, "resource": resource} for url, resource in entries.items()],
    }
    return json.dumps(bundle, allow_nan=False, indent=1) + "\n"


def _report(answer: RecordingPrediction, provenance: Provenance, results: list[str]) -> Resource:
    conclusion = "no answer" if answer.aggregate is None else answer.aggregate.caption
    return {
        "resourceType": "DiagnosticReport",
        "status": "preliminary",
        "code": {"text": f"Lung sounds as answered by a program; {RESEARCH_USE}"},
        **_subject(answer),
        "issued": provenance.created_text,
        "result": [{"reference": url} for url in results],
        "conclusion": f"{conclusion}. {provenance.note}",
    }


def _whole(answer: RecordingPrediction, shared: Resource, members: list[str]) -> Resource:
    remarks = [f"quality: {name}" for name in answer.quality]
    if answer.out_of_domain is not None:
        remarks.append(f"out-of-domain score: {answer.out_of_domain:g}")
    return {
        **_observation(answer.aggregate, "recording", shared),
        **({"note": [{"text": remark} for remark in remarks]} if remarks else {}),
        **({"hasMember": [{"reference": url} for url in members]} if members else {}),
    }


def _observation(cycle: CyclePrediction | None, what: str, shared: Resource) -> Resource:
    """The answer for a stretch; without one, or when it is uncertain, there is no value but the reason."""
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
    found: list[Resource] = [{"code": {"text": "place in the recording"}, "valueRange": span}]
    for name, probability in cycle.probabilities.items():
        found.append(
            {"code": {"text": f"probability of {name}"}, "valueQuantity": _quantity(round(probability, 6), "1")}
        )
    found += [
        {"code": {"text": "cannot be ruled out"}, "valueCodeableConcept": {"text": name}} for name in cycle.possible
    ]
    return found


def _shared(answer: RecordingPrediction, provenance: Provenance) -> Resource:
    calibration = provenance.calibration or "none"
    method = f"lungsound {provenance.lungsound_version}, model SHA-256 {provenance.model_sha256}"
    return {
        **_subject(answer),
        "issued": provenance.created_text,
        "method": {"text": f"{method}, calibration {calibration}; cycles from {answer.cycles_from}"},
        "device": {"reference": _url(answer, provenance, "device")},
    }


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


def _subject(answer: RecordingPrediction) -> Resource:
    if answer.patient is None:
        return {}
    return {"subject": {"type": "Patient", "identifier": {"value": answer.patient}}}


def _quantity(value: float, unit: str) -> Resource:
    return {"value": value, "unit": unit, "system": _UNITS, "code": unit}


def _url(answer: RecordingPrediction, provenance: Provenance, part: str) -> str:
    facts = (provenance.model_sha256, provenance.created_text, answer.path_text, part)
    return uuid5(NAMESPACE_URL, "\n".join(facts)).urn
