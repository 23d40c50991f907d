"""Every metric of predictions or of a confusion matrix: definition, interval, published column, what to know first."""

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lungsound.config import Settings
from lungsound.evaluation import metrics
from lungsound.evaluation.bootstrap import FEW_PATIENTS, Bootstrap, Estimate
from lungsound.evaluation.metrics import (
    ALWAYS_NORMAL_SCORE,
    Counts,
    Fractions,
    Rankings,
    Statistic,
    fold_to_two_classes,
    leave_out_true_class,
    macro_mean_score,
    mean_score,
)
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.scores import ClassScores, class_scores
from lungsound.evaluation.selection import TEST, VALIDATION
from lungsound.files import write_json
from lungsound.page import Block, Bullets, Cell, Heading, Paragraph, Remark, Table, write_page

ICBHI, SPRSOUND = "ICBHI 2017", "SPRSound 2022"
# How predictions are counted. EXACT asks for the very class, TWO for normal or not. CHALLENGE is EXACT without the
# cycles that are truly of Poor Quality; UNSCORED too, for what is the same as an EXACT metric where there is no such
# class.
EXACT, TWO, CHALLENGE, UNSCORED = "exact", "two", "challenge", "unscored"
SAME, NO_SCORE, NO_COLUMN = "same metric, same cycles", "no Sp, Se or Score column", "no published column"


@dataclass(frozen=True)
class Metric:
    """A named number that is computed from a confusion matrix."""

    key: str
    name: str
    definition: str
    reading: str
    statistic: Statistic

    @property
    def is_correlation(self) -> bool:
        """True of what goes from -1 to 1; all others are fractions."""
        return self.key in ("cohen_kappa", "matthews_correlation")


def _two(statistic: Statistic) -> Statistic:
    def of_folded(confusion: Counts) -> Fractions:
        return statistic(fold_to_two_classes(confusion))

    return of_folded


