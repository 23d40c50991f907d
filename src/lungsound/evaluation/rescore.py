"""What a reader must know before the numbers of a file are set beside others.

From anyone's counts to every metric in use, each with its name, an interval over patients and the published column
that it may stand beside.

The page of `lungsound rescore`: every metric of a file, what it may stand beside, and what was published there.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lungsound.evaluation.bootstrap import FEW_PATIENTS, LEVEL, NUM_DRAWS, Interval, estimate_over_patients
from lungsound.evaluation.metrics import (
    ALWAYS_NORMAL_SCORE,
    Counts,
    Fractions,
    Rankings,
    Statistic,
    f1,
    fold_to_two_classes,
    leave_out_true_class,
    macro_mean_score,
    mean_score,
    precision,
    recall,
)
from lungsound.evaluation.published import (
    CHALLENGE,
    ICBHI,
    METRICS,
    RANKING_METRICS,
    SAME,
    TWO,
    UNSCORED,
    KnownTestSet,
    Metric,
    PublishedScore,
    find_test_set,
    scores_of,
)
from lungsound.evaluation.rescore_files import POOR_QUALITY_SPELLINGS, RECORDING, Tally, plain
from lungsound.evaluation.selection import TEST, VALIDATION
from lungsound.page import Block, Bullets, Heading, Paragraph, Remark, Table

FEW_CYCLES = 10
ICBHI_TEST = (1579, 649, 385, 143)
# Names of parts of a split, as `plain` gives them; any other is of the test.
PARTS = {"train": "train", "training": "train"} | dict.fromkeys(("validation", "valid", "val", "dev"), VALIDATION)
EPOCH_REMARKS = {
    TEST: "The epoch was chosen on the test set itself: this score is optimistic (Patch-Mix contrastive learning: "
    "61.49 with the epoch chosen on test, 59.59 for the same five runs at their last epoch).",
    VALIDATION: "The epoch was chosen on the validation set itself: this score is optimistic.",
    "unknown": "How the epoch was chosen is not stated (--epoch last, validation or test): chosen on the test set it "
    "is worth about 1.9 points.",
}


def reader_warnings(
    tally: Tally, exact_set: KnownTestSet | None, folded_set: KnownTestSet | None, epoch: str
) -> list[str]:
    """What a reader must know before the numbers are set beside others."""
    return [
        *_test_set_warnings(tally, exact_set, folded_set),
        *_epoch_warnings(tally, epoch),
        *_unit_warnings(tally),
        *_class_warnings(tally),
        *_mix_up_warnings(tally),
    ]


def _test_set_warnings(tally: Tally, exact_set: KnownTestSet | None, folded_set: KnownTestSet | None) -> list[str]:
    totals = " / ".join(str(count) for count in tally.confusion.sum(axis=1).tolist())
    counted = f"{int(tally.confusion.sum())} cycles ({totals})"
    also = []
    if folded_set is not None and folded_set is not exact_set and folded_set.not_comparable is None:
        also = [f"Read as 2 classes they are {folded_set.name}, {folded_set.task}: those readings may stand there."]
    if exact_set is None:
        return [
            f"Not comparable with published ICBHI columns: {counted} are not those of the official test set "
            f"({sum(ICBHI_TEST)}: {' / '.join(map(str, ICBHI_TEST))}), nor of another test set that is known here.",
            *also,
        ]
    if exact_set.not_comparable is not None:
        return [
            f"Not comparable with published columns: {counted} are {exact_set.name}, {exact_set.task}, and "
            f"{exact_set.not_comparable}.",
            *also,
        ]
    if exact_set.name.startswith(ICBHI):
        return [
            "Patients 156 and 218 are on both sides of ICBHI's official split: 57 of the 143 test cycles with both "
            "sounds are theirs."
        ]
    return []


def _epoch_warnings(tally: Tally, epoch: str) -> list[str]:
    """A score is optimistic where the epoch was chosen by it: on that part of the split, not on the others."""
    parts = {PARTS.get(plain(part), TEST) for part in tally.parts or (TEST,)}
    is_said = epoch in EPOCH_REMARKS and (epoch in parts or epoch not in (TEST, VALIDATION))
    return [EPOCH_REMARKS[epoch]] if is_said else []


def _unit_warnings(tally: Tally) -> list[str]:
    if not tally.unit:
        return [f"No intervals: {tally.no_unit}."]
    lines = []
    if tally.unit == RECORDING:
        lines.append(
            "Intervals are over recordings, since no patients are named: recordings of one patient resemble each "
            "other, so they are too narrow. Name the patients' column with --patient-column."
        )
    num_units = len(tally.confusions)
    if num_units == 1:
        lines.append(f"No intervals: one {tally.unit} cannot show how {tally.unit}s differ.")
    elif num_units < FEW_PATIENTS:
        lines.append(f"The intervals are too narrow: there are only {num_units} {tally.unit}s.")
    return lines


def _class_warnings(tally: Tally) -> list[str]:
    support = tally.confusion.sum(axis=1)
    few = [
        f"{name} ({count})"
        for name, count in zip(tally.classes, support.tolist(), strict=True)
        if 0 < count < FEW_CYCLES
    ]
    absent = [name for name, count in zip(tally.classes, support.tolist(), strict=True) if count == 0]
    lines = []
    if few:
        lines.append(
            f"Classes with fewer than {FEW_CYCLES} cycles weigh as much as any other in macro means: {', '.join(few)}."
        )
    if absent:
        lines.append(f"Without a cycle, and left out of macro means: {', '.join(absent)}.")
    return lines


def _mix_up_warnings(tally: Tally) -> list[str]:
    score, macro = float(mean_score(tally.confusion)), float(macro_mean_score(tally.confusion))
    lines = []
    if len(tally.classes) > 2 and not math.isnan(score):
        two = float(mean_score(fold_to_two_classes(tally.confusion)))
        lines.append(
            f"Three numbers that are printed as a Score, of these same answers: {100 * score:.1f} asks for the exact "
            f"class, {100 * two:.1f} is read as 2 classes ({100 * (two - score):+.1f}), {100 * macro:.1f} is the mean "
            f"of macro recall and macro specificity ({100 * (macro - score):+.1f}). Only like stands beside like."
        )
    if not math.isnan(score) and score <= ALWAYS_NORMAL_SCORE:
        lines.append("The Score is not above the 50.0 of always answering normal.")
    return lines


NO_COLUMN = "no published column"


@dataclass(frozen=True)
class Value:
    """A number, NaN when it is not defined, with its interval; None when the units to draw from are not known."""

    value: float
    interval: Interval | None

    def text(self, scale: float = 100.0) -> str:
        """For readers: "62.4 (55.1 to 69.0)"; "62.4" where intervals are not known, "62.4 (n/a)" where there is none;
        "n/a" without a value.
        """
        digits = 1 if scale == 100.0 else 2
        if math.isnan(self.value):
            return "n/a"
        shown = f"{scale * self.value:.{digits}f}"
        if self.interval is None:
            return shown
        if self.interval.problem is not None:
            return f"{shown} (n/a)"
        return f"{shown} ({scale * self.interval.low:.{digits}f} to {scale * self.interval.high:.{digits}f})"


@dataclass(frozen=True)
class Line:
    """One metric of one part of a file; `beside` is the published column that it may stand beside."""

    key: str
    name: str
    definition: str
    value: Value
    beside: str
    is_beside_published: bool = False

    @property
    def text(self) -> str:
        """In percent, but for correlations, which go from -1 to 1."""
        return self.value.text(1.0 if "-1 to 1" in self.name else 100.0)


@dataclass(frozen=True)
class ClassLine:
    """How one class was answered."""

    name: str
    num_cycles: int
    num_answered: int
    recall: Value
    precision: Value
    f1: Value


@dataclass(frozen=True, eq=False)
class Rescored:
    """Every metric of one part of a file. `unit` is what intervals are over: "patient", "recording" or ""."""

    part: str
    classes: tuple[str, ...]
    confusion: Counts
    unit: str
    num_units: int
    epoch: str
    lines: tuple[Line, ...]
    per_class: tuple[ClassLine, ...]
    test_set: KnownTestSet | None
    two_class_test_set: KnownTestSet | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def resample_notes(self) -> list[str]:
        """Which metrics have no value in how many of the resamples, since a class is missing there."""
        by_count: dict[tuple[int, int], list[str]] = {}
        for line in self.lines:
            interval = line.value.interval
            if interval is not None and interval.num_patients > 1 and interval.num_undefined:
                by_count.setdefault((interval.num_undefined, interval.num_draws), []).append(line.name)
        return [
            f"A class is missing, so that there is no value, in {num_undefined} of {num_draws} resamples: "
            f"{', '.join(names)}. The intervals are over the other resamples; n/a where these are fewer than half."
            for (num_undefined, num_draws), names in by_count.items()
        ]

    @property
    def published(self) -> list[PublishedScore]:
        """What was published for this test set and its tasks."""
        sets = [known for known in (self.test_set, self.two_class_test_set) if known and not known.not_comparable]
        return [score for known in dict.fromkeys(sets) for score in scores_of(known)]

    def value_beside(self, score: PublishedScore) -> Value:
        """Our Score that is counted as the published one."""
        is_exact = self.test_set is not None and score.task == self.test_set.task
        key = "score" if is_exact else "two_class_score"
        return next(line.value for line in self.lines if line.key == key)


Estimator = Callable[[Counts, Statistic], Value]


def rescore(
    tally: Tally, *, epoch: str = "unknown", seed: int = 0, num_draws: int = NUM_DRAWS, level: float = LEVEL
) -> Rescored:
    """Every metric of a tally. `epoch` says how the epoch was chosen, one of `published.EPOCH_CHOICES`.

    All intervals rest on the same resamples of patients (of recordings, where patients are not known): `seed` fixes
    which.
    """

    def estimate(counts: Counts, statistic: Statistic) -> Value:
        if not tally.unit:
            return Value(float(statistic(counts.sum(axis=0))), None)
        generator = np.random.default_rng(seed)
        found = estimate_over_patients(counts, statistic, generator=generator, num_draws=num_draws, level=level)
        return Value(found.value, found.interval)

    totals = tally.confusion.sum(axis=1).tolist()
    exact_set = find_test_set(totals)
    folded_set = find_test_set([totals[0], sum(totals[1:])])
    unscored = next((i for i, name in enumerate(tally.classes) if plain(name) in POOR_QUALITY_SPELLINGS), None)
    lines = []
    for metric in METRICS:
        if _is_left_out(metric, len(tally.classes), has_unscored=unscored is not None):
            continue
        counts = tally.confusions
        if metric.reading in (CHALLENGE, UNSCORED) and unscored is not None:
            counts = leave_out_true_class(counts, unscored)
        is_beside, beside = _beside(metric, folded_set if metric.reading == TWO else exact_set, unscored is not None)
        value = estimate(counts, metric.statistic)
        lines.append(Line(metric.key, metric.name, metric.definition, value, beside, is_beside))
    if tally.rankings is not None:
        lines += _ranking_lines(tally.rankings, len(tally.confusions), estimate)
    return Rescored(
        part=tally.part,
        classes=tally.classes,
        confusion=tally.confusion,
        unit=tally.unit,
        num_units=len(tally.confusions),
        epoch=epoch,
        lines=tuple(lines),
        per_class=tuple(_class_line(tally, index, estimate) for index in range(len(tally.classes))),
        test_set=exact_set,
        two_class_test_set=folded_set if unscored is None else None,
        warnings=tuple(reader_warnings(tally, exact_set, folded_set, epoch)),
        notes=tally.notes,
    )


def _is_left_out(metric: Metric, num_classes: int, *, has_unscored: bool) -> bool:
    """Whether a metric says nothing new, or (of Poor Quality: neither normal nor abnormal) nothing at all."""
    if metric.reading == TWO:
        return num_classes == 2 or has_unscored
    return metric.reading == UNSCORED and not has_unscored


def _beside(metric: Metric, test_set: KnownTestSet | None, has_unscored: bool) -> tuple[bool, str]:
    """Whether a published column may stand beside the metric, and which."""
    if not metric.columns:
        return False, metric.elsewhere
    is_mixed = metric.key in ("sensitivity", "score") and has_unscored  # the challenge leaves Poor Quality out
    if test_set is None or test_set.not_comparable is not None or is_mixed:
        return False, NO_COLUMN
    column = next((column for corpus, column in metric.columns.items() if test_set.name.startswith(corpus)), None)
    return (False, NO_COLUMN) if column is None else (True, f"{column} of {test_set.short}")


def _ranking_lines(rankings: Rankings, num_units: int, estimate: Estimator) -> list[Line]:
    statistics: dict[str, Callable[[Counts], Fractions]] = {
        "macro_auroc": rankings.macro_auroc,
        "macro_average_precision": rankings.macro_average_precision,
        "abnormal_auroc": rankings.abnormal.auroc,
        "abnormal_average_precision": rankings.abnormal.average_precision,
    }
    # Each unit once: a resample of this table holds how often each unit is taken, which is what rankings are read by.
    each_once = np.eye(num_units, dtype=np.int64)
    return [
        Line(key, name, definition, estimate(each_once, statistics[key]), SAME)
        for key, (name, definition) in RANKING_METRICS.items()
    ]


def _class_line(tally: Tally, index: int, estimate: Estimator) -> ClassLine:
    def of_class(statistic: Statistic) -> Value:
        return estimate(tally.confusions, lambda counts: statistic(counts)[..., index])

    return ClassLine(
        name=tally.classes[index],
        num_cycles=int(tally.confusion[index].sum()),
        num_answered=int(tally.confusion[:, index].sum()),
        recall=of_class(recall),
        precision=of_class(precision),
        f1=of_class(f1),
    )


EPOCHS = {
    "last": "last",
    "validation": "on validation patients",
    "test": "on test (optimistic)",
    "unknown": "not known",
    "none": "nothing trained",
}


def rescore_blocks(results: Sequence[Rescored]) -> list[Block]:
    """The page's blocks: a section for each part of the file."""
    blocks: list[Block] = []
    for result in results:
        blocks += _section(result)
    return blocks


