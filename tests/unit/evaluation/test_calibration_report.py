import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import brier_score_loss, confusion_matrix

from lungsound.evaluation import calibration_report
from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.calibration import Calibration, OperatingPoint, fit_calibration, softmax
from lungsound.evaluation.calibration_report import (
    COVERAGE,
    EDGES,
    PREVALENCES,
    RELIABILITY,
    RISK,
    CalibrationError,
    brier_scores,
    calibration_error,
    calibration_section,
    difference,
    draw_reliability,
    draw_risk_coverage,
    measure_abstention,
    measure_calibration,
    measure_operating_points,
    measure_sets,
    predictive_value,
    probability_errors,
    verdict,
)
from lungsound.evaluation.predictions import Predictions
from lungsound.page import render_html
from tests.unit.evaluation.calibrated import drawn_predictions

Floats = npt.NDArray[np.float64]
Set = tuple[Floats, npt.NDArray[np.int64], tuple[str, ...]]
QUICK = Bootstrap(num_draws=200)


def drawn(generator: np.random.Generator, num_patients: int, temperature: float) -> Set:
    """Probabilities of patients that differ, labels drawn from what they are at this temperature, and patients."""
    counts = generator.integers(8, 25, num_patients)
    patients = np.repeat(np.arange(num_patients), counts)
    habits = generator.normal(0.0, 0.8, (num_patients, 3))[patients]
    probabilities = softmax(habits + generator.normal(0.0, 1.5, (len(patients), 3)))
    honest = softmax(np.log(probabilities) / temperature)
    uniform = generator.random((len(patients), 1))
    labels = (honest.cumsum(axis=1)[:, :-1] < uniform).sum(axis=1).astype(np.int64)
    return probabilities, labels, tuple(f"p{name:04}" for name in patients.tolist())


def naive_ece(confidence: Floats, is_right: npt.NDArray[np.bool_]) -> float:
    total = 0.0
    for number, (low, high) in enumerate(pairwise(EDGES)):
        members = [i for i, v in enumerate(confidence) if (low < v or number == 0) and (v <= high)]
        if members:
            gap = sum(float(confidence[i]) - float(is_right[i]) for i in members) / len(members)
            total += len(members) / len(confidence) * abs(gap)
    return total


def test_errors_against_naive_loops_and_scikit_learn() -> None:
    probabilities, labels, patients = drawn(np.random.default_rng(0), 20, 2.0)
    errors = probability_errors(probabilities, labels, patients, QUICK)
    expected = naive_ece(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
    assert errors.top_label.seen == pytest.approx(expected, rel=1e-12)
    brier = sum(brier_score_loss(labels == k, probabilities[:, k]) for k in range(3))
    assert errors.brier.value == pytest.approx(brier, rel=1e-12)


def test_closed_forms() -> None:
    # Says 0.9, is right in 6 of 10 cycles of every patient.
    probabilities, labels = np.tile([0.9, 0.1], (100, 1)), np.tile([0] * 6 + [1] * 4, 10)
    patients = tuple(f"p{i // 10}" for i in range(100))
    ours = probability_errors(probabilities, labels, patients, QUICK).top_label
    assert ours.seen == pytest.approx(0.3)
    # Patients are alike: there is no noise, and nothing to correct.
    assert ours.by_chance == pytest.approx(0.0, abs=1e-12)
    assert ours.corrected.value == pytest.approx(0.3, rel=1e-4)
    assert (ours.corrected.interval.low, ours.corrected.interval.high) == pytest.approx((0.3, 0.3), rel=1e-4)
    assert brier_scores(probabilities, labels).mean() == pytest.approx(0.6 * 0.02 + 0.4 * 1.62)
    perfect = calibration_error(np.ones(10), np.ones(10, dtype=np.bool_), tuple("abcdefghij"), QUICK)
    assert perfect.corrected.in_percent() == "0.0 (0.0 to 0.0)"


def test_the_same_seed_gives_the_same_golden_numbers() -> None:
    errors = probability_errors(*drawn(np.random.default_rng(6), 25, 2.0), Bootstrap(num_draws=500))
    values = [errors.top_label.seen, errors.brier.value, errors.negative_log_likelihood.value]
    assert values == pytest.approx([0.163080481799, 0.600179940078, 1.017872935464], rel=1e-9)
    corrected = errors.top_label.corrected
    ends = [errors.top_label.by_chance, corrected.value, corrected.interval.low, corrected.interval.high]
    assert ends == pytest.approx([0.051863026622, 0.154584970002, 0.108188241972, 0.197806330489], rel=1e-5)


def true_values(temperature: float) -> tuple[float, float]:
    """ECE and Brier score of very many patients."""
    probabilities, labels, _ = drawn(np.random.default_rng(99), 20_000, temperature)
    one = calibration_error(
        probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, ["p"] * len(labels), QUICK
    )
    return one.seen, float(brier_scores(probabilities, labels).mean())


def coverage(temperature: float, num_patients: int, num_sets: int, num_draws: int) -> tuple[float, float]:
    """Share of sets whose 95 % intervals hold the true ECE, and the true Brier score."""
    truths = true_values(temperature)
    generator = np.random.default_rng(7)
    held = np.zeros(2)
    for number in range(num_sets):
        probabilities, labels, patients = drawn(generator, num_patients, temperature)
        bootstrap = Bootstrap(seed=number, num_draws=num_draws)
        is_right = probabilities.argmax(axis=1) == labels
        first = calibration_error(probabilities.max(axis=1), is_right, patients, bootstrap).corrected.interval
        second = bootstrap.mean(brier_scores(probabilities, labels), patients).interval
        held += [each.low <= true <= each.high for each, true in zip((first, second), truths, strict=True)]
    return float(held[0] / num_sets), float(held[1] / num_sets)


def test_intervals_hold_the_truth_in_about_95_of_100_sets() -> None:
    assert min(coverage(2.5, 30, 30, 150)) >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.5, 2.5])
