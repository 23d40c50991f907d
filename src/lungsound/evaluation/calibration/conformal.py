"""Split-conformal prediction sets: the classes that a cycle may well have, with a promise about how often they hold it.

A class is in the set when its probability is at least a threshold (LAC, Sadinle et al. 2019: the smallest sets on
average; adaptive sets, APS, are larger and were not chosen). One threshold serves all classes, or each class has its
own (class-conditional, Mondrian), which evens out the coverage of classes. The most probable class is always in the
set: that can only add coverage, and no set is empty.

Cycles of one patient are not exchangeable, patients are. Each validation patient therefore weighs the same, whatever
the number of cycles, and a new patient, as one more, counts as never covered (hierarchical conformal prediction, Lee,
Barber and Willett 2023). The promise: of one cycle, drawn at random from a new patient like the validation patients,
the set holds the class with at least the level's probability; class-conditional, the same for one cycle of that class.
It says nothing of one given patient, of a device that validation did not have, or of cycles pooled over patients.
With too few patients (fewer than 9 for 90 %, 19 for 95 %) no threshold can promise it and the class is always in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lungsound.evaluation.calibration.patient_sums import Floats, Resampling, device_groups
from lungsound.evaluation.calibration.scaling import Labels
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.uncertainty import Estimate

LEVELS = (0.9, 0.95)
# Room for sums of shares such as 1/3 that do not add up in floats.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ConformalThresholds:
    """The smallest probability that puts a class into the set, for one level; 0 puts every class in, always.

    `of_class` are the thresholds of class-conditional sets. The numbers of patients are those they rest on.
    """

    level: float
    threshold: float
    of_class: tuple[float, ...]
    num_patients: int
    num_class_patients: tuple[int, ...]

    @property
    def classes_always_in(self) -> tuple[int, ...]:
        """Classes that too few patients have for a class-conditional threshold."""
        needed = patients_needed(self.level)
        return tuple(k for k, num in enumerate(self.num_class_patients) if num < needed)

    def sets(self, probabilities: Floats, *, is_class_conditional: bool = False) -> npt.NDArray[np.bool_]:
        """Which classes are in the set `(..., class)`, of probabilities `(..., class)`."""
        smallest = np.array(self.of_class) if is_class_conditional else self.threshold
        is_top = np.arange(probabilities.shape[-1]) == probabilities.argmax(axis=-1)[..., None]
        return np.asarray((probabilities >= smallest) | is_top)


def patients_needed(level: float) -> int:
    """Fewest patients with which a threshold can promise the level: n / (n + 1) must reach it."""
    return math.ceil(level / (1.0 - level) - _ROUNDING)


def fit_thresholds(
    probabilities: Floats, labels: Labels, patients: Sequence[str], *, level: float
) -> ConformalThresholds:
    """Thresholds from validation patients; probabilities `(cycle, class)` by a model that was not fitted on them."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"the level of a prediction set lies between 0 and 1; got {level}")
    true_shares = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    names = np.array(patients)
    of_class, num_class_patients = [], []
    for label in range(probabilities.shape[1]):
        is_class = labels == label
        of_class.append(patient_threshold(true_shares[is_class], names[is_class], level=level))
        num_class_patients.append(len(np.unique(names[is_class])))
    return ConformalThresholds(
        level,
        patient_threshold(true_shares, names, level=level),
        tuple(of_class),
        len(np.unique(names)),
        tuple(num_class_patients),
    )


def patient_threshold(true_shares: Floats, patients: npt.NDArray[np.str_], *, level: float) -> float:
    """Largest threshold that the true class's probability `(cycle,)` reaches in `level` of the weight; 0 if none does.

    A cycle of one of n patients with m cycles weighs 1 / ((n + 1) m): the patient to come has the weight that is left.
    """
    names, patient = np.unique(patients, return_inverse=True)
    weights = 1.0 / (np.bincount(patient)[patient] * (len(names) + 1.0))
    order = np.argsort(-true_shares, kind="stable")
    reached = np.cumsum(weights[order]) >= level - _ROUNDING
    return float(true_shares[order][reached.argmax()]) if reached.any() else 0.0


@dataclass(frozen=True)
class SetMeasures:
    """How sets did on cycles of some kind; `promised` is the coverage over patients, which the level is about."""

    group: str
    num_cycles: int
    num_patients: int
    promised: Estimate
    of_cycles: Estimate
    size: Estimate


def measure_sets(
    sets: npt.NDArray[np.bool_], predictions: Predictions, *, resampling: Resampling
) -> tuple[SetMeasures, tuple[SetMeasures, ...], tuple[SetMeasures, ...]]:
    """Coverage and size of the sets `(cycle, class)`: of all cycles, by true class, by device (when there are two)."""
    labels, patients = predictions.labels, np.array(predictions.patients)
    is_covered = np.take_along_axis(sets, labels[:, None], axis=1)[:, 0]

    def measure(group: str, where: npt.NDArray[np.bool_]) -> SetMeasures:
        members = tuple(patients[where].tolist())
        return SetMeasures(
            group,
            int(where.sum()),
            len(set(members)),
            promised=resampling.mean_of_patients(is_covered[where], members),
            of_cycles=resampling.mean(is_covered[where], members),
            size=resampling.mean(sets[where].sum(axis=1), members),
        )

    of_class = tuple(measure(name, labels == k) for k, name in enumerate(predictions.classes) if (labels == k).any())
    of_device = tuple(measure(name, where) for name, where in device_groups(predictions))
    return measure("all cycles", np.ones(len(labels), dtype=np.bool_)), of_class, of_device
