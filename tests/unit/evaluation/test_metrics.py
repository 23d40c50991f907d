import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sklearn_metrics

from lungsound.evaluation.metrics import (
    ALWAYS_NORMAL_SCORE,
    IcbhiScore,
    Ranking,
    accuracy,
    challenge_score,
    cohen_kappa,
    confusion_matrix,
    f1,
    fold_to_two_classes,
    harmonic_score,
    icbhi_score,
    leave_out_true_class,
    macro_f1,
    macro_mean_score,
    macro_precision,
    macro_recall,
    macro_specificity,
    matthews_correlation,
    mean_score,
    one_vs_rest_specificity,
    precision,
    ranking_statistics,
    recall,
    sensitivity,
    specificity,
    two_class_score,
    weighted_f1,
)

NAN = float("nan")


def random_classes(seed: int, num_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted class of 200 cycles."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, num_classes, 200), generator.integers(0, num_classes, 200)


def test_confusion_counts_pairs() -> None:
    for num_classes in (2, 3, 4):
        labels, predicted = random_classes(1, num_classes)
        naive = np.zeros((num_classes, num_classes), dtype=int)
        for label, guess in zip(labels, predicted, strict=True):
            naive[label, guess] += 1
        ours = confusion_matrix(labels, predicted, num_classes)
        assert ours.tolist() == naive.tolist() == sklearn_metrics.confusion_matrix(labels, predicted).tolist()
        assert ours.dtype == np.int64
    assert confusion_matrix([0, 1], [0, 0], 4).tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]
    assert confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]


def test_confusion_refuses_what_is_no_class() -> None:
    for labels, predicted, message in (
        ([0, 4], [0, 0], "classes must be 0 to 3; got 0 to 4"),
        ([0, 0], [-1, 0], "classes must be 0 to 3; got -1 to 0"),
        ([0, 0], [0], "inhomogeneous"),
    ):
        with pytest.raises(ValueError, match=message):
            confusion_matrix(labels, predicted, 4)


def test_icbhi_score_closed_form() -> None:
    confusion = np.array([[6, 1, 1, 0], [1, 3, 1, 0], [0, 2, 2, 0], [1, 0, 1, 1]])
    score = icbhi_score(confusion)
    assert (score.specificity, score.sensitivity, score.score) == (6 / 8, (3 + 2 + 1) / 12, (6 / 8 + 6 / 12) / 2)
    assert two_class_score(confusion) == IcbhiScore(6 / 8, 10 / 12)
    assert fold_to_two_classes(confusion).tolist() == [[6, 2], [2, 10]]


def test_scores_against_loops_over_cycles() -> None:
    for seed in range(5):
        labels, predicted = random_classes(seed)
        pairs = list(zip(labels.tolist(), predicted.tolist(), strict=True))
        normal = [guess for label, guess in pairs if label == 0]
        abnormal = [(label, guess) for label, guess in pairs if label != 0]
        confusion = confusion_matrix(labels, predicted, 4)
        assert icbhi_score(confusion).specificity == normal.count(0) / len(normal)
        assert icbhi_score(confusion).sensitivity == sum(label == guess for label, guess in abnormal) / len(abnormal)
        assert two_class_score(confusion).specificity == normal.count(0) / len(normal)
        assert two_class_score(confusion).sensitivity == sum(guess != 0 for _, guess in abnormal) / len(abnormal)


def test_extremes() -> None:
    support = np.array([5, 3, 2, 1])
    assert icbhi_score(np.diag(support)).score == 1.0
    always_normal = np.zeros((4, 4), dtype=np.int64)
    always_normal[:, 0] = support
    assert icbhi_score(always_normal) == IcbhiScore(1.0, 0.0)
    assert icbhi_score(always_normal).score == two_class_score(always_normal).score == ALWAYS_NORMAL_SCORE


def test_missing_side_is_not_a_number() -> None:
    for confusion, expected in (
        ([[0, 0], [1, 3]], (NAN, 0.75, NAN)),
        ([[3, 1], [0, 0]], (0.75, NAN, NAN)),
        ([[0, 0], [0, 0]], (NAN, NAN, NAN)),
    ):
        score = icbhi_score(np.array(confusion))
        assert (score.specificity, score.sensitivity, score.score) == pytest.approx(expected, nan_ok=True)


