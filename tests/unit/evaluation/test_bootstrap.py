import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from lungsound.evaluation.bootstrap import (
    Bootstrap,
    Estimate,
    Interval,
    Jackknife,
    count_by_patient,
    draw_patient_weights,
    effective_degrees,
    jackknife,
    patient_confusions,
    sum_by_patient,
    value_of_runs,
)
from lungsound.evaluation.metrics import (
    Ranking,
    accuracy,
    confusion_matrix,
    macro_recall,
    mean_score,
    sensitivity,
    specificity,
)
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
        labels, predicted = [], []
        for name, times in zip(names, draw.tolist(), strict=True):
            for row, patient in enumerate(predictions.patients):
                if patient == name:
                    labels += [int(predictions.labels[row])] * times
                    predicted += [int(predictions.predicted[row])] * times
        normal = [guess for label, guess in zip(labels, predicted, strict=True) if label == 0]
        abnormal = [label == guess for label, guess in zip(labels, predicted, strict=True) if label != 0]
        values.append((normal.count(0) / len(normal) + sum(abnormal) / len(abnormal)) / 2)
    confusions = patient_confusions(predictions)
    np.testing.assert_allclose(value_of_runs(confusions[None], mean_score)(weights)[:, 0], values, rtol=1e-12)
    ours = Bootstrap(5, 200, 0.9).of_counts(confusions, mean_score).interval
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
    ours = Bootstrap(1, 20_000).of_counts(confusions, specificity).interval
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
    once = Bootstrap(2).of_counts(confusions, accuracy).interval
    many = Bootstrap(2).of_counts(100 * confusions, accuracy).interval
    assert once == many
    assert once.high - once.low > 0.5


def test_patients_that_are_alike_give_a_point() -> None:
    confusions = np.tile(np.array([[3, 1], [1, 1]]), (5, 1, 1))
    interval = Bootstrap().of_counts(confusions, mean_score).interval
    assert (interval.low, interval.high) == (0.625, 0.625)


def test_fewer_than_five_patients_give_no_interval() -> None:
    four = np.array([[[3, 1], [1, 1]], [[2, 2], [0, 4]]] * 2)
    for confusions, problem in (
        (four[:1], "one patient: how patients differ cannot be seen"),
        (four, "4 patients: how patients differ can hardly be seen"),
        (np.concatenate([four, four[:1]]), None),
    ):
        interval = Bootstrap().of_counts(confusions, mean_score).interval
        assert interval.problem == problem
        assert math.isnan(interval.low) == math.isnan(interval.high) == (problem is not None)


def test_resamples_without_a_value_are_left_out_and_counted() -> None:
    # Only the first of five patients has abnormal cycles: it is missed with probability (4/5)^5.
    confusions = np.array([[[1, 0], [1, 1]], *[[[4, 0], [0, 0]], [[3, 1], [0, 0]]] * 2])
    interval = Bootstrap(0, 10_000).of_counts(confusions, sensitivity).interval
    assert interval.num_undefined / interval.num_draws == pytest.approx((4 / 5) ** 5, abs=0.02)
    assert (interval.low, interval.high) == (0.5, 0.5)
    assert interval.problem is None


def test_interval_of_a_macro_mean_is_over_the_same_classes() -> None:
    # A class of one patient is missing in (1 - 1/8)^8 = 34 % of the resamples, one of two such classes in 58 %.
    for num_rare, is_complete in ((1, 1 - (1 - 1 / 8) ** 8), (2, 1 - 2 * (1 - 1 / 8) ** 8 + (1 - 2 / 8) ** 8)):
        confusions = np.zeros((8, 4, 4), dtype=np.int64)
        confusions[:, 0, 0], confusions[:, 0, 1], confusions[:, 1, 1] = 8, 2, 10
        for rare in range(num_rare):
            confusions[rare, 2 + rare, 0] = 5
        estimate = Bootstrap(0, 10_000).of_counts(confusions, macro_recall)
        assert estimate.value == pytest.approx(1.8 / (2 + num_rare))
        interval = estimate.interval
        assert 1 - interval.num_undefined / interval.num_draws == pytest.approx(is_complete, abs=0.02)
        ends = (0.6, 0.6) if num_rare == 1 else (math.nan, math.nan)
        assert (interval.low, interval.high) == pytest.approx(ends, nan_ok=True)
        assert (interval.problem is None) == (num_rare == 1)