# fmt: off
METRICS: tuple[Metric, ...] = (
    Metric("specificity", "Specificity (Sp)",
           "normal cycles predicted normal / normal cycles", EXACT, metrics.specificity),
    Metric("sensitivity", "Sensitivity (Se), exact class",
           "abnormal cycles predicted as their very class / abnormal cycles", EXACT, metrics.sensitivity),
    Metric("score", "ICBHI Score, exact class",
           "mean of Sp and Se; SPRSound's average score (AS)", EXACT, metrics.mean_score),
    Metric("two_class_sensitivity", "Sensitivity, read as 2 classes",
           "abnormal cycles predicted as any abnormal class / abnormal cycles", TWO, _two(metrics.sensitivity)),
    Metric("two_class_score", "ICBHI Score, read as 2 classes",
           "mean of Sp and the sensitivity above; SPRSound's AS", TWO, _two(metrics.mean_score)),
    Metric("two_class_harmonic_score", "Harmonic score, read as 2 classes",
           "HS: harmonic mean of Sp and the sensitivity above", TWO, _two(metrics.harmonic_score)),
    Metric("two_class_challenge_score", "Challenge score, read as 2 classes",
           "SPRSound's (AS + HS) / 2", TWO, _two(metrics.challenge_score)),
    Metric("challenge_sensitivity", "Challenge sensitivity, exact class",
           "SE: as Se, truly poor recordings left out", UNSCORED, metrics.sensitivity),
    Metric("average_score", "Average score, exact class",
           "AS: mean of SP and SE", UNSCORED, metrics.mean_score),
    Metric("harmonic_score", "Harmonic score, exact class",
           "HS: harmonic mean, 2 SP SE / (SP + SE)", CHALLENGE, metrics.harmonic_score),
    Metric("challenge_score", "Challenge score, exact class",
           "SPRSound's (AS + HS) / 2", CHALLENGE, metrics.challenge_score),
    Metric("macro_recall", "Macro recall (UAR)",
           "mean of all classes' recalls; balanced accuracy", EXACT, metrics.macro_recall),
    Metric("macro_specificity", "Macro specificity",
           "mean over classes: others not predicted as it / others", EXACT, metrics.macro_specificity),
    Metric("macro_mean_score", "Macro mean",
           "mean of the two above; printed as a Score by some", EXACT, metrics.macro_mean_score),
    Metric("macro_precision", "Macro precision",
           "mean over classes: rightly predicted as it / predicted as it", EXACT, metrics.macro_precision),
    Metric("macro_f1", "Macro F1",
           "mean over classes: 2 precision recall / (their sum)", EXACT, metrics.macro_f1),
    Metric("weighted_f1", "Weighted F1",
           "mean of the classes' F1, weighted by their cycles", EXACT, metrics.weighted_f1),
    Metric("accuracy", "Accuracy (micro F1)",
           "cycles predicted as their very class / cycles", EXACT, metrics.accuracy),
    Metric("cohen_kappa", "Cohen's kappa (-1 to 1)",
           "agreement above chance / the most possible above chance", EXACT, metrics.cohen_kappa),
    Metric("matthews_correlation", "Matthews correlation (-1 to 1)",
           "correlation of true and predicted class", EXACT, metrics.matthews_correlation),
)
# From probabilities: key, name, definition; `metrics.Rankings` computes them.
RANKING_METRICS: Mapping[str, tuple[str, str]] = {
    "macro_auroc": ("Macro AUROC", "mean over classes: pairs, one of it and one not, ranked rightly"),
    "macro_average_precision": ("Macro average precision", "mean over classes: precision, averaged over its cycles"),
    "abnormal_auroc": ("AUROC, abnormal", "abnormal and normal pairs that 1 - p(normal) ranks rightly"),
    "abnormal_average_precision": ("Average precision, abnormal", "precision by 1 - p(normal), averaged over abnormal"),
}
# The published columns of each corpus that hold a metric. All others may stand only beside the same on the same cycles.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    ICBHI: {"specificity": "Sp", "sensitivity": "Se", "score": "Score",
            "two_class_sensitivity": "Se", "two_class_score": "Score"},
    SPRSOUND: {"specificity": "SP", "sensitivity": "SE", "score": "AS",
               "two_class_sensitivity": "SE", "two_class_score": "AS",
               "two_class_harmonic_score": "HS", "two_class_challenge_score": "Score",
               "challenge_sensitivity": "SE", "average_score": "AS",
               "harmonic_score": "HS", "challenge_score": "Score"},
}
# fmt: on
NOT_A_SCORE_COLUMN = {"macro_recall", "macro_specificity", "macro_mean_score"}


def column_of(metric: Metric, test_set: "KnownTestSet | None", *, is_poor_quality_counted: bool) -> tuple[bool, str]:
    """Name the published column that may stand beside the metric on this test set, after True; or say why none may."""
    if not any(metric.key in columns for columns in COLUMNS.values()):
        return False, NO_SCORE if metric.key in NOT_A_SCORE_COLUMN else SAME
    is_mixed = metric.key in ("sensitivity", "score") and is_poor_quality_counted  # the challenge leaves it out
    if test_set is None or test_set.not_comparable is not None or is_mixed:
        return False, NO_COLUMN
    columns = next(columns for corpus, columns in COLUMNS.items() if test_set.name.startswith(corpus))
    return (True, f"{columns[metric.key]} of {test_set.short}") if metric.key in columns else (False, NO_COLUMN)


class KnownTestSet(Settings):
    """A test set and task that a file is recognised by: the cycles of each true class, the normal one first."""

    name: str
    task: str
    totals: Annotated[tuple[int, ...], Field(strict=False)]
    not_comparable: str | None = None
    """Why no published column belongs to it; None when one does."""

    @property
    def short(self) -> str:
        """Name and task in a few words: "ICBHI, 4 classes", "SPRSound inter, task 1-2"."""
        corpus, _, part = self.name.partition(", ")
        number = re.search(r"task \d-\d", self.task)
        where = corpus.split()[0] + (f" {part}" if number else "")
        return f"{where}, {number[0] if number else self.task}"

    def has_totals(self, totals: Sequence[int]) -> bool:
        """Compare totals with its own; the abnormal classes may come in any order, empty ones may be missing."""
        ours, theirs = (sorted(filter(None, counts[1:])) for counts in (self.totals, totals))
        return self.totals[0] == totals[0] and ours == theirs


