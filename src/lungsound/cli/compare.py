"""`lungsound compare`: which of two methods is better; `lungsound power`: how many patients it takes to tell."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from lungsound.cli.shared import NOTICE, console
from lungsound.files import short_names

if TYPE_CHECKING:
    from lungsound.evaluation.bootstrap import Spread
    from lungsound.evaluation.compare import Comparison
    from lungsound.evaluation.power import PatientsNeeded


DEFAULT_POINTS = (1.0, 2.0, 3.0, 5.0, 10.0)
# Somewhat less than between runs of ours: median 0.57 over 40 pairs on ICBHI and SPRSound, half of them 0.47 to 0.74.
CORRELATION = 0.5


class Epoch(StrEnum):
    """Which epoch's answers are taken."""

    KEPT = "kept"
    LAST = "last"
    VALIDATION = "validation"
    TEST = "test"


EpochOption = Annotated[Epoch, typer.Option(help="Answers of the kept epoch, the last, or that chosen on a part.")]
CommonOption = Annotated[bool, typer.Option("--common", help="Leave out cycles that only one of them was tested on.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print all numbers as JSON instead of the table.")]
RUN_HELP = "Run folder, predictions file, or a folder of runs seed0, seed1, ..."


def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help=RUN_HELP)],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="The same, of the other method.")],
    epoch: EpochOption = Epoch.KEPT,
    common: CommonOption = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for compare.md, .html, .json and pictures; default: no files.")
    ] = None,
    is_json: JsonOption = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
) -> None:
    """Is A better than B on the same test cycles? Difference with interval over patients and seeds, permutation test.

    A verdict for each part of the test: "A is better by ..." or "not distinguishable".
    """
    from lungsound.evaluation.compare import compare_runs, epoch_warnings, read_runs
    from lungsound.evaluation.compare_report import comparison_json

    first, second = (read_runs(path, epoch.value) for path in (run_a, run_b))
    names = _names(run_a, run_b)
    comparisons = compare_runs(first.runs, second.runs, names=names, is_common_only=common, seed=seed)
    warnings = epoch_warnings(first, second)
    numbers = comparison_json(comparisons) | {"warnings": warnings, "epoch": epoch.value, "seed": seed}
    if is_json:
        print(json.dumps(numbers, indent=1, allow_nan=False))
    else:
        _print_warnings(warnings)
        for comparison in comparisons:
            _print_comparison(comparison)
        console.print(f"Scores in percent, differences in points, intervals over patients. {NOTICE}", highlight=False)
    if out is not None:
        _write(out, comparisons, numbers, warnings)
        if not is_json:
            console.print(f"page: {out / 'compare.html'}", highlight=False, soft_wrap=True)


def power(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help=RUN_HELP)],
    run_b: Annotated[Path | None, typer.Argument(metavar="[RUN_B]", help="The same, of the other method.")] = None,
    difference: Annotated[
        list[float] | None,
        typer.Option(help="Points of Score to be found. Repeatable. [default: 1, 2, 3, 5, 10]"),
    ] = None,
    wanted_power: Annotated[
        float, typer.Option("--power", min=0.5, max=0.999, help="Share of studies that are to find it.")
    ] = 0.8,
    correlation: Annotated[
        float | None,
        typer.Option(help=f"Without RUN_B: how alike two methods do on a patient. [default: {CORRELATION}]"),
    ] = None,
    epoch: EpochOption = Epoch.KEPT,
    common: CommonOption = False,
    is_json: JsonOption = False,
) -> None:
    """How many patients does it take to find a difference of Scores? At 5 %, two-sided, on patients like these.

    From two methods' answers on the same cycles, or from one's and an assumed correlation.
    """
    from lungsound.evaluation.power import degrees_share, detectable, plan

    points = difference or DEFAULT_POINTS
    found = []
    spreads, warnings = _spreads(run_a, run_b, epoch, correlation, is_common_only=common)
    if not is_json:
        _print_warnings(warnings)
    for part, spread, scale in spreads:
        needed = plan(spread, [point / 100 for point in points], scale=scale, power=wanted_power)
        num_patients = len(spread.influences)
        least = detectable(
            scale * spread.patient_sd,
            num_patients,
            degrees_share=degrees_share(spread),
            seed_variance=spread.seed_variance,
            power=wanted_power,
        )
        found.append(_power_json(part, num_patients, least, needed))
        if not is_json:
            _print_power(found[-1], wanted_power)
    if is_json:
        said = {"format": "lungsound power 1", "power": wanted_power, "warnings": warnings, "parts": found}
        print(json.dumps(said, indent=1))
        return
    basis = "from the two methods' answers" if run_b else f"two methods that correlate {correlation or CORRELATION:g}"
    console.print(
        f"At 5 %, two-sided, {basis}; in brackets for the interval of how patients differ. {NOTICE}", highlight=False
    )


