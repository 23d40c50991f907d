import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import Bootstrap, Estimate, Interval
from lungsound.evaluation.compare import (
    ABNORMAL,
    HEAD,
    NORMAL,
    Comparison,
    Contributions,
    Difference,
    compare_methods,
    compare_runs,
    comparison_json,
    comparison_rows,
    contributions_to,
    permutation_test,
    remarks,
    studentised,
    summary,
    verdict,
    write_comparison,
)
from lungsound.evaluation.metrics import (
    confusion_matrix,
    icbhi_score,
    mean_score,
    sensitivity,
    specificity,
    two_class_score,
)
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.runs import MethodRuns, epoch_warnings
from lungsound.files import to_json

CLASSES = ("normal", "crackle", "wheeze", "both")


def answered(
    skill: float, *, seed: int = 0, num_patients: int = 20, part: str = "test", classes: tuple[str, ...] = CLASSES
) -> Predictions:
    """A method that is right with this probability; cycles, patients and labels are always the same."""
    generator = np.random.default_rng(seed)
    num_cycles = 12 * num_patients
    labels = np.arange(num_cycles) % len(classes)
    wrong = (labels + generator.integers(1, len(classes), num_cycles)) % len(classes)
    answers = np.where(generator.random(num_cycles) < skill, labels, wrong)
    probabilities = np.full((num_cycles, len(classes)), 0.1)
    probabilities[np.arange(num_cycles), answers] = 1.0 - 0.1 * (len(classes) - 1)
    return Predictions(
        keys=tuple(f"r#{i}-{i + 1}" for i in range(num_cycles)),
        patients=tuple(f"p{i // 12:02}" for i in range(num_cycles)),
        devices=("",) * num_cycles,
        parts=(part,) * num_cycles,
        labels=labels,
        probabilities=probabilities,
        classes=classes,
    )


def compared(first: Predictions, second: Predictions) -> Comparison:
    (comparison,) = compare_runs([first], [second], names=("good", "bad"), bootstrap=Bootstrap(num_draws=500))
    return comparison


def test_values_are_those_of_each_method() -> None:
    first, second = answered(0.8), answered(0.6, seed=1)
    comparison = compared(first, second)
    exact = [icbhi_score(confusion_matrix(p.labels, p.predicted, 4)) for p in (first, second)]
    folded = [two_class_score(confusion_matrix(p.labels, p.predicted, 4)) for p in (first, second)]
    lines = {line.name: line for line in comparison.differences}
    assert list(lines) == ["Score", "Sp", "Se", "Score, 2 classes"]
    for name, value in (("Score", "score"), ("Sp", "specificity"), ("Se", "sensitivity")):
        a, b = (getattr(scores, value) for scores in exact)
        assert (lines[name].first, lines[name].second) == pytest.approx((a, b))
        assert lines[name].difference.value == pytest.approx(a - b)
    assert lines["Score, 2 classes"].difference.value == pytest.approx(folded[0].score - folded[1].score)
    assert comparison.contributions.sum() == pytest.approx(lines["Score"].difference.value)
    assert comparison.patients == tuple(f"p{n:02}" for n in range(20))
    assert (comparison.num_cycles, comparison.num_seeds, comparison.part) == (240, (1, 1), "test")
    better = int((comparison.contributions > 0).sum())
    assert (comparison.score.num_better, comparison.score.num_worse) == (
        better,
        int((comparison.contributions < 0).sum()),
    )


def test_the_interval_is_paired() -> None:
    first = answered(0.7)
    probabilities = np.array(first.probabilities)
    probabilities[:4] = np.roll(probabilities[:4], 1, axis=1)
    second = dataclasses.replace(first, probabilities=probabilities)
    interval = compared(first, second).score.difference.interval
    # Only one patient is answered differently: the difference can hardly vary, whatever the Score does.
    assert interval.high - interval.low < 0.1


