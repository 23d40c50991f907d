"""Which corpora `cross --on` names."""

from pathlib import Path

import pytest
from rich.console import Console

from lungsound.errors import SettingsError
from lungsound.experiments.cross import Elsewhere, try_elsewhere


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a/b", Elsewhere(Path("a/b"))),
        ("own.csv=own.toml", Elsewhere(Path("own.csv"), Path("own.toml"))),
        ("x=1/own.csv=own.toml", Elsewhere(Path("x=1/own.csv"), Path("own.toml"))),
        ("there=1", Elsewhere(Path("there=1"))),
    ],
)
def test_a_corpus_with_or_without_a_label_map(
    text: str, found: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there=1").mkdir()
    assert Elsewhere.parse(text) == found


def test_a_corpus_that_is_given_twice_is_refused_before_training(tmp_path: Path) -> None:
    every = {"out": tmp_path / "out", "num_seeds": 1, "settings": (), "console": Console(quiet=True)}
    for others in (["a/../home"], ["b", "b"]):
        elsewhere = [Elsewhere(tmp_path / name) for name in others]
        with pytest.raises(SettingsError, match="is given twice"):
            try_elsewhere("demo", data=tmp_path / "home", elsewhere=elsewhere, **every)
    assert not (tmp_path / "out").exists()
