"""The command `lungsound`. Everything heavy is imported when a command runs, so that --help is quick."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lungsound.errors import LungsoundError

if TYPE_CHECKING:
    from lungsound.table import Table

NOTICE = "Research software, not a medical device."

app = typer.Typer(
    help=f"Hear crackles and wheezes in chest recordings. {NOTICE}\n\n"
    "Start with 'lungsound demo'. With a corpus on disk: 'lungsound data check DIR', then "
    "'lungsound train tiny_patchmix_cl --data DIR --out runs/first', then 'lungsound predict runs/first FILE.wav'.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at a corpus, or make a synthetic one.", no_args_is_help=True)
app.add_typer(data_app, name="data")
console = Console(markup=False)  # names of files are no markup

DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder of the corpus: ICBHI 2017, SPRSound 2022 or synthetic."),
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. --set train.epochs=5. Repeatable."),
]

AsPublishedOption = Annotated[
    bool, typer.Option("--as-published", help="With the choices of the authors' program (docs/paper.md).")
]


@app.command()
def demo(
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="Folder for corpus, run and report.")] = Path("lungsound-demo"),
    patients: Annotated[int, typer.Option(min=4, help="Patients of the synthetic corpus.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the synthetic corpus and of the training.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of training; default: the recipe's.")] = None,
) -> None:
    """See the whole job in minutes: a corpus, training, a score with an interval, a report, one recording answered.

    Without --data it makes a synthetic corpus. Its score says nothing about real lungs.
    """
    from lungsound.app.demo import run_demo

    run_demo(data, out, num_patients=patients, seed=seed, epochs=epochs, console=console)


@data_app.command("check")
def data_check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the corpus.")],
    split: Annotated[
        str, typer.Option(help="official, fold0 .. fold4, or a file of 'name<TAB>part' lines.")
    ] = "official",
) -> None:
    """Count recordings, cycles, patients and problems, and compare with the published totals.

    Exit code 2 when something is wrong with the corpus.
    """
    from lungsound.data.check import print_check
    from lungsound.data.reader import read_corpus

    corpus = read_corpus(folder, split=split, is_strict=False)
    if not print_check(corpus, console):
        raise typer.Exit(2)


@data_app.command("synthesize")
def data_synthesize(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder.")],
    patients: Annotated[int, typer.Option(min=4, help="Number of patients.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Make lung sounds by program, in ICBHI's own layout, with true annotations."""
    from lungsound.app.demo import synthesize_with_bar

    synthesize_with_bar(folder, num_patients=patients, seed=seed, console=console)
    console.print(f"wrote {folder}; look at it with: lungsound data check {folder}", highlight=False)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name of a recipe (see 'lungsound recipes') or a .toml file.")
    ],
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="New folder for the run.")] = Path("runs/run"),
    settings: SetOption = None,
    as_published: AsPublishedOption = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out where it stopped.")] = False,
) -> None:
    """Train by a recipe, evaluate on the test part, write a report.

    Ctrl-C stops after the step under way and writes a checkpoint; the same command with --resume goes on.
    """
    from lungsound.config import load_config
    from lungsound.recipe import train as train_by_recipe

    overrides = list(settings or []) + ([f"data.root={data.absolute()}"] if data is not None else [])
    config = load_config(recipe, overrides, is_as_published=as_published)
    report = train_by_recipe(config, out, console=console, is_resumed=resume)
    _print_report(report)


