import gzip
import json
from pathlib import Path

import pytest
import typer

from lungsound.cli.rescore import rescore
from lungsound.cli.shared import console
from lungsound.errors import DataError, LungsoundError

app = typer.Typer()
app.command()(rescore)

MATRIX = "1289 150 120 20\n300 280 49 20\n150 35 180 20\n40 40 30 33\n"


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", 200)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command prints; its errors are raised."""
    capsys.readouterr()
    app([str(argument) for argument in arguments], standalone_mode=False)
    return capsys.readouterr().out


def rows_of(labels: list[str], *, part: str = "") -> list[str]:
    return [f"p{i % 3},{label},{labels[-1 - i]},{part}" for i, label in enumerate(labels)]


def test_a_matrix_is_scored_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.txt"
    path.write_text(MATRIX)
    out = run(capsys, path, "--epoch", "test")
    (score,) = [line for line in out.splitlines() if line.startswith("ICBHI Score, exact class")]
    assert "61.8" in score
    assert "Score of ICBHI, 4 classes" in score
    assert "abnormal cycles with any abnormal answer / abnormal cycles" in out
    assert "The epoch was chosen on the test set itself" in out
    assert "Published, 4 classes: PC-MCL 65.37" in out
    assert "Not beside SAM-AST" in out
    assert "Research software, not a medical device." in out
    assert not list(tmp_path.glob("rescore*"))


def test_pages_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.txt"
    path.write_text(MATRIX)
    out = tmp_path / "new" / "folder"
    assert f"page: {out / 'rescore.html'}" in run(capsys, path, "--out", out)
    assert sorted(each.name for each in out.iterdir()) == ["rescore.html", "rescore.json", "rescore.md"]
    assert "Every metric of m.txt" in (out / "rescore.html").read_text()
    assert json.loads((out / "rescore.json").read_text())["parts"][0]["confusion"][0] == [1289, 150, 120, 20]


def test_parts_are_scored_apart_or_as_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.csv"
    labels = ["normal", "crackle", "normal", "wheeze"]
    rows = [*rows_of(labels, part="test"), *rows_of(labels * 2, part="validation")]
    path.write_text("\n".join(["patient,label,answer,part", *rows]))
    out = run(capsys, path)
    assert out.index("Part test") < out.index("Part validation")
    assert "4 cycles of 3 patients" in out
    assert "8 cycles of 3 patients" in out
    out = run(capsys, path, "--part", "test")
    assert "Part validation" not in out
    assert "12 cycles of 3 patients" in run(capsys, path, "--part", "test", "--part", "validation")
    with pytest.raises(DataError, match="has no part 'inter'; it has test, validation"):
        run(capsys, path, "--part", "inter")


def test_columns_classes_and_normal_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.csv"
    path.write_text("a,b,c,d\n1,1,x,u\n0,1,y,u\n1,0,x,v\n")
    named = ["--label-column", "a", "--answer-column", "b"]
    out = run(capsys, path, *named, "--patient-column", "c", "--part-column", "d", "--classes", "sick, well")
    assert "2 cycles of 2 patients; classes sick, well" in out
    out = run(capsys, path, *named, "--recording-column", "c", "--classes", "sick,well", "--normal", "well")
    assert "3 cycles of 2 recordings; classes well, sick" in out
    assert "Intervals are over recordings" in out


def test_transposed_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.csv"
    path.write_text("9,1\n5,5\n")
    assert "Specificity (Sp)" in (out := run(capsys, path))
    assert "90.0" in next(line for line in out.splitlines() if line.startswith("Specificity"))
    out = run(capsys, path, "--transposed")
    assert "64.3" in next(line for line in out.splitlines() if line.startswith("Specificity"))


@pytest.mark.parametrize(
    ("place", "settings", "text"),
    [
        ("epochs/test.csv", None, "The epoch was chosen on the test set itself"),
        ("epochs/last.csv", None, None),
        ("epochs/test.csv.gz", None, "The epoch was chosen on the test set itself"),
        ("predictions.csv", {"train": {"selection": "best_on_test"}}, "The epoch was chosen on the test set itself"),
        ("predictions.csv", {"train": {"selection": "validation"}}, None),
        ("predictions.csv", {"other": 1}, "How the epoch was chosen is not stated"),
        ("predictions.csv", None, "How the epoch was chosen is not stated"),
    ],
)
def test_epoch_of_a_run_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, settings: dict[str, object] | None, text: str | None
) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    rows = b"patient,label,answer\na,normal,normal\nb,wheeze,normal\n"
    path.write_bytes(gzip.compress(rows) if path.suffix == ".gz" else rows)
    if settings is not None:
        (tmp_path / "config.json").write_text(json.dumps(settings))
    out = run(capsys, path)
    assert ("epoch was chosen" in out) == (text is not None)
    assert text is None or text in out


def test_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, last, other = (tmp_path / name for name in ("a/predictions.csv", "b/epochs/last.csv.gz", "runs/seed0.csv"))
    for path in (kept, last, other):
        path.parent.mkdir(parents=True)
    kept.write_text("\n".join(["patient,label,answer,part", *rows_of(["normal", "crackle", "wheeze"])]))
    last.write_bytes(gzip.compress(b"patient,label,answer\na,normal,normal\nb,wheeze,normal\n"))
    assert "3 cycles of 3 patients" in run(capsys, tmp_path / "a")
    assert "3 cycles of 3 patients" in run(capsys, tmp_path / "a", "--epoch", "unknown")
    out = run(capsys, tmp_path / "b", "--epoch", "last")
    assert "2 cycles of 2 patients" in out
    assert "epoch was chosen" not in out
    with pytest.raises(DataError, match=r"has no predictions\.csv; it has the epochs last: choose one with --epoch"):
        run(capsys, tmp_path / "b")
    with pytest.raises(DataError, match=r"not trained by the strict protocol: give its predictions\.csv"):
        run(capsys, tmp_path / "a", "--epoch", "test")
    for name in ("seed0.csv", "seed1.csv"):
        (tmp_path / "runs" / name).write_text(kept.read_text())
    with pytest.raises(DataError, match=r"holds 2 runs: rescore reads one, .*seed0\.csv say"):
        run(capsys, tmp_path / "runs")


def test_whole_percentages_need_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.csv"
    path.write_text("80,20\n30,70\n")
    with pytest.raises(DataError, match="every row sums to 100"):
        run(capsys, path)
    assert "200 cycles" in run(capsys, path, "--counts")


@pytest.mark.parametrize("arguments", [[], ["--classes", "a"], ["--normal", "z"]])
def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    path = tmp_path / "p.csv"
    path.write_text("label,answer\nA,B\n" if not arguments else "1,2\n3,4\n")
    with pytest.raises(LungsoundError) as caught:
        run(capsys, path, *arguments)
    assert "\n" not in str(caught.value)
