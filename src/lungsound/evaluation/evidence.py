"""Evidence of a model, kept in its file: on whom it was trained, and what it reached on patients it never met."""

import math
from collections.abc import Iterable, Sequence
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
Ages = tuple[tuple[Years, Years], ...]  # least and most of each span

HELD_OUT = "patients held out"
NAMES = {"icbhi": "ICBHI 2017", "sprsound": "SPRSound"}
SYNTHETIC = "This model has heard synthetic sounds only, made by a program: nothing that it says holds for a lung."
SCORE = f"Score (mean of specificity and sensitivity; always normal has {100 * ALWAYS_NORMAL_SCORE:g} %)"
DOUBT = "not shown to be better than always normal"
UNKNOWN = "On whom this model was trained and measured is not on record."
NUM_NAMED = 6  # devices in a sentence
GAP_YEARS = 10.0  # between two ages with nobody in between: what holds for them need not hold there
ADULT_YEARS = 18.0


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(_Kept):
    """Measurements on one group of recordings, as fractions; None for what is not defined, or of too few patients.

    The interval of the Score is over patients, `auc` is that of normal or not. `is_trained_on` is false for a
    stethoscope or corpus that was left out of the training set.
    """

    name: str
    ages_years: Ages
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
            ages_years=spans(ages_years),
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
    def words_for_score(self) -> str:
        """The Score in words, with its interval; `n/a` where it is not defined."""
        if self.score is None:
            return "n/a"
        if self.score_interval is None:
            return f"{100 * self.score:.1f} % (too few patients for an interval)"
        return f"{100 * self.score:.1f} % ({' to '.join(f'{100 * end:.1f}' for end in self.score_interval)})"

    @property
    def summary(self) -> str:
        """All numbers in words, for a line."""
        place = "" if self.is_trained_on else " (left out of the training)"
        doubt = "" if self.is_better_than_normal else f", {DOUBT}"
        facts = [] if self.score is None else [f"Score {self.words_for_score}{doubt}"]
        facts += [] if self.auc is None else [f"AUC of normal against abnormal {100 * self.auc:.1f} %"]
        facts += [f"{_patients(self.num_patients)}{_of_ages(self.ages_years)}"]
        return f"{self.name}{place}: {', '.join(facts)}"


class Trained(_Kept):
    """Patients of one corpus whose recordings fitted the weights; no ages and no devices where nothing names them."""

    name: str
    num_patients: int
    ages_years: Ages = ()
    devices: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, recordings: Sequence[Recording]) -> "Trained":
        """From the recordings of the training set."""
        return cls(
            name=NAMES.get(name, name),
            num_patients=len({recording.patient for recording in recordings}),
            ages_years=spans(recording.age_years for recording in recordings),
            devices=tuple(sorted({recording.device or "" for recording in recordings} - {""})),
        )

    @property
    def summary(self) -> str:
        """All facts in words."""
        patients = f"{_patients(self.num_patients)}{_of_ages(self.ages_years) or ' of unknown ages'}"
        return f"{self.name} ({patients}; {first_names(self.devices, NUM_NAMED) or 'stethoscopes not named'})"


class Evidence(_Kept):
    """On whom a model was trained, by corpus, and its measurements.

    `held_out` are patients who took no part in fitting the weights, None where no one was held out. `measured` are
    other groups: tests, and stethoscopes that were left out. `is_synthetic` when a program made all training sounds.
    """

    trained: tuple[Trained, ...]
    is_synthetic: bool
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
            trained=tuple(Trained.of(name, group) for name, group in groups.items()),
            is_synthetic=all(corpus.members.get(name, corpus).is_synthetic for name in groups),
            held_out=measured,
        )

    @property
    def groups(self) -> tuple[Measured, ...]:
        """All groups that the model was measured on."""
        return (*(() if self.held_out is None else (self.held_out,)), *self.measured)

    @property
    def trained_on(self) -> str:
        """Sentence on the training set, with all that is known of it."""
        return f"Trained on {' and '.join(each.summary for each in self.trained)}."


def statement(evidence: Evidence | None) -> str:
    """One line on whom a model was trained and measured; on None, that it is not known.

    Patients held out are named only where no test was measured: with tests, they are one more group of the same kind.
    """
    if evidence is None:
        return UNKNOWN
    sentences = [f"Trained on {' and '.join(each.name for each in evidence.trained)}."]
    measured = [each for each in evidence.measured if each.is_trained_on] or evidence.groups[:1]
    better, doubted = (
        _scores(each for each in measured if each.is_better_than_normal == is_better) for is_better in (True, False)
    )
    starts = {SCORE: better, DOUBT.capitalize() if better else f"{SCORE}, {DOUBT},": doubted}
    sentences += [f"{start} {scores}." for start, scores in starts.items() if scores]
    sentences += [] if measured else ["Measured on nobody who was held out."]
    if ranked := sorted((each.auc, each.name) for each in evidence.measured if not each.is_trained_on and each.auc):
        ends = " to ".join(f"{100 * auc:.1f} % ({name})" for auc, name in dict.fromkeys((ranked[0], ranked[-1])))
        sentences.append(f"AUC of normal against abnormal when left out of the training: {ends}.")
    return " ".join([SYNTHETIC, *sentences] if evidence.is_synthetic else sentences)


def spans(ages_years: Iterable[float | None]) -> Ages:
    """Least and most of the ages that are known, a new span after each gap of more than `GAP_YEARS`."""
    found: list[tuple[float, float]] = []
    for age in sorted(age for age in ages_years if age is not None):
        if found and age - found[-1][1] <= GAP_YEARS:
            found[-1] = (found[-1][0], age)
        else:
            found.append((age, age))
    return tuple(found)


def _scores(groups: Iterable[Measured]) -> str:
    audiences: dict[str, list[str]] = {}
    for each in groups:
        audiences.setdefault(_audience(each.ages_years), []).append(f"{each.name} {each.words_for_score}")
    return "; ".join(f"on {audience}: {', '.join(scores)}" for audience, scores in audiences.items())


def _audience(ages: Ages) -> str:
    if not ages:
        return "patients of unknown ages"
    if ages[-1][1] < ADULT_YEARS:
        return "children"
    return "adults" if ages[0][0] >= ADULT_YEARS else f"patients of {words_for_ages(ages)} years"


def words_for_ages(ages: Ages) -> str:
    """Completed years, as `0 to 16, 50 to 84`; empty where no age is known."""
    return ", ".join(
        f"{int(least)}" if int(least) == int(most) else f"{int(least)} to {int(most)}" for least, most in ages
    )


def _of_ages(ages: Ages) -> str:
    return f" of {words_for_ages(ages)} years" if ages else ""


def _patients(number: int) -> str:
    return f"{number} patient{'' if number == 1 else 's'}"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
