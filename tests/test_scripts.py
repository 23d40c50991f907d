"""scripts/setup: what it installs, when it does nothing, and how it mends what was left half done."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
INPUTS = ("pyproject.toml", "box/pyproject.toml", "constraints.txt", "scripts/environment.py")


class Setup:
    """scripts/environment.py on a project folder of its own, with every command recorded instead of run."""

    def __init__(self, module: ModuleType, root: Path) -> None:
        self.module = module
        self.root = root
        self.venv = root / ".venv"
        self.commands: list[list[str]] = []
        self.dies_at: str | None = None
        self.torch = "2.13.0+cpu"

    def run(self, *command: str | Path) -> None:
        words = [str(word) for word in command]
        self.commands.append(words)
        if self.dies_at is not None and self.dies_at in words:
            raise KeyboardInterrupt
        if "venv" in words:
            (self.venv / "bin").mkdir()
            (self.venv / "bin" / "python").touch()
        if "--editable" in words:
            self.install(is_editable=True)
        if words[-1] == "torch":
            (self.venv / f"lib/python3/site-packages/torch-{self.torch}.dist-info").mkdir(parents=True, exist_ok=True)

    def install(self, *, is_editable: bool) -> None:
        """What pip notes of lungsound and its box that come from a folder."""
        for name in ("lungsound", "lungsound_box"):
            found = self.venv / f"lib/python3/site-packages/{name}-0.1.0.dist-info"
            found.mkdir(parents=True, exist_ok=True)
            (found / "direct_url.json").write_text(json.dumps({"dir_info": {"editable": True} if is_editable else {}}))

    def __call__(self, kind: str = "dev") -> list[str]:
        """Sets up and tells what was done: "venv", the last word of each pip command, and "compile"."""
        self.commands.clear()
        self.module.set_up(kind)
        named = {"venv": "venv", self.module.COMPILE: "compile"}
        return [named.get(words[2], words[-1]) for words in self.commands]


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    spec = importlib.util.spec_from_file_location("environment", ROOT / "scripts" / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = tmp_path / "a project"
    for name in INPUTS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    for name, path in {
        "ROOT": "",
        "VENV": ".venv",
        "PYTHON": ".venv/bin/python",
        "STAMP": ".venv/lungsound.json",
        "UNFINISHED": ".venv/lungsound.unfinished",
    }.items():
        monkeypatch.setattr(module, name, root / path)
    monkeypatch.delenv("LUNGSOUND_TORCH", raising=False)
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    monkeypatch.setattr(module.sys, "platform", "linux")
    setup = Setup(module, root)
    monkeypatch.setattr(module, "run", setup.run)
    return setup


ALL = ["venv", "torch", "hatchling", ".[dev]", "compile"]


def test_the_first_call_installs_and_the_second_does_nothing(setup: Setup) -> None:
    assert setup() == ALL
    assert setup() == []
    assert not setup.module.UNFINISHED.exists()


def test_the_dev_extra_is_added_to_a_runtime_environment_and_never_taken_away(setup: Setup) -> None:
    assert setup("runtime") == ["venv", "torch", "hatchling", ".[train,av,serve]", "compile"]
    assert setup("runtime") == []
    assert setup("dev") == ALL[1:]
    assert setup("runtime") == []


def test_a_changed_input_is_installed_into_the_same_environment(setup: Setup) -> None:
    setup()
    for name in INPUTS:
        (setup.root / name).write_text("changed")
        assert setup() == ALL[1:], name


def test_a_copy_that_pip_put_in_its_place_is_replaced(setup: Setup) -> None:
    setup()
    setup.install(is_editable=False)
    assert setup() == ALL[1:]
    assert setup() == []


def test_an_environment_without_the_box_gets_it(setup: Setup) -> None:
    setup()
    shutil.rmtree(next(setup.venv.glob("lib/*/site-packages/lungsound_box-*")))
    assert setup() == ALL[1:]
    assert "./box" in setup.commands[-2]
    assert setup() == []


@pytest.mark.parametrize("step", ["venv", "torch", "hatchling", ".[dev]"])
def test_an_interrupted_installation_starts_over(setup: Setup, step: str) -> None:
    setup.dies_at = step
    with pytest.raises(KeyboardInterrupt):
        setup()
    left_over = setup.venv / "left" / "over.py"
    left_over.parent.mkdir()
    left_over.touch()
    setup.dies_at = None
    assert setup() == ALL
    assert not left_over.parent.exists()


def test_an_interrupted_update_starts_over(setup: Setup) -> None:
    setup()
    (setup.root / "constraints.txt").write_text("changed")
    setup.dies_at = "hatchling"
    with pytest.raises(KeyboardInterrupt):
        setup()
    setup.dies_at = None
    assert setup() == ALL


def test_a_moved_project_is_installed_anew(setup: Setup) -> None:
    setup()
    stamp = json.loads(setup.module.STAMP.read_text())
    setup.module.STAMP.write_text(json.dumps({**stamp, "root": "/elsewhere"}))
    assert setup() == ALL


def test_an_environment_that_somebody_made_by_hand_is_left_alone(setup: Setup) -> None:
    (setup.venv / "bin").mkdir(parents=True)
    with pytest.raises(setup.module.SetupError, match="was not made by this script"):
        setup()
    assert setup.commands == []


def test_only_the_step_of_torch_sees_the_index_of_cpu_builds(setup: Setup) -> None:
    setup()
    seen = [words[-1] for words in setup.commands if "--extra-index-url" in words]
    assert seen == ["torch"]
    assert all("--constraint" in words for words in setup.commands if "pip" in words)


def test_a_cuda_build_taken_for_want_of_a_cpu_build_is_told(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.torch = "2.13.0"
    assert setup() == ALL
    assert "went on with the CUDA build" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "has_nvidia", "platform", "has_cpu_index"),
    [
        (None, False, "linux", True),
        (None, True, "linux", False),
        ("cpu", True, "linux", True),
        ("cuda", False, "linux", False),
        (None, False, "darwin", False),
    ],
)
def test_the_build_of_torch_follows_the_machine_unless_asked(
    setup: Setup,
    monkeypatch: pytest.MonkeyPatch,
    asked: str | None,
    has_nvidia: bool,
    platform: str,
    has_cpu_index: bool,
) -> None:
    if asked:
        monkeypatch.setenv("LUNGSOUND_TORCH", asked)
    monkeypatch.setattr(setup.module.shutil, "which", lambda name: f"/bin/{name}" if has_nvidia else None)
    monkeypatch.setattr(setup.module.sys, "platform", platform)
    setup()
    assert any("--extra-index-url" in words for words in setup.commands) == has_cpu_index


def test_the_chosen_build_of_torch_stays_until_another_is_asked_for(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUNGSOUND_TORCH", "cuda")
    setup()
    monkeypatch.delenv("LUNGSOUND_TORCH")
    assert setup() == []
    monkeypatch.setenv("LUNGSOUND_TORCH", "cpu")
    assert setup() == ALL


def test_an_unknown_build_of_torch_is_one_clear_line(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGSOUND_TORCH", "rocm")
    with pytest.raises(setup.module.SetupError, match="LUNGSOUND_TORCH is 'rocm'; it can be cpu or cuda"):
        setup()


def call_setup(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["/bin/sh", str(folder / "scripts" / "setup"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def scripts_copy(tmp_path: Path) -> Path:
    """A project folder that holds the scripts and nothing else."""
    folder = tmp_path / "a project"
    (folder / "scripts").mkdir(parents=True)
    for name in ("setup", "environment.py"):
        (folder / "scripts" / name).write_text((ROOT / "scripts" / name).read_text())
    return folder


def python_without(module: str) -> Callable[[Path], None]:
    """Makes a python3 that has no such module, as Debian's has none without python3-venv."""

    def make(folder: Path) -> None:
        code = f"import sys; sys.modules[{module!r}] = None\n"
        script = f'#!/bin/sh\nshift 1\nexec {sys.executable} -c "{code}$1"\n'
        (folder / "python3").write_text(script)
        (folder / "python3").chmod(0o755)

    return make


