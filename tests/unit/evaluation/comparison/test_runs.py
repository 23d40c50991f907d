from pathlib import Path

import numpy as np
import pytest

from lungsound.data.protocol import VALIDATION
from lungsound.errors import DataError
from lungsound.evaluation.comparison.runs import VALIDATION_PART, read_runs
from lungsound.evaluation.predictions import Predictions, write_predictions


def predictions(seed: int = 0, parts: tuple[str, ...] = ("test",) * 6, first_key: int = 0) -> Predictions:
    generator = np.random.default_rng(seed)
    num_cycles = len(parts)
    return Predictions(
        keys=tuple(f"r#{i}-{i + 1}" for i in range(first_key, first_key + num_cycles)),
        patients=tuple(f"p{i // 2}" for i in range(num_cycles)),
        devices=("",) * num_cycles,
        parts=parts,
        labels=np.arange(num_cycles) % 2,
        probabilities=generator.dirichlet([1.0, 1.0], num_cycles),
        classes=("normal", "abnormal"),
    )


def same(first: Predictions, second: Predictions) -> bool:
    return first.keys == second.keys and (first.probabilities == second.probabilities).all()


def test_a_file_a_run_folder_and_a_folder_of_seeds(tmp_path: Path) -> None:
    runs = {seed: predictions(seed) for seed in (0, 2, 10)}
    for seed, answers in runs.items():
        write_predictions(tmp_path / f"seed{seed}" / "predictions.csv", answers)
    (tmp_path / "notes").mkdir()
    (only,) = read_runs(tmp_path / "seed2" / "predictions.csv")
    assert same(only, runs[2])
    (only,) = read_runs(tmp_path / "seed2")
    assert same(only, runs[2])
    several = read_runs(tmp_path)
    assert [same(run, runs[seed]) for run, seed in zip(several, (0, 2, 10), strict=True)] == [True] * 3


def test_a_folder_of_compressed_files(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_predictions(tmp_path / f"seed{seed}.csv.gz", predictions(seed))
    assert len(read_runs(tmp_path)) == 2


def test_an_epoch_without_its_validation_rows(tmp_path: Path) -> None:
    answers = predictions(parts=("test", "validation", "test", "inter", "validation", "inter"))
    write_predictions(tmp_path / "epochs" / "last.csv", answers)
    (found,) = read_runs(tmp_path, "last")
    assert found.parts == ("test", "test", "inter", "inter")
    assert found.keys == tuple(answers.keys[row] for row in (0, 2, 3, 5))
    assert VALIDATION_PART == VALIDATION
    with pytest.raises(DataError, match=r"has no predictions.csv; it has the epochs last: choose one with --epoch"):
        read_runs(tmp_path)
    with pytest.raises(DataError, match=r"has no epochs/test.csv; it has the epochs last"):
        read_runs(tmp_path, "test")
    write_predictions(tmp_path / "epochs" / "test.csv", predictions(parts=("validation",) * 6))
    with pytest.raises(DataError, match="rows of validation patients only"):
        read_runs(tmp_path, "test")


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a" / "predictions.csv", predictions())
    with pytest.raises(DataError, match="not trained by the strict protocol: use --epoch kept"):
        read_runs(tmp_path / "a", "last")
    with pytest.raises(DataError, match="one file of answers: --epoch last needs a run folder"):
        read_runs(tmp_path / "a" / "predictions.csv", "last")
    with pytest.raises(DataError, match="give a run folder, a predictions file"):
        read_runs(tmp_path / "missing")
    with pytest.raises(DataError, match=r"holds no predictions\.csv and no runs seed0"):
        read_runs(tmp_path)
    with pytest.raises(DataError, match="there is no epoch 'best'"):
        read_runs(tmp_path / "a", "best")


def test_seeds_that_were_tested_on_different_cycles_are_refused(tmp_path: Path) -> None:
    write_predictions(tmp_path / "seed0.csv", predictions(0))
    write_predictions(tmp_path / "seed1.csv", predictions(1, first_key=1))
    with pytest.raises(DataError, match="not tested on the same cycles and classes"):
        read_runs(tmp_path)
