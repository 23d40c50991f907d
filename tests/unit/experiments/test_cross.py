"""Which corpora `cross --on` names."""

from pathlib import Path

import pytest
from rich.console import Console

from lungsound.errors import SettingsError
from lungsound.experiments.cross import Crossing, parse_other, try_elsewhere


def test_a_corpus_with_or_without_a_label_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there=1").mkdir()
    assert parse_other("a/b") == (Path("a/b"), None)
    assert parse_other("own.csv=own.toml") == (Path("own.csv"), Path("own.toml"))
    assert parse_other("x=1/own.csv=own.toml") == (Path("x=1/own.csv"), Path("own.toml"))
    assert parse_other("there=1") == (Path("there=1"), None)


def test_a_corpus_that_is_given_twice_is_refused_before_training(tmp_path: Path) -> None:
    crossing = Crossing("demo", tmp_path / "home", tmp_path / "out", 1, (), Console(quiet=True))
    for others in (["a/../home"], ["b", "b"]):
        with pytest.raises(SettingsError, match="is given twice"):
            try_elsewhere(crossing, [(tmp_path / name, None) for name in others])
    assert not (tmp_path / "out").exists()
