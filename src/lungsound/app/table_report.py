"""What a table of runs has given, beside the paper: on the terminal, as Markdown, JSON and a picture."""

import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
import rich.table
from rich.console import Console
from rich.text import Text

from lungsound.evaluation.metrics import Counts, IcbhiScore, icbhi_score, mean_score, two_class_score
from lungsound.evaluation.predictions import read_predictions
from lungsound.evaluation.reporting.table_figure import RunRow, draw_runs
from lungsound.evaluation.uncertainty import Estimate, estimate_over_seeds, patient_confusions
from lungsound.files import write_text
from lungsound.run_folder import RunFolder
from lungsound.table import PaperNumbers, Row, Table
from lungsound.watch import COLUMN_OF

NUM_RECORDINGS = 920  # of ICBHI 2017
NUM_SEEDS = 5  # of the paper
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
    "several seeds, over seeds. Research software, not a medical device."
)
NO_FILE_NAME = r"[^\w.+-]+"  # what a part's name may hold and a file's should not
SELECTIONS = {"last": "last", "validation": "on validation patients", "best_on_test": "on test (optimistic)"}


@dataclass(frozen=True)
class PartScores:
    """Scores of one run on one part of the split, as fractions; `two_class` is None when there are only two."""

    score: float
    specificity: float
    sensitivity: float
    two_class: float | None


@dataclass(frozen=True)
class RunResult:
    """What one finished run gave, on which data, from which weights."""

    seed: int
    parts: dict[str, PartScores]
    corpus: str
    num_recordings: int
    epochs: int
    selection: str
    chosen_epoch: int
    weights: str
    confusions: Mapping[str, Counts] = field(default_factory=dict)
    """By part, one confusion matrix a patient; without them there is no interval."""


@dataclass(frozen=True)
class RowResults:
    """A row and its finished runs, one for each seed."""

    row: Row
    runs: Sequence[RunResult]
    scores: Mapping[str, Estimate]
    """By part, the mean Score with its interval over seeds and patients."""

    def of(self, part: str) -> list[PartScores]:
        return [run.parts[part] for run in self.runs if part in run.parts]


def row_results(row: Row, runs: Sequence[RunResult]) -> RowResults:
    """The results of a row, with intervals for the parts of which all runs tested the same patients."""
    scores = {}
    for part in dict.fromkeys(part for run in runs for part in run.confusions):
        counts = [run.confusions[part] for run in runs if part in run.confusions]
        if len(counts) == len(runs) and len({each.sum(axis=-1).tobytes() for each in counts}) == 1:
            scores[part] = estimate_over_seeds(np.stack(counts), mean_score, generator=np.random.default_rng(0))
    return RowResults(row, runs, scores)


def read_result(folder: Path) -> RunResult:
    """The result of a finished run, from its predictions file and its facts."""
    run = RunFolder(folder)
    config, facts, predictions = run.config(), run.facts(), read_predictions(run.predictions)
    best_epoch = run.progress().best_epochs.get(COLUMN_OF[config.train.selection], 0)
    pretrained = facts["pretrained"]
    confusions = {part: patient_confusions(predictions.of_part(part)) for part in sorted(set(predictions.parts))}
    return RunResult(
        seed=config.train.seed,
        parts={part: _scores(counts.sum(axis=0)) for part, counts in confusions.items()},
        corpus=facts["corpus"]["name"],
        num_recordings=facts["corpus"]["num_recordings"],
        epochs=config.train.epochs,
        selection=config.train.selection if best_epoch else "last",
        chosen_epoch=best_epoch or config.train.epochs,
        weights="random" if pretrained is None else pretrained.splitlines()[0].partition(":")[0],
        confusions=confusions,
    )


def _scores(counts: Counts) -> PartScores:
    exact: IcbhiScore = icbhi_score(counts)
    folded = two_class_score(counts).score if len(counts) > 2 else None
    return PartScores(exact.score, exact.specificity, exact.sensitivity, folded)


