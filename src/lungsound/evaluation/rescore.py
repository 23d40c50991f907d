"""Every metric of predictions or of a confusion matrix, with interval, published column and what to know first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from lungsound.config import Settings
from lungsound.evaluation import metrics
from lungsound.evaluation.bootstrap import FEW_PATIENTS, Bootstrap, Estimate, count_by_patient
from lungsound.evaluation.metrics import Counts, Statistic
from lungsound.evaluation.predictions import HELD_OUT_PARTS, Predictions
from lungsound.evaluation.scores import ClassScores, class_scores
from lungsound.evaluation.selection import TEST
from lungsound.files import shipped, write_json
from lungsound.page import counted, fill, paragraphs, table, write_page

NO_COLUMN = "no published column"
POOR_QUALITY = "Poor Quality"  # a class of SPRSound's recordings that is neither normal nor abnormal
FEW_CYCLES = 10


class Metric(Settings):
    """A row of metrics.toml."""

    key: str
    name: str
    definition: str
    statistic: str = ""
    reading: Literal["exact", "two_class", "challenge", "poor_quality", "ranking"] = "exact"
    columns: Mapping[str, str] = {}
    beside: str = "same metric, same cycles"
    is_correlation: bool = False


class KnownTestSet(Settings, strict=False):
    """A test set and task that a file is recognised by: the cycles of each true class, the normal one first."""

    name: str
    task: str
    totals: tuple[int, ...]
    short: str = ""
    remark: str | None = None
    not_comparable: str | None = None


class PublishedScore(Settings):
    """A published result of one method, in percent."""

    name: str
    paper: str
    test_set: str
    task: str
    epoch: Literal["last", "validation", "test", "unknown", "none"]
    source: Literal["authors", "tables", "reproduction", "computed"]
    year: int | None = None
    specificity: float | None = None
    sensitivity: float | None = None
    score: float | None = None
    score_sd: float | None = None
    not_comparable: str | None = None


class KnownNumbers(Settings, strict=False):
    """The tables of metrics.toml and published_scores.toml."""

    metrics: tuple[Metric, ...]
    test_sets: tuple[KnownTestSet, ...]
    scores: tuple[PublishedScore, ...]
    epochs: Mapping[str, Mapping[str, str]]


@cache
def known_numbers() -> KnownNumbers:
    """Every metric, known test set and published score."""
    values, more = (shipped("evaluation", name) for name in ("metrics.toml", "published_scores.toml"))
    return KnownNumbers.model_validate(values | more)


def find_test_set(totals: Sequence[int]) -> KnownTestSet | None:
    """The known test set with these cycles of each true class: normal ones first, the others in any order."""

    def in_order(counts: Sequence[int]) -> list[int]:
        return [counts[0], *sorted(filter(None, counts[1:]))]

    return next((known for known in known_numbers().test_sets if in_order(known.totals) == in_order(totals)), None)


@dataclass(frozen=True, eq=False)
class CycleTable:
    """A foreign table: true and predicted class index of each cycle `(cycle,)`, probabilities `(cycle, class)`.

    Probabilities and patients are None when the file has none; a part of the split is "" when it is not known.
    """

    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64] | None
    patients: tuple[str, ...] | None
    parts: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PatientCounts:
    """Confusion matrices `(patient, true class, predicted class)` of some parts of a split; class 0 is the normal one.

    Without patients there is one matrix of all cycles, and no interval. `rankings` are `metrics.ranking_statistics`,
    where there are probabilities; `notes` state how a file was read.
    """

    classes: tuple[str, ...]
    confusions: Counts
    has_patients: bool
    parts: tuple[str, ...] = ()
    rankings: Mapping[str, Statistic] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, cycles: Predictions | CycleTable, parts: Sequence[str]) -> "PatientCounts":
        """Count the cycles of these parts of the split."""
        rows = np.flatnonzero([part in parts for part in cycles.parts])
        labels, shares = cycles.labels[rows], cycles.probabilities
        patients = [cycles.patients[row] for row in rows] if cycles.patients is not None else [""] * len(rows)
        return cls(
            classes=cycles.classes,
            confusions=count_by_patient(patients, labels, cycles.predicted[rows], num_classes=len(cycles.classes)),
            has_patients=cycles.patients is not None,
            parts=tuple(filter(None, parts)),
            rankings={} if shares is None else metrics.ranking_statistics(shares[rows], labels, patients),
            notes=cycles.notes if isinstance(cycles, CycleTable) else (),
        )

    @property
    def confusion(self) -> Counts:
        """All patients together."""
        return np.asarray(self.confusions.sum(axis=0))

    def text(self, estimate: Estimate, *, is_correlation: bool = False) -> str:
        """A fraction in percent, a correlation as it is; with an interval where patients are known."""
        text = estimate.in_units(digits=2) if is_correlation else estimate.in_percent()
        return text if self.has_patients else text.removesuffix(" (n/a)")


@dataclass(frozen=True)
class MetricValue:
    """One metric with its value, and the published column that it is comparable with."""

    key: str
    name: str
    definition: str
    estimate: Estimate
    text: str
    beside: str
    is_beside_published: bool


@dataclass(frozen=True, eq=False)
class Rescored:
    """Every metric of some parts of a file. `epoch` is a way to choose the epoch, a key of `KnownNumbers.epochs`."""

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
    def published(self) -> list[PublishedScore]:
        """All published scores of this test set and its tasks, the best of each task last."""
        sets = (self.test_set, self.two_class_test_set)
        names = [(known.name, known.task) for known in sets if known and not known.not_comparable]
        scores = (score for score in known_numbers().scores if (score.test_set, score.task) in names)
        return sorted(scores, key=lambda score: (score.task, score.score or 0.0))

    def estimate_beside(self, score: PublishedScore) -> Estimate:
        """Our Score that is counted as the published one."""
        is_exact = self.test_set is not None and score.task == self.test_set.task
        key = "score" if is_exact else "two_class_score"
        return next(metric.estimate for metric in self.metrics if metric.key == key)


def rescore(counts: PatientCounts, *, epoch: str, bootstrap: Bootstrap) -> Rescored:
    """Compute every metric of the counts; all intervals rest on the same resamples of patients."""
    classes, totals = counts.classes, counts.confusion.sum(axis=1).tolist()
    test_set, two_class_test_set = find_test_set(totals), find_test_set([totals[0], sum(totals[1:])])
    readings = {"exact": counts.confusions, "challenge": counts.confusions}
    if POOR_QUALITY in classes:
        without_poor = metrics.leave_out_true_class(counts.confusions, classes.index(POOR_QUALITY))
        readings |= {"challenge": without_poor, "poor_quality": without_poor}
        two_class_test_set = None
    elif len(classes) > 2:
        readings["two_class"] = metrics.fold_to_two_classes(counts.confusions)
    if counts.rankings:
        # Each patient once: a resample of this table is how often each is taken, from which rankings are computed.
        readings["ranking"] = np.eye(len(counts.confusions), dtype=np.int64)
    values = []
    for metric in known_numbers().metrics:
        if metric.reading not in readings:
            continue
        statistic = counts.rankings.get(metric.key) or getattr(metrics, metric.statistic)
        estimate = bootstrap.of_counts(readings[metric.reading], statistic)
        text = counts.text(estimate, is_correlation=metric.is_correlation)
        known = two_class_test_set if metric.reading == "two_class" else test_set
        # The challenge leaves poor recordings out of its SE and AS, the exact metrics do not.
        is_other = "poor_quality" in readings and metric.key in ("sensitivity", "score")
        beside, column = NO_COLUMN if metric.columns else metric.beside, None
        if known is not None and known.not_comparable is None and not is_other:
            column = metric.columns.get(known.name.split()[0])
            beside = f"{column} of {known.short}" if column else beside
        names = (metric.key, metric.name, metric.definition)
        values.append(MetricValue(*names, estimate, text, beside, column is not None))
    per_class = class_scores(classes, counts.confusions, bootstrap)
    return Rescored(counts, epoch, tuple(values), per_class, test_set, two_class_test_set)


def reader_warnings(result: Rescored) -> list[str]:
    """Warnings to read before the numbers are set beside others."""
    counts, test_set, two_class_set = result.counts, result.test_set, result.two_class_test_set
    support = dict(zip(counts.classes, counts.confusion.sum(axis=1).tolist(), strict=True))
    cycles = f"{sum(support.values())} cycles ({' / '.join(map(str, support.values()))})"
    warnings = []
    if test_set is None:
        official = known_numbers().test_sets[0].totals
        warnings.append(
            f"Not comparable with published ICBHI columns: {cycles} are not those of the official test set "
            f"({sum(official)}: {' / '.join(map(str, official))}), nor of another test set that is known here."
        )
    elif test_set.not_comparable is not None:
        known = f"{test_set.name}, {test_set.task}"
        warnings.append(f"Not comparable with published columns: {cycles} are {known}, and {test_set.not_comparable}.")
    elif test_set.remark is not None:
        warnings.append(test_set.remark)
    if (test_set is None or test_set.not_comparable) and two_class_set and not two_class_set.not_comparable:
        known = f"{two_class_set.name}, {two_class_set.task}"
        warnings.append(f"Read as 2 classes they are {known}: those readings may stand there.")

    # A score is optimistic where the epoch was chosen by it: on that part of the split, not on the others.
    parts = {part if part in ("train", *HELD_OUT_PARTS) else TEST for part in counts.parts or (TEST,)}
    remark = known_numbers().epochs[result.epoch].get("remark")
    if remark and result.epoch in parts | {"unknown"}:
        warnings.append(remark)

    num_patients = len(counts.confusions)
    if not counts.has_patients:
        warnings.append("No intervals: nothing says which cycles are of one patient (a table can, with --patient).")
    elif num_patients == 1:
        warnings.append("No intervals: one patient cannot show how patients differ.")
    elif num_patients < FEW_PATIENTS:
        warnings.append(f"The intervals are too narrow: there are only {num_patients} patients.")

    if few := [f"{name} ({number})" for name, number in support.items() if 0 < number < FEW_CYCLES]:
        warnings.append(
            f"Classes with fewer than {FEW_CYCLES} cycles weigh as much as any other in macro means: {', '.join(few)}."
        )
    if absent := [name for name, number in support.items() if number == 0]:
        warnings.append(f"Without a cycle, and left out of macro means: {', '.join(absent)}.")

    score = float(metrics.mean_score(counts.confusion))
    if len(support) > 2 and not math.isnan(score):
        two_class = metrics.two_class_score(counts.confusion).score
        macro = float(metrics.macro_mean_score(counts.confusion))
        warnings.append(
            f"Three numbers that are printed as a Score, of these same predictions: {100 * score:.1f} asks for the "
            f"exact class, {100 * two_class:.1f} is read as 2 classes ({100 * (two_class - score):+.1f}), "
            f"{100 * macro:.1f} is the mean of macro recall and macro specificity ({100 * (macro - score):+.1f}). "
            "Only like stands beside like."
        )
    if score <= metrics.ALWAYS_NORMAL_SCORE:
        warnings.append("The Score is not above the 50.0 of always predicting normal.")
    return warnings


def summary(result: Rescored) -> str:
    """The cycles that were counted and the unit of the intervals, in one sentence or two."""
    counts, num_patients = result.counts, len(result.counts.confusions)
    cycles = counted(int(counts.confusion.sum()), "cycle")
    if counts.has_patients:
        cycles += f" of {counted(num_patients, 'patient')}"
    known = f", {result.test_set.name}, {result.test_set.task}" if result.test_set is not None else ""
    level = 100 * result.metrics[0].estimate.interval.level
    intervals = f" In brackets: {level:g} % intervals over patients." if counts.has_patients else ""
    return f"{cycles}{known}; classes {', '.join(counts.classes)}. Values in percent.{intervals}"


def metric_table(result: Rescored) -> Markup:
    """The table of metrics as Markdown, values before definitions: on a narrow screen the first columns are seen."""
    rows = [(metric.name, metric.text, metric.beside, metric.definition) for metric in result.metrics]
    return paragraphs(table(("metric", "value", "comparable with", "what it is"), rows), *resample_notes(result))


def resample_notes(result: Rescored) -> list[str]:
    """Metrics that have no value in some of the resamples, since a class is missing there; none without any."""
    intervals = {metric.name: metric.estimate.interval for metric in result.metrics}
    names = {name: each for name, each in intervals.items() if each.num_patients > 1 and each.num_undefined}
    if not names:
        return []
    most = max(names.values(), key=lambda each: each.num_undefined)
    return [
        f"A class is missing, so that there is no value, in up to {most.num_undefined} of {most.num_draws} resamples: "
        f"{', '.join(names)}. The intervals are over the other resamples; n/a where these are fewer than half."
    ]


def write_rescore(folder: Path, source: Path, results: Sequence[Rescored]) -> Path:
    """Write rescore.md, rescore.html and rescore.json; return the path of the HTML page."""
    sentences = {"warnings": reader_warnings, "summary": summary, "metric_table": metric_table}
    page = fill("rescore.md", results=results, epochs=known_numbers().epochs, **sentences)
    write_page(folder / "rescore", f"Every metric of {source.name}", page)
    parts = [_part_json(result) for result in results]
    numbers = {"format": "lungsound rescore 1", "unit": "fraction", "file": str(source), "parts": parts}
    write_json(folder / "rescore.json", numbers)
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
        "classes": counts.classes,
        "confusion": counts.confusion,
        "intervals_over": "patient" if counts.has_patients else None,
        "num_units": len(counts.confusions) if counts.has_patients else None,
        "metrics": [
            {"key": metric.key, "name": metric.name, "definition": metric.definition}
            | {"may_stand_beside": metric.beside, "is_beside_published": metric.is_beside_published}
            | value_json(metric.estimate)
            for metric in result.metrics
        ],
        "by_class": [
            {"name": each.name, "num_cycles": each.num_cycles, "num_answered": each.num_answered}
            | {name: value_json(getattr(each, name)) for name in ("recall", "precision", "f1")}
            for each in result.per_class
        ],
        "warnings": reader_warnings(result),
        "notes": counts.notes,
    }
