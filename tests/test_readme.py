"""What the README tells a newcomer to type works: its commands and its Python blocks."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests import documents
from tests.documents import ROOT, run

README = ROOT / "README.md"
COMMANDS = ("scripts/demo", "scripts/test", "scripts/lungsound predict RECORDING.wav")
# True under scripts/test: then the scripts' own environment is the one that runs this test.
IS_OUR_VENV = Path(sys.prefix).resolve() == ROOT / ".venv"


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return [block.text for block in documents.blocks(README, language)]


@pytest.fixture(scope="module")
def after_the_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which a small demo has just run, as `scripts/demo` leaves it."""
    folder = tmp_path_factory.mktemp("newcomer")
    command = [str(ROOT / "scripts" / "demo")] if IS_OUR_VENV else [str(Path(sys.prefix) / "bin" / "lungsound"), "demo"]
    output = run([*command, "--epochs", "1", "--patients", "8", "--out", "lungsound-demo"], folder)
    (folder / "demo.txt").write_text(output, encoding="utf-8")
    return folder


def test_the_readme_shows_the_commands_and_python() -> None:
    lines = [line.strip() for block in blocks("sh") for line in block.splitlines()]
    for command in COMMANDS:
        assert command in lines, f"README.md has no sh line '{command}'"
    assert blocks("python")


def test_every_script_that_the_readme_names_can_be_run() -> None:
    text = README.read_text(encoding="utf-8")
    for name in {*re.findall(r"\bscripts/\w+", text)}:
        assert os.access(ROOT / name, os.X_OK), name


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#\s]+)", README.read_text(encoding="utf-8"))
    assert [link for link in links if not re.match(r"\w+:", link) and not (ROOT / link).exists()] == []


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert len(commands) == 1
    assert commands[0].endswith('scripts/test"')


def test_the_demo_ends_with_the_path_of_its_report_and_what_to_do_next(after_the_demo: Path) -> None:
    *_, line, last = (after_the_demo / "demo.txt").read_text(encoding="utf-8").strip().splitlines()
    command = Path(last.partition(": ")[2].split()[0])
    assert command.name == "lungsound"
    assert last.endswith(f"{command} predict FILE")
    report = after_the_demo / line.split()[-1]
    assert report.name == "report.md"
    assert report.is_file()
    assert (report.with_suffix(".json")).is_file()


def test_the_python_block_runs_after_the_demo(after_the_demo: Path) -> None:
    output = run([sys.executable, "-W", "error", "-c", blocks("python")[0]], after_the_demo)
    assert output.strip(), "the README's Python block prints nothing"


@pytest.mark.slow
def test_the_other_python_blocks_run_after_the_demo(after_the_demo: Path) -> None:
    for block in blocks("python")[1:]:
        assert run([sys.executable, "-W", "error", "-c", block], after_the_demo).strip(), block


def train_on_the_table(folder: Path) -> str:
    """What the two commands print that the README shows below its table."""
    lungsound = [sys.executable, "-m", "lungsound"]
    lines = [line.strip() for line in README.read_text(encoding="utf-8").splitlines() if "first.csv" in line]
    commands = [line.removeprefix("lungsound ").split() for line in lines if line.startswith("lungsound ")]
    assert [command[:2] for command in commands] == [["data", "check"], ["train", "demo"]]
    return "".join(run([*lungsound, *command], folder) for command in commands)


def assert_trained(folder: Path, output: str) -> None:
    assert "problems: none" in output
    assert "runs/first/report.md" in output
    assert (folder / "runs" / "first" / "report.html").is_file()
    assert "3 cycles of 2 held-out patients" in output


@pytest.mark.slow
def test_the_table_of_the_readme_trains_on_real_recordings(sprsound_dir: Path, tmp_path: Path) -> None:
    (table,) = blocks("csv")
    assert len(table.splitlines()) == 12
    suffix = next((sprsound_dir / "train_wav").iterdir()).suffix
    (tmp_path / "first.csv").write_text(table.replace(".wav,", f"{suffix},"))
    (tmp_path / "train_wav").symlink_to(sprsound_dir.resolve() / "train_wav")
    assert_trained(tmp_path, train_on_the_table(tmp_path))


@pytest.mark.slow
def test_the_table_of_the_readme_trains_on_any_recordings_of_these_names(tmp_path: Path) -> None:
    (table,) = blocks("csv")
    generator = np.random.default_rng(0)
    (tmp_path / "train_wav").mkdir()
    (tmp_path / "first.csv").write_text(table)
    for name in {line.partition(",")[0] for line in table.splitlines()[1:]}:
        soundfile.write(tmp_path / name, 0.1 * generator.standard_normal(15 * 8000), 8000)
    assert_trained(tmp_path, train_on_the_table(tmp_path))
