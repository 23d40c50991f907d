import tomllib
from importlib import resources

import pytest

from lungsound.evaluation.rescore import PublishedScore, find_test_set, published_data, scores_of

OFFICIAL = (1579, 649, 385, 143)


def test_score_of_the_paper_is_the_mean_of_its_sp_and_se() -> None:
    paper = next(score for score in published_data().scores if score.name == "AST, Patch-Mix contrastive")
    assert (paper.specificity, paper.sensitivity, paper.score) == (81.66, 43.07, 62.37)


@pytest.mark.parametrize(
    "score", [s for s in published_data().scores if s.specificity is not None], ids=lambda s: s.name
)
def test_every_printed_score_is_the_mean_of_the_printed_parts(score: PublishedScore) -> None:
    # Each number is rounded, and means over seeds are rounded on their own; the physicians' parts have one digit.
    tolerance = 0.055 if "physicians" in score.name else 0.011
    assert (score.specificity + score.sensitivity) / 2 == pytest.approx(score.score, abs=tolerance)


@pytest.mark.parametrize("score", published_data().scores, ids=lambda s: s.name)
def test_every_score_belongs_to_a_known_set(score: PublishedScore) -> None:
    assert any((known.name, known.task) == (score.test_set, score.task) for known in published_data().test_sets)
    assert score.score is not None or score.not_comparable is not None


def test_no_method_comes_twice_in_one_task() -> None:
    names = [(score.name, score.task) for score in published_data().scores]
    assert len(set(names)) == len(names)


def test_test_sets_agree_with_the_totals_of_the_corpora() -> None:
    text = resources.files("lungsound.data").joinpath("manifests", "published_totals.toml").read_text(encoding="utf-8")
    totals = tomllib.loads(text)
    parts = {
        "ICBHI 2017, official test set": totals["icbhi"]["parts"]["test"]["cycles"],
        "ICBHI 2017, official training set": totals["icbhi"]["parts"]["train"]["cycles"],
        "ICBHI 2017, all recordings": totals["icbhi"]["cycles"],
        "SPRSound 2022, inter": totals["sprsound"]["parts"]["inter"]["cycles"],
        "SPRSound 2022, intra": totals["sprsound"]["parts"]["intra"]["cycles"],
    }
    for name, cycles in parts.items():
        found = find_test_set(cycles)
        assert found is not None
        assert found.name == name
        assert "4 classes" in found.task
        two_class = find_test_set([cycles[0], sum(cycles[1:])])
        assert two_class is None or two_class.name == name


def test_seven_and_two_classes_of_events_are_as_many() -> None:
    for name in ("inter", "intra"):
        by_task = {known.task: known for known in published_data().test_sets if known.name == f"SPRSound 2022, {name}"}
        events = [known.totals for task, known in by_task.items() if task.startswith("events")]
        assert len(events) == 3
        assert len({(totals[0], sum(totals[1:])) for totals in events}) == 1
        recordings = [known.totals for task, known in by_task.items() if task.startswith("recordings")]
        assert [sum(totals) for totals in recordings] == [{"inter": 355, "intra": 379}[name]] * 2


def test_no_two_sets_are_mistaken_for_each_other() -> None:
    for known in published_data().test_sets:
        assert find_test_set(known.totals) is known


@pytest.mark.parametrize(
    ("totals", "is_known"),
    [
        ((1579, 385, 649, 143), True),
        ((1579, 649, 385, 143, 0), True),
        ((649, 1579, 385, 143), False),
        ((1579, 649, 385, 142), False),
        ((0, 0), False),
    ],
)
def test_totals_in_another_order(totals: tuple[int, ...], is_known: bool) -> None:
    assert (find_test_set(totals) is find_test_set(OFFICIAL)) is is_known


def test_short_names() -> None:
    assert find_test_set(OFFICIAL).short == "ICBHI, 4 classes"
    assert find_test_set((688, 316)).short == "SPRSound intra, task 1-1"


def test_scores_of_a_set() -> None:
    assert [score.score for score in scores_of(find_test_set((1579, 1177)))] == [68.71]
    assert scores_of(find_test_set((688, 316))) == []
    assert len(scores_of(find_test_set(OFFICIAL))) > 20
