"""`train` from Python: without a report it gives the model, which a report can follow."""

from pathlib import Path

import pytest
from rich.console import Console

from lungsound import Predictor, evaluate, load_config, train
from lungsound.errors import SettingsError

QUIET = Console(quiet=True)


@pytest.mark.slow
def test_a_run_without_a_report_gives_its_model_and_can_be_reported_later(
    synthetic_corpus_dir: Path, tmp_path: Path
) -> None:
    settings = {"data.root": synthetic_corpus_dir, "train.epochs": 1, "train.device": "cpu", "audio.duration_s": 1.0}
    config, run = load_config("demo", settings), tmp_path / "run"
    model = train(config, run, is_reported=False, console=QUIET)
    assert model == run / "model.safetensors"
    assert not [path for path in run.iterdir() if path.name.startswith(("report", "predictions"))]
    recording = min(synthetic_corpus_dir.glob("*.wav"))
    alone = Predictor.load(model)
    assert alone.is_calibrated
    assert repr(alone) == f"<Predictor {model}: normal, crackle, wheeze, both; torch on cpu, calibrated>"
    with pytest.raises(SettingsError, match=r"run is not finished: 'lungsound train"):
        evaluate(run, console=QUIET)

    written = model.read_bytes()
    report = train(config, run, is_resumed=True, console=QUIET)
    assert report == run / "report.md"
    assert report.with_suffix(".json").is_file()
    assert model.read_bytes() == written
    assert Predictor.load(run).predict(recording) == alone.predict(recording)
