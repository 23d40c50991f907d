"""Scores of groups of cycles: by age group, sex, place on the chest, diagnosis, or any other fact."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lungsound.errors import DataError
from lungsound.evaluation.evaluate import GroupScores, ScoreReader
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.uncertainty import FEW_PATIENTS, LEVEL, NUM_DRAWS

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
