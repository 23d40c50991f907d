import math

import numpy as np
import pytest

from lungsound.evaluation.bootstrap import estimate_over_patients
from lungsound.evaluation.metrics import confusion_matrix, mean_score
from lungsound.evaluation.published import METRICS, RANKING_METRICS
from lungsound.evaluation.rescore import NO_COLUMN, Line, Rescored, Value, rescore
from lungsound.evaluation.rescore_files import Answers, Tally

CLASSES = ("normal", "crackle", "wheeze", "both")
OFFICIAL = np.array([[1289, 150, 120, 20], [300, 280, 49, 20], [150, 35, 180, 20], [40, 40, 30, 33]])
NO_UNIT = "a bare matrix does not say which cycles are of one patient"


def of_matrix(confusion: np.ndarray, classes: tuple[str, ...] = CLASSES, **how: object) -> Rescored:
    tally = Tally((), classes, np.array(confusion)[np.newaxis], unit="", no_unit=NO_UNIT)
    return rescore(tally, **how)


def drawn_answers(num_cycles: int = 300, num_patients: int = 20, unit: str = "patient") -> Answers:
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 4, num_cycles)
    probabilities = generator.dirichlet(np.ones(4), num_cycles)
    probabilities[np.arange(num_cycles), labels] += 0.3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Answers(
        classes=CLASSES,
        labels=labels,
        answers=probabilities.argmax(axis=1),
        probabilities=probabilities,
        parts=("",) * num_cycles,
        unit=unit,
        units=tuple(f"p{i % num_patients:02}" for i in range(num_cycles)),
        no_unit="",
        notes=("a note",),
    )


def line(result: Rescored, key: str) -> Line:
    return next(line for line in result.lines if line.key == key)


def test_every_metric_has_a_name_a_definition_and_a_column() -> None:
    result = rescore(drawn_answers().tally([""]), num_draws=20)
    keys = [line.key for line in result.lines]
    left_out = {"challenge_sensitivity", "average_score"}  # the same as Se and Score without a Poor Quality class
    assert keys == [metric.key for metric in METRICS if metric.key not in left_out] + list(RANKING_METRICS)
    assert len({line.name for line in result.lines}) == len(keys)
    assert all(line.definition and line.beside for line in result.lines)


def test_values_are_those_of_the_metrics_and_intervals_are_over_patients() -> None:
    answers = drawn_answers()
    tally = answers.tally([""])
    result = rescore(tally, seed=5, num_draws=200)
    confusion = confusion_matrix(answers.labels, answers.answers, 4)
    np.testing.assert_array_equal(result.confusion, confusion)
    assert line(result, "score").value.value == pytest.approx(float(mean_score(confusion)))
    expected = estimate_over_patients(
        tally.confusions, mean_score, generator=np.random.default_rng(5), num_draws=200
    ).interval
    assert line(result, "score").value.interval == expected
    assert all(each.value.interval is not None for each in result.lines)
    assert (result.unit, result.num_units, result.notes) == ("patient", 20, ("a note",))
    assert not any("interval" in warning.lower() for warning in result.warnings)


def test_interval_of_an_area_is_that_of_the_resampled_rows() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    answers = drawn_answers(num_cycles=120, num_patients=12)
    found = line(rescore(answers.tally([""]), num_draws=300), "abnormal_auroc").value
    theirs = sklearn_metrics.roc_auc_score(answers.labels != 0, 1 - answers.probabilities[:, 0])
    assert found.value == pytest.approx(theirs)
    generator, units = np.random.default_rng(1), np.array(answers.units)
    values = []
    for _ in range(300):
        taken = generator.choice(np.unique(units), 12)
        rows = np.concatenate([np.flatnonzero(units == unit) for unit in taken])
        values.append(sklearn_metrics.roc_auc_score(answers.labels[rows] != 0, 1 - answers.probabilities[rows, 0]))
    low, high = np.quantile(values, [0.025, 0.975])
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=0.04)


