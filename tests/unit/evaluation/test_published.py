import tomllib
from importlib import resources

import pytest

from lungsound.evaluation.rescore import find_test_set, known_numbers

OFFICIAL = (1579, 649, 385, 143)


def test_score_of_the_paper_is_the_mean_of_its_sp_and_se() -> None:
    paper = next(score for score in known_numbers().scores if score.name == "AST, Patch-Mix contrastive")
    assert (paper.specificity, paper.sensitivity, paper.score) == (81.66, 43.07, 62.37)


def test_every_printed_score_is_the_mean_of_the_printed_parts() -> None:
    for score in known_numbers().scores:
        if score.specificity is not None:
            # Each number is rounded, and means over seeds are rounded on their own; the physicians' have one digit.
            tolerance = 0.055 if "physicians" in score.name else 0.011
            mean = (score.specificity + score.sensitivity) / 2
            assert mean == pytest.approx(score.score, abs=tolerance), score.name


def test_every_score_belongs_to_a_known_set() -> None:
    sets = {(known.name, known.task) for known in known_numbers().test_sets}
    for score in known_numbers().scores:
        assert (score.test_set, score.task) in sets, score.name
        assert score.score is not None or score.not_comparable is not None, score.name


def test_no_method_comes_twice_in_one_task() -> None:
    names = [(score.name, score.task) for score in known_numbers().scores]
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
        known = find_test_set(cycles)
        assert known is not None
        assert known.name == name
        assert "4 classes" in known.task
        two_class = find_test_set([cycles[0], sum(cycles[1:])])
        assert two_class is None or two_class.name == name


def test_seven_and_two_classes_of_events_are_as_many() -> None:
    for name in ("inter", "intra"):
        by_task = {known.task: known for known in known_numbers().test_sets if known.name == f"SPRSound 2022, {name}"}
        events = [known.totals for task, known in by_task.items() if task.startswith("events")]
        assert len(events) == 3
        assert len({(totals[0], sum(totals[1:])) for totals in events}) == 1
        recordings = [known.totals for task, known in by_task.items() if task.startswith("recordings")]
        assert [sum(totals) for totals in recordings] == [{"inter": 355, "intra": 379}[name]] * 2


def test_no_two_sets_are_mistaken_for_each_other() -> None:
    for known in known_numbers().test_sets:
        assert find_test_set(known.totals) is known


def test_totals_in_another_order() -> None:
    for totals, is_known in (
        ((1579, 385, 649, 143), True),
        ((1579, 649, 385, 143, 0), True),
        ((649, 1579, 385, 143), False),
        ((1579, 649, 385, 142), False),
        ((0, 0), False),
    ):
        assert (find_test_set(totals) is find_test_set(OFFICIAL)) is is_known, totals


def test_comparable_sets_have_a_short_name() -> None:
    assert find_test_set(OFFICIAL).short == "ICBHI, 4 classes"
    assert all(bool(known.short) == (known.not_comparable is None) for known in known_numbers().test_sets)