def test_value_defined_nowhere() -> None:
    confusions = np.array([[[4, 0], [0, 0]], [[3, 1], [0, 0]], *[[[2, 0], [0, 0]]] * 3])
    estimate = Bootstrap(0, 50).of_counts(confusions, sensitivity)
    assert math.isnan(estimate.value)
    assert estimate.interval.num_undefined == 50
    assert estimate.interval.problem == "the value is defined in 0 of 50 resamples"
    assert estimate.in_percent() == "n/a"


def test_estimate_is_the_value_over_all_patients() -> None:
    confusions = patient_confusions(predictions_of(4))
    estimate = Bootstrap(3, 100).of_counts(confusions, mean_score)
    assert estimate.value == float(mean_score(confusions.sum(axis=0)))


def test_estimates_as_text() -> None:
    interval, none = Interval(0.551, 0.69, 0.95, 10, 5), Interval(math.nan, math.nan, 0.95, 10, 1)
    assert Estimate(0.6234, interval).in_percent() == "62.3 (55.1 to 69.0)"
    assert Estimate(0.6234, none).in_percent() == "62.3 (n/a)"
    assert Estimate(0.6234, interval).in_points() == "+62.3 (+55.1 to +69.0)"
    assert Estimate(0.6234, interval).in_units(digits=3) == "0.623 (0.551 to 0.690)"
    assert Estimate(math.nan, interval).in_units(digits=3) == "n/a"


def test_many_patients_give_the_plain_percentiles_as_scipy_does() -> None:
    values = rng(1).normal(size=(1, 400))
    ours = Bootstrap(2, 6_000).estimate(lambda weights: weights @ values[0] / weights.sum(axis=1), 400).interval
    theirs = stats.bootstrap(values, np.mean, method="percentile", n_resamples=6_000, rng=rng(3)).confidence_interval
    width = theirs.high - theirs.low
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)


def test_a_patient_with_most_of_the_cycles_widens_the_interval() -> None:
    confusions = np.zeros((20, 2, 2), dtype=np.int64)
    confusions[:10, 0, 0], confusions[10:, 0, 1] = 5, 5
    even = jackknife(value_of_runs(confusions[None], specificity), 20).degrees
    confusions[0, 0, 0] = 100
    uneven = jackknife(value_of_runs(confusions[None], specificity), 20).degrees
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


def test_seeds_that_are_alike_add_nothing() -> None:
    runs = np.repeat(runs_of(1), 4, axis=0)
    one = Bootstrap(4).of_counts(runs[0], mean_score).interval
    four = Bootstrap(4).of_runs(runs, mean_score).interval
    assert (four.low, four.high) == pytest.approx((one.low, one.high))
    assert four.num_seeds == 4


def test_seeds_that_differ_widen_the_interval_by_their_variance() -> None:
    # All patients alike: the spread over patients is nil, and what is left is that of the mean of five seeds.
    runs = np.zeros((5, 10, 2, 2), dtype=np.int64)
    right = np.array([10, 12, 14, 16, 18])
    runs[:, :, 0, 0] = runs[:, :, 1, 1] = right[:, None]
    runs[:, :, 0, 1] = runs[:, :, 1, 0] = 20 - right[:, None]
    estimate = Bootstrap(1, num_draws=50_000).of_runs(runs, mean_score)
    assert estimate.value == pytest.approx(0.7)
    se = np.std(right / 20, ddof=1) / math.sqrt(5)
    half = se * stats.t.ppf(0.975, 4) * math.sqrt(5 / 4)
    assert (estimate.interval.low, estimate.interval.high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.05 * half)


def test_the_area_of_normal_or_not_is_that_of_its_pairs_and_has_an_interval() -> None:
    runs = [predictions_of(seed, num_patients=30) for seed in (3, 3, 3)]
    shares = np.random.default_rng(1).dirichlet([1.0] * 3, 90)
    others = (shares, np.round(shares, 1) / np.round(shares, 1).sum(axis=1, keepdims=True))  # the last one has ties
    runs[1:] = [replace(runs[0], probabilities=each) for each in others]
    is_abnormal = runs[0].labels > 0
    by_hand = []
    for run in runs:
        normal = run.probabilities[:, 0]
        pairs = [(n, a) for n in normal[~is_abnormal] for a in normal[is_abnormal]]
        naive = sum(1.0 if n > a else 0.5 if n == a else 0.0 for n, a in pairs) / len(pairs)
        assert naive == pytest.approx(roc_auc_score(is_abnormal, 1.0 - normal))
        by_hand.append(naive)
    area = Bootstrap().auc_of_runs(runs)
    assert area.value == pytest.approx(np.mean(by_hand))
    assert 0.0 <= area.interval.low < area.value < area.interval.high <= 1.0
    assert (area.interval.num_patients, area.interval.num_seeds) == (len(set(runs[0].patients)), 3)


