"""Methods against each other on the same test: scores, differences as `compare` has them, and a picture of these."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.compare import (
    Comparison,
    compare_methods,
    name_of_parts,
    p_in_print,
    remarks,
    verdict,
    with_mean,
)
from lungsound.evaluation.figures import ScoreLine, draw_differences
from lungsound.evaluation.runs import MethodRuns, epoch_warnings
from lungsound.evaluation.scores import SCORES_HEAD
from lungsound.evaluation.selection import score_runs
from lungsound.page import Cell, bullets, escape, table

DIFFERENCES_HEAD = ("A", "B", "tested on", "Score: A minus B", "Sp", "Se", "p", "seeds")
INTERVALS = (
    "Scores in percent, differences in points, with 95 % intervals over patients and seeds; a difference of three or "
    "more seeds in common is taken seed by seed. p is that of the permutation test over patients. A is better or worse "
    "than B when the interval of the difference of Scores leaves out 0 and p is below 0.05 as well; else they are not "
    "distinguishable, which does not mean equal."
)


def compared(
    methods: Mapping[str, MethodRuns], pairs: Sequence[tuple[str, str]], bootstrap: Bootstrap | None = None
) -> list[Comparison]:
    """The pairs of which both methods have runs, on each part and in the mean of the parts."""
    return [
        comparison
        for names in pairs
        if all(name in methods for name in names)
        for comparison in compare_methods(*(methods[name] for name in names), names=names, bootstrap=bootstrap)
    ]


def methods_page(
    methods: Mapping[str, MethodRuns], comparisons: Sequence[Comparison], *, picture: str, heading: str
) -> list[str]:
    """Scores on each part and in their mean, and the differences; `picture` is where that of `draw_forest` lies.

    `heading` is the mark of a section, "##" say.
    """
    first = next(iter(methods.values())).runs[0]
    page: list[str] = []
    for parts in with_mean(first.parts):
        tested = [patient for patient, part in zip(first.patients, first.parts, strict=True) if part in parts]
        rows = [(name, len(of.runs), *score_runs(of.runs, parts).in_percent()) for name, of in methods.items()]
        sizes = f"{len(tested):,} cycles of {len(set(tested))} patients."
        head = ("method", "seeds", *SCORES_HEAD)
        page += [Markup(f"{heading} Tested on {escape(name_of_parts(parts))}"), sizes, table(head, rows)]
    if comparisons:
        lines: list[tuple[Cell, ...]] = []
        for each in comparisons:
            differences = (line.difference.in_points() for line in each.differences[:3])
            seeds = str(each.num_seeds[0]) if each.is_paired else f"{each.num_seeds[0]} and {each.num_seeds[1]}"
            lines.append((*each.names, each.part, *differences, p_in_print(each.score), seeds))
        page += [Markup(f"{heading} Differences"), table(DIFFERENCES_HEAD, lines), Markup(f"![Differences]({picture})")]
        pairs = dict.fromkeys(each.names for each in comparisons)
        notes = [warning for a, b in pairs for warning in epoch_warnings(methods[a], methods[b])]
        notes += [remark for each in comparisons for remark in remarks(each)]
        page += [bullets([*map(verdict_line, comparisons), *dict.fromkeys(notes)])]
    return [*page, INTERVALS]


def verdict_line(comparison: Comparison) -> str:
    """What `compare` says of two methods, named before it."""
    first, second = comparison.names
    return f"A: {first}; B: {second}; on {comparison.part}: {verdict(comparison)}"


def draw_forest(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw the differences of Scores, a line each; the last of a pair, the mean of its parts, stands out."""
    lines = [
        ScoreLine(
            f"{each.names[0]}\nminus {each.names[1]}, {each.part}",
            each.score.difference,
            each.num_cycles,
            is_headline=following is None or following.names != each.names,
        )
        for each, following in zip(comparisons, [*comparisons[1:], None], strict=True)
    ]
    draw_differences(lines, path)


def provenance(facts: Mapping[str, Sequence[Mapping[str, Any]]]) -> Markup:
    """A table of what each method's runs were trained on, by which commit, and on which processor."""

    rows = []
    for name, of in facts.items():
        columns = zip(
            *(
                (
                    each["epochs"]["last"],
                    each["num_cycles"]["train"],
                    each["corpus"]["fingerprint"][:16],
                    (each["revision"] or "not known")[:9],
                    each.get("processor") or "not known",
                )
                for each in of
            ),
            strict=True,
        )
        rows.append((name, *(", ".join(dict.fromkeys(map(str, column))) for column in columns)))
    head = ("method", "epochs", "cycles that train", "recordings and labels, SHA-256", "commit", "processor")
    return table(head, rows)