def write_table(
    path: Path, table: Table, results: Mapping[str, Sequence[RunResult]], *, changes: Sequence[str]
) -> None:
    """Write `<path>.md`, `<path>.json` and a picture for each part of the split; `results` are by folder of the row.

    When data or number of seeds are not the paper's, or there are settings that `changes` its runs, the title says
    that the scores are not comparable with its own.
    """
    rows = [row_results(row, results.get(row.folder, ())) for row in table.rows]
    heading = _heading(table.title, rows, changes)
    pages = [f"# {heading}\n"]
    for part in dict.fromkeys(part for row in rows for run in row.runs for part in run.parts):
        lines = [" | ".join(line) for line in (HEAD, ["---"] * len(HEAD), *(_cells(row, part) for row in rows))]
        pages.append(f"## Tested on {part}\n\n" + "".join(f"| {line} |\n" for line in lines))
        picture = path.with_name(f"{path.name}-{re.sub(NO_FILE_NAME, '_', part)}.png")
        pages.append(f"![Scores]({picture.name})\n")
        draw_runs(picture, title=f"{heading}. Tested on {part}", rows=[_drawn(row, part) for row in rows])
    pages.append(f"{FOOT}\n")
    plain = {
        "title": heading,
        "rows": [
            {
                "row": results.row.model_dump(exclude_none=True),
                "parts": {part: _summary(results, part) for part in results.scores},
                "runs": list(map(_plain, results.runs)),
            }
            for results in rows
        ],
    }
    write_text(path.with_name(f"{path.name}.json"), json.dumps(plain, indent=1, allow_nan=False) + "\n")
    write_text(path.with_name(f"{path.name}.md"), "\n".join(pages))


def print_table(path: Path, console: Console) -> None:
    """Print what `write_table` wrote; on a narrow terminal cells go on in the next line, nothing is cut off."""
    page = path.with_name(f"{path.name}.md")
    drawn: rich.table.Table | None = None
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("| "):
            if drawn is not None:
                console.print(drawn)
                drawn = None
            if not line.startswith("!["):
                console.print(line.lstrip("# "), highlight=False, markup=False)
        elif drawn is None:
            drawn = rich.table.Table(box=rich.box.SIMPLE, pad_edge=False, collapse_padding=True)
            for name in HEAD:
                drawn.add_column(name, overflow="fold")
        elif not line.startswith("| ---"):
            drawn.add_row(*map(Text, _split(line)))
    console.print(f"table: {page}", highlight=False, soft_wrap=True)