def test_the_area_counts_every_patient_as_often_as_it_is_drawn() -> None:
    run = predictions_of(5, num_patients=20)
    drawn = draw_patient_weights(20, generator=np.random.default_rng(0), num_draws=500)
    names = sorted(set(run.patients))
    rows_of = {name: [row for row, patient in enumerate(run.patients) if patient == name] for name in names}
    areas = []
    for times in drawn:
        rows = [row for name, number in zip(names, times, strict=True) for row in rows_of[name] * number]
        areas.append(roc_auc_score(run.labels[rows] > 0, 1.0 - run.probabilities[rows, 0]))
    area = Bootstrap(0, num_draws=500).auc_of_runs([run])
    assert area.interval.num_undefined == 0
    left_out = jackknife(Ranking.of(-run.probabilities[:, 0], run.labels > 0, run.patients).auroc, 20)
    tail = expanded_tail(left_out.joint_degrees(float(np.var(areas))))
    assert (area.interval.low, area.interval.high) == pytest.approx(tuple(np.quantile(areas, [tail, 1.0 - tail])))


def test_there_is_no_area_of_one_class() -> None:
    run = predictions_of(3)
    assert Bootstrap(num_draws=50).auc_of_runs([replace(run, labels=np.ones(90, dtype=np.int64))]).in_percent() == "n/a"


def test_a_difference_is_paired_over_patients() -> None:
    # B has two cycles less right in every patient: the difference is 0.1 in each resample, however patients differ.
    first = np.zeros((1, 8, 2, 2), dtype=np.int64)
    first[0, :, 0, 0] = first[0, :, 1, 1] = np.arange(4, 20, 2)
    first[0, :, 0, 1] = first[0, :, 1, 0] = 20 - np.arange(4, 20, 2)
    second = first + np.array([[-2, 2], [2, -2]])
    estimate = Bootstrap(0).of_runs(first, mean_score, minus=second)
    assert estimate.value == pytest.approx(0.1)
    assert (estimate.interval.low, estimate.interval.high) == pytest.approx((0.1, 0.1))
    alone = Bootstrap().of_runs(first, mean_score).interval
    assert alone.high - alone.low > 0.2


def test_a_difference_of_paired_seeds_has_the_chance_of_their_differences_alone() -> None:
    """All patients alike, so that only seeds count: by the closed form of a mean of five paired differences."""
    runs = np.zeros((2, 5, 10, 2, 2), dtype=np.int64)
    right = np.array([[10, 12, 14, 16, 18], [9, 10, 13, 14, 15]])
    runs[:, :, :, 0, 0] = runs[:, :, :, 1, 1] = right[:, :, None]
    runs[:, :, :, 0, 1] = runs[:, :, :, 1, 0] = 20 - right[:, :, None]
    first, second = runs
    estimate = Bootstrap(1, num_draws=50_000).of_runs(first, mean_score, minus=second, is_paired=True)
    differences = (right[0] - right[1]) / 20
    assert estimate.value == pytest.approx(differences.mean())
    half = np.std(differences, ddof=1) / math.sqrt(5) * stats.t.ppf(0.975, 4) * math.sqrt(5 / 4)
    ends = (differences.mean() - half, differences.mean() + half)
    assert (estimate.interval.low, estimate.interval.high) == pytest.approx(ends, abs=0.05 * half)
    apart = Bootstrap(1, num_draws=50_000).of_runs(first, mean_score, minus=second).interval
    assert apart.high - apart.low > 2 * (estimate.interval.high - estimate.interval.low)


def mean_of(values: np.ndarray):  # type: ignore[no-untyped-def]
    return lambda weights: weights @ values / weights.sum(axis=1, keepdims=values.ndim == 2)


def test_patient_sd_of_a_mean_is_the_deviation_of_the_values() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 30)
    left_out = jackknife(mean_of(values), 30)
    assert left_out.value == pytest.approx(values.mean())
    assert left_out.patient_sd == pytest.approx(values.std(ddof=1))
    np.testing.assert_allclose(left_out.influences, values - values.mean(), atol=1e-12)
    assert left_out.seed_variances == ()
    assert left_out.seed_variance == 0.0


