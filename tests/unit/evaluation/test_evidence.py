"""What a model file says of whom a model was trained and measured on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from lungsound.data.corpus import Corpus, Cycle, Recording
from lungsound.evaluation.bootstrap import Bootstrap, patient_confusions
from lungsound.evaluation.evidence import (
    DOUBT,
    HELD_OUT,
    SYNTHETIC,
    UNKNOWN,
    Evidence,
    Measured,
    Trained,
    spans,
    statement,
    words_for_ages,
)
from lungsound.evaluation.metrics import icbhi_score, mean_score
from lungsound.evaluation.predictions import Predictions
from tests.unit.evaluation.calibrated import drawn_predictions


def corpus_of(predictions: Predictions, *, name: str = "icbhi", num_trained: int = 3) -> Corpus:
    """The cycles of predictions, and as many patients more with one recording each who train; patient n is n years."""

    def recording(patient: str, age_years: float) -> Recording:
        path = Path(f"{patient}.wav")
        return Recording(patient, patient, path, 20.0, 4000, device="Meditron", age_years=age_years)

    ages = {patient: float(number) for number, patient in enumerate(dict.fromkeys(predictions.patients))}
    cycles = []
    for key, patient in zip(predictions.keys, predictions.patients, strict=True):
        start, end = map(float, key.partition("#")[2].split("-"))
        cycles.append(Cycle(recording(patient, ages[patient]), start, end, has_crackle=False, has_wheeze=False))
    cycles += [
        Cycle(recording(f"t{number}", 50.0 + number), 0.0, 1.0, has_crackle=False, has_wheeze=False)
        for number in range(num_trained)
    ]
    recordings = tuple({cycle.recording.name: cycle.recording for cycle in cycles}.values())
    return Corpus(name, Path(), recordings, tuple(cycles), {each.name: "train" for each in recordings})


def keyed(predictions: Predictions) -> Predictions:
    """With keys as a corpus gives them."""
    keys = [key.partition("#") for key in predictions.keys]
    spans = [tuple(map(float, times.split("-"))) for _, _, times in keys]
    return replace(predictions, keys=tuple(f"{k[0]}#{a:.3f}-{b:.3f}" for k, (a, b) in zip(keys, spans, strict=True)))


def test_a_measurement_is_that_of_the_report_and_of_scikit_learn() -> None:
    predictions = drawn_predictions(3)
    found = Measured.of(predictions, name="x", ages_years=[None, 3.0, 0.5], is_trained_on=False)
    confusions = patient_confusions(predictions)
    assert found.score == icbhi_score(confusions.sum(axis=0)).score
    interval = Bootstrap().of_counts(confusions, mean_score).interval
    assert found.score_interval == (interval.low, interval.high)
    assert found.auc == pytest.approx(roc_auc_score(predictions.labels != 0, 1 - predictions.probabilities[:, 0]))
    assert (found.num_patients, found.num_cycles, found.ages_years) == (30, 360, ((0.5, 3.0),))
    assert (found.devices, found.is_trained_on) == (("Litt3200", "Meditron"), False)


def test_it_goes_by_what_was_decided_not_by_the_most_probable() -> None:
    predictions = drawn_predictions(3)
    always_normal = replace(predictions, by_threshold=np.zeros(len(predictions.keys), dtype=np.int64))
    found = Measured.of(always_normal, name="x", ages_years=())
    assert found.score == 0.5
    assert found.auc == Measured.of(predictions, name="x", ages_years=()).auc
    assert not found.is_better_than_normal


@pytest.mark.parametrize("num_patients", [2, 30])
def test_better_than_normal_needs_the_whole_interval(num_patients: int) -> None:
    """A model that is right everywhere is better; with two patients nobody knows."""
    drawn = drawn_predictions(3, num_patients=num_patients)
    right = Measured.of(replace(drawn, by_threshold=drawn.labels), name="x", ages_years=())
    assert right.score == 1.0
    assert right.is_better_than_normal == (num_patients == 30)
    assert (right.score_interval is None) == (num_patients == 2)
    assert not right.model_copy(update={"score_interval": (0.5, 1.0)}).is_better_than_normal


def test_without_normal_cycles_there_is_neither_score_nor_area() -> None:
    drawn = drawn_predictions(3)
    abnormal = drawn.of_rows(np.flatnonzero(drawn.labels > 0).tolist())
    found = Measured.of(abnormal, name="x", ages_years=())
    assert (found.score, found.score_interval, found.auc, found.ages_years) == (None, None, None, ())
    assert not found.is_better_than_normal


def test_evidence_of_a_training_tells_those_who_trained_from_those_held_out() -> None:
    held_out = keyed(drawn_predictions(3, num_patients=6))
    corpus = corpus_of(held_out)
    rows = range(len(held_out.keys), len(corpus.cycles))
    found = Evidence.of(corpus, rows, held_out)
    trained = Trained(name="ICBHI 2017", num_patients=3, ages_years=((50.0, 52.0),), devices=("Meditron",))
    assert found.trained == (trained,)
    assert found.held_out == Measured.of(held_out, name=HELD_OUT, ages_years=[0.0, 5.0])
    assert found.groups == (found.held_out,)
    assert not found.is_synthetic
    for word in ("ICBHI 2017", "3 patients of 50 to 52 years", "Meditron"):
        assert word in found.trained_on
    assert Evidence.model_validate_json(found.model_dump_json()) == found
    assert Evidence.of(corpus, rows, None).held_out is None


def test_a_corpus_by_a_program_is_named_as_one_and_beside_a_real_one_it_is_not_all() -> None:
    held_out = keyed(drawn_predictions(3, num_patients=6))
    made = corpus_of(held_out, name="synthetic")
    rows = range(len(held_out.keys), len(made.cycles))
    assert Evidence.of(made, rows, None).is_synthetic
    recordings = [replace(each.recording, corpus=("real", "made")[row % 2]) for row, each in enumerate(made.cycles)]
    cycles = tuple(replace(cycle, recording=own) for cycle, own in zip(made.cycles, recordings, strict=True))
    members = {"made": made, "real": corpus_of(held_out)}
    both = replace(made, name="both", cycles=cycles, members=members)
    assert not Evidence.of(both, rows, None).is_synthetic
    assert Evidence.of(both, [row for row in rows if row % 2], None).is_synthetic


def test_the_statement_says_what_is_known_and_what_is_not() -> None:
    assert statement(None) == UNKNOWN
    held = Measured.of(drawn_predictions(3), name="held out", ages_years=[40.0, 70.5])
    trained = (Trained(name="x", num_patients=2), Trained(name="y", num_patients=1))
    evidence = Evidence(trained=trained, is_synthetic=True, held_out=held)
    said = statement(evidence)
    assert said.startswith(SYNTHETIC)
    assert "Trained on x and y." in said
    assert f"on adults: held out {100 * (held.score or 0):.1f} % (" in said
    assert "nobody" in statement(evidence.model_copy(update={"held_out": None}))
    assert "30 patients of 40, 70 years" in held.summary


def test_the_statement_goes_by_tests_and_by_whom_they_are_of() -> None:
    held = Measured.of(drawn_predictions(3), name="held out", ages_years=())
    spans_of = {"old": ((18.0, 70.0),), "young": ((0.1, 16.0),), "all": ((0.0, 2.0), (50.0, 60.0))}
    tests = [
        held.model_copy(update={"name": name, "ages_years": ages, "score_interval": (0.4 + 0.2 * (name == "old"), 0.9)})
        for name, ages in spans_of.items()
    ]
    others = [
        held.model_copy(update={"name": name, "score": None, "auc": auc, "is_trained_on": False})
        for name, auc in (("A", 0.7), ("B", 0.5), ("C", None), ("D", 0.8))
    ]
    evidence = Evidence(trained=(), is_synthetic=False, held_out=held, measured=(*tests, *others))
    said = statement(evidence)
    score = f"{100 * (held.score or 0):.1f} %"
    proven, _, doubted = said.partition(DOUBT.capitalize())
    assert f"on adults: old {score} (60.0 to 90.0)." in proven
    assert f"on children: young {score} (40.0 to 90.0);" in doubted
    assert "on patients of 0 to 2, 50 to 60 years: all" in doubted
    assert "50.0 % (B) to 80.0 % (D)" in said
    assert "held out" not in said
    assert "\n" not in said
    one = statement(evidence.model_copy(update={"measured": (others[0],)}))
    assert one.endswith("left out of the training: 70.0 % (A).")
    assert "on patients of unknown ages: held out" in one
    assert "A (left out of the training): AUC" in others[0].summary


def test_values_that_cannot_be_are_refused() -> None:
    group = Measured.of(drawn_predictions(3), name="x", ages_years=())
    for change in ({"score": 1.5}, {"auc": -0.1}, {"ages_years": ((-1.0, 3.0),)}, {"surplus": 1}):
        with pytest.raises(ValidationError):
            Measured.model_validate(group.model_dump() | change)


def test_spans_are_of_the_known_ages_and_end_where_nobody_is_near() -> None:
    assert spans([None, None]) == ()
    assert spans([3.0, None, 0.25]) == ((0.25, 3.0),)
    assert spans([21.0, 50.5, 16.0, 51.0, 31.1]) == ((16.0, 21.0), (31.1, 31.1), (50.5, 51.0))
    assert words_for_ages(spans([0.2, 4.9, 15.5])) == "0 to 4, 15"
