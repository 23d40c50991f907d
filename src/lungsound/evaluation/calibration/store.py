"""What a model's probabilities are worth on new patients, learnt from validation patients and kept with the model.

All of it is fitted on validation rows only: the scaling, the thresholds of prediction sets, the confidence below which
an answer is withheld, and operating points. Thresholds are set on probabilities scaled without the patient's own fold
(see `scaling`), as those of a new patient are. The epoch may have been chosen on the same patients: what the thresholds
promise is then a little optimistic, and the measured values on the test part stand beside it.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lungsound.errors import DataError, WeightsError
from lungsound.evaluation.calibration.conformal import LEVELS, ConformalThresholds, fit_thresholds
from lungsound.evaluation.calibration.operating_point import WANTED_SENSITIVITY, OperatingPoint, choose_operating_point
from lungsound.evaluation.calibration.scaling import (
    METHODS,
    Floats,
    Method,
    Scaling,
    choose_scaling,
    scaled_without_own_fold,
)
from lungsound.evaluation.calibration.selective import (
    WANTED_COVERAGE,
    AbstainThreshold,
    Wanted,
    choose_threshold,
    confidence_of,
)
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.uncertainty import FEW_PATIENTS

FORMAT = "lungsound calibration 1"


@dataclass(frozen=True)
class Calibration:
    """Fitted on `num_cycles` validation cycles of `num_patients` patients; probabilities given to it are the model's.

    `reason` says how the scaling was chosen, or why there is none. `abstain` is None when no threshold keeps the wanted
    error, and then no answer is withheld. There is no operating point without abnormal validation cycles.
    """

    classes: tuple[str, ...]
    scaling: Scaling
    reason: str
    sets: tuple[ConformalThresholds, ...]
    abstain: AbstainThreshold | None
    operating_points: tuple[OperatingPoint, ...]
    num_cycles: int
    num_patients: int

    def __post_init__(self) -> None:
        num_classes = len(self.classes)
        lists = [self.scaling.scales, self.scaling.biases]
        lists += [values for each in self.sets for values in (each.of_class, each.num_class_patients)]
        shares = [share for each in self.sets for share in (each.level, each.threshold, *each.of_class)]
        shares += [point.threshold for point in self.operating_points]
        shares += [] if self.abstain is None else [self.abstain.threshold]
        if num_classes < 2 or any(len(values) != num_classes for values in lists):
            raise ValueError(f"numbers for {num_classes} classes are needed, two or more")
        if self.scaling.method not in METHODS:
            raise ValueError(f"scaling {self.scaling.method!r} is none of {', '.join(METHODS)}")
        if not all(map(math.isfinite, (*self.scaling.scales, *self.scaling.biases))):
            raise ValueError("a scale or bias is no finite number")
        if not all(0.0 <= share <= 1.0 for share in shares):
            raise ValueError("a level or threshold lies outside 0 to 1")

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps this calibration from being leant on, in sentences; empty when nothing does."""
        found = []
        if self.num_patients < FEW_PATIENTS:
            found.append(
                f"Few validation patients ({self.num_patients}; at least {FEW_PATIENTS} are needed): what was fitted "
                "may not hold for others."
            )
        if self.abstain is None:
            found.append(
                "No threshold keeps the wanted error on validation cycles of five patients or more: no answer is "
                "withheld."
            )
        found += self.operating_problems
        for each in self.sets:
            if each.threshold == 0.0:
                found.append(
                    f"Sets at {100 * each.level:g} % always hold every class: {each.num_patients} validation patients "
                    "cannot promise more."
                )
            if always := [self.classes[k] for k in each.classes_always_in]:
                found.append(
                    f"Class-conditional sets at {100 * each.level:g} % always hold {', '.join(always)}: too few "
                    "validation patients have such cycles."
                )
        return tuple(found)

    @property
    def operating_problems(self) -> tuple[str, ...]:
        """The problems of the operating points alone."""
        if not self.operating_points:
            return ("Validation has no abnormal cycle: there is no operating point.",)
        texts = dict.fromkeys(point.problem for point in self.operating_points if point.problem)
        return tuple(f"{text[:1].upper()}{text[1:]}." for text in texts)

    def apply(self, probabilities: npt.ArrayLike) -> Floats:
        """Calibrated probabilities `(..., class)` of the model's `(..., class)`."""
        return self.scaling.apply(probabilities)

    def prediction_set(
        self, probabilities: npt.ArrayLike, *, level: float = LEVELS[0], is_class_conditional: bool = False
    ) -> npt.NDArray[np.bool_]:
        """Which classes are in the set `(..., class)` of the model's probabilities `(..., class)`.

        Raises DataError for a level that no thresholds are kept for.
        """
        for each in self.sets:
            if math.isclose(each.level, level):
                return each.sets(self.apply(probabilities), is_class_conditional=is_class_conditional)
        known = ", ".join(f"{each.level:g}" for each in self.sets)
        raise DataError(f"no prediction sets at level {level:g} are kept with this model; it has {known or 'none'}")

    def is_abstaining(self, probabilities: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether the answer is withheld `(...)`, of the model's probabilities `(..., class)`."""
        threshold = 0.0 if self.abstain is None else self.abstain.threshold
        return np.asarray(confidence_of(self.apply(probabilities)) < threshold)

    @property
    def id(self) -> str:
        """Twelve digits by which answers name it: another one for other values."""
        return hashlib.sha256(json.dumps(self.to_plain(), sort_keys=True).encode()).hexdigest()[:12]

    def to_plain(self) -> dict[str, Any]:
        """Values that JSON holds; NaN is None. `from_plain` gives back an equal calibration."""
        return {"format": FORMAT, **without_nan(dataclasses.asdict(self))}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Calibration":
        """What `to_plain` gave. Raises WeightsError, since it is kept with a model, when something is amiss."""
        try:
            if plain["format"] != FORMAT:
                raise ValueError(f"format {plain['format']!r} is not {FORMAT!r}")
            abstain = plain["abstain"]
            return cls(
                classes=tuple(str(name) for name in plain["classes"]),
                scaling=_built(Scaling, plain["scaling"]),
                reason=str(plain["reason"]),
                sets=tuple(_built(ConformalThresholds, each) for each in plain["sets"]),
                abstain=None if abstain is None else _built(AbstainThreshold, abstain),
                operating_points=tuple(_built(OperatingPoint, each) for each in plain["operating_points"]),
                num_cycles=int(plain["num_cycles"]),
                num_patients=int(plain["num_patients"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else error
            raise WeightsError(
                f"the calibration kept with the model cannot be used ({what}): calibrate it anew"
            ) from None


def fit_calibration(
    validation: Predictions,
    *,
    levels: Sequence[float] = LEVELS,
    abstain_for: Wanted = "coverage",
    abstain_value: float = WANTED_COVERAGE,
    sensitivities: Sequence[float] = (WANTED_SENSITIVITY,),
    allowed: Sequence[Method] = METHODS,
) -> Calibration:
    """Everything that can be learnt from these validation cycles; few patients never raise an error.

    With fewer than 6 patients nothing is scaled; thresholds that too few patients support put every class into the
    set; `Calibration.problems` says so. `allowed` are the methods of scaling to choose from. Raises ValueError for
    levels and wanted values outside 0 to 1.
    """
    labels, patients = validation.labels, validation.patients
    choice = choose_scaling(validation.probabilities, labels, patients, allowed=allowed)
    scaled = choice.held_out
    is_wrong = scaled.argmax(axis=1) != labels
    return Calibration(
        classes=validation.classes,
        scaling=choice.scaling,
        reason=choice.reason,
        sets=tuple(fit_thresholds(scaled, labels, patients, level=level) for level in levels),
        abstain=choose_threshold(confidence_of(scaled), is_wrong, patients, wanted=abstain_for, value=abstain_value),
        operating_points=_operating_points(scaled, validation, sensitivities),
        num_cycles=len(labels),
        num_patients=len(set(patients)),
    )


def with_operating_points(
    calibration: Calibration, validation: Predictions, *, sensitivities: Sequence[float]
) -> Calibration:
    """The calibration with operating points for these wanted sensitivities, by its own scaling.

    `validation` are the cycles that it was fitted on; DataError when they are plainly others.
    """
    found = (validation.classes, len(validation.labels), len(set(validation.patients)))
    fitted = (calibration.classes, calibration.num_cycles, calibration.num_patients)
    if found != fitted:
        raise DataError(
            f"the calibration that the model keeps was fitted on {fitted[1]} cycles of {fitted[2]} patients, here are "
            f"{found[1]} of {found[2]}: put a new one into the model with 'lungsound calibrate RUN --keep'"
        )
    scaled = scaled_without_own_fold(
        calibration.scaling.method, validation.probabilities, validation.labels, validation.patients
    )
    return dataclasses.replace(calibration, operating_points=_operating_points(scaled, validation, sensitivities))


def _operating_points(
    scaled: Floats, validation: Predictions, sensitivities: Sequence[float]
) -> tuple[OperatingPoint, ...]:
    points = [
        choose_operating_point(scaled, validation.labels, validation.patients, sensitivity=wanted)
        for wanted in sensitivities
    ]
    return tuple(point for point in points if point is not None)


def without_nan(value: Any) -> Any:
    """The value with None for NaN, and lists for tuples, as JSON holds it."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _built(kind: type[Any], plain: Mapping[str, Any]) -> Any:
    """A dataclass of numbers, texts and lists of numbers, from what `to_plain` made of it."""
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    if set(plain) != set(fields):
        raise ValueError(f"a {kind.__name__} has {', '.join(fields)}; got {', '.join(plain)}")
    return kind(**{name: _read(value, fields[name]) for name, value in plain.items()})


def _read(value: Any, wanted: Any) -> Any:
    """The value as the type of its field; None is NaN."""
    if wanted is float:
        return float("nan") if value is None else float(value)
    if wanted is int:
        return int(value)
    if wanted == tuple[float, ...]:
        return tuple(float(item) for item in value)
    if wanted == tuple[int, ...]:
        return tuple(int(item) for item in value)
    return str(value)
