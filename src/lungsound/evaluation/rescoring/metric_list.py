"""Every metric in use in this field: its name, its definition in words, and the published columns that hold it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lungsound.evaluation import metrics
from lungsound.evaluation.metrics import Counts, Fractions, fold_to_two_classes
from lungsound.evaluation.uncertainty import Statistic

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
