import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lungsound.data.icbhi import read_annotation
from lungsound.errors import SettingsError
from lungsound.inference.formats.tables import csv_text, provenance_record, record
from lungsound.inference.formats.write import FORMATS, check_formats, write_format
from lungsound.labels import LABEL_SETS
from tests.unit.inference.formats.examples import ANSWER, PROVENANCE, SILENT, SOUND4, cycle

SNOW = replace(ANSWER, path=Path("in") / "a b, \N{SNOWMAN}.8_1.wav")
EVENTS4 = replace(LABEL_SETS["sprsound_event7"], classes=("Normal", "Rhonchi", "Wheeze", "Fine Crackle"))
NAMES = {
    "csv": ["answers.csv", "answers.csv.provenance.json"],
    "jsonl": ["answers.jsonl"],
    "parquet": ["answers.parquet"],
    "audacity": ["{}.audacity.txt", "{}.audacity.txt.provenance.json"],
    "raven": ["{}.raven.txt", "{}.raven.txt.provenance.json"],
    "textgrid": ["{}.TextGrid", "{}.TextGrid.provenance.json"],
    "icbhi": ["{}.txt", "{}.txt.provenance.json"],
    "sprsound": ["{}.json"],
    "fhir": ["{}.fhir.json"],
}


@pytest.mark.parametrize("to", FORMATS)
def test_each_format_has_its_files_under_names_of_its_own(to: str, tmp_path: Path) -> None:
    if to == "parquet":
        pytest.importorskip("pyarrow", reason="needs the extra parquet")
    answers, provenance = [SNOW, replace(SNOW, path=Path("in/two.flac"))], PROVENANCE
    if to == "sprsound":
        provenance = replace(PROVENANCE, label_set=EVENTS4)
        answers = [
            replace(found, cycles=(cycle(0, 1, "Rhonchi", label_set=EVENTS4),), aggregate=None) for found in answers
        ]
    out = tmp_path / "\N{SNOWMAN}, out"
    written = write_format(answers, provenance, to=to, out=out)
    names = dict.fromkeys(name.format(answer.name) for answer in answers for name in NAMES[to])
    assert [path.name for path in written] == list(names)
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    texts = [path.read_bytes() for path in written]
    assert any(provenance.model_sha256.encode() in text for text in texts)
    assert any(b'"engine"' in text or b'\\"engine\\"' in text for text in texts)
    write_format(answers, provenance, to=to, out=out)
    assert [path.read_bytes() for path in written] == texts


def test_files_beside_say_what_the_format_cannot(tmp_path: Path) -> None:
    table, beside = write_format([ANSWER, SILENT], PROVENANCE, to="csv", out=tmp_path)
    assert table == tmp_path / "answers.csv"
    assert table.read_text(encoding="utf-8") == csv_text([ANSWER, SILENT], PROVENANCE)
    assert json.loads(beside.read_text()) == {"format_version": 2, "provenance": provenance_record(PROVENANCE)}
    _, beside = write_format([ANSWER], PROVENANCE, to="textgrid", out=tmp_path)
    assert json.loads(beside.read_text()) == record(ANSWER, PROVENANCE)


def test_a_recording_without_cycles_has_no_icbhi_file_and_no_old_one(tmp_path: Path) -> None:
    old = replace(ANSWER, path=SILENT.path)
    assert (tmp_path / "silent.txt") in write_format([old], PROVENANCE, to="icbhi", out=tmp_path)
    written = write_format([SILENT], PROVENANCE, to="icbhi", out=tmp_path)
    assert written == list(tmp_path.iterdir()) == [tmp_path / "silent.txt.provenance.json"]


def test_annotations_that_others_wrote_are_never_written_over(tmp_path: Path) -> None:
    own = tmp_path / f"{ANSWER.name}.txt"
    own.write_text("0\t1\t0\t0\n")
    with pytest.raises(SettingsError, match="an annotation that lungsound did not write"):
        write_format([SILENT, ANSWER], PROVENANCE, to="icbhi", out=tmp_path)
    assert own.read_text() == "0\t1\t0\t0\n"
    assert list(tmp_path.iterdir()) == [own]
    assert len(read_annotation(write_format([ANSWER], PROVENANCE, to="icbhi", out=tmp_path / "new")[0])) == 3

    foreign = tmp_path / "silent.json"
    foreign.write_text('{"event_annotation": []}')
    with pytest.raises(SettingsError, match="lungsound did not write"):
        write_format([SILENT], replace(PROVENANCE, label_set=EVENTS4), to="sprsound", out=tmp_path)


def test_two_recordings_of_one_name_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    other = replace(ANSWER, path=Path("b") / ANSWER.path.name)
    with pytest.raises(SettingsError, match=f"are both called {ANSWER.name}: predict them apart"):
        write_format([ANSWER, other], PROVENANCE, to="raven", out=tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(write_format([ANSWER, other], PROVENANCE, to="jsonl", out=tmp_path)) == 1


def test_names_that_cannot_be_files_are_refused() -> None:
    check_formats(["csv", "jsonl"], SOUND4, [Path("a/x.wav"), Path("b/X.wav")])
    with pytest.raises(SettingsError, match=r"a/x\.wav and b/X\.wav are both called X"):
        check_formats(["csv", "fhir"], SOUND4, [Path("a/x.wav"), Path("b/X.wav")])
    check_formats(["audacity"], SOUND4, [Path("x" * 200 + ".wav")])
    with pytest.raises(SettingsError, match="its name is too long for a file of audacity"):
        check_formats(["audacity"], SOUND4, [Path("\N{LUNGS}" * 60 + ".wav")])


def test_formats_and_label_sets_that_do_not_go_together_are_named() -> None:
    with pytest.raises(SettingsError, match="no output format 'excel': choose one of csv, jsonl, parquet, "):
        check_formats(["csv", "excel"], SOUND4, [])
    with pytest.raises(SettingsError, match="icbhi has no word for 'abnormal' of label set 'sound2'"):
        check_formats(["icbhi"], LABEL_SETS["sound2"], [])
    with pytest.raises(SettingsError, match="sprsound has no word for 'normal', 'crackle', 'wheeze', 'both'"):
        check_formats(["sprsound"], SOUND4, [])
    for label_set in LABEL_SETS.values():
        check_formats(sorted(set(FORMATS) - {"icbhi", "sprsound", "parquet"}), label_set, [])


def test_a_missing_extra_is_said_before_anything_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SettingsError, match=r"lungsound\[parquet\]"):
        check_formats(["parquet"], SOUND4, [])


def test_answers_about_other_classes_are_our_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="but the classes are Normal, Rhonchi"):
        write_format([ANSWER], replace(PROVENANCE, label_set=EVENTS4), to="csv", out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_formats_are_light_to_import() -> None:
    code = "import sys, lungsound.inference.formats.write\n"
    code += "print({'torch', 'numpy', 'pyarrow', 'soundfile'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    written = write_format([ANSWER], PROVENANCE, to="audacity", out=tmp_path)
    before = [path.read_bytes() for path in written]
    with pytest.raises(ValueError, match="JSON compliant"):
        write_format([SILENT, ANSWER], replace(PROVENANCE, settings={"x": float("nan")}), to="audacity", out=tmp_path)
    assert [path.read_bytes() for path in written] == before
    assert sorted(tmp_path.iterdir()) == sorted(written)
