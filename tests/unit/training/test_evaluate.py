from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lungsound.config import CorpusSettings, DataSettings, load_config
from lungsound.data.corpus import join
from lungsound.data.reader import read_corpus
from lungsound.data.splits import Parts
from lungsound.evaluation.predictions import Predictions
from lungsound.labels import LABEL_SETS
from lungsound.training.evaluate import (
    KNOWN,
    VALIDATES,
    data_to_test,
    known_patients,
    report_inputs,
    split_words,
    subgroups,
)
from lungsound.training.run import CorpusFacts, RunFacts
from tests.unit.data.trees import write_icbhi, write_sound

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
    patients = {"train": ("101", "900"), "validation": ("102", "901"), "calibration": (), "test": PATIENTS}
    facts = RunFacts.model_construct(patients=patients)
    known = known_patients(facts, answers)
    assert known == {"101": KNOWN, "102": VALIDATES}
    groups = {found.fact: found.groups for found in subgroups(corpus, answers, known)}["patient"]
    assert [(group.name, group.num_cycles) for group in groups] == [
        ("in validation", 2),
        ("known to the training set", 2),
        ("new", 4),
    ]
    only_validated = subgroups(corpus, answers, {"103": VALIDATES})
    (groups,) = (found.groups for found in only_validated if found.fact == "patient")
    assert [group.name for group in groups] == ["in validation", "new"]
    assert "patient" not in {found.fact for found in subgroups(corpus, answers, {})}


def test_the_split_is_what_the_corpus_did() -> None:
    for name, origin, setting, words in (
        ("icbhi", "official, from x.txt", "official", "official, from x.txt"),
        ("sprsound", "", "official", "official"),
        ("table", "", "official", "that of the table"),
        ("table", "none given; 3 of 5 patients train", "official", "none given; 3 of 5 patients train"),
        ("folders", "", "official", "that of the folders"),
        ("icbhi", "official, shipped", "device:Litt3200", "the device Litt3200 against all others"),
        ("icbhi + own", "icbhi: official", "corpus:own", "the corpus own against all others"),
    ):
        assert split_words(name, origin, setting) == words


