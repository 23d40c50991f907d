"""`compare` and `power` as a user calls them."""

import json
from functools import partial
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lungsound.cli import compare as commands
from lungsound.cli.compare import _names
from lungsound.errors import DataError, SettingsError
from lungsound.evaluation import bootstrap
from lungsound.evaluation.predictions import write_predictions
from tests.unit.evaluation.test_compare import answered

app = typer.Typer()
app.command()(commands.compare)
app.command()(commands.power)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "Bootstrap", partial(bootstrap.Bootstrap, num_draws=200))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name, skill in (("good", 0.9), ("bad", 0.5)):
        for seed in (0, 1):
            answers = answered(skill, seed=10 * seed + int(10 * skill))
            write_predictions(tmp_path / name / f"seed{seed}" / "predictions.csv", answers)
    write_predictions(tmp_path / "bad" / "seed0" / "epochs" / "last.csv", answered(0.9, seed=9))
    return tmp_path


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    if result.exception is not None:
        raise result.exception
    return result.output


def test_two_folders_of_seeds(runs: Path) -> None:
    out = " ".join(call("compare", runs / "good", runs / "bad").split())
    assert "A: good B: bad (240 cycles of test, 20 patients; 2 seeds and 2 seeds)" in out
    assert "good is better by " in out
    assert "One seed" not in out
    assert "not a medical device" in out


def test_single_runs_and_files_on_one_page(runs: Path) -> None:
    out = call("compare", runs / "good/seed0", runs / "bad/seed0/predictions.csv", "--out", runs / "page")
    assert "One seed on each side" in " ".join(out.split())
    assert {path.name for path in (runs / "page").iterdir()} == {
        "compare.md",
        "compare.html",
        "compare.json",
        "compare-0.png",
    }
    numbers = json.loads((runs / "page/compare.json").read_text())
    assert (numbers["A"], numbers["B"]) == ("good/seed0", "bad/seed0/predictions.csv")
    assert numbers["parts"][0]["verdict"] in (runs / "page/compare.md").read_text()
    assert (
        json.loads(call("compare", runs / "good/seed0", runs / "bad/seed0", "--json"))["parts"][0]["num_cycles"] == 240
    )


def test_another_epoch(runs: Path) -> None:
    with pytest.raises(DataError, match="not trained by the strict protocol"):
        call("compare", runs / "good/seed0", runs / "bad/seed0", "--epoch", "last")
    same = call("compare", runs / "bad/seed0", runs / "bad/seed0", "--epoch", "last")
    assert "A and B have as many right for every patient" in " ".join(same.split())


def test_common_cycles(runs: Path) -> None:
    write_predictions(runs / "short.csv", answered(0.5, seed=3).of_rows(range(200)))
    with pytest.raises(DataError, match="--common compares them on the 200 of both"):
        call("compare", runs / "good/seed0", runs / "short.csv")
    assert "200 cycles" in call("compare", runs / "good/seed0", runs / "short.csv", "--common")


def test_power_from_two_runs_and_from_one(runs: Path) -> None:
    both = json.loads(call("power", runs / "good/seed0", runs / "bad/seed0", "--json"))
    assert [row["points"] for row in both["parts"][0]["needed"]] == [1, 2, 3, 5, 10]
    needed = [row["num_patients"] for row in both["parts"][0]["needed"]]
    assert needed == sorted(needed, reverse=True)
    out = " ".join(call("power", runs / "good/seed0", "--difference", "2", "--correlation", "0.7").split())
    assert "two methods that correlate 0.7" in out
    assert "test: these 20 patients detect" in out
    less, more = (
        json.loads(call("power", runs / "good/seed0", "--difference", "2", "--correlation", rho, "--json"))
        for rho in ("0.9", "0.1")
    )
    assert less["parts"][0]["needed"][0]["num_patients"] < more["parts"][0]["needed"][0]["num_patients"]


def test_power_that_cannot_be_planned(runs: Path) -> None:
    with pytest.raises(SettingsError, match="leave it out, or leave out RUN_B"):
        call("power", runs / "good", runs / "bad", "--correlation", "0.5")
    write_predictions(runs / "one.csv", answered(0.5, num_patients=1))
    with pytest.raises(SettingsError, match="one patient"):
        call("power", runs / "one.csv")


def finish(run: Path, selection: str) -> None:
    """What a finished run's folder says of its epoch."""
    (run / "config.json").write_text(json.dumps({"train": {"selection": selection}}))
    (run / "report.json").write_text(json.dumps({"context": {"epoch selection": selection}}))


def test_an_epoch_that_the_test_chose_is_a_warning(runs: Path) -> None:
    good, bad = runs / "good/seed0", runs / "bad/seed0"
    finish(good, "best_on_test")
    finish(bad, "last")
    out = " ".join(call("compare", good, bad).split())
    differ = "The epoch of A was chosen on the test itself, that of B is the last"
    chosen = "The epoch of A was chosen by the Score on these cycles, which may be too high"
    assert out.index(differ) < out.index(chosen) < out.index("is better by")
    warnings = json.loads(call("compare", good, bad, "--json"))["warnings"]
    assert [warning.split(":")[0] for warning in warnings] == [differ, chosen]
    assert json.loads(call("power", good, bad, "--json"))["warnings"] == warnings
    assert json.loads(call("power", good, "--json"))["warnings"] == []
    finish(good, "last")
    assert json.loads(call("compare", good, bad, "--json"))["warnings"] == []


def test_a_run_against_itself_is_a_and_b() -> None:
    assert _names(Path("a/ce"), Path("a/ce")) == ("A", "B")
    assert _names(Path("r/ce/seed0"), Path("r/cl/seed0")) == ("ce", "cl")