def summary(result: Rescored) -> str:
    """What was counted and over what the intervals are, as one sentence or two."""
    num_cycles = int(result.confusion.sum())
    known = f", {result.test_set.name}, {result.test_set.task}" if result.test_set is not None else ""
    level = next((line.value.interval.level for line in result.lines if line.value.interval is not None), None)
    units = f"{result.num_units} {result.unit}{'' if result.num_units == 1 else 's'}"
    over = f" of {units}" if result.unit else ""
    intervals = f" In brackets: {100 * level:g} % intervals over {result.unit}s." if level is not None else ""
    cycles = f"{num_cycles} cycle{'' if num_cycles == 1 else 's'}"
    return f"{cycles}{over}{known}; classes {', '.join(result.classes)}. Values in percent.{intervals}"


def _section(result: Rescored) -> list[Block]:
    confusion = result.confusion.tolist()
    blocks: list[Block] = [Heading(f"Part {result.part}" if result.part else "All rows"), Paragraph(summary(result))]
    blocks += [Remark(warning) for warning in result.warnings]
    blocks += [
        Heading("Metrics", 3),
        *metric_table_blocks(result),
        Heading("By class", 3),
        Table(
            ("class", "cycles", "answered", "recall", "precision", "F1"),
            [
                (
                    each.name,
                    each.num_cycles,
                    each.num_answered,
                    *(v.text() for v in (each.recall, each.precision, each.f1)),
                )
                for each in result.per_class
            ],
        ),
        Heading("Confusion matrix: true class (rows), answer (columns)", 3),
        Table(("", *result.classes), [(name, *row) for name, row in zip(result.classes, confusion, strict=True)]),
        *_published_blocks(result),
    ]
    if result.notes:
        blocks += [Heading("How the file was read", 3), Bullets(result.notes)]
    return blocks


