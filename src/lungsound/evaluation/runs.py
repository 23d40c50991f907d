"""Predictions of one method's runs: a run folder, a predictions file, or a folder of runs with different seeds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lungsound.errors import DataError
from lungsound.evaluation.predictions import Predictions, read_predictions
from lungsound.evaluation.selection import BEST_ON_OTHER_TEST, COLUMN_OF, LAST, NAMES, TEST, VALIDATION
from lungsound.files import hash_file, is_unfinished, read_model

KEPT = "kept"
UNKNOWN = "unknown"
# How much two differences scatter is hardly known: paired, equally good methods were told apart in 10 % of simulations.
LEAST_PAIRED_SEEDS = 3
_ADVICE = "it says how the epoch was chosen"
_SEED = re.compile(r"seed(\d+)(\.csv|\.csv\.gz)?")
# As settings and reports name them. The choice by another corpus's test is, as by validation, one on other cycles.
_CHOICES = {**COLUMN_OF, BEST_ON_OTHER_TEST: VALIDATION}
_CHOICE_PHRASES = {
    LAST: "is the last",
    VALIDATION: "was chosen on other cycles",
    TEST: "was chosen on the test itself",
    UNKNOWN: "was chosen in a way that is not known",
}


class _Choice(BaseModel):
    """The part of a report, or of a run's settings, that is read; `files` are hashes of what a report is made of."""

    context: dict[str, Any] = {}
    files: dict[str, str] = {}
    train: dict[str, Any] = {}


@dataclass(frozen=True)
class MethodRuns:
    """Test predictions of one method's runs, by seed, and how their epochs were chosen (see `epoch_of_file`).

    `unfinished` are folders of runs without their report; `seeds` those of the runs, as far as known.
    """

    runs: tuple[Predictions, ...]
    choices: frozenset[str]
    unfinished: tuple[Path, ...] = ()
    seeds: tuple[int, ...] = ()

    def of_seeds(self, seeds: Sequence[int]) -> tuple[Predictions, ...]:
        """The runs of these seeds, in the order given."""
        return tuple(self.runs[self.seeds.index(seed)] for seed in seeds)


def common_seeds(first: MethodRuns, second: MethodRuns) -> list[int]:
    """Seeds by which two methods are compared run by run: those of both, where there are enough; else none."""
    both = sorted(set(first.seeds) & set(second.seeds))
    return both if len(both) >= LEAST_PAIRED_SEEDS else []


def read_runs(path: Path, epoch: str = KEPT) -> MethodRuns:
    """Read the test rows of every run under `path`, one for each seed, in the order of the seeds.

    `path` may be a folder with `seed0`, `seed1`, ... or `seed0.csv`, ... in it. `epoch` is "kept" (predictions.csv),
    "last", "validation" or "test" (epochs/<name>.csv). DataError without such a file, or when runs have other cycles.
    """
    files = files_of(path, epoch)
    runs = list(map(read_test_rows, files))
    for run in runs[1:]:
        if run.classes != runs[0].classes or set(run.keys) != set(runs[0].keys):
            raise DataError(f"the runs in {path} were not tested on the same cycles and classes: give them one by one")
    folders = {file.parent.parent if file.parent.name == "epochs" else file.parent for file in files}
    unfinished = tuple(sorted(filter(is_unfinished, folders)))
    seeds = tuple(int(match[1]) for match in map(_SEED.fullmatch, (_seed_name(path, file) for file in files)) if match)
    return MethodRuns(tuple(runs), frozenset(map(epoch_of_file, files)), unfinished, seeds)


def _seed_name(path: Path, file: Path) -> str:
    """The name that one of the files of `path` has in that folder: "seed0", "seed0.csv"; "" for the folder's own."""
    inside = file.relative_to(path).parts
    return inside[0] if inside else ""


def read_test_rows(file: Path) -> Predictions:
    """Read all rows of a predictions file but those of validation patients."""
    test = read_predictions(file).of_test()
    if test is None:
        raise DataError(f"{file} has rows of validation patients only: there is no test row")
    return test


def files_of(path: Path, epoch: str) -> list[Path]:
    """The predictions files that `read_runs` reads; raises as it does for files that are not there.

    And for one that is not what the report of its run was made with.
    """
    files = _files_of(path, epoch)
    for file in files:
        check_made_together(file)
    return files


