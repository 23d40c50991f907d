"""A trained run on the test part of a corpus: predictions file, evaluation, report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lungsound.build import corpora, training
from lungsound.checkpoint import TrainedModel
from lungsound.config import DataSettings, ModelSettings, RunConfig
from lungsound.data.corpus import Corpus
from lungsound.data.dataset import CycleBatches
from lungsound.data.protocol import rows_to_test
from lungsound.errors import SettingsError
from lungsound.evaluation.calibration.report import calibration_blocks
from lungsound.evaluation.columns import LAST
from lungsound.evaluation.evaluate import evaluate_predictions
from lungsound.evaluation.predictions import Predictions, read_predictions, write_predictions
from lungsound.evaluation.reporting.model_card import write_model_card
from lungsound.evaluation.reporting.report import write_report
from lungsound.model.classifier import predict_probabilities
from lungsound.page import Block, Remark
from lungsound.report_inputs import column_blocks, columns_of, hard_cycles, metric_blocks, protocol_sentence, subgroups
from lungsound.run_folder import RunFolder
from lungsound.training.progress import track
from lungsound.training.trainer import Progress
from lungsound.watch import COLUMN_OF, predictions_of

NUM_NAMED = 10  # patients in a note; SPRSound's intra test alone shares 160
EVALUATION_BATCH_SIZE = 8  # on a CPU larger ones are slower per cycle

SYNTHETIC_NOTE = (
    "Synthetic corpus: these recordings were made by a program. The Score shows that the program learns; "
    "it says nothing about real lungs and is not comparable with any published number."
)


def evaluate(
    run_dir: Path,
    *,
    data_root: Path | None = None,
    out_dir: Path | None = None,
    device: str | None = None,
    console: Console | None = None,
) -> Path:
    """Evaluate a trained run again, or on another corpus; the path of the report.

    Without `data_root` on the test part of the corpus that the run was trained on, into the run's folder; with one on
    every part of that corpus but "train", and `out_dir` is needed. `device` is that of the run by default.
    """
    run = RunFolder(run_dir)
    config = run.config()
    if data_root is not None:
        if out_dir is None:
            raise SettingsError("evaluating on another corpus needs a folder for its report: give --out DIR")
        data = DataSettings(root=str(data_root), label_set=config.data.label_set)
        config = config.model_copy(update={"data": data})
    corpus = corpora.corpus(config.data)
    rows = rows_to_test(corpus, config.data.test_parts)
    console = console or Console()
    return report_on(
        run,
        corpus,
        rows,
        data=config.data,
        progress=run.progress(),
        out_dir=out_dir,
        device=device,
        console=console,
    )


def report_on(
    run: RunFolder,
    corpus: Corpus,
    rows: Sequence[int],
    *,
    data: DataSettings,
    progress: Progress,
    console: Console,
    out_dir: Path | None = None,
    device: str | None = None,
) -> Path:
    """Predict the cycles of `rows` with the run's model in float32, write predictions and report; its path.

    `data` says how the corpus was read, `progress` is that of the finished run.
    """
    config, facts = run.config(), run.facts()
    folder = run.path if out_dir is None else out_dir
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / run.predictions.name
    where = training.device(device or config.train.device)
    trained = run.trained_model()
    write_predictions(path, predict_corpus(trained, corpus, rows, device=where, console=console))
    predictions = read_predictions(path)  # the file is what the report is made from

    shared = _shared_patients(facts, corpus, predictions)
    chosen_epoch = progress.best_epochs.get(COLUMN_OF[config.train.selection], 0)
    is_unchosen = config.train.selection != "last" and chosen_epoch == 0
    context = _context(config, facts, data, corpus, rows, is_chosen=chosen_epoch > 0)
    found: dict[str, Any] = {
        "context": context | {"model hash": trained.sha256},
        "notes": _notes(corpus, facts, shared or [], is_unchosen=is_unchosen),
        "chosen_epoch": chosen_epoch or None,
        "num_shared_patients": None if shared is None else len(shared),
        "subgroups": subgroups(corpus, predictions, shared or ()),
        "columns": _columns(run, progress, config) if out_dir is None else [],
    }
    calibrated: list[Block] = []

    def measure_calibration(staging: Path) -> list[Block]:
        if trained.calibration is not None:
            calibrated.extend(calibration_blocks(trained.calibration, predictions, folder=staging))
            if shared is not None and (heard := set(facts["patients"]["validation"]) & set(predictions.patients)):
                calibrated.append(Remark(f"Validation has {len(heard)} of these patients too: this is optimistic."))
        return calibrated

    evaluation, hardest = evaluate_predictions(predictions), hard_cycles(corpus, predictions, trained.front_end)
    more: dict[str, Any] = {"history": progress.history, "hardest": hardest, "extra_blocks": metric_blocks(predictions)}
    report = write_report(folder, evaluation, **found, **more, calibration=measure_calibration)
    write_model_card(folder, evaluation, **found, calibration=calibrated)
    return report


def _columns(run: RunFolder, progress: Progress, config: RunConfig) -> list[Block]:
    epochs = progress.best_epochs | {LAST: config.train.epochs}
    return column_blocks(columns_of(run.columns(), epochs))


def _shared_patients(facts: Mapping[str, Any], corpus: Corpus, predictions: Predictions) -> list[str] | None:
    """Patients whom the run was trained on among those that were answered for; None when that is not known."""
    trained_on = facts["corpus"]
    is_same = corpus.fingerprint == trained_on["fingerprint"]
    # The same number is the same patient in any part of a real corpus, but not in two synthetic ones.
    if is_same or (corpus.name == trained_on["name"] and not corpus.is_synthetic):
        return sorted(set(facts["patients"]["train"]) & set(predictions.patients))
    return None


def _notes(corpus: Corpus, facts: Mapping[str, Any], shared: Sequence[str], *, is_unchosen: bool) -> list[str]:
    notes = [SYNTHETIC_NOTE] if corpus.is_synthetic else []
    if shared:
        notes.append(f"Patients on both sides of the split: {_named(shared)}.")
    if facts["left_out_patients"]:
        left_out = _named(facts["left_out_patients"])
        notes.append(f"Patients of the test whose cycles in the training part were left out: {left_out}.")
    if is_unchosen:
        notes.append("No epoch had a sensitivity above 5 %: the last epoch was kept.")
    return notes


def _named(patients: Sequence[str]) -> str:
    more = f" and {len(patients) - NUM_NAMED} more" if len(patients) > NUM_NAMED else ""
    return f"{', '.join(patients[:NUM_NAMED])}{more}"


def predict_corpus(
    trained: TrainedModel, corpus: Corpus, rows: Sequence[int], *, device: torch.device, console: Console
) -> Predictions:
    """Probabilities of a trained model for some cycles of a corpus, with what they are keyed by."""
    fbanks = corpora.filter_banks(corpus, trained.front_end, console=console)
    cycles = [corpus.cycles[row] for row in rows]
    labels = corpora.labels(cycles, trained.label_set)
    batches = CycleBatches(fbanks, rows, labels, batch_size=EVALUATION_BATCH_SIZE, mean=trained.mean, std=trained.std)
    with track(console, "evaluation") as on_progress:
        probabilities = predict_probabilities(
            trained.model.to(device),
            (batch.fbank for batch in batches.in_order()),
            device=device,
            on_progress=lambda done: on_progress(done, len(rows)),
        )
    return predictions_of(corpus, rows, labels, probabilities, classes=trained.label_set.classes)


def _context(
    config: RunConfig,
    facts: Mapping[str, Any],
    data: DataSettings,
    corpus: Corpus,
    rows: Sequence[int],
    *,
    is_chosen: bool,
) -> dict[str, str]:
    trained_on = facts["corpus"]
    test = sorted({corpus.split[corpus.cycles[row].recording.name] for row in rows})
    kept = [f"devices {', '.join(data.devices)}"] if data.devices else []
    kept += [f"modes {', '.join(data.modes)}"] if data.modes else []
    pretrained = config.model.pretrained
    return {
        "corpus": "; ".join([f"{corpus.name}, {len(corpus.recordings)} recordings", *kept]),
        "split": f"{data.split}, tested on {', '.join(test)}",
        "trained on": f"{trained_on['name']}, {trained_on['num_recordings']} recordings, split {config.data.split}",
        "pretrained weights": "none, random initialisation" if pretrained == "none" else pretrained,
        "protocol": protocol_sentence(config.data.protocol, facts),
        "epoch selection": config.train.selection if is_chosen else "last",
        "recipe": config.name,
        "objective": config.objective.name,
        "model": _model_name(config.model),
        "labels": config.data.label_set,
        "input": f"{config.audio.duration_s:g} s, {config.audio.num_mels} mels",
        "epochs": str(config.train.epochs),
        "batch size": str(config.train.batch_size),
        "seed": str(config.train.seed),
        "training cycles": str(facts["num_cycles"]["train"]),
        "device and precision": f"{facts['device']}, {facts['precision']}; evaluated in fp32",
        "command": facts["command"],
        "revision": str(facts["revision"]),
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "corpus fingerprint": corpus.fingerprint,
    }


def _model_name(model: ModelSettings) -> str:
    if model.architecture != "ast":
        return model.architecture
    return f"AST {model.size}" + (", average token" if model.pooling == "average_token" else "")
