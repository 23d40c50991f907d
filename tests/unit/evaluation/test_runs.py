import json
from pathlib import Path

import numpy as np
import pytest

from lungsound.data.splits import CALIBRATION, VALIDATION
from lungsound.errors import DataError
from lungsound.evaluation.predictions import CALIBRATION_PART, VALIDATION_PART, Predictions, write_predictions
from lungsound.evaluation.runs import (
    MethodRuns,
    check_made_together,
    epoch_of_file,
    epoch_warnings,
    hashes_of,
    read_runs,
)
from lungsound.files import write_json
from tests.unit.data.trees import DAMAGED


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
    (only,) = read_runs(tmp_path / "seed2" / "predictions.csv").runs
    assert same(only, runs[2])
    (only,) = read_runs(tmp_path / "seed2").runs
    assert same(only, runs[2])
    several = read_runs(tmp_path)
    assert [same(run, runs[seed]) for run, seed in zip(several.runs, (0, 2, 10), strict=True)] == [True] * 3
    assert several.seeds == (0, 2, 10)
    assert read_runs(tmp_path / "seed2").seeds == read_runs(tmp_path / "seed2" / "predictions.csv").seeds == ()


def test_a_folder_of_compressed_files(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_predictions(tmp_path / f"seed{seed}.csv.gz", predictions(seed))
    assert len(read_runs(tmp_path).runs) == 2
    assert read_runs(tmp_path).seeds == (0, 1)


def test_an_epoch_without_its_validation_rows(tmp_path: Path) -> None:
    answers = predictions(parts=("test", "validation", "test", "inter", "validation", "inter"))
    write_predictions(tmp_path / "epochs" / "last.csv", answers)
    (run,) = read_runs(tmp_path, "last").runs
    assert run.parts == ("test", "test", "inter", "inter")
    assert run.keys == tuple(answers.keys[row] for row in (0, 2, 3, 5))
    assert VALIDATION_PART == VALIDATION
    assert CALIBRATION_PART == CALIBRATION
    with pytest.raises(DataError, match=r"has no predictions.csv; it has the epochs last: choose one with --epoch"):
        read_runs(tmp_path)
    with pytest.raises(DataError, match=r"has no epochs/test.csv; it has the epochs last"):
        read_runs(tmp_path, "test")
    write_predictions(tmp_path / "epochs" / "test.csv", predictions(parts=("validation",) * 6))
    with pytest.raises(DataError, match="rows of validation patients only"):
        read_runs(tmp_path, "test")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a" / "predictions.csv", predictions())
    with pytest.raises(DataError, match=r"not trained by the strict protocol, give its predictions\.csv"):
        read_runs(tmp_path / "a", "last")
    with pytest.raises(DataError, match="one file of predictions: --epoch last needs a run folder"):
        read_runs(tmp_path / "a" / "predictions.csv", "last")
    with pytest.raises(DataError, match="give a run folder, a predictions file"):
        read_runs(tmp_path / "missing")
    with pytest.raises(DataError, match=r"holds no predictions\.csv and no runs seed0"):
        read_runs(tmp_path)


def test_seeds_that_were_tested_on_different_cycles_are_refused(tmp_path: Path) -> None:
    write_predictions(tmp_path / "seed0.csv", predictions(0))
    write_predictions(tmp_path / "seed1.csv", predictions(1, first_key=1))
    with pytest.raises(DataError, match="not tested on the same cycles and classes"):
        read_runs(tmp_path)


def run_folder(folder: Path, selection: str, *, chosen: str | None = None, is_finished: bool = True) -> Path:
    """A run of ours with its answers; `chosen` is how its report says that the epoch was chosen."""
    write_predictions(folder / "predictions.csv", predictions())
    write_predictions(folder / "epochs" / "test.csv.gz", predictions())
    (folder / "config.json").write_text(json.dumps({"train": {"selection": selection}}))
    if is_finished:
        (folder / "report.json").write_text(json.dumps({"context": {"epoch selection": chosen or selection}}))
    return folder


def test_a_run_states_how_its_epoch_was_chosen(tmp_path: Path) -> None:
    for selection, chosen, choice in (
        ("last", None, "last"),
        ("validation", None, "validation"),
        ("best_on_test", None, "test"),
        ("best_on_test", "last", "last"),  # no epoch could be chosen
        ("best_on_test", "best_on_other_test", "validation"),  # chosen on other cycles than these
        ("new rule", None, "unknown"),
    ):
        run = run_folder(tmp_path, selection, chosen=chosen)
        assert read_runs(run).choices == {epoch_of_file(run / "predictions.csv")} == {choice}, (selection, chosen)
        assert read_runs(run, "test").choices == {epoch_of_file(run / "epochs" / "test.csv.gz")} == {"test"}


@pytest.mark.parametrize("name", ["predictions.csv", "epochs/last.csv", "config.json"])
def test_a_file_that_the_report_was_not_made_with_is_refused(name: str, tmp_path: Path) -> None:
    run = run_folder(tmp_path, "last")
    write_predictions(run / "epochs" / "last.csv", predictions())
    context = {"context": {"epoch selection": "last"}}
    write_json(run / "report.json", {**context, "files": hashes_of(run)}, is_sealed=True)
    check_made_together(run / name)
    assert read_runs(run).choices == read_runs(run, "last").choices == {"last"}
    write_predictions(run / name, predictions(1))  # another run's, good by itself
    with pytest.raises(DataError, match=rf"{name}: is not what .*report\.json was made with"):
        check_made_together(run / name)
    for epoch, file in (("kept", "predictions.csv"), ("last", "epochs/last.csv")):
        if name == file:
            with pytest.raises(DataError, match="is another run's"):
                read_runs(run, epoch)
    (run / "report.json").write_text(json.dumps(context))  # of an older version
    check_made_together(run / name)


def test_a_file_by_itself_does_not_tell_its_epoch(tmp_path: Path) -> None:
    write_predictions(tmp_path / "last.csv", predictions())
    assert read_runs(tmp_path / "last.csv").choices == {"unknown"}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="says how the epoch was chosen"):
        epoch_of_file(tmp_path / "last.csv")


