import math

import numpy as np
import pytest
from scipy import stats

from lungsound.evaluation.bootstrap import (
    Estimate,
    Interval,
    bootstrap_over_patients,
    bootstrap_over_seeds,
    draw_patient_weights,
    effective_degrees,
    estimate_over_patients,
    estimate_over_seeds,
    interval_over_patients,
    leave_one_out_weights,
    patient_confusions,
    percentile_interval,
    resample,
)
from lungsound.evaluation.metrics import accuracy, confusion_matrix, macro_recall, mean_score, sensitivity, specificity
from lungsound.evaluation.predictions import Predictions


def predictions_of(seed: int, num_patients: int = 7, num_cycles: int = 90) -> Predictions:
    generator = np.random.default_rng(seed)
    return Predictions(
        keys=tuple(f"r#{i}-{i + 1}" for i in range(num_cycles)),
        patients=tuple(f"p{n}" for n in generator.integers(0, num_patients, num_cycles)),
        devices=("",) * num_cycles,
        parts=("",) * num_cycles,
        labels=generator.integers(0, 3, num_cycles),
        probabilities=generator.dirichlet([0.5] * 3, num_cycles),
        classes=("normal", "crackle", "wheeze"),
    )


def expanded_tail(degrees: float, level: float = 0.95) -> float:
    """Hesterberg's percentile for the lower end, with n - 1 = degrees, by scipy."""
    steps = stats.t.ppf((1 + level) / 2, degrees) * math.sqrt((degrees + 1) / degrees)
    return float(stats.norm.cdf(-steps))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_patient_confusions_are_those_of_each_patient() -> None:
    predictions = predictions_of(0)
    ours = patient_confusions(predictions)
    names = sorted(set(predictions.patients))
    assert len(ours) == len(names)
    for name, confusion in zip(names, ours, strict=True):
        rows = [row for row, patient in enumerate(predictions.patients) if patient == name]
        naive = confusion_matrix(predictions.labels[rows], predictions.predicted[rows], 3)
        assert confusion.tolist() == naive.tolist()


def test_weights_take_as_many_patients_as_there_are() -> None:
    weights = draw_patient_weights(6, generator=rng(), num_draws=5000)
    assert weights.shape == (5000, 6)
    assert set(weights.sum(axis=1).tolist()) == {6}
    # Each weight is binomial(6, 1/6): mean 1, variance 5/6.
    np.testing.assert_allclose(weights.mean(axis=0), 1.0, atol=0.06)
    np.testing.assert_allclose(weights.var(axis=0), 5 / 6, atol=0.08)


def test_interval_against_cycles_drawn_patient_by_patient() -> None:
    predictions = predictions_of(3)
    names = sorted(set(predictions.patients))
    weights = draw_patient_weights(len(names), generator=rng(5), num_draws=200)
    values = []
    for draw in weights:
        labels, answers = [], []
        for name, times in zip(names, draw.tolist(), strict=True):
            for row, patient in enumerate(predictions.patients):
                if patient == name:
                    labels += [int(predictions.labels[row])] * times
                    answers += [int(predictions.predicted[row])] * times
        normal = [answer for label, answer in zip(labels, answers, strict=True) if label == 0]
        abnormal = [label == answer for label, answer in zip(labels, answers, strict=True) if label != 0]
        values.append((normal.count(0) / len(normal) + sum(abnormal) / len(abnormal)) / 2)
    confusions = patient_confusions(predictions)
    np.testing.assert_allclose(mean_score(resample(confusions, weights)), values, rtol=1e-12)
    ours = bootstrap_over_patients(confusions, mean_score, generator=rng(5), num_draws=200, level=0.9)
    left_out = [float(mean_score(np.delete(confusions, patient, axis=0).sum(axis=0))) for patient in range(len(names))]
    tail = 100 * expanded_tail(effective_degrees(np.array(left_out)), 0.9)
    expected = stats.scoreatpercentile(values, [tail, 100 - tail])
    assert (ours.low, ours.high) == pytest.approx(tuple(expected), rel=1e-4)
    assert ours == Interval(ours.low, ours.high, 0.9, 200, len(names), 0)
    assert ours.problem is None


def test_one_cycle_a_patient_is_the_binomial() -> None:
    # 30 patients with one normal cycle each, 21 answered right: resamples of Sp are Binomial(30, 0.7) / 30.
    confusions = np.zeros((30, 2, 2), dtype=np.int64)
    confusions[:21, 0, 0] = 1
    confusions[21:, 0, 1] = 1
    ours = bootstrap_over_patients(confusions, specificity, generator=rng(1), num_draws=20_000)
    # The kurtosis of a 0-or-1 value of mean p is 1 / (p q) - 3.
    degrees = 1 / math.hypot((1 / 0.21 - 4) / 60, 1 / 29)
    tail = expanded_tail(degrees)
    assert tail < 0.025
    assert (ours.low, ours.high) == pytest.approx(tuple(stats.binom.ppf([tail, 1 - tail], 30, 0.7) / 30))