class PublishedScore(Settings):
    """A published result of one method, in percent."""

    name: str
    paper: str
    test_set: str
    task: str
    epoch: Literal["last", "validation", "test", "unknown", "none"]
    """The way in which its epoch was chosen; "none" where nothing was trained."""
    source: Literal["authors", "tables", "reproduction", "computed"]
    year: int | None = None
    specificity: float | None = None
    sensitivity: float | None = None
    score: float | None = None
    score_sd: float | None = None
    not_comparable: str | None = None
    """Why it may not stand beside a score of the official test set; None when it may."""


class _PublishedData(Settings):
    test_sets: Annotated[tuple[KnownTestSet, ...], Field(strict=False)]
    scores: Annotated[tuple[PublishedScore, ...], Field(strict=False)]


@cache
def published_data() -> _PublishedData:
    """Every known test set and every published score of the data file."""
    file = resources.files("lungsound.evaluation").joinpath("published_scores.toml")
    return _PublishedData.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))


def find_test_set(totals: Sequence[int]) -> KnownTestSet | None:
    """The test set with these cycles of each true class (normal first), if it is a known one."""
    return next((known for known in published_data().test_sets if known.has_totals(totals)), None)


def scores_of(test_set: KnownTestSet) -> list[PublishedScore]:
    """All published scores of the set and its task."""
    key = (test_set.name, test_set.task)
    return [score for score in published_data().scores if (score.test_set, score.task) == key]


POOR_QUALITY = "Poor Quality"  # a class of SPRSound's recordings that is neither normal nor abnormal
FEW_CYCLES = 10
ICBHI_TEST = (1579, 649, 385, 143)
EPOCH_REMARKS = {
    TEST: "The epoch was chosen on the test set itself: this score is optimistic (Patch-Mix contrastive learning: "
    "61.49 with the epoch chosen on test, 59.59 for the same five runs at their last epoch).",
    VALIDATION: "The epoch was chosen on the validation set itself: this score is optimistic.",
    "unknown": "How the epoch was chosen is not stated (--epoch last, validation or test): chosen on the test set it "
    "is worth about 1.9 points.",
}
EPOCHS = {
    "last": "last",
    "validation": "on validation patients",
    "test": "on test (optimistic)",
    "unknown": "not known",
    "none": "nothing trained",
}


@dataclass(frozen=True, eq=False)
class PatientCounts:
    """Confusion matrices `(patient, true class, predicted class)` of some parts of a split; class 0 is the normal one.

    Without patients there is one matrix of all cycles, and no interval. `rankings` need probabilities; `notes` say how
    a file was read.
    """

    classes: tuple[str, ...]
    confusions: Counts
    has_patients: bool
    parts: tuple[str, ...] = ()
    rankings: Rankings | None = None
    notes: tuple[str, ...] = ()

    @property
    def confusion(self) -> Counts:
        """All patients together."""
        return np.asarray(self.confusions.sum(axis=0))


@dataclass(frozen=True, eq=False)
class CycleTable:
    """True and predicted class index of each cycle `(cycle,)`, probabilities `(cycle, class)`, patients and parts.

    Probabilities and patients are None when the file has none; a part of the split is "" when it is not known.
    """

    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64] | None
    patients: tuple[str, ...] | None
    parts: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, predictions: Predictions) -> "CycleTable":
        """The table of our own predictions."""
        return cls(
            classes=predictions.classes,
            labels=predictions.labels,
            predicted=predictions.predicted,
            probabilities=predictions.probabilities,
            patients=predictions.patients,
            parts=predictions.parts,
        )

    def part_names(self) -> tuple[str, ...]:
        """The parts of the split, in the order in which they first come."""
        return tuple(dict.fromkeys(self.parts))

    def counts(self, parts: Sequence[str]) -> PatientCounts:
        """The counts of the cycles of these parts of the split."""
        rows = np.flatnonzero([part in parts for part in self.parts])
        patients = np.zeros(len(rows), dtype=np.int64)
        if self.patients is not None:
            _, patients = np.unique([self.patients[row] for row in rows], return_inverse=True)
        labels, num_classes = self.labels[rows], len(self.classes)
        confusions = np.zeros((int(patients.max()) + 1, num_classes, num_classes), dtype=np.int64)
        np.add.at(confusions, (patients, labels, self.predicted[rows]), 1)
        return PatientCounts(
            classes=self.classes,
            confusions=confusions,
            has_patients=self.patients is not None,
            parts=tuple(filter(None, parts)),
            rankings=None
            if self.probabilities is None
            else Rankings.of(self.probabilities[rows], labels, patients.astype(np.int64)),
            notes=self.notes,
        )


