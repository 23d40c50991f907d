from pathlib import Path

import numpy as np
import pytest

from lungsound.data.reader import read_corpus
from lungsound.evaluation.predictions import Predictions
from lungsound.training.evaluate import KnownPatients, known_patients, split_words, subgroups
from lungsound.training.run import RunFacts
from tests.unit.data.trees import write_icbhi

PATIENTS = ("101", "102", "103", "103")
NAMES = tuple(f"{patient}_{place}_Al_sc_Meditron" for place, patient in enumerate(PATIENTS, 1))


@pytest.fixture
def answers() -> Predictions:
    """Two cycles of each of four recordings, of three patients."""
    labels = np.array([0, 1] * 4)
    return Predictions(
        keys=tuple(f"{name}#{start}" for name in NAMES for start in ("0.100-0.500", "0.500-1.500")),
        patients=tuple(patient for patient in PATIENTS for _ in range(2)),
        devices=("Meditron",) * 8,
        parts=("test",) * 8,
        labels=labels,
        probabilities=0.6 * np.eye(4)[labels] + 0.1,
        classes=("normal", "crackle", "wheeze", "both"),
    )


def test_patients_that_validated_are_not_called_new(tmp_path: Path, answers: Predictions) -> None:
    folder = write_icbhi(tmp_path, dict.fromkeys(NAMES, "0.1\t0.5\t0\t0\n0.5\t1.5\t1\t0\n"))
    split = "".join(f"{name}\ttest\n" for name in NAMES)
    (folder / "official_split.txt").write_text(split)
    corpus = read_corpus(folder, is_strict=False)
    patients = {"train": ("101", "900"), "validation": ("102", "901"), "test": PATIENTS}
    facts = RunFacts.model_construct(patients=patients)
    known = known_patients(facts, answers)
    assert known == KnownPatients(("101",), ("102",))
    groups = {found.fact: found.groups for found in subgroups(corpus, answers, known)}["patient"]
    assert [(group.name, group.num_cycles) for group in groups] == [
        ("in validation", 2),
        ("known to the training set", 2),
        ("new", 4),
    ]
    only_validated = subgroups(corpus, answers, KnownPatients(validation=("103",)))
    (groups,) = (found.groups for found in only_validated if found.fact == "patient")
    assert [group.name for group in groups] == ["in validation", "new"]
    assert "patient" not in {found.fact for found in subgroups(corpus, answers, KnownPatients())}


@pytest.mark.parametrize(
    ("name", "notes", "setting", "words"),
    [
        ("icbhi", ["ages are unknown", "split: official, from x.txt"], "official", "official, from x.txt"),
        ("icbhi", ["split: RespireNet's fold 0 as test"], "fold0", "RespireNet's fold 0 as test"),
        ("sprsound", [], "official", "official"),
        ("table", [], "official", "that of the table"),
        ("table", ["split: none given; 3 of 5 patients train"], "official", "none given; 3 of 5 patients train"),
        ("folders", ["labels: the words of sound4"], "official", "that of the folders"),
        ("icbhi", ["split: official, shipped"], "device:Litt3200", "the device Litt3200 against all others"),
    ],
)
def test_the_split_is_what_the_corpus_did(name: str, notes: list[str], setting: str, words: str) -> None:
    assert split_words(name, notes, setting) == words


def test_a_table_without_a_split_column_is_not_split_officially(tmp_path: Path) -> None:
    write_icbhi(tmp_path, {NAMES[0]: "", NAMES[1]: ""})
    lines = ["path,label,patient", *(f"{name}.wav,normal,{name[:3]}" for name in NAMES[:2])]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    corpus = read_corpus(tmp_path / "t.csv")
    assert split_words(corpus.name, corpus.notes, "official").startswith("none given; 1 of 2 patients train")
