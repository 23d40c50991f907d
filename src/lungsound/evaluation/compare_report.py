"""A comparison as a verdict, a table, a picture and a page: the output of `lungsound compare`."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lungsound.evaluation.bootstrap import FEW_PATIENTS
from lungsound.evaluation.compare import MAX_EXACT_PATIENTS, NUM_PERMUTATIONS, Comparison, Difference
from lungsound.evaluation.figures import BLUE, GREY, ORANGE, picture
from lungsound.files import write_json
from lungsound.page import fill, write_page

HEAD = ("value", "A", "B", "A minus B", "p", "effect", "for A, B")
FORMAT = "lungsound comparison 1"


def write_comparison(
    folder: Path, comparisons: Sequence[Comparison], numbers: dict[str, Any], warnings: Sequence[str]
) -> Path:
    """Write compare.md, compare.html, compare.json (`numbers`) and a picture for each part; the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, comparison in enumerate(comparisons):
        draw_comparison(comparison, folder / f"compare-{index}.png")
    first, second = comparisons[0].names
    sentences = {"verdict": verdict, "summary": summary, "remarks": remarks, "rows": comparison_rows}
    limits = {"max_exact_patients": MAX_EXACT_PATIENTS, "num_permutations": NUM_PERMUTATIONS}
    page = fill("compare.md", comparisons=comparisons, warnings=warnings, head=HEAD, **sentences, **limits)
    write_page(folder / "compare", f"{first} against {second}", page)
    write_json(folder / "compare.json", numbers)
    return folder / "compare.html"


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Draw the differences A minus B with their intervals above, what patients add to the Score's below, in points.

    The bars go from the patient that speaks most for A to the one that speaks most for B; they sum to the difference.
    """
    num_lines, level = len(comparison.differences), comparison.score.difference.interval.level
    with picture(path, width_inch=8.0, height_inch=3.6 + 0.42 * num_lines) as figure:
        upper, lower = figure.subplots(2, 1, height_ratios=[0.42 * num_lines + 0.4, 2.4])
        upper.axvline(0.0, color=GREY, linestyle="--", linewidth=1.0, zorder=0)
        for row, line in enumerate(comparison.differences):
            interval = line.difference.interval
            colour, width = (BLUE, 3.0) if row == 0 else (GREY, 1.6)
            if interval.problem is None:
                upper.plot([100 * interval.low, 100 * interval.high], [row, row], color=colour, linewidth=width)
            upper.plot([100 * line.difference.value], [row], "o", color=colour, markersize=4 + width)
            upper.text(1.02, row, line.difference.in_points(), transform=upper.get_yaxis_transform(), va="center")
        upper.set_yticks(range(num_lines), [line.name for line in comparison.differences])
        upper.set_ylim(num_lines - 0.5, -0.5)
        upper.set_xlabel("A minus B, percent points")
        upper.tick_params(axis="y", length=0)
        upper.spines["left"].set_visible(False)
        first, second = comparison.names
        upper.set_title(f"A: {first}; B: {second}. Difference and {100 * level:g} % interval")

        bars = 100 * np.sort(comparison.contributions)[::-1]
        lower.bar(np.arange(1, len(bars) + 1), bars, color=np.where(bars > 0, BLUE, ORANGE), width=0.9)
        lower.axhline(0.0, color="black", linewidth=0.8)
        lower.set_xlim(0.4, len(bars) + 0.6)
        lower.set_xlabel(f"{len(bars)} patients, from A better to B better")
        lower.set_ylabel("points of the\ndifference of Scores")
        if len(bars) <= 20:
            lower.set_xticks(range(1, len(bars) + 1))


def verdict(comparison: Comparison) -> str:
    """One sentence: which is better and by how much, or that they are not distinguishable."""
    score = comparison.score
    interval = score.difference.interval
    if math.isnan(score.difference.value):
        return "not distinguishable: the Score has no value (no normal or no abnormal cycle)"
    if interval.problem is not None:
        return f"not distinguishable: {interval.problem}"
    span = f"{100 * interval.level:g} % interval"
    if score.is_distinguishable:
        better = comparison.names[0 if score.difference.value > 0 else 1]
        low, high = sorted((abs(interval.low), abs(interval.high)))
        points = f"{100 * abs(score.difference.value):.1f} points of Score"
        return f"{better} is better by {points} ({span} {100 * low:.1f} to {100 * high:.1f}, p = {_p(score)})"
    reason = ""
    if not score.num_better + score.num_worse:
        reason = "; A and B have as many right for every patient"
    elif any(score.evidence):
        reason = "; interval and permutation test do not agree"
    points = f"{score.difference.in_points()} points of Score ({span} in brackets), p = {_p(score)}"
    return f"not distinguishable: A minus B is {points}{reason}"


def remarks(comparison: Comparison) -> list[str]:
    """Limits of the verdict, in sentences."""
    remarks = []
    num_first, num_second = comparison.num_seeds
    if num_first == num_second == 1:
        remarks.append(
            "One seed on each side: this compares these two trained models, not the methods. Another seed of the same "
            "method gives another model; several seeds a side compare methods."
        )
    elif 1 in comparison.num_seeds:
        lone = "A" if num_first == 1 else "B"
        remarks.append(f"{lone} has one seed: it stands for this trained model, not for its method.")
    _, specificity, sensitivity = comparison.differences[:3]
    sp, se = 100 * specificity.difference.value, 100 * sensitivity.difference.value
    if specificity.is_distinguishable and sensitivity.is_distinguishable and sp * se < 0.0:
        remarks.append(
            f"A and B trade Sp for Se: A has {sp:+.1f} points of Sp and {se:+.1f} of Se. The Score weighs both alike."
        )
    num_patients, num_moved = len(comparison.patients), comparison.score.num_better + comparison.score.num_worse
    if num_patients < FEW_PATIENTS:
        remarks.append(f"{num_patients} patients: an interval from fewer than {FEW_PATIENTS} is itself uncertain.")
    least = 2.0 ** (1 - num_moved)
    if num_moved and least >= 1.0 - comparison.score.difference.interval.level:
        remarks.append(f"Only {num_moved} patients are predicted differently: p cannot be less than {least:.3g}.")
    return remarks


def comparison_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Lines of the table, in the order of `HEAD`; values in percent, differences in points."""
    rows: list[tuple[str, ...]] = []
    for each in comparison.differences:
        first, second = ("n/a" if math.isnan(value) else f"{100 * value:.1f}" for value in (each.first, each.second))
        effect = "n/a" if math.isnan(each.standardised) else f"{each.standardised:+.2f}"
        better = f"{each.num_better}, {each.num_worse}"
        rows.append((each.name, first, second, each.difference.in_points(), _p(each), effect, better))
    return rows


def summary(comparison: Comparison) -> str:
    """Numbers of cycles, patients and seeds that were compared."""

    def count(number: int, unit: str) -> str:
        return f"{number} {unit}{'' if number == 1 else 's'}"

    part = f" of {comparison.part}" if comparison.part else ""
    seeds = " and ".join(count(number, "seed") for number in comparison.num_seeds)
    return f"{count(comparison.num_cycles, 'cycle')}{part}, {count(len(comparison.patients), 'patient')}; {seeds}"


def comparison_json(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """All numbers as fractions, for `files.to_json`."""
    first, second = comparisons[0].names
    parts = [
        {
            "part": each.part,
            "verdict": verdict(each),
            "is_distinguishable": each.score.is_distinguishable,
            "remarks": remarks(each),
            "num_cycles": each.num_cycles,
            "num_seeds": each.num_seeds,
            "differences": [dataclasses.asdict(difference) for difference in each.differences],
            "patients": dict(zip(each.patients, each.contributions, strict=True)),
        }
        for each in comparisons
    ]
    return {"format": FORMAT, "unit": "fraction", "A": first, "B": second, "parts": parts}


def _p(difference: Difference) -> str:
    return "n/a" if math.isnan(difference.p_value) else f"{difference.p_value:.2g}"