def _split(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def _plain(run: RunResult) -> dict[str, Any]:
    """The result as JSON can hold it: a score without a value is null."""
    parts = {
        part: {name: None if value is None or math.isnan(value) else value for name, value in asdict(scores).items()}
        for part, scores in run.parts.items()
    }
    plain = asdict(run) | {"parts": parts}
    del plain["confusions"]
    return plain


def _summary(results: RowResults, part: str) -> dict[str, Any]:
    """Mean, deviation and interval of the Score as JSON can hold them."""
    estimate, values = results.scores[part], [scores.score for scores in results.of(part)]
    interval = estimate.interval
    numbers = {
        "mean_score": estimate.value,
        "sd_over_seeds": statistics.stdev(values) if len(values) > 1 else math.nan,
        "low": interval.low,
        "high": interval.high,
    }
    counts = {"level": interval.level, "num_seeds": len(values), "num_patients": interval.num_patients}
    return {name: None if math.isnan(value) else value for name, value in numbers.items()} | counts


def _heading(title: str, rows: Sequence[RowResults], changes: Sequence[str]) -> str:
    """The title, what the runs were made with, and whether that is what the paper's were made with."""
    runs = [run for row in rows for run in row.runs]
    corpus, num_recordings = runs[0].corpus, max(run.num_recordings for run in runs)
    reasons = []
    if corpus != "icbhi":
        reasons.append(f"the corpus is {corpus}")
    elif num_recordings < NUM_RECORDINGS:
        reasons.append(f"{num_recordings} of {NUM_RECORDINGS} recordings of ICBHI")
    for change in changes:
        key, _, value = change.partition("=")
        reasons.append(change if key != "train.epochs" else f"{value} epoch{'' if value == '1' else 's'}")
    num_seeds = min(len(row.runs) for row in rows if row.runs)
    reasons += [] if num_seeds >= NUM_SEEDS else [f"{num_seeds} of {NUM_SEEDS} seeds"]
    if not reasons:
        return f"{title} (ICBHI, {num_recordings} recordings)"
    return f"{title}. NOT COMPARABLE with the paper's scores: {', '.join(reasons)}"


def _cells(results: RowResults, part: str) -> list[str]:
    """One line of the table, in the order of HEAD."""
    scores = results.of(part)
    if not scores:
        return [results.row.name, _paper(results.row.paper), "not run", "", "", "0", "", ""]
    parts = [_mean(scores, lambda s: s.specificity), _mean(scores, lambda s: s.sensitivity)]
    folded = [s.two_class for s in scores if s.two_class is not None]
    run = results.runs[0]
    chosen = "/".join(dict.fromkeys(str(r.chosen_epoch) for r in results.runs))
    rules = "; ".join(dict.fromkeys(SELECTIONS[r.selection] for r in results.runs))
    return [
        results.row.name,
        _paper(results.row.paper),
        f"{_spread([s.score for s in scores])} ({', '.join(parts)})",
        _interval(results.scores.get(part)),
        _spread(folded) if folded else "",
        str(len(scores)),
        f"{chosen} of {run.epochs}, {rules}",
        "; ".join(dict.fromkeys(r.weights for r in results.runs)),
    ]


def _drawn(results: RowResults, part: str) -> RunRow:
    paper = results.row.paper
    return RunRow(
        name=results.row.name,
        scores=tuple(scores.score for scores in results.of(part) if not math.isnan(scores.score)),
        interval=_bounds(results.scores.get(part)),
        published=None if paper is None else paper.score / 100,
        published_sd=None if paper is None or paper.score_sd is None else paper.score_sd / 100,
    )


def _bounds(estimate: Estimate | None) -> tuple[float, float] | None:
    if estimate is None or math.isnan(estimate.value) or estimate.interval.problem is not None:
        return None
    return estimate.interval.low, estimate.interval.high


def _interval(estimate: Estimate | None) -> str:
    bounds = _bounds(estimate)
    return "n/a" if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def _paper(paper: PaperNumbers | None) -> str:
    if paper is None:
        return ""
    spread = "" if paper.score_sd is None else f" \N{PLUS-MINUS SIGN} {paper.score_sd:.2f}"
    parts = [value for value in (paper.specificity, paper.sensitivity) if value is not None]
    shown = f" ({', '.join(f'{value:.2f}' for value in parts)})" if parts else ""
    folded = "" if paper.two_class_score is None else f"; as 2 classes {paper.two_class_score:.2f}"
    return f"{paper.score:.2f}{spread}{shown}{folded}"


def _mean(scores: Sequence[PartScores], value: Callable[[PartScores], float]) -> str:
    mean = statistics.fmean(map(value, scores))
    return "n/a" if math.isnan(mean) else f"{100 * mean:.2f}"


def _spread(fractions: Sequence[float]) -> str:
    """Mean and standard deviation (n - 1) in percent; one seed has no deviation, a part without a class no mean."""
    if any(map(math.isnan, fractions)):
        return "n/a"
    mean = f"{100 * statistics.fmean(fractions):.2f}"
    return mean if len(fractions) < 2 else f"{mean} \N{PLUS-MINUS SIGN} {100 * statistics.stdev(fractions):.2f}"
