"""Who trains, validates and is tested: the draw of validation patients, and both protocols."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lungsound.config import DataSettings, TrainSettings
from lungsound.data.corpus import Corpus, Cycle, Recording
from lungsound.data.splits import Parts, divide, hold_out_patients, leave_device_out
from lungsound.errors import CorpusError, SettingsError


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


def make_corpus(rows: list[tuple[str, str, str | None]], *, num_cycles: int = 4, known: str = "") -> Corpus:
    """A corpus with a recording for each (patient, part, device); nothing lies on disk."""
    recordings = tuple(
        Recording(f"r{i:02}", patient, Path(f"r{i:02}.wav"), duration_s=9.0, sample_rate_hz=4000, device=device)
        for i, (patient, _, device) in enumerate(rows)
    )
    cycles = tuple(
        Cycle(recording, float(i), i + 1.0, has_crackle=i % 2 == 1, has_wheeze=i % 4 > 1)
        for recording in recordings
        for i in range(num_cycles)
    )
    split = {f"r{i:02}": part for i, (_, part, _) in enumerate(rows)}
    corpus = Corpus("icbhi", Path("somewhere"), recordings, cycles, split)
    return replace(corpus, known_patient_parts=frozenset({known} if known else ()))


def divided(corpus: Corpus, train: TrainSettings | None = None, **changed: object) -> Parts:
    return divide(corpus, DataSettings.model_validate(changed), train or TrainSettings(validation_share=0.25))


def patients(corpus: Corpus, rows: tuple[int, ...]) -> set[str]:
    return {corpus.cycles[row].recording.patient for row in rows}


TRAIN = [(f"t{i}", "train", "A") for i in range(8)]


def test_strict_puts_nobody_on_two_sides() -> None:
    corpus = make_corpus([*TRAIN, ("s", "train", "A"), ("s", "test", "B"), ("x", "test", "B")])
    parts = divided(corpus)
    train, validation, test = (patients(corpus, rows) for rows in (parts.train, parts.validation, parts.test))
    assert parts.left_out == ("s",)
    assert test == {"s", "x"}
    assert train | validation == {patient for patient, *_ in TRAIN}
    assert not train & validation
    assert len(validation) == 2
    rows = [*parts.train, *parts.validation, *parts.test]
    assert len(rows) == len(set(rows)) == len(corpus.cycles) - 4


def test_calibration_patients_are_others_and_stay_when_the_seed_changes() -> None:
    corpus = make_corpus([*((f"t{i}", "train", "A") for i in range(20)), ("x", "test", "B")])
    settings = TrainSettings(validation_share=0.2, calibration_share=0.3, division_seed=7)

    def changed(**values: object) -> Parts:
        return divided(corpus, settings.model_copy(update=values))

    one = changed(seed=0)
    train, validation, calibration = (patients(corpus, rows) for rows in (one.train, one.validation, one.calibration))
    assert (len(train), len(validation), len(calibration)) == (10, 4, 6)
    assert train | validation | calibration == {f"t{i}" for i in range(20)}
    assert one == changed(seed=1) != changed(division_seed=8)
    # Who validates does not depend on whether anybody calibrates.
    assert changed(calibration_share=0.0).validation == one.validation
    assert one.held_out == dict.fromkeys(one.validation, "validation") | dict.fromkeys(one.calibration, "calibration")


def test_shared_patients_stay_when_asked_to_and_the_test_is_the_same() -> None:
    corpus = make_corpus([*TRAIN, ("s", "train", "A"), ("s", "test", "B"), ("x", "test", "B")])
    strict, kept = divided(corpus), divided(corpus, are_shared_patients_kept=True)
    assert kept.left_out == ()
    assert "s" in patients(corpus, kept.train) | patients(corpus, kept.validation)
    assert kept.test == strict.test


def test_published_trains_on_all_of_the_training_part() -> None:
    corpus = make_corpus([*TRAIN, ("s", "train", "A"), ("s", "test", "B")])
    parts = divided(corpus, protocol="published")
    assert parts == Parts(train=tuple(range(36)), validation=(), test=tuple(range(36, 40)))


def test_a_part_of_known_patients_takes_nobody_out() -> None:
    rows = [*TRAIN, ("t0", "intra", None), ("t1", "inter", None), ("x", "inter", None)]
    corpus = make_corpus(rows, known="intra")
    assert divided(corpus).left_out == ("t1",)
    assert divided(make_corpus(rows)).left_out == ("t0", "t1")
    assert divided(make_corpus(rows), test_parts=("intra",)).left_out == ("t0",)


def test_a_test_with_every_training_patient_leaves_nothing_to_train() -> None:
    corpus = make_corpus([("a", "train", "A"), ("b", "train", "A"), ("a", "test", "A"), ("b", "test", "A")])
    with pytest.raises(CorpusError, match=r"leaves none to train; split by patient, or set data\.protocol=published"):
        divided(corpus)


def test_one_training_patient_cannot_be_held_out() -> None:
    corpus = make_corpus([("a", "train", "A"), ("b", "test", "A")])
    with pytest.raises(SettingsError, match=r"needs 2 or more training patients, got 1; data\.protocol=published"):
        divided(corpus)


def test_one_device_is_left_out() -> None:
    corpus = make_corpus([*TRAIN, ("t0", "train", "B"), ("x", "test", "B"), ("y", "test", None)])
    found = leave_device_out(corpus, "B")
    parts = divided(found)
    assert patients(found, parts.test) == {"t0", "x"}
    assert parts.left_out == ("t0",)  # also recorded with the device that is left out
    assert "y" in patients(found, parts.train) | patients(found, parts.validation)


@pytest.mark.parametrize("device", ["C", ""])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(CorpusError, match=rf"cannot leave the device '{device}' out; its devices are A, B"):
        leave_device_out(make_corpus([("a", "train", "A"), ("b", "test", "B")]), device)


def test_the_only_device_cannot_be_left_out() -> None:
    with pytest.raises(CorpusError, match="its devices are A"):
        leave_device_out(make_corpus([("a", "train", "A"), ("b", "test", "A")]), "A")
