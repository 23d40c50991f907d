"""A comparison as a verdict, a table, a picture and a page: the output of `lungsound compare`."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungsound.evaluation.bootstrap import FEW_PATIENTS
from lungsound.evaluation.compare import MAX_EXACT_PATIENTS, NUM_PERMUTATIONS, Comparison, Difference
from lungsound.evaluation.figures import BLUE, GREY, ORANGE, picture
from lungsound.page import Block, Bullets, Heading, Paragraph, Picture, Remark, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Draw the differences A minus B with their intervals above, what patients add to the Score's below, in points."""
    num_lines = len(comparison.differences)
    with picture(path, width_inch=8.0, height_inch=3.6 + 0.42 * num_lines) as figure:
        upper, lower = figure.subplots(2, 1, height_ratios=[0.42 * num_lines + 0.4, 2.4])
        _draw_intervals(upper, comparison)
        _draw_patients(lower, comparison)


def _draw_intervals(axes: "Axes", comparison: Comparison) -> None:
    axes.axvline(0.0, color=GREY, linestyle="--", linewidth=1.0, zorder=0)
    for row, line in enumerate(comparison.differences):
        interval = line.difference.interval
        colour, width = (BLUE, 3.0) if row == 0 else (GREY, 1.6)
        if interval.problem is None:
            axes.plot([100 * interval.low, 100 * interval.high], [row, row], color=colour, linewidth=width)
        axes.plot([100 * line.difference.value], [row], "o", color=colour, markersize=4 + width)
        axes.text(1.02, row, line.difference.in_points(), transform=axes.get_yaxis_transform(), va="center")
    axes.set_yticks(range(len(comparison.differences)), [line.name for line in comparison.differences])
    axes.set_ylim(len(comparison.differences) - 0.5, -0.5)
    axes.set_xlabel("A minus B, percent points")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    level = comparison.score.difference.interval.level
    axes.set_title(f"A: {comparison.names[0]}; B: {comparison.names[1]}. Difference and {100 * level:g} % interval")


def _draw_patients(axes: "Axes", comparison: Comparison) -> None:
    """Bars from the patient that speaks most for A to the one that speaks most for B; they sum to the difference."""
    parts = 100 * np.sort(comparison.contributions)[::-1]
    axes.bar(np.arange(1, len(parts) + 1), parts, color=np.where(parts > 0, BLUE, ORANGE), width=0.9)
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set_xlim(0.4, len(parts) + 0.6)
    axes.set_xlabel(f"{len(parts)} patients, from A better to B better")
    axes.set_ylabel("points of the\ndifference of Scores")
    if len(parts) <= 20:
        axes.set_xticks(range(1, len(parts) + 1))


HEAD = ("value", "A", "B", "A minus B", "p", "effect", "for A, B")
FORMAT = "lungsound comparison 1"


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
    difference = f"A minus B is {score.difference.in_points()} points of Score ({span} in brackets), p = {_p(score)}"
    if not score.num_better + score.num_worse:
        return f"not distinguishable: {difference}; A and B have as many right for every patient"
    if score.excludes_zero or score.is_significant:
        return f"not distinguishable: {difference}; interval and permutation test do not agree"
    return f"not distinguishable: {difference}"


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
    if specificity.is_distinguishable and sensitivity.is_distinguishable:
        up, down = specificity.difference.value, sensitivity.difference.value
        if up * down < 0.0:
            remarks.append(
                f"A and B trade Sp for Se: A has {100 * up:+.1f} points of Sp and {100 * down:+.1f} of Se. The Score "
                "weighs both alike."
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
    return [
        (
            each.name,
            _percent(each.first),
            _percent(each.second),
            each.difference.in_points(),
            _p(each),
            "n/a" if math.isnan(each.standardised) else f"{each.standardised:+.2f}",
            f"{each.num_better}, {each.num_worse}",
        )
        for each in comparison.differences
    ]


def summary(comparison: Comparison) -> str:
    """Numbers of cycles, patients and seeds that were compared."""
    part = f" of {comparison.part}" if comparison.part else ""
    seeds = " and ".join(_count(number, "seed") for number in comparison.num_seeds)
    patients = _count(len(comparison.patients), "patient")
    return f"{_count(comparison.num_cycles, 'cycle')}{part}, {patients}; {seeds}"


def comparison_blocks(
    comparisons: Sequence[Comparison], pictures: Sequence[Path], warnings: Sequence[str] = ()
) -> list[Block]:
    """The page: `warnings` and verdicts first, then a section for each part of the test."""
    first, second = comparisons[0].names
    blocks: list[Block] = [Paragraph(f"A is {first}, B is {second}."), *map(Remark, warnings)]
    for comparison, image in zip(comparisons, pictures, strict=True):
        blocks += [
            Heading(comparison.part or "all cycles"),
            Paragraph(f" {summary(comparison)}.", lead=f"{verdict(comparison)}."),
            *(Remark(remark) for remark in remarks(comparison)),
            Table(HEAD, comparison_rows(comparison)),
            Picture(image, "Differences by patient, and the difference of Scores with its interval"),
        ]
    return [*blocks, Heading("How to read this"), Bullets(_explanations(comparisons[0]))]


def _explanations(comparison: Comparison) -> list[str]:
    interval = comparison.score.difference.interval
    return [
        "Scores in percent, means over seeds; differences in percent points. 2 classes: normal or not, any abnormal "
        "prediction fits an abnormal cycle.",
        f"In brackets: {100 * interval.level:g} % interval of the difference from {interval.num_draws} resamples of "
        "whole patients, the same for A and B; where there are several seeds their effect is drawn as well.",
        "p: permutation test. A's and B's predictions are exchanged for whole patients, in all ways when at most "
        f"{MAX_EXACT_PATIENTS} patients are predicted differently, else in {NUM_PERMUTATIONS}. It takes the runs as "
        "they are: the chance of training is in the interval only.",
        "Effect: the difference over the deviation of what single patients contribute to it (Cohen's d of paired "
        "values; 0.2 is called small, 0.5 medium, 0.8 large).",
        "For A, B: for how many patients A, or B, adds more to the value.",
        "Verdict: better when the interval of the difference of Scores leaves out 0 and p is below "
        f"{1 - interval.level:.2g} as well; else not distinguishable, which does not mean equal: the interval says how "
        "large a difference may be. Sp, Se and the last line do not decide, and are not corrected for being several.",
    ]


def comparison_json(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """All numbers as fractions, for `files.to_json`."""
    return {
        "format": FORMAT,
        "unit": "fraction",
        "A": comparisons[0].names[0],
        "B": comparisons[0].names[1],
        "parts": [
            {
                "part": each.part,
                "verdict": verdict(each),
                "is_distinguishable": each.score.is_distinguishable,
                "remarks": remarks(each),
                "num_cycles": each.num_cycles,
                "num_seeds": list(each.num_seeds),
                "differences": [dataclasses.asdict(difference) for difference in each.differences],
                "patients": dict(zip(each.patients, each.contributions.tolist(), strict=True)),
            }
            for each in comparisons
        ],
    }


def _p(difference: Difference) -> str:
    return "n/a" if math.isnan(difference.p_value) else f"{difference.p_value:.2g}"


def _percent(fraction: float) -> str:
    return "n/a" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