@app.command()
def reproduce(
    name: Annotated[str | None, typer.Argument(metavar="TABLE", help="Name of a table, or 'table' for all.")] = None,
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="Folder for runs and tables.")] = Path("runs/tables"),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each row, with seeds 0, 1, ...")] = 5,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of training; default: the recipe's.")] = None,
    settings: SetOption = None,
    as_published: AsPublishedOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the rows; train nothing.")] = False,
) -> None:
    """Train every row of a table of the paper and print it beside the paper's numbers.

    Without a name the tables are listed. Runs that are done are skipped; after Ctrl-C the same command goes on.
    """
    from lungsound.table import WHOLE, load_table, table_names

    if name is None:
        for each in (*table_names(), WHOLE):
            table = load_table(each)
            console.print(f"{each:<14}  {table.title} ({len(table.rows)} rows)", highlight=False, soft_wrap=True)
        return
    table = load_table(name)
    if as_published:
        name, table = f"{name}-as-published", table.as_published()
    every = [*([] if epochs is None else [f"train.epochs={epochs}"]), *(settings or [])]
    if dry_run:
        _print_rows(table, every, seeds)
        return
    from lungsound.app.reproduce import reproduce as reproduce_table
    from lungsound.errors import SettingsError

    if data is None:
        raise SettingsError("no corpus given: name its folder with --data DIR, or list the rows with --dry-run")
    failures = reproduce_table(name, table, data=data, out=out, num_seeds=seeds, settings=every, console=console)
    for failure in failures:
        _print_error(failure)
    if failures:
        raise typer.Exit(2)


@app.command()
def recipes() -> None:
    """List the recipes."""
    from lungsound.config import load_config, recipe_names

    width = max(map(len, recipe_names()))
    for name in recipe_names():
        console.print(f"{name:<{width}}  {load_config(name).description}", highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default: the run's.")] = None,
    device: DeviceOption = None,
) -> None:
    """Evaluate a run again on its test part, or with --data on another corpus; write predictions and report."""
    from lungsound.scoring import evaluate as evaluate_run

    _print_report(evaluate_run(run, data_root=data, out_dir=out, device=device, console=console))


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run, or its model.safetensors.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Sound files.")],
    device: DeviceOption = None,
) -> None:
    """Answer for recordings: by breathing cycle when an annotation lies beside one, else by windows."""
    from lungsound.app.demo import print_answers
    from lungsound.app.predictor import Predictor

    predictor = Predictor.load(run, device=device or "cpu")
    failures = []
    for path in files:
        try:
            answers = predictor.predict(path)
        except LungsoundError as error:
            failures.append(str(error))
        else:
            is_annotated = predictor.annotated_spans(path) is not None
            print_answers(f"{path.name}, by {'annotated cycle' if is_annotated else 'window'}", answers, console)
    console.print(f"Probabilities are not calibrated. {NOTICE}", highlight=False)
    for failure in failures:
        _print_error(failure)
    if failures:
        raise typer.Exit(2)


def main() -> None:
    """Run the command. What a user can mend gives one line and exit code 2, any other exception one and exit code 1."""
    # Read when torch is first imported: threads that spin without end while they wait are many times slower on a busy
    # machine (docs/log.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    try:
        app()
    except LungsoundError as error:
        _print_error(str(error))
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        if os.environ.get("LUNGSOUND_DEBUG") == "1":
            raise
        _print_error(f"{error.filename or 'the system'}: {error.strerror or error}; LUNGSOUND_DEBUG=1 shows where")
        raise SystemExit(2) from None
    except Exception as error:
        if os.environ.get("LUNGSOUND_DEBUG") == "1":
            raise
        _print_error(f"a mistake of lungsound's own: {type(error).__name__}: {error}; LUNGSOUND_DEBUG=1 shows where")
        raise SystemExit(1) from None


def _print_rows(table: "Table", settings: list[str], num_seeds: int) -> None:
    """Each row with the command that trains it alone, with seed 0."""
    table.check(settings)
    console.print(f"{table.title}: {len(table.rows)} rows x {num_seeds} seeds", highlight=False)
    for row in table.rows:
        score = "" if row.paper is None else f"  # paper: {row.paper.score:.2f}"
        console.print(
            f"{row.name}\n    lungsound train {row.command(settings)}{score}", highlight=False, soft_wrap=True
        )


def _print_report(report: Path) -> None:
    from lungsound.evaluation.report import first_lines

    for line in first_lines(report):
        console.print(line, highlight=False)
    console.print(f"report: {report}", highlight=False, soft_wrap=True)


def _print_error(message: str) -> None:
    print(f"lungsound: {' '.join(message.splitlines())}", file=sys.stderr)