def test_the_effect_size_is_that_of_paired_values() -> None:
    # One normal and one abnormal cycle a patient: Cohen's d of the patients' differences.
    def one_each(is_right: list[bool]) -> Predictions:
        rows = answered(1.0, num_patients=1, classes=("normal", "abnormal"))
        num = len(is_right)
        return dataclasses.replace(
            rows,
            keys=tuple(f"r#{i}-{i + 1}" for i in range(2 * num)),
            patients=tuple(f"p{i // 2}" for i in range(2 * num)),
            devices=("",) * 2 * num,
            parts=("",) * 2 * num,
            labels=np.tile([0, 1], num),
            probabilities=np.array(
                [[1.0, 0.0] if i % 2 == 0 and ok else [0.0, 1.0] for ok in is_right for i in (0, 1)]
            ),
        )

    rights = [[True] * 7 + [False] * 3, [True] * 2 + [False] * 8]
    comparison = compared(one_each(rights[0]), one_each(rights[1]))
    assert [line.name for line in comparison.differences] == ["Score", "Sp", "Se"]
    parts = (np.array(rights[0], dtype=float) - np.array(rights[1], dtype=float)) / 2
    assert comparison.score.standardised == pytest.approx(parts.mean() / parts.std(ddof=1))


def test_better_and_not_distinguishable() -> None:
    good, bad = answered(0.9), answered(0.4, seed=1)
    score = compared(good, bad).score
    assert score.is_distinguishable
    low, high = (100 * value for value in (score.difference.interval.low, score.difference.interval.high))
    points = f"{100 * score.difference.value:.1f} points of Score"
    start = f"good is better by {points} (95 % interval {low:.1f} to {high:.1f}, p ="
    assert verdict(compared(good, bad)).startswith(start)
    (turned,) = compare_runs([bad], [good], names=("bad", "good"), bootstrap=Bootstrap(num_draws=500))
    assert verdict(turned).startswith(
        f"good is better by {100 * score.difference.value:.1f} points of Score (95 % interval"
    )
    assert "-" not in verdict(turned)
    assert verdict(compared(answered(0.6), answered(0.6, seed=1))).startswith("not distinguishable: A minus B is ")
    assert verdict(compared(good, good)).endswith("p = 1; A and B have as many right for every patient")


def test_interval_and_test_must_agree() -> None:
    comparison = compared(answered(0.9), answered(0.4, seed=1))

    def with_score(low: float, high: float, p_value: float) -> Comparison:
        estimate = Estimate((low + high) / 2, Interval(low, high, 0.95, 500, 20))
        score: Difference = dataclasses.replace(comparison.score, difference=estimate, p_value=p_value)
        return dataclasses.replace(comparison, differences=(score, *comparison.differences[1:]))

    assert with_score(0.01, 0.05, 0.03).score.is_distinguishable
    for low, high, p_value in ((0.01, 0.05, 0.06), (-0.01, 0.05, 0.03)):
        assert verdict(with_score(low, high, p_value)).endswith("interval and permutation test do not agree")
    assert "do not agree" not in verdict(with_score(-0.01, 0.05, 0.5))


def test_several_seeds_are_averaged() -> None:
    first = [answered(0.8, seed=n) for n in range(3)]
    second = [answered(0.6, seed=n) for n in range(5, 7)]
    (comparison,) = compare_runs(first, second, bootstrap=Bootstrap(num_draws=500))
    scores = [[icbhi_score(confusion_matrix(p.labels, p.predicted, 4)).score for p in side] for side in (first, second)]
    assert comparison.score.first == pytest.approx(np.mean(scores[0]))
    assert comparison.score.difference.value == pytest.approx(np.mean(scores[0]) - np.mean(scores[1]))
    assert comparison.score.difference.interval.num_seeds == 2
    assert comparison.contributions.sum() == pytest.approx(comparison.score.difference.value)
    assert remarks(comparison) == []
    assert "3 seeds and 2 seeds" in summary(comparison)
    (lone,) = compare_runs(first[:1], second, bootstrap=Bootstrap(num_draws=500))
    assert remarks(lone) == ["A has one seed: it stands for this trained model, not for its method."]
    (single,) = compare_runs(first[:1], second[:1], bootstrap=Bootstrap(num_draws=500))
    assert remarks(single)[0].startswith(
        "One seed on each side: this compares these two trained models, not the methods."
    )


def test_few_patients_and_a_trade_are_remarks() -> None:
    few = compared(answered(0.9, num_patients=4), answered(0.3, num_patients=4, seed=1))
    assert "4 patients: an interval from fewer than 10 is itself uncertain." in remarks(few)
    assert "Only 4 patients are predicted differently: p cannot be less than 0.125." in remarks(few)
    assert verdict(few).startswith("not distinguishable")
    usual = answered(0.8)
    always_normal = np.tile([0.7, 0.1, 0.1, 0.1], (len(usual.keys), 1))
    traded = compared(usual, dataclasses.replace(usual, probabilities=always_normal))
    assert any(remark.startswith("A and B trade Sp for Se: A has -") for remark in remarks(traded))