@pytest.mark.parametrize("make", [lambda _: None, python_without("ensurepip")], ids=["no python", "no ensurepip"])
def test_a_machine_without_a_fit_python_is_told_in_one_line(
    scripts_copy: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "dirname").symlink_to("/usr/bin/dirname")
    make(programs)
    result = call_setup(scripts_copy, PATH=str(programs))
    assert result.returncode == 2
    assert result.stderr.startswith("setup: needs Python 3.11 or newer with its venv module")
    assert len(result.stderr.splitlines()) == 1


def test_a_wrong_option_is_told_in_one_line(scripts_copy: Path) -> None:
    result = call_setup(scripts_copy, "all", PATH=os.environ["PATH"], PYTHON=sys.executable)
    assert result.returncode == 2
    assert result.stderr == "setup: usage: scripts/setup [runtime|dev]; got all\n"


def test_every_script_sets_up_by_itself() -> None:
    for name in ("demo", "lungsound", "box", "test", "lint", "coverage", "check", "results", "attack"):
        text = (ROOT / "scripts" / name).read_text()
        assert os.access(ROOT / "scripts" / name, os.X_OK), name
        assert any(each in text for each in ("scripts/setup", "$scripts/lint", '"$scripts/lungsound"')), name


@pytest.mark.parametrize(
    ("pip_audit", "code", "said"),
    [
        ("exit 0", 0, ""),
        ("exit 1", 3, "audit: pip-audit got no answer: NOTHING WAS AUDITED"),
        ('echo "| torch | CVE-1 |" > .venv-audit/report.md; exit 1', 1, "| torch | CVE-1 |"),
    ],
    ids=["nothing known", "no network", "vulnerable"],
)
def test_an_audit_that_could_not_be_made_is_told(tmp_path: Path, pip_audit: str, code: int, said: str) -> None:
    (tmp_path / "scripts").mkdir()
    programs = tmp_path / ".venv-audit" / "bin"
    programs.mkdir(parents=True)
    (programs.parent / "complete").touch()
    (programs / "pip-audit").write_text(f"#!/bin/sh\n{pip_audit}\n")
    (programs / "pip-audit").chmod(0o755)
    shutil.copy(ROOT / "scripts" / "audit", tmp_path / "scripts")
    result = subprocess.run([tmp_path / "scripts" / "audit"], capture_output=True, text=True, check=False)
    assert (result.returncode, (result.stdout + result.stderr).startswith(said)) == (code, True)
