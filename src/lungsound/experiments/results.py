"""Results of a table of runs: on the terminal, as pages, JSON and a picture; the paper's numbers beside its own."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import rich.box
import rich.table
from markupsafe import Markup
from rich.console import Console
from rich.text import Text

from lungsound.evaluation.bootstrap import Bootstrap, Estimate, patient_confusions
from lungsound.evaluation.compare import comparison_json
from lungsound.evaluation.figures import BLUE, GREY, ORANGE, picture
from lungsound.evaluation.metrics import ALWAYS_NORMAL_SCORE, Counts, icbhi_score, mean_score, two_class_score
from lungsound.evaluation.predictions import Predictions, read_predictions
from lungsound.evaluation.runs import MethodRuns
from lungsound.evaluation.selection import BEST_ON_TEST, COLUMN_OF
from lungsound.experiments.challenge import challenge_page, challenge_tasks
from lungsound.experiments.methods import compared, draw_forest, methods_page, provenance, verdict_line
from lungsound.experiments.table import Row, Table
from lungsound.files import write_json, write_text
from lungsound.page import escape, paragraphs, render_markdown, write_page
from lungsound.page import table as page_table
from lungsound.training.run import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]

NUM_RECORDINGS = 920  # of ICBHI 2017
NUM_SEEDS = 5  # of the paper
TITLE_WIDTH = 88  # letters in a line over the picture
HEAD = (
    "row",
    "paper: Score (Sp, Se)",
    "Score (Sp, Se)",
    "95 % interval",
    "read as 2 classes",
    "seeds",
    "epoch",
    "weights",
)
FOOT = (
    "Scores in percent: mean and standard deviation over seeds. The interval of the Score is over patients and, with "
    "several seeds, over seeds."
)
NO_FILE_NAME = r"[^\w.+-]+"  # what a part's name may hold and a file's should not
SELECTIONS = {"last": "last", "validation": "on validation patients", BEST_ON_TEST: "on test (optimistic)"}


@dataclass(frozen=True, eq=False)
class RunResult:
    """One finished run: its predictions, data, weights and epoch, and the facts of how it was trained."""

    seed: int
    predictions: Predictions
    corpus: str
    num_recordings: int
    epochs: int
    selection: str
    chosen_epoch: int
    weights: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def confusions(self) -> dict[str, Counts]:
        """For each part of the split a confusion matrix a patient."""
        parts = sorted(set(self.predictions.parts))
        return {part: patient_confusions(self.predictions.of_part(part)) for part in parts}

    @cached_property
    def parts(self) -> dict[str, dict[str, float | None]]:
        """Scores of each part, as fractions; `two_class` is None when there are only two classes."""
        scores: dict[str, dict[str, float | None]] = {}
        for part, confusions in self.confusions.items():
            counts = confusions.sum(axis=0)
            exact, folded = icbhi_score(counts), two_class_score(counts).score if len(counts) > 2 else None
            scores[part] = {"score": exact.score, **asdict(exact), "two_class": folded}
        return scores


@dataclass(frozen=True, eq=False)
class RowResults:
    """A row and its finished runs, one for each seed; by part of the split the mean Score with its interval."""

    row: Row
    runs: Sequence[RunResult]
    estimates: Mapping[str, Estimate]

    @classmethod
    def of(cls, row: Row, runs: Sequence[RunResult]) -> "RowResults":
        """The results of the row, with intervals for the parts of which all runs tested the same patients."""
        estimates = {}
        for part in dict.fromkeys(part for run in runs for part in run.confusions):
            counts = [run.confusions[part] for run in runs if part in run.confusions]
            if len(counts) == len(runs) and len({each.sum(axis=-1).tobytes() for each in counts}) == 1:
                estimates[part] = Bootstrap().of_runs(np.stack(counts), mean_score)
        return cls(row, runs, estimates)

    def values(self, part: str, name: str) -> list[float]:
        """One of `RunResult.parts` for each run that tested the part."""
        scores = [run.parts[part][name] for run in self.runs if part in run.confusions]
        return [score for score in scores if score is not None]

    def bounds(self, part: str) -> tuple[float, float] | None:
        """The interval of the mean Score; None where there is none."""
        estimate = self.estimates.get(part)
        if estimate is None or math.isnan(estimate.value) or estimate.interval.problem is not None:
            return None
        return estimate.interval.low, estimate.interval.high

    def to_json(self) -> dict[str, Any]:
        parts = {}
        for part, estimate in self.estimates.items():
            interval, (_, deviation) = estimate.interval, mean_and_deviation(self.values(part, "score"))
            parts[part] = {"mean_score": estimate.value, "sd_over_seeds": deviation, "num_seeds": len(self.runs)}
            parts[part] |= {name: getattr(interval, name) for name in ("low", "high", "level", "num_patients")}
        names = ("seed", "parts", "corpus", "num_recordings", "epochs", "selection", "chosen_epoch", "weights")
        runs = [{name: getattr(run, name) for name in names} for run in self.runs]
        return {"row": self.row.model_dump(exclude_none=True), "parts": parts, "runs": runs}


def read_result(folder: Path) -> RunResult:
    """The result of a finished run, from its predictions file and its facts."""
    run = RunFolder(folder)
    config, facts, predictions = run.config(), run.facts(), read_predictions(run.predictions)
    best_epoch = run.progress().best_epochs.get(COLUMN_OF[config.train.selection], 0)
    return RunResult(
        seed=config.train.seed,
        predictions=predictions,
        corpus=facts.corpus.name,
        num_recordings=facts.corpus.num_recordings,
        epochs=config.train.epochs,
        selection=config.train.selection if best_epoch else "last",
        chosen_epoch=best_epoch or config.train.epochs,
        weights=facts.weights,
        facts=facts.model_dump() | {"epochs": {"last": config.train.epochs}},
    )


def write_results(
    path: Path, table: Table, results: Mapping[str, Sequence[RunResult]], *, changes: Sequence[str], console: Console
) -> None:
    """Write `<path>.md`, `<path>.json` and a picture for each part of the split, and print the tables.

    `results` are by folder of the row. When data or number of seeds are not the paper's, or there are settings that
    `changes` its runs, the title says that the scores are not comparable with its own.
    """
    if table.kind != "paper":
        _write_own(path, table, results, changes=changes, console=console)
        return
    rows = [RowResults.of(row, results.get(row.folder, ())) for row in table.rows]
    runs = [run for row in rows for run in row.runs]
    corpus, num_recordings = runs[0].corpus, max(run.num_recordings for run in runs)
    num_seeds = min(len(row.runs) for row in rows if row.runs)
    reasons = []
    if corpus != "icbhi":
        reasons.append(f"the corpus is {corpus}")
    elif num_recordings < NUM_RECORDINGS:
        reasons.append(f"{num_recordings} of {NUM_RECORDINGS} recordings of ICBHI")
    for change in changes:
        key, _, value = change.partition("=")
        reasons.append(change if key != "train.epochs" else f"{value} epoch{'' if value == '1' else 's'}")
    reasons += [] if num_seeds >= NUM_SEEDS else [f"{num_seeds} of {NUM_SEEDS} seeds"]
    title = f"{table.title} (ICBHI, {num_recordings} recordings)"
    if reasons:
        title = f"{table.title}. NOT COMPARABLE with the paper's scores: {', '.join(reasons)}"
    console.print(title, highlight=False, markup=False)
    page: list[str] = []
    for part in dict.fromkeys(part for run in runs for part in run.confusions):
        pictured = path.with_name(f"{path.name}-{re.sub(NO_FILE_NAME, '_', part)}.png")
        draw_results(pictured, title=f"{title}. Tested on {part}", rows=rows, part=part)
        cells = [_cells(row, part) for row in rows]
        page += [Markup(f"## Tested on {escape(part)}"), page_table(HEAD, cells), Markup(f"![Scores]({pictured.name})")]
        console.print(f"Tested on {part}", highlight=False, markup=False)
        printed = rich.table.Table(box=rich.box.SIMPLE, pad_edge=False, collapse_padding=True)
        for name in HEAD:
            printed.add_column(name, overflow="fold")  # on a narrow terminal nothing is cut off
        for line in cells:
            printed.add_row(*map(Text, line))
        console.print(printed)
    console.print(FOOT, highlight=False, markup=False)
    write_json(path.with_name(f"{path.name}.json"), {"title": title, "rows": [row.to_json() for row in rows]})
    write_text(path.with_name(f"{path.name}.md"), render_markdown(title, paragraphs(*page, FOOT)))


def _write_own(
    path: Path, table: Table, results: Mapping[str, Sequence[RunResult]], *, changes: Sequence[str], console: Console
) -> None:
    """The results of a table that is not the paper's: `<path>.md`, `.html`, `.json`, of methods a forest plot."""
    finished = {row.name: results[row.folder] for row in table.rows if results.get(row.folder)}
    methods = {
        name: MethodRuns(
            tuple(run.predictions for run in runs),
            frozenset(COLUMN_OF.get(run.selection, run.selection) for run in runs),
            seeds=tuple(run.seed for run in runs),
        )
        for name, runs in finished.items()
    }
    title = ", ".join([table.title, *changes])
    numbers: dict[str, Any] = {"title": title}
    if table.kind == "methods":
        comparisons = compared(methods, table.comparisons)
        picture_path = path.with_name(f"{path.name}-differences.png")
        if comparisons:
            draw_forest(comparisons, picture_path)
        page = methods_page(methods, comparisons, picture=picture_path.name, heading="##")
        pairs = dict.fromkeys(each.names for each in comparisons)
        of_pair = [[each for each in comparisons if each.names == pair] for pair in pairs]
        numbers["comparisons"] = list(map(comparison_json, of_pair))
        lines = list(map(verdict_line, comparisons))
    else:
        tasks = challenge_tasks(methods)
        page = challenge_page(methods, tasks, table.published, heading="##")
        numbers["tasks"] = [asdict(task) for task in tasks]
        lines = [task.in_print() for task in tasks if task.is_mean]
    page += [f"Not run yet: {row.name}." for row in table.rows if row.name not in finished]
    page += [provenance({name: [run.facts for run in runs] for name, runs in finished.items()})]
    write_page(path, title, paragraphs(*page))
    write_json(path.with_name(f"{path.name}.json"), numbers)
    for line in [title, *lines]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _cells(results: RowResults, part: str) -> tuple[str, ...]:
    """One line of the table, in the order of HEAD."""
    runs, paper, published = results.runs, results.row.paper, ""
    if paper is not None:
        deviation = "" if paper.score_sd is None else f" \N{PLUS-MINUS SIGN} {paper.score_sd:.2f}"
        parts = ", ".join(f"{value:.2f}" for value in (paper.specificity, paper.sensitivity) if value is not None)
        two_class = "" if paper.two_class_score is None else f"; as 2 classes {paper.two_class_score:.2f}"
        published = f"{paper.score:.2f}{deviation}{f' ({parts})' if parts else ''}{two_class}"
    scores, folded = results.values(part, "score"), results.values(part, "two_class")
    if not scores:
        return (results.row.name, published, "not run", "", "", "0", "", "")
    sp, se = (_mean(results.values(part, name)) for name in ("specificity", "sensitivity"))
    bounds = results.bounds(part)
    chosen = "/".join(dict.fromkeys(str(run.chosen_epoch) for run in runs))
    rules = "; ".join(dict.fromkeys(SELECTIONS[run.selection] for run in runs))
    return (
        results.row.name,
        published,
        f"{_mean(scores, has_deviation=True)} ({sp}, {se})",
        "n/a" if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}",
        _mean(folded, has_deviation=True) if folded else "",
        str(len(scores)),
        f"{chosen} of {runs[0].epochs}, {rules}",
        "; ".join(dict.fromkeys(run.weights for run in runs)),
    )


