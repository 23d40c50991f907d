import csv
import io
import json
import sys
from dataclasses import replace

import pytest

from lungsound.errors import SettingsError
from lungsound.inference.formats.tables import (
    column_types,
    csv_text,
    json_lines_text,
    load_pyarrow,
    parquet_bytes,
    provenance_record,
    rows,
)
from tests.unit.inference.formats.examples import ANSWER, PROVENANCE, SILENT, awkward_answer

# Written out here, since they may not change without a new format version.
HEADER = (
    "format_version,path,patient,stethoscope,duration_s,cycles_from,unit,start_s,end_s,answer,best_guess,possible,quality,"
    "out_of_domain,model_sha256,calibration,p_normal,p_crackle,p_wheeze,p_both,reasons,age_years"
)


def read(text: str) -> list[dict[str, str]]:
    found = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert all(None not in row and None not in row.values() for row in found)
    return found


def test_the_columns_are_those_of_format_version_2() -> None:
    assert csv_text([], PROVENANCE) == HEADER + "\n"


def test_every_recording_and_every_cycle_has_a_row() -> None:
    found = read(csv_text([ANSWER, SILENT], PROVENANCE))
    assert [row["unit"] for row in found] == ["recording", "cycle", "cycle", "cycle", "recording"]
    assert {row["format_version"] for row in found} == {"2"}
    assert {row["model_sha256"] for row in found} == {PROVENANCE.model_sha256}
    assert {row["calibration"] for row in found} == {"cal-1f2e"}
    assert [row["path"] for row in found[:4]] == [str(ANSWER.path)] * 4
    assert [(float(row["start_s"]), float(row["end_s"])) for row in found] == [
        (0.0, 4.5),
        (0.25, 1.5),
        (1.5, 2.75),
        (3.0, 4.5),
        (0.0, 0.75),
    ]
    assert [row["answer"] for row in found] == ["both", "normal", "both", "uncertain", ""]
    assert [row["best_guess"] for row in found] == ["both", "normal", "both", "wheeze", ""]
    assert found[2]["possible"] == "both;crackle"
    assert [row["reasons"] for row in found] == ["", "", "", "speech;low_confidence", ""]
    assert [row["age_years"] for row in found] == ["7.5"] * 4 + [""]
    assert found[0]["quality"] == "hum;clipping"
    assert (found[1]["patient"], found[1]["stethoscope"], found[1]["out_of_domain"]) == ("P-101", "Meditron", "1.25")
    assert (found[4]["patient"], found[4]["stethoscope"], found[4]["out_of_domain"]) == ("", "", "")


def test_silence_has_no_answer_and_no_probability() -> None:
    (row,) = read(csv_text([SILENT], PROVENANCE))
    assert row["quality"] == "silence"
    assert [row[name] for name in ("answer", "best_guess", "p_normal", "p_crackle", "p_wheeze", "p_both")] == [""] * 6


def test_probabilities_come_back_as_the_same_numbers() -> None:
    found = read(csv_text([ANSWER], PROVENANCE))
    cycles = (ANSWER.aggregate, *ANSWER.cycles)
    for row, expected in zip(found, cycles, strict=True):
        assert expected is not None
        assert {name: float(row[f"p_{name}"]) for name in expected.probabilities} == expected.probabilities


def test_awkward_names_come_back() -> None:
    answer, provenance = awkward_answer()
    found = read(csv_text([answer], provenance))
    names = provenance.label_set.classes
    assert [name for name in found[0] if name.startswith("p_")] == [f"p_{name}" for name in names]
    assert [row["best_guess"] for row in found[1:]] == [names[1], names[3], names[2]]
    assert found[1]["possible"].split(";") == list(names[1:3])


def test_a_line_holds_all_of_a_recording() -> None:
    text = json_lines_text([ANSWER, SILENT], PROVENANCE)
    assert text.isascii()
    first, second = map(json.loads, text.splitlines())
    assert first["path"] == str(ANSWER.path)
    assert (first["format_version"], first["cycles_from"], first["sample_rate_hz"]) == (2, "annotation", 44100)
    assert first["cycles"][2] == {
        "start_s": 3.0,
        "end_s": 4.5,
        "answer": "uncertain",
        "best_guess": "wheeze",
        "possible": ["normal", "wheeze"],
        "reasons": ["speech", "low_confidence"],
        "probabilities": {"normal": 0.125, "crackle": 0.0625, "wheeze": 0.5, "both": 0.3125},
    }
    assert first["whole"]["answer"] == "both"
    assert (second["whole"], second["cycles"], second["quality"]) == (None, [], ["silence"])
    assert (second["patient"], second["stethoscope"], second["out_of_domain"]) == (None, None, None)
    assert (first["age_years"], second["age_years"]) == (7.5, None)


def test_a_line_says_what_made_it() -> None:
    (line,) = json_lines_text([SILENT], PROVENANCE).splitlines()
    assert json.loads(line)["provenance"] == {
        "evidence": "Trained on nobody.",
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


def test_awkward_names_come_back_of_json() -> None:
    answer, provenance = awkward_answer()
    content = json.loads(json_lines_text([answer], provenance))
    assert [found["probabilities"] for found in content["cycles"]] == [found.probabilities for found in answer.cycles]


def test_a_setting_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        json_lines_text([SILENT], replace(PROVENANCE, settings={"threshold": float("nan")}))


def test_pyarrow_reads_the_same_rows_typed() -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    table = parquet.read_table(io.BytesIO(parquet_bytes([ANSWER, SILENT], PROVENANCE)))
    assert table.column_names == list(column_types(PROVENANCE))
    expected = [
        tuple(list(v) if isinstance(v, tuple) else v for v in row) for row in rows([ANSWER, SILENT], PROVENANCE)
    ]
    assert [tuple(row.values()) for row in table.to_pylist()] == expected
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["format_version"], types["start_s"], types["p_both"]) == ("int32", "double", "double")
    assert (types["answer"], types["possible"].split("<")[0]) == ("string", "list")
    assert (types["reasons"].split("<")[0], types["age_years"]) == ("list", "double")
    assert json.loads(table.schema.metadata[b"lungsound"]) == provenance_record(PROVENANCE)


def test_no_recording_and_awkward_names_are_tables_too() -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    assert parquet.read_table(io.BytesIO(parquet_bytes([], PROVENANCE))).num_rows == 0
    answer, provenance = awkward_answer()
    table = parquet.read_table(io.BytesIO(parquet_bytes([answer], provenance)))
    assert table["possible"].to_pylist()[1] == list(answer.cycles[0].possible)


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SettingsError, match=r"pip install 'lungsound\[parquet\]'"):
        load_pyarrow()