def metric_table_blocks(result: Rescored) -> list[Block]:
    """The table of metrics, values before definitions: on a narrow screen the first columns are seen."""
    rows = [(line.name, line.text, line.beside, line.definition) for line in result.lines]
    table = Table(("metric", "value", "may stand beside", "what it is"), rows)
    return [table, *(Paragraph(note) for note in result.resample_notes)]


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
        blocks += [
            Paragraph("Published too, but not to stand beside:"),
            Bullets([f"{score.name}{_number_text(score)}: {score.not_comparable}." for score in apart]),
        ]
    return blocks


def _number_text(score: PublishedScore) -> str:
    return "" if score.score is None else f" ({score.score:.2f})"


def _published_row(result: Rescored, score: PublishedScore) -> tuple[str, ...]:
    source = score.paper if score.year is None else f"{score.paper} {score.year}"
    spread = "" if score.score_sd is None else f" \N{PLUS-MINUS SIGN} {score.score_sd:.2f}"
    ours = result.value_beside(score).value
    parts = ["" if value is None else f"{value:.2f}" for value in (score.specificity, score.sensitivity, score.score)]
    difference = "" if score.score is None or math.isnan(ours) else f"{100 * ours - score.score:+.1f}"
    return (score.name, source, score.task, *parts[:2], parts[2] + spread, EPOCHS[score.epoch], difference)


