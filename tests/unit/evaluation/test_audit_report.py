"""What a person reads first: whether something leaks, what, and what to do; and that no name becomes markup."""

import io
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lungsound.audio.quality import Defect, Quality, measure_quality
from lungsound.data.audit import Audit, CountRow, RecordingFinding, SharedPatient, SharedSound
from lungsound.data.corpus import Problem
from lungsound.data.duplicates import Kind, SharedAudio
from lungsound.evaluation.audit_report import (
    advice,
    class_table,
    describe,
    print_audit,
    verdict,
    write_audit,
)

NOISE = (0.05 * np.random.default_rng(0).standard_normal((1, 16000))).astype(np.float32)
QUALITY: Quality = measure_quality(NOISE, 4000)
PATIENT = SharedPatient("218", {"train": 4, "test": 3}, is_by_design=False)


def pair(
    one: str = "a",
    other: str = "b",
    *,
    kind: Kind = "near-duplicate",
    patients: tuple[str, str] = ("p", "q"),
    **changed: str,
) -> SharedSound:
    parts = (changed.get("part", "train"), "test")
    return SharedSound(SharedAudio(kind, one, other, 0.5, 0.9, 0.4, 30.0), parts, patients)


def make_audit(*leaks: SharedPatient | SharedSound, waived: tuple[str, ...] = (), **changed: object) -> Audit:
    findings = [
        RecordingFinding("r1", "train", "D", QUALITY, ()),
        RecordingFinding("r2", "test", "D", QUALITY, (Defect("clipped", "2 % of the samples"),)),
    ]
    audit = Audit(
        name="table",
        root=Path("somewhere"),
        parts=("train", "test"),
        num_recordings=2,
        num_patients=2,
        is_audio_read=True,
        shared_patients=tuple(leak for leak in leaks if isinstance(leak, SharedPatient)),
        shared_sounds=tuple(leak for leak in leaks if isinstance(leak, SharedSound)),
        tally=(CountRow("normal", "train", "D", 3, 1), CountRow("wheeze", "test", "D", 2, 1)),
        recordings=tuple(findings),
        problems=(),
        notes=(),
        waived=waived,
    )
    return replace(audit, **changed)  # type: ignore[arg-type]


