from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungsound.inference.formats.tables import patients_csv
from lungsound.inference.prediction import (
    CyclePrediction,
    Reason,
    RecordingPrediction,
    aggregate_cycles,
    aggregate_recordings,
)
from lungsound.labels import LabelSet
from tests.unit.inference.formats.examples import ANSWER, PROVENANCE, cycle

NAN = float("nan")


@pytest.mark.parametrize(
    ("start_s", "end_s"),
    [(NAN, 1.0), (0.0, float("inf")), (-0.5, 1.0), (1.0, 1.0), (2.0, 1.0), (1.0, 1.0000001)],
)
def test_times_that_cannot_be_are_refused(start_s: float, end_s: float) -> None:
    with pytest.raises(ValueError, match=r"CyclePrediction|a microsecond"):
        cycle(start_s, end_s)


@pytest.mark.parametrize("share", [NAN, -0.01, 1.01, float("inf")])
def test_probabilities_that_cannot_be_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"\.abnormal"):
        CyclePrediction(0.0, 1.0, "normal", {"normal": 0.5, "abnormal": share})


def test_an_answer_is_one_of_the_classes() -> None:
    with pytest.raises(ValueError, match="'rhonchi' has no probability"):
        CyclePrediction(0.0, 1.0, "rhonchi", {"normal": 1.0})
    with pytest.raises(ValueError, match="'rhonchi' has no probability"):
        CyclePrediction(0.0, 1.0, "normal", {"normal": 1.0}, possible=("normal", "rhonchi"))


@given(st.lists(st.floats(0.0, 4e4), min_size=3, max_size=30, unique=True))
def test_neighbours_do_not_overlap_by_rounding(bounds: list[float]) -> None:
    bounds = sorted(bounds)
    pairs = [(a, b) for a, b in pairwise(bounds) if b - a > 2e-6]
    cycles = replace(ANSWER, cycles=tuple(cycle(*pair) for pair in reversed(pairs))).cycles
    assert all(found.start_s < found.end_s for found in cycles)
    assert all(a.end_s <= b.start_s for a, b in pairwise(cycles))
    for found, pair in zip(cycles, pairs, strict=True):
        assert (found.start_s, found.end_s) == pytest.approx(pair, abs=5.1e-7)


def test_an_uncertain_answer_is_withheld_but_its_guess_kept() -> None:
    sure, unsure = cycle(0, 1, "wheeze"), cycle(0, 1, "wheeze", reasons=(Reason.SPEECH, Reason.LOW_CONFIDENCE))
    assert (sure.label, sure.caption) == ("wheeze", "wheeze 0.50")
    assert (unsure.label, unsure.caption) == ("uncertain", "uncertain (wheeze 0.50): speech, low_confidence")


def test_facts_of_a_recording_that_cannot_be_are_refused() -> None:
    for name, value in (("out_of_domain", NAN), ("duration_s", NAN), ("patient", ""), ("age_years", -1.0)):
        with pytest.raises(ValueError, match=name):
            replace(ANSWER, **{name: value})


def test_a_path_that_is_no_text_is_escaped() -> None:
    assert replace(ANSWER, path=Path("a\udcff\N{SNOWMAN}.wav")).path_text == "a\\udcff\N{SNOWMAN}.wav"


def test_provenance_needs_a_time_zone_and_names_on_one_line() -> None:
    assert PROVENANCE.created_text == "2026-11-23T14:05:06+01:00"
    with pytest.raises(ValueError, match="created"):
        replace(PROVENANCE, created=datetime(2026, 1, 1))
    for name in ("a;b", "a\tb", "a\nb"):
        with pytest.raises(ValueError, match="on one line"):
            replace(PROVENANCE, label_set=LabelSet("odd", ("normal", name)))


def crackling(start_s: float, end_s: float, crackle: float, *reasons: Reason) -> CyclePrediction:
    answer = "crackle" if crackle > 0.5 else "normal"
    probabilities = {"normal": 1 - crackle, "crackle": crackle}
    return CyclePrediction(start_s, end_s, answer, probabilities, reasons)


def recording(name: str, patient: str | None, *cycles: CyclePrediction) -> RecordingPrediction:
    whole = aggregate_cycles(cycles, duration_s=10.0)
    return RecordingPrediction(Path(name), 10.0, 8000, "annotation", cycles, aggregate=whole, patient=patient)


def test_a_recording_is_the_mean_of_its_cycles_by_duration() -> None:
    whole = aggregate_cycles([crackling(0, 1, 0.8), crackling(1, 4, 0.3)], duration_s=10.0)
    assert whole is not None
    assert whole.probabilities["crackle"] == pytest.approx((1 * 0.8 + 3 * 0.3) / 4)
    assert (whole.best_guess, whole.start_s, whole.end_s) == ("normal", 0.0, 10.0)
    assert sum(whole.probabilities.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(("durations_s", "is_uncertain"), [((1.0, 3.0), False), ((2.0, 2.0), True), ((3.0, 1.0), True)])
def test_it_is_uncertain_when_half_of_it_is(durations_s: tuple[float, float], is_uncertain: bool) -> None:
    doubtful, sure = durations_s
    first, second = crackling(0, doubtful / 2, 0.4, Reason.SPEECH), crackling(0, doubtful / 2, 0.4, *Reason)
    cycles = [second, first, crackling(doubtful, doubtful + sure, 0.4)]
    whole = aggregate_cycles(cycles, duration_s=10.0)
    assert whole is not None
    assert whole.is_uncertain == is_uncertain
    assert whole.reasons == (tuple(Reason) if is_uncertain else ())
    twice = aggregate_cycles([first, first, crackling(0, doubtful, 0.4, Reason.NOT_MEASURED)], duration_s=10.0)
    assert twice is not None
    assert twice.reasons == (Reason.NOT_MEASURED, Reason.SPEECH)


def test_sure_cycles_that_contradict_each_other_leave_the_recording_uncertain() -> None:
    for least, reasons in ((None, ()), (0.6, ()), (0.7, (Reason.LOW_CONFIDENCE,))):
        cycles = [
            replace(crackling(start_s, start_s + 1, share), least_confidence=least)
            for start_s, share in enumerate((0.9, 0.9, 0.1))
        ]
        one = recording("a.wav", "1", *cycles)
        for whole in (one.aggregate, aggregate_recordings([one])):
            assert whole is not None
            assert (whole.best_guess, whole.reasons) == ("crackle", reasons)


def test_without_cycles_there_is_no_answer() -> None:
    assert aggregate_cycles([], duration_s=1.0) is None
    assert aggregate_recordings([recording("a.wav", "1")]) is None


def test_a_patient_is_the_mean_of_the_recordings() -> None:
    one, two = recording("a.wav", "1", crackling(0, 9, 0.9)), recording("b.wav", "1", crackling(0, 1, 0.2))
    whole = aggregate_recordings([one, two, recording("c.wav", "1")])
    assert whole is not None
    assert whole.probabilities["crackle"] == pytest.approx((0.9 + 0.2) / 2)


def test_the_table_of_patients_has_those_that_are_known() -> None:
    answers = [
        recording("b.wav", "2", crackling(0, 1, 0.25)),
        recording("a.wav", "1"),
        recording("x.wav", None, crackling(0, 1, 0.9)),
        recording("c.wav", "2", crackling(0, 1, 0.75)),
    ]
    assert patients_csv(answers, ("normal", "crackle")).splitlines() == [
        "patient,num_recordings,answer,best_guess,p_normal,p_crackle,reasons",
        "1,1,,,,,",
        "2,2,normal,normal,0.5,0.5,",
    ]
