"""From predictions to every number of a report.

Scores of groups of cycles: by age group, sex, place on the chest, diagnosis, or any other fact.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import (
    FEW_PATIENTS,
    LEVEL,
    NUM_DRAWS,
    Estimate,
    estimate_over_patients,
    patient_confusions,
)
from lungsound.evaluation.metrics import (
    ALWAYS_NORMAL_SCORE,
    Counts,
    Statistic,
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
            class_scores(index, name, confusions, reader) for index, name in enumerate(predictions.classes)
        ),
        by_device=tuple(reader.score_group(name, predictions.of_device(name)) for name in devices),
        by_part=tuple(reader.score_group(name, predictions.of_part(name)) for name in parts),
        interval_seed=seed,
    )


def class_scores(index: int, name: str, confusions: Counts, reader: ScoreReader) -> ClassScores:
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


FEW_IS_ROUGH = f"An interval from fewer than {FEW_PATIENTS} patients is itself uncertain."

# First completed year and name of each band. Children's bands are those of ICH E11 for trials in children (infants and
# toddlers, children, adolescents): in a children's hospital "under 18" would be one group of everybody.
GENERAL_BANDS = ((0, "0 to 17 years"), (18, "18 to 64 years"), (65, "65 years and over"))
CHILDREN_BANDS = ((0, "0 to 1 years"), (2, "2 to 11 years"), (12, "12 to 18 years"))
OLDEST_CHILD_YEARS = 18


@dataclass(frozen=True)
class Subgroups:
    """The groups that one fact ("sex", "location") makes of the cycles, in order; "" is the unknown, and last."""

    fact: str
    groups: tuple[GroupScores, ...]

    @property
    def small(self) -> frozenset[int]:
        """Indices of the groups of fewer than `FEW_PATIENTS` patients."""
        return frozenset(index for index, group in enumerate(self.groups) if group.num_patients < FEW_PATIENTS)

    def name(self, group: GroupScores) -> str:
        """What a group is called in print."""
        return group.name or f"unknown {self.fact}"

    @property
    def warning(self) -> str | None:
        """Which groups are small, in one sentence; None when none is."""
        names = [
            f"{self.name(group)} ({group.num_patients})" for group in map(self.groups.__getitem__, sorted(self.small))
        ]
        return f"Few patients: {', '.join(names)}. {FEW_IS_ROUGH}" if names else None


def score_subgroups(
    predictions: Predictions,
    facts: Mapping[str, Sequence[str]],
    *,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
    level: float = LEVEL,
) -> tuple[Subgroups, ...]:
    """Scores with intervals over patients for each group that each fact makes.

    `facts` maps a fact's name to one value for each row of the predictions, "" where it is unknown. A fact that is
    unknown for all rows gives no groups. A patient with recordings in several groups counts in each. Raises DataError
    when a fact has not one value a row.
    """
    reader = ScoreReader(seed, num_draws, level)
    found = []
    for fact, values in facts.items():
        if len(values) != len(predictions.keys):
            raise DataError(
                f"fact '{fact}' has {len(values)} value(s) for {len(predictions.keys)} cycles; give one for each row"
            )
        if any(values):
            # `of_part` picks rows by the column of parts, which here holds the fact instead.
            by_value = replace(predictions, parts=tuple(values))
            names = sorted(set(values), key=_in_reading_order)
            found.append(Subgroups(fact, tuple(reader.score_group(name, by_value.of_part(name)) for name in names)))
    return tuple(found)


def age_groups(ages_years: Sequence[float | None]) -> tuple[str, ...]:
    """The age band of each age in years, "" where it is None.

    Three bands, of completed years: 0 to 17, 18 to 64, 65 and over; or 0 to 1, 2 to 11, 12 to 18 when nobody is
    older than 18. Raises DataError for a negative age.
    """
    known = [age for age in ages_years if age is not None]
    if known and not min(known) >= 0:
        raise DataError(f"an age of {min(known):g} years; ages are 0 or more, and blank when unknown")
    is_children = bool(known) and int(max(known)) <= OLDEST_CHILD_YEARS
    bands = CHILDREN_BANDS if is_children else GENERAL_BANDS
    return tuple("" if age is None else [name for first, name in bands if age >= first][-1] for age in ages_years)


def _in_reading_order(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """Sorts "2 to 11" before "12 to 18", and the unknown last."""
    parts = re.split(r"(\d+)", name)
    return name == "", [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts]
