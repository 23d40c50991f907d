"""Scores with intervals over patients: of all cycles, of each class, and of groups of cycles."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lungsound.errors import DataError
from lungsound.evaluation import metrics
from lungsound.evaluation.bootstrap import (
    FEW_PATIENTS,
    Bootstrap,
    Estimate,
    confusions_by_part,
    mean_of_parts,
    patient_confusions,
)
from lungsound.evaluation.metrics import ALWAYS_NORMAL_SCORE, Counts, Statistic
from lungsound.evaluation.predictions import Predictions

SCORES_HEAD = ("Score", "Sp", "Se", "AUC, normal or not")
FEW_IS_ROUGH = f"An interval from fewer than {FEW_PATIENTS} patients is itself uncertain."
# First completed year and name of each band. Children's bands are those of ICH E11 for trials in children (infants and
# toddlers, children, adolescents): in a children's hospital "under 18" would be one group of everybody.
GENERAL_BANDS = ((0, "0 to 17 years"), (18, "18 to 64 years"), (65, "65 years and over"))
CHILDREN_BANDS = ((0, "0 to 1 years"), (2, "2 to 11 years"), (12, "12 to 18 years"))
OLDEST_CHILD_YEARS = 18


@dataclass(frozen=True)
class ScoreEstimates:
    """ICBHI's three numbers, and the area under the ROC curve of normal or not, with their intervals."""

    score: Estimate
    specificity: Estimate
    sensitivity: Estimate
    auc: Estimate

    @classmethod
    def of_runs(
        cls, runs: Sequence[Predictions], bootstrap: Bootstrap, *, is_two_class: bool = False, parts: Sequence[str] = ()
    ) -> "ScoreEstimates":
        """Means over seeds of runs on the same cycles, all together or the mean over `parts`; of all classes or two."""
        counts = confusions_by_part(runs, parts)
        counts = metrics.fold_to_two_classes(counts) if is_two_class else counts
        statistics = (metrics.mean_score, metrics.specificity, metrics.sensitivity)
        score, specificity, sensitivity = (bootstrap.of_runs(counts, mean_of_parts(each)) for each in statistics)
        return cls(score, specificity, sensitivity, bootstrap.auc_of_runs(runs, parts))

    def in_percent(self) -> tuple[str, str, str, str]:
        """Its four values in the order of `SCORES_HEAD`."""
        values = (self.score, self.specificity, self.sensitivity, self.auc)
        score, specificity, sensitivity, auc = (value.in_percent() for value in values)
        return score, specificity, sensitivity, auc


@dataclass(frozen=True)
class ClassScores:
    """Recall, precision and F1 of one class; a number without a denominator is NaN."""

    name: str
    num_cycles: int
    num_answered: int
    num_patients: int
    recall: Estimate
    precision: Estimate
    f1: Estimate


