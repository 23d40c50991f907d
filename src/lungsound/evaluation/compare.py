"""Two methods on the same test cycles: the difference of their scores, and whether it can be told from chance.

A and B differ when the interval of the difference of Scores over patients (and seeds) leaves out 0 and the p of the
permutation test is below 1 - level as well; else they are not distinguishable. The test exchanges the predictions of A
and B for all cycles of a patient. Sp and Se are sums of what single patients contribute, over numbers of cycles that no
method changes: the exchange turns the sign of what the patient adds.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import (
    FEW_PATIENTS,
    Bootstrap,
    Estimate,
    confusions_by_part,
    jackknife,
    mean_of_parts,
    percent,
    value_of_runs,
)
from lungsound.evaluation.figures import BLUE, ORANGE, ScoreLine, difference_lines, picture
from lungsound.evaluation.metrics import Counts, Fractions, fold_to_two_classes, mean_score, sensitivity, specificity
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.runs import MethodRuns, common_seeds
from lungsound.files import write_json
from lungsound.page import counted, fill, write_page

FORMAT = "lungsound comparison 1"
HEAD = ("value", "A", "B", "A minus B", "p", "effect", "for A, B")
NUM_PERMUTATIONS = 9999
MAX_EXACT_PATIENTS = 14  # all 2^14 permutations are gone through; with more patients, NUM_PERMUTATIONS are drawn
NORMAL, ABNORMAL = 0, 1
# The statistic of each line, and the terms that its mean is over.
STATISTICS = {
    "Score": (mean_score, (NORMAL, ABNORMAL)),
    "Sp": (specificity, (NORMAL,)),
    "Se": (sensitivity, (ABNORMAL,)),
    "Score, 2 classes": (mean_score, (NORMAL, ABNORMAL)),
}
FOLDED = "Score, 2 classes"  # of counts that are read as normal or not


@dataclass(frozen=True, eq=False)
class Contributions:
    """Contribution of each patient to a difference A minus B, in its terms: of normal, of abnormal cycles of a part.

    `parts` `(term, patient)` sum to the difference; `shares` `(term, patient)` are the patient's share of the cycles
    of the term. Both are NaN in a term that has no cycle.
    """

    parts: Fractions
    shares: Fractions

    @property
    def by_patient(self) -> Fractions:
        """All terms together `(patient,)`."""
        return np.asarray(self.parts.sum(axis=0))


def contributions_to(first: Counts, second: Counts, terms: Sequence[int]) -> Contributions:
    """Contributions to the mean over `terms`, from `(seed, patient, [part,] true class, predicted class)`.

    Both are of the same cycles; each part has the terms: (NORMAL,) of Sp, (ABNORMAL,) of Se, both of the Score.
    """

    def by_term(by_class: Counts | Fractions) -> Fractions:
        by_kind = np.stack([by_class[..., 0], by_class[..., 1:].sum(axis=-1)]).astype(np.float64)[list(terms)]
        return np.moveaxis(by_kind, 1, -1).reshape(-1, by_kind.shape[1])

    num_cycles = by_term(first[0].sum(axis=-1))
    totals = num_cycles.sum(axis=1, keepdims=True)
    totals[totals == 0.0] = np.nan
    right = [by_term(np.diagonal(runs, axis1=-2, axis2=-1).mean(axis=0)) for runs in (first, second)]
    return Contributions((right[0] - right[1]) / totals / len(totals), num_cycles / totals)


def permutation_test(
    contributions: Contributions, *, generator: np.random.Generator, num_draws: int = NUM_PERMUTATIONS
) -> float:
    """Two-sided p of the difference when A and B are exchanged by patient; NaN when there is no difference.

    Exact when at most `MAX_EXACT_PATIENTS` patients have parts that are not 0, else by drawing. The size of a
    difference is taken over its standard error (Janssen, Statistics & Probability Letters 36, 1997; Chung & Romano,
    Annals of Statistics 41, 2013): the bare size of methods that trade Sp for Se scatters by the trade.
    """
    if np.isnan(contributions.parts).any():
        return math.nan
    is_moved = (contributions.parts != 0.0).any(axis=0)
    num_moved = int(is_moved.sum())
    if num_moved <= MAX_EXACT_PATIENTS:
        chosen = 1 - 2 * (np.arange(2**num_moved)[:, None] >> np.arange(num_moved) & 1)
    else:
        drawn = 1 - 2 * generator.integers(0, 2, (num_draws, num_moved))
        chosen = np.concatenate([np.ones((1, num_moved), dtype=np.int64), drawn])
    signs = np.ones((len(chosen), len(is_moved)))
    signs[:, is_moved] = chosen
    sizes = studentised(contributions, signs)
    # The first is the way it is; equal sizes may differ in their last bits.
    return float((sizes >= sizes[0] * (1.0 - 1e-9)).mean())


def studentised(contributions: Contributions, signs: Fractions) -> Fractions:
    """Size of the difference over its standard error `(draw,)`, infinite where there is none, with signs by patient."""
    by_term = signs @ contributions.parts.T
    influences = signs * contributions.by_patient - by_term @ contributions.shares
    size, variance = np.abs(by_term.sum(axis=1)), (influences**2).sum(axis=1)
    is_certain = variance < 1e-24
    return np.where(is_certain, np.where(size < 1e-12, 0.0, np.inf), size / np.sqrt(variance + is_certain))


@dataclass(frozen=True)
class Difference:
    """One value of A and of B (means over seeds), A minus B with its interval, and the p of the permutation test.

    `standardised` is the difference over the deviation of what single patients contribute to it: Cohen's d of paired
    values, with the patient as the unit. `num_better` and `num_worse` count patients for whom A, or B, has more.
    """

    name: str
    first: float
    second: float
    difference: Estimate
    p_value: float
    standardised: float
    num_better: int
    num_worse: int

    @property
    def evidence(self) -> tuple[bool, bool]:
        """That the interval of the difference leaves out 0, and that p is below 1 - level."""
        interval = self.difference.interval
        excludes_zero = interval.problem is None and not interval.low <= 0.0 <= interval.high
        return excludes_zero, self.p_value < 1.0 - interval.level

    @property
    def is_distinguishable(self) -> bool:
        """The rule of the verdict: both."""
        return all(self.evidence)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A and B on one part of the test, or in the mean of its parts, in the lines of `STATISTICS`; the Score decides.

    `contributions` `(patient,)` are to the difference of Scores. With `is_paired` runs of one seed are compared.
    """

    names: tuple[str, str]
    part: str
    num_cycles: int
    num_seeds: tuple[int, int]
    patients: tuple[str, ...]
    contributions: Fractions
    differences: tuple[Difference, ...]
    is_paired: bool = False

    @property
    def score(self) -> Difference:
        return self.differences[0]