def _mean(values: Sequence[float], *, has_deviation: bool = False) -> str:
    """Mean, and deviation if asked for and known, in percent."""
    mean, deviation = mean_and_deviation(values)
    if math.isnan(mean):
        return "n/a"
    is_shown = has_deviation and not math.isnan(deviation)
    return f"{100 * mean:.2f} \N{PLUS-MINUS SIGN} {100 * deviation:.2f}" if is_shown else f"{100 * mean:.2f}"


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); NaN without values, without a second one, or with a NaN."""
    if not values or any(map(math.isnan, values)):
        return math.nan, math.nan
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def draw_results(path: Path, *, title: str, rows: Sequence[RowResults], part: str) -> None:
    """Draw the Scores of runs on a part beside the published ones, in percent, first row on top."""
    heading, lines = wrap(title, TITLE_WIDTH), np.arange(len(rows))
    scores = [[score for score in row.values(part, "score") if not math.isnan(score)] for row in rows]
    seeds = np.array([(100 * score, line) for line, of_row in enumerate(scores) for score in of_row]).reshape(-1, 2)
    papers = [(row.row.paper.score, row.row.paper.score_sd) if row.row.paper else (None, None) for row in rows]
    published = np.array(papers, dtype=np.float64)
    with picture(path, width_inch=8.0, height_inch=1.3 + 0.48 * len(rows) + 0.2 * len(heading)) as figure:
        axes = figure.add_subplot()
        always_normal = 100 * ALWAYS_NORMAL_SCORE
        axes.axvline(always_normal, color=GREY, linestyle="--", linewidth=1.0, zorder=1, label="always normal")
        spans = [(line, *bounds) for line, row in enumerate(rows) if (bounds := row.bounds(part)) is not None]
        if spans:
            places, low, high = np.array(spans).T
            ends = (100 * np.clip(low, 0.0, 1.0), 100 * np.clip(high, 0.0, 1.0))
            axes.hlines(places - 0.02, *ends, color=BLUE, alpha=0.25, linewidth=7, label="95 % interval", zorder=1)
        if seeds.size:
            axes.plot(*(seeds - (0, 0.24)).T, ".", color="black", markersize=4.5, label="one seed")
            ours = 100 * np.array([mean_and_deviation(of_row) for of_row in scores])
            _draw_means(axes, ours, -0.02, "o", colour=BLUE, face=BLUE, label="mean of seeds")
        if not np.isnan(published[:, 0]).all():
            _draw_means(axes, published, 0.24, "D", colour=ORANGE, face="white", label="paper")
        nums = [
            "not run" if not of_row else "1 seed" if len(of_row) == 1 else f"{len(of_row)} seeds" for of_row in scores
        ]
        axes.set_yticks(lines, [f"{row.row.name}\n{num}" for row, num in zip(rows, nums, strict=True)], fontsize=9)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("Score, percent")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color="#E5E5E5", linewidth=0.8)
        axes.set_axisbelow(True)
        figure.suptitle("\n".join(heading), x=0.01, ha="left", fontsize=11)
        figure.legend(loc="outside lower center", ncols=5, fontsize=9)


def _draw_means(axes: "Axes", means: Floats, below: float, marker: str, *, colour: str, face: str, label: str) -> None:
    """Draw means with their deviations `(row, 2)`, a little below each row's line; NaN where there is none."""
    has_bar = not np.isnan(means[:, 1]).all()
    axes.errorbar(
        means[:, 0],
        np.arange(len(means)) + below,
        xerr=means[:, 1],
        fmt=marker,
        color=colour,
        markerfacecolor=face,
        markersize=7,
        capsize=3,
        label=f"{label} \u00b1 sd" if has_bar else label,
    )
