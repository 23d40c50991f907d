"""From cycles to a recording, from recordings to a patient."""

from pathlib import Path

import pytest

from lungsound.inference.formats.tables import patients_csv
from lungsound.inference.prediction import CyclePrediction, RecordingPrediction, aggregate_cycles, aggregate_recordings


def cycle(start_s: float, end_s: float, crackle: float, *, is_uncertain: bool = False) -> CyclePrediction:
    answer = "crackle" if crackle > 0.5 else "normal"
    probabilities = {"normal": 1 - crackle, "crackle": crackle}
    return CyclePrediction(start_s, end_s, answer, probabilities, is_uncertain=is_uncertain)


def recording(name: str, patient: str | None, *cycles: CyclePrediction) -> RecordingPrediction:
    whole = aggregate_cycles(cycles, duration_s=10.0)
    return RecordingPrediction(Path(name), 10.0, 8000, "annotation", cycles, aggregate=whole, patient=patient)


def test_a_recording_is_the_mean_of_its_cycles_by_duration() -> None:
    whole = aggregate_cycles([cycle(0, 1, 0.8), cycle(1, 4, 0.3)], duration_s=10.0)
    assert whole is not None
    assert whole.probabilities["crackle"] == pytest.approx((1 * 0.8 + 3 * 0.3) / 4)
    assert (whole.best_guess, whole.start_s, whole.end_s) == ("normal", 0.0, 10.0)
    assert sum(whole.probabilities.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(("durations_s", "is_uncertain"), [((1.0, 3.0), False), ((2.0, 2.0), True), ((3.0, 1.0), True)])
def test_it_is_uncertain_when_half_of_it_is(durations_s: tuple[float, float], is_uncertain: bool) -> None:
    doubtful, sure = durations_s
    whole = aggregate_cycles(
        [cycle(0, doubtful, 0.4, is_uncertain=True), cycle(doubtful, doubtful + sure, 0.4)], duration_s=10.0
    )
    assert whole is not None
    assert whole.is_uncertain == is_uncertain


def test_without_cycles_there_is_no_answer() -> None:
    assert aggregate_cycles([], duration_s=1.0) is None
    assert aggregate_recordings([recording("a.wav", "1")]) is None


def test_a_patient_is_the_mean_of_the_recordings() -> None:
    one, two = recording("a.wav", "1", cycle(0, 9, 0.9)), recording("b.wav", "1", cycle(0, 1, 0.2))
    whole = aggregate_recordings([one, two, recording("c.wav", "1")])
    assert whole is not None
    assert whole.probabilities["crackle"] == pytest.approx((0.9 + 0.2) / 2)


def test_the_table_of_patients_has_those_that_are_known() -> None:
    answers = [
        recording("b.wav", "2", cycle(0, 1, 0.25)),
        recording("a.wav", "1"),
        recording("x.wav", None, cycle(0, 1, 0.9)),
        recording("c.wav", "2", cycle(0, 1, 0.75)),
    ]
    assert patients_csv(answers, ("normal", "crackle")).splitlines() == [
        "patient,num_recordings,answer,best_guess,p_normal,p_crackle",
        "1,1,,,,",
        "2,2,normal,normal,0.5,0.5",
    ]