def compare_runs(
    first: Sequence[Predictions],
    second: Sequence[Predictions],
    *,
    names: tuple[str, str] = ("A", "B"),
    is_common_only: bool = False,
    is_paired: bool = False,
    bootstrap: Bootstrap | None = None,
) -> tuple[Comparison, ...]:
    """Compare A and B, with predictions of one or more seeds, on each part of the test, and in the mean of the parts.

    With `is_paired` the first run of A belongs to the first of B, and so on. Raises DataError when A and B have other
    classes, patients or labels, or other cycles; `is_common_only` leaves out the cycles that only one of them has.
    """
    bootstrap = bootstrap or Bootstrap()
    sides = on_same_cycles(first, second, names, is_common_only=is_common_only)
    comparisons = []
    ours, theirs = sides
    for parts in with_mean(ours[0].parts):
        first_counts, second_counts = (confusions_by_part(runs, parts) for runs in sides)
        tested = [patient for patient, part in zip(ours[0].patients, ours[0].parts, strict=True) if part in parts]
        comparison = Comparison(
            names=names,
            part=name_of_parts(parts),
            num_cycles=len(tested),
            num_seeds=(len(ours), len(theirs)),
            patients=tuple(sorted(set(tested))),
            contributions=contributions_to(first_counts, second_counts, (NORMAL, ABNORMAL)).by_patient,
            differences=tuple(
                _difference(name, first_counts, second_counts, bootstrap, is_paired=is_paired)
                for name in STATISTICS
                if name != FOLDED or len(ours[0].classes) > 2
            ),
            is_paired=is_paired,
        )
        comparisons.append(comparison)
    return tuple(comparisons)


def compare_methods(
    first: MethodRuns,
    second: MethodRuns,
    *,
    names: tuple[str, str],
    is_common_only: bool = False,
    bootstrap: Bootstrap | None = None,
) -> tuple[Comparison, ...]:
    """`compare_runs` of the runs of two methods, seed by seed where they have enough seeds in common."""
    seeds = common_seeds(first, second)
    sides = (first.of_seeds(seeds), second.of_seeds(seeds)) if seeds else (first.runs, second.runs)
    return compare_runs(*sides, names=names, is_common_only=is_common_only, is_paired=bool(seeds), bootstrap=bootstrap)


def with_mean(parts: Sequence[str]) -> list[list[str]]:
    """Parts to report on: each of these alone, by name, and all of them where there are several."""
    every = sorted(set(parts))
    return [[part] for part in every] + ([every] if len(every) > 1 else [])


def name_of_parts(parts: Sequence[str]) -> str:
    """The part, or that its values are means of several: "mean of inter and intra"."""
    *most, last = parts
    return f"mean of {', '.join(most)} and {last}" if most else last


def _difference(name: str, first: Counts, second: Counts, bootstrap: Bootstrap, *, is_paired: bool) -> Difference:
    """A minus B in one value; both `(seed, patient, part, true class, predicted class)` of the same cycles."""
    of_part, terms = STATISTICS[name]
    statistic = mean_of_parts(of_part)
    if name == FOLDED:
        first, second = fold_to_two_classes(first), fold_to_two_classes(second)
    generator, num_patients, standardised = bootstrap.generator(), first.shape[1], math.nan
    difference = bootstrap.of_runs(first, statistic, minus=second, is_paired=is_paired, generator=generator)
    contributions = contributions_to(first, second, terms)
    if num_patients > 1:
        left_out = jackknife(value_of_runs(first, statistic), num_patients, minus=value_of_runs(second, statistic))
        standardised = left_out.value / left_out.patient_sd if left_out.patient_sd > 0.0 else math.nan
    return Difference(
        name=name,
        first=float(statistic(first.sum(axis=1)).mean()),
        second=float(statistic(second.sum(axis=1)).mean()),
        difference=difference,
        p_value=permutation_test(contributions, generator=generator),
        standardised=standardised,
        num_better=int((contributions.by_patient > 0).sum()),
        num_worse=int((contributions.by_patient < 0).sum()),
    )


