"""`lungsound rescore`: every metric in use, from predictions or a confusion matrix."""

from pathlib import Path
from typing import Annotated, Literal

from lungsound.cli.shared import NOTICE, SeedOption, argument, console, flag, option, print_table, print_warnings


def rescore(
    file: Annotated[Path, argument("FILE", "Predictions (CSV), a confusion matrix (CSV, JSON), or a run folder.")],
    out: Annotated[Path | None, option("DIR", "Folder for rescore.md, rescore.html and rescore.json.")] = None,
    classes: Annotated[str | None, option("A,B,...", "Classes as the file writes them, the normal one first.")] = None,
    part: Annotated[list[str] | None, option("NAME", "Part of the split to score. Repeatable.  [default: all]")] = None,
    epoch: Annotated[
        Literal["last", "validation", "test", "unknown"] | None,
        option("EPOCH", "Epoch of the predictions: last, validation or test (the best epoch on it), or unknown."),
    ] = None,
    seed: SeedOption = 0,
    label: Annotated[str | None, option("COLUMN", "Column with the true class.")] = None,
    predicted: Annotated[str | None, option("COLUMN", "Column with the predicted class.")] = None,
    probability: Annotated[
        list[str] | None, option("CLASS=COLUMN", "Column with the probability of a class. Repeatable.")
    ] = None,
    patient: Annotated[
        str | None, option("COLUMN", "Column with the patient; without it there are no intervals.")
    ] = None,
    part_column: Annotated[str | None, option("COLUMN", "Column with the part of the split.")] = None,
    transposed: Annotated[bool, flag("--transposed", "Rows of the confusion matrix are predicted classes.")] = False,
    counts: Annotated[
        bool, flag("--counts", "Read rows or columns that sum to 100 as counts, not as percentages.")
    ] = False,
) -> None:
    """Compute every published metric, from predictions or counts.

    Prints each with its interval over patients and the published column that it is comparable with.

    FILE is a predictions file of lungsound, a run folder, a CSV with a row per cycle whose columns are named by --label
    and --predicted or --probability, or a confusion matrix with a row per true class: CSV with the classes in its first
    line and column, or JSON as in report.json. Files may be compressed (.gz).
    """
    from lungsound.evaluation import rescore as evaluation
    from lungsound.evaluation.bootstrap import Bootstrap
    from lungsound.evaluation.rescore_files import ReadOptions, file_of_run, parse_probabilities, read_parts
    from lungsound.evaluation.runs import KEPT, epoch_of_file

    options = ReadOptions(
        label=label,
        predicted=predicted,
        probabilities=parse_probabilities(probability or []),
        patient=patient,
        part=part_column,
        classes=[name.strip() for name in classes.split(",")] if classes else (),
        is_transposed=transposed,
        are_counts=counts,
    )
    if file.is_dir():
        file = file_of_run(file, KEPT if epoch in (None, "unknown") else epoch)
    chosen = epoch or epoch_of_file(file)
    results = []
    for of_part in read_parts(file, options, part or []):
        result = evaluation.rescore(of_part, epoch=chosen, bootstrap=Bootstrap(seed))
        results.append(result)
        if result.part:
            console.print(f"Part {result.part}", style="bold")
        console.print(evaluation.summary(result))
        print_warnings(evaluation.reader_warnings(result))
        for note in of_part.notes:
            console.print(f"  {note}")
        rows = [(f"{metric.name}\n  {metric.definition}", metric.text, metric.beside) for metric in result.metrics]
        for each in result.per_class:
            cycles = f"{each.num_cycles} cycles, predicted {each.num_answered} times"
            title = f"Recall of {each.name}\n  {cycles}; precision {of_part.text(each.precision)}"
            rows.append((title, of_part.text(each.recall), "same class, same cycles"))
        print_table(("metric", "value", "may stand beside"), rows)
        for note in evaluation.resample_notes(result):
            console.print(f"  {note}")
    console.print(NOTICE)
    if out is not None:
        console.print(f"page: {evaluation.write_rescore(out, file, results)}", soft_wrap=True)