@dataclass(frozen=True)
class MetricValue:
    """One metric with its value; `beside` is the published column that it may stand beside."""

    key: str
    name: str
    definition: str
    estimate: Estimate
    text: str
    beside: str
    is_beside_published: bool


@dataclass(frozen=True, eq=False)
class Rescored:
    """Every metric of some parts of a file."""

    counts: PatientCounts
    epoch: str
    metrics: tuple[MetricValue, ...]
    per_class: tuple[ClassScores, ...]
    test_set: KnownTestSet | None
    two_class_test_set: KnownTestSet | None

    @property
    def part(self) -> str:
        """The parts in words; "" without any."""
        return ", ".join(self.counts.parts)

    @property
    def num_cycles(self) -> int:
        return int(self.counts.confusion.sum())

    def text(self, estimate: Estimate) -> str:
        """A fraction in percent, with its interval where patients are known."""
        return estimate_text(estimate, has_patients=self.counts.has_patients)

    @property
    def resample_notes(self) -> list[str]:
        """Metrics that have no value in some of the resamples, since a class is missing there."""
        by_count: dict[tuple[int, int], list[str]] = {}
        for metric in self.metrics:
            interval = metric.estimate.interval
            if interval.num_patients > 1 and interval.num_undefined:
                by_count.setdefault((interval.num_undefined, interval.num_draws), []).append(metric.name)
        return [
            f"A class is missing, so that there is no value, in {num_undefined} of {num_draws} resamples: "
            f"{', '.join(names)}. The intervals are over the other resamples; n/a where these are fewer than half."
            for (num_undefined, num_draws), names in by_count.items()
        ]

    @property
    def published(self) -> list[PublishedScore]:
        """All published scores of this test set and its tasks."""
        sets = [known for known in (self.test_set, self.two_class_test_set) if known and not known.not_comparable]
        return [score for known in dict.fromkeys(sets) for score in scores_of(known)]

    def estimate_beside(self, score: PublishedScore) -> Estimate:
        """Our Score that is counted as the published one."""
        is_exact = self.test_set is not None and score.task == self.test_set.task
        key = "score" if is_exact else "two_class_score"
        return next(metric.estimate for metric in self.metrics if metric.key == key)


def rescore(counts: PatientCounts, *, epoch: str, bootstrap: Bootstrap) -> Rescored:
    """Compute every metric of the counts; all intervals rest on the same resamples of patients.

    `epoch` says how the epoch was chosen, one of `EPOCHS`.
    """
    classes, totals = counts.classes, counts.confusion.sum(axis=1).tolist()
    exact_set, folded_set = find_test_set(totals), find_test_set([totals[0], sum(totals[1:])])
    poor = classes.index(POOR_QUALITY) if POOR_QUALITY in classes else None
    values = []
    for metric in METRICS:
        is_folded = metric.reading == TWO
        if (is_folded and (len(classes) == 2 or poor is not None)) or (metric.reading == UNSCORED and poor is None):
            continue  # it says nothing new, or nothing at all
        confusions = counts.confusions
        if metric.reading in (CHALLENGE, UNSCORED) and poor is not None:
            confusions = leave_out_true_class(confusions, poor)
        estimate = bootstrap.of_counts(confusions, metric.statistic)
        text = estimate_text(estimate, has_patients=counts.has_patients, is_correlation=metric.is_correlation)
        is_beside, beside = column_of(
            metric, folded_set if is_folded else exact_set, is_poor_quality_counted=poor is not None
        )
        values.append(MetricValue(metric.key, metric.name, metric.definition, estimate, text, beside, is_beside))
    if counts.rankings is not None:
        values += _ranking_values(counts, counts.rankings, bootstrap)
    return Rescored(
        counts=counts,
        epoch=epoch,
        metrics=tuple(values),
        per_class=tuple(class_scores(index, name, counts.confusions, bootstrap) for index, name in enumerate(classes)),
        test_set=exact_set,
        two_class_test_set=folded_set if poor is None else None,
    )


