"""The folder that an earlier demo left, also one that was killed, and the table of cycles that is printed."""

from pathlib import Path

import pytest
from rich.console import Console

from lungsound.cli import demo
from lungsound.cli.demo import RUN_NAME, print_cycles, run_demo
from lungsound.config import load_config
from lungsound.errors import SettingsError
from lungsound.inference.prediction import CyclePrediction, Reason
from lungsound.training.run import RunFolder

OF_ALL = (Reason.AGE_OUTSIDE, Reason.STETHOSCOPE_OUTSIDE)
CLASSES = ("normal", "crackle", "wheeze", "both")


def cycle(start_s: float, *reasons: Reason) -> CyclePrediction:
    return CyclePrediction(start_s, start_s + 2.5, "normal", dict.fromkeys(CLASSES, 0.25), reasons)


@pytest.mark.parametrize("width", [80, 120])
def test_no_reason_is_broken_and_one_of_all_cycles_stands_once(width: int) -> None:
    own = (Reason.SILENT_CYCLE, Reason.NO_BREATHING, Reason.OUT_OF_DOMAIN, Reason.ALL_CLASSES_POSSIBLE)
    console = Console(width=width, markup=False, highlight=False)
    with console.capture() as printed:
        print_cycles("a.wav", [cycle(10.0, *OF_ALL, *own), cycle(12.5, *OF_ALL)], console, classes=CLASSES)
    words = [word.rstrip(",") for word in printed.get().split()]
    assert [words.count(reason) for reason in (*OF_ALL, *own)] == [1] * 6
    assert words.index("all") < words.index(Reason.AGE_OUTSIDE) < words.index("10.00")
    assert max(map(len, printed.get().splitlines())) <= width


def test_a_single_cycle_has_its_reasons_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_cycles("a.wav", [cycle(0.0, *OF_ALL)], Console(width=120), classes=CLASSES)
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("0.00"))
    assert row.rstrip().endswith("age_outside, stethoscope_outside")


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