def test_cycles_of_one_patient_count_as_one_observation() -> None:
    # 100 copies of each patient's cycle change nothing: were cycles drawn, the interval would shrink tenfold.
    confusions = np.zeros((10, 2, 2), dtype=np.int64)
    confusions[:5, 0, 0] = 1
    confusions[5:, 0, 1] = 1
    once = bootstrap_over_patients(confusions, accuracy, generator=rng(2))
    many = bootstrap_over_patients(100 * confusions, accuracy, generator=rng(2))
    assert once == many
    assert once.high - once.low > 0.5


def test_patients_that_are_alike_give_a_point() -> None:
    confusions = np.tile(np.array([[3, 1], [1, 1]]), (5, 1, 1))
    interval = bootstrap_over_patients(confusions, mean_score, generator=rng())
    assert (interval.low, interval.high) == (0.625, 0.625)


def test_one_patient_gives_no_interval() -> None:
    interval = bootstrap_over_patients(np.array([[[3, 1], [1, 1]]]), mean_score, generator=rng())
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert interval.problem == "one patient: how patients differ cannot be seen"


def test_four_patients_give_no_interval() -> None:
    four = np.array([[[3, 1], [1, 1]], [[2, 2], [0, 4]]] * 2)
    interval = bootstrap_over_patients(four, mean_score, generator=rng())
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert interval.problem == "4 patients: how patients differ can hardly be seen"
    five = bootstrap_over_patients(np.concatenate([four, four[:1]]), mean_score, generator=rng())
    assert five.problem is None


def test_resamples_without_a_value_are_left_out_and_counted() -> None:
    # Only the first of five patients has abnormal cycles: it is missed with probability (4/5)^5.
    confusions = np.array([[[1, 0], [1, 1]], *[[[4, 0], [0, 0]], [[3, 1], [0, 0]]] * 2])
    interval = bootstrap_over_patients(confusions, sensitivity, generator=rng(), num_draws=10_000)
    assert interval.num_undefined / interval.num_draws == pytest.approx((4 / 5) ** 5, abs=0.02)
    assert (interval.low, interval.high) == (0.5, 0.5)
    assert interval.problem is None


@pytest.mark.parametrize(("num_rare", "has_interval"), [(1, True), (2, False)])
def test_interval_of_a_macro_mean_is_over_the_same_classes(num_rare: int, has_interval: bool) -> None:
    # A class of one patient is missing in (1 - 1/8)^8 = 34 % of the resamples, one of two such classes in 58 %.
    confusions = np.zeros((8, 4, 4), dtype=np.int64)
    confusions[:, 0, 0], confusions[:, 0, 1], confusions[:, 1, 1] = 8, 2, 10
    for rare in range(num_rare):
        confusions[rare, 2 + rare, 0] = 5
    estimate = estimate_over_patients(confusions, macro_recall, generator=rng(), num_draws=10_000)
    assert estimate.value == pytest.approx(1.8 / (2 + num_rare))
    interval = estimate.interval
    expected = 1 - 2 * (1 - 1 / 8) ** 8 + (1 - 2 / 8) ** 8 if num_rare == 2 else 1 - (1 - 1 / 8) ** 8
    assert 1 - interval.num_undefined / interval.num_draws == pytest.approx(expected, abs=0.02)
    assert (interval.problem is None) == has_interval
    if has_interval:
        assert (interval.low, interval.high) == (pytest.approx(0.6), pytest.approx(0.6))
    else:
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)
        assert "the value is defined in 4" in (interval.problem or "")


def test_value_defined_nowhere() -> None:
    confusions = np.array([[[4, 0], [0, 0]], [[3, 1], [0, 0]], *[[[2, 0], [0, 0]]] * 3])
    estimate = estimate_over_patients(confusions, sensitivity, generator=rng(), num_draws=50)
    assert math.isnan(estimate.value)
    assert estimate.interval.num_undefined == 50
    assert estimate.interval.problem == "the value is defined in 0 of 50 resamples"
    assert estimate.in_percent() == "n/a"


def test_estimate_is_the_value_over_all_patients() -> None:
    confusions = patient_confusions(predictions_of(4))
    estimate = estimate_over_patients(confusions, mean_score, generator=rng(3), num_draws=100)
    assert estimate.value == float(mean_score(confusions.sum(axis=0)))
    assert estimate.interval == bootstrap_over_patients(confusions, mean_score, generator=rng(3), num_draws=100)


def test_estimate_in_percent() -> None:
    assert Estimate(0.6234, Interval(0.551, 0.69, 0.95, 10, 5)).in_percent() == "62.3 (55.1 to 69.0)"
    assert Estimate(0.6234, Interval(math.nan, math.nan, 0.95, 10, 1)).in_percent() == "62.3 (n/a)"