def test_class_scores_averages_and_agreement_against_sklearn() -> None:
    for seed in range(5):
        labels, predicted = random_classes(seed)
        predicted[predicted == 3] = 0 if seed == 0 else 3  # seed 0: a class that is never predicted
        confusion = confusion_matrix(labels, predicted, 4)
        theirs = sklearn_metrics.precision_recall_fscore_support(labels, predicted, zero_division=np.nan)
        for ours, expected in zip((precision(confusion), recall(confusion), f1(confusion)), theirs, strict=False):
            np.testing.assert_allclose(ours, expected, rtol=1e-12)
        expected_values = {
            accuracy: sklearn_metrics.accuracy_score(labels, predicted),
            macro_f1: sklearn_metrics.f1_score(labels, predicted, average="macro"),
            macro_recall: sklearn_metrics.balanced_accuracy_score(labels, predicted),
            macro_precision: sklearn_metrics.precision_score(labels, predicted, average="macro", zero_division=np.nan),
            weighted_f1: sklearn_metrics.f1_score(labels, predicted, average="weighted"),
            cohen_kappa: sklearn_metrics.cohen_kappa_score(labels, predicted),
            matthews_correlation: sklearn_metrics.matthews_corrcoef(labels, predicted),
        }
        for statistic, value in expected_values.items():
            assert float(statistic(confusion)) == pytest.approx(value, rel=1e-12), (seed, statistic)
        assert float(accuracy(confusion)) == pytest.approx(sklearn_metrics.f1_score(labels, predicted, average="micro"))


