"""Intervals hold the truth about as often as they say. The slow test prints the numbers of coverage:

pytest tests/unit/evaluation/test_simulated_coverage.py -m slow -s
"""

import numpy as np
import pytest

from lungsound.evaluation.bootstrap import Bootstrap, Statistic
from lungsound.evaluation.metrics import mean_score, sensitivity, specificity
from tests.unit.evaluation.simulation import EVEN, UNEVEN, Corpus, Method, simulate

NUM_SETS = 1000


def coverage(
    num_patients: tuple[int, ...],
    *,
    num_sets: int = NUM_SETS,
    num_draws: int = 600,
    statistic: Statistic = mean_score,
    truth: float | None = None,
    corpus: Corpus = EVEN,
    method: Method | None = None,
    num_seeds: int = 1,
) -> float:
    """Share of sets whose interval holds the truth, sizes taken in turn; sets without an interval do not count."""
    method = method or Method()
    truth = method.true_score() if truth is None else truth
    generator, num_held, num_counted = np.random.default_rng(11), 0, 0
    for number in range(num_sets):
        size = num_patients[number % len(num_patients)]
        (runs,) = simulate(size, generator, methods=(method,), num_seeds=num_seeds, corpus=corpus)
        interval = Bootstrap(num_draws=num_draws).of_runs(runs, statistic, generator=generator).interval
        if interval.problem is None:
            num_counted += 1
            num_held += interval.low <= truth <= interval.high
    return num_held / num_counted


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_intervals_of_some_sets_hold_the_truth(num_seeds: int) -> None:
    assert 0.9 <= coverage((10, 20, 40), num_sets=100, num_draws=200, num_seeds=num_seeds) <= 1.0


@pytest.mark.slow
def test_95_percent_intervals_of_10_to_40_patients_hold_the_truth_in_93_to_97() -> None:
    assert 0.93 <= coverage((10, 20, 40), num_draws=400) <= 0.97


@pytest.mark.slow
def test_intervals_of_few_seeds_hold_the_truth() -> None:
    method = Method(seed_sd=0.1)
    assert 0.93 <= coverage((10, 20, 40), num_sets=600, num_draws=400, method=method, num_seeds=3) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("name", ["even", "uneven"])
def test_coverage_by_number_of_patients(name: str) -> None:
    corpus, (true_sp, true_se) = {"even": EVEN, "uneven": UNEVEN}[name], Method().true_shares()
    for num_patients in (5, 10, 20, 40, 80):
        found = [
            coverage((num_patients,), num_sets=2 * NUM_SETS, statistic=statistic, truth=truth, corpus=corpus)
            for statistic, truth in ((mean_score, None), (specificity, true_sp), (sensitivity, true_se))
        ]
        print(f"{name}, {num_patients} patients: Score {found[0]:.3f}, Sp {found[1]:.3f}, Se {found[2]:.3f}")
        # Of 10 uneven patients 5 have abnormal cycles: too few for how those differ.
        if num_patients >= (10 if name == "even" else 20):
            assert 0.925 <= found[0] <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("seed_sd", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_coverage_by_number_of_seeds(num_seeds: int, seed_sd: float) -> None:
    method = Method(seed_sd=seed_sd)
    found = {size: coverage((size,), method=method, num_seeds=num_seeds, corpus=EVEN) for size in (10, 20, 40, 80)}
    print(f"{num_seeds} seeds, sd {seed_sd}: " + ", ".join(f"{size}: {held:.3f}" for size, held in found.items()))
    assert all(0.85 <= held <= 0.985 for held in found.values())
