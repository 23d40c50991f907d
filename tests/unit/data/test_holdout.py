"""Validation patients: whole patients, about the share, the classes and devices as in the rest."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from lungsound.data.corpus import Cycle, Recording
from lungsound.data.splits import hold_out_patients
from lungsound.errors import SettingsError


def cycles_of(patient: str, counts: tuple[int, int, int, int], *, device: str = "Meditron") -> list[Cycle]:
    """As many cycles of each class as `counts` says."""
    recording = Recording(f"{patient}_r", patient, Path("r.wav"), 99.0, 4000, device=device)
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return [Cycle(recording, float(i), i + 1.0, label in (1, 3), label in (2, 3)) for i, label in enumerate(labels)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.8])
def test_equal_patients_give_exactly_the_share(share: float) -> None:
    cycles = [cycle for i in range(10) for cycle in cycles_of(f"p{i}", (3, 1, 1, 0))]
    assert len(hold_out_patients(cycles, share, generator=generator())) == round(10 * share)


def test_classes_and_devices_are_held_out_in_proportion() -> None:
    """Crackles only in even patients, wheezes only in odd ones, one device for patients 0 to 9."""
    cycles = []
    for i in range(20):
        counts = (4, 2, 0, 0) if i % 2 == 0 else (4, 0, 2, 0)
        cycles += cycles_of(f"p{i}", counts, device="A" if i < 10 else "B")
    for seed in range(5):
        held = hold_out_patients(cycles, 0.2, generator=generator(seed))
        assert Counter(int(patient[1:]) % 2 for patient in held) == {0: 2, 1: 2}
        assert Counter(int(patient[1:]) < 10 for patient in held) == {True: 2, False: 2}


def test_a_large_patient_counts_by_its_cycles() -> None:
    cycles = cycles_of("large", (80, 0, 0, 0))
    cycles += [cycle for i in range(20) for cycle in cycles_of(f"p{i}", (1, 0, 0, 0))]
    held = hold_out_patients(cycles, 0.2, generator=generator())
    assert "large" not in held
    assert len(held) == 20


def test_the_draw_is_determined_by_the_generator_and_not_by_the_order_of_cycles() -> None:
    cycles = [cycle for i in range(12) for cycle in cycles_of(f"p{i}", (3, 1, 1, 0))]
    first = hold_out_patients(cycles, 0.25, generator=generator())
    assert hold_out_patients(cycles[::-1], 0.25, generator=generator()) == first
    assert len({hold_out_patients(cycles, 0.25, generator=generator(seed)) for seed in range(8)}) > 4


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_at_least_one_patient_is_on_each_side(share: float) -> None:
    cycles = [*cycles_of("a", (3, 1, 0, 0)), *cycles_of("b", (3, 0, 1, 0)), *cycles_of("c", (2, 0, 0, 0))]
    assert len(hold_out_patients(cycles, share, generator=generator())) == (1 if share < 0.5 else 2)


def test_one_patient_is_too_few() -> None:
    with pytest.raises(SettingsError, match="2 or more training patients, got 1"):
        hold_out_patients(cycles_of("a", (3, 1, 0, 0)), 0.2, generator=generator())
