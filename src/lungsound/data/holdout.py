"""Validation patients out of the training part: grouped by patient, stratified by class and device."""

from collections import Counter
from collections.abc import Sequence

import torch

from lungsound.data.corpus import Cycle
from lungsound.errors import SettingsError

NUM_CANDIDATES = 400


def hold_out_patients(cycles: Sequence[Cycle], share: float, *, generator: torch.Generator) -> frozenset[str]:
    """Patients that together hold about `share` of the cycles, of each class and of each device's cycles.

    Of many random sets of patients the one whose counts come closest (least squares of relative deviations) is taken.
    Raises SettingsError when there are fewer than two patients.
    """
    patients = sorted({cycle.recording.patient for cycle in cycles})
    if len(patients) < 2:
        raise SettingsError(
            f"the strict protocol holds out validation patients and needs 2 or more training patients, got "
            f"{len(patients)}; data.protocol=published holds none out"
        )
    strata = sorted({name for cycle in cycles for name in _strata(cycle)})
    counts = {patient: Counter[str]() for patient in patients}
    for cycle in cycles:
        counts[cycle.recording.patient].update(_strata(cycle))
    table = torch.tensor([[counts[p][name] for name in strata] for p in patients], dtype=torch.float64)

    best: tuple[float, frozenset[str]] | None = None
    for _ in range(NUM_CANDIDATES):
        order = torch.randperm(len(patients), generator=generator)
        held = table[order].cumsum(0)
        deviations = ((held / table.sum(0) - share) ** 2).sum(1)[:-1]
        num_held = int(deviations.argmin()) + 1
        deviation = float(deviations[num_held - 1])
        if best is None or deviation < best[0]:
            best = deviation, frozenset(patients[i] for i in order[:num_held].tolist())
    assert best is not None
    return best[1]


def _strata(cycle: Cycle) -> tuple[str, ...]:
    return ("all", f"class {cycle.word}", f"device {cycle.recording.device}")