def rescore_json(results: Sequence[Rescored], *, source: str) -> dict[str, Any]:
    """All of it as plain values; numbers that are not defined are null, fractions are from 0 to 1."""
    return {
        "format": "lungsound rescore 1",
        "unit": "fraction",
        "file": source,
        "parts": [_plain_part(result) for result in results],
    }


def _plain_part(result: Rescored) -> dict[str, Any]:
    return {
        "part": result.part,
        "test_set": None if result.test_set is None else f"{result.test_set.name}, {result.test_set.task}",
        "epoch": result.epoch,
        "classes": list(result.classes),
        "confusion": result.confusion.tolist(),
        "intervals_over": result.unit or None,
        "num_units": result.num_units if result.unit else None,
        "metrics": [_plain_line(line) for line in result.lines],
        "by_class": [_plain_class(each) for each in result.per_class],
        "warnings": list(result.warnings),
        "notes": list(result.notes),
    }


def _plain_line(line: Line) -> dict[str, Any]:
    texts = {"key": line.key, "name": line.name, "definition": line.definition, "may_stand_beside": line.beside}
    return texts | {"is_beside_published": line.is_beside_published} | _plain_value(line.value)


def _plain_class(each: ClassLine) -> dict[str, Any]:
    values = {name: _plain_value(getattr(each, name)) for name in ("recall", "precision", "f1")}
    return {"name": each.name, "num_cycles": each.num_cycles, "num_answered": each.num_answered} | values


def _plain_value(value: Value) -> dict[str, float | int | None]:
    interval = value.interval
    numbers = {
        "value": value.value,
        "low": math.nan if interval is None else interval.low,
        "high": math.nan if interval is None else interval.high,
    }
    plain = {name: None if math.isnan(number) else number for name, number in numbers.items()}
    return plain | {"num_undefined": None if interval is None else interval.num_undefined}
