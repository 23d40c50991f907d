"""One training on real recordings of ICBHI and SPRSound: part by part in report, compare, evaluate and cross."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from lungsound.config import DataSettings
from lungsound.data.corpus import Corpus
from lungsound.data.splits import load_corpus
from lungsound.evaluation.predictions import read_predictions
from lungsound.training.run import RunFolder
from tests.integration.command import lungsound
from tests.integration.test_strict import sets

pytestmark = pytest.mark.slow


def linked(corpus: Corpus, target: Path, *, num_patients: int) -> Path:
    """The shortest recording of a few patients of each part, in the layout of the corpus."""
    chosen = defaultdict(dict)
    for recording in sorted(corpus.recordings, key=lambda each: each.duration_s):
        if any(cycle.recording == recording for cycle in corpus.cycles):
            chosen[corpus.split[recording.name]].setdefault(recording.patient, recording)
    texts = {path.stem: path for suffix in ("txt", "json") for path in corpus.root.rglob(f"*.{suffix}")}
    for part in chosen.values():
        for recording in [*part.values()][:num_patients]:
            for path in (recording.path, texts[recording.name]):
                link = target / path.relative_to(corpus.root)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.absolute())
    return target


@pytest.fixture(scope="module")
def roots(icbhi_dir: Path, sprsound_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("several")
    return {
        name: linked(load_corpus(DataSettings(root=str(root), is_strict=False)), folder / name, num_patients=6)
        for name, root in (("icbhi", icbhi_dir), ("sprsound", sprsound_dir))
    }


def given(roots: dict[str, Path]) -> list[object]:
    return [word for root in roots.values() for word in ("--data", root)]


@pytest.fixture(scope="module")
def run(roots: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert lungsound("train", "demo", *given(roots), "--out", out, *sets("train.selection=validation")) == 0
    return out


PARTS = ["icbhi.test", "sprsound.inter", "sprsound.intra"]


def test_each_part_is_reported_and_compared(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads((run / "report.json").read_text())
    assert [part["name"] for part in report["by_part"]] == PARTS
    page = (run / "report.md").read_text()
    assert all(f"{part}: Score" in page for part in PARTS)
    facts = RunFolder(run).facts()
    assert sorted(facts.corpus.members) == ["icbhi", "sprsound"]
    assert {name.partition("/")[0] for name in facts.patients["validation"]} == {"icbhi", "sprsound"}
    last = read_predictions(run / "epochs" / "last.csv")
    assert set(last.parts) == {*PARTS, "validation"}
    capsys.readouterr()
    assert lungsound("compare", run, run, "--out", tmp_path) == 0
    assert [part["part"] for part in json.loads((tmp_path / "compare.json").read_text())["parts"]] == PARTS
    assert lungsound("rescore", run, "--part", "sprsound.inter") == 0
    assert "Part sprsound.inter" in capsys.readouterr().out
    assert lungsound("study", "keep", run, tmp_path / "seed0") == 0
    assert "several" not in (tmp_path / "seed0" / "run.json").read_text()  # names of folders


def test_one_of_the_corpora_alone_has_the_same_predictions_and_knows_the_patients(
    run: Path, roots: dict[str, Path], tmp_path: Path
) -> None:
    assert lungsound("evaluate", run, "--data", roots["sprsound"], "--out", tmp_path) == 0
    together, alone = read_predictions(run / "predictions.csv"), read_predictions(tmp_path / "predictions.csv")
    own = together.of_keys([f"sprsound/{key}" for key in alone.keys])
    assert set(alone.parts) == {"inter", "intra"}
    np.testing.assert_array_equal(own.labels, alone.labels)
    np.testing.assert_allclose(own.probabilities, alone.probabilities, atol=1e-5)
    facts = RunFolder(run).facts()
    shared = {f"sprsound/{patient}" for patient in alone.patients} & set(facts.patients["train"])
    assert json.loads((tmp_path / "report.json").read_text())["num_shared_patients"] == len(shared)


def test_each_corpus_is_left_out_and_its_training_part_alone_tested(
    roots: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = sets("train.epochs=1", 'data.parts=["train"]')
    command = ("cross", "demo", *given(roots), "--by", "corpus", "--out", tmp_path, *settings)
    assert lungsound(*command) == 0
    page = (tmp_path / "cross.md").read_text()
    for name, other in (("icbhi", "sprsound"), ("sprsound", "icbhi")):
        (folder,) = (tmp_path / "runs").glob(f"*corpus_{name}/seed0")
        predictions, facts = read_predictions(folder / "predictions.csv"), RunFolder(folder).facts()
        assert set(predictions.parts) == {f"{name}.train"}
        assert {patient.partition("/")[0] for patient in facts.patients["train"]} == {other}
        assert f"| {name}.train | {len(predictions.keys)} |" in page
    capsys.readouterr()
    assert lungsound(*command) == 0
    assert capsys.readouterr().out.count("done already") == 2
