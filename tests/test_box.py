"""scripts/box: a model in the box made from small corpora, by the byte, and the card from its facts."""

import hashlib
import importlib.util
import shutil
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from lungsound import extras
from lungsound.data.corpus import join
from lungsound.data.reader import read_corpus
from lungsound.data.synthetic_sounds import heart_sounds
from lungsound.evaluation.predictions import Predictions
from lungsound.inference.graph_files import find_graph
from lungsound.inference.prediction import CyclePrediction, Reason
from lungsound.inference.predictor import Predictor
from lungsound.labels import LABEL_SETS
from lungsound.training.model_file import load_model
from tests.unit.data.trees import write_event_file

ROOT = Path(__file__).resolve().parent.parent
TINY = (
    *("model.size=micro", "model.pretrained=none", "audio.sample_rate_hz=4000", "audio.num_mels=32"),
    *("audio.duration_s=2.0", "train.epochs=1", "train.batch_size=16", "objective.name=ce"),
)
KINDS = ("Normal", "Normal", "Fine Crackle", "Wheeze", "Wheeze+Crackle")
DOUBLED = "41279835_14.1_0_p1_2945"


@pytest.fixture(scope="module")
def make_box() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_box", ROOT / "scripts" / "make_box.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_box"] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sprsound_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus in SPRSound's layout: noise, 10 patients in training, 3 in inter, 2 of the first in intra."""
    root, generator = tmp_path_factory.mktemp("sprsound"), np.random.default_rng(0)
    parts = {
        "train": [DOUBLED, *(f"4{number:07}_{number}.5_0_p1_{number}" for number in range(10))],
        "inter": [f"5{number:07}_{number}.5_1_p2_{100 + number}" for number in range(3)],
        "intra": [f"4{number:07}_{number}.5_0_p3_{200 + number}" for number in range(2)],
    }
    for part, names in parts.items():
        sounds = root / ("train_wav" if part == "train" else "test_wav")
        labels = root / ("train_json" if part == "train" else f"test_json/{part}_test_json")
        sounds.mkdir(exist_ok=True)
        for name in names:
            soundfile.write(sounds / f"{name}.wav", 0.1 * generator.standard_normal(5 * 4000), 4000)
            events = [(1000 * start, 1000 * start + 900, kind) for start, kind in enumerate(KINDS)]
            write_event_file(labels / f"{name}.json", events, record="CAS & DAS")
    return root


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("hearts"), np.random.default_rng(1)
    for number in range(4):
        soundfile.write(folder / f"{number}.wav", 0.3 * heart_sounds(24000, 4000, rng, beats_per_minute=90), 4000)
    return folder


def test_the_box_that_is_shipped_is_what_its_card_says(make_box: ModuleType) -> None:
    model, card = ROOT / "box" / make_box.MODEL, (ROOT / "box" / "README.md").read_text()
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    assert model.with_name(f"{model.name}.sha256").read_text() == f"{sha256}  {model.name}\n"
    assert sha256 in card
    assert model.stat().st_size <= make_box.MAX_BYTES
    trained = load_model(model)
    assert trained.domain is not None
    assert trained.gate is not None
    assert trained.doubted is not None
    # The mean of a gate is that of the cycles that shall pass.
    for gate in (trained.gate, trained.doubted):
        assert not gate.stops(gate.mean[np.newaxis]).any()
    assert "more sound like ICBHI 2017 rather than SPRSound" in card
    assert trained.calibration is not None
    assert trained.evidence is not None
    assert trained.evidence.held_out is not None
    assert trained.evidence.held_out.is_better_than_normal
    assert trained.evidence.trained_on in card
    for each in trained.evidence.groups:
        assert f"| {each.num_patients} | {each.num_cycles} |" in card
        assert f"{100 * each.score:.1f}" in card if each.score is not None else "n/a" in card


def test_corpora_are_doubted_by_their_tests_and_never_all_of_them(
    make_box: ModuleType, sprsound_like: Path, synthetic_corpus_dir: Path
) -> None:
    members = {"sprsound": read_corpus(sprsound_like), "icbhi": read_corpus(synthetic_corpus_dir)}
    corpus, trained = join(members, LABEL_SETS["sound4"]), load_model(ROOT / "box" / make_box.MODEL)
    assert trained.evidence is not None
    group = trained.evidence.measured[0]
    for sprsound, icbhi, left_out, doubted in (
        ((0.6, 0.9), (0.4, 0.9), (0.6, 0.9), ["icbhi"]),
        ((0.4, 0.9), (0.6, 0.9), (0.6, 0.9), ["sprsound"]),
        ((0.6, 0.9), (0.6, 0.9), (0.4, 0.9), []),
        ((0.4, 0.9), None, (0.6, 0.9), []),
    ):
        groups = (("SPRSound inter", sprsound, True), ("ICBHI 2017 test, A", icbhi, True))
        measured = tuple(
            group.model_copy(update={"name": name, "score_interval": interval, "is_trained_on": is_trained_on})
            for name, interval, is_trained_on in (*groups, ("ICBHI 2017", left_out, False))
        )
        evidence = trained.evidence.model_copy(update={"measured": measured})
        assert make_box.doubted_corpora(replace(trained, evidence=evidence), corpus) == doubted