def test_cycles_in_another_order_are_joined_by_key() -> None:
    first, second = answered(0.8), answered(0.6, seed=1)
    shuffled = second.of_rows(np.random.default_rng(0).permutation(240).tolist())
    assert comparison_rows(compared(first, shuffled)) == comparison_rows(compared(first, second))


def test_other_cycles_are_refused_or_left_out() -> None:
    first, second = answered(0.8), answered(0.6, seed=1)
    shorter = second.of_rows(range(24, 240))
    with pytest.raises(DataError, match=r"24 of 240 only in good, 0 of 216 only in bad; --common compares .* the 216"):
        compared(first, shorter)
    (common,) = compare_runs([first], [shorter], is_common_only=True, bootstrap=Bootstrap(num_draws=200))
    assert (common.num_cycles, len(common.patients)) == (216, 18)
    assert comparison_rows(common) == comparison_rows(
        compare_runs([first.of_rows(range(24, 240))], [shorter], bootstrap=Bootstrap(num_draws=200))[0]
    )
    other = dataclasses.replace(second, keys=tuple(f"s#{i}-{i + 1}" for i in range(240)))
    with pytest.raises(DataError, match="no cycle in common"):
        compare_runs([first], [other], is_common_only=True)


def test_other_labels_patients_or_classes_are_refused() -> None:
    first = answered(0.8)
    labels = np.array(first.labels)
    labels[5] = 3
    with pytest.raises(DataError, match="r#5-6 has another label or patient in good than in bad"):
        compared(first, dataclasses.replace(first, labels=labels))
    with pytest.raises(DataError, match="another label or patient"):
        compared(first, dataclasses.replace(first, patients=("x", *first.patients[1:])))
    with pytest.raises(DataError, match="good has the classes normal, crackle, wheeze, both, bad normal, abnormal"):
        compared(first, answered(0.8, classes=("normal", "abnormal")))


def test_each_part_has_its_own_comparison() -> None:
    def two_parts(skill: float, seed: int) -> Predictions:
        return dataclasses.replace(answered(skill, seed=seed), parts=("intra",) * 120 + ("inter",) * 120)

    inter, intra, mean = compare_runs([two_parts(0.9, 0)], [two_parts(0.5, 1)], bootstrap=Bootstrap(num_draws=200))
    assert (inter.part, intra.part, mean.part) == ("inter", "intra", "mean of inter and intra")
    assert (inter.num_cycles, inter.patients[0], intra.patients[0]) == (120, "p10", "p00")
    assert "120 cycles of inter, 10 patients" in summary(inter)


def test_the_mean_of_the_parts_weighs_each_the_same(tmp_path: Path) -> None:
    """Parts of 60 and 180 cycles: each value is the mean of two, patients' contributions sum to it, p is their test."""

    def two_parts(skill: float, seed: int) -> Predictions:
        return dataclasses.replace(answered(skill, seed=seed), parts=("intra",) * 60 + ("inter",) * 180)

    first, second = [two_parts(0.9, 0), two_parts(0.8, 2)], [two_parts(0.5, 1)]
    inter, intra, mean = compare_runs(first, second, bootstrap=Bootstrap(num_draws=200))
    for line in range(4):
        of_parts, of_mean = (inter.differences[line], intra.differences[line]), mean.differences[line]
        for key in ("first", "second"):
            expected = np.mean([getattr(each, key) for each in of_parts])
            assert getattr(of_mean, key) == pytest.approx(expected), (line, key)
        assert of_mean.difference.value == pytest.approx(np.mean([each.difference.value for each in of_parts]))
    assert len(mean.patients) == len(mean.contributions) == 20
    assert mean.contributions.sum() == pytest.approx(mean.score.difference.value)
    np.testing.assert_allclose(mean.contributions[:5], intra.contributions / 2)
    np.testing.assert_allclose(mean.contributions[5:], inter.contributions / 2)
    interval = mean.score.difference.interval
    assert interval.low < mean.score.difference.value < interval.high
    page = write_comparison(tmp_path, [inter, intra, mean], comparison_json([inter, intra, mean]), [])
    assert "<h2" in page.read_text()
    assert "Mean of parts: each part weighs the same" in (tmp_path / "compare.md").read_text()


