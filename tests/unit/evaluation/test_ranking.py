import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from lungsound.evaluation.metrics import Ranking, Rankings, auroc, average_precision


def drawn(seed: int, num_cycles: int = 60, num_units: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, truth and unit of each cycle; every unit has cycles."""
    generator = np.random.default_rng(seed)
    is_positive = generator.random(num_cycles) < 0.4
    scores = np.round(generator.normal(is_positive, 1.0), 1)
    return scores, is_positive, np.arange(num_cycles) % num_units


@pytest.mark.parametrize("seed", range(5))
def test_one_class_against_loops_and_sklearn(seed: int) -> None:
    scores, is_positive, units = drawn(seed)
    ranking = Ranking.of(scores, is_positive, units)
    once = np.ones(6)
    pairs = [(p, n) for p in scores[is_positive] for n in scores[~is_positive]]
    naive = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)
    assert float(ranking.auroc(once)) == pytest.approx(naive)
    assert float(ranking.auroc(once)) == pytest.approx(sklearn_metrics.roc_auc_score(is_positive, scores))
    theirs = sklearn_metrics.average_precision_score(is_positive, scores)
    assert float(ranking.average_precision(once)) == pytest.approx(theirs)
    naive_precision = [is_positive[scores >= score].mean() for score in scores[is_positive]]
    assert float(ranking.average_precision(once)) == pytest.approx(np.mean(naive_precision))


def test_units_taken_twice_or_not_at_all_are_repeated_rows() -> None:
    scores, is_positive, units = drawn(7)
    ranking = Ranking.of(scores, is_positive, units)
    taken = np.array([[2, 0, 1, 3, 0, 0], [1, 1, 1, 1, 1, 1]])
    areas, precisions = ranking.auroc(taken), ranking.average_precision(taken)
    for draw, times in enumerate(taken):
        rows = np.repeat(np.arange(len(scores)), times[units])
        expected = sklearn_metrics.roc_auc_score(is_positive[rows], scores[rows])
        assert areas[draw] == pytest.approx(expected)
        expected = sklearn_metrics.average_precision_score(is_positive[rows], scores[rows])
        assert precisions[draw] == pytest.approx(expected)


def test_extremes() -> None:
    assert float(auroc(np.array([0.0, 3.0]), np.array([2.0, 0.0]))) == 1.0
    assert float(auroc(np.array([3.0, 0.0]), np.array([0.0, 2.0]))) == 0.0
    assert float(auroc(np.array([3.0]), np.array([2.0]))) == 0.5
    assert float(average_precision(np.array([3.0]), np.array([2.0]))) == 0.6
    assert np.isnan(auroc(np.array([1.0, 2.0]), np.array([0.0, 0.0])))
    assert np.isnan(average_precision(np.array([0.0, 0.0]), np.array([1.0, 0.0])))


@pytest.mark.parametrize("seed", range(3))
def test_macro_means_against_sklearn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(4), 80)
    labels = generator.integers(0, 4, 80)
    rankings = Rankings.of(probabilities, labels, np.arange(80) % 5)
    once = np.ones(5)
    theirs = sklearn_metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert float(rankings.macro_auroc(once)) == pytest.approx(theirs)
    by_class = [sklearn_metrics.average_precision_score(labels == c, probabilities[:, c]) for c in range(4)]
    assert float(rankings.macro_average_precision(once)) == pytest.approx(np.mean(by_class))
    theirs = sklearn_metrics.roc_auc_score(labels != 0, 1.0 - probabilities[:, 0])
    assert float(rankings.abnormal.auroc(once)) == pytest.approx(theirs)


def test_macro_means_are_over_the_classes_of_all_units() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.5, 0.1, 0.4], [0.2, 0.5, 0.3]])
    rankings = Rankings.of(probabilities, np.array([0, 1, 0, 2]), np.array([0, 0, 1, 1]))
    taken = np.array([[1, 1], [2, 0]])  # the second has no cycle of the last class
    for macro in (rankings.macro_auroc, rankings.macro_average_precision):
        assert macro(taken)[0] == float(macro(np.ones(2)))
        assert np.isnan(macro(taken)[1])


def test_class_without_cycles_is_left_out_of_macro_means() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.5, 0.4, 0.1]])
    rankings = Rankings.of(probabilities, np.array([0, 1, 0]), np.arange(3))
    assert float(rankings.macro_auroc(np.ones(3))) == 1.0
    assert float(rankings.macro_average_precision(np.ones(3))) == 1.0