@dataclass(frozen=True)
class GroupScores:
    """Scores of some of the cycles, those of one stethoscope say; `name` is "" when unknown."""

    name: str
    num_cycles: int
    num_patients: int
    scores: ScoreEstimates

    @property
    def is_small(self) -> bool:
        return self.num_patients < FEW_PATIENTS


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All numbers of a report, as fractions; its field names are the keys of `report.json`.

    `confusion` is `(true class, predicted class)`. `all_classes` asks for the exact class; `two_class` lets any
    abnormal prediction fit an abnormal cycle, and is None when there are only two classes anyway.
    """

    classes: tuple[str, ...]
    num_cycles: int
    num_recordings: int
    num_patients: int
    confusion: Counts
    all_classes: ScoreEstimates
    two_class: ScoreEstimates | None
    accuracy: Estimate
    macro_f1: Estimate
    per_class: tuple[ClassScores, ...]
    by_device: tuple[GroupScores, ...]
    by_part: tuple[GroupScores, ...]
    interval_seed: int
    always_normal_score: float = ALWAYS_NORMAL_SCORE


def evaluate_predictions(predictions: Predictions, bootstrap: Bootstrap | None = None) -> Evaluation:
    """Every number of a report; the intervals of one group share their resamples."""
    bootstrap = bootstrap or Bootstrap()
    confusions, classes, runs = patient_confusions(predictions), predictions.classes, [predictions]
    two_class = ScoreEstimates.of_runs(runs, bootstrap, is_two_class=True) if len(classes) > 2 else None
    return Evaluation(
        classes=classes,
        num_cycles=len(predictions.keys),
        num_recordings=len({key.rpartition("#")[0] for key in predictions.keys}),
        num_patients=len(confusions),
        confusion=confusions.sum(axis=0),
        all_classes=ScoreEstimates.of_runs(runs, bootstrap),
        two_class=two_class,
        accuracy=bootstrap.of_counts(confusions, metrics.accuracy),
        macro_f1=bootstrap.of_counts(confusions, metrics.macro_f1),
        per_class=class_scores(classes, confusions, bootstrap),
        by_device=_group_scores(predictions, predictions.devices, sorted(set(predictions.devices)), bootstrap),
        by_part=_group_scores(predictions, predictions.parts, sorted(set(predictions.parts)), bootstrap),
        interval_seed=bootstrap.seed,
    )


def _group_scores(
    predictions: Predictions, values: Sequence[str], names: Sequence[str], bootstrap: Bootstrap
) -> tuple[GroupScores, ...]:
    """Scores of the groups of these names, in their order; `values` name the group of each row."""
    groups = []
    for name in names:
        group = predictions.of_rows([row for row, each in enumerate(values) if each == name])
        scores = ScoreEstimates.of_runs([group], bootstrap)
        groups.append(GroupScores(name, len(group.keys), len(set(group.patients)), scores))
    return tuple(groups)


def class_scores(classes: Sequence[str], confusions: Counts, bootstrap: Bootstrap) -> tuple[ClassScores, ...]:
    """Scores of each class, from `(patient, true class, predicted class)`."""

    def estimate(statistic: Statistic, index: int) -> Estimate:
        return bootstrap.of_counts(confusions, lambda counts: statistic(counts)[..., index])

    return tuple(
        ClassScores(
            name=name,
            num_cycles=int(confusions[:, index].sum()),
            num_answered=int(confusions[:, :, index].sum()),
            num_patients=int(confusions[:, index].any(axis=-1).sum()),
            recall=estimate(metrics.recall, index),
            precision=estimate(metrics.precision, index),
            f1=estimate(metrics.f1, index),
        )
        for index, name in enumerate(classes)
    )


@dataclass(frozen=True)
class Subgroups:
    """The groups that one fact ("sex", "location") makes of the cycles, in order; "" is the unknown, and last."""

    fact: str
    groups: tuple[GroupScores, ...]

    def name(self, group: GroupScores) -> str:
        return group.name or f"unknown {self.fact}"

    @property
    def warning(self) -> str | None:
        """Sentence that names the small groups; None when none is."""
        names = [f"{self.name(group)} ({group.num_patients})" for group in self.groups if group.is_small]
        return f"Few patients: {', '.join(names)}. {FEW_IS_ROUGH}" if names else None


def score_subgroups(
    predictions: Predictions, facts: Mapping[str, Sequence[str]], bootstrap: Bootstrap | None = None
) -> tuple[Subgroups, ...]:
    """Scores with intervals over patients for each group that each fact makes.

    `facts` has values for the rows by the fact's name, "" where unknown. A patient may count in several groups.
    """
    bootstrap = bootstrap or Bootstrap()
    subgroups = []
    for fact, values in facts.items():
        if any(values):
            names = sorted(set(values), key=_in_reading_order)
            subgroups.append(Subgroups(fact, _group_scores(predictions, values, names, bootstrap)))
    return tuple(subgroups)


def age_groups(ages_years: Sequence[float | None]) -> tuple[str, ...]:
    """Age band of each age in years, "" where it is None. Raises DataError for a negative age."""
    known = [age for age in ages_years if age is not None]
    if known and not min(known) >= 0:
        raise DataError(f"an age of {min(known):g} years; ages are 0 or more, and blank when unknown")
    is_children = bool(known) and int(max(known)) <= OLDEST_CHILD_YEARS
    bands = CHILDREN_BANDS if is_children else GENERAL_BANDS
    return tuple("" if age is None else [name for first, name in bands if age >= first][-1] for age in ages_years)


def _in_reading_order(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """Sort "2 to 11" before "12 to 18", and the unknown last."""
    parts = re.split(r"(\d+)", name)
    return name == "", [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts]
