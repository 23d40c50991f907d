import csv
import io

from lungsound.inference.formats.tables import csv_text
from tests.unit.inference.formats.examples import ANSWER, PROVENANCE, SILENT, awkward_answer

# Written out here, since they may not change without a new format version.
HEADER = (
    "format_version,path,patient,device,duration_s,cycles_from,unit,start_s,end_s,answer,best_guess,possible,quality,"
    "out_of_domain,model_sha256,calibration,p_normal,p_crackle,p_wheeze,p_both"
)


def read(text: str) -> list[dict[str, str]]:
    found = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert all(None not in row and None not in row.values() for row in found)
    return found


def test_the_columns_are_those_of_format_version_1() -> None:
    assert csv_text([], PROVENANCE) == HEADER + "\n"


def test_every_recording_and_every_cycle_has_a_row() -> None:
    found = read(csv_text([ANSWER, SILENT], PROVENANCE))
    assert [row["unit"] for row in found] == ["recording", "cycle", "cycle", "cycle", "recording"]
    assert {row["format_version"] for row in found} == {"1"}
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
    assert found[0]["quality"] == "hum;clipping"
    assert (found[1]["patient"], found[1]["device"], found[1]["out_of_domain"]) == ("P-101", "Meditron", "1.25")
    assert (found[4]["patient"], found[4]["device"], found[4]["out_of_domain"]) == ("", "", "")


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
