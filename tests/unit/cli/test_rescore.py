import gzip
import json
from functools import partial
from pathlib import Path

import pytest
import typer

from lungsound.cli.compare import rescore
from lungsound.cli.shared import console
from lungsound.errors import DataError, LungsoundError
from lungsound.evaluation import bootstrap

app = typer.Typer()
app.command()(rescore)

MATRIX = [[1289, 150, 120, 20], [300, 280, 49, 20], [150, 35, 180, 20], [40, 40, 30, 33]]
CLASSES = ("normal", "crackle", "wheeze", "both")
TABLE = ["--label", "true", "--predicted", "guess", "--patient", "who", "--classes", "normal,crackle,wheeze"]


@pytest.fixture(autouse=True)
def wide_terminal_and_few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", 200)
    monkeypatch.setattr(bootstrap, "Bootstrap", partial(bootstrap.Bootstrap, num_draws=100))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command prints; its errors are raised."""
    capsys.readouterr()
    app([str(argument) for argument in arguments], standalone_mode=False)
    return capsys.readouterr().out


def write_matrix(folder: Path) -> Path:
    path = folder / "m.json"
    path.write_text(json.dumps({"confusion": MATRIX, "classes": CLASSES}))
    return path


def predictions_of(labels: list[str], *, part: str = "test") -> str:
    """A predictions file of ours."""
    header = "key,patient,device,part,label,answer,p_normal,p_crackle,p_wheeze\n"
    shares = {"normal": "0.8,0.1,0.1", "crackle": "0.1,0.8,0.1", "wheeze": "0.1,0.1,0.8"}
    rows = [
        f"r#{i}.0-{i + 1}.0,p{i % 3},d,{part},{label},{labels[-1 - i]},{shares[labels[-1 - i]]}\n"
        for i, label in enumerate(labels)
    ]
    return header + "".join(rows)


def test_a_matrix_is_scored_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, write_matrix(tmp_path), "--epoch", "test")
    (score,) = [line for line in out.splitlines() if line.startswith("ICBHI Score, exact class")]
    assert "61.8" in score
    assert "Score of ICBHI, 4 classes" in score
    assert "abnormal cycles predicted as any abnormal class / abnormal cycles" in out
    assert "The epoch was chosen on the test set itself" in out
    assert "Research software, not a medical device." in out
    assert not list(tmp_path.glob("rescore*"))


def test_pages_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder"
    assert f"page: {out / 'rescore.html'}" in run(capsys, write_matrix(tmp_path), "--out", out)
    assert sorted(each.name for each in out.iterdir()) == ["rescore.html", "rescore.json", "rescore.md"]
    assert "Every metric of m.json" in (out / "rescore.html").read_text()
    assert json.loads((out / "rescore.json").read_text())["parts"][0]["confusion"][0] == [1289, 150, 120, 20]


def test_parts_of_a_table_are_scored_apart_or_as_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.csv"
    rows = ["normal,crackle,a,test", "crackle,crackle,b,test", "normal,normal,a,validation"]
    path.write_text("\n".join(["true,guess,who,fold", *rows]))
    out = run(capsys, path, *TABLE, "--part-column", "fold")
    assert out.index("Part test") < out.index("Part validation")
    assert "2 cycles of 2 patients; classes normal, crackle, wheeze" in out
    assert "1 cycle of 1 patient" in out
    assert "Part validation" not in run(capsys, path, *TABLE, "--part-column", "fold", "--part", "test")
    assert "3 cycles of 2 patients" in run(capsys, path, *TABLE)


def test_probabilities_are_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.csv"
    path.write_text("true,n,w\nnormal,0.9,0.1\nwheeze,0.2,0.8\n")
    out = run(capsys, path, "--label", "true", "--probability", "normal=n", "--probability", "wheeze=w")
    assert "AUROC, abnormal" in out
    assert "The most probable class is scored" in out


def test_epoch_of_a_run_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_test, not_stated = "The epoch was chosen on the test set itself", "How the epoch was chosen is not stated"
    rows = predictions_of(["normal", "wheeze"]).encode()
    for place, settings, text in (
        ("a/epochs/test.csv", None, on_test),
        ("b/epochs/last.csv.gz", None, ""),
        ("c/predictions.csv", {"train": {"selection": "best_on_test"}}, on_test),
        ("d/predictions.csv", {"other": 1}, not_stated),
        ("e/predictions.csv", None, not_stated),
    ):
        path = tmp_path / place
        path.parent.mkdir(parents=True)
        path.write_bytes(gzip.compress(rows) if path.suffix == ".gz" else rows)
        if settings is not None:
            (path.parent / "config.json").write_text(json.dumps(settings))
        out = run(capsys, path)
        assert ("epoch was chosen" in out) == bool(text), place
        assert text in out, place


def test_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best, last, other = (tmp_path / name for name in ("a/predictions.csv", "b/epochs/last.csv.gz", "runs/seed0.csv"))
    for path in (best, last, other):
        path.parent.mkdir(parents=True)
    best.write_text(predictions_of(["normal", "crackle", "wheeze"]))
    last.write_bytes(gzip.compress(predictions_of(["normal", "wheeze"]).encode()))
    assert "3 cycles of 3 patients" in run(capsys, tmp_path / "a")
    assert "3 cycles of 3 patients" in run(capsys, tmp_path / "a", "--epoch", "unknown")
    out = run(capsys, tmp_path / "b", "--epoch", "last")
    assert "2 cycles of 2 patients" in out
    assert "epoch was chosen" not in out
    with pytest.raises(DataError, match=r"has no predictions\.csv; it has the epochs last: choose one with --epoch"):
        run(capsys, tmp_path / "b")
    with pytest.raises(DataError, match=r"not trained by the strict protocol, give its predictions\.csv"):
        run(capsys, tmp_path / "a", "--epoch", "test")
    for name in ("seed0.csv", "seed1.csv"):
        (tmp_path / "runs" / name).write_text(best.read_text())
    with pytest.raises(DataError, match=r"holds 2 runs: rescore reads one, .*seed0"):
        run(capsys, tmp_path / "runs")


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.csv"
    path.write_text("1,2\n3,4\n")
    for arguments in ([], ["--classes", "a"], ["--label", "x"], ["--probability", "x"]):
        with pytest.raises(LungsoundError) as caught:
            run(capsys, path, *arguments)
        assert "\n" not in str(caught.value)
