"""Rules that withhold a prediction, each with its `Reason`: nothing is firm that is not known."""

import math
from collections.abc import Iterable

from lungsound.audio import quality
from lungsound.evaluation.evidence import Ages, Evidence, Measured
from lungsound.inference.prediction import Reason
from lungsound.training.model_file import TrainedModel

# Remarks on a recording that withhold all of it: its sound is not breathing, or too little of it. Anything else that is
# wrong, from clipping to hum, changes the worth of a prediction by an unknown amount, and is only remarked on.
OF_REMARK = {
    quality.MOSTLY_SILENT: Reason.MOSTLY_SILENT,
    quality.TOO_SHORT: Reason.TOO_SHORT,
    quality.SPEECH: Reason.SPEECH,
}


def reasons_of_model(trained: TrainedModel, *, age_years: float | None, stethoscope: str | None) -> set[Reason]:
    """Reasons that hold for all that the model predicts for a patient of this age, by this stethoscope (None: any)."""
    evidence, calibration = trained.evidence, trained.calibration
    reasons = {Reason.TEMPERATURE_AT_LIMIT} if calibration is not None and calibration.is_at_limit else set()
    if evidence is None or evidence.held_out is None:
        reasons.add(Reason.NOT_MEASURED)
    else:
        fitting = [each for each in evidence.measured if _is_about(each, age_years=age_years, stethoscope=stethoscope)]
        # What was left out was measured with other models: it stands for this one only where this was not measured.
        fitting = [each for each in fitting if each.is_trained_on] or fitting
        is_better = any(each.is_better_than_normal for each in fitting) or not fitting
        if not (evidence.held_out.is_better_than_normal and is_better):
            reasons.add(Reason.NOT_BETTER_THAN_NORMAL)
    known = {name.casefold() for name in known_stethoscopes(trained)}
    if known and stethoscope is not None and stethoscope.casefold() not in known:
        reasons.add(Reason.STETHOSCOPE_OUTSIDE)
        stethoscope = None  # the age is then compared with all that was measured
    if evidence is not None and age_years is not None and not _has_age(evidence, age_years, stethoscope):
        reasons.add(Reason.AGE_OUTSIDE)
    return reasons


def known_stethoscopes(trained: TrainedModel) -> list[str]:
    """Stethoscopes that the model was measured on, where none of these is named those that it was trained on."""
    groups = () if trained.evidence is None else _telling_groups(trained.evidence)
    return sorted({device for group in groups for device in group.devices} or trained.devices)


def reasons_of_remarks(remarks: Iterable[str]) -> set[Reason]:
    """Reasons that the remarks on a recording's quality give."""
    return {OF_REMARK[remark] for remark in remarks if remark in OF_REMARK}


def _telling_groups(evidence: Evidence) -> tuple[Measured, ...]:
    """Groups that tell on whom a model was measured: tests, and where there is none the patients held out.

    Beside tests these tell nothing: an age and a stethoscope of theirs may be those of different patients, few of them.
    """
    return evidence.measured or evidence.groups


def _has_age(evidence: Evidence, age_years: float, stethoscope: str | None) -> bool:
    """True where a group that was measured, by this stethoscope if it is stated, is of such an age.

    Where no age of these is known: the training set.
    """
    groups = [each for each in _telling_groups(evidence) if stethoscope is None or _is_by(each, stethoscope)]
    known = [each.ages_years for each in groups if each.ages_years]
    known = known or [each.ages_years for each in evidence.trained if each.ages_years]
    return not known or any(_is_within(age_years, ages) for ages in known)


def _is_within(age_years: float, ages: Ages) -> bool:
    return any(math.floor(least) <= math.floor(age_years) <= math.floor(most) for least, most in ages)


def _is_about(group: Measured, *, age_years: float | None, stethoscope: str | None) -> bool:
    """True where age or stethoscope are given, and the group's are these."""
    if age_years is None and stethoscope is None:
        return False
    is_of_age = age_years is None or _is_within(age_years, group.ages_years)
    return is_of_age and (stethoscope is None or _is_by(group, stethoscope))


def _is_by(group: Measured, stethoscope: str) -> bool:
    return stethoscope.casefold() in {name.casefold() for name in group.devices}
