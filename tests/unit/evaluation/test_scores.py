import numpy as np
import pytest

from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import FEW_PATIENTS, Bootstrap
from lungsound.evaluation.metrics import confusion_matrix, icbhi_score
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.scores import age_groups, evaluate_predictions, score_subgroups

NUM_CYCLES = 200


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 4, NUM_CYCLES)
    patients = generator.integers(0, 24, NUM_CYCLES)
    return Predictions(
        keys=tuple(f"r{row}#0-1" for row in range(NUM_CYCLES)),
        patients=tuple(f"p{patient}" for patient in patients),
        devices=tuple("AB"[patient % 2] for patient in patients),
        parts=("test",) * NUM_CYCLES,
        labels=labels,
        probabilities=(generator.dirichlet([1.0] * 4, NUM_CYCLES) + 0.5 * np.eye(4)[labels]) / 1.5,
        classes=("normal", "crackle", "wheeze", "both"),
    )


def test_each_group_is_scored_by_its_own_rows(predictions: Predictions) -> None:
    places = [("Al", "Pr", "")[row % 3] for row in range(NUM_CYCLES)]
    (subgroups,) = score_subgroups(predictions, {"location": places}, Bootstrap(num_draws=50))
    assert (subgroups.fact, [group.name for group in subgroups.groups]) == ("location", ["Al", "Pr", ""])
    for group in subgroups.groups:
        rows = [row for row, place in enumerate(places) if place == group.name]
        counts = confusion_matrix(predictions.labels[rows], predictions.predicted[rows], 4)
        assert group.num_cycles == len(rows)
        assert group.num_patients == len({predictions.patients[row] for row in rows})
        assert group.scores.score.value == icbhi_score(counts).score
        assert group.scores.specificity.value == icbhi_score(counts).specificity
        assert group.scores.score.interval.low < group.scores.score.value < group.scores.score.interval.high
        assert group.scores.score.interval.num_patients == group.num_patients


def test_a_fact_that_the_evaluation_has_too_gives_the_same_numbers(predictions: Predictions) -> None:
    (subgroups,) = score_subgroups(predictions, {"device": predictions.devices}, Bootstrap(4, num_draws=50))
    assert subgroups.groups == evaluate_predictions(predictions, Bootstrap(4, num_draws=50)).by_device


def test_small_groups_are_named(predictions: Predictions) -> None:
    few = {f"p{number}" for number in range(FEW_PATIENTS - 1)}
    enough = {f"p{number}" for number in range(FEW_PATIENTS - 1, 2 * FEW_PATIENTS - 1)}
    names = ["few" if p in few else "enough" if p in enough else "" for p in predictions.patients]
    (subgroups,) = score_subgroups(predictions, {"ward": names}, Bootstrap(num_draws=20))
    assert [(group.name, group.num_patients) for group in subgroups.groups] == [("enough", 10), ("few", 9), ("", 5)]
    assert [group.is_small for group in subgroups.groups] == [False, True, True]
    assert subgroups.warning == (
        "Few patients: few (9), unknown ward (5). An interval from fewer than 10 patients is itself uncertain."
    )
    (large,) = score_subgroups(predictions, {"ward": ["all"] * NUM_CYCLES}, Bootstrap(num_draws=20))
    assert (large.groups[0].is_small, large.warning) == (False, None)


def test_groups_stand_in_reading_order(predictions: Predictions) -> None:
    names = ["12 to 18 years", "", "2 to 11 years", "adult", "p10", "p9", "Bronchitis"]
    values = [names[row % len(names)] for row in range(NUM_CYCLES)]
    (subgroups,) = score_subgroups(predictions, {"x": values}, Bootstrap(num_draws=5))
    order = [group.name for group in subgroups.groups]
    assert order.index("2 to 11 years") < order.index("12 to 18 years")
    assert order.index("p9") < order.index("p10")
    assert order.index("adult") < order.index("Bronchitis")
    assert order[-1] == ""


def test_a_fact_that_is_nowhere_known_is_left_out(predictions: Predictions) -> None:
    assert score_subgroups(predictions, {"diagnosis": [""] * NUM_CYCLES}) == ()


def test_ages_in_completed_years() -> None:
    for ages, groups in (
        (
            [0.0, 17.99, 18.0, 64.9, 65.0, 93.0, None],
            ["0 to 17"] * 2 + ["18 to 64"] * 2 + ["65 years and over"] * 2 + [""],
        ),
        ([0.25, 1.9, 2.0, 11.99, None, 12.0, 18.9], ["0 to 1"] * 2 + ["2 to 11"] * 2 + [""] + ["12 to 18"] * 2),
        ([5.0, 19.0], ["0 to 17", "18 to 64"]),
        ([None, None], ["", ""]),
        ([], []),
    ):
        expected = [name + " years" if name and "years" not in name else name for name in groups]
        assert list(age_groups(ages)) == expected
    for age in (-1.0, float("nan")):
        with pytest.raises(DataError, match="ages are 0 or more, and blank when unknown"):
            age_groups([age])


def test_interval_of_macro_f1_is_over_resamples_with_every_class() -> None:
    # 12 patients with normal and crackle; only the first has wheeze: it is missed with probability (11/12)^12.
    labels = np.array([0, 1] * 12 + [2])
    predictions = Predictions(
        keys=tuple(f"r#{i}-{i + 1}" for i in range(25)),
        patients=(*(f"p{i // 2:02}" for i in range(24)), "p00"),
        devices=("",) * 25,
        parts=("test",) * 25,
        labels=labels,
        probabilities=np.eye(3)[np.where(labels == 2, 0, labels)],
        classes=("normal", "crackle", "wheeze"),
    )
    evaluation = evaluate_predictions(predictions, Bootstrap(num_draws=4000))
    assert evaluation.macro_f1.value == pytest.approx((24 / 25 + 1 + 0) / 3)
    interval = evaluation.macro_f1.interval
    assert interval.num_undefined / interval.num_draws == pytest.approx((11 / 12) ** 12, abs=0.03)
    assert interval.high < 2 / 3  # 1 when resamples without wheeze are means over the other two
    assert evaluation.accuracy.interval.num_undefined == 0