def test_class_neither_present_nor_predicted_has_no_f1_and_is_not_averaged() -> None:
    confusion = np.array([[2, 0, 0], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(recall(confusion), [1.0, 0.0, NAN])
    np.testing.assert_array_equal(precision(confusion), [2 / 3, NAN, NAN])
    np.testing.assert_array_equal(f1(confusion), [0.8, 0.0, NAN])
    assert float(macro_f1(confusion)) == 0.4
    assert np.isnan(macro_f1(np.zeros((3, 3), dtype=np.int64)))
    assert np.isnan(accuracy(np.zeros((3, 3), dtype=np.int64)))


def test_averages_where_a_class_is_never_predicted_or_never_there() -> None:
    labels, predicted = np.array([0, 0, 1, 1, 2]), np.array([0, 3, 0, 1, 0])
    confusion = confusion_matrix(labels, predicted, 4)
    assert float(macro_recall(confusion)) == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert float(macro_precision(confusion)) == pytest.approx((1 / 3 + 1 + 0) / 3)
    theirs = sklearn_metrics.f1_score(labels, predicted, average="weighted", zero_division=0)
    assert float(weighted_f1(confusion)) == pytest.approx(theirs)


def test_one_vs_rest_specificity_against_loops() -> None:
    for seed in range(3):
        labels, predicted = random_classes(seed)
        pairs = list(zip(labels.tolist(), predicted.tolist(), strict=True))
        naive = []
        for one in range(4):
            others = [guess for label, guess in pairs if label != one]
            naive.append(sum(guess != one for guess in others) / len(others))
        confusion = confusion_matrix(labels, predicted, 4)
        np.testing.assert_allclose(one_vs_rest_specificity(confusion), naive, rtol=1e-12)
        assert float(macro_specificity(confusion)) == pytest.approx(np.mean(naive))
        recalls = [np.mean([guess == one for label, guess in pairs if label == one]) for one in range(4)]
        assert float(macro_mean_score(confusion)) == pytest.approx((np.mean(recalls) + np.mean(naive)) / 2)


def test_macro_means_of_resamples_are_over_the_classes_of_the_set() -> None:
    generator = np.random.default_rng(0)
    patients = generator.integers(0, 3, (6, 4, 4))
    patients[1:, 3] = 0  # one patient has the last class,
    patients[:, 2] = 0  # none has the third one, which is predicted for some,
    patients[2:, :, 1] = 0  # and the second one is predicted for two patients only
    of_set = patients.sum(axis=0)
    resamples = np.stack([patients[generator.integers(0, 6, 6)].sum(axis=0) for _ in range(60)])
    for macro in (macro_recall, macro_precision, macro_f1, macro_specificity, macro_mean_score):
        assert float(macro(of_set, of_set)) == float(macro(of_set))
        naive = []
        for resample in resamples:
            means = []
            for values in macro.by_class:
                counted = [index for index in range(4) if not np.isnan(values(of_set)[index])]
                means.append(sum(float(values(resample)[index]) for index in counted) / len(counted))
            lacks_a_class = any(of_set[index].sum() > 0 == resample[index].sum() for index in range(4))
            naive.append(NAN if lacks_a_class else np.mean(means))
        np.testing.assert_allclose(macro(resamples, of_set), naive, rtol=1e-12)
        assert 0 < np.isnan(naive).sum() < 60
        assert not np.isnan(macro(resamples)).any()


def test_two_classes_read_macro_are_their_own_score() -> None:
    confusion = np.array([[7, 3], [4, 16]])
    assert float(macro_recall(confusion)) == float(macro_specificity(confusion)) == float(mean_score(confusion))


def test_challenge_score_closed_form() -> None:
    for sp, se in ((0.8166, 0.4307), (0.5, 0.5), (1.0, 0.25)):
        right = [round(10000 * sp), round(10000 * se)]
        confusion = np.array([[right[0], 10000 - right[0]], [10000 - right[1], right[1]]])
        average, harmonic = (sp + se) / 2, 2 / (1 / sp + 1 / se)
        assert float(harmonic_score(confusion)) == pytest.approx(harmonic)
        assert float(challenge_score(confusion)) == pytest.approx((average + harmonic) / 2)


def test_challenge_score_extremes() -> None:
    support = np.array([5, 3, 2])
    assert float(challenge_score(np.diag(support))) == 1.0
    always_normal = np.zeros((3, 3), dtype=np.int64)
    always_normal[:, 0] = support
    assert float(harmonic_score(always_normal)) == 0.0
    assert float(challenge_score(always_normal)) == 0.25
    always_wrong = np.array([[0, 5], [3, 0]])
    assert float(harmonic_score(always_wrong)) == float(challenge_score(always_wrong)) == 0.0
    assert np.isnan(challenge_score(np.array([[3, 1], [0, 0]])))


def test_poor_quality_recordings_count_in_neither_se_nor_sp() -> None:
    # Normal, CAS, DAS, CAS & DAS, Poor Quality; the last row is what the challenge does not look at.
    confusion = np.array([[8, 1, 0, 0, 1], [1, 4, 0, 0, 1], [0, 1, 3, 0, 0], [0, 0, 1, 1, 0], [2, 0, 0, 0, 9]])
    without_poor = leave_out_true_class(confusion, 4)
    assert float(specificity(without_poor)) == 8 / 10
    assert float(sensitivity(without_poor)) == (4 + 3 + 1) / (6 + 4 + 2)
    assert float(sensitivity(confusion)) == (4 + 3 + 1 + 9) / (6 + 4 + 2 + 11)
    assert confusion[4].sum() == 11


def test_agreement_extremes() -> None:
    for statistic in (cohen_kappa, matthews_correlation):
        assert float(statistic(np.diag([4, 3, 2]))) == 1.0
        assert float(statistic(np.array([[2, 2], [3, 3]]))) == 0.0
        assert float(statistic(np.array([[0, 5], [5, 0]]))) == -1.0
        assert np.isnan(statistic(np.array([[9, 0], [0, 0]])))
        assert np.isnan(statistic(np.zeros((3, 3), dtype=np.int64)))


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is slow
@given(
    arrays(np.int64, (4, 4), elements=st.integers(0, 40)),
    st.permutations([1, 2, 3]),
    st.integers(2, 5),
)
def test_order_of_abnormal_classes_and_size_of_the_set_do_not_matter(
    confusion: np.ndarray, abnormal: list[int], times: int
) -> None:
    order = [0, *abnormal]
    for statistic in (mean_score, challenge_score, macro_mean_score, macro_f1, weighted_f1, cohen_kappa):
        value = float(statistic(confusion))
        np.testing.assert_allclose(statistic(confusion[order][:, order]), value, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(statistic(times * confusion), value, rtol=1e-9, atol=1e-12)
    if not np.isnan(mean_score(confusion)):
        assert float(challenge_score(confusion)) <= float(mean_score(confusion)) + 1e-12


def test_leading_axes_are_kept() -> None:
    stack = np.random.default_rng(0).integers(0, 5, (3, 2, 4, 4))
    stack[0, 0, 0] = 0
    statistics = [specificity, sensitivity, mean_score, recall, precision, f1, macro_f1, accuracy, fold_to_two_classes]
    statistics += [weighted_f1, macro_recall, macro_precision, one_vs_rest_specificity, macro_specificity]
    statistics += [macro_mean_score, harmonic_score, challenge_score, cohen_kappa, matthews_correlation]
    for statistic, index in itertools.product(statistics, np.ndindex(3, 2)):
        np.testing.assert_array_equal(statistic(stack)[index], statistic(stack[index]), err_msg=str(statistic))


# ---- rankings ----


def drawn_scores(seed: int, num_cycles: int = 60, num_patients: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, truth and patient of each cycle; every patient has cycles."""
    generator = np.random.default_rng(seed)
    is_positive = generator.random(num_cycles) < 0.4
    scores = np.round(generator.normal(is_positive, 1.0), 1)
    return scores, is_positive, np.arange(num_cycles) % num_patients


def test_one_class_against_loops_and_sklearn() -> None:
    for seed in range(3):
        scores, is_positive, patients = drawn_scores(seed)
        ranking, once = Ranking.of(scores, is_positive, patients), np.ones(6)
        pairs = [(p, n) for p in scores[is_positive] for n in scores[~is_positive]]
        naive = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)
        assert float(ranking.auroc(once)) == pytest.approx(naive)
        assert float(ranking.auroc(once)) == pytest.approx(sklearn_metrics.roc_auc_score(is_positive, scores))
        naive = np.mean([is_positive[scores >= score].mean() for score in scores[is_positive]])
        theirs = sklearn_metrics.average_precision_score(is_positive, scores)
        assert float(ranking.average_precision(once)) == pytest.approx(naive) == pytest.approx(theirs)


def test_patients_taken_twice_or_not_at_all_are_repeated_rows() -> None:
    scores, is_positive, patients = drawn_scores(7)
    ranking = Ranking.of(scores, is_positive, patients)
    weights = np.array([[2, 0, 1, 3, 0, 0], [1, 1, 1, 1, 1, 1]])
    areas, precisions = ranking.auroc(weights), ranking.average_precision(weights)
    for draw, times in enumerate(weights):
        rows = np.repeat(np.arange(len(scores)), times[patients])
        assert areas[draw] == pytest.approx(sklearn_metrics.roc_auc_score(is_positive[rows], scores[rows]))
        theirs = sklearn_metrics.average_precision_score(is_positive[rows], scores[rows])
        assert precisions[draw] == pytest.approx(theirs)


def test_ranking_extremes() -> None:
    def ranking(positives: list[float], negatives: list[float]) -> Ranking:
        return Ranking(np.array([positives]), np.array([negatives]))

    once = np.ones(1)
    assert float(ranking([0.0, 3.0], [2.0, 0.0]).auroc(once)) == 1.0
    assert float(ranking([3.0, 0.0], [0.0, 2.0]).auroc(once)) == 0.0
    assert float(ranking([3.0], [2.0]).auroc(once)) == 0.5
    assert float(ranking([3.0], [2.0]).average_precision(once)) == 0.6
    assert np.isnan(ranking([1.0, 2.0], [0.0, 0.0]).auroc(once))
    assert np.isnan(ranking([0.0, 0.0], [1.0, 0.0]).average_precision(once))


def test_macro_rankings_against_sklearn() -> None:
    generator, once = np.random.default_rng(0), np.ones(5)
    probabilities, labels = generator.dirichlet(np.ones(4), 80), generator.integers(0, 4, 80)
    statistics = ranking_statistics(probabilities, labels, np.arange(80) % 5)
    by_class = [sklearn_metrics.average_precision_score(labels == c, probabilities[:, c]) for c in range(4)]
    is_abnormal, abnormal = labels != 0, 1.0 - probabilities[:, 0]
    expected = {
        "macro_auroc": sklearn_metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"),
        "macro_average_precision": np.mean(by_class),
        "abnormal_auroc": sklearn_metrics.roc_auc_score(is_abnormal, abnormal),
        "abnormal_average_precision": sklearn_metrics.average_precision_score(is_abnormal, abnormal),
    }
    assert {key: float(statistic(once)) for key, statistic in statistics.items()} == pytest.approx(expected)


def test_macro_rankings_are_over_the_classes_of_all_patients() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.5, 0.1, 0.4], [0.2, 0.5, 0.3]])
    statistics = ranking_statistics(probabilities, np.array([0, 1, 0, 2]), np.array([0, 0, 1, 1]))
    without = ranking_statistics(probabilities[:3], np.array([0, 1, 0]), np.arange(3))
    for key in ("macro_auroc", "macro_average_precision"):
        both, first_only = statistics[key](np.array([[1, 1], [2, 0]]))  # the first patient lacks the last class
        assert both == float(statistics[key](np.ones(2)))
        assert np.isnan(first_only)
        assert float(without[key](np.ones(3))) == 1.0  # a class of no cycle is left out
