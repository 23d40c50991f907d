"""Simulated test sets whose truth is known: patients differ, have unequal numbers of cycles, many only normal ones.

A cycle is answered right with a probability whose logit is `LOGITS` (normal, abnormal cycles) plus normal deviates of
its patient (sd 1), of method and patient, of the seed, and of seed and patient.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lungsound.evaluation.metrics import Counts

LOGITS = np.array([1.4, -0.4])
PATIENT_SD = 1.0


@dataclass(frozen=True)
class Corpus:
    """How many cycles patients have (log-uniform), and which share of the patients has normal ones only."""

    fewest: int = 5
    most: int = 39
    only_normal: float = 0.3

    def draw(self, num_patients: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """Normal and abnormal cycles `(2, patient)`."""
        total = np.exp(generator.uniform(np.log(self.fewest), np.log(self.most), num_patients)).round().astype(np.int64)
        share = np.where(generator.random(num_patients) < self.only_normal, 0.0, generator.beta(1.0, 1.5, num_patients))
        abnormal = generator.binomial(total, share)
        return np.stack([total - abnormal, abnormal])


EVEN, UNEVEN = Corpus(), Corpus(3, 75, 0.5)


@dataclass(frozen=True)
class Method:
    """How a method's answers differ from those of the other one, in logits."""

    shift: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    own_sd: float = 0.6
    seed_sd: float = 0.0
    seed_patient_sd: float = 0.35

    def true_score(self) -> float:
        """The Score over all patients and seeds there could be (Gauss-Hermite)."""
        sd = np.sqrt(PATIENT_SD**2 + self.own_sd**2 + self.seed_sd**2 + self.seed_patient_sd**2)
        return float(np.mean(self.true_shares(sd)))

    def true_shares(self, sd: float | None = None) -> npt.NDArray[np.float64]:
        """True Sp and Se."""
        if sd is None:
            sd = float(np.sqrt(PATIENT_SD**2 + self.own_sd**2 + self.seed_sd**2 + self.seed_patient_sd**2))
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        chances = 1.0 / (1.0 + np.exp(-(LOGITS + self.shift)[:, None] - sd * nodes))
        return np.asarray(chances @ weights / weights.sum())


def simulate(
    num_patients: int,
    generator: np.random.Generator,
    *,
    methods: tuple[Method, ...] = (Method(),),
    num_seeds: int = 1,
    corpus: Corpus = EVEN,
) -> list[Counts]:
    """For each method `(seed, patient, 2, 2)`, on the same patients."""
    num_cycles = corpus.draw(num_patients, generator)
    patients = generator.normal(0.0, PATIENT_SD, (2, num_patients))
    sides = []
    for method in methods:
        own = patients + generator.normal(0.0, method.own_sd, (2, num_patients))
        runs = np.zeros((num_seeds, num_patients, 2, 2), dtype=np.int64)
        for run in runs:
            trained = generator.normal(0.0, method.seed_sd, (2, 1))
            logits = (LOGITS + method.shift)[:, None] + own + trained
            logits = logits + generator.normal(0.0, method.seed_patient_sd, (2, num_patients))
            right = generator.binomial(num_cycles, 1.0 / (1.0 + np.exp(-logits)))
            run[:, 0, 0], run[:, 0, 1] = right[0], num_cycles[0] - right[0]
            run[:, 1, 1], run[:, 1, 0] = right[1], num_cycles[1] - right[1]
        sides.append(runs)
    return sides
