"""SPRSound 2022 as its challenge counts it: four tasks, each the mean of its inter and its intra test.

Sp = normal ones predicted normal / normal ones, Se = adventitious ones predicted as exactly their class / adventitious
ones, AS = (Sp + Se) / 2, HS = 2 Sp Se / (Sp + Se), Score = (AS + HS) / 2. Poor Quality is in neither denominator; to
predict it for another class is a mistake. The definition counts predicted classes, one for each event or recording: so
the tasks with fewer classes (1-1, 2-1) are read from the same predicted classes, folded, and not from a second decision
by summed probabilities, which could call an event adventitious in 1-1 and normal in 1-2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lungsound.evaluation import metrics
from lungsound.evaluation.bootstrap import Bootstrap, Estimate, confusions_by_part, mean_of_parts
from lungsound.evaluation.compare import name_of_parts
from lungsound.evaluation.metrics import Counts
from lungsound.evaluation.rescore import find_test_set
from lungsound.evaluation.runs import MethodRuns
from lungsound.experiments.table import PublishedTasks
from lungsound.labels import LABEL_SETS
from lungsound.page import Cell, bullets, table

PARTS = ("inter", "intra")
MEAN = name_of_parts(PARTS)
VALUES = {
    "Sp": metrics.specificity,
    "Se": metrics.sensitivity,
    "AS": metrics.mean_score,
    "HS": metrics.harmonic_score,
    "Score": metrics.challenge_score,
}
DEFINITION = (
    "Sp: normal predicted normal. Se: adventitious predicted as exactly their class. AS = (Sp + Se) / 2, "
    "HS = 2 Sp Se / (Sp + Se), Score = (AS + HS) / 2, in percent. Poor Quality is in neither denominator.",
    "A task's figure is the mean of inter (new patients) and intra (patients of the training set). Intervals are over "
    "patients and seeds.",
    "1-1 and 2-1 are read from the same predicted classes as 1-2 and 2-2: any adventitious class fits an adventitious "
    "event or recording.",
)


@dataclass(frozen=True)
class Task:
    """A task: the classes of a label set, folded into groups that begin at `starts`."""

    name: str
    what: str
    label_set: str
    starts: tuple[int, ...]

    def read(self, counts: Counts) -> Counts:
        """Counts of the label set's classes as the task counts them."""
        folded = metrics.fold(counts, self.starts)
        return folded if self.label_set == "sprsound_event7" else metrics.leave_out_true_class(folded, -1)


TASKS = (
    Task("1-1", "events, normal or adventitious", "sprsound_event7", (0, 1)),
    Task("1-2", "events, 7 classes", "sprsound_event7", tuple(range(7))),
    Task("2-1", "recordings, normal, adventitious or poor quality", "sprsound_record5", (0, 1, 4)),
    Task("2-2", "recordings, 5 classes", "sprsound_record5", tuple(range(5))),
)


@dataclass(frozen=True)
class TaskResult:
    """What a method's runs score in a task on one test, or in the mean of both; `problem` is why it is no figure."""

    method: str
    task: str
    what: str
    tested_on: str
    num_seeds: int
    values: Mapping[str, Estimate]
    problem: str | None

    @property
    def is_mean(self) -> bool:
        return self.tested_on == MEAN

    def in_print(self) -> str:
        """One line for a terminal."""
        line = f"{self.method}, task {self.task}, {self.tested_on}: Score {self.values['Score'].in_percent()}"
        return f"{line}; {self.problem}" if self.problem else line


def challenge_tasks(methods: Mapping[str, MethodRuns]) -> list[TaskResult]:
    """The tasks of the classes that each method predicts, on inter, on intra and in the mean of both."""
    results = []
    for name, method in methods.items():
        classes, there = method.runs[0].classes, set(method.runs[0].parts)
        parts = [part for part in PARTS if part in there]
        if not parts:
            continue
        counts = {part: confusions_by_part(method.runs, [part]) for part in parts}
        others = [part for part in parts if not _is_whole(part, counts[part][0].sum(axis=(0, 1, -1)).tolist())]
        if len(parts) == len(PARTS):
            counts[MEAN] = confusions_by_part(method.runs, parts)
        for task in TASKS:
            for tested_on, of_group in counts.items() if LABEL_SETS[task.label_set].classes == classes else ():
                read = task.read(of_group)
                values = {key: Bootstrap().of_runs(read, mean_of_parts(value)) for key, value in VALUES.items()}
                lacking = [part for part in others if tested_on in (part, MEAN)]
                problem = f"NOT COMPARABLE: {' and '.join(lacking)} not as in the challenge" if lacking else None
                results.append(TaskResult(name, task.name, task.what, tested_on, len(method.runs), values, problem))
    return results


def _is_whole(part: str, totals: Sequence[int]) -> bool:
    """True when a part of the test has the challenge's numbers of each class."""
    known = find_test_set(totals)
    return known is not None and known.name.endswith(f" {part}")


def challenge_page(
    methods: Mapping[str, MethodRuns],
    results: Sequence[TaskResult],
    published: Sequence[PublishedTasks],
    *,
    heading: str,
) -> list[str]:
    """Published figures and ours beside each other, then ours on inter, on intra and in the mean, value by value.

    `heading` is the mark of a section, "##" say.
    """
    figures: list[tuple[Cell, ...]] = []
    for each in published:
        cells = (f"{each.tasks[task.name]:g}" if task.name in each.tasks else "" for task in TASKS)
        figures.append((each.name, *cells, "", each.epoch))
    for name, method in methods.items():
        ours = {
            result.task: result.values["Score"].in_percent()
            for result in results
            if result.method == name and result.is_mean
        }
        choices = ", ".join(sorted(method.choices))
        figures.append((name, *(ours.get(task.name, "") for task in TASKS), str(len(method.runs)), choices))
    rows = [
        (result.task, result.what, result.tested_on, *(value.in_percent() for value in result.values.values()))
        for result in results
    ]
    whole = {(result.method, result.problem) for result in results if result.problem and result.is_mean}
    problems = [f"{method}: {problem}" for method, problem in sorted(whole)]
    head = ("who", *(task.name for task in TASKS), "seeds", "epoch")
    return [
        *(f"{problem}." for problem in problems),
        Markup(f"{heading} Beside what is published"),
        table(head, figures),
        Markup(f"{heading} Ours, value by value"),
        table(("task", "what", "tested on", *VALUES), rows),
        bullets(DEFINITION),
    ]
