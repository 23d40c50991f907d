"""The command line: what it says of itself, and how mistakes leave it. Runs are in tests/integration."""

import io
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import lungsound
from lungsound.cli import main as cli
from lungsound.cli.shared import PlainConsole, print_error
from lungsound.config import load_config, recipe_names
from lungsound.errors import DataError, SettingsError
from lungsound.experiments.reproduce import plan_runs
from lungsound.experiments.table import WHOLE, load_table, table_names
from lungsound.page import terminal_table
from lungsound.training.trainer import RunInterrupted

COMMANDS = {
    "demo": ["--data", "--out", "--patients", "--seed", "--epochs"],
    "train": ["RECIPE", "--data", "--out", "--set", "--as-published", "--resume"],
    "reproduce": ["TABLE", "--data", "--out", "--seeds", "--epochs", "--set", "--as-published", "--dry-run"],
    "evaluate": ["RUN", "--data", "--out"],
    "export": ["RUN", "--data", "--num-cycles"],
    "predict": ["PATH", "--model", "--engine", "--format", "--out", "--device"],
    "embed": ["PATH", "--model", "--data", "--out", "--device"],
    "explain": ["PATH", "--model", "--out", "--device"],
    "serve": ["--model", "--host", "--port", "--device"],
    "review": ["DIR", "--model", "--device"],
    "recipes": [],
    "models": [],
    "study keep": ["RUN", "DIR", "--column"],
    "data check": ["DIR", "--split"],
    "data synthesize": ["DIR", "--patients", "--seed"],
}


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def call_main(*arguments: str) -> int:
        monkeypatch.setenv("COLUMNS", "160")
        monkeypatch.setattr(sys, "argv", ["lungsound", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        code = exit_.value.code
        assert isinstance(code, int)
        return code

    return call_main


def test_help_lists_the_commands_and_where_to_start(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--help") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert all(command.split()[0] in out for command in COMMANDS)
    assert "Start with 'lungsound demo'" in out
    assert "not a medical device" in out


def test_each_command_explains_its_options(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for command, options in COMMANDS.items():
        assert call(*command.split(), "--help") == 0
        out = capsys.readouterr().out.lower()
        assert [option for option in options if option.lower() not in out] == [], command


def test_recipes_are_listed_with_what_they_are_for(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("recipes") == 0
    out = " ".join(capsys.readouterr().out.split())
    places = [out.find(f"{name} {' '.join(load_config(name).description.split())}") for name in recipe_names()]
    assert places == sorted(places)
    assert places[0] == 0


def test_wrong_usage_ends_with_2(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("nonsense", "train", "predict", "demo --patients 3", "train demo --sed=1"):
        assert call(*words.split()) == 2, words
        error = capsys.readouterr().err
        assert "Usage" in error
        assert "Traceback" not in error


def test_an_error_is_one_line_on_stderr_and_an_exit_code(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = "internal error (bug): ZeroDivisionError: division by zero; LUNGSOUND_DEBUG=1 shows where"
    for error, code, message in (
        (DataError("a.wav is broken"), 2, "a.wav is broken"),
        (SettingsError("two\nlines"), 2, "two lines"),
        (RunInterrupted("stopped"), 130, "stopped"),
        (ZeroDivisionError("division by zero"), 1, bug),
    ):

        def fail(error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(cli, "app", fail)
        assert call() == code
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", f"lungsound: {message}\n")


def test_the_version_is_printed(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"lungsound {lungsound.__version__}\n"


def test_a_name_that_the_terminal_cannot_hold_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", newline="")
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(cli, "app", lambda: sys.exit(print("caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{SNOWMAN}.wav")))
    with pytest.raises(SystemExit):
        cli.main()
    shown.flush()
    assert shown.buffer.getvalue() == b"caf\xe9 \\u2603.wav\n"


def test_a_name_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[31mred\x1b]0;title\u202efile.wav"
    printed = io.StringIO()
    console = PlainConsole(file=printed, width=200, force_terminal=True, markup=False, highlight=False)
    console.print(name, style="bold")
    console.print(terminal_table(("name",), [(name,)], num_texts=1))
    print_error(f"{name}: cannot be read")
    for text in (printed.getvalue(), capsys.readouterr().err):
        assert "\x1b[31m" not in text
        assert "\x1b]0" not in text
        assert "\u202e" not in text
        assert r"a\x1b[31mred\x1b]0;title\u202efile.wav" in text


def test_a_mistake_of_ours_is_shown_whole_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setenv("LUNGSOUND_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_synthesize_then_check(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quick(root: Path, *, num_patients: int, seed: int, on_progress: Callable[[int, int], None]) -> None:
        root.mkdir()
        (root / "made").write_text(f"{num_patients} {seed}")
        on_progress(1, 1)

    monkeypatch.setattr("lungsound.data.synthetic.synthesize", quick)
    assert call("data", "synthesize", str(tmp_path / "new"), "--patients", "5", "--seed", "7") == 0
    assert (tmp_path / "new" / "made").read_text() == "5 7"
    assert "lungsound data check" in capsys.readouterr().out


HEAVY = [
    *(
        "torch",
        "numpy",
        "soundfile",
        "safetensors",
        "lungsound.config",
        "matplotlib",
        "jinja2",
        "tensorboardX",
        "filelock",
    ),
    *("scipy", "transformers", "onnx", "onnxruntime", "openvino", "python_stretch", "asyncio"),
]
MAX_MODULES = 520  # 327 to 440 with Python 3.11; typer loads pydantic when a parameter is a Literal


@pytest.mark.parametrize("arguments", [[], ["data"], ["train"]], ids=lambda words: " ".join(words) or "root")
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from lungsound.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as done:\n    assert not done.code\n"
        f"found = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "sys.exit(f'{len(sys.modules)} {found}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--help"], capture_output=True, text=True, check=False
    )
    num_modules, heavy = done.stderr.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert int(num_modules) <= MAX_MODULES


def test_python_m_lungsound_is_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import runpy

    assert isinstance(cli, ModuleType)
    monkeypatch.setattr(sys, "argv", ["lungsound", "recipes"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module("lungsound", run_name="__main__")
    assert exit_.value.code == 0
    assert "patchmix_cl" in capsys.readouterr().out


def test_reproduce_without_a_name_lists_the_tables(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("reproduce") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*table_names(), WHOLE]


def test_a_dry_run_lists_every_row_with_its_recipe(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("reproduce", WHOLE, "--dry-run") == 0
    printed = capsys.readouterr().out
    for row in load_table(WHOLE).rows:
        assert f"{row.name}\n    lungsound train {row.recipe}" in printed


def test_a_dry_run_prints_commands_that_work_as_they_are(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each of them is the run that the table makes with seed 0, in the folder in which it looks for that."""
    data, out, settings = tmp_path / "a corpus", tmp_path / "out", ("train.epochs=2",)
    given = ("--data", str(data), "--out", str(out), "--epochs", "2")
    assert call("reproduce", "devices", "--dry-run", *given) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = [shlex.split(line, comments=True) for line in printed if line.startswith("    lungsound train ")]
    planned = plan_runs(load_table("devices"), data=[data], out=out, num_seeds=1, settings=settings)
    assert any(run.row.after for run in planned)
    for words, run in zip(lines, planned, strict=True):
        options = list(zip(words[3::2], words[4::2], strict=True))
        overrides = [value for name, value in options if name == "--set"]
        assert dict(options)["--out"] == str(run.folder)
        assert load_config(words[2], [*overrides, f"data.root={dict(options)['--data']}"]) == run.config
