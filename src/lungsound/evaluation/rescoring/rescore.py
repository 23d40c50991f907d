"""From anyone's counts to every metric in use, each with its name, an interval over patients and the published column
that it may stand beside.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lungsound.evaluation.metrics import (
    Counts,
    Fractions,
    f1,
    leave_out_true_class,
    precision,
    recall,
)
from lungsound.evaluation.rescoring.class_names import POOR_QUALITY_SPELLINGS, plain
from lungsound.evaluation.rescoring.metric_list import CHALLENGE, METRICS, RANKING_METRICS, SAME, TWO, UNSCORED, Metric
from lungsound.evaluation.rescoring.published import KnownTestSet, PublishedScore, find_test_set, scores_of
from lungsound.evaluation.rescoring.ranking import Rankings
from lungsound.evaluation.rescoring.tally import Tally
from lungsound.evaluation.rescoring.warnings import reader_warnings
from lungsound.evaluation.uncertainty import LEVEL, NUM_DRAWS, Interval, Statistic, estimate_over_patients

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