def _files_of(path: Path, epoch: str) -> list[Path]:
    if path.is_file():
        if epoch != KEPT:
            raise DataError(f"{path} is one file of predictions: --epoch {epoch} needs a run folder")
        return [path]
    if not path.is_dir():
        raise DataError(f"no {path}: give a run folder, a predictions file, or a folder of runs seed0, seed1, ...")

    def existing(name: str) -> Path | None:
        paths = (path / f"{name}.csv", path / f"{name}.csv.gz")
        return next(filter(Path.is_file, paths), None)

    name = "predictions" if epoch == KEPT else f"epochs/{epoch}"
    if (file := existing(name)) is not None:
        return [file]
    if existing("predictions") or (path / "epochs").is_dir():
        if is_unfinished(path):
            raise DataError(f"{path} is not finished: no {name}.csv yet; 'lungsound train' with --resume goes on")
        if epochs := [other for other in NAMES if existing(f"epochs/{other}")]:
            raise DataError(f"{path} has no {name}.csv; it has the epochs {', '.join(epochs)}: choose one with --epoch")
        raise DataError(
            f"{path} has no {name}.csv: it was not trained by the strict protocol, give its predictions.csv"
        )
    by_seed = {int(match[1]): child for child in path.iterdir() if (match := _SEED.fullmatch(child.name))}
    if not by_seed:
        raise DataError(f"{path} holds no predictions.csv and no runs seed0, seed1, ...: give the folder of a run")
    return [file for seed in sorted(by_seed) for file in _files_of(by_seed[seed], epoch)]


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a run, by name, that a report of it goes by."""
    files = [*(folder / name for name in ("config.json", "run.json", "predictions.csv")), *folder.glob("epochs/*.csv")]
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in sorted(files) if path.is_file()}


def check_made_together(file: Path) -> None:
    """DataError where the report of a run says that this file of it was another one; older reports do not say."""
    folder = file.parent.parent if file.parent.name == "epochs" else file.parent
    if (report := folder / "report.json").is_file():
        stated = read_model(report, _Choice, DataError, advice=_ADVICE).files.get(file.relative_to(folder).as_posix())
        if stated is not None and file.is_file() and stated != hash_file(file):
            detail = f"is not what {report} was made with: it was changed, or is another run's; put back what was there"
            raise DataError(detail, path=file)


def epoch_of_file(file: Path) -> str:
    """How a run of ours chose the epoch of a file: by its name in `epochs`, else the report or settings beside it."""
    name = file.name.partition(".")[0]
    if file.parent.name == "epochs" and name in NAMES:
        return name
    beside = [path for name in ("report.json", "config.json") if (path := file.parent / name).is_file()]
    if not beside:
        return UNKNOWN
    facts = read_model(beside[0], _Choice, DataError, advice=_ADVICE)
    return _CHOICES.get(str(facts.context.get("epoch selection") or facts.train.get("selection")), UNKNOWN)


def epoch_warnings(first: MethodRuns, second: MethodRuns) -> list[str]:
    """Reasons why the Scores of A and B are not alike, or too high: choices of epochs, and runs not at their end."""
    sides = {"A": first, "B": second}
    warnings = [
        f"{name} is not finished: {folder} has no report. Its predictions are of an epoch before the end."
        for name, side in sides.items()
        for folder in side.unfinished
    ]
    if paired := common_seeds(first, second):
        warnings += [
            f"{name}'s runs of seed {', '.join(map(str, alone))} are left out: the other side has none of that seed."
            for name, side in sides.items()
            if (alone := sorted(set(side.seeds) - set(paired)))
        ]
    advice = "compare epochs that were chosen alike, and not on the test (--epoch last)"
    if first.choices != second.choices:
        ours, theirs = (" or ".join(_CHOICE_PHRASES[each] for each in sorted(side.choices)) for side in (first, second))
        warnings.append(f"The epoch of A {ours}, that of B {theirs}: {advice}.")
    if by_test := [name for name, side in sides.items() if TEST in side.choices]:
        epochs = "epochs of A and B were" if len(by_test) > 1 else f"epoch of {by_test[0]} was"
        warnings.append(f"The {epochs} chosen by the Score on these cycles, which may be too high: {advice}.")
    return warnings
