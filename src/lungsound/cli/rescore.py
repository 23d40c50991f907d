"""`lungsound rescore`: every metric in use, of anyone's predictions or confusion matrix."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lungsound.cli.shared import NOTICE, console

if TYPE_CHECKING:
    from lungsound.evaluation.rescore import Rescored
    from lungsound.evaluation.rescore_files import Answers, Tally


NUM_SHOWN_SCORES = 3
INDENT = (0, 0, 0, 2)


class Epoch(StrEnum):
    """How the epoch was chosen that the answers come from."""

    LAST = "last"
    VALIDATION = "validation"
    TEST = "test"
    UNKNOWN = "unknown"


OutOption = Annotated[
    Path | None, typer.Option(help="Folder for rescore.md, rescore.html and rescore.json; default: no files.")
]
ClassesOption = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="The classes, in the order of the file's indices or rows.")
]
NormalOption = Annotated[str | None, typer.Option(metavar="NAME", help="Which class is the normal one.")]
TransposedOption = Annotated[
    bool, typer.Option("--transposed", help="The rows of the matrix are the answers, not the true classes.")
]
CountsOption = Annotated[
    bool, typer.Option("--counts", help="The matrix holds counts, although each row (or column) sums to 100.")
]
ColumnOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Where it is not found by itself.", rich_help_panel="Columns of a table"),
]
PartOption = Annotated[
    list[str] | None, typer.Option(help="Count this part of the split only. Repeatable: counted together.")
]
EpochOption = Annotated[
    Epoch | None, typer.Option(help="How the epoch of the answers was chosen; of a run folder, which epoch to take.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the resamples behind the intervals.")]


def rescore(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Predictions (CSV, TSV), a confusion matrix, or a run folder.")
    ],
    out: OutOption = None,
    classes: ClassesOption = None,
    normal: NormalOption = None,
    transposed: TransposedOption = False,
    counts: CountsOption = False,
    label_column: ColumnOption = None,
    answer_column: ColumnOption = None,
    patient_column: ColumnOption = None,
    recording_column: ColumnOption = None,
    part_column: ColumnOption = None,
    part: PartOption = None,
    epoch: EpochOption = None,
    seed: SeedOption = 0,
) -> None:
    """Every metric in use, with intervals over patients and the published column that each may stand beside.

    FILE is a table with a row per cycle: columns label (y_true, target) and answer (y_pred, prediction) and, if there
    are such, patient or recording, part, a probability for each class (p_normal, ...). Or it is a confusion matrix of
    counts: CSV, TSV, JSON or plain text, rows the true class, with or without names. Of a run folder it is
    predictions.csv, or with --epoch the answers of that epoch. All of them may be compressed (.gz).
    """
    from lungsound.evaluation.compare import epoch_of_file
    from lungsound.evaluation.rescore import rescore as rescore_tally
    from lungsound.evaluation.rescore_files import Reading, read_answer_file

    roles = ("label", "answer", "patient", "recording", "part")
    columns = (label_column, answer_column, patient_column, recording_column, part_column)
    reading = Reading(
        columns={role: name for role, name in zip(roles, columns, strict=True) if name is not None},
        classes=[name.strip() for name in classes.split(",")] if classes else (),
        normal=normal,
        is_transposed=transposed,
        are_counts=counts,
    )
    file = _file_in(file, epoch) if file.is_dir() else file
    found = read_answer_file(file, reading)
    chosen = epoch.value if epoch is not None else epoch_of_file(file)
    results = [rescore_tally(tally, epoch=chosen, seed=seed) for tally in _tallies(file, found, part or [])]
    for result in results:
        _print(result)
    console.print(NOTICE, highlight=False)
    if out is not None:
        _write(out, file, results)


def _file_in(folder: Path, epoch: Epoch | None) -> Path:
    """The predictions file of a run folder, of the epoch that was asked for."""
    from lungsound.errors import DataError
    from lungsound.evaluation.compare import KEPT, files_of

    files = files_of(folder, KEPT if epoch is None or epoch is Epoch.UNKNOWN else epoch.value)
    if len(files) > 1:
        raise DataError(f"{folder} holds {len(files)} runs: rescore reads one, {files[0]} say")
    return files[0]


def _tallies(file: Path, found: "Answers | Tally", wanted: Sequence[str]) -> "list[Tally]":
    """The wanted parts as one, else each part by itself."""
    from lungsound.errors import DataError
    from lungsound.evaluation.rescore_files import Answers

    parts = found.part_names() if isinstance(found, Answers) else ()
    for name in wanted:
        if name not in parts:
            there = ", ".join(filter(None, parts)) or "no parts"
            raise DataError(f"{file} has no part {name!r}; it has {there}: leave out --part, or give --part-column")
    if not isinstance(found, Answers):
        return [found]
    return [found.tally(wanted)] if wanted else [found.tally([name]) for name in parts]


def _print(result: "Rescored") -> None:
    """One table for the terminal, after what a reader must know first."""
    from lungsound.evaluation.rescore import summary

    if result.part:
        console.print(f"Part {result.part}", style="bold", highlight=False)
    console.print(summary(result), highlight=False)
    for warning in result.warnings:
        console.print(f"! {warning}", style="yellow", highlight=False)
    for note in result.notes:
        console.print(f"  {note}", highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name, width in (("metric", None), ("value", 22), ("may stand beside", 30)):
        table.add_column(name, max_width=width, no_wrap=name == "value")
    for line in result.lines:
        style = "bold" if line.is_beside_published else ""
        metric = Group(Text(line.name, style=style), Padding(Text(line.definition, style="dim"), INDENT))
        table.add_row(metric, Text(line.text, style=style), Text(line.beside))
    for each in result.per_class:
        counts = f"{each.num_cycles} cycles, answered {each.num_answered} times; precision {each.precision.text()}"
        recall = Group(Text(f"Recall of {each.name}"), Padding(Text(counts, style="dim"), INDENT))
        table.add_row(recall, Text(each.recall.text()), Text("same class, same cycles"))
    console.print(table)
    for note in result.resample_notes:
        console.print(f"  {note}", highlight=False)
    _print_published(result)


def _print_published(result: "Rescored") -> None:
    """The best published numbers of each task, and those that do not belong beside them."""
    beside = [score for score in result.published if score.not_comparable is None and score.score is not None]
    for task in dict.fromkeys(score.task for score in beside):
        best = sorted((s for s in beside if s.task == task), key=lambda s: -(s.score or 0.0))
        ours = result.value_beside(best[0]).text()
        shown = ", ".join(f"{score.name} {score.score:.2f}" for score in best[:NUM_SHOWN_SCORES])
        more = f" and {len(best) - NUM_SHOWN_SCORES} more (see --out)" if len(best) > NUM_SHOWN_SCORES else ""
        console.print(f"Published, {task}: {shown}{more}. This file: {ours}.", highlight=False)
    for score in result.published:
        if score.not_comparable is not None:
            console.print(f"Not beside {score.name}: {score.not_comparable}.", highlight=False)


def _write(out: Path, file: Path, results: "Sequence[Rescored]") -> None:
    from lungsound.evaluation.rescore import rescore_blocks, rescore_json
    from lungsound.files import write_text
    from lungsound.page import write_page

    title, blocks = f"Every metric of {file.name}", rescore_blocks(results)
    text = json.dumps(rescore_json(results, source=str(file)), indent=1, allow_nan=False)
    write_page(out / "rescore", title, blocks)
    write_text(out / "rescore.json", text + "\n")
    console.print(f"page: {out / 'rescore.html'}", highlight=False, soft_wrap=True)