@pytest.mark.parametrize(("num_patients", "num_draws"), [(0, 10), (3, 0)])
def test_no_patient_or_no_draw_is_refused(num_patients: int, num_draws: int) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        draw_patient_weights(num_patients, generator=rng(), num_draws=num_draws)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_level_is_a_fraction(level: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        percentile_interval(np.array([0.1, 0.2]), num_patients=2, level=level)


def test_expanded_percentiles_against_scipy() -> None:
    values = rng(3).normal(size=5000)
    for degrees in (2.5, 9.0, 40.0):
        ours = percentile_interval(values, num_patients=50, degrees=degrees)
        tail = expanded_tail(degrees)
        assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(values, [tail, 1 - tail])), abs=0.01)
    assert percentile_interval(values, num_patients=10) == percentile_interval(values, num_patients=10, degrees=9.0)


def test_many_patients_give_the_plain_percentiles_as_scipy_does() -> None:
    values = rng(1).normal(size=(1, 400))
    ours = interval_over_patients(
        lambda weights: weights @ values[0] / weights.sum(axis=1), 400, generator=rng(2), num_draws=20_000
    )
    theirs = stats.bootstrap(values, np.mean, method="percentile", n_resamples=20_000, rng=rng(3)).confidence_interval
    width = theirs.high - theirs.low
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)


def test_a_patient_with_most_of_the_cycles_widens_the_interval() -> None:
    confusions = np.zeros((20, 2, 2), dtype=np.int64)
    confusions[:10, 0, 0], confusions[10:, 0, 1] = 5, 5
    even = effective_degrees(specificity(resample(confusions, leave_one_out_weights(20))))
    confusions[0, 0, 0] = 100
    uneven = effective_degrees(specificity(resample(confusions, leave_one_out_weights(20))))
    assert even == pytest.approx(19.0)
    assert uneven < 3.0


def runs_of(num_seeds: int, num_patients: int = 12, seed: int = 0, seed_sd: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    runs = np.zeros((num_seeds, num_patients, 2, 2), dtype=np.int64)
    for run in runs:
        chance = np.clip(0.7 + generator.normal(0.0, seed_sd), 0, 1)
        run[:, :, 0] = generator.binomial(20, chance, (num_patients, 2))
        run[:, :, 1] = 20 - run[:, :, 0]
    return run_diagonal(runs)


def run_diagonal(runs: np.ndarray) -> np.ndarray:
    """Abnormal cycles answered right stand on the diagonal."""
    runs[:, :, 1] = runs[:, :, 1, ::-1]
    return runs


def test_one_seed_is_the_interval_over_patients() -> None:
    runs = runs_of(1)
    assert bootstrap_over_seeds(runs, mean_score, generator=rng(4)) == bootstrap_over_patients(
        runs[0], mean_score, generator=rng(4)
    )


def test_seeds_that_are_alike_add_nothing() -> None:
    runs = np.repeat(runs_of(1), 4, axis=0)
    one = bootstrap_over_patients(runs[0], mean_score, generator=rng(4))
    four = bootstrap_over_seeds(runs, mean_score, generator=rng(4))
    assert (four.low, four.high) == pytest.approx((one.low, one.high))
    assert four.num_seeds == 4


def test_seeds_that_differ_widen_the_interval_by_their_variance() -> None:
    # All patients alike: the spread over patients is nil, and what is left is that of the mean of five seeds.
    runs = np.zeros((5, 10, 2, 2), dtype=np.int64)
    right = np.array([10, 12, 14, 16, 18])
    runs[:, :, 0, 0] = runs[:, :, 1, 1] = right[:, None]
    runs[:, :, 0, 1] = runs[:, :, 1, 0] = 20 - right[:, None]
    estimate = estimate_over_seeds(runs, mean_score, generator=rng(1), num_draws=200_000)
    assert estimate.value == pytest.approx(0.7)
    se = np.std(right / 20, ddof=1) / math.sqrt(5)
    half = se * stats.t.ppf(0.975, 4) * math.sqrt(5 / 4)
    assert (estimate.interval.low, estimate.interval.high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.05 * half)


def test_a_difference_is_paired_over_patients() -> None:
    # B has two cycles less right in every patient: the difference is 0.1 in each resample, however patients differ.
    first = np.zeros((1, 8, 2, 2), dtype=np.int64)
    first[0, :, 0, 0] = first[0, :, 1, 1] = np.arange(4, 20, 2)
    first[0, :, 0, 1] = first[0, :, 1, 0] = 20 - np.arange(4, 20, 2)
    second = first + np.array([[-2, 2], [2, -2]])
    estimate = estimate_over_seeds(first, mean_score, minus=second, generator=rng())
    assert estimate.value == pytest.approx(0.1)
    assert (estimate.interval.low, estimate.interval.high) == pytest.approx((0.1, 0.1))
    alone = bootstrap_over_seeds(first, mean_score, generator=rng())
    assert alone.high - alone.low > 0.2


def test_one_patient_gives_no_interval_over_seeds_either() -> None:
    interval = bootstrap_over_seeds(runs_of(3, num_patients=1), mean_score, generator=rng())
    assert interval.problem == "one patient: how patients differ cannot be seen"