@pytest.mark.parametrize("num_patients", [10, 30, 60])
def test_intervals_hold_the_truth_in_93_to_97_percent_of_1000_sets(temperature: float, num_patients: int) -> None:
    ece, brier = coverage(temperature, num_patients, 1000, 1000)
    assert (0.93 if num_patients > 10 else 0.92) <= ece <= 0.97
    assert 0.93 <= brier <= 0.97


def test_measures_against_scikit_learn() -> None:
    cycles = drawn_predictions(2)
    point = OperatingPoint(
        wanted_sensitivity=0.9,
        threshold=0.6,
        validation_sensitivity=0.9,
        validation_specificity=0.5,
        num_abnormal=100,
        num_abnormal_patients=20,
    )
    few = fit_calibration(drawn_predictions(1, num_patients=4))
    calibration = few.model_copy(update={"operating_points": (point, point)})
    called = cycles.probabilities[:, 0] <= 0.4
    (right_normal, false_alarm), (missed, detected) = confusion_matrix(cycles.labels > 0, called)
    own, other, *_ = measures = measure_operating_points(calibration, cycles, (0.05,), QUICK)
    assert own.sensitivity.value == pytest.approx(detected / (detected + missed))
    assert own.specificity.value == pytest.approx(right_normal / (right_normal + false_alarm))
    # At the prevalence of the cycles themselves Bayes' rule gives back the plain shares.
    assert [each.is_test_prevalence for each in measures] == [True, False, True, False]
    assert own.ppv.value == pytest.approx(detected / (detected + false_alarm))
    assert own.npv.value == pytest.approx(right_normal / (right_normal + missed))
    assert other.sensitivity == own.sensitivity
    assert other.ppv.interval.low < other.ppv.value < other.ppv.interval.high < own.ppv.value


def test_predictive_values_in_closed_form() -> None:
    # Se 0.9, Sp 0.8, prevalence 0.1: of 1000, 90 of 100 found and 180 of 900 called in vain.
    counts = np.array([[[80, 20], [10, 90]], [[10, 0], [5, 0]], [[0, 10], [0, 5]]])  # then nobody, everybody called
    ppv, npv = (predictive_value(counts, is_called=each, prevalence=0.1).tolist() for each in (True, False))
    assert ppv == pytest.approx([90 / 270, math.nan, 0.1], nan_ok=True)
    assert npv == pytest.approx([720 / 730, 0.9, math.nan], nan_ok=True)


def six_cycles(patients: str, devices: Sequence[str], labels: list[int], probabilities: Floats) -> Predictions:
    return Predictions(
        keys=tuple(f"r#{i}-{i + 1}" for i in range(6)),
        patients=tuple(patients),
        devices=tuple(devices),
        parts=("test",) * 6,
        labels=np.array(labels),
        probabilities=probabilities,
        classes=("normal", "crackle", "wheeze")[: probabilities.shape[1]],
    )


def test_measures_of_sets() -> None:
    devices = ("x", "x", "x", "", "", "")
    cycles = six_cycles("aaabbc", devices, [0, 0, 1, 1, 0, 1], np.tile([0.5, 0.3, 0.2], (6, 1)))
    sets = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0], [1, 1, 0]], dtype=bool)
    ours = measure_sets(0.9, False, sets, cycles, QUICK)
    assert ours.all_cycles.of_cycles.value == pytest.approx(4 / 6)
    assert ours.all_cycles.promised.value == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert ours.all_cycles.size.value == pytest.approx(10 / 6)
    assert [(m.group, m.num_cycles, m.num_patients) for m in ours.by_class] == [("normal", 3, 2), ("crackle", 3, 3)]
    assert ours.by_class[0].promised.value == pytest.approx((1.0 + 0.0) / 2)
    assert [(m.group, m.of_cycles.value) for m in ours.by_device] == [("unknown device", 2 / 3), ("x", 2 / 3)]


