"""Train on some, test on others: every device or corpus left out in turn, or other corpora."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup
from rich.console import Console

from lungsound.config import DataSettings, load_config, settings_of_corpora
from lungsound.data.corpus import MAP_NOTE
from lungsound.data.splits import CORPUS_SPLIT, DEVICE_SPLIT, load_corpus
from lungsound.errors import SettingsError
from lungsound.evaluation.predictions import Predictions, read_predictions
from lungsound.evaluation.scores import SCORES_HEAD
from lungsound.evaluation.selection import score_runs
from lungsound.experiments.reproduce import is_finished, reproduce, run_folder
from lungsound.experiments.study import left_out_table
from lungsound.experiments.table import Row
from lungsound.experiments.table import Table as Runs
from lungsound.files import short_names
from lungsound.labels import describe_map
from lungsound.page import Cell, bullets, paragraphs, table, write_page
from lungsound.training.evaluate import data_to_test, evaluate
from lungsound.training.run import RunFolder

PAGE = "cross"


def parse_other(text: str) -> tuple[Path, Path | None]:
    """Another corpus to test on and the label map that reads its words, from DIR or DIR=MAP; DIR may hold a "="."""
    root, equals, label_map = text.rpartition("=")
    return (Path(root), Path(label_map)) if equals and not Path(text).exists() else (Path(text), None)


@dataclass(frozen=True)
class Crossing:
    """A recipe that is trained with several seeds on one or more corpora, in a folder that keeps runs and page."""

    recipe: str
    data: Sequence[Path]
    out: Path
    num_seeds: int
    settings: Sequence[str]
    console: Console

    @property
    def trained_data(self) -> DataSettings:
        return load_config(self.recipe, [*settings_of_corpora(self.data), *self.settings]).data

    def train(self, name: str, title: str, rows: Sequence[Row]) -> tuple[list[str], dict[str, list[RunFolder]]]:
        """Train the rows; the failures, a line each, and the finished runs by the row's folder."""
        failures = reproduce(
            name,
            Runs(title=f"{self.recipe}: {title}", rows=tuple(rows)),
            data=self.data,
            out=self.out,
            num_seeds=self.num_seeds,
            settings=self.settings,
            console=self.console,
        )
        folders = {row.folder: [run_folder(self.out, row.folder, n) for n in range(self.num_seeds)] for row in rows}
        return failures, {row: [RunFolder(run) for run in runs if is_finished(run)] for row, runs in folders.items()}


def leave_each_out(crossing: Crossing, by: Literal["device", "corpus"]) -> list[str]:
    """Train once for each device or corpus without it, test on it, write the page; the failures, a line each.

    Patients who were recorded with the device too leave the training set. The parts of a corpus, of which nothing was
    trained on, have a line each. SettingsError for fewer than two.
    """
    corpus, recipe = load_corpus(crossing.trained_data), crossing.recipe
    devices = {recording.device for recording in corpus.recordings if recording.device is not None}
    names, split = (sorted(devices), DEVICE_SPLIT) if by == "device" else (list(corpus.members), CORPUS_SPLIT)
    if len(names) < 2:
        known = ", ".join(names) or "none"
        raise SettingsError(f"leaving one {by} out needs two or more; in {corpus.root} there is {known}")
    rows = [Row(name=f"without {name}", recipe=recipe, set=(f"data.split={split}{name}",)) for name in names]
    failures, finished = crossing.train(f"{by}s", f"one {by} left out", rows)
    runs = {name: finished[row.folder] for name, row in zip(names, rows, strict=True) if finished[row.folder]}
    if runs:
        predictions: dict[str, list[Predictions]] = {}
        facts: dict[str, list[dict[str, Any]]] = {}
        for name, of in runs.items():
            tested = [read_predictions(run.predictions) for run in of]
            for part in sorted(set(tested[0].parts)):
                line = name if by == "device" else part
                predictions[line] = [each.of_part(part) for each in tested]
                facts[line] = [run.facts().model_dump() for run in of]
        intro = (
            f"Recipe {recipe} on {corpus.name}: trained on the recordings of all other {by}s, tested on those of "
            "the one that was left out. The table says how much was left to train. Scores in percent with 95 % "
            "intervals over patients and seeds."
        )
        page: list[str] = [intro, left_out_table(predictions, facts)]
        shared = [
            f"{name}: {len(patients)} of its patients were also recorded otherwise; these recordings left"
            for name, of_line in facts.items()
            if (patients := of_line[0]["left_out_patients"])
        ]
        if shared:
            page += ["Patients on both sides, taken out of the training set:", bullets(shared)]
        write_page(crossing.out / PAGE, f"{recipe}: one {by} left out", paragraphs(*page))
    return failures


def try_elsewhere(crossing: Crossing, others: Sequence[tuple[Path, Path | None]]) -> list[str]:
    """Train on --data, test there and on each of the others (folder, label map); write the page; the failures.

    Corpora are called by what their paths differ in. SettingsError when one is given twice.
    """
    roots = [*crossing.data, *(root for root, _ in others)]
    every = short_names(roots)
    home, names = " + ".join(every[: len(crossing.data)]), every[len(crossing.data) :]
    for root, name in zip(roots, every, strict=True):
        if every.count(name) > 1:
            raise SettingsError(f"{root} is given twice: name with --on other corpora than that of --data, each once")
    trained_data, row = crossing.trained_data, Row(name=f"trained on {home}", recipe=crossing.recipe)
    failures, finished = crossing.train("trained", "tested on other corpora", [row])
    runs = finished[row.folder]
    if not runs:
        return failures
    tested = [(home, "trained on", trained_data, [read_predictions(run.predictions) for run in runs])]
    for name, (root, label_map) in zip(names, others, strict=True):
        predictions = []
        for run in runs:
            out_dir, console = run.path / f"on-{name}", crossing.console
            report = evaluate(run.path, data_root=root, label_map=label_map, out_dir=out_dir, console=console)
            predictions.append(read_predictions(report.with_name(run.predictions.name)))
        tested.append((name, "tested on", data_to_test(trained_data, root, label_map), predictions))
    rows: list[tuple[Cell, ...]] = []
    losses = []
    for name, role, data, predictions in tested:
        for part in sorted(set(predictions[0].parts)):
            of_part = [each.of_part(part) for each in predictions]
            scores = score_runs(of_part)
            rows.append((name, part, len(of_part[0].keys), len(set(of_part[0].patients)), *scores.in_percent()))
        corpus = load_corpus(data)
        losses += [f"{name} ({role}): {note}" for note in corpus.notes if MAP_NOTE in note]
        lost = "; ".join(describe_map(corpus.vocabulary, trained_data.label_set)) or "nothing is lost"
        read = f"speaks {corpus.vocabulary}, read as {trained_data.label_set}"
        losses.append(f"{name} ({role}; {corpus.name}) {read}: {lost}")
    intro = (
        f"Recipe {crossing.recipe}, trained on {home} only. Scores in percent, 95 % intervals over patients and seeds."
    )
    scored = table(("tested on", "part", "cycles", "patients", *SCORES_HEAD), rows)
    page = paragraphs(intro, scored, Markup("## Labels"), bullets(losses))
    write_page(crossing.out / PAGE, f"{crossing.recipe}: trained on {home}, tested elsewhere", page)
    return failures
