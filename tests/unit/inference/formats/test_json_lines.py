import json
from dataclasses import replace

import pytest

from lungsound.inference.formats.tables import json_lines_text
from tests.unit.inference.formats.examples import ANSWER, PROVENANCE, SILENT, awkward_answer


def test_a_line_holds_all_of_a_recording() -> None:
    text = json_lines_text([ANSWER, SILENT], PROVENANCE)
    assert text.isascii()
    first, second = map(json.loads, text.splitlines())
    assert first["path"] == str(ANSWER.path)
    assert (first["format_version"], first["cycles_from"], first["sample_rate_hz"]) == (1, "annotation", 44100)
    assert first["cycles"][2] == {
        "start_s": 3.0,
        "end_s": 4.5,
        "answer": "uncertain",
        "best_guess": "wheeze",
        "possible": ["normal", "wheeze"],
        "probabilities": {"normal": 0.125, "crackle": 0.0625, "wheeze": 0.5, "both": 0.3125},
    }
    assert first["whole"]["answer"] == "both"
    assert (second["whole"], second["cycles"], second["quality"]) == (None, [], ["silence"])
    assert (second["patient"], second["device"], second["out_of_domain"]) == (None, None, None)


def test_a_line_says_what_made_it() -> None:
    (line,) = json_lines_text([SILENT], PROVENANCE).splitlines()
    assert json.loads(line)["provenance"] == {
        "lungsound_version": "0.1.0",
        "model": "runs/patchmix",
        "model_sha256": "5d" * 32,
        "label_set": "sound4",
        "classes": ["normal", "crackle", "wheeze", "both"],
        "band_hz": [20.0, 8000.0],
        "settings": {"engine": "torch", "overlap": 0.5, "is_calibrated": True},
        "calibration": "cal-1f2e",
        "created": "2026-11-23T14:05:06+01:00",
        "note": "Research software, not a medical device.",
    }


def test_awkward_names_come_back() -> None:
    answer, provenance = awkward_answer()
    content = json.loads(json_lines_text([answer], provenance))
    assert [found["probabilities"] for found in content["cycles"]] == [found.probabilities for found in answer.cycles]


def test_a_setting_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        json_lines_text([SILENT], replace(PROVENANCE, settings={"threshold": float("nan")}))
