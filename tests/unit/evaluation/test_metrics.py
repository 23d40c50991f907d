import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sklearn_metrics

from lungsound.evaluation.metrics import (
    ALWAYS_NORMAL_SCORE,
    IcbhiScore,
    MacroMean,
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
    micro_f1,
    of_resamples,
    one_vs_rest_specificity,
    precision,
    recall,
    sensitivity,
    specificity,
    two_class_score,
    weighted_f1,
)

NAN = float("nan")


def random_answers(seed: int, num_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, num_classes, 200), generator.integers(0, num_classes, 200)


@pytest.mark.parametrize("num_classes", [2, 3, 4])
def test_confusion_counts_pairs(num_classes: int) -> None:
    labels, answers = random_answers(1, num_classes)
    naive = np.zeros((num_classes, num_classes), dtype=int)
    for label, answer in zip(labels, answers, strict=True):
        naive[label, answer] += 1
    ours = confusion_matrix(labels, answers, num_classes)
    assert ours.tolist() == naive.tolist()
    assert ours.tolist() == sklearn_metrics.confusion_matrix(labels, answers).tolist()
    assert ours.dtype == np.int64


def test_confusion_keeps_classes_that_do_not_occur() -> None:
    assert confusion_matrix([0, 1], [0, 0], 4).tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]
    assert confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("labels", "answers", "message"),
    [
        ([0, 4], [0, 0], "labels must be 0 to 3; got 0 to 4"),
        ([0, 0], [-1, 0], "predicted classes must be 0 to 3; got -1 to 0"),
        ([0, 0], [0], "two lists of one length"),
    ],
)
def test_confusion_refuses_what_is_no_class(labels: list[int], answers: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(labels, answers, 4)


def test_icbhi_score_closed_form() -> None:
    confusion = np.array([[6, 1, 1, 0], [1, 3, 1, 0], [0, 2, 2, 0], [1, 0, 1, 1]])
    score = icbhi_score(confusion)
    assert score.specificity == 6 / 8
    assert score.sensitivity == (3 + 2 + 1) / 12
    assert score.score == (6 / 8 + 6 / 12) / 2
    two = two_class_score(confusion)
    assert two == IcbhiScore(6 / 8, 10 / 12)
    assert fold_to_two_classes(confusion).tolist() == [[6, 2], [2, 10]]


@pytest.mark.parametrize("seed", range(5))
def test_icbhi_score_against_loops(seed: int) -> None:
    labels, answers = random_answers(seed)
    pairs = list(zip(labels.tolist(), answers.tolist(), strict=True))
    normal = [answer for label, answer in pairs if label == 0]
    abnormal = [(label, answer) for label, answer in pairs if label != 0]
    confusion = confusion_matrix(labels, answers, 4)
    assert icbhi_score(confusion).specificity == normal.count(0) / len(normal)
    assert icbhi_score(confusion).sensitivity == sum(label == answer for label, answer in abnormal) / len(abnormal)
    assert two_class_score(confusion).specificity == normal.count(0) / len(normal)
    assert two_class_score(confusion).sensitivity == sum(answer != 0 for _, answer in abnormal) / len(abnormal)


def test_extremes() -> None:
    support = np.array([5, 3, 2, 1])
    assert icbhi_score(np.diag(support)).score == 1.0
    always_normal = np.zeros((4, 4), dtype=np.int64)
    always_normal[:, 0] = support
    assert icbhi_score(always_normal) == IcbhiScore(1.0, 0.0)
    assert icbhi_score(always_normal).score == two_class_score(always_normal).score == ALWAYS_NORMAL_SCORE


@pytest.mark.parametrize(
    ("confusion", "expected"),
    [
        ([[0, 0], [1, 3]], (NAN, 0.75, NAN)),
        ([[3, 1], [0, 0]], (0.75, NAN, NAN)),
        ([[0, 0], [0, 0]], (NAN, NAN, NAN)),
    ],
)
def test_missing_side_is_not_a_number(confusion: list[list[int]], expected: tuple[float, ...]) -> None:
    score = icbhi_score(np.array(confusion))
    assert (score.specificity, score.sensitivity, score.score) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_class_scores_against_sklearn(seed: int) -> None:
    labels, answers = random_answers(seed)
    answers[answers == 3] = 0 if seed == 0 else 3  # seed 0: a class that is never answered
    confusion = confusion_matrix(labels, answers, 4)
    theirs = sklearn_metrics.precision_recall_fscore_support(labels, answers, zero_division=np.nan)
    for ours, expected in zip((precision(confusion), recall(confusion), f1(confusion)), theirs, strict=False):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
    assert float(accuracy(confusion)) == pytest.approx(sklearn_metrics.accuracy_score(labels, answers))
    assert float(macro_f1(confusion)) == pytest.approx(sklearn_metrics.f1_score(labels, answers, average="macro"))


def test_class_neither_present_nor_answered_has_no_f1_and_is_not_averaged() -> None:
    confusion = np.array([[2, 0, 0], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(recall(confusion), [1.0, 0.0, NAN])
    np.testing.assert_array_equal(precision(confusion), [2 / 3, NAN, NAN])
    np.testing.assert_array_equal(f1(confusion), [0.8, 0.0, NAN])
    assert float(macro_f1(confusion)) == 0.4
    assert np.isnan(macro_f1(np.zeros((3, 3), dtype=np.int64)))
    assert np.isnan(accuracy(np.zeros((3, 3), dtype=np.int64)))


@pytest.mark.parametrize("seed", range(5))
def test_averages_and_agreement_against_sklearn(seed: int) -> None:
    labels, answers = random_answers(seed)
    confusion = confusion_matrix(labels, answers, 4)
    expected = {
        macro_recall: sklearn_metrics.balanced_accuracy_score(labels, answers),
        macro_precision: sklearn_metrics.precision_score(labels, answers, average="macro"),
        weighted_f1: sklearn_metrics.f1_score(labels, answers, average="weighted"),
        micro_f1: sklearn_metrics.f1_score(labels, answers, average="micro"),
        cohen_kappa: sklearn_metrics.cohen_kappa_score(labels, answers),
        matthews_correlation: sklearn_metrics.matthews_corrcoef(labels, answers),
    }
    for ours, theirs in expected.items():
        assert float(ours(confusion)) == pytest.approx(theirs, rel=1e-12), ours
    assert float(micro_f1(confusion)) == pytest.approx(float(accuracy(confusion)), rel=1e-15)


def test_averages_where_a_class_is_never_answered_or_never_there() -> None:
    labels, answers = np.array([0, 0, 1, 1, 2]), np.array([0, 3, 0, 1, 0])
    confusion = confusion_matrix(labels, answers, 4)
    assert float(macro_recall(confusion)) == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert float(macro_precision(confusion)) == pytest.approx((1 / 3 + 1 + 0) / 3)
    theirs = sklearn_metrics.f1_score(labels, answers, average="weighted", zero_division=0)
    assert float(weighted_f1(confusion)) == pytest.approx(theirs)


@pytest.mark.parametrize("seed", range(3))
def test_one_vs_rest_specificity_against_loops(seed: int) -> None:
    labels, answers = random_answers(seed)
    pairs = list(zip(labels.tolist(), answers.tolist(), strict=True))
    naive = []
    for one in range(4):
        others = [answer for label, answer in pairs if label != one]
        naive.append(sum(answer != one for answer in others) / len(others))
    confusion = confusion_matrix(labels, answers, 4)
    np.testing.assert_allclose(one_vs_rest_specificity(confusion), naive, rtol=1e-12)
    assert float(macro_specificity(confusion)) == pytest.approx(np.mean(naive))
    recalls = [np.mean([a == one for label, a in pairs if label == one]) for one in range(4)]
    assert float(macro_mean_score(confusion)) == pytest.approx((np.mean(recalls) + np.mean(naive)) / 2)


@pytest.mark.parametrize(
    ("macro", "by_class"),
    [
        (macro_recall, [recall]),
        (macro_precision, [precision]),
        (macro_f1, [f1]),
        (macro_specificity, [one_vs_rest_specificity]),
        (macro_mean_score, [recall, one_vs_rest_specificity]),
    ],
)
def test_macro_means_of_resamples_are_over_the_classes_of_the_whole_set(macro: MacroMean, by_class: list) -> None:
    generator = np.random.default_rng(0)
    patients = generator.integers(0, 3, (6, 4, 4))
    patients[1:, 3] = 0  # one patient has the last class,
    patients[:, 2] = 0  # none has the third one, which is answered by some,
    patients[2:, :, 1] = 0  # and the second one is answered for two patients only
    whole = patients.sum(axis=0)
    fixed = of_resamples(macro, whole)
    assert float(fixed(whole)) == float(macro(whole))
    resamples = np.stack([patients[generator.integers(0, 6, 6)].sum(axis=0) for _ in range(200)])
    naive = []
    for resample in resamples:
        means = []
        for values_of in by_class:
            counted = [index for index in range(4) if not np.isnan(values_of(whole)[index])]
            means.append(sum(float(values_of(resample)[index]) for index in counted) / len(counted))
        lacks_a_class = any(whole[index].sum() > 0 == resample[index].sum() for index in range(4))
        naive.append(NAN if lacks_a_class else np.mean(means))
    np.testing.assert_allclose(fixed(resamples), naive, rtol=1e-12)
    assert 0 < np.isnan(naive).sum() < 200
    assert not np.isnan(macro(resamples)).any()


def test_what_is_no_mean_over_classes_is_the_same_on_resamples() -> None:
    assert of_resamples(mean_score, np.diag([1, 2])) is mean_score


def test_two_classes_read_macro_are_their_own_score() -> None:
    confusion = np.array([[7, 3], [4, 16]])
    assert float(macro_recall(confusion)) == float(macro_specificity(confusion)) == float(mean_score(confusion))


@pytest.mark.parametrize(("sp", "se"), [(0.8166, 0.4307), (0.5, 0.5), (1.0, 0.25)])
def test_challenge_score_closed_form(sp: float, se: float) -> None:
    confusion = np.array(
        [[round(10000 * sp), 10000 - round(10000 * sp)], [10000 - round(10000 * se), round(10000 * se)]]
    )
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
    kept = leave_out_true_class(confusion, 4)
    assert float(specificity(kept)) == 8 / 10
    assert float(sensitivity(kept)) == (4 + 3 + 1) / (6 + 4 + 2)
    assert float(sensitivity(confusion)) == (4 + 3 + 1 + 9) / (6 + 4 + 2 + 11)
    assert confusion[4].sum() == 11


@pytest.mark.parametrize("statistic", [cohen_kappa, matthews_correlation])
def test_agreement_extremes(statistic: object) -> None:
    assert float(statistic(np.diag([4, 3, 2]))) == 1.0
    assert float(statistic(np.array([[2, 2], [3, 3]]))) == 0.0
    assert float(statistic(np.array([[0, 5], [5, 0]]))) == -1.0
    assert np.isnan(statistic(np.array([[9, 0], [0, 0]])))
    assert np.isnan(statistic(np.zeros((3, 3), dtype=np.int64)))


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is slow
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


@pytest.mark.parametrize(
    "statistic",
    [
        *(specificity, sensitivity, mean_score, recall, precision, f1, macro_f1, accuracy, fold_to_two_classes),
        *(weighted_f1, micro_f1, macro_recall, macro_precision, one_vs_rest_specificity, macro_specificity),
        *(macro_mean_score, harmonic_score, challenge_score, cohen_kappa, matthews_correlation),
    ],
)
def test_leading_axes_are_kept(statistic: object) -> None:
    stack = np.random.default_rng(0).integers(0, 5, (3, 2, 4, 4))
    stack[0, 0, 0] = 0
    together = statistic(stack)
    for index in np.ndindex(3, 2):
        np.testing.assert_array_equal(together[index], statistic(stack[index]))