def printed(audit: Audit, *, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    print_audit(audit, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_verdict_counts_patients_and_pairs_and_what_is_waived() -> None:
    assert verdict(make_audit()) == "no leakage between the parts of the split was found"
    assert verdict(make_audit(PATIENT)) == "LEAKAGE between the parts of the split: 1 patient"
    two = make_audit(PATIENT, pair(), pair("c", "d"))
    assert verdict(two).endswith(": 1 patient and 2 pairs of recordings with one sound")
    assert verdict(replace(two, waived=("218",))).endswith(": 2 pairs of recordings with one sound; 1 waived")
    assert verdict(make_audit(PATIENT, waived=("218",))).endswith("was found; 1 waived")


def test_a_sound_within_a_part_and_a_patient_by_design_are_no_leak_to_act_on() -> None:
    audit = make_audit(replace(PATIENT, is_by_design=True), pair(part="test"))
    assert verdict(audit).startswith("no leakage")
    assert advice(audit) == []


def test_advice_names_a_waiver_that_clears_the_leak() -> None:
    for leak in (PATIENT, pair(), pair("with blank", "b"), pair(patients=("p", "p"))):
        audit = make_audit(leak)
        sentence = advice(audit)[-1]
        name = {"218": "218"}.get(getattr(leak, "patient", ""), "")
        name = name or f"{leak.audio.one},{leak.audio.other}"  # type: ignore[union-attr]
        assert name in sentence
        assert replace(audit, waived=(name,)).is_clean
    assert "'with blank,b'" in advice(make_audit(pair("with blank", "b")))[-1]


def test_advice_fits_what_leaks() -> None:
    of_patient = pair(patients=("218", "218"))
    assert not any("each pair" in sentence for sentence in advice(make_audit(PATIENT, of_patient)))
    assert any("strict" in sentence and "training set" in sentence for sentence in advice(make_audit(PATIENT)))
    assert any("each pair" in sentence for sentence in advice(make_audit(of_patient)))
    assert "2 more such names" in advice(make_audit(PATIENT, pair(), pair("c", "d")))[-1]


def test_a_finding_is_one_sentence_with_its_evidence() -> None:
    audit = make_audit(PATIENT, pair(), waived=("218",))
    assert describe(audit, PATIENT) == "patient 218: recordings 4 in train, 3 in test [waived]"
    assert describe(audit, pair()) == (
        "near-duplicate: a (train) and b (test); correlation 0.90, coherence 0.40 (30 sd), +0.50 s"
    )
    assert describe(audit, pair(kind="same samples")) == "same samples: a (train) and b (test)"


def test_the_class_table_adds_up() -> None:
    audit = make_audit()
    head, rows = class_table(audit)
    assert head == ["part", "device", "recordings", "cycles", "normal", "wheeze"]
    assert rows == [["train", "D", 1, 3, 3, 0], ["test", "D", 1, 2, 0, 2], ["all", "", 2, 5, 3, 2]]
    unknown = replace(audit, tally=tuple(replace(row, device="unknown") for row in audit.tally), recordings=())
    head, rows = class_table(unknown)
    assert head == ["part", "recordings", "cycles", "normal", "wheeze"]
    assert rows == [["train", 0, 3, 3, 0], ["test", 0, 2, 0, 2], ["all", 2, 5, 3, 2]]


def test_the_terminal_has_few_of_each_kind_and_says_what_to_do_last() -> None:
    leaks = [pair(f"a{i}", f"b{i}") for i in range(9)]
    text = printed(make_audit(*leaks, waived=("nothing",)))
    assert sum(f"a{i} (train)" in text for i in range(9)) == 5
    assert "and 4 more; --out DIR lists them" in text
    assert "waiver 'nothing' names no leak" in text
    assert "clipped: 1" in text
    after = text[text.index("LEAKAGE") :]
    assert "--waive a0,b0" in after


def test_a_narrow_terminal_loses_no_number() -> None:
    words = ["Fine Crackle", "Coarse Crackle", "Wheeze+Crackle", "Rhonchi", "Stridor"]
    tally = tuple(CountRow(word, "train", "D", 1111 + i, 1) for i, word in enumerate(words))
    text = printed(make_audit(tally=tally), width=40)
    for i in range(len(words)):
        assert f"{1111 + i:,}" in text


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("draw_classes", "draw_bands"):
        monkeypatch.setattr(f"lungsound.evaluation.audit_report.{name}", lambda *args: args[-1].touch())


def page_of(audit: Audit, folder: Path) -> str:
    """The text of the page, a line for each paragraph."""
    body = write_audit(audit, folder).read_text(encoding="utf-8").partition("<main>")[2]
    return unescape(re.sub(r"<[^>]+>", "", body))


@pytest.mark.usefixtures("no_pictures")
def test_the_page_begins_with_the_verdict_the_leaks_and_what_to_do(tmp_path: Path) -> None:
    audit = make_audit(PATIENT, replace(PATIENT, patient="156"), pair(), pair("c", "d", part="test"), waived=("156",))
    text = page_of(audit, tmp_path)
    first = text[: text.index("What the parts share", text.index("problems of the reader"))]
    parts = (verdict(audit), "patient 218", "a (train) and b (test)", "What to do", "--waive 218", "clipped 1")
    for part in parts:
        assert part in first
    assert "c (test)" not in first
    assert "patient 156: recordings 4 in train, 3 in test [waived]" in text
    assert text.rindex("c (test)") > text.rindex("The same sound twice within a part")
    assert "What to do" not in page_of(make_audit(), tmp_path)
    design = make_audit(*(replace(PATIENT, patient=str(i), is_by_design=True) for i in range(30)))
    text = page_of(design, tmp_path)
    assert "by design, as the corpus says: 30" in text
    assert "patient 7" not in text


def test_written_files_hold_everything_and_no_name_is_markup(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    page = write_audit(
        make_audit(pair(bad, "b"), problems=(Problem("in no split", bad, "x"),)), tmp_path / "new" / "out"
    )
    text = page.read_text(encoding="utf-8")
    assert bad not in text
    assert "&lt;script&gt;" in text
    names = ["audit.html", "audit.json", "bands.png", "classes.png"]
    assert sorted(path.name for path in page.parent.iterdir()) == names
    content = json.loads((page.parent / "audit.json").read_text())
    assert content["shared_sounds"][0]["audio"]["one"] == bad
    assert content["is_clean"] is False


@pytest.mark.usefixtures("no_pictures")
def test_an_audit_by_names_says_that_no_sound_was_read(tmp_path: Path) -> None:
    findings = (RecordingFinding("r1", "train", "D", None, ()),)
    text = page_of(make_audit(recordings=findings, is_audio_read=False), tmp_path)
    assert "no sound was read" in text
    assert "Recordings that are not what they should be" not in text


@pytest.mark.usefixtures("no_pictures")
def test_a_long_list_is_cut_and_says_so(tmp_path: Path) -> None:
    for number in (200, 201):
        problems = tuple(Problem("in no split", f"r{i}", "missing") for i in range(number))
        text = page_of(make_audit(problems=problems), tmp_path)
        assert ("The first 200 of 201" in text) is (number > 200)
        assert text.count(": missing") == 200