def test_degrees_are_those_of_the_kurtosis_at_most_n_minus_1() -> None:
    values = np.random.default_rng(1).standard_t(4, 50)
    kurtosis = stats.kurtosis(values, fisher=False)
    expected = 1 / math.sqrt(((kurtosis - 1) / 100) ** 2 + (1 / 49) ** 2)
    assert effective_degrees(values) == pytest.approx(expected)
    assert effective_degrees(3 * values + 7) == pytest.approx(expected)
    assert effective_degrees(np.array([1.0, -1.0] * 10)) == pytest.approx(19.0)
    assert effective_degrees(np.ones(8)) == 7.0
    # One patient that all rests on, be it far off or be there no value without it.
    assert effective_degrees(np.array([9.0] + [0.0] * 19)) < 2.5
    assert effective_degrees(np.array([np.nan] + [0.5] * 19)) == pytest.approx(
        effective_degrees(np.array([9.0] + [0.0] * 19))
    )


def test_seed_variance_is_that_between_seeds_less_what_patients_share() -> None:
    # A two-way layout: value = patient + seed + noise of both; the mean over many sets is the seeds' own variance / S.
    generator, variances = np.random.default_rng(2), []
    for _ in range(200):
        noise = generator.normal(0.0, 2.0, (30, 3))
        values = generator.normal(0.0, 1.0, (30, 1)) + generator.normal(0.0, 1.0, (1, 3)) + noise
        left_out = jackknife(mean_of(values), 30)
        ((variance, degrees),) = left_out.seed_variances
        assert degrees == 2
        residues = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
        shared = (residues**2).sum() / (29 * 2) / 30
        assert variance == pytest.approx(max(0.0, values.mean(axis=0).var(ddof=1) - shared) / 3)
        variances.append(variance)
    assert np.mean(variances) == pytest.approx(1.0 / 3.0, rel=0.2)


def test_a_difference_has_the_seeds_of_both_sides() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.normal(size=(20, 3)), generator.normal(size=(20, 5))
    left_out = jackknife(mean_of(first), 20, minus=mean_of(second))
    assert left_out.value == pytest.approx(first.mean() - second.mean())
    assert [degrees for _, degrees in left_out.seed_variances] == [2, 4]
    per_patient = first.mean(axis=1) - second.mean(axis=1)
    assert left_out.patient_sd == pytest.approx(per_patient.std(ddof=1))


def test_joint_degrees_by_hand() -> None:
    left_out = Jackknife(0.5, np.zeros(10), 9.0, ((0.04, 2), (0.01, 4)))
    expected = 0.10**2 / (0.05**2 / 9 + 0.04**2 / 2 + 0.01**2 / 4)
    assert left_out.joint_degrees(0.05) == pytest.approx(expected)
    assert Jackknife(0.5, np.zeros(10), 9.0, ()).joint_degrees(0.05) == pytest.approx(9.0)
    assert Jackknife(0.5, np.zeros(10), 9.0, ()).joint_degrees(0.0) == 9.0


PATIENTS = ("b", "a", "b", "c", "b", "c", "d")
VALUES = np.array([1.0, 2.0, 0.5, 4.0, 0.0, 1.0, 3.0])


def test_sums_are_those_of_each_patient() -> None:
    assert sum_by_patient(VALUES, PATIENTS).tolist() == [2.0, 1.5, 5.0, 3.0]


def test_mean_of_cycles_and_of_patients() -> None:
    bootstrap = Bootstrap(num_draws=50)
    assert bootstrap.mean(VALUES, PATIENTS).value == pytest.approx(11.5 / 7)
    assert bootstrap.mean(VALUES, PATIENTS, is_by_patient=True).value == pytest.approx((2.0 + 0.5 + 2.5 + 3.0) / 4)
    where = np.array([True, False, True, True, False, False, False])
    assert bootstrap.mean(VALUES, PATIENTS, where=where).value == pytest.approx(5.5 / 3)
    assert bootstrap.mean(VALUES, PATIENTS, where=where, is_by_patient=True).value == pytest.approx((0.75 + 4.0) / 2)
    assert np.isnan(bootstrap.mean(VALUES, PATIENTS, where=np.zeros(7)).value)


def test_counts_take_the_same_patients_as_values() -> None:
    right, where = np.array([1, 0, 1, 1, 0, 0, 1]), np.array([True, True, True, False, True, True, True])
    confusions = count_by_patient(PATIENTS, np.zeros(7, dtype=np.int64), 1 - right, num_classes=2, where=where)
    assert confusions.tolist() == [[[0, 1], [0, 0]], [[2, 1], [0, 0]], [[0, 1], [0, 0]], [[1, 0], [0, 0]]]
    bootstrap = Bootstrap(2, num_draws=400)
    # Field by field, NaN equal to NaN: from Python 3.13 on == of dataclasses asks each field.
    counted, valued = bootstrap.of_counts(confusions, accuracy), bootstrap.mean(right, PATIENTS, where=where)
    np.testing.assert_equal(asdict(counted), asdict(valued))
