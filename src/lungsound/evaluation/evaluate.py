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
    precision: Estimate
    f1: Estimate


@dataclass(frozen=True)
class GroupScores:
    """The scores of some of the cycles, those of one stethoscope say; `name` is "" when unknown."""

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
    accuracy: Estimate
    macro_f1: Estimate
    per_class: tuple[ClassScores, ...]
    by_device: tuple[GroupScores, ...]
    by_part: tuple[GroupScores, ...]
    interval_seed: int
    always_normal_score: float = ALWAYS_NORMAL_SCORE


@dataclass(frozen=True)
class ScoreReader:
    """Reads scores with intervals; all values of the same cycles rest on the same resamples of their patients."""

    seed: int = 0
    num_draws: int = NUM_DRAWS
    level: float = LEVEL

    def estimate(self, confusions: Counts, statistic: Statistic) -> Estimate:
        """A value of confusion matrices `(patient, true class, answered class)`, with its interval."""
        generator = np.random.default_rng(self.seed)
        return estimate_over_patients(
            confusions, statistic, generator=generator, num_draws=self.num_draws, level=self.level
        )

    def read(self, confusions: Counts) -> ScoreReading:
        """Score, Sp and Se of confusion matrices `(patient, true class, answered class)`."""
        return ScoreReading(*(self.estimate(confusions, value) for value in (mean_score, specificity, sensitivity)))

    def score_group(self, name: str, members: Predictions) -> GroupScores:
        """The scores of the cycles of one group."""
        confusions = patient_confusions(members)
        return GroupScores(name, int(confusions.sum()), len(confusions), self.read(confusions))


def evaluate_predictions(
    predictions: Predictions, *, seed: int = 0, num_draws: int = NUM_DRAWS, level: float = LEVEL
) -> Evaluation:
    """Every number of a report. `seed` fixes the resamples, which all the intervals of one group share."""
    reader = ScoreReader(seed, num_draws, level)
    confusions = patient_confusions(predictions)
    devices, parts = sorted(set(predictions.devices)), sorted(set(predictions.parts))
    return Evaluation(
        classes=predictions.classes,
        num_cycles=len(predictions.keys),
        num_recordings=len({key.rpartition("#")[0] for key in predictions.keys}),
        num_patients=len(confusions),
        confusion=confusions.sum(axis=0),
        all_classes=reader.read(confusions),
        two_class=reader.read(fold_to_two_classes(confusions)) if len(predictions.classes) > 2 else None,
        accuracy=reader.estimate(confusions, accuracy),
        macro_f1=reader.estimate(confusions, macro_f1),
        per_class=tuple(
            _class_scores(index, name, confusions, reader) for index, name in enumerate(predictions.classes)
        ),
        by_device=tuple(reader.score_group(name, predictions.of_device(name)) for name in devices),
        by_part=tuple(reader.score_group(name, predictions.of_part(name)) for name in parts),
        interval_seed=seed,
    )


def _class_scores(index: int, name: str, confusions: Counts, reader: ScoreReader) -> ClassScores:
    confusion = confusions.sum(axis=0)
    return ClassScores(
        name=name,
        num_cycles=int(confusion[index].sum()),
        num_answered=int(confusion[:, index].sum()),
        num_patients=int((confusions[:, index].sum(axis=-1) > 0).sum()),
        recall=reader.estimate(confusions, lambda counts: recall(counts)[..., index]),
        precision=reader.estimate(confusions, lambda counts: precision(counts)[..., index]),
        f1=reader.estimate(confusions, lambda counts: f1(counts)[..., index]),
    )
