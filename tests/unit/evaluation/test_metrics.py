import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from lungsound.evaluation.metrics import (
    ALWAYS_NORMAL_SCORE,
    IcbhiScore,
    accuracy,
    confusion_matrix,
    f1,
    fold_to_two_classes,
    icbhi_score,
    macro_f1,
    mean_score,
    precision,
    recall,
    sensitivity,
    specificity,
    two_class_score,
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
        ([0, 0], [-1, 0], "answers must be 0 to 3; got -1 to 0"),
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


@pytest.mark.parametrize(
    "statistic", [specificity, sensitivity, mean_score, recall, precision, f1, macro_f1, accuracy, fold_to_two_classes]
)
def test_leading_axes_are_kept(statistic: object) -> None:
    stack = np.random.default_rng(0).integers(0, 5, (3, 2, 4, 4))
    stack[0, 0, 0] = 0
    together = statistic(stack)
    for index in np.ndindex(3, 2):
        np.testing.assert_array_equal(together[index], statistic(stack[index]))
