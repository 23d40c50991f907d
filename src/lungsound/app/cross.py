"""Train on some, test on others: every device left out in turn, or other corpora."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lungsound.app.left_out import left_out_table
from lungsound.app.reproduce import reproduce
from lungsound.build import corpora
from lungsound.config import RunConfig, load_config
from lungsound.data.corpus import Corpus
from lungsound.errors import SettingsError
from lungsound.evaluation.columns import score_runs
from lungsound.evaluation.predictions import read_predictions
from lungsound.labels import describe_map
from lungsound.page import Block, Bullets, Heading, Paragraph, Table, write_page
from lungsound.run_folder import RunFolder
from lungsound.scoring import evaluate
from lungsound.table import Row
from lungsound.table import Table as Runs

PAGE = "cross"


def leave_devices_out(
    recipe: str, *, data: Path, out: Path, num_seeds: int, settings: Sequence[str], console: Console
) -> list[str]:
    """Train once for each device without it, test on it, write `cross.md` and `cross.html`; the failures, a line each.

    All parts of the split take part. Patients that were also recorded with the device leave the training part, as in
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
    folds = {
        device: [read_predictions(RunFolder(folder).predictions) for folder in found]
        for device, found in folders.items()
        if found
    }
    if folds:
        blocks = [
            Paragraph(
                f"Recipe {recipe} on {corpus.name}: trained on the recordings of all other devices, tested on those of "
                "the one that was left out. Scores in percent with 95 % intervals over patients and seeds."
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
    elsewhere: Sequence[Path],
    out: Path,
    num_seeds: int,
    settings: Sequence[str],
    console: Console,
) -> list[str]:
    """Train on the corpus in `data`, test there and on each corpus of `elsewhere`; write the page; the failures."""
    config = _config(recipe, data, settings)
    row = Row(name=f"trained on {data.name}", recipe=recipe)
    runs = Runs(title=f"{recipe}: tested on other corpora", rows=(row,))
    failures = reproduce("trained", runs, data=data, out=out, num_seeds=num_seeds, settings=settings, console=console)
    folders = _finished(out, row, num_seeds)
    if not folders:
        return failures
    found = {data.name: [folder / "predictions.csv" for folder in folders]}
    losses = _losses(corpora.corpus(config.data), config, "trained on")
    for root in elsewhere:
        reports = [
            evaluate(folder, data_root=root, out_dir=folder / f"on-{root.name}", console=console) for folder in folders
        ]
        found[root.name] = [report.with_name("predictions.csv") for report in reports]
        data_there = config.data.model_copy(update={"root": str(root), "corpus": "auto", "split": "official"})
        losses += _losses(corpora.corpus(data_there), config, "tested on")
    rows: list[tuple[str | int, ...]] = []
    for name, paths in found.items():
        answers = [read_predictions(path) for path in paths]
        for part in sorted(set(answers[0].parts)):
            of_part = [each.of_part(part) for each in answers]
            scores = score_runs(of_part)
            readings = (scores.score, scores.specificity, scores.sensitivity)
            counts = (len(of_part[0].keys), len(set(of_part[0].patients)))
            rows.append((name, part, *counts, *(reading.in_percent() for reading in readings)))
    head = ("tested on", "part", "cycles", "patients", "Score", "Sp", "Se")
    intro = f"Recipe {recipe}, trained on {data.name} only. Scores in percent, 95 % intervals over patients and seeds."
    blocks: list[Block] = [Paragraph(intro), Table(head, rows), Heading("Labels"), Bullets(losses)]
    write_page(out / PAGE, f"{recipe}: trained on {data.name}, tested elsewhere", blocks)
    return failures


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
    return [Paragraph("Patients on both sides, taken out of the training part:"), Bullets(lines)] if lines else []


def _losses(corpus: Corpus, config: RunConfig, role: str) -> list[str]:
    """What reading this corpus's words as the label set loses, in sentences."""
    lost = describe_map(corpus.vocabulary, config.data.label_set)
    read = f"{corpus.name} ({role}) speaks {corpus.vocabulary}, read as {config.data.label_set}"
    return [f"{read}: {'; '.join(lost) if lost else 'nothing is lost'}"]