def test_runs_of_one_seed_are_compared_with_each_other() -> None:
    """Seeds move A and B alike: paired, only what they differ in is left."""
    skills = (0.9, 0.75, 0.6)

    def sides(seeds: tuple[int, ...], order: tuple[int, ...]) -> tuple[MethodRuns, MethodRuns]:
        first = tuple(answered(skill, seed=1) for skill in skills)
        second = tuple(answered(skills[place] - 0.2, seed=1) for place in order)
        return (
            MethodRuns(first, frozenset(["last"]), seeds=(0, 1, 2)),
            MethodRuns(second, frozenset(["last"]), seeds=seeds),
        )

    names, bootstrap = ("A", "B"), Bootstrap(num_draws=2000)
    (paired,) = compare_methods(*sides((0, 1, 2), (0, 1, 2)), names=names, bootstrap=bootstrap)
    (turned,) = compare_methods(*sides((2, 0, 1), (2, 0, 1)), names=names, bootstrap=bootstrap)
    (alone,) = compare_methods(*sides((7, 8, 2), (0, 1, 2)), names=names, bootstrap=bootstrap)
    assert (paired.is_paired, turned.is_paired, alone.is_paired) == (True, True, False)
    assert "3 seeds, A and B paired by seed" in summary(paired)
    assert turned.score.difference == paired.score.difference
    narrow, wide = paired.score.difference.interval, alone.score.difference.interval
    assert paired.score.difference.value == pytest.approx(alone.score.difference.value)
    assert narrow.high - narrow.low < 0.6 * (wide.high - wide.low)
    first, second = sides((0, 1, 2), (0, 1, 2))
    more = dataclasses.replace(first, runs=(*first.runs, answered(0.1)), seeds=(0, 1, 2, 3))
    (common,) = compare_methods(more, second, names=names, bootstrap=bootstrap)
    assert common.score == paired.score
    left_out = epoch_warnings(more, second)
    assert left_out == ["A's runs of seed 3 are left out: the other side has none of that seed."]
    two = dataclasses.replace(second, runs=second.runs[:2], seeds=(0, 1))
    (unpaired,) = compare_methods(first, two, names=names, bootstrap=bootstrap)
    assert (unpaired.is_paired, unpaired.num_seeds) == (False, (3, 2))


def test_one_patient_or_no_abnormal_cycle() -> None:
    one = compared(answered(0.9, num_patients=1), answered(0.4, num_patients=1, seed=1))
    assert verdict(one) == "not distinguishable: one patient: how patients differ cannot be seen"
    assert math.isnan(one.score.standardised)
    rows = [row for row, label in enumerate(answered(0.9).labels) if label == 0]
    normal = compared(answered(0.9).of_rows(rows), answered(0.4, seed=1).of_rows(rows))
    assert verdict(normal) == "not distinguishable: the Score has no value (no normal or no abnormal cycle)"
    assert comparison_rows(normal)[0][1:6] == ("n/a",) * 5
    to_json(comparison_json([normal]), indent=None)


def test_page_json_and_picture(tmp_path: Path, figures: list[Figure]) -> None:
    comparison = compared(answered(0.9), answered(0.4, seed=1))
    numbers = comparison_json([comparison])
    page = write_comparison(tmp_path, [comparison], numbers, ["a warning"])
    bars = [patch.get_height() for patch in figures[0].axes[1].patches]
    np.testing.assert_allclose(bars, 100 * np.sort(comparison.contributions)[::-1])
    points = [line.get_xdata() for line in figures[0].axes[0].lines if line.get_marker() == "o"]
    np.testing.assert_allclose(np.concatenate(points), [100 * line.difference.value for line in comparison.differences])
    text = (tmp_path / "compare.md").read_text()
    assert "A is good, B is bad." in text
    assert text.index("> **a warning**") < text.index(f"**{verdict(comparison)}.** 240 cycles of test, 20 patients;")
    assert text.index("> **One seed on each side") < text.index("| value | A | B |") < text.index("(compare-0.png)")
    assert "p is below 0.05 as well" in text
    assert "data:image/png;base64" in page.read_text()
    assert all(len(row) == len(HEAD) for row in comparison_rows(comparison))
    assert json.loads((tmp_path / "compare.json").read_text()) == json.loads(to_json(numbers, indent=None))
    assert numbers["parts"][0]["verdict"] == verdict(comparison)
    assert numbers["parts"][0]["differences"][0]["difference"]["value"] == comparison.score.difference.value
    assert sum(numbers["parts"][0]["patients"].values()) == pytest.approx(comparison.score.difference.value)


# ---- the permutation test ----


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