def _ranking_values(counts: PatientCounts, rankings: Rankings, bootstrap: Bootstrap) -> list[MetricValue]:
    statistics = {
        "macro_auroc": rankings.macro_auroc,
        "macro_average_precision": rankings.macro_average_precision,
        "abnormal_auroc": rankings.abnormal.auroc,
        "abnormal_average_precision": rankings.abnormal.average_precision,
    }
    # Each patient once: a resample of this table holds how often each is taken, which is what rankings are read by.
    each_once = np.eye(len(counts.confusions), dtype=np.int64)
    values = []
    for key, (name, definition) in RANKING_METRICS.items():
        estimate = bootstrap.of_counts(each_once, statistics[key])
        text = estimate_text(estimate, has_patients=counts.has_patients)
        values.append(MetricValue(key, name, definition, estimate, text, SAME, is_beside_published=False))
    return values


def estimate_text(estimate: Estimate, *, has_patients: bool, is_correlation: bool = False) -> str:
    """A value for readers, in percent but for correlations; without patients there is no interval to speak of."""
    if math.isnan(estimate.value):
        return "n/a"
    interval = estimate.interval
    scale, digits = (1.0, 2) if is_correlation else (100.0, 1)
    value, low, high = (f"{scale * number:.{digits}f}" for number in (estimate.value, interval.low, interval.high))
    if not has_patients:
        return value
    return f"{value} (n/a)" if interval.problem is not None else f"{value} ({low} to {high})"


def reader_warnings(result: Rescored) -> list[str]:
    """Warnings to read before the numbers are set beside others."""
    return [
        *_test_set_warnings(result),
        *_epoch_warnings(result),
        *_interval_warnings(result.counts),
        *_class_warnings(result.counts),
        *_mix_up_warnings(result.counts.confusion),
    ]


def _test_set_warnings(result: Rescored) -> list[str]:
    totals = " / ".join(str(count) for count in result.counts.confusion.sum(axis=1).tolist())
    counted = f"{result.num_cycles} cycles ({totals})"
    exact_set, folded_set = result.test_set, result.two_class_test_set
    if exact_set is not None and exact_set.not_comparable is None:
        if not exact_set.name.startswith(ICBHI):
            return []
        return [
            "Patients 156 and 218 are on both sides of ICBHI's official split: 57 of the 143 test cycles with both "
            "sounds are theirs."
        ]
    if exact_set is not None:
        return [
            f"Not comparable with published columns: {counted} are {exact_set.name}, {exact_set.task}, and "
            f"{exact_set.not_comparable}.",
            *_folded_warnings(folded_set, exact_set),
        ]
    return [
        f"Not comparable with published ICBHI columns: {counted} are not those of the official test set "
        f"({sum(ICBHI_TEST)}: {' / '.join(map(str, ICBHI_TEST))}), nor of another test set that is known here.",
        *_folded_warnings(folded_set, exact_set),
    ]


def _folded_warnings(folded_set: KnownTestSet | None, exact_set: KnownTestSet | None) -> list[str]:
    if folded_set is None or folded_set is exact_set or folded_set.not_comparable is not None:
        return []
    return [f"Read as 2 classes they are {folded_set.name}, {folded_set.task}: those readings may stand there."]