def _spreads(
    run_a: Path, run_b: Path | None, epoch: Epoch, correlation: float | None, *, is_common_only: bool
) -> "tuple[list[tuple[str, Spread, float]], list[str]]":
    """For each part of the test its name, what a Score or a difference varies with, and the deviation's factor.

    Then what to warn of.
    """
    import numpy as np

    from lungsound.errors import SettingsError
    from lungsound.evaluation.bootstrap import patient_confusions
    from lungsound.evaluation.compare import compare_runs, epoch_warnings, read_runs
    from lungsound.evaluation.power import scale_of_two, score_spread

    first = read_runs(run_a, epoch.value)
    runs, warnings = first.runs, list[str]()
    spreads: list[tuple[str, Spread | None, float]] = []
    if run_b is not None:
        if correlation is not None:
            raise SettingsError("--correlation stands for a second method: leave it out, or leave out RUN_B")
        second = read_runs(run_b, epoch.value)
        names, warnings = _names(run_a, run_b), epoch_warnings(first, second)
        comparisons = compare_runs(runs, second.runs, names=names, is_common_only=is_common_only, num_draws=1)
        spreads += [(each.part, each.spread, 1.0) for each in comparisons]
    else:
        scale = scale_of_two(CORRELATION if correlation is None else correlation)
        for part in sorted(set(runs[0].parts)):
            counts = np.stack([patient_confusions(run.of_part(part)) for run in runs])
            spreads.append((part, score_spread(counts) if counts.shape[1] > 1 else None, scale))
    if any(spread is None for _, spread, _ in spreads):
        raise SettingsError("a part of the test has one patient: how patients differ cannot be seen")
    return [(part, spread, scale) for part, spread, scale in spreads if spread is not None], warnings


def _names(run_a: Path, run_b: Path) -> tuple[str, str]:
    """What A and B are called."""
    first, second = short_names([run_a, run_b])
    return ("A", "B") if first == second else (first, second)


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        console.print(f"! {warning}", style="yellow", highlight=False)


def _print_comparison(comparison: "Comparison") -> None:
    from lungsound.evaluation.compare_report import HEAD, comparison_rows, remarks, summary, verdict

    console.print(f"A: {comparison.names[0]}   B: {comparison.names[1]}   ({summary(comparison)})", highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in HEAD:
        table.add_column(name)
    for row in comparison_rows(comparison):
        table.add_row(*map(Text, row))
    console.print(table)
    console.print(verdict(comparison), style="bold", highlight=False)
    for remark in remarks(comparison):
        console.print(f"! {remark}", style="yellow", highlight=False)
    console.print()


def _power_json(part: str, num_patients: int, least: float, needed: "Sequence[PatientsNeeded]") -> dict[str, Any]:
    rows = [
        {"points": round(100 * row.difference, 6), "num_patients": row.num_patients, "low": row.low, "high": row.high}
        for row in needed
    ]
    return {"part": part, "num_patients": num_patients, "detectable_points": 100 * least, "needed": rows}


def _print_power(found: dict[str, Any], wanted_power: float) -> None:
    where = f"{found['part']}: " if found["part"] else ""
    console.print(
        f"{where}these {found['num_patients']} patients find {found['detectable_points']:.1f} points or more with a "
        f"power of {100 * wanted_power:g} %",
        highlight=False,
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("difference, points", justify="right")
    table.add_column("patients needed", justify="right")
    for row in found["needed"]:
        low, high = (row[name] or "no number" for name in ("low", "high"))
        table.add_row(f"{row['points']:g}", f"{row['num_patients'] or 'no number'} ({low} to {high})")
    console.print(table)


def _write(out: Path, comparisons: "Sequence[Comparison]", numbers: dict[str, Any], warnings: Sequence[str]) -> None:
    from lungsound.evaluation.compare_report import comparison_blocks, draw_comparison
    from lungsound.files import write_text
    from lungsound.page import write_page

    out.mkdir(parents=True, exist_ok=True)
    pictures = [out / f"compare-{number}.png" for number in range(len(comparisons))]
    for comparison, picture in zip(comparisons, pictures, strict=True):
        draw_comparison(comparison, picture)
    first, second = comparisons[0].names
    write_page(out / "compare", f"{first} against {second}", comparison_blocks(comparisons, pictures, warnings))
    write_text(out / "compare.json", json.dumps(numbers, indent=1, allow_nan=False) + "\n")
