"""Each reason to withhold a prediction, where it is given and where it is not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lungsound.audio import quality
from lungsound.evaluation.calibration import Calibration, fit_calibration
from lungsound.evaluation.evidence import Evidence, Trained
from lungsound.inference.prediction import Reason
from lungsound.inference.predictor import Predictor
from lungsound.inference.withholding import known_stethoscopes, reasons_of_model, reasons_of_remarks
from lungsound.training.model_file import TrainedModel
from tests.unit.evaluation.calibrated import GOOD_EVIDENCE, drawn_predictions, group
from tests.unit.inference.models import saved_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return saved_model(tmp_path_factory.mktemp("model"))


def reasons(
    trained: TrainedModel,
    evidence: Evidence | None = GOOD_EVIDENCE,
    *,
    age_years: float | None = None,
    stethoscope: str | None = None,
) -> set[Reason]:
    return reasons_of_model(replace(trained, evidence=evidence), age_years=age_years, stethoscope=stethoscope)


def test_a_model_that_was_not_measured_is_withheld(trained: TrainedModel) -> None:
    assert reasons(trained) == set()
    assert reasons(trained, None) == {Reason.NOT_MEASURED}
    for measured in ((), (group(),)):  # tests of others do not stand for the patients held out
        unmeasured = GOOD_EVIDENCE.model_copy(update={"held_out": None, "measured": measured})
        assert reasons(trained, unmeasured) == {Reason.NOT_MEASURED}
    outside = {Reason.NOT_MEASURED, Reason.AGE_OUTSIDE, Reason.STETHOSCOPE_OUTSIDE}  # its training set is known
    children = (Trained(name="children", num_patients=9, ages_years=((0.5, 16.2),)),)
    unmeasured = GOOD_EVIDENCE.model_copy(update={"held_out": None, "trained": children})
    assert reasons(replace(trained, devices=("A",)), unmeasured, age_years=40, stethoscope="B") == outside


@pytest.mark.parametrize(("interval", "is_better"), [((0.51, 0.6), True), ((0.5, 0.9), False), (None, False)])
def test_a_model_that_is_no_better_than_always_normal_is_withheld(
    interval: tuple[float, float] | None, is_better: bool, trained: TrainedModel
) -> None:
    evidence = GOOD_EVIDENCE.model_copy(update={"held_out": group(score_interval=interval)})
    assert reasons(trained, evidence) == (set() if is_better else {Reason.NOT_BETTER_THAN_NORMAL})


def test_the_groups_of_a_stated_patient_must_not_be_worse_than_always_normal(trained: TrainedModel) -> None:
    """Children do well, adults by one stethoscope do not: whoever says that the patient is one of these is told."""
    children = group("children", ages_years=((0.0, 16.5),), devices=("A",))
    adults = group("adults", ages_years=((18.0, 90.0),), devices=("B",), score_interval=(0.4, 0.6))
    evidence = GOOD_EVIDENCE.model_copy(update={"measured": (children, adults)})
    worse = {Reason.NOT_BETTER_THAN_NORMAL}
    assert reasons(trained, evidence) == set()
    assert reasons(trained, evidence, age_years=16.9) == reasons(trained, evidence, stethoscope="a") == set()
    assert reasons(trained, evidence, age_years=50) == reasons(trained, evidence, stethoscope="b") == worse
    assert reasons(trained, evidence, age_years=50, stethoscope="B") == worse
    better = adults.model_copy(update={"score_interval": (0.55, 0.6)})
    both = evidence.model_copy(update={"measured": (children, adults, better)})
    assert reasons(trained, both, stethoscope="B") == set()


def test_a_model_that_left_a_stethoscope_out_does_not_stand_for_one_that_was_measured_on_it(
    trained: TrainedModel,
) -> None:
    left_out = group("left out", devices=("A",)).model_copy(update={"is_trained_on": False})
    own = group("test", devices=("A",), score_interval=(0.4, 0.6))
    for measured, given in (((left_out,), set()), ((own, left_out), {Reason.NOT_BETTER_THAN_NORMAL})):
        evidence = GOOD_EVIDENCE.model_copy(update={"measured": measured})
        assert reasons(trained, evidence, stethoscope="A") == given


def test_an_age_and_a_stethoscope_that_were_measured_apart_are_withheld_together(trained: TrainedModel) -> None:
    """Neither is outside by itself, and no patient had both; those held out, of all kinds together, tell nothing."""
    children = group("children", ages_years=((0.0, 16.5),), devices=("A",))
    adults = group("adults", ages_years=((50.0, 90.0),), devices=("B",))
    mixed = group("held out", ages_years=((0.0, 16.5), (50.0, 90.0)), devices=("A", "B", "C"))
    evidence = GOOD_EVIDENCE.model_copy(update={"held_out": mixed, "measured": (children, adults)})
    for age_years, stethoscope in ((7, "A"), (62, "b"), (7, None), (62, None), (None, "A"), (None, "B")):
        assert reasons(trained, evidence, age_years=age_years, stethoscope=stethoscope) == set()
    assert reasons(trained, evidence, age_years=62, stethoscope="a") == {Reason.AGE_OUTSIDE}
    assert reasons(trained, evidence, age_years=7, stethoscope="B") == {Reason.AGE_OUTSIDE}
    assert reasons(trained, evidence, age_years=7, stethoscope="C") == {Reason.STETHOSCOPE_OUTSIDE}
    assert reasons(trained, evidence, age_years=30, stethoscope="C") == {Reason.STETHOSCOPE_OUTSIDE, Reason.AGE_OUTSIDE}
    alone = evidence.model_copy(update={"measured": ()})  # the patients held out are all that is known
    assert reasons(trained, alone, age_years=62, stethoscope="C") == set()


@pytest.mark.parametrize(
    ("age_years", "is_outside"),
    [(None, False), (0.1, False), (16.9, False), (17, True), (41, True), (50, False), (65, True)],
)
def test_an_age_outside_all_that_was_measured_is_withheld(
    age_years: float | None, is_outside: bool, trained: TrainedModel
) -> None:
    """By completed years: children from 0.5 to 16.2 years stand for a newborn and all who are sixteen.

    Who trained and was not measured stands for nobody.
    """
    measured = group("young", ages_years=((0.5, 16.2),)), group("old", ages_years=((50.0, 60.0), (70.0, 70.0)))
    trained_on = Trained(name="x", num_patients=9, ages_years=((0.0, 90.0),))
    evidence = GOOD_EVIDENCE.model_copy(update={"trained": (trained_on,), "measured": measured})
    assert (Reason.AGE_OUTSIDE in reasons(trained, evidence, age_years=age_years)) == is_outside
    assert Reason.AGE_OUTSIDE not in reasons(trained, age_years=age_years)  # no age is on record


def test_a_stethoscope_outside_all_that_was_measured_is_withheld(trained: TrainedModel) -> None:
    left_out = group("left out", devices=("Litt3200",)).model_copy(update={"is_trained_on": False})
    evidence = GOOD_EVIDENCE.model_copy(update={"measured": (left_out,)})
    named = replace(trained, devices=("Meditron",))
    assert known_stethoscopes(replace(named, evidence=evidence)) == ["Litt3200"]
    for stethoscope, is_outside in ((None, False), ("litt3200", False), ("Meditron", True), ("telephone", True)):
        assert (Reason.STETHOSCOPE_OUTSIDE in reasons(named, evidence, stethoscope=stethoscope)) == is_outside, (
            stethoscope
        )
    assert Reason.STETHOSCOPE_OUTSIDE not in reasons(trained, stethoscope="telephone")  # none is on record


def test_a_temperature_at_its_limit_withholds(trained: TrainedModel) -> None:
    fitted = fit_calibration(drawn_predictions(0))
    for temperature, given in ((None, set()), (1.3, set()), (20.0, {Reason.TEMPERATURE_AT_LIMIT})):
        calibrated = replace(trained, calibration=fitted.model_copy(update={"temperature": temperature}))
        assert reasons(calibrated) == given
        assert reasons(calibrated, None) == given | {Reason.NOT_MEASURED}


def test_only_what_is_no_breathing_withholds_a_recording() -> None:
    heard = ("clipped", quality.HUM, quality.HEART, "band-limited", "unlike the training set")
    assert reasons_of_remarks(heard) == set()
    given = (quality.SPEECH, "clipped", quality.MOSTLY_SILENT, quality.TOO_SHORT)
    assert reasons_of_remarks(given) == {Reason.SPEECH, Reason.MOSTLY_SILENT, Reason.TOO_SHORT}


def calibration(classes: tuple[str, ...], *, set_threshold: float, abstain_threshold: float) -> Calibration:
    """Of the probabilities as they are, with these thresholds."""
    fitted = fit_calibration(drawn_predictions(0))
    assert fitted.abstain is not None
    sets = tuple(
        each.model_copy(
            update={"threshold": set_threshold, "of_class": (0.0,) * len(classes), "num_class_patients": (9,) * 4}
        )
        for each in fitted.sets
    )
    abstain = fitted.abstain.model_copy(update={"threshold": abstain_threshold})
    return fitted.model_copy(update={"classes": classes, "temperature": None, "sets": sets, "abstain": abstain})


def test_a_cycle_is_withheld_by_its_own_probabilities_and_they_name_why(trained: TrainedModel, tmp_path: Path) -> None:
    path, classes = tmp_path / "a.wav", trained.label_set.classes
    swelling = 1.1 - np.cos(2 * np.pi * np.arange(8000 * 6) / 8000 / 2)
    soundfile.write(path, 0.05 * swelling * np.random.default_rng(0).normal(0, 1, 8000 * 6), 8000)
    spans_s = [(start_s, start_s + 1.0) for start_s in np.arange(0, 5, 0.5)]
    plain = Predictor(trained).predict(path, spans_s=spans_s)
    assert all(cycle.reasons == () for cycle in plain.cycles)
    largest = sorted(max(cycle.probabilities.values()) for cycle in plain.cycles)
    least = sorted(min(cycle.probabilities.values()) for cycle in plain.cycles)
    thresholds = {"set_threshold": least[5], "abstain_threshold": largest[5]}
    calibrated = replace(trained, calibration=calibration(classes, **thresholds))
    found = Predictor(calibrated).predict(path, spans_s=spans_s)
    for cycle in found.cycles:
        expected = []
        if min(cycle.probabilities.values()) >= least[5]:
            expected.append(Reason.ALL_CLASSES_POSSIBLE)
        if max(cycle.probabilities.values()) < largest[5]:
            expected.append(Reason.LOW_CONFIDENCE)
        assert list(cycle.reasons) == expected
    given = [reason for cycle in found.cycles for reason in cycle.reasons]
    assert given.count(Reason.LOW_CONFIDENCE) == given.count(Reason.ALL_CLASSES_POSSIBLE) == 5
    assert found.aggregate is not None
    withheld = [cycle.reasons for cycle in found.cycles if cycle.reasons]
    assert found.aggregate.is_uncertain == (2 * len(withheld) >= len(found.cycles))
    nobody = Predictor(replace(calibrated, evidence=None)).predict(path, spans_s=spans_s, stethoscope="x", age_years=3)
    assert [cycle.reasons for cycle in nobody.cycles] == [
        (Reason.NOT_MEASURED, *cycle.reasons) for cycle in found.cycles
    ]
    assert (nobody.age_years, nobody.stethoscope) == (3.0, "x")