def test_measures_of_abstention() -> None:
    shares = np.array([0.9, 0.4, 0.3, 0.6, 0.8, 0.1])
    cycles = six_cycles("aabbcc", "xxxxyy", [0, 1, 0, 1, 0, 1], np.stack([shares, 1 - shares], axis=1))
    is_predicted = np.array([True, False, True, True, True, False])
    everywhere, x, y = measure_abstention(is_predicted, cycles, QUICK)
    assert (everywhere.group, x.group, y.group) == ("all cycles", "x", "y")
    assert (everywhere.coverage.value, everywhere.error.value) == pytest.approx((4 / 6, 2 / 4))
    assert everywhere.score.value == pytest.approx((2 / 3 + 0 / 1) / 2)
    assert (x.coverage.value, x.error.value, y.error.value) == pytest.approx((3 / 4, 2 / 3, 0.0))
    assert np.isnan(y.score.value)


def test_everything_is_measured_on_the_scaled_probabilities() -> None:
    calibration = fit_calibration(drawn_predictions(0, temperature=2.5))
    test = drawn_predictions(1, temperature=2.5, name="q")
    ours = measure_calibration(calibration, test, QUICK)
    honest = calibration.apply(test.probabilities)
    assert ours.before == probability_errors(test.probabilities, test.labels, test.patients, QUICK)
    assert ours.after == probability_errors(honest, test.labels, test.patients, QUICK)
    # Scaling mends what was too sure.
    assert ours.after.top_label.seen < ours.before.top_label.seen
    assert ours.after.negative_log_likelihood.value < ours.before.negative_log_likelihood.value
    kinds = [(each.level, each.is_class_conditional) for each in ours.sets]
    assert kinds == [(0.9, False), (0.9, True), (0.95, False), (0.95, True)]
    covered = calibration.prediction_set(test.probabilities)[np.arange(360), test.labels]
    assert ours.sets[0].all_cycles.of_cycles.value == pytest.approx(covered.mean())
    assert [group.group for group in ours.sets[0].by_device] == ["Litt3200", "Meditron"]
    is_predicted = ~calibration.is_abstaining(test.probabilities)
    assert ours.abstaining[0].coverage.value == pytest.approx(is_predicted.mean())
    is_wrong = honest.argmax(axis=1) != test.labels
    assert ours.abstaining[0].error.value == pytest.approx(is_wrong[is_predicted].mean())
    assert [each.prevalence for each in ours.operating[1:]] == list(PREVALENCES)
    called = 1.0 - honest[:, 0] >= calibration.operating_points[0].threshold
    assert ours.operating[0].sensitivity.value == pytest.approx(called[test.labels > 0].mean())


def section_of(calibration: Calibration, test: Predictions, monkeypatch: pytest.MonkeyPatch, *remarks: str) -> str:
    """The section without its pictures."""
    monkeypatch.setattr(calibration_report, "draw_calibration", lambda *_: None)
    measures = measure_calibration(calibration, test, QUICK)
    return calibration_section(calibration, test, folder=Path(), measures=measures, remarks=remarks)


def test_the_section_holds_the_pictures_that_were_drawn(
    tmp_path: Path, figures: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration_report, "Bootstrap", lambda: QUICK)
    calibration = fit_calibration(drawn_predictions(0, temperature=2.5))
    test = drawn_predictions(1, temperature=2.5, name="q")
    measures = measure_calibration(calibration, test, QUICK)
    text = calibration_section(calibration, test, folder=tmp_path, measures=measures)
    assert {path.name for path in tmp_path.iterdir()} == {RELIABILITY, RISK, COVERAGE}
    assert "> **" not in text
    assert render_html("Calibration", text, tmp_path).count("data:image/png") == 3
    assert "Fitted on 360 cycles of 30 validation patients, measured on 360 cycles of 30 test patients" in text
    assert re.search(r"\| temperature \| 2\.\d+ \(above 1: the model was too sure\)", text)
    assert "1 - P(normal), probabilities after temperature scaling with T 2." in text
    assert f"| ECE, corrected for chance | {measures.before.top_label.corrected.in_percent()} |" in text
    assert text.count("| all cycles | 360 | 30 | 95 % |") == 2
    axes = figures[2].axes[0]  # coverage: both kinds of sets for each group
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert dots == pytest.approx([100 * group.promised.value for each in measures.sets[:2] for group in each.groups])
    names = [label.get_text().splitlines()[0] for label in axes.get_yticklabels()]
    assert names[:2] == ["all cycles, one threshold", "normal, one threshold"]
    assert axes.lines[0].get_xdata()[0] == 90.0