def on_same_cycles(
    first: Sequence[Predictions], second: Sequence[Predictions], names: tuple[str, str], *, is_common_only: bool
) -> list[list[Predictions]]:
    """All runs of A and of B with the same cycles in the same order; raises DataError as `compare_runs` does."""
    (a, b), ours, theirs = names, first[0], second[0]
    if ours.classes != theirs.classes:
        raise DataError(
            f"{a} has the classes {', '.join(ours.classes)}, {b} {', '.join(theirs.classes)}: compare methods that "
            "predict the same classes"
        )
    common = set(ours.keys) & set(theirs.keys)
    only_ours, only_theirs = len(ours.keys) - len(common), len(theirs.keys) - len(common)
    if not common:
        raise DataError(f"{a} and {b} have no cycle in common: test both on the same recordings")
    if (only_ours or only_theirs) and not is_common_only:
        raise DataError(
            f"{a} and {b} were not tested on the same cycles: {only_ours} of {len(ours.keys)} only in {a}, "
            f"{only_theirs} of {len(theirs.keys)} only in {b}; --common compares them on the {len(common)} of both"
        )
    order = [key for key in ours.keys if key in common]
    sides = [[run.of_keys(order) for run in runs] for runs in (first, second)]
    reference = sides[0][0]
    for run in (*sides[0], *sides[1]):
        is_other = (run.labels != reference.labels) | (np.array(run.patients) != np.array(reference.patients))
        if is_other.any():
            key = order[int(is_other.argmax())]
            raise DataError(f"{key} has another label or patient in {a} than in {b}: use one corpus")
    return sides


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
    """Draw the differences A minus B with their intervals above, what patients add to the Score's below, in points."""
    num_lines, level = len(comparison.differences), comparison.score.difference.interval.level
    with picture(path, width_inch=8.0, height_inch=3.6 + 0.42 * num_lines) as figure:
        upper, lower = figure.subplots(2, 1, height_ratios=[0.42 * num_lines + 0.4, 2.4])
        lines = [ScoreLine(line.name, line.difference, comparison.num_cycles) for line in comparison.differences]
        difference_lines(upper, [replace(lines[0], is_headline=True), *lines[1:]])
        first, second = comparison.names
        upper.set_title(f"A: {first}; B: {second}. Difference and {100 * level:g} % interval")

        bars = 100 * np.sort(comparison.contributions)[::-1]
        lower.bar(np.arange(1, len(bars) + 1), bars, color=np.where(bars > 0, BLUE, ORANGE), width=0.9)
        lower.axhline(0.0, color="black", linewidth=0.8)
        lower.set(xlim=(0.4, len(bars) + 0.6), xlabel=f"{len(bars)} patients, from A better to B better")
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
        return f"{better} is better by {points} ({span} {100 * low:.1f} to {100 * high:.1f}, p = {p_in_print(score)})"
    reason = ""
    if not score.num_better + score.num_worse:
        reason = "; A and B have as many right for every patient"
    elif any(score.evidence):
        reason = "; interval and permutation test do not agree"
    points = f"{score.difference.in_points()} points of Score ({span} in brackets), p = {p_in_print(score)}"
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
        effect = "n/a" if math.isnan(each.standardised) else f"{each.standardised:+.2f}"
        evidence = (each.difference.in_points(), p_in_print(each), effect, f"{each.num_better}, {each.num_worse}")
        rows.append((each.name, percent(each.first), percent(each.second), *evidence))
    return rows


def summary(comparison: Comparison) -> str:
    """Numbers of cycles, patients and seeds that were compared."""
    part = f" of {comparison.part}" if comparison.part else ""
    seeds = " and ".join(counted(number, "seed") for number in comparison.num_seeds)
    if comparison.is_paired:
        seeds = f"{counted(comparison.num_seeds[0], 'seed')}, A and B paired by seed"
    return f"{counted(comparison.num_cycles, 'cycle')}{part}, {counted(len(comparison.patients), 'patient')}; {seeds}"


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
            "is_paired_by_seed": each.is_paired,
            "differences": [asdict(difference) for difference in each.differences],
            "patients": dict(zip(each.patients, each.contributions, strict=True)),
        }
        for each in comparisons
    ]
    return {"format": FORMAT, "unit": "fraction", "A": first, "B": second, "parts": parts}


def p_in_print(difference: Difference) -> str:
    """The p of the permutation test in two digits, "n/a" where there is none."""
    return "n/a" if math.isnan(difference.p_value) else f"{difference.p_value:.2g}"
