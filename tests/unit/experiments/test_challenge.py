"""SPRSound's tasks by the challenge's definition, against loops over the events."""

from dataclasses import replace

import numpy as np
import pytest

from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.runs import MethodRuns
from lungsound.experiments.challenge import MEAN, TASKS, TaskResult, challenge_page, challenge_tasks
from lungsound.experiments.table import load_table
from lungsound.labels import LABEL_SETS
from lungsound.page import paragraphs
from tests.unit.experiments.small import answered

EVENT7, RECORD5 = (LABEL_SETS[f"sprsound_{name}"].classes for name in ("event7", "record5"))
# What an event or a recording of a class is called in the tasks of fewer classes.
BINARY = dict.fromkeys(EVENT7[1:], "Adventitious") | {"Normal": "Normal"}
TERNARY = dict.fromkeys(RECORD5[1:4], "Adventitious") | {name: name for name in ("Normal", "Poor Quality")}


def by_hand(run: Predictions, part: str, words: dict[str, str] | None) -> dict[str, float]:
    """Each value of a task, counted one by one."""
    normal = right_normal = adventitious = right_adventitious = 0
    for label, predicted, where in zip(run.labels, run.predicted, run.parts, strict=True):
        true, said = (run.classes[index] for index in (label, predicted))
        if words is not None:
            true, said = words[true], words[said]
        if where != part or true == "Poor Quality":
            continue
        if true == "Normal":
            normal += 1
            right_normal += said == "Normal"
        else:
            adventitious += 1
            right_adventitious += said == true
    sp, se = right_normal / normal, right_adventitious / adventitious
    average, harmonic = (sp + se) / 2, 2 * se * sp / (se + sp)
    return {"Sp": sp, "Se": se, "AS": average, "HS": harmonic, "Score": (average + harmonic) / 2}


def method(classes: tuple[str, ...], num_seeds: int = 3) -> MethodRuns:
    runs = tuple(answered(0.7, classes, seed=seed) for seed in range(num_seeds))
    return MethodRuns(runs, frozenset(["last"]), seeds=tuple(range(num_seeds)))


@pytest.fixture(scope="module")
def methods() -> dict[str, MethodRuns]:
    return {"of events": method(EVENT7), "of recordings": method(RECORD5)}


@pytest.fixture(scope="module")
def tasks(methods: dict[str, MethodRuns]) -> list[TaskResult]:
    return challenge_tasks(methods)


def test_each_task_is_counted_as_the_challenge_defines_it(
    methods: dict[str, MethodRuns], tasks: list[TaskResult]
) -> None:
    words = {"1-1": BINARY, "1-2": None, "2-1": TERNARY, "2-2": None}
    assert [(each.task, each.tested_on) for each in tasks] == [
        (name, where) for name in words for where in ("inter", "intra", MEAN)
    ]
    for each in tasks:
        runs = methods[each.method].runs
        parts = ("inter", "intra") if each.is_mean else (each.tested_on,)
        counted = [by_hand(run, part, words[each.task]) for run in runs for part in parts]
        for key, estimate in each.values.items():
            assert estimate.value == pytest.approx(np.mean([values[key] for values in counted])), (each.task, key)
            assert estimate.interval.low < estimate.value < estimate.interval.high
            assert (estimate.interval.num_seeds, estimate.interval.num_patients) == (
                3,
                {"inter": 12, "intra": 15}.get(each.tested_on, 27),
            )


def test_poor_quality_is_in_no_denominator_and_a_mistake_elsewhere() -> None:
    run = answered(0.7, RECORD5)
    poor = run.labels == 4
    answers = np.array(run.probabilities)
    answers[poor] = np.eye(5)[0]  # whatever is said of poor ones
    changed = replace(run, probabilities=answers)

    def scores(run: Predictions) -> list[float]:
        results = challenge_tasks({"m": MethodRuns((run,), frozenset(["last"]))})
        return [estimate.value for each in results for estimate in each.values.values()]

    assert poor.any()
    assert scores(changed) == scores(run)
    answers[~poor] = np.eye(5)[4]
    assert scores(replace(run, probabilities=answers)) == [0.0] * 30


def test_a_part_of_the_test_is_not_comparable(tasks: list[TaskResult]) -> None:
    assert all(each.problem is not None and each.problem.startswith("NOT COMPARABLE") for each in tasks)
    assert "NOT COMPARABLE: inter and intra not as in the challenge" in tasks[2].in_print()
    # The whole tests of the challenge, by their numbers of each class.
    totals = {"inter": (1040, 0, 305, 0, 3, 80, 1), "intra": (688, 14, 108, 2, 14, 175, 3)}
    labels = np.concatenate([np.repeat(np.arange(7), of_part) for of_part in totals.values()])
    parts = tuple(part for part, of_part in totals.items() for _ in range(sum(of_part)))
    run = Predictions(
        keys=tuple(f"r#{row}-{row + 1}" for row in range(len(labels))),
        patients=tuple(f"{part}{row % 40}" for row, part in enumerate(parts)),
        devices=("",) * len(labels),
        parts=parts,
        labels=labels,
        probabilities=np.eye(7)[labels],
        classes=EVENT7,
    )
    whole = challenge_tasks({"m": MethodRuns((run,), frozenset(["last"]))})
    assert [each.problem for each in whole] == [None] * 6
    assert {each.values["Score"].value for each in whole} == {1.0}


def test_published_figures_stand_beside_ours(methods: dict[str, MethodRuns], tasks: list[TaskResult]) -> None:
    published = load_table("sprsound").published
    text = paragraphs(*challenge_page(methods, tasks, published, heading="###"))
    rows = {line.split(" | ")[0]: line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")}
    (name,) = [name for name in rows if "Shuvo" in name]
    assert [cell.strip() for cell in rows[name][1:]] == ["90.39", "84.48", "72", "57.1", "", "not known"]
    ours = [cell.strip() for cell in rows["| of events"][1:]]
    means = [each.values["Score"].in_percent() for each in tasks if each.is_mean and each.method == "of events"]
    assert ours == [*means, "", "", "3", "last"]
    assert (
        len([line for line in text.splitlines() if line.startswith(tuple(f"| {task.name} |" for task in TASKS))]) == 12
    )
    assert "of events: NOT COMPARABLE: inter and intra not as in the challenge." in text
