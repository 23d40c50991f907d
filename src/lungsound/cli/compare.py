"""`lungsound compare` and `power`: the difference of two methods, patients to find one; `rescore`: every metric."""

from pathlib import Path
from typing import Annotated, Literal

from lungsound.cli.shared import NOTICE, SeedOption, argument, console, flag, option, print_table, print_warnings
from lungsound.files import short_names, to_json

POWER_FORMAT = "lungsound power 1"
DEFAULT_POINTS = (1.0, 2.0, 3.0, 5.0, 10.0)
# Somewhat less than between runs of ours: median 0.57 over 40 pairs on ICBHI and SPRSound, half of them 0.47 to 0.74.
CORRELATION = 0.5
EpochOption = Annotated[
    Literal["kept", "last", "validation", "test"],
    option("EPOCH", "kept (the model's epoch), last, or validation or test (the best epoch on it)."),
]
CommonOption = Annotated[bool, flag("--common", "Leave out cycles that only one method was tested on.")]
JsonOption = Annotated[bool, flag("--json", "Print all numbers as JSON instead of a table.")]
RUN_HELP = "Run folder, predictions file, or a folder of runs seed0, seed1, ..."


def compare(
    run_a: Annotated[Path, argument("RUN_A", RUN_HELP)],
    run_b: Annotated[Path, argument("RUN_B", "The same for the other method.")],
    epoch: EpochOption = "kept",
    common: CommonOption = False,
    out: Annotated[Path | None, option("DIR", "Folder for compare.md, compare.html, compare.json, pictures.")] = None,
    is_json: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Compare two methods on the same test cycles.

    Prints the difference of each metric with its interval over patients and seeds, a permutation test, and a verdict
    for each part of the test set and for the mean of the parts: "A is better by ..." or "not distinguishable". Runs of
    the same seed are compared with each other.
    """
    from lungsound.evaluation import compare as evaluation
    from lungsound.evaluation.bootstrap import Bootstrap
    from lungsound.evaluation.runs import epoch_warnings, read_runs

    (first, second), names = (read_runs(path, epoch) for path in (run_a, run_b)), _names(run_a, run_b)
    comparisons = evaluation.compare_methods(
        first, second, names=names, is_common_only=common, bootstrap=Bootstrap(seed)
    )
    warnings = epoch_warnings(first, second)
    numbers = evaluation.comparison_json(comparisons) | {"warnings": warnings, "epoch": epoch, "seed": seed}
    if is_json:
        print(to_json(numbers, indent=1))
    else:
        print_warnings(warnings)
        for each in comparisons:
            console.print(f"A: {names[0]}   B: {names[1]}   ({evaluation.summary(each)})")
            print_table(evaluation.HEAD, evaluation.comparison_rows(each))
            console.print(evaluation.verdict(each), style="bold")
            print_warnings(evaluation.remarks(each))
            console.print()
        console.print(f"Scores in percent, differences in points, intervals over patients. {NOTICE}")
    if out is not None:
        page = evaluation.write_comparison(out, comparisons, numbers, warnings)
        if not is_json:
            console.print(f"page: {page}", soft_wrap=True)


def power(
    run_a: Annotated[Path, argument("RUN_A", RUN_HELP)],
    run_b: Annotated[Path | None, argument("RUN_B", "The same for the other method.")] = None,
    difference: Annotated[
        list[float] | None,
        option("POINTS", "Difference of Scores to detect, in points. Repeatable.  [default: 1, 2, 3, 5, 10]"),
    ] = None,
    wanted_power: Annotated[
        float, option("SHARE", "Probability of detecting the difference.", "--power", min=0.5, max=0.999)
    ] = 0.8,
    correlation: Annotated[
        float | None,
        option("R", f"Correlation of the two methods over patients, if RUN_B is not given.  [default: {CORRELATION}]"),
    ] = None,
    epoch: EpochOption = "kept",
    common: CommonOption = False,
    is_json: JsonOption = False,
) -> None:
    """Estimate how many patients a comparison needs.

    The comparison is a two-sided test of the difference of Scores at the 5 % level. How much patients vary is taken
    from the predictions of two methods on the same cycles, or from those of one method and an assumed correlation.
    """
    from lungsound.errors import SettingsError
    from lungsound.evaluation.compare import on_same_cycles
    from lungsound.evaluation.power import plan_like_runs
    from lungsound.evaluation.runs import epoch_warnings, read_runs

    if run_b is not None and correlation is not None:
        raise SettingsError("--correlation stands for a second method: leave it out, or leave out RUN_B")
    correlation = CORRELATION if correlation is None else correlation
    first, warnings = read_runs(run_a, epoch), []
    sides = [list(first.runs)]
    if run_b is not None:
        second = read_runs(run_b, epoch)
        sides = on_same_cycles(first.runs, second.runs, _names(run_a, run_b), is_common_only=common)
        warnings = epoch_warnings(first, second)
    differences = [points / 100 for points in difference or DEFAULT_POINTS]
    plans = plan_like_runs(sides, differences, correlation=correlation, power=wanted_power)
    if is_json:
        parts = [
            {
                "part": plan.part,
                "num_patients": plan.num_patients,
                "detectable_points": 100 * plan.detectable,
                "needed": [
                    {"points": round(100 * each, 6), "num_patients": num_patients, "low": low, "high": high}
                    for each, (num_patients, low, high) in plan.needed.items()
                ],
            }
            for plan in plans
        ]
        print(to_json({"format": POWER_FORMAT, "power": wanted_power, "warnings": warnings, "parts": parts}, indent=1))
        return
    print_warnings(warnings)
    for plan in plans:
        console.print(
            f"{plan.part + ': ' if plan.part else ''}these {plan.num_patients} patients detect "
            f"{100 * plan.detectable:.1f} points or more with a power of {100 * wanted_power:g} %"
        )
        rows = []
        for each, sizes in plan.needed.items():
            num_patients, low, high = (number or "over a million" for number in sizes)
            rows.append((f"{100 * each:g}", f"{num_patients} ({low} to {high})"))
        print_table(("difference, points", "patients needed"), rows)
    basis = "from the two methods' predictions" if run_b else f"two methods that correlate {correlation:g}"
    console.print(f"At 5 %, two-sided, {basis}; in brackets for the interval of the spread between patients. {NOTICE}")


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
        print_table(("metric", "value", "comparable with"), rows)
        for note in evaluation.resample_notes(result):
            console.print(f"  {note}")
    console.print(NOTICE)
    if out is not None:
        console.print(f"page: {evaluation.write_rescore(out, file, results)}", soft_wrap=True)


def _names(run_a: Path, run_b: Path) -> tuple[str, str]:
    first, second = short_names([run_a, run_b])
    return ("A", "B") if first == second else (first, second)