def test_a_table_without_a_split_column_is_not_split_officially(tmp_path: Path) -> None:
    write_icbhi(tmp_path, {NAMES[0]: "", NAMES[1]: ""})
    lines = ["path,label,patient", *(f"{name}.wav,normal,{name[:3]}" for name in NAMES[:2])]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    corpus = read_corpus(tmp_path / "t.csv")
    assert split_words(corpus.name, corpus.split_origin, "official").startswith("none given; 1 of 2 patients train")


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A table in words of its own, and one in those of a label set."""
    for name, words in (("own", ("clear", "whistle")), ("known", ("normal", "wheeze"))):
        write_sound(tmp_path / name / "a.wav")
        write_sound(tmp_path / name / "b.wav")
        lines = [f"{sound}.wav,{word},{sound}" for sound, word in zip("ab", words, strict=True)]
        (tmp_path / name / "t.csv").write_text("\n".join(["path,label,patient", *lines]))
    return tmp_path


TRAINED = DataSettings(label_map="own.toml", devices=("Meditron",), modes=("sc",), test_parts=("inter",))


def test_the_corpus_that_a_run_was_trained_on_is_read_as_then(tables: Path) -> None:
    trained = TRAINED.model_copy(update={"root": str(tables / "own")})
    for root in (None, tables / "own", tables / "known" / ".." / "own"):
        assert data_to_test(trained, root, None) == trained
        other = data_to_test(trained, root, Path("new.toml"))
        assert other == trained.model_copy(update={"label_map": "new.toml"})


def test_one_of_several_corpora_is_read_alone_and_as_then(tables: Path) -> None:
    own = CorpusSettings(root=str(tables / "own"), label_map="own.toml")
    trained = DataSettings(corpora=(CorpusSettings(root="a"), own), test_parts=("table.test",), label_set="sound2")
    assert data_to_test(trained, None, None) == trained
    alone = DataSettings(root=str(tables / "own"), label_map="own.toml", label_set="sound2")
    assert data_to_test(trained, tables / "own", None) == alone
    assert data_to_test(trained, tables / "known", None).root == str(tables / "known")


def test_patients_of_one_corpus_are_found_among_those_of_several(tmp_path: Path, answers: Predictions) -> None:
    folder = write_icbhi(tmp_path / "here", dict.fromkeys(NAMES, "0.1\t0.5\t0\t0\n0.5\t1.5\t1\t0\n"))
    corpus = read_corpus(folder, is_strict=False)
    elsewhere = replace(corpus, split={NAMES[0]: "train"})  # another folder of the same database
    joined = join({"other": elsewhere, "icbhi": corpus}, LABEL_SETS["sound4"])
    facts = CorpusFacts.of(joined)
    assert facts.prefix_of(joined) == ""
    assert facts.prefix_of(corpus) == "icbhi/"
    assert facts.prefix_of(elsewhere) == "other/"
    assert (
        facts.prefix_of(replace(corpus, split={NAMES[0]: "test"})) == "other/"
    )  # by the name of the database: the first of two
    assert facts.prefix_of(replace(corpus, name="sprsound", split={NAMES[0]: "test"})) is None
    assert facts.prefix_of(replace(corpus, name="synthetic", split={NAMES[0]: "test"})) is None
    assert facts.members["icbhi"] == CorpusFacts.of(corpus)
    names = {"train": ("icbhi/101", "other/103"), "validation": ("icbhi/102",), "calibration": ()}
    run = RunFacts.model_construct(patients=names)
    assert known_patients(run, answers, prefix="icbhi/") == {"101": KNOWN, "102": VALIDATES}


def test_another_corpus_is_read_whole_and_by_the_map_of_the_run_only_when_its_words_need_one(tables: Path) -> None:
    trained = TRAINED.model_copy(update={"root": "elsewhere", "label_set": "sound2"})
    own, known = (data_to_test(trained, tables / name, None) for name in ("own", "known"))
    whole = DataSettings(root=str(tables / "own"), label_set="sound2")
    assert own == whole.model_copy(update={"label_map": "own.toml"})
    assert known == whole.model_copy(update={"root": str(tables / "known")})
    assert data_to_test(trained, tables / "own", Path("new.toml")).label_map == "new.toml"


@pytest.mark.parametrize(
    ("selection", "best_epochs", "is_elsewhere", "shown"),
    [
        ("best_on_test", {"test": 3}, False, "best_on_test"),
        ("best_on_test", {"test": 3}, True, "best_on_other_test"),
        ("best_on_test", {}, True, "last"),
        ("validation", {"validation": 3}, True, "validation"),
    ],
)
def test_what_chose_the_epoch_also_on_another_corpus(
    selection: str,
    best_epochs: dict[str, int],
    is_elsewhere: bool,
    shown: str,
    tmp_path: Path,
    answers: Predictions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write_icbhi(tmp_path, dict.fromkeys(NAMES, "0.1\t0.5\t0\t0\n0.5\t1.5\t1\t0\n"))
    corpus = read_corpus(folder, is_strict=False)
    parts = Parts(train=(0,), validation=(), test=(1,), left_out=())
    facts = RunFacts.of(corpus, parts, None, {}, command="", device="cpu", precision="fp32")
    if is_elsewhere:
        other = facts.corpus.model_copy(update={"name": "sprsound", "fingerprint": "0"})
        facts = facts.model_copy(update={"corpus": other})
    model = "model.architecture=resnet18" if is_elsewhere else "model.pooling=average_token"
    config = load_config("demo", [f"train.selection={selection}", model])
    progress = SimpleNamespace(best_epochs=best_epochs, history=())
    run = SimpleNamespace(config=lambda: config, facts=lambda: facts, progress=lambda: progress)
    trained = SimpleNamespace(sha256="0", calibration=None, front_end=None)
    monkeypatch.setattr("lungsound.training.evaluate.hard_cycles", lambda *_: ())
    inputs = report_inputs(run, trained, corpus, answers, data=config.data, columns={})  # type: ignore[arg-type]
    assert inputs.context["epoch selection"] == shown
    assert inputs.context["model"] == ("resnet18" if is_elsewhere else "AST micro, average token")
    assert (inputs.num_shared_patients is None) == is_elsewhere
    assert ("no epoch had" in " ".join(inputs.notes).lower()) == (not best_epochs)
