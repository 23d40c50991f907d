"""Predictions as a FHIR R4 Bundle: a preliminary DiagnosticReport, its Observations, and the Device that made them.

https://hl7.org/fhir/R4/diagnosticreport.html, observation.html, device.html. No code of a terminology is used but for
units and for absent values: a prediction is no finding. Nothing names the patient or the file: the subject is the
pseudonym, or left out.
"""

import json
from uuid import NAMESPACE_URL, uuid5

from lungsound.inference.prediction import Provenance, RecordingPrediction
from lungsound.page import render

RESEARCH_USE = "research use only, not for diagnosis"


def fhir_text(prediction: RecordingPrediction, provenance: Provenance) -> str:
    """The Bundle (type "collection") of one recording. The same prediction gives the same ids."""

    def url(part: str) -> str:
        facts = (provenance.model_sha256, provenance.created_text, prediction.path_text, part)
        return uuid5(NAMESPACE_URL, "\n".join(facts)).urn

    score, calibration = prediction.out_of_domain, provenance.calibration
    versions = {"lungsound": provenance.lungsound_version, "model SHA-256": provenance.model_sha256}
    conclusion = "No answer" if prediction.aggregate is None else prediction.aggregate.caption
    bundle = render(
        "fhir.json",
        prediction=prediction,
        provenance=provenance,
        url=url,
        research_use=RESEARCH_USE,
        method=f"lungsound {provenance.lungsound_version}, model SHA-256 {provenance.model_sha256}, "
        f"calibration {calibration or 'none'}; cycles from {prediction.cycles_from}",
        versions=versions if calibration is None else versions | {"calibration": calibration},
        settings=f"label set {provenance.label_set.name}; settings {json.dumps(provenance.settings, allow_nan=False)}",
        remarks=[f"quality: {name}" for name in prediction.quality]
        + ([] if score is None else [f"out-of-domain score: {score:g}"]),
        conclusion=f"{provenance.evidence} {conclusion}. {provenance.note}",
    )
    return json.dumps(json.loads(bundle), allow_nan=False, indent=1) + "\n"