def test_the_box_is_data_under_its_own_terms() -> None:
    project = tomllib.loads((ROOT / "box" / "pyproject.toml").read_text())["project"]
    assert project["name"] == extras.BOX_DISTRIBUTION
    assert project.get("dependencies", []) == []
    assert project["license"].startswith("GPL-3.0-only AND LicenseRef-")
    assert project["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    terms = (ROOT / "box" / "LICENSE").read_text()
    assert "GNU GENERAL PUBLIC LICENSE" in terms
    assert "ICBHI 2017" in terms
    assert [path.name for path in (ROOT / "box" / "src" / extras.BOX_PACKAGE).glob("*.py")] == ["__init__.py"]


def test_the_licence_follows_the_corpora(make_box: ModuleType) -> None:
    of_both, of_one = make_box.licence_of(["sprsound", "icbhi"]), make_box.licence_of(["sprsound"])
    assert of_both == (ROOT / "box" / "LICENSE").read_text()
    for text in (of_both, of_one):
        assert "SPRSound 2022" in text
        assert text.endswith(of_both.partition(make_box.RULE)[2])
        assert "GNU GENERAL PUBLIC LICENSE" in text
    assert ("ICBHI" in of_both, "ICBHI" in of_one) == (True, False)


def test_patients_of_the_training_set_are_measured_only_where_that_is_meant(
    make_box: ModuleType, sprsound_like: Path, synthetic_corpus_dir: Path
) -> None:
    members = {"sprsound": read_corpus(sprsound_like), "icbhi": read_corpus(synthetic_corpus_dir)}
    corpus = join(members, LABEL_SETS["sound4"])
    rows = [
        ("icbhi/1", "B", "icbhi.test"),
        ("icbhi/2", "B", "icbhi.test"),
        ("icbhi/2", "A", "icbhi.test"),
        ("sprsound/3", "", "sprsound.intra"),
        ("sprsound/4", "", "sprsound.inter"),
    ]
    patients, devices, parts = zip(*rows, strict=True)
    keys = tuple(f"r#{row}-{row + 1}" for row in range(len(rows)))
    labels, probabilities = np.array([0, 0, 1, 1, 0]), np.array([[0.7, 0.3]] * 5)
    predictions = Predictions(keys, patients, devices, parts, labels, probabilities, ("normal", "crackle"))
    assert make_box.groups_of(corpus, predictions, {"icbhi/1": "known", "sprsound/3": "known"}) == {
        "SPRSound inter": [4],
        "SPRSound intra": [3],
        "ICBHI 2017 test, A": [2],
        "ICBHI 2017 test, B": [1],
    }
    low, shares = (Reason.LOW_CONFIDENCE,), {"normal": 0.7, "crackle": 0.3}
    predicted = [
        CyclePrediction(0, 1, "normal", shares, reasons, possible)
        for reasons, possible in (
            *(((), ("normal",)), ((), ("normal", "crackle")), (low, ("crackle",))),
            *(((), ("crackle",)), (low, ("crackle",))),
        )
    ]
    given = make_box.given_of("all", predictions, predicted)
    assert (given.given, given.covered) == (0.6, 0.8)
    assert given.given_of_class == {"normal": pytest.approx(2 / 3), "crackle": 0.5}
    assert (given.specificity, given.sensitivity) == (1.0, 0.0)


def test_a_box_is_for_one_choice_of_corpora(make_box: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--icbhi", "DIR", "--without", "icbhi"]):
        with pytest.raises(SystemExit):
            make_box.main(["--sprsound", "DIR", "--hearts", "DIR", *words])
        assert "give either --icbhi DIR or --without icbhi" in capsys.readouterr().err
    assert make_box.main(["--sprsound", "DIR", "--hearts", "DIR", "--without", "icbhi", "--set", "train.epoch=3"]) == 2
    assert "unknown key 'train.epoch'" in capsys.readouterr().err


def test_the_card_names_a_command_without_paths_of_this_machine(make_box: ModuleType, tmp_path: Path) -> None:
    words = ["--sprsound", "here", "--icbhi", "there", "--hearts", "elsewhere", "--left-out", "--set", "train.epochs=1"]
    given = make_box.make_parser().parse_args([*words, "--set", f"model.pretrained={tmp_path}"])
    corpora, settings = "--sprsound DIR --icbhi DIR --hearts DIR", "--set train.epochs=1 --set model.pretrained=FILE"
    assert make_box.command_of(given) == f"scripts/box {corpora} --left-out {settings}"


@pytest.mark.slow
def test_several_seeds_teach_one_and_a_corpus_may_be_left_out(
    make_box: ModuleType, sprsound_like: Path, hearts: Path, tmp_path: Path
) -> None:
    (tmp_path / "box").mkdir()
    shutil.copy(ROOT / "box" / "pyproject.toml", tmp_path / "box")
    settings = [word for setting in TINY for word in ("--set", setting)]
    words = ["--sprsound", str(sprsound_like), "--without", "icbhi", "--seeds", "2", "--out", str(tmp_path / "box")]
    words += ["--hearts", str(hearts)]
    assert make_box.main([*words, "--runs", str(tmp_path / "runs"), *settings]) == 0
    taught = make_box.RunFolder(tmp_path / "runs" / "taught").facts().teachers
    assert list(taught.values()) == [
        load_model(tmp_path / "runs" / seed / "model.safetensors").sha256 for seed in ("seed0", "seed1")
    ]
    card = (tmp_path / "box" / "README.md").read_text()
    assert "distilled from 2 models" in card
    assert "`scripts/box --sprsound DIR --without icbhi --hearts DIR --seeds 2 --set " in card
    assert "ICBHI" not in card
    assert (tmp_path / "box" / "LICENSE").read_text() == make_box.licence_of(["sprsound"])
    project = tomllib.loads((tmp_path / "box" / "pyproject.toml").read_text())["project"]
    assert (project["license"], project["name"]) == ("GPL-3.0-only", extras.BOX_DISTRIBUTION)


@pytest.mark.slow
def test_a_box_is_made_measured_and_made_again_to_the_byte(
    make_box: ModuleType,
    sprsound_like: Path,
    synthetic_corpus_dir: Path,
    hearts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / "cache"))
    settings = [word for setting in TINY for word in ("--set", setting)]
    corpora = ["--sprsound", str(sprsound_like), "--icbhi", str(synthetic_corpus_dir), "--hearts", str(hearts)]

    def make(name: str, *words: str) -> Path:
        out = tmp_path / name
        assert make_box.main([*corpora, "--out", str(out), "--runs", str(tmp_path / "runs"), *settings, *words]) == 0
        return out

    box = make("box")
    model = box / make_box.MODEL
    trained = load_model(model)
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    assert (box / f"{make_box.MODEL}.sha256").read_text() == f"{sha256}  model.safetensors\n"

    # What it knows of itself, from the runs' facts.
    run = make_box.RunFolder(tmp_path / "runs" / "seed0")
    facts = run.facts()
    assert facts.corpus.members.keys() == {"sprsound", "icbhi"}
    assert DOUBLED.partition("_")[0] not in str(facts.patients)
    assert "test" not in {part for predictions in run.columns().values() for part in predictions.parts}
    evidence = trained.evidence
    assert evidence is not None
    assert evidence.held_out is not None
    names = [each.name for each in evidence.measured]
    assert names[:2] == ["SPRSound inter", "SPRSound intra"]
    assert {name.partition(", ")[0] for name in names[2:]} == {"ICBHI 2017 test"}
    assert {each.name: each.num_cycles for each in evidence.measured[:2]} == {
        "SPRSound inter": 15,
        "SPRSound intra": 10,
    }

    # The numbers of the box are those that its users get: the rounded weights predict them.
    predictor = Predictor(trained)
    columns = run.columns()["last"]
    assert trained.calibration is not None
    assert trained.calibration.num_cycles == len(columns.of_part("calibration").keys)
    assert predictor.predict(next(sprsound_like.rglob("5*.wav"))).cycles
    raw = load_model(run.model)
    weight, rounded = (each.model.state_dict()["head.1.weight"] for each in (raw, trained))
    assert not np.array_equal(weight, rounded)
    assert np.array_equal(weight.half().float(), rounded)

    card = (box / "README.md").read_text()
    for known in (sha256, *(member.fingerprint for member in facts.corpus.members.values()), evidence.trained_on):
        assert known in card
    assert str(tmp_path) not in card
    assert "not a medical device" in card
    for each in evidence.groups:
        assert f"| {each.name} | {each.num_patients} | {each.num_cycles} |" in card

    # Its graph is sealed for it, and other programs can run it.
    assert find_graph(load_model(model)) == model.with_name("model.onnx")

    # From nothing the same bytes; a call with what it left out goes on with the training, and adds measurements.
    shutil.rmtree(tmp_path / "runs")
    assert model.read_bytes() == (make("anew") / make_box.MODEL).read_bytes()
    assert (tmp_path / "anew" / "README.md").read_text() == card
    history = run.progress().history
    others = load_model(make("others", "--left-out") / make_box.MODEL)
    assert run.progress().history == history, "its seconds would differ"
    assert others.evidence is not None
    assert others.evidence.measured[: len(names)] == evidence.measured
    left_out = others.evidence.measured[len(names) :]
    assert [each.name for each in left_out][-2:] == ["SPRSound", "ICBHI 2017"]
    assert {each.name.partition(", ")[0] for each in left_out[:-2]} == {"ICBHI 2017"}
    assert not any(each.is_trained_on for each in left_out)
    assert left_out[-2].num_cycles == 50
    assert "(left out of the training)" in (tmp_path / "others" / "README.md").read_text()
