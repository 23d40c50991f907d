"""The picture of a table of runs: the Score of each seed and their mean, beside the published numbers.

What a table of runs has given, beside the paper: on the terminal, as Markdown, JSON and a picture.

Scores of runs that each left something out: by what was left out, and of all the cycles together.

Results that can be printed again: the answers of runs kept small, and the tables that are made from them.

A study is a folder with `study.toml` and, for each method, a folder of runs (`<method>/seed0`), or of folds that hold
runs (`<method>/<device>/seed0`). A kept run is a run folder with its answers to the test and a few facts only.
"""

import json
import math
import re
import statistics
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import rich.box
import rich.table
from pydantic import Field, ValidationError
from rich.console import Console
from rich.text import Text

from lungsound.config import Settings
from lungsound.data.splits import VALIDATION
from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import Bootstrap, Estimate, patient_confusions
from lungsound.evaluation.compare import compare_runs
from lungsound.evaluation.compare_report import remarks, verdict
from lungsound.evaluation.figures import BLUE, GREY, ORANGE, picture
from lungsound.evaluation.metrics import (
    ALWAYS_NORMAL_SCORE,
    Counts,
    IcbhiScore,
    icbhi_score,
    mean_score,
    two_class_score,
)
from lungsound.evaluation.predictions import Predictions, joined, read_predictions, rounded, write_predictions
from lungsound.evaluation.selection import (
    COLUMN_HEAD,
    LAST,
    NAMES,
    RULE,
    column_rows,
    read_columns,
    score_runs,
    unwatched_columns,
)
from lungsound.experiments.table import PaperNumbers, Row, Table
from lungsound.files import write_text
from lungsound.page import Block, Bullets, Heading, Paragraph
from lungsound.page import Table as left_out_Table
from lungsound.page import Table as study_Table
from lungsound.training.callbacks import COLUMN_OF
from lungsound.training.run import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes


TITLE_WIDTH = 88  # letters in a line over the picture

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class RunRow:
    """One line of the picture of a table of runs, in fractions: a Score for each seed, and what the paper printed.

    `scores` is empty when nothing was run; `interval` is that of their mean, over seeds and patients. Raises DataError
    when a value is no fraction (an interval may go beyond, it is cut), or there is a published deviation without the
    mean that it belongs to.
    """

    name: str
    scores: tuple[float, ...]
    published: float | None = None
    published_sd: float | None = None
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        values = [*self.scores, *(v for v in (self.published, self.published_sd) if v is not None)]
        if not all(0.0 <= value <= 1.0 for value in values):
            raise DataError(f"{self.name}: Scores to draw are fractions from 0 to 1; got {values}")
        if self.published is None and self.published_sd is not None:
            raise DataError(f"{self.name}: a published deviation needs the published Score that it belongs to")

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN when nothing was run."""
        return float(np.mean(self.scores)) if self.scores else float("nan")

    @property
    def sd(self) -> float:
        """Sample standard deviation over seeds (divided by their number less one); NaN with fewer than two."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else float("nan")


