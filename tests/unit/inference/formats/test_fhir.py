import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lungsound.inference.formats.annotations import fhir_text
from lungsound.inference.prediction import Provenance, RecordingPrediction
from tests.unit.inference.formats.examples import ANSWER, OVERLAPPING, PROVENANCE, SILENT, awkward_answer

CASES = [(ANSWER, PROVENANCE), (SILENT, replace(PROVENANCE, calibration=None)), (OVERLAPPING, PROVENANCE)]
CASES.append(awkward_answer())


def resources(answer: RecordingPrediction, provenance: Provenance, kind: str) -> list[dict[str, Any]]:
    bundle = json.loads(fhir_text(answer, provenance))
    return [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == kind]


def references(value: Any) -> list[str]:
    """Every literal reference, wherever it stands."""
    if isinstance(value, dict):
        own = [value["reference"]] if "reference" in value else []
        return own + [found for item in value.values() for found in references(item)]
    return [found for item in value for found in references(item)] if isinstance(value, list) else []


def read_by_fhir_resources(content: dict[str, Any]) -> dict[str, Any]:
    bundle = pytest.importorskip("fhir.resources.R4B.bundle", reason="needs fhir.resources")
    return json.loads(bundle.Bundle.model_validate(content).model_dump_json())


def read_by_fhirclient(content: dict[str, Any]) -> dict[str, Any]:
    bundle = pytest.importorskip("fhirclient.models.bundle", reason="needs fhirclient")
    return bundle.Bundle(content, strict=True).as_json()


READERS = pytest.mark.parametrize("read", [read_by_fhir_resources, read_by_fhirclient])


@READERS
@pytest.mark.parametrize(("answer", "provenance"), CASES)
def test_a_fhir_library_reads_all_of_the_bundle(
    answer: RecordingPrediction, provenance: Provenance, read: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    content = json.loads(fhir_text(answer, provenance))
    assert read(content) == content


@READERS
def test_the_library_would_find_a_mistake(read: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    mistakes = (
        {"code": {"text": ["a list"]}},
        {"issued": "yesterday"},
        {"result": "all"},
        {"unknown": 1},
        {"status": 3},
    )
    for mistake in mistakes:
        content = json.loads(fhir_text(ANSWER, PROVENANCE))
        content["entry"][-1]["resource"] |= mistake
        with pytest.raises(Exception, match=next(iter(mistake))):
            read(content)


@pytest.mark.parametrize(("answer", "provenance"), CASES)
def test_rules_that_libraries_leave_out_hold(answer: RecordingPrediction, provenance: Provenance) -> None:
    """Codes of required value sets, references that lead somewhere, and R4's invariants bdl-7, obs-6 and obs-7."""
    bundle = json.loads(fhir_text(answer, provenance))
    urls = [entry["fullUrl"] for entry in bundle["entry"]]
    assert bundle["type"] == "collection"
    assert len(set(urls)) == len(urls)
    assert all(re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", url) for url in urls)
    assert set(references(bundle)) <= set(urls)
    for observation in resources(answer, provenance, "Observation"):
        assert observation["status"] == "preliminary"
        assert ("dataAbsentReason" in observation) != ("valueCodeableConcept" in observation)
        codes = [component["code"]["text"] for component in observation.get("component", [])]
        assert observation["code"]["text"] not in codes
    (report,) = resources(answer, provenance, "DiagnosticReport")
    assert (report["status"], len(report["result"])) == ("preliminary", len(urls) - 2)


def test_each_observation_says_research_and_the_model() -> None:
    for observation in resources(ANSWER, PROVENANCE, "Observation"):
        assert "research use only" in observation["code"]["text"]
        assert f"model SHA-256 {'5d' * 32}, calibration cal-1f2e" in observation["method"]["text"]
    (device,) = resources(ANSWER, PROVENANCE, "Device")
    assert {version["type"]["text"]: version["value"] for version in device["version"]} == {
        "lungsound": "0.1.0",
        "model SHA-256": "5d" * 32,
        "calibration": "cal-1f2e",
    }
    evidence, settings = (note["text"] for note in device["note"])
    assert evidence == PROVENANCE.evidence
    assert json.dumps(PROVENANCE.settings) in settings


def test_values_are_the_answers_and_uncertain_ones_are_absent() -> None:
    whole, *cycles = resources(ANSWER, PROVENANCE, "Observation")
    assert whole["valueCodeableConcept"]["text"] == "both"
    assert [note["text"] for note in whole["note"]] == [
        "quality: hum",
        "quality: clipping",
        "out-of-domain score: 1.25",
    ]
    assert [found.get("valueCodeableConcept", {}).get("text") for found in cycles] == ["normal", "both", None]
    assert cycles[2]["dataAbsentReason"]["text"] == "uncertain: speech, low_confidence"
    quantities = {c["code"]["text"]: c["valueQuantity"] for c in cycles[2]["component"] if "valueQuantity" in c}
    assert {name: quantity["value"] for name, quantity in quantities.items()} == {
        f"probability of {name}": share for name, share in ANSWER.cycles[2].probabilities.items()
    }
    assert {(quantity["system"], quantity["code"]) for quantity in quantities.values()} == {
        ("http://unitsofmeasure.org", "1")
    }
    span = cycles[2]["component"][0]["valueRange"]
    assert (span["low"]["value"], span["high"]["value"], span["low"]["code"]) == (3.0, 4.5, "s")
    assert [c["valueCodeableConcept"]["text"] for c in cycles[2]["component"] if "valueCodeableConcept" in c] == [
        "normal",
        "wheeze",
    ]


def test_silence_is_no_answer() -> None:
    (whole,) = resources(SILENT, PROVENANCE, "Observation")
    assert whole["dataAbsentReason"]["text"] == "no answer"
    assert whole["note"] == [{"text": "quality: silence"}]
    assert "component" not in whole
    (report,) = resources(SILENT, PROVENANCE, "DiagnosticReport")
    assert report["conclusion"] == "Trained on nobody. No answer. Research software, not a medical device."


def test_the_patient_is_a_pseudonym_or_nobody_and_the_file_is_not_named() -> None:
    named = replace(ANSWER, path=Path("Jane_Doe.wav"))
    assert "Jane" not in fhir_text(named, PROVENANCE)
    for kind in ("DiagnosticReport", "Observation"):
        for resource in resources(named, PROVENANCE, kind):
            assert resource["subject"] == {"type": "Patient", "identifier": {"value": "P-101"}}
        for resource in resources(replace(named, patient=None), PROVENANCE, kind):
            assert "subject" not in resource


def test_the_same_answer_gives_the_same_bytes_and_another_other_ids() -> None:
    assert fhir_text(ANSWER, PROVENANCE) == fhir_text(ANSWER, PROVENANCE)
    ids = [set(re.findall(r"urn:uuid:[0-9a-f-]+", fhir_text(a, PROVENANCE))) for a in (ANSWER, OVERLAPPING)]
    assert not ids[0] & ids[1]
