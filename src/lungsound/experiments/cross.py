"""Train on some, test on others: every device left out in turn, or other corpora."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lungsound.config import DataSettings, RunConfig, load_config
from lungsound.data import batches as corpora
from lungsound.data.relabel import MAP_NOTE
from lungsound.errors import SettingsError
from lungsound.evaluation.predictions import read_predictions
from lungsound.evaluation.selection import score_runs
from lungsound.experiments.reproduce import reproduce
from lungsound.experiments.results import Fold, TrainedOn, left_out_table
from lungsound.experiments.table import Row
from lungsound.experiments.table import Table as Runs
from lungsound.files import short_names
from lungsound.labels import describe_map
from lungsound.page import Block, Bullets, Heading, Paragraph, Table, write_page
from lungsound.training.evaluate import data_to_test, evaluate
from lungsound.training.run import RunFolder

PAGE = "cross"


@dataclass(frozen=True)
class Elsewhere:
    """Another corpus to test on; `label_map` is a file that reads its words, when it needs one."""

    root: Path
    label_map: Path | None = None

    @classmethod
    def parse(cls, text: str) -> "Elsewhere":
        """From DIR or DIR=MAP; a path that is there as it stands is DIR."""
        root, equals, label_map = text.rpartition("=")
        if not equals or Path(text).exists():
            return cls(Path(text))
        return cls(Path(root), Path(label_map))


def leave_devices_out(
    recipe: str, *, data: Path, out: Path, num_seeds: int, settings: Sequence[str], console: Console
) -> list[str]:
    """Train once for each device without it, test on it, write `cross.md` and `cross.html`; the failures, a line each.

    All parts of the split take part. Patients that were also recorded with the device leave the training set, as in
    any strict run. Runs that are done are skipped. SettingsError when fewer than two devices are named.
    """
    config = _config(recipe, data, settings)
    corpus = corpora.corpus(config.data)
    devices = sorted({recording.device for recording in corpus.recordings if recording.device is not None})
    if len(devices) < 2:
        raise SettingsError(f"{data} names {len(devices)} device(s); leaving one out needs two or more")
    rows = {
        device: Row(name=f"without {device}", recipe=recipe, set=(f"data.split={corpora.DEVICE_SPLIT}{device}",))
        for device in devices
    }
    runs = Runs(title=f"{recipe}: one device left out", rows=tuple(rows.values()))
    failures = reproduce("devices", runs, data=data, out=out, num_seeds=num_seeds, settings=settings, console=console)
    folders = {device: _finished(out, row, num_seeds) for device, row in rows.items()}
    folds = {device: _fold(found) for device, found in folders.items() if found}
    if folds:
        blocks = [
            Paragraph(
                f"Recipe {recipe} on {corpus.name}: trained on the recordings of all other devices, tested on those of "
                "the one that was left out. The table says how much was left to train. Scores in percent with 95 % "
                "intervals over patients and seeds."
            ),
            left_out_table(folds),
            *_left_out_patients(folders),
        ]
        write_page(out / PAGE, f"{recipe}: one device left out", blocks)
    return failures


def try_elsewhere(
    recipe: str,
    *,
    data: Path,
    elsewhere: Sequence[Elsewhere],
    out: Path,
    num_seeds: int,
    settings: Sequence[str],
    console: Console,
) -> list[str]:
    """Train on the corpus in `data`, test there and on each corpus of `elsewhere`; write the page; the failures.

    Corpora are called by what their paths differ in. SettingsError when one is given twice.
    """
    config = _config(recipe, data, settings)
    home, *others = _names([data, *(each.root for each in elsewhere)])
    row = Row(name=f"trained on {home}", recipe=recipe)
    runs = Runs(title=f"{recipe}: tested on other corpora", rows=(row,))
    failures = reproduce("trained", runs, data=data, out=out, num_seeds=num_seeds, settings=settings, console=console)
    folders = _finished(out, row, num_seeds)
    if not folders:
        return failures
    found = {home: [folder / "predictions.csv" for folder in folders]}
    losses = _losses(home, config.data, config.data.label_set, "trained on")
    for name, each in zip(others, elsewhere, strict=True):
        reports = [
            evaluate(
                folder,
                data_root=each.root,
                label_map=each.label_map,
                out_dir=folder / f"on-{name}",
                console=console,
            )
            for folder in folders
        ]
        found[name] = [report.with_name("predictions.csv") for report in reports]
        data_there = data_to_test(config.data, each.root, each.label_map)
        losses += _losses(name, data_there, config.data.label_set, "tested on")
    head = ("tested on", "part", "cycles", "patients", "Score", "Sp", "Se")
    rows = [row for name, paths in found.items() for row in _part_rows(name, paths)]
    intro = f"Recipe {recipe}, trained on {home} only. Scores in percent, 95 % intervals over patients and seeds."
    blocks: list[Block] = [Paragraph(intro), Table(head, rows), Heading("Labels"), Bullets(losses)]
    write_page(out / PAGE, f"{recipe}: trained on {home}, tested elsewhere", blocks)
    return failures


def _names(roots: Sequence[Path]) -> tuple[str, ...]:
    """A name for each corpus, the first the one that is trained on; SettingsError when one is given twice."""
    names = short_names(roots)
    for root, name in zip(roots, names, strict=True):
        if names.count(name) > 1:
            raise SettingsError(f"{root} is given twice: name with --on other corpora than that of --data, each once")
    return names


def _part_rows(name: str, paths: Sequence[Path]) -> list[tuple[str | int, ...]]:
    """Lines of the table for one corpus: each part of it, from the answers of each seed."""
    answers = [read_predictions(path) for path in paths]
    rows: list[tuple[str | int, ...]] = []
    for part in sorted(set(answers[0].parts)):
        of_part = [each.of_part(part) for each in answers]
        scores = score_runs(of_part)
        readings = (scores.score, scores.specificity, scores.sensitivity)
        counts = (len(of_part[0].keys), len(set(of_part[0].patients)))
        rows.append((name, part, *counts, *(reading.in_percent() for reading in readings)))
    return rows


def _config(recipe: str, data: Path, settings: Sequence[str]) -> RunConfig:
    return load_config(recipe, [f"data.root={data.absolute()}", *settings])


def _finished(out: Path, row: Row, num_seeds: int) -> list[Path]:
    folders = [out / "runs" / row.folder / f"seed{seed}" for seed in range(num_seeds)]
    return [folder for folder in folders if (folder / "report.json").is_file()]


def _left_out_patients(folders: dict[str, list[Path]]) -> list[Block]:
    lines = []
    for device, found in folders.items():
        patients = RunFolder(found[0]).facts()["left_out_patients"] if found else []
        if patients:
            lines.append(
                f"{device}: {len(patients)} of its patients were also recorded otherwise; these recordings left"
            )
    return [Paragraph("Patients on both sides, taken out of the training set:"), Bullets(lines)] if lines else []


def _fold(folders: Sequence[Path]) -> Fold:
    """The runs of one device that was left out, one for each seed."""
    facts = [RunFolder(folder).facts() for folder in folders]
    trained_on = [TrainedOn(each["num_cycles"]["train"], len(each["patients"]["train"])) for each in facts]
    return Fold([read_predictions(RunFolder(folder).predictions) for folder in folders], trained_on)


def _losses(name: str, data: DataSettings, label_set: str, role: str) -> list[str]:
    """What reading this corpus's words as the label set loses, in sentences."""
    corpus = corpora.corpus(data)
    own = [note for note in corpus.notes if note.startswith(MAP_NOTE)]
    lost = describe_map(corpus.vocabulary, label_set)
    read = f"{name} ({role}; {corpus.name}) speaks {corpus.vocabulary}, read as {label_set}"
    return [f"{name} ({role}): {note}" for note in own] + [f"{read}: {'; '.join(lost) or 'nothing is lost'}"]
