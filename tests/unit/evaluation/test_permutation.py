import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lungsound.evaluation.compare import (
    ABNORMAL,
    NORMAL,
    Contributions,
    contributions_to,
    permutation_test,
    studentised,
)
from lungsound.evaluation.metrics import mean_score, sensitivity, specificity


def random_runs(seed: int, num_seeds: int = 1, num_patients: int = 6) -> list[np.ndarray]:
    """Two sides `(seed, patient, 3, 3)` with the same numbers of cycles of each class and patient."""
    generator = np.random.default_rng(seed)
    num_cycles = generator.integers(1, 9, (num_patients, 3))
    sides = []
    for skill in (0.6, 0.5):
        runs = np.zeros((num_seeds, num_patients, 3, 3), dtype=np.int64)
        for place in np.ndindex(num_seeds, num_patients, 3):
            chances = np.full(3, (1 - skill) / 2)
            chances[place[2]] = skill
            runs[place] = generator.multinomial(num_cycles[place[1:]], chances)
        sides.append(runs)
    return sides


def test_parts_sum_to_the_differences() -> None:
    first, second = random_runs(0, num_seeds=3)
    for terms, statistic in (((NORMAL,), specificity), ((ABNORMAL,), sensitivity), ((NORMAL, ABNORMAL), mean_score)):
        patients = contributions_to(first, second, terms)
        expected = statistic(first.sum(axis=1)).mean() - statistic(second.sum(axis=1)).mean()
        assert patients.by_patient.sum() == pytest.approx(expected)
        np.testing.assert_allclose(patients.shares.sum(axis=1), 1.0)


def test_swapping_a_patient_turns_the_sign_of_its_part() -> None:
    first, second = random_runs(1)
    patients = contributions_to(first, second, (NORMAL, ABNORMAL))
    swapped_first, swapped_second = first.copy(), second.copy()
    swapped_first[:, 2], swapped_second[:, 2] = second[:, 2], first[:, 2]
    difference = mean_score(swapped_first.sum(axis=1))[0] - mean_score(swapped_second.sum(axis=1))[0]
    signs = np.ones(6)
    signs[2] = -1
    assert (signs * patients.by_patient).sum() == pytest.approx(difference)


def naive_size(first: np.ndarray, second: np.ndarray) -> float:
    """Difference over its standard error, from ratios of sums over patients, patient by patient."""
    difference, variance, influences = 0.0, 0.0, np.zeros(first.shape[1])
    for rows in ([0], [1, 2]):
        right = [sum(runs[0, :, row, row] for row in rows) for runs in (first, second)]
        num_cycles = first[0][:, rows].sum(axis=(1, 2))
        ratio = (right[0].sum() - right[1].sum()) / num_cycles.sum()
        difference += ratio / 2
        influences += (right[0] - right[1] - ratio * num_cycles) / num_cycles.sum() / 2
    variance = (influences**2).sum()
    return abs(difference) / math.sqrt(variance)


def test_exact_test_against_swapping_the_matrices_themselves() -> None:
    first, second = random_runs(2)
    sizes = []
    for swapped in itertools.product([False, True], repeat=6):
        pair = [first.copy(), second.copy()]
        for patient, is_swapped in enumerate(swapped):
            if is_swapped:
                pair[0][:, patient], pair[1][:, patient] = second[:, patient], first[:, patient]
        sizes.append(naive_size(*pair))
    expected = np.mean([size >= sizes[0] * (1 - 1e-9) for size in sizes])
    patients = contributions_to(first, second, (NORMAL, ABNORMAL))
    assert permutation_test(patients, generator=np.random.default_rng(0)) == pytest.approx(expected)


def one_cycle_each(num_better: int, num_worse: int, num_same: int = 0) -> Contributions:
    parts = np.array([[1.0] * num_better + [-1.0] * num_worse + [0.0] * num_same])
    num_patients = parts.shape[1]
    return Contributions(parts / num_patients, np.full((1, num_patients), 1.0 / num_patients))


def test_one_normal_cycle_a_patient_is_the_sign_test() -> None:
    for num_better, num_worse in ((6, 0), (9, 2), (5, 5), (11, 3)):
        p = permutation_test(one_cycle_each(num_better, num_worse, 4), generator=np.random.default_rng(0))
        assert p == pytest.approx(stats.binomtest(num_better, num_better + num_worse).pvalue)


def test_drawn_permutations_come_near_the_exact_p_and_never_give_0() -> None:
    p = permutation_test(one_cycle_each(16, 6), generator=np.random.default_rng(1), num_draws=40_000)
    assert p == pytest.approx(stats.binomtest(16, 22).pvalue, abs=0.004)
    assert permutation_test(one_cycle_each(40, 0), generator=np.random.default_rng(1), num_draws=999) == pytest.approx(
        0.001
    )


def test_equal_shares_are_the_paired_t_statistic_of_scipy() -> None:
    # One term, as many cycles in each patient: the studentised difference is the paired t, up to its n - 1.
    values = np.random.default_rng(3).normal(0.4, 1.0, 12)
    patients = Contributions(values[None] / 12, np.full((1, 12), 1 / 12))
    (size,) = studentised(patients, np.ones((1, 12)))
    assert size == pytest.approx(abs(stats.ttest_1samp(values, 0.0).statistic) * math.sqrt(12 / 11))
    ours = permutation_test(patients, generator=np.random.default_rng(0))
    theirs = stats.permutation_test(
        (values, np.zeros(12)), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert ours == pytest.approx(theirs)


def test_a_trade_of_sp_for_se_does_not_hide_a_difference() -> None:
    # A has all normal cycles right and B none, B more of the abnormal: each patient agrees, the bare sum would scatter.
    normal = np.array([0.5 / 12] * 12 + [0.0] * 12)
    abnormal = np.array([0.0] * 12 + [-0.3 / 12] * 12)
    shares = np.array([[1 / 12] * 12 + [0.0] * 12, [0.0] * 12 + [1 / 12] * 12])
    patients = Contributions(np.stack([normal, abnormal]), shares)
    assert permutation_test(patients, generator=np.random.default_rng(0), num_draws=999) == pytest.approx(0.001)
    signs = 1 - 2 * np.random.default_rng(0).integers(0, 2, (999, 24))
    bare = np.abs(signs @ patients.by_patient)
    assert (bare >= 0.2).mean() > 0.05


def test_nothing_differs_and_nothing_to_divide_by() -> None:
    assert permutation_test(one_cycle_each(0, 0, 5), generator=np.random.default_rng(0)) == 1.0
    runs = np.zeros((1, 3, 2, 2), dtype=np.int64)
    runs[0, :, 0, 0] = 4
    assert math.isnan(
        permutation_test(contributions_to(runs, runs, (NORMAL, ABNORMAL)), generator=np.random.default_rng(0))
    )
    assert permutation_test(contributions_to(runs, runs, (NORMAL,)), generator=np.random.default_rng(0)) == 1.0
