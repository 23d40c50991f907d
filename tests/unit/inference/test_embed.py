"""Features of cycles: what the head decides by, under the keys of a predictions file."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

from lungsound.config import load_config
from lungsound.data.reader import read_corpus
from lungsound.errors import SettingsError, WeightsError
from lungsound.inference.embed import FORMAT, embed
from lungsound.inference.predictor import Predictor
from lungsound.training.model_file import TrainedModel
from lungsound.training.run import RunFolder
from tests.unit.inference.models import saved_model

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, synthetic_corpus_dir: Path) -> tuple[Path, TrainedModel]:
    """A folder with a model of random weights, as if trained on the synthetic corpus."""
    folder = tmp_path_factory.mktemp("embed") / "run"
    RunFolder(folder).start(load_config("tiny_ce", [f"data.root={synthetic_corpus_dir}"]))
    (folder / "run.json").write_text("{}")
    return folder, saved_model(folder)


def probabilities(trained: TrainedModel, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the head makes of features."""
    with torch.inference_mode():
        found: NDArray[np.float32] = trained.model.head(torch.from_numpy(features)).softmax(dim=1).numpy()
    return found


def test_the_head_makes_the_models_answers_of_them(
    run: tuple[Path, TrainedModel], synthetic_corpus_dir: Path, tmp_path: Path
) -> None:
    folder, trained = run
    embed(folder, out=tmp_path / "f.npz", console=QUIET)
    corpus, predictor = read_corpus(synthetic_corpus_dir), Predictor.load(folder)
    with np.load(tmp_path / "f.npz", allow_pickle=False) as found:
        assert str(found["format"]) == FORMAT
        assert str(found["model_sha256"]) == trained.sha256
        assert found["features"].shape == (len(corpus.cycles), trained.model.encoder.dim)
        assert found["features"].dtype == np.float32
        assert found["key"].tolist() == [cycle.key for cycle in corpus.cycles]
        assert found["label"].tolist() == [cycle.word for cycle in corpus.cycles]
        assert found["patient"].tolist() == [cycle.recording.patient for cycle in corpus.cycles]
        assert set(found["part"].tolist()) == {"train", "test"}
        of_head = probabilities(trained, found["features"])
    for row in range(0, len(corpus.cycles), 40):
        cycle = corpus.cycles[row]
        (answer,) = predictor.predict(cycle.recording.path, spans_s=[(cycle.start_s, cycle.end_s)]).cycles
        assert of_head[row].tolist() == pytest.approx(list(answer.probabilities.values()), abs=1e-5)


def test_cycles_of_recordings_are_those_that_predict_finds(
    run: tuple[Path, TrainedModel], synthetic_corpus_dir: Path, tmp_path: Path
) -> None:
    folder, trained = run
    files = sorted(synthetic_corpus_dir.glob("*.wav"))[:2]
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    out = tmp_path / "f.npz"
    embedded = embed(folder, [files[0], broken, files[1]], out=out, find_by="windows", console=QUIET)
    assert len(embedded.errors) == 1
    assert str(broken) in embedded.errors[0]
    predictor = Predictor.load(folder, find_by="windows")
    answers = [(file, answer) for file in files for answer in predictor.predict(file).cycles]
    with np.load(out) as found:
        assert found["recording"].tolist() == [str(file) for file, _ in answers]
        assert found["start_s"].tolist() == pytest.approx([answer.start_s for _, answer in answers], abs=1e-6)
        assert found["key"][0] == f"{files[0]}#{answers[0][1].start_s:.3f}-{answers[0][1].end_s:.3f}"
        assert set(found["patient"].tolist()) == {""}
        expected = np.array([list(answer.probabilities.values()) for _, answer in answers])
        np.testing.assert_allclose(probabilities(trained, found["features"]), expected, atol=1e-4)


def test_in_python_they_need_no_file(run: tuple[Path, TrainedModel], synthetic_corpus_dir: Path) -> None:
    folder, trained = run
    file = min(synthetic_corpus_dir.glob("*.wav"))
    found = embed(str(folder), str(file), find_by="annotation", console=QUIET)
    num_cycles, dim = len(found.cycles), trained.model.encoder.dim
    assert num_cycles == len(Predictor.load(folder, find_by="annotation").predict(file).cycles) > 0
    assert repr(found) == f"<Embeddings: {num_cycles} cycles, {dim} features, 0 errors>"


def test_without_a_cycle_nothing_is_written(run: tuple[Path, TrainedModel], tmp_path: Path) -> None:
    broken, out = tmp_path / "broken.wav", tmp_path / "f.parquet"
    broken.write_bytes(b"RIFF")
    found = embed(run[0], broken, out=out, console=QUIET)
    assert (len(found.errors), found.cycles, out.exists()) == (1, (), False)


def test_every_kind_of_file_holds_the_same(
    run: tuple[Path, TrainedModel], synthetic_corpus_dir: Path, tmp_path: Path
) -> None:
    parquet = pytest.importorskip(
        "pyarrow.parquet", reason="pyarrow is not installed: pip install 'lungsound[parquet]'"
    )
    folder, trained = run
    files = sorted(synthetic_corpus_dir.glob("*.wav"))[:1]
    for suffix in ("npz", "csv", "parquet"):
        embed(folder, files, out=tmp_path / f"f.{suffix}", find_by="windows", console=QUIET)
    with np.load(tmp_path / "f.npz") as found, (tmp_path / "f.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
        table = parquet.read_table(tmp_path / "f.parquet")
        assert [row["key"] for row in rows] == table["key"].to_pylist() == found["key"].tolist()
        assert {row["model_sha256"] for row in rows} == {trained.sha256}
        assert json.loads(table.schema.metadata[b"lungsound"]) == {"format": FORMAT, "model_sha256": trained.sha256}
        for values in (
            np.array(table["features"].to_pylist(), dtype=np.float32),
            np.array([[row[f"feature_{i}"] for i in range(trained.model.encoder.dim)] for row in rows], np.float32),
        ):
            np.testing.assert_array_equal(values, found["features"])


def test_mistakes_are_told_before_anything_is_read(run: tuple[Path, TrainedModel], tmp_path: Path) -> None:
    folder, _ = run
    with pytest.raises(SettingsError, match=r"written as \.npz, \.csv, \.parquet, got .*f\.txt"):
        embed(folder, out=tmp_path / "f.txt", console=QUIET)
    with pytest.raises(SettingsError, match="not both"):
        embed(folder, [tmp_path], out=tmp_path / "f.npz", data_root=tmp_path, console=QUIET)
    with pytest.raises(WeightsError, match="give the folder of a run"):
        embed(tmp_path / "none", out=tmp_path / "f.npz", console=QUIET)
    saved_model(tmp_path)
    with pytest.raises(SettingsError, match="alone names no cycles: give a corpus with --data"):
        embed(tmp_path, out=tmp_path / "f.npz", console=QUIET)
