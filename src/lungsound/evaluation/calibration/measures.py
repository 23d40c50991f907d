"""What a calibration gives on the test part: errors, coverage of sets, abstaining, operating points."""

from collections.abc import Sequence
from dataclasses import dataclass

from lungsound.errors import DataError
from lungsound.evaluation.calibration.conformal import SetMeasures, measure_sets
from lungsound.evaluation.calibration.error import ProbabilityErrors, probability_errors
from lungsound.evaluation.calibration.operating_point import OperatingMeasures, measure_operating_point
from lungsound.evaluation.calibration.patient_sums import Resampling
from lungsound.evaluation.calibration.selective import (
    AbstainMeasures,
    area_under_risk_coverage,
    confidence_of,
    measure_abstaining,
)
from lungsound.evaluation.calibration.store import Calibration
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.uncertainty import Estimate

# Prevalences of abnormal cycles for which predictive values are given; that of the test part comes first.
PREVALENCES = (0.1, 0.3)


@dataclass(frozen=True)
class LevelMeasures:
    """Sets of one level and kind: over all cycles, by true class, by device."""

    level: float
    is_class_conditional: bool
    all_cycles: SetMeasures
    by_class: tuple[SetMeasures, ...]
    by_device: tuple[SetMeasures, ...]


@dataclass(frozen=True)
class CalibrationMeasures:
    """Everything measured on the test part; its field names are keys of `calibration.json`."""

    num_cycles: int
    num_patients: int
    before: ProbabilityErrors
    after: ProbabilityErrors
    sets: tuple[LevelMeasures, ...]
    area_under_risk_coverage: Estimate
    abstaining: tuple[AbstainMeasures, ...]
    operating: tuple[OperatingMeasures, ...]


def measure_calibration(
    calibration: Calibration,
    test: Predictions,
    *,
    prevalences: Sequence[float] = PREVALENCES,
    resampling: Resampling | None = None,
) -> CalibrationMeasures:
    """Measure on cycles that nothing was fitted on.

    Raises DataError when their classes are not those of the calibration.
    """
    if test.classes != calibration.classes:
        raise DataError(
            f"the calibration is for the classes {', '.join(calibration.classes)}; the test rows have "
            f"{', '.join(test.classes)}"
        )
    resampling = resampling or Resampling()
    raw, labels, patients = test.probabilities, test.labels, test.patients
    scaled = calibration.apply(raw)
    answers = scaled.argmax(axis=1)
    sets = [
        LevelMeasures(
            each.level,
            is_conditional,
            *measure_sets(each.sets(scaled, is_class_conditional=is_conditional), test, resampling=resampling),
        )
        for each in calibration.sets
        for is_conditional in (False, True)
    ]
    return CalibrationMeasures(
        num_cycles=len(labels),
        num_patients=len(set(patients)),
        before=probability_errors(raw, labels, patients, resampling=resampling),
        after=probability_errors(scaled, labels, patients, resampling=resampling),
        sets=tuple(sets),
        area_under_risk_coverage=area_under_risk_coverage(
            confidence_of(scaled), answers != labels, patients, resampling=resampling
        ),
        abstaining=measure_abstaining(~calibration.is_abstaining(raw), answers, test, resampling=resampling),
        operating=measure_operating_points(calibration, test, prevalences=prevalences, resampling=resampling),
    )


def measure_operating_points(
    calibration: Calibration,
    test: Predictions,
    *,
    prevalences: Sequence[float] = PREVALENCES,
    resampling: Resampling | None = None,
) -> tuple[OperatingMeasures, ...]:
    """Each operating point at the prevalence of the test part and at each of `prevalences`."""
    scaled, resampling = calibration.apply(test.probabilities), resampling or Resampling()
    return tuple(
        measure_operating_point(point, scaled, test, prevalence=prevalence, resampling=resampling)
        for point in calibration.operating_points
        for prevalence in (None, *prevalences)
    )
