"""Every metric in use in this field: its name, its definition in words, and the published columns that hold it.

Known test sets and published numbers (`published_scores.toml`): which column a number may stand beside.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from lungsound.evaluation import metrics
from lungsound.evaluation.metrics import Counts, Fractions, Statistic, fold_to_two_classes

ICBHI, SPRSOUND = "ICBHI 2017", "SPRSound 2022"
# How answers are read. EXACT asks for the very class, TWO for normal or not. CHALLENGE is EXACT without the cycles that
# are truly of Poor Quality; UNSCORED too, for what is the same as an EXACT metric where there is no such class.
EXACT, TWO, CHALLENGE, UNSCORED = "exact", "two", "challenge", "unscored"

SAME, NO_SCORE = "same metric, same cycles", "no Sp, Se or Score column"


@dataclass(frozen=True)
class Metric:
    """A named number that is read from a confusion matrix.

    `columns` are the names of the published columns that hold it, by corpus; a metric without any may stand only
    beside the same metric on the same cycles, as `elsewhere` says.
    """

    key: str
    name: str
    definition: str
    reading: str
    statistic: Statistic
    columns: Mapping[str, str] = field(default_factory=dict)
    elsewhere: str = SAME


def _two(statistic: Statistic) -> Statistic:
    def of_folded(confusion: Counts) -> Fractions:
        return statistic(fold_to_two_classes(confusion))

    return of_folded


METRICS: tuple[Metric, ...] = (
    Metric(
        "specificity",
        "Specificity (Sp)",
        "normal cycles answered normal / normal cycles",
        EXACT,
        metrics.specificity,
        {ICBHI: "Sp", SPRSOUND: "SP"},
    ),
    Metric(
        "sensitivity",
        "Sensitivity (Se), exact class",
        "abnormal cycles answered with their very class / abnormal cycles",
        EXACT,
        metrics.sensitivity,
        {ICBHI: "Se", SPRSOUND: "SE"},
    ),
    Metric(
        "score",
        "ICBHI Score, exact class",
        "mean of Sp and Se; SPRSound's average score (AS)",
        EXACT,
        metrics.mean_score,
        {ICBHI: "Score", SPRSOUND: "AS"},
    ),
    Metric(
        "two_class_sensitivity",
        "Sensitivity, read as 2 classes",
        "abnormal cycles with any abnormal answer / abnormal cycles",
        TWO,
        _two(metrics.sensitivity),
        {ICBHI: "Se", SPRSOUND: "SE"},
    ),
    Metric(
        "two_class_score",
        "ICBHI Score, read as 2 classes",
        "mean of Sp and the sensitivity above; SPRSound's AS",
        TWO,
        _two(metrics.mean_score),
        {ICBHI: "Score", SPRSOUND: "AS"},
    ),
    Metric(
        "two_class_harmonic_score",
        "Harmonic score, read as 2 classes",
        "HS: harmonic mean of Sp and the sensitivity above",
        TWO,
        _two(metrics.harmonic_score),
        {SPRSOUND: "HS"},
    ),
    Metric(
        "two_class_challenge_score",
        "Challenge score, read as 2 classes",
        "SPRSound's (AS + HS) / 2",
        TWO,
        _two(metrics.challenge_score),
        {SPRSOUND: "Score"},
    ),
    Metric(
        "challenge_sensitivity",
        "Challenge sensitivity, exact class",
        "SE: as Se, truly poor recordings left out",
        UNSCORED,
        metrics.sensitivity,
        {SPRSOUND: "SE"},
    ),
    Metric(
        "average_score",
        "Average score, exact class",
        "AS: mean of SP and SE",
        UNSCORED,
        metrics.mean_score,
        {SPRSOUND: "AS"},
    ),
    Metric(
        "harmonic_score",
        "Harmonic score, exact class",
        "HS: harmonic mean, 2 SP SE / (SP + SE)",
        CHALLENGE,
        metrics.harmonic_score,
        {SPRSOUND: "HS"},
    ),
    Metric(
        "challenge_score",
        "Challenge score, exact class",
        "SPRSound's (AS + HS) / 2",
        CHALLENGE,
        metrics.challenge_score,
        {SPRSOUND: "Score"},
    ),
    Metric(
        "macro_recall",
        "Macro recall (UAR)",
        "mean of all classes' recalls; balanced accuracy",
        EXACT,
        metrics.macro_recall,
        elsewhere=NO_SCORE,
    ),
    Metric(
        "macro_specificity",
        "Macro specificity",
        "mean over classes: others not answered as it / others",
        EXACT,
        metrics.macro_specificity,
        elsewhere=NO_SCORE,
    ),
    Metric(
        "macro_mean_score",
        "Macro mean",
        "mean of the two above; printed as a Score by some",
        EXACT,
        metrics.macro_mean_score,
        elsewhere=NO_SCORE,
    ),
    Metric(
        "macro_precision",
        "Macro precision",
        "mean over classes: rightly answered as it / answered so",
        EXACT,
        metrics.macro_precision,
    ),
    Metric(
        "macro_f1",
        "Macro F1",
        "mean over classes: 2 precision recall / (their sum)",
        EXACT,
        metrics.macro_f1,
    ),
    Metric(
        "weighted_f1",
        "Weighted F1",
        "mean of the classes' F1, weighted by their cycles",
        EXACT,
        metrics.weighted_f1,
    ),
    Metric(
        "accuracy",
        "Accuracy (micro F1)",
        "cycles answered with their very class / cycles",
        EXACT,
        metrics.accuracy,
    ),
    Metric(
        "cohen_kappa",
        "Cohen's kappa (-1 to 1)",
        "agreement above chance / the most possible above chance",
        EXACT,
        metrics.cohen_kappa,
    ),
    Metric(
        "matthews_correlation",
        "Matthews correlation (-1 to 1)",
        "correlation of true and answered class",
        EXACT,
        metrics.matthews_correlation,
    ),
)
# From probabilities: key, name, definition; `ranking.Rankings` computes them.
RANKING_METRICS: Mapping[str, tuple[str, str]] = {
    "macro_auroc": ("Macro AUROC", "mean over classes: pairs, one of it and one not, ranked rightly"),
    "macro_average_precision": ("Macro average precision", "mean over classes: precision, averaged over its cycles"),
    "abnormal_auroc": ("AUROC, abnormal", "abnormal and normal pairs that 1 - p(normal) ranks rightly"),
    "abnormal_average_precision": ("Average precision, abnormal", "precision by 1 - p(normal), averaged over abnormal"),
}


FILE = "published_scores.toml"
EPOCH_CHOICES = ("last", "validation", "test", "unknown", "none")


@dataclass(frozen=True)
class KnownTestSet:
    """A test set and task that a file is recognised by: the cycles of each true class, the normal one first."""

    name: str
    task: str
    totals: tuple[int, ...]
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
        """Whether these are its totals; the abnormal classes may come in any order, empty ones may be missing."""
        ours, theirs = (sorted(filter(None, counts[1:])) for counts in (self.totals, totals))
        return self.totals[0] == totals[0] and ours == theirs


@dataclass(frozen=True)
class PublishedScore:
    """What was published for a method, in percent."""

    name: str
    paper: str
    test_set: str
    task: str
    epoch: str
    """How its epoch was chosen, one of `EPOCH_CHOICES`; "none" where nothing was trained."""
    source: str
    year: int | None = None
    specificity: float | None = None
    sensitivity: float | None = None
    score: float | None = None
    score_sd: float | None = None
    not_comparable: str | None = None
    """Why it may not stand beside a score of the official test set; None when it may."""


@cache
def known_test_sets() -> tuple[KnownTestSet, ...]:
    """Every test set of the data file."""
    return tuple(KnownTestSet(**{**entry, "totals": tuple(entry["totals"])}) for entry in _data()["test_sets"])


@cache
def published_scores() -> tuple[PublishedScore, ...]:
    """Every published number of the data file."""
    return tuple(PublishedScore(**entry) for entry in _data()["scores"])


def find_test_set(totals: Sequence[int]) -> KnownTestSet | None:
    """The test set with these cycles of each true class (normal first), if it is a known one."""
    return next((known for known in known_test_sets() if known.has_totals(totals)), None)


def scores_of(test_set: KnownTestSet) -> list[PublishedScore]:
    """What was published for the set and its task."""
    return [score for score in published_scores() if (score.test_set, score.task) == (test_set.name, test_set.task)]


def _data() -> dict[str, list[dict[str, Any]]]:
    text = resources.files("lungsound.evaluation").joinpath(FILE).read_text(encoding="utf-8")
    return tomllib.loads(text)
