"""The command `lungsound`. Heavy modules are imported when a command runs, so that --help is quick."""

import io
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from lungsound.cli import calibrate, compare, data, experiments, predict, serve, train
from lungsound.cli.shared import NOTICE, print_error
from lungsound.errors import LungsoundError
from lungsound.extras import of_missing

app = typer.Typer(
    help=f"Detect crackles and wheezes in chest recordings. {NOTICE}\n\n"
    "'lungsound predict FILE.wav' predicts a recording with the model in the box.\n\n"
    "Start with 'lungsound demo' to see a training run. With a corpus on disk: 'lungsound data check DIR', then "
    "'lungsound train tiny_patchmix_cl --data DIR --out runs/first', then "
    "'lungsound predict FILE.wav --model runs/first'.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain text, as git and ruff print it: 80 columns on any terminal
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Fetch, check, audit, pack, convert or synthesize a corpus.", no_args_is_help=True)
app.add_typer(data_app, name="data")

COMMANDS: tuple[Callable[..., None], ...] = (
    train.demo,
    train.train,
    train.recipes,
    train.settings,
    predict.models,
    predict.evaluate,
    predict.export,
    predict.predict,
    experiments.reproduce,
    experiments.cross,
    compare.compare,
    compare.power,
    compare.rescore,
    calibrate.calibrate,
    calibrate.operate,
    predict.embed,
    predict.explain,
    serve.serve,
    serve.review,
)
for command in COMMANDS:
    app.command()(command)
study_app = typer.Typer(help="Keep the predictions of runs, and print tables of them.", no_args_is_help=True)
app.add_typer(study_app, name="study")
study_app.command("keep")(experiments.study_keep)
study_app.command("show")(experiments.study_show)
data_app.command("fetch")(data.data_fetch)
data_app.command("check")(data.data_check)
data_app.command("audit")(data.data_audit)
data_app.command("pack")(data.data_pack)
data_app.command("convert")(data.data_convert)
data_app.command("synthesize")(data.data_synthesize)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        print(f"lungsound {version('lungsound')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Run the command. An error that the user can fix is one line and exit code 2; any other is one line and code 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # its encoding may lack characters of file names (cp1252)
    # Read when torch is first imported: threads that spin without end while they wait are many times slower on a busy
    # machine (docs/log.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # Threads that read recordings each take one core already.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        app()
    except LungsoundError as error:
        print_error(str(error))
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        if os.environ.get("LUNGSOUND_DEBUG") == "1":
            raise
        if isinstance(error, ModuleNotFoundError) and (missing := of_missing(error)):
            print_error(str(missing))
            raise SystemExit(missing.exit_code) from None
        if isinstance(error, OSError):
            print_error(f"{error.filename or 'the system'}: {error.strerror or error}; LUNGSOUND_DEBUG=1 shows where")
            raise SystemExit(2) from None
        print_error(f"internal error (bug): {type(error).__name__}: {error}; LUNGSOUND_DEBUG=1 shows where")
        raise SystemExit(1) from None
