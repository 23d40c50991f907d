"""Which corpora `cross --on` names."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lungsound.errors import SettingsError
from lungsound.experiments.cross import Crossing, leave_each_out, parse_other, try_elsewhere
from tests.unit.data.trees import NORMAL, write_icbhi


def test_a_corpus_with_or_without_a_label_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there=1").mkdir()
    assert parse_other("a/b") == (Path("a/b"), None)
    assert parse_other("own.csv=own.toml") == (Path("own.csv"), Path("own.toml"))
    assert parse_other("x=1/own.csv=own.toml") == (Path("x=1/own.csv"), Path("own.toml"))
    assert parse_other("there=1") == (Path("there=1"), None)


def test_a_corpus_that_is_given_twice_is_refused_before_training(tmp_path: Path) -> None:
    crossing = Crossing("demo", [tmp_path / "home"], tmp_path / "out", 1, (), Console(quiet=True))
    for others in (["a/../home"], ["b", "b"]):
        with pytest.raises(SettingsError, match="is given twice"):
            try_elsewhere(crossing, [(tmp_path / name, None) for name in others])
    several = replace(crossing, data=[tmp_path / "home", tmp_path / "second"])
    with pytest.raises(SettingsError, match="second is given twice"):
        try_elsewhere(several, [(tmp_path / "second", None)])
    assert not (tmp_path / "out").exists()


def test_one_corpus_cannot_be_left_out_of_itself(tmp_path: Path) -> None:
    folder = write_icbhi(tmp_path / "home", {"101_1b1_Al_sc_Meditron": NORMAL})
    (folder / "official_split.txt").write_text("101_1b1_Al_sc_Meditron\ttrain\n")
    crossing = Crossing("demo", [folder], tmp_path / "out", 1, (), Console(quiet=True))
    with pytest.raises(SettingsError, match=r"leaving one corpus out needs two or more; in .*home there is none"):
        leave_each_out(crossing, "corpus")
