"""Every metric of this field: its name, its definition, the published columns that hold it, and published numbers."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import Field

from lungsound.config import Settings
from lungsound.evaluation import metrics
from lungsound.evaluation.metrics import Counts, Fractions, Statistic, fold_to_two_classes

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
