"""Evidence of a model, kept in its file: on whom it was trained, and what it reached on patients it never met."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from lungsound.data.corpus import Corpus, Recording
from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.metrics import ALWAYS_NORMAL_SCORE
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.scores import ScoreEstimates
from lungsound.files import first_names

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Years = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Ages = tuple[Years, Years]  # least and most

HELD_OUT = "patients held out"
NAMES = {"icbhi": "ICBHI 2017", "sprsound": "SPRSound"}
SYNTHETIC = "This model has heard synthetic sounds only, made by a program: nothing that it says holds for a lung."
UNKNOWN = "On whom this model was trained and measured is not on record."
NUM_NAMED = 6  # devices in a sentence


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(_Kept):
    """Measurements on one group of recordings, as fractions; None for what is not defined, or of too few patients.

    The interval of the Score is over patients, `auc` is that of normal or not. `is_trained_on` is false for a
    stethoscope or corpus that was left out of the training set.
    """

    name: str
    ages_years: Ages | None
    devices: tuple[str, ...]
    num_patients: int
    num_cycles: int
    score: Share | None
    score_interval: tuple[Share, Share] | None
    auc: Share | None
    is_trained_on: bool = True

    @classmethod
    def of(
        cls, predictions: Predictions, *, name: str, ages_years: Iterable[float | None], is_trained_on: bool = True
    ) -> "Measured":
        """From all rows of these predictions; `ages_years` are the patients' in any order, None where unknown."""
        scores = ScoreEstimates.of_runs([predictions], Bootstrap())
        score, interval = scores.score.value, scores.score.interval
        has_interval = interval.problem is None and not math.isnan(score)
        return cls(
            name=name,
            ages_years=span(ages_years),
            devices=tuple(sorted({*predictions.devices} - {""})),
            num_patients=len(set(predictions.patients)),
            num_cycles=len(predictions.keys),
            score=_or_none(score),
            score_interval=(interval.low, interval.high) if has_interval else None,
            auc=_or_none(scores.auc.value),
            is_trained_on=is_trained_on,
        )

    @property
    def is_better_than_normal(self) -> bool:
        """True when the Score is known to be above that of always predicting normal: by its whole interval."""
        return self.score_interval is not None and self.score_interval[0] > ALWAYS_NORMAL_SCORE

    @property
    def summary(self) -> str:
        """The numbers in words, for a line."""
        facts = []
        if self.score is not None:
            ends = None if self.score_interval is None else [f"{100 * end:.1f}" for end in self.score_interval]
            facts.append(f"Score {100 * self.score:.1f} % ({' to '.join(ends) if ends else 'n/a'})")
        if self.auc is not None:
            facts.append(f"AUC of normal or not {100 * self.auc:.1f} %")
        facts.append(f"{_patients(self.num_patients)}{_of_ages(self.ages_years)}")
        place = "" if self.is_trained_on else " (left out of the training)"
        return f"{self.name}{place}: {', '.join(facts)}"


class Evidence(_Kept):
    """On whom a model was trained, in a sentence (`trained_on`) and by age, and its measurements.

    `held_out` are patients who took no part in fitting the weights, None where no one was held out. `measured` are
    other groups: tests, and stethoscopes that were left out. `is_synthetic` when a program made all training sounds.
    """

    trained_on: str
    is_synthetic: bool
    ages_years: Ages | None
    held_out: Measured | None
    measured: tuple[Measured, ...] = ()

    @classmethod
    def of(cls, corpus: Corpus, rows: Sequence[int], held_out: Predictions | None) -> "Evidence":
        """Of a training on these cycles of a corpus; `held_out` are decided predictions for others of its cycles."""
        trained = list({corpus.cycles[row].recording.name: corpus.cycles[row].recording for row in rows}.values())
        groups: dict[str, list[Recording]] = {}
        for recording in trained:
            groups.setdefault(recording.corpus or corpus.name, []).append(recording)
        measured = None
        if held_out is not None:
            keys = set(held_out.keys)
            ages = [cycle.recording.age_years for cycle in corpus.cycles if cycle.key in keys]
            measured = Measured.of(held_out, name=HELD_OUT, ages_years=ages)
        return cls(
            trained_on=training_sentence({name: _facts_of(group) for name, group in groups.items()}),
            is_synthetic=all(corpus.members.get(name, corpus).is_synthetic for name in groups),
            ages_years=span(recording.age_years for recording in trained),
            held_out=measured,
        )

    @property
    def groups(self) -> tuple[Measured, ...]:
        """All groups that the model was measured on."""
        return (*(() if self.held_out is None else (self.held_out,)), *self.measured)


def statement(evidence: Evidence | None) -> str:
    """One line on whom a model was trained and measured; on None, that it is not known."""
    if evidence is None:
        return UNKNOWN
    known = "; ".join(each.summary for each in evidence.groups if each.is_trained_on)
    sentences = [evidence.trained_on, f"Measured: {known or 'on nobody who was held out'}."]
    if left_out := [each for each in evidence.groups if not each.is_trained_on]:
        areas = [f"{each.name} {'n/a' if each.auc is None else f'{100 * each.auc:.1f} %'}" for each in left_out]
        sentences.append(f"AUC of normal or not when left out of the training: {', '.join(areas)}.")
    return " ".join([SYNTHETIC, *sentences] if evidence.is_synthetic else sentences)


def training_sentence(groups: Mapping[str, str]) -> str:
    """Sentence on the training set, from facts by corpus."""
    return f"Trained on {' and '.join(f'{NAMES.get(name, name)} ({facts})' for name, facts in groups.items())}."


def _facts_of(recordings: Sequence[Recording]) -> str:
    devices = sorted({recording.device or "" for recording in recordings} - {""})
    patients = _patients(len({recording.patient for recording in recordings}))
    ages = _of_ages(span(recording.age_years for recording in recordings)) or " of unknown ages"
    return f"{patients}{ages}; {first_names(devices, NUM_NAMED) or 'stethoscopes not named'}"


def span(ages_years: Iterable[float | None]) -> Ages | None:
    """Least and most of the ages that are known; None without any."""
    known = [age for age in ages_years if age is not None]
    return (min(known), max(known)) if known else None


def _of_ages(ages: Ages | None) -> str:
    return "" if ages is None else f" of {int(ages[0])} to {int(ages[1])} years"


def _patients(number: int) -> str:
    return f"{number} patient{'' if number == 1 else 's'}"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