def test_few_patients_are_remarked_on_and_greyed(monkeypatch: pytest.MonkeyPatch) -> None:
    few = fit_calibration(drawn_predictions(3, num_patients=4))
    test = drawn_predictions(4, devices=("a",) * 5 + ("b",), name="q")
    text = section_of(few, test, monkeypatch, "Mind the gap.")
    assert f"> **Mind the gap.**\n\n> **{few.problems[0]}**\n\n" in text
    assert "| scaling | none; 4 validation patients are fewer than the 6" in text
    assert text.count("\n| *b* | 60 | 5 | ") == 2 + 1
    assert text.count("\n| a | 300 | 25 | ") == 2 + 1


def top_label(test: Predictions) -> CalibrationError:
    return probability_errors(test.probabilities, test.labels, test.patients, QUICK).top_label


def test_the_verdict_is_about_chance() -> None:
    honest = top_label(drawn_predictions(10, num_patients=60))
    assert "not distinguishable from calibrated ones" in verdict(honest)
    too_sure = top_label(drawn_predictions(12, num_patients=60, temperature=4.0))
    assert verdict(too_sure).startswith("The probabilities are off by more than chance: ECE ")
    for num_patients in (1, 2, 9):
        few = top_label(drawn_predictions(13, num_patients=num_patients, name="q"))
        reason = f"too few patients ({num_patients} of 10)"
        assert verdict(few) == f"Whether the probabilities are calibrated cannot be seen: {reason}."
        interval = few.corrected.interval
        assert all(map(math.isnan, (few.by_chance, few.corrected.value, interval.low, interval.high)))


def test_another_calibration_in_the_model_is_remarked_on() -> None:
    validation = drawn_predictions(0, temperature=2.5)
    shown = fit_calibration(validation)
    assert shown.temperature is not None
    last_digits = shown.model_copy(update={"temperature": np.nextafter(shown.temperature, 9.0)})
    assert difference(shown, Calibration.model_validate(shown.to_plain())) is difference(shown, last_digits) is None
    assert str(difference(shown, None)).startswith("The model of this run keeps no calibration:")
    for other in (
        fit_calibration(validation, abstain_value=0.5),
        fit_calibration(validation, sensitivities=(0.8,)),
        shown.model_copy(update={"temperature": None}),
    ):
        assert str(difference(shown, other)).startswith("The model of this run keeps another calibration")


def test_reliability_picture_shows_each_bin_as_naive_loops_do(figures: list[Figure], tmp_path: Path) -> None:
    cycles = drawn_predictions(0)
    top, right = cycles.probabilities.max(axis=1), cycles.predicted == cycles.labels
    naive = []
    for low in range(10):
        members = (top > low / 10) & (top <= (low + 1) / 10)
        if members.any():
            naive.append((10.0 * low, members.sum(), 100 * top[members].mean(), 100 * right[members].mean()))
    starts, counts, confidences, shares = zip(*naive, strict=True)
    draw_reliability({"Before": cycles.probabilities}, cycles, tmp_path / "r.png", QUICK)
    above, below = figures[0].axes
    line = next(line for line in above.lines if line.get_marker() == "o")
    np.testing.assert_allclose(line.get_xdata(), confidences)
    np.testing.assert_allclose(line.get_ydata(), shares)
    assert [patch.get_height() for patch in below.patches] == list(counts)
    assert [round(patch.get_x() - 0.5, 6) for patch in below.patches] == list(starts)


def test_risk_picture_ends_at_the_error_and_marks_the_threshold(figures: list[Figure], tmp_path: Path) -> None:
    cycles = drawn_predictions(0)
    confidence, is_wrong = cycles.probabilities.max(axis=1), cycles.predicted != cycles.labels
    for name in ("a.png", "b.png"):
        draw_risk_coverage(confidence, is_wrong, cycles.patients, tmp_path / name, QUICK, threshold=0.6)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    lines = {line.get_label(): line for line in figures[0].axes[0].lines}
    error = 100 * float(is_wrong.mean())
    assert lines["this model"].get_xydata()[-1] == pytest.approx([100.0, error])
    is_predicted = confidence >= 0.6
    marked = lines["threshold 0.60, from validation"].get_xydata()[0]
    assert marked == pytest.approx([100 * is_predicted.mean(), 100 * is_wrong[is_predicted].mean()])
