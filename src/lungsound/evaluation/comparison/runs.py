"""The predictions of one method: a run folder, a predictions file, or a folder of runs with different seeds."""

import re
from pathlib import Path

from lungsound.errors import DataError
from lungsound.evaluation.columns import LAST, TEST, VALIDATION
from lungsound.evaluation.predictions import Predictions, read_predictions

KEPT = "kept"
VALIDATION_PART = "validation"  # as data.protocol calls it, whose import takes seconds
EPOCHS = (KEPT, LAST, VALIDATION, TEST)
SUFFIXES = (".csv", ".csv.gz")
_SEED = re.compile(r"seed(\d+)(\.csv|\.csv\.gz)?")


def read_runs(path: Path, epoch: str = KEPT) -> list[Predictions]:
    """The test rows of every run under `path`, one for each seed, in the order of the seeds.

    `path` is a run folder, a predictions file, or a folder with `seed0`, `seed1`, ... (run folders) or `seed0.csv`, ...
    in it. `epoch` says which epoch's answers: "kept" (predictions.csv), or the last, that chosen on validation or that
    chosen on test (epochs/<name>.csv). DataError when there is no such file, or runs differ in more than the seed.
    """
    if epoch not in EPOCHS:
        raise DataError(f"there is no epoch {epoch!r}: {', '.join(EPOCHS)} are known")
    runs = [_test_rows(file, read_predictions(file)) for file in _files(path, epoch)]
    for run in runs[1:]:
        if run.classes != runs[0].classes or set(run.keys) != set(runs[0].keys):
            raise DataError(f"the runs in {path} were not tested on the same cycles and classes: give them one by one")
    return runs


def _files(path: Path, epoch: str) -> list[Path]:
    if path.is_file():
        if epoch != KEPT:
            raise DataError(f"{path} is one file of answers: --epoch {epoch} needs a run folder")
        return [path]
    if not path.is_dir():
        raise DataError(f"no {path}: give a run folder, a predictions file, or a folder of runs seed0, seed1, ...")
    if _existing(path, "predictions") or (path / "epochs").is_dir():
        return [_file_of_run(path, epoch)]
    by_seed = {int(found[1]): child for child in path.iterdir() if (found := _SEED.fullmatch(child.name))}
    if not by_seed:
        raise DataError(f"{path} holds no predictions.csv and no runs seed0, seed1, ...: give the folder of a run")
    return [file for seed in sorted(by_seed) for file in _files(by_seed[seed], epoch)]


def _file_of_run(folder: Path, epoch: str) -> Path:
    name = "predictions" if epoch == KEPT else f"epochs/{epoch}"
    file = _existing(folder, name)
    if file is None:
        there = [other for other in EPOCHS[1:] if _existing(folder, f"epochs/{other}")]
        told = (
            f"it has the epochs {', '.join(there)}: choose one with --epoch"
            if there
            else "it was not trained by the strict protocol: use --epoch kept"
        )
        raise DataError(f"{folder} has no {name}.csv; {told}")
    return file


def _existing(folder: Path, name: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def _test_rows(file: Path, predictions: Predictions) -> Predictions:
    """All but the rows of validation patients."""
    rows = [row for row, part in enumerate(predictions.parts) if part != VALIDATION_PART]
    if not rows:
        raise DataError(f"{file} has rows of validation patients only: there is no test row to compare")
    return predictions.of_rows(rows)
