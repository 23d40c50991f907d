"""Train on some, test on others: every device left out in turn, or other corpora."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lungsound.config import DataSettings, load_config
from lungsound.data.corpus import MAP_NOTE
from lungsound.data.splits import DEVICE_SPLIT, load_corpus
from lungsound.errors import SettingsError
from lungsound.evaluation.predictions import Predictions, read_predictions
from lungsound.evaluation.selection import score_runs
from lungsound.experiments.reproduce import is_finished, reproduce, run_folder
from lungsound.experiments.study import left_out_table
from lungsound.experiments.table import Row
from lungsound.experiments.table import Table as Runs
from lungsound.files import short_names
from lungsound.labels import describe_map
from lungsound.page import Block, Bullets, Cell, Heading, Paragraph, Table, write_page
from lungsound.training.evaluate import data_to_test, evaluate
from lungsound.training.run import RunFolder

PAGE = "cross"


@dataclass(frozen=True)
class OtherCorpus:
    """Another corpus to test on; `label_map` is a file that reads its words, when it needs one."""

    root: Path
    label_map: Path | None = None

    @classmethod
    def parse(cls, text: str) -> "OtherCorpus":
        """From DIR or DIR=MAP; a path that is there as it stands is DIR."""
        root, equals, label_map = text.rpartition("=")
        if not equals or Path(text).exists():
            return cls(Path(text))
        return cls(Path(root), Path(label_map))


@dataclass(frozen=True)
class Crossing:
    """A recipe that is trained with several seeds on one corpus, in a folder that keeps runs and page."""

    recipe: str
    data: Path
    out: Path
    num_seeds: int
    settings: Sequence[str]
    console: Console

    @property
    def trained_data(self) -> DataSettings:
        """Settings by which the corpus is read."""
        return load_config(self.recipe, [f"data.root={self.data.absolute()}", *self.settings]).data

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


def leave_devices_out(crossing: Crossing) -> list[str]:
    """Train once for each device without it, test on it, write `cross.md` and `cross.html`; the failures, a line each.

    All parts of the split take part. Patients that were also recorded with the device leave the training set, as in
    any strict run. Runs that are done are skipped. SettingsError when fewer than two devices are named.
    """
    corpus, recipe = load_corpus(crossing.trained_data), crossing.recipe
    devices = sorted({recording.device for recording in corpus.recordings if recording.device is not None})
    if len(devices) < 2:
        raise SettingsError(f"{crossing.data} names {len(devices)} device(s); leaving one out needs two or more")
    rows = [
        Row(name=f"without {device}", recipe=recipe, set=(f"data.split={DEVICE_SPLIT}{device}",)) for device in devices
    ]
    failures, finished = crossing.train("devices", "one device left out", rows)
    runs = {device: finished[row.folder] for device, row in zip(devices, rows, strict=True) if finished[row.folder]}
    if runs:
        predictions = {device: [read_predictions(run.predictions) for run in of] for device, of in runs.items()}
        facts = {device: [run.facts().model_dump() for run in of] for device, of in runs.items()}
        shared = [
            f"{device}: {len(patients)} of its patients were also recorded otherwise; these recordings left"
            for device, of in facts.items()
            if (patients := of[0]["left_out_patients"])
        ]
        blocks: list[Block] = [
            Paragraph(
                f"Recipe {recipe} on {corpus.name}: trained on the recordings of all other devices, tested on those of "
                "the one that was left out. The table says how much was left to train. Scores in percent with 95 % "
                "intervals over patients and seeds."
            ),
            left_out_table(predictions, facts),
        ]
        if shared:
            blocks += [Paragraph("Patients on both sides, taken out of the training set:"), Bullets(shared)]
        write_page(crossing.out / PAGE, f"{recipe}: one device left out", blocks)
    return failures


def try_elsewhere(crossing: Crossing, others: Sequence[OtherCorpus]) -> list[str]:
    """Train on one corpus, test there and on each of the others; write the page; the failures, a line each.

    Corpora are called by what their paths differ in. SettingsError when one is given twice.
    """
    roots = [crossing.data, *(other.root for other in others)]
    home, *names = short_names(roots)
    for root, name in zip(roots, (home, *names), strict=True):
        if (home, *names).count(name) > 1:
            raise SettingsError(f"{root} is given twice: name with --on other corpora than that of --data, each once")
    trained_data, row = crossing.trained_data, Row(name=f"trained on {home}", recipe=crossing.recipe)
    failures, finished = crossing.train("trained", "tested on other corpora", [row])
    runs = finished[row.folder]
    if not runs:
        return failures
    rows = _part_rows(home, [read_predictions(run.predictions) for run in runs])
    losses = _losses(home, trained_data, trained_data.label_set, "trained on")
    for name, other in zip(names, others, strict=True):
        predictions = []
        for run in runs:
            report = evaluate(
                run.path,
                data_root=other.root,
                label_map=other.label_map,
                out_dir=run.path / f"on-{name}",
                console=crossing.console,
            )
            predictions.append(read_predictions(report.with_name(run.predictions.name)))
        rows += _part_rows(name, predictions)
        data = data_to_test(trained_data, other.root, other.label_map)
        losses += _losses(name, data, trained_data.label_set, "tested on")
    head = ("tested on", "part", "cycles", "patients", "Score", "Sp", "Se")
    intro = (
        f"Recipe {crossing.recipe}, trained on {home} only. Scores in percent, 95 % intervals over patients and seeds."
    )
    blocks: list[Block] = [Paragraph(intro), Table(head, rows), Heading("Labels"), Bullets(losses)]
    write_page(crossing.out / PAGE, f"{crossing.recipe}: trained on {home}, tested elsewhere", blocks)
    return failures


def _part_rows(name: str, runs: Sequence[Predictions]) -> list[tuple[Cell, ...]]:
    """Lines of the table for one corpus: each part of it, from the predictions of each seed."""
    rows: list[tuple[Cell, ...]] = []
    for part in sorted(set(runs[0].parts)):
        of_part = [run.of_part(part) for run in runs]
        scores = score_runs(of_part)
        values = (value.in_percent() for value in (scores.score, scores.specificity, scores.sensitivity))
        rows.append((name, part, len(of_part[0].keys), len(set(of_part[0].patients)), *values))
    return rows


def _losses(name: str, data: DataSettings, label_set: str, role: str) -> list[str]:
    """Losses of reading this corpus's words as the label set, in sentences."""
    corpus = load_corpus(data)
    own = [note for note in corpus.notes if note.startswith(MAP_NOTE)]
    lost = describe_map(corpus.vocabulary, label_set)
    read = f"{name} ({role}; {corpus.name}) speaks {corpus.vocabulary}, read as {label_set}"
    return [f"{name} ({role}): {note}" for note in own] + [f"{read}: {'; '.join(lost) or 'nothing is lost'}"]
