"""Which corpora `cross --on` names."""

from pathlib import Path

import pytest
from rich.console import Console

from lungsound.errors import SettingsError
from lungsound.experiments.cross import Crossing, OtherCorpus, try_elsewhere


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a/b", OtherCorpus(Path("a/b"))),
        ("own.csv=own.toml", OtherCorpus(Path("own.csv"), Path("own.toml"))),
        ("x=1/own.csv=own.toml", OtherCorpus(Path("x=1/own.csv"), Path("own.toml"))),
        ("there=1", OtherCorpus(Path("there=1"))),
    ],
)
def test_a_corpus_with_or_without_a_label_map(
    text: str, found: OtherCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there=1").mkdir()
    assert OtherCorpus.parse(text) == found


def test_a_corpus_that_is_given_twice_is_refused_before_training(tmp_path: Path) -> None:
    crossing = Crossing("demo", tmp_path / "home", tmp_path / "out", 1, (), Console(quiet=True))
    for others in (["a/../home"], ["b", "b"]):
        with pytest.raises(SettingsError, match="is given twice"):
            try_elsewhere(crossing, [OtherCorpus(tmp_path / name) for name in others])
    assert not (tmp_path / "out").exists()
