"""What counts as leakage, what waives it, and what the tables count."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lungsound.data.audit import NO_PART, UNKNOWN, Audit, SharedPatient, SharedSound, audit_corpus
from lungsound.data.corpus import Corpus, Cycle, Recording
from lungsound.data.duplicates import SharedAudio
from lungsound.errors import CorpusError
from lungsound.files import to_json

RATE = 4000
Row = tuple[str, str, str | None]  # name, patient, part


def make_corpus(rows: list[Row], *, known: tuple[str, ...] = (), folder: Path = Path("somewhere")) -> Corpus:
    """A recording for each row, every other one with a normal cycle and a crackle."""
    recordings = tuple(
        Recording(name, patient, folder / f"{name}.wav", duration_s=8.0, sample_rate_hz=RATE, device="D" if i else None)
        for i, (name, patient, _) in enumerate(rows)
    )
    cycles = tuple(
        Cycle(recording, float(j), j + 1.0, has_crackle=j == 1, has_wheeze=False)
        for i, recording in enumerate(recordings)
        if i % 2 == 0
        for j in range(2)
    )
    split = {name: part for name, _, part in rows if part is not None}
    return Corpus("table", folder, recordings, cycles, split, known_patient_parts=frozenset(known))


def by_names(rows: list[Row], *, known: tuple[str, ...] = (), waived: tuple[str, ...] = ()) -> Audit:
    return audit_corpus(make_corpus(rows, known=known), waived=waived, is_audio_read=False)


def defects_of(audit: Audit) -> list[tuple[str, str]]:
    return [(defect.kind, finding.name) for finding in audit.recordings for defect in finding.defects]


def sound(one: str, other: str, parts: tuple[str | None, str | None], patients: tuple[str, str]) -> SharedSound:
    return SharedSound(SharedAudio("same samples", one, other, 0.0, 1.0, 1.0, math.inf), parts, patients)


def test_a_patient_in_two_parts_leaks_and_one_in_a_part_or_in_none_does_not() -> None:
    audit = by_names(
        [("a", "p", "train"), ("b", "p", "test"), ("c", "q", "test"), ("d", "q", None), ("e", "r", "train")]
    )
    assert audit.leaks == (SharedPatient("p", {"train": 1, "test": 1}, is_by_design=False),)
    assert not audit.is_clean


@pytest.mark.parametrize(
    ("parts", "is_by_design"),
    [
        (("train", "intra"), True),
        (("train", "inter"), False),
        (("intra", "inter"), False),
        (("train", "intra", "inter"), False),
        (("train", "intra", "intra2"), False),
    ],
)
def test_by_design_is_only_training_with_a_part_that_is_said_to_know_its_patients(
    parts: tuple[str, ...], is_by_design: bool
) -> None:
    rows: list[Row] = [(part, "p", part) for part in parts]
    audit = by_names(rows, known=("intra", "intra2"))
    assert [shared.is_by_design for shared in audit.shared_patients] == [is_by_design]
    assert audit.is_clean is is_by_design


def test_only_a_sound_in_two_parts_leaks() -> None:
    for parts, crosses in (
        (("train", "test"), True),
        (("train", "train"), False),
        (("train", None), False),
        ((None, None), False),
    ):
        assert sound("a", "b", parts, ("p", "q")).is_leak is crosses


@pytest.mark.parametrize(
    ("waiver", "patients", "is_waived"),
    [
        ("a", ("p", "q"), True),
        ("b", ("p", "q"), True),
        ("a,b", ("p", "q"), True),
        ("b,a", ("p", "q"), True),
        ("p", ("p", "p"), True),
        ("p", ("p", "q"), False),
        ("a,c", ("p", "q"), False),
        ("A", ("p", "q"), False),
    ],
)
def test_a_sound_is_waived_by_a_recording_a_pair_or_their_one_patient(
    waiver: str, patients: tuple[str, str], is_waived: bool
) -> None:
    leak = sound("a", "b", ("train", "test"), patients)
    audit = replace(by_names([("x", "x", "train")], waived=(waiver,)), shared_sounds=(leak,))
    assert audit.leaks == (leak,)
    assert audit.is_clean is is_waived
    assert audit.unused_waivers == (() if is_waived else (waiver,))


def test_a_waived_patient_leaves_others_open_and_a_waiver_without_a_leak_is_named() -> None:
    rows: list[Row] = [(f"{patient}{part}", patient, part) for patient in "pq" for part in ("train", "test")]
    audit = by_names(rows, waived=("p", "r", "p"))
    assert [leak.patient for leak in audit.open_leaks if isinstance(leak, SharedPatient)] == ["q"]
    assert audit.unused_waivers == ("r",)
    assert by_names(rows, waived=("p", "q")).is_clean


def test_the_tally_counts_cycles_and_recordings_by_class_part_and_device() -> None:
    audit = by_names([("a", "p", "train"), ("b", "q", "test"), ("c", "r", "test"), ("d", "s", None)])
    assert [(row.word, row.part, row.device, row.num_cycles, row.num_recordings) for row in audit.tally] == [
        ("normal", "train", UNKNOWN, 1, 1),
        ("normal", "test", "D", 1, 1),
        ("crackle", "train", UNKNOWN, 1, 1),
        ("crackle", "test", "D", 1, 1),
        (None, "test", "D", 0, 1),
        (None, NO_PART, "D", 0, 1),
    ]


def write(folder: Path, sounds: dict[str, np.ndarray]) -> None:
    for name, samples in sounds.items():
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="PCM_16")


def noise(seed: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(8 * RATE)


def test_a_copy_in_the_other_part_is_found_and_a_broken_file_is_a_finding(tmp_path: Path) -> None:
    write(tmp_path, {"a": noise(1), "b": 0.5 * noise(1), "c": noise(2)})
    (tmp_path / "d.wav").write_bytes(b"no sound")
    rows: list[Row] = [("a", "p", "train"), ("b", "q", "test"), ("c", "r", "test"), ("d", "s", "test")]
    corpus = make_corpus(rows, folder=tmp_path)
    stages: list[tuple[int, int]] = []
    audit = audit_corpus(corpus, on_progress=lambda done, total: stages.append((done, total)))
    (leak,) = audit.leaks
    assert isinstance(leak, SharedSound)
    assert (leak.audio.kind, leak.audio.one, leak.audio.other, leak.parts) == (
        "near-duplicate",
        "a",
        "b",
        ("train", "test"),
    )
    assert defects_of(audit) == [("unreadable", "d")]
    assert stages[:4] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    two = audit_corpus(corpus, num_workers=2)
    assert to_json(two.to_json(), indent=None) == to_json(audit.to_json(), indent=None)
    assert audit.to_json()["open_leaks"] == [["a", "a,b", "b", "b,a"]]


def test_what_all_recordings_lack_is_a_note_and_what_one_lacks_its_defect(tmp_path: Path) -> None:
    from scipy import signal

    cut = signal.ellip(10, 0.1, 80, 1000, fs=RATE, output="sos")
    narrow = signal.ellip(10, 0.1, 80, 700, fs=RATE, output="sos")
    rows: list[Row] = [(f"{i:02}", f"p{i}", "train") for i in range(12)]
    write(tmp_path, {name: signal.sosfilt(narrow if name == "07" else cut, noise(int(name))) for name, *_ in rows})
    corpus = make_corpus(rows, folder=tmp_path)
    audit = audit_corpus(replace(corpus, recordings=tuple(replace(r, device="D") for r in corpus.recordings)))
    assert defects_of(audit) == [("band-limited", "07")]
    (note,) = (note for note in audit.notes if "spectra" in note)
    assert "12 recordings at 4000 Hz (device: D)" in note


def test_json_has_no_infinity_and_no_recordings_are_an_error() -> None:
    leak = sound("a", "b", ("train", "test"), ("p", "q"))
    audit = replace(by_names([("x", "x", "train")]), shared_sounds=(leak,))
    assert audit.to_json()["shared_sounds"][0]["audio"]["deviations"] == float("inf")
    with pytest.raises(CorpusError, match="no recordings in somewhere"):
        by_names([])
