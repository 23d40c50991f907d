"""From predictions to every number of a report."""

from dataclasses import dataclass

import numpy as np

from lungsound.evaluation.metrics import (
    ALWAYS_NORMAL_SCORE,
    Counts,
    accuracy,
    f1,
    fold_to_two_classes,
    macro_f1,
    mean_score,
    precision,
    recall,
    sensitivity,
    specificity,
)
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.uncertainty import (
    LEVEL,
    NUM_DRAWS,
    Estimate,
    Statistic,
    estimate_over_patients,
    patient_confusions,
)


@dataclass(frozen=True)
class ScoreReading:
    """ICBHI's three numbers with their intervals."""

    score: Estimate
    specificity: Estimate
    sensitivity: Estimate


@dataclass(frozen=True)
class ClassScores:
    """How one class was answered; a number without a denominator is NaN."""

    name: str
    num_cycles: int
    num_answered: int
    num_patients: int
    recall: Estimate
    precision: float
    f1: float


@dataclass(frozen=True)
class GroupScores:
    """The scores of the cycles of one stethoscope, or of one part of the split; `name` is "" when unknown."""

    name: str
    num_cycles: int
    num_patients: int
    scores: ScoreReading


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All numbers of a report, as fractions; its field names are the keys of `report.json`.

    `confusion` is `(true class, answered class)`. `all_classes` asks for the exact class; `two_class` lets any
    abnormal answer fit an abnormal cycle, and is None when there are only two classes anyway.
    """

    classes: tuple[str, ...]
    num_cycles: int
    num_recordings: int
    num_patients: int
    confusion: Counts
    all_classes: ScoreReading
    two_class: ScoreReading | None
    accuracy: float
    macro_f1: float
    per_class: tuple[ClassScores, ...]
    by_device: tuple[GroupScores, ...]
    by_part: tuple[GroupScores, ...]
    interval_seed: int
    always_normal_score: float = ALWAYS_NORMAL_SCORE


def evaluate_predictions(
    predictions: Predictions, *, seed: int = 0, num_draws: int = NUM_DRAWS, level: float = LEVEL
) -> Evaluation:
    """Every number of a report. `seed` fixes the resamples, which all the intervals of one group share."""

    def estimate(confusions: Counts, statistic: Statistic) -> Estimate:
        generator = np.random.default_rng(seed)
        return estimate_over_patients(confusions, statistic, generator=generator, num_draws=num_draws, level=level)

    def reading(confusions: Counts) -> ScoreReading:
        return ScoreReading(*(estimate(confusions, value) for value in (mean_score, specificity, sensitivity)))

    def group(name: str, members: Predictions) -> GroupScores:
        of_group = patient_confusions(members)
        return GroupScores(name, int(of_group.sum()), len(of_group), reading(of_group))

    confusions = patient_confusions(predictions)
    confusion = confusions.sum(axis=0)
    per_class = tuple(
        ClassScores(
            name=name,
            num_cycles=int(confusion[index].sum()),
            num_answered=int(confusion[:, index].sum()),
            num_patients=int((confusions[:, index].sum(axis=-1) > 0).sum()),
            recall=estimate(confusions, lambda counts, index=index: recall(counts)[..., index]),  # type: ignore[misc]
            precision=float(precision(confusion)[index]),
            f1=float(f1(confusion)[index]),
        )
        for index, name in enumerate(predictions.classes)
    )
    return Evaluation(
        classes=predictions.classes,
        num_cycles=len(predictions.keys),
        num_recordings=len({key.rpartition("#")[0] for key in predictions.keys}),
        num_patients=len(confusions),
        confusion=confusion,
        all_classes=reading(confusions),
        two_class=reading(fold_to_two_classes(confusions)) if len(predictions.classes) > 2 else None,
        accuracy=float(accuracy(confusion)),
        macro_f1=float(macro_f1(confusion)),
        per_class=per_class,
        by_device=tuple(group(name, predictions.of_device(name)) for name in sorted(set(predictions.devices))),
        by_part=tuple(group(name, predictions.of_part(name)) for name in sorted(set(predictions.parts))),
        interval_seed=seed,
    )