def test_official_icbhi_matrix_stands_beside_its_columns() -> None:
    result = of_matrix(OFFICIAL, epoch="last")
    beside = {each.key: each.beside for each in result.lines if each.is_beside_published}
    assert beside == {
        "specificity": "Sp of ICBHI, 4 classes",
        "sensitivity": "Se of ICBHI, 4 classes",
        "score": "Score of ICBHI, 4 classes",
        "two_class_sensitivity": "Se of ICBHI, 2 classes",
        "two_class_score": "Score of ICBHI, 2 classes",
    }
    assert line(result, "macro_mean_score").beside == "no Sp, Se or Score column"
    assert line(result, "challenge_score").beside == NO_COLUMN
    assert any("Patients 156 and 218" in warning for warning in result.warnings)
    assert not any("Not comparable" in warning for warning in result.warnings)
    paper = next(score for score in result.published if score.score == 62.37)
    assert result.value_beside(paper) == line(result, "score").value
    two_class = next(score for score in result.published if score.score == 68.71)
    assert result.value_beside(two_class) == line(result, "two_class_score").value


def test_a_part_of_icbhi_stands_beside_nothing() -> None:
    for part in (OFFICIAL // 2, np.diag([639, 102, 140, 39])):
        result = of_matrix(part)
        assert not any(each.is_beside_published for each in result.lines)
        assert result.published == []
        assert any(warning.startswith("Not comparable with published") for warning in result.warnings)
    assert any("920 of the 2,756 test cycles" in warning for warning in of_matrix(part).warnings)


def test_folded_sprsound_stands_beside_the_two_class_task_only() -> None:
    result = of_matrix(np.diag([1040, 83, 305, 1]))
    beside = {each.key: each.beside for each in result.lines if each.is_beside_published}
    assert set(beside) == {
        "two_class_sensitivity",
        "two_class_score",
        "two_class_harmonic_score",
        "two_class_challenge_score",
    }
    assert beside["two_class_challenge_score"] == "Score of SPRSound inter, task 1-1"
    assert any("Read as 2 classes they are SPRSound 2022, inter" in warning for warning in result.warnings)
    assert any("both (1)" in warning for warning in result.warnings)


def test_poor_quality_recordings_are_left_out_of_the_challenge_only() -> None:
    confusion = np.diag([241, 65, 24, 17, 8])
    confusion[1] = [5, 50, 5, 0, 5]
    confusion[4] = [8, 0, 0, 0, 0]
    result = of_matrix(confusion, ("Normal", "CAS", "DAS", "CAS & DAS", "Poor Quality"))
    assert line(result, "challenge_sensitivity").value.value == pytest.approx((50 + 24 + 17) / (65 + 24 + 17))
    assert line(result, "sensitivity").value.value == pytest.approx((50 + 24 + 17) / (65 + 24 + 17 + 8))
    assert line(result, "challenge_sensitivity").beside == "SE of SPRSound inter, task 2-2"
    assert line(result, "sensitivity").beside == line(result, "score").beside == NO_COLUMN
    assert not any(each.key.startswith("two_class") for each in result.lines)


def test_two_classes_have_no_second_reading() -> None:
    result = of_matrix(np.array([[1200, 379], [500, 677]]), ("normal", "abnormal"))
    assert not any(each.key.startswith("two_class") for each in result.lines)
    assert line(result, "score").beside == "Score of ICBHI, 2 classes"
    score = result.published[0]
    assert result.value_beside(score) == line(result, "score").value


def test_bare_matrix_has_no_interval() -> None:
    result = of_matrix(OFFICIAL)
    assert all(each.value.interval is None for each in result.lines)
    assert all(each.recall.interval is None for each in result.per_class)
    assert any(warning == f"No intervals: {NO_UNIT}." for warning in result.warnings)
    assert line(result, "score").text == "61.8"


@pytest.mark.parametrize(
    ("num_units", "unit", "wanted", "unwanted"),
    [
        (20, "patient", (), ("Intervals are over recordings", "too narrow", "No intervals")),
        (5, "patient", ("there are only 5 patients",), ("Intervals are over recordings",)),
        (1, "patient", ("No intervals: one patient cannot show how patients differ",), ("there are only",)),
        (20, "recording", ("Intervals are over recordings, since no patients are named",), ("there are only",)),
    ],
)
def test_warnings_about_intervals(
    num_units: int, unit: str, wanted: tuple[str, ...], unwanted: tuple[str, ...]
) -> None:
    warnings = rescore(drawn_answers(100, num_units, unit).tally([""]), num_draws=20).warnings
    for text in wanted:
        assert any(text in warning for warning in warnings)
    for text in unwanted:
        assert not any(text in warning for warning in warnings)


@pytest.mark.parametrize(
    ("epoch", "text"), [("test", "chosen on the test set itself"), ("unknown", "is not stated"), ("last", None)]
)
def test_warnings_about_the_epoch(epoch: str, text: str | None) -> None:
    found = [warning for warning in of_matrix(OFFICIAL, epoch=epoch).warnings if "epoch" in warning.lower()]
    assert len(found) == (text is not None)
    assert text is None or text in found[0]


@pytest.mark.parametrize(
    ("epoch", "parts", "text"),
    [
        ("test", ("validation",), None),
        ("test", ("train",), None),
        ("test", ("inter",), "chosen on the test set itself"),
        ("test", ("validation", "test"), "chosen on the test set itself"),
        ("validation", ("validation",), "chosen on the validation set itself: this score is optimistic"),
        ("validation", ("Val",), "chosen on the validation set itself"),
        ("validation", ("test",), None),
        ("validation", (), None),
        ("last", ("validation",), None),
        ("unknown", ("validation",), "is not stated"),
    ],
)
def test_the_part_that_chose_the_epoch_is_optimistic(epoch: str, parts: tuple[str, ...], text: str | None) -> None:
    tally = Tally(parts, CLASSES, OFFICIAL[np.newaxis], unit="", no_unit=NO_UNIT)
    found = [warning for warning in rescore(tally, epoch=epoch).warnings if "epoch" in warning.lower()]
    assert len(found) == (text is not None)
    assert text is None or text in found[0]


@pytest.mark.parametrize(("num_rare", "shown"), [(1, "60.0 (60.0 to 60.0)"), (2, "45.0 (n/a)")])
def test_resamples_without_a_class_are_counted_and_told(num_rare: int, shown: str) -> None:
    confusions = np.zeros((8, 4, 4), dtype=np.int64)
    confusions[:, 0, 0], confusions[:, 0, 1], confusions[:, 1, 1] = 8, 2, 10
    for rare in range(num_rare):
        confusions[rare, 2 + rare, 0] = 5
    result = rescore(Tally((), CLASSES, confusions, unit="patient"), num_draws=2000)
    macro_recall = line(result, "macro_recall")
    assert macro_recall.text == shown
    (note,) = result.resample_notes
    assert f"in {macro_recall.value.interval.num_undefined} of 2000 resamples: Macro recall (UAR), Macro spec" in note
    assert "Sensitivity" not in note
    assert rescore(drawn_answers().tally([""]), num_draws=200).resample_notes == []


def test_warning_names_three_scores_of_the_same_answers() -> None:
    result = of_matrix(OFFICIAL)
    (warning,) = [warning for warning in result.warnings if warning.startswith("Three numbers")]
    for key in ("score", "two_class_score", "macro_mean_score"):
        assert f"{100 * line(result, key).value.value:.1f}" in warning


def test_always_normal_is_said_to_be_no_better() -> None:
    always_normal = np.zeros((4, 4), dtype=np.int64)
    always_normal[:, 0] = OFFICIAL.sum(axis=1)
    assert any("not above the 50.0" in warning for warning in of_matrix(always_normal).warnings)
    assert not any("not above the 50.0" in warning for warning in of_matrix(OFFICIAL).warnings)


def test_no_normal_cycle_is_no_number() -> None:
    confusion = OFFICIAL.copy()
    confusion[0] = 0
    result = of_matrix(confusion)
    assert math.isnan(line(result, "score").value.value)
    assert line(result, "score").text == "n/a"
    assert any("Without a cycle, and left out of macro means: normal" in warning for warning in result.warnings)


def test_by_class() -> None:
    first = of_matrix(OFFICIAL).per_class[0]
    assert (first.name, first.num_cycles, first.num_answered) == ("normal", 1579, 1779)
    assert first.recall.value == 1289 / 1579
    assert first.precision.value == 1289 / 1779
    assert first.f1.value == pytest.approx(2 * 1289 / (1579 + 1779))


def test_correlations_are_not_in_percent() -> None:
    assert line(of_matrix(OFFICIAL), "cohen_kappa").text == "0.38"
    assert Value(float("nan"), None).text() == "n/a"