def draw_runs(path: Path, *, title: str, rows: Sequence[RunRow]) -> None:
    """Draw the Scores of runs beside the published ones, in percent, first row on top.

    A dot is a seed, a filled circle the mean over seeds and a hollow diamond the published Score; bars are one
    standard deviation to each side, a broad pale line is the interval of the mean over seeds and patients. Raises
    DataError when there is no row.
    """
    if not rows:
        raise DataError("no row of runs to draw: at least one is needed")
    heading = wrap(title, TITLE_WIDTH)
    lines = np.arange(len(rows))
    seeds = np.array([(100 * score, line) for line, row in enumerate(rows) for score in row.scores]).reshape(-1, 2)
    ours = np.array([(100 * row.mean, 100 * row.sd) for row in rows])
    published = np.array([(row.published, row.published_sd) for row in rows], dtype=np.float64) * 100
    with picture(path, width_inch=8.0, height_inch=1.3 + 0.48 * len(rows) + 0.2 * len(heading)) as figure:
        axes = figure.add_subplot()
        for line in lines[1::2]:
            axes.axhspan(line - 0.5, line + 0.5, color="#F2F2F2", linewidth=0, zorder=0)
        always_normal = 100 * ALWAYS_NORMAL_SCORE
        axes.axvline(always_normal, color=GREY, linestyle="--", linewidth=1.0, zorder=1)
        axes.annotate(
            "always normal",
            xy=(always_normal, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            color=GREY,
            fontsize=9,
        )
        if seeds.size:
            _draw_intervals(axes, rows)
            axes.plot(*(seeds - (0, 0.24)).T, ".", color="black", markersize=4.5, label="one seed")
            _draw_means(axes, ours, lines - 0.02, "o", colour=BLUE, face=BLUE, label="mean of seeds")
        if not np.isnan(published[:, 0]).all():
            _draw_means(axes, published, lines + 0.24, "D", colour=ORANGE, face="white", label="paper")
        _finish(axes, rows)
        figure.suptitle("\n".join(heading), x=0.01, ha="left", fontsize=11)
        if axes.get_legend_handles_labels()[1]:
            figure.legend(loc="outside lower center", ncols=4, fontsize=9)


def _draw_intervals(axes: "Axes", rows: Sequence[RunRow]) -> None:
    """Draw the intervals of the means, cut at 0 and 100, behind the means."""
    found = [(line, np.clip(row.interval, 0.0, 1.0)) for line, row in enumerate(rows) if row.interval is not None]
    if found:
        lines, spans = np.array([line for line, _ in found]), 100 * np.array([span for _, span in found])
        label = "95 % interval"
        axes.hlines(lines - 0.02, spans[:, 0], spans[:, 1], color=BLUE, alpha=0.25, linewidth=7, label=label, zorder=1)


def _draw_means(
    axes: "Axes",
    means: Floats,
    heights: Floats,
    marker: str,
    *,
    colour: str,
    face: str,
    label: str,
) -> None:
    """Draw means with their deviations `(row, 2)`; NaN where there is none."""
    has_bar = not np.isnan(means[:, 1]).all()
    axes.errorbar(
        means[:, 0],
        heights,
        xerr=means[:, 1],
        fmt=marker,
        color=colour,
        markerfacecolor=face,
        markersize=7,
        capsize=3,
        label=f"{label} \u00b1 sd" if has_bar else label,
    )


def _finish(axes: "Axes", rows: Sequence[RunRow]) -> None:
    """Name the rows and the axis, and clear away the frame."""
    axes.set_yticks(range(len(rows)), [f"{row.name}\n{_num_seeds(row)}" for row in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("Score, percent")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)


def _num_seeds(row: RunRow) -> str:
    if not row.scores:
        return "not run"
    return "1 seed" if len(row.scores) == 1 else f"{len(row.scores)} seeds"


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
            scores[part] = Bootstrap().of_runs(np.stack(counts), mean_score)
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


POOLED = "all together"
LEFT_OUT_HEAD = (
    "left out and tested on",
    "cycles",
    "patients",
    "cycles that train",
    "patients who train",
    "Score",
    "Sp",
    "Se",
)


@dataclass(frozen=True)
class TrainedOn:
    """How much was left to train one run."""

    num_cycles: int
    num_patients: int


@dataclass(frozen=True)
class Fold:
    """The runs that left one thing out: for each seed its answers, all of the test set, and what trained it."""

    runs: Sequence[Predictions]
    trained_on: Sequence[TrainedOn]


def left_out_table(folds: Mapping[str, Fold]) -> left_out_Table:
    """A row for each fold, and one of all its cycles.

    In the last row each cycle is answered by a model that did not train on what the cycle was recorded with.
    """
    rows = [_row(name, fold.runs, fold.trained_on) for name, fold in folds.items()]
    return left_out_Table(LEFT_OUT_HEAD, [*rows, _row(POOLED, pooled(folds), ())] if len(folds) > 1 else rows)


def pooled(folds: Mapping[str, Fold]) -> list[Predictions]:
    """For each seed that every fold has, the answers of all folds together."""
    return [joined(runs) for runs in zip(*(fold.runs for fold in folds.values()), strict=False)]


def _row(name: str, runs: Sequence[Predictions], trained_on: Sequence[TrainedOn]) -> tuple[str | int, ...]:
    scores = score_runs(runs)
    readings = (scores.score, scores.specificity, scores.sensitivity)
    training = [each.num_cycles for each in trained_on], [each.num_patients for each in trained_on]
    return (
        name,
        len(runs[0].keys),
        len(set(runs[0].patients)),
        *map(_least_to_most, training),
        *(reading.in_percent() for reading in readings),
    )


def _least_to_most(counts: Sequence[int]) -> str | int:
    """One number when all seeds have the same, else the least and the most; nothing of the row of all."""
    if not counts:
        return ""
    least, most = min(counts), max(counts)
    return least if least == most else f"{least} to {most}"


# What a person writes into STUDY_FILE.
HOLDS = (
    'title = "T", text = "T", kind = "columns" (or "left_out", of cross), and for each method a table [[methods]] '
    'with name = "N" and folder = "METHOD"'
)
DIGITS = 4
STUDY_FILE, RUN_FILE = "study.toml", "run.json"
BEGIN, END = "<!-- begin: {} -->", "<!-- end: {} -->"


class Method(Settings):
    """One method of a study: its name in print, and its folder."""

    name: str
    folder: str


class Study(Settings):
    """What `study.toml` says."""

    title: str
    text: str
    kind: Literal["columns", "left_out"]
    """columns: the three ways to choose the epoch; left_out: a fold for each device that was left out."""
    methods: Annotated[tuple[Method, ...], Field(strict=False)]


def keep_run(run_dir: Path, target: Path, *, columns: Sequence[str] = tuple(NAMES)) -> list[Path]:
    """Put a run's answers to the test, rounded and compressed, and its facts into the folder `target`; the files."""
    run = RunFolder(run_dir)
    answers, facts, config = run.columns(), run.facts(), run.config()
    if LAST not in answers:
        raise DataError(f"{run_dir} keeps no answers of its last epoch: train it again with this version")
    written = {name: target / "epochs" / f"{name}.csv.gz" for name in columns if name in answers}
    for name, path in written.items():
        write_predictions(path, rounded(_test_rows(answers[name]), DIGITS))
    kept = {name: facts[name] for name in ("revision", "versions", "num_cycles", "left_out_patients")}
    kept["num_patients"] = {part: len(names) for part, names in facts["patients"].items()}
    # By name, since some parts of a test have them too.
    kept["patients"] = {part: facts["patients"][part] for part in ("train", VALIDATION)}
    kept["corpus"] = {name: facts["corpus"][name] for name in ("name", "num_recordings", "fingerprint")}
    kept["epochs"] = run.progress().best_epochs | {LAST: config.train.epochs}
    # No command: it names folders of the machine. The settings say the same.
    kept["settings"] = config.model_dump(mode="json", exclude={"data": {"root"}, "model": {"pretrained"}})
    write_text(target / RUN_FILE, json.dumps(kept, indent=1) + "\n")
    return [*written.values(), target / RUN_FILE]


def _test_rows(answers: Predictions) -> Predictions:
    return answers.of_rows([row for row, part in enumerate(answers.parts) if part != VALIDATION])


def read_study(folder: Path) -> Study:
    """The study of a folder; DataError when it is none."""
    path = folder / STUDY_FILE
    try:
        return Study.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(
            f"{folder} holds no study: {path.name} cannot be read ({error.strerror}); write one: {HOLDS}"
        ) from None
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise DataError(f"{path} is not well formed: {' '.join(str(error).split())}") from None


def study_blocks(folder: Path) -> list[Block]:
    """The study as blocks of a page: every number is computed from the kept answers."""
    study = read_study(folder)
    make = _column_blocks if study.kind == "columns" else _left_out_blocks
    return [Heading(study.title), Paragraph(study.text), *make(folder, study.methods)]


def _column_blocks(folder: Path, methods: Sequence[Method]) -> list[Block]:
    answers = {method.name: _runs(folder / method.folder) for method in methods}
    facts = {method.name: _facts(folder / method.folder) for method in methods}
    first = next(iter(answers.values()))[0]
    blocks: list[Block] = []
    for part in sorted(set(first[LAST].parts)):
        rows = []
        for name, runs in answers.items():
            epochs = [each["epochs"] for each in facts[name]]
            found = read_columns(runs, epochs, part=part, unwatched=_unwatched(facts[name][0]))
            rows += [(name if number == 0 else "", *row) for number, row in enumerate(column_rows(found))]
        head = ("method", *COLUMN_HEAD)
        tested = Paragraph(_who_is_tested(first[LAST].of_part(part), facts))
        blocks += [Heading(f"Tested on {part}", level=3), tested, study_Table(head, rows)]
    return [*blocks, Paragraph(RULE), *_verdicts(answers)]


def _unwatched(facts: Mapping[str, Any]) -> dict[str, str]:
    train = facts["settings"]["train"]
    is_test_watched = train["is_test_watched"] or train["selection"] == "best_on_test"
    return unwatched_columns(is_test_watched=is_test_watched, has_validation=facts["num_cycles"][VALIDATION] > 0)


def _who_is_tested(answers: Predictions, facts: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """How many cycles and patients, and who of the patients trains, validates or is new, for each seed."""
    tested = set(answers.patients)
    seeds: dict[str, list[str]] = {}
    for of_method in facts.values():
        for each in of_method:
            train, held = (len(tested & set(each["patients"][part])) for part in ("train", VALIDATION))
            told = f"{train} train, {held} validate, {len(tested) - train - held} are new"
            seed = f"seed {each['settings']['train']['seed']}"
            if seed not in seeds.setdefault(told, []):
                seeds[told].append(seed)
    shared = "; ".join(f"{told} ({', '.join(names)})" for told, names in seeds.items())
    return f"{len(answers.keys):,} cycles of {len(tested)} patients, of whom {shared}."


def _verdicts(answers: Mapping[str, Sequence[Mapping[str, Predictions]]]) -> list[Block]:
    """What `compare` says of the first two methods, for each column and part."""
    (first, ours), (second, theirs) = list(answers.items())[:2]
    compared = {
        said: compare_runs([run[column] for run in ours], [run[column] for run in theirs], names=(first, second))
        for column, said in NAMES.items()
        if all(column in run for run in (*ours, *theirs))
    }
    lines = [f"{said}, {each.part}: {verdict(each)}" for said, parts in compared.items() for each in parts]
    lines += [f"{said}: not compared, since not every run has it" for said in NAMES.values() if said not in compared]
    said_once = dict.fromkeys(remark for parts in compared.values() for each in parts for remark in remarks(each))
    return [Paragraph(f"What lungsound compare says (A: {first}, B: {second}):"), Bullets([*lines, *said_once])]


def _left_out_blocks(folder: Path, methods: Sequence[Method]) -> list[Block]:
    blocks: list[Block] = []
    together = []
    for method in methods:
        names = sorted(path.name for path in (folder / method.folder).iterdir() if path.is_dir())
        folds = {name: _fold(folder / method.folder / name) for name in names}
        together.append(pooled(folds))
        blocks += [Heading(method.name, level=3), left_out_table(folds)]
    if len(methods) > 1:
        pair = methods[0].name, methods[1].name
        said = [line for each in compare_runs(*together[:2], names=pair) for line in (verdict(each), *remarks(each))]
        intro = f"What lungsound compare says of all cycles together (A: {pair[0]}, B: {pair[1]}):"
        blocks += [Paragraph(intro), Bullets(said)]
    return blocks


def _fold(folder: Path) -> Fold:
    trained_on = [TrainedOn(each["num_cycles"]["train"], each["num_patients"]["train"]) for each in _facts(folder)]
    return Fold([run[LAST] for run in _runs(folder)], trained_on)


def _seeds(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("seed*") if (path / RUN_FILE).is_file())
    if not found:
        raise DataError(f"{folder} holds no kept runs: fill it with 'lungsound study keep RUN {folder}/seed0'")
    return found


def _runs(folder: Path) -> list[dict[str, Predictions]]:
    """The kept answers of each seed, by column."""
    return [
        {name: read_predictions(path) for name in NAMES if (path := seed / "epochs" / f"{name}.csv.gz").is_file()}
        for seed in _seeds(folder)
    ]


def _facts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((seed / RUN_FILE).read_text(encoding="utf-8")) for seed in _seeds(folder)]


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between the two marks `<!-- begin: name -->` and `<!-- end: name -->` of a file."""
    page = path.read_text(encoding="utf-8")
    begin, end = BEGIN.format(name), END.format(name)
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise DataError(f"{path} needs the line '{begin}' and after it '{end}', once each")
    before, after = page[: page.index(begin) + len(begin)], page[page.index(end) :]
    write_text(path, f"{before}\n\n{text.strip()}\n\n{after}")