def _epoch_warnings(result: Rescored) -> list[str]:
    """A score is optimistic where the epoch was chosen by it: on that part of the split, not on the others."""
    parts = {part if part in ("train", VALIDATION) else TEST for part in result.counts.parts or (TEST,)}
    is_optimistic = result.epoch in parts or result.epoch not in (TEST, VALIDATION)
    return [EPOCH_REMARKS[result.epoch]] if result.epoch in EPOCH_REMARKS and is_optimistic else []


def _interval_warnings(counts: PatientCounts) -> list[str]:
    num_patients = len(counts.confusions)
    if not counts.has_patients:
        return ["No intervals: nothing says which cycles are of one patient (a table can, with --patient)."]
    if num_patients == 1:
        return ["No intervals: one patient cannot show how patients differ."]
    few = f"The intervals are too narrow: there are only {num_patients} patients."
    return [few] if num_patients < FEW_PATIENTS else []


def _class_warnings(counts: PatientCounts) -> list[str]:
    support = dict(zip(counts.classes, counts.confusion.sum(axis=1).tolist(), strict=True))
    few = [f"{name} ({count})" for name, count in support.items() if 0 < count < FEW_CYCLES]
    absent = [name for name, count in support.items() if count == 0]
    lines = {
        f"Classes with fewer than {FEW_CYCLES} cycles weigh as much as any other in macro means": few,
        "Without a cycle, and left out of macro means": absent,
    }
    return [f"{line}: {', '.join(names)}." for line, names in lines.items() if names]


def _mix_up_warnings(confusion: Counts) -> list[str]:
    score, macro = float(mean_score(confusion)), float(macro_mean_score(confusion))
    lines = []
    if len(confusion) > 2 and not math.isnan(score):
        two = float(mean_score(fold_to_two_classes(confusion)))
        lines.append(
            f"Three numbers that are printed as a Score, of these same predictions: {100 * score:.1f} asks for the "
            f"exact class, {100 * two:.1f} is read as 2 classes ({100 * (two - score):+.1f}), {100 * macro:.1f} is the "
            f"mean of macro recall and macro specificity ({100 * (macro - score):+.1f}). Only like stands beside like."
        )
    if not math.isnan(score) and score <= ALWAYS_NORMAL_SCORE:
        lines.append("The Score is not above the 50.0 of always predicting normal.")
    return lines


def rescore_blocks(results: Sequence[Rescored]) -> list[Block]:
    """The page's blocks: a section for each part of the file."""
    return [block for result in results for block in _section(result)]


def summary(result: Rescored) -> str:
    """The cycles that were counted and the unit of the intervals, in one sentence or two."""
    counts = result.counts
    cycles = "1 cycle" if result.num_cycles == 1 else f"{result.num_cycles} cycles"
    num_patients = len(counts.confusions)
    patients = " of 1 patient" if num_patients == 1 else f" of {num_patients} patients"
    known = f", {result.test_set.name}, {result.test_set.task}" if result.test_set is not None else ""
    level = 100 * result.metrics[0].estimate.interval.level
    intervals = f" In brackets: {level:g} % intervals over patients." if counts.has_patients else ""
    return (
        f"{cycles}{patients if counts.has_patients else ''}{known}; classes {', '.join(counts.classes)}. "
        f"Values in percent.{intervals}"
    )


def _section(result: Rescored) -> list[Block]:
    classes, confusion = result.counts.classes, result.counts.confusion.tolist()
    by_class: list[tuple[Cell, ...]] = []
    for each in result.per_class:
        shares = [result.text(share) for share in (each.recall, each.precision, each.f1)]
        by_class.append((each.name, each.num_cycles, each.num_answered, *shares))
    blocks: list[Block] = [
        Heading(f"Part {result.part}" if result.part else "All rows"),
        Paragraph(summary(result)),
        *map(Remark, reader_warnings(result)),
        Heading("Metrics", 3),
        *metric_table_blocks(result),
        Heading("By class", 3),
        Table(("class", "cycles", "predicted", "recall", "precision", "F1"), by_class),
        Heading("Confusion matrix: true class (rows), predicted class (columns)", 3),
        Table(("", *classes), [(name, *row) for name, row in zip(classes, confusion, strict=True)]),
        *_published_blocks(result),
    ]
    if result.counts.notes:
        blocks += [Heading("How the file was read", 3), Bullets(result.counts.notes)]
    return blocks