def test_a_run_without_a_report_is_not_finished(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", "best_on_test", is_finished=False)
    side = read_runs(run, "test")
    assert side.unfinished == (run,)
    assert epoch_of_file(run / "predictions.csv") == "test"
    (first, *_) = epoch_warnings(read_runs(run_folder(tmp_path / "done", "last"), "test"), side)
    assert first == f"B is not finished: {run} has no report. Its predictions are of an epoch before the end."
    with pytest.raises(DataError, match=r"run is not finished: no epochs/last\.csv yet; .* --resume goes on"):
        read_runs(run, "last")


def test_choices_that_differ_or_looked_at_the_test_are_warnings() -> None:
    on_test = "chosen by the Score on these cycles, which may be too high"
    for first, second, warnings in (
        ("last", "last", []),
        ("unknown", "unknown", []),
        ("last", "validation", ["The epoch of A is the last, that of B was chosen on other cycles"]),
        ("last", "unknown", ["The epoch of A is the last, that of B was chosen in a way that is not known"]),
        (
            "test",
            "last",
            ["The epoch of A was chosen on the test itself, that of B is the last", f"The epoch of A was {on_test}"],
        ),
        ("test", "test", [f"The epochs of A and B were {on_test}"]),
    ):
        sides = (MethodRuns((), frozenset({choice})) for choice in (first, second))
        assert [warning.split(":")[0] for warning in epoch_warnings(*sides)] == warnings, (first, second)


@pytest.mark.parametrize("name", ["report.json", "config.json"])
def test_a_damaged_file_about_the_epoch_is_named(name: str, tmp_path: Path) -> None:
    for damaged in (*DAMAGED, b'{"context": 5, "train": []}'):
        (tmp_path / name).write_bytes(damaged)
        if damaged == b"{}":
            assert epoch_of_file(tmp_path / "predictions.csv") == "unknown"
        else:
            with pytest.raises(DataError, match=rf"{name}.*it says how the epoch was chosen"):
                epoch_of_file(tmp_path / "predictions.csv")
