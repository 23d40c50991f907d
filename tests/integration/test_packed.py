"""A run whose padding is not encoded, from the command to the answers."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lungsound.data.reader import read_corpus
from lungsound.evaluation.predictions import read_predictions
from lungsound.inference.predictor import Predictor
from tests.integration.command import lungsound
from tests.integration.test_strict import sets


@pytest.mark.slow
def test_training_evaluating_and_predicting_hear_the_same(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    settings = sets(
        "audio.duration_s=3.0", "audio.is_padding_encoded=false", "train.epochs=1", "data.protocol=published"
    )
    assert lungsound("train", "demo", "--data", synthetic_corpus_dir, "--out", run, *settings) == 0
    found = read_predictions(run / "predictions.csv")
    assert np.allclose(read_predictions(run / "epochs" / "last.csv").probabilities, found.probabilities, atol=1e-5)

    predictor = Predictor.load(run)
    corpus = read_corpus(synthetic_corpus_dir)
    rows = dict(zip(found.keys, found.probabilities, strict=True))
    lengths: Counter[int] = Counter()
    for cycle in corpus.part("test")[:12]:
        (answer,) = predictor.predict(cycle.recording.path, spans_s=[(cycle.start_s, cycle.end_s)]).cycles
        assert list(answer.probabilities.values()) == pytest.approx(rows[cycle.key].tolist(), abs=1e-5)
        lengths[predictor.trained.num_input_samples(int((cycle.end_s - cycle.start_s) * 4000))] += 1
    assert len(lengths) > 3, "cycles of different lengths"

    assert lungsound("evaluate", run, "--data", synthetic_corpus_dir, "--out", again) == 0
    assert np.allclose(read_predictions(again / "predictions.csv").of_part("test").probabilities, found.probabilities)


def test_a_convolutional_network_needs_its_padding(
    synthetic_corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = sets("audio.is_padding_encoded=false")
    assert lungsound("train", "resnet10", "--data", synthetic_corpus_dir, "--out", tmp_path / "run", *settings) == 2
    assert "audio.is_padding_encoded=false is of patches" in capsys.readouterr().err