def metric_table_blocks(result: Rescored) -> list[Block]:
    """The table of metrics, values before definitions: on a narrow screen the first columns are seen."""
    rows = [(metric.name, metric.text, metric.beside, metric.definition) for metric in result.metrics]
    table = Table(("metric", "value", "may stand beside", "what it is"), rows)
    return [table, *map(Paragraph, result.resample_notes)]


def _published_blocks(result: Rescored) -> list[Block]:
    beside = [score for score in result.published if score.not_comparable is None]
    apart = [score for score in result.published if score.not_comparable is not None]
    if not beside:
        return []
    heading = Heading("Published numbers of this test set, in percent", 3)
    head = ("method", "from", "task", "Sp", "Se", "Score", "epoch chosen", "this file minus it")
    rows = sorted(beside, key=lambda score: (score.task, score.score or 0.0))
    blocks: list[Block] = [heading, Table(head, [_published_row(result, score) for score in rows])]
    if apart:
        numbers = ["" if score.score is None else f" ({score.score:.2f})" for score in apart]
        lines = [f"{score.name}{n}: {score.not_comparable}." for score, n in zip(apart, numbers, strict=True)]
        blocks += [Paragraph("Published too, but not to stand beside:"), Bullets(lines)]
    return blocks


def _published_row(result: Rescored, score: PublishedScore) -> tuple[str, ...]:
    source = score.paper if score.year is None else f"{score.paper} {score.year}"
    deviation = "" if score.score_sd is None else f" \N{PLUS-MINUS SIGN} {score.score_sd:.2f}"
    ours = result.estimate_beside(score).value
    parts = ["" if value is None else f"{value:.2f}" for value in (score.specificity, score.sensitivity, score.score)]
    difference = "" if score.score is None or math.isnan(ours) else f"{100 * ours - score.score:+.1f}"
    return (score.name, source, score.task, *parts[:2], parts[2] + deviation, EPOCHS[score.epoch], difference)


def write_rescore(folder: Path, source: Path, results: Sequence[Rescored]) -> Path:
    """Write rescore.md, rescore.html and rescore.json; return the path of the HTML page."""
    write_page(folder / "rescore", f"Every metric of {source.name}", rescore_blocks(results))
    values = {
        "format": "lungsound rescore 1",
        "unit": "fraction",
        "file": str(source),
        "parts": [_part_json(result) for result in results],
    }
    write_json(folder / "rescore.json", values)
    return folder / "rescore.html"


def _part_json(result: Rescored) -> dict[str, Any]:
    counts = result.counts

    def value_json(estimate: Estimate) -> dict[str, float | int | None]:
        interval = estimate.interval
        num_undefined = interval.num_undefined if counts.has_patients else None
        return {"value": estimate.value, "low": interval.low, "high": interval.high, "num_undefined": num_undefined}

    return {
        "part": result.part,
        "test_set": None if result.test_set is None else f"{result.test_set.name}, {result.test_set.task}",
        "epoch": result.epoch,
        "classes": list(counts.classes),
        "confusion": counts.confusion.tolist(),
        "intervals_over": "patient" if counts.has_patients else None,
        "num_units": len(counts.confusions) if counts.has_patients else None,
        "metrics": [
            {
                "key": metric.key,
                "name": metric.name,
                "definition": metric.definition,
                "may_stand_beside": metric.beside,
                "is_beside_published": metric.is_beside_published,
            }
            | value_json(metric.estimate)
            for metric in result.metrics
        ],
        "by_class": [
            {"name": each.name, "num_cycles": each.num_cycles, "num_answered": each.num_answered}
            | {name: value_json(getattr(each, name)) for name in ("recall", "precision", "f1")}
            for each in result.per_class
        ],
        "warnings": reader_warnings(result),
        "notes": list(counts.notes),
    }
