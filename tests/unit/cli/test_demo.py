"""The folder that an earlier demo left, also one that was killed."""

from pathlib import Path

import pytest
from rich.console import Console

from lungsound.cli import demo
from lungsound.cli.demo import RUN_NAME, run_demo
from lungsound.config import load_config
from lungsound.errors import SettingsError
from lungsound.training.run import RunFolder


class Reached(Exception):
    """The training would begin."""


@pytest.fixture(autouse=True)
def _no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*_: object, **__: object) -> None:
        raise Reached

    monkeypatch.setattr(demo, "train", begin)


def begin(out: Path) -> None:
    run_demo(out / "data", out, num_patients=4, seed=0, epochs=1, console=Console(quiet=True))


@pytest.mark.parametrize("left", [(), (".lock",), (".lock", "config.json", "checkpoint.safetensors")])
def test_what_a_killed_demo_left_is_replaced(left: tuple[str, ...], tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    for name in left:
        (run.path / name).write_text("")
    if "config.json" in left:
        run.start(load_config("demo", [f"name={RUN_NAME}"]))
    with pytest.raises(Reached):
        begin(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_and_a_folder_of_others_stay(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").start(load_config("demo"))
    with pytest.raises(SettingsError, match="was not made by an earlier demo"):
        begin(tmp_path)
    (tmp_path / "run" / "config.json").rename(tmp_path / "run" / "notes.txt")
    with pytest.raises(SettingsError, match="was not made by an earlier demo"):
        begin(tmp_path)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
