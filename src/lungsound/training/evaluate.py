"""Evaluate a trained run: predictions, scores, report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from lungsound.audio.front_end import FrontEnd
from lungsound.config import DataSettings, ModelSettings, RunConfig
from lungsound.data.batches import Inputs, open_store
from lungsound.data.corpus import UNKNOWN_LABEL, Corpus
from lungsound.data.reader import read_corpus
from lungsound.data.splits import DEVICE_SPLIT, VALIDATION, load_corpus, rows_to_test
from lungsound.data.store import open_filter_banks
from lungsound.errors import SettingsError
from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.predictions import Predictions, read_predictions, write_predictions
from lungsound.evaluation.report import (
    BEST_ON_OTHER_TEST,
    BEST_ON_TEST,
    HardCycle,
    ReportInputs,
    hardest_rows,
    summary_lines,
    write_report,
)
from lungsound.evaluation.rescore import CycleTable, rescore
from lungsound.evaluation.scores import Subgroups, age_groups, evaluate_predictions, score_subgroups
from lungsound.evaluation.selection import LAST, NONE_CHOSEN, TEST, Columns, read_columns, unwatched_columns
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import find_device, predict_cycles
from lungsound.progress import track
from lungsound.training.callbacks import COLUMN_OF, predictions_of
from lungsound.training.checkpoint import TrainedModel, unfinished
from lungsound.training.run import RunFacts, RunFolder
from lungsound.training.trainer import Progress

SPLIT_NOTE = "split: "  # how the readers' notes on the split begin
NUM_NAMED = 10  # patients in a note; SPRSound's intra test alone shares 160
EVALUATION_BATCH_SIZE = 8  # on a CPU larger ones are slower per cycle

SYNTHETIC_NOTE = (
    "Synthetic corpus: these recordings were made by a program. The Score shows that the program learns; "
    "it says nothing about real lungs and is not comparable with any published number."
)


def evaluate(
    run_dir: str | Path,
    *,
    data_root: str | Path | None = None,
    label_map: Path | None = None,
    out_dir: str | Path | None = None,
    device: str | None = None,
    console: Console | None = None,
) -> Path:
    """Evaluate a trained run again, or on another corpus; the path of the report.

    Without `data_root` on the test set of the corpus that the run was trained on, into the run's folder; with one on
    every part of that corpus but "train" (see `data_to_test`), and `out_dir` is needed. `device` is that of the run by
    default.
    """
    run = RunFolder(Path(run_dir))
    if problem := unfinished(run.path):
        raise SettingsError(problem)
    if data_root is not None and out_dir is None:
        raise SettingsError(
            "evaluating on another corpus needs a folder for its report: give --out DIR, in Python out_dir"
        )
    data = data_to_test(run.config().data, None if data_root is None else Path(data_root), label_map)
    corpus = load_corpus(data)
    rows = rows_to_test(corpus, data.test_parts)
    console = console or Console()
    return report_on(
        run,
        corpus,
        rows,
        data=data,
        progress=run.progress(),
        out_dir=None if out_dir is None else Path(out_dir),
        device=device,
        console=console,
    )


def data_to_test(trained: DataSettings, root: Path | None, label_map: Path | None) -> DataSettings:
    """Settings by which a corpus is read that a run is tested on; `trained` are those of the run's own.

    The run's own (no `root`, or the same folder) as then: devices, modes, split, test parts, label map. Any other
    whole, with its official split, and by the run's label map when it has words that are known to no label set.
    `label_map` goes before the run's.
    """
    own = {} if label_map is None else {"label_map": str(label_map)}
    if root is None or (trained.root is not None and root.resolve() == Path(trained.root).resolve()):
        return trained.model_copy(update=own)
    there = DataSettings(root=str(root), label_set=trained.label_set).model_copy(update=own)
    if label_map is None and trained.label_map is not None:
        unit = LABEL_SETS[trained.label_set].unit
        problems = read_corpus(root, is_strict=False, unit=unit).problems
        if any(problem.kind == UNKNOWN_LABEL for problem in problems):
            return there.model_copy(update={"label_map": trained.label_map})
    return there


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

    `data` says how the corpus was read, `progress` is that of the finished run. The Score and what to know of it are
    printed.
    """
    config = run.config()
    folder = run.path if out_dir is None else out_dir
    path = folder / run.predictions.name
    trained, where = run.trained_model(), find_device(device or config.train.device)
    write_predictions(path, predict_corpus(trained, corpus, rows, device=where, console=console))
    predictions = read_predictions(path)  # the file is what the report is made from
    inputs = report_inputs(
        run, trained, corpus, rows, predictions, data=data, progress=progress, is_own=out_dir is None
    )
    report = write_report(folder, inputs)
    for line in summary_lines(inputs):
        console.print(line, highlight=False, markup=False)
    return report


def report_inputs(
    run: RunFolder,
    trained: TrainedModel,
    corpus: Corpus,
    rows: Sequence[int],
    predictions: Predictions,
    *,
    data: DataSettings,
    progress: Progress,
    is_own: bool,
) -> ReportInputs:
    """Everything that the report is made from; `is_own`: on the run's own test set, so with its three columns."""
    config, facts = run.config(), run.facts()
    are_same = _are_patients_the_same(facts, corpus)
    known = known_patients(facts, predictions) if are_same else KnownPatients()
    chosen_epoch = progress.best_epochs.get(COLUMN_OF[config.train.selection], 0)
    selection = _selection(config, is_chosen=chosen_epoch > 0, is_other_corpus=not are_same)
    context = _context(config, facts, data, corpus, rows, selection)
    table = CycleTable.of(predictions)
    return ReportInputs(
        predictions=predictions,
        evaluation=evaluate_predictions(predictions),
        context=context | {"model hash": trained.sha256},
        notes=_notes(corpus, facts, known, is_unchosen=config.train.selection != "last" and not chosen_epoch),
        history=progress.history,
        chosen_epoch=chosen_epoch or None,
        num_shared_patients=len(known.train) if are_same else None,
        num_validation_patients=len(known.validation),
        columns=columns_of(run, progress, config, facts) if is_own else (),
        subgroups=subgroups(corpus, predictions, known),
        calibration=trained.calibration,
        metrics=[rescore(table.counts([part]), epoch="unknown", bootstrap=Bootstrap()) for part in table.part_names()],
        hardest=hard_cycles(corpus, predictions, trained.front_end),
    )


@dataclass(frozen=True)
class KnownPatients:
    """Patients of the test whom the run has met: who train, and who validate."""

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()

    def group(self, patient: str) -> str:
        if patient in self.train:
            return "known to the training set"
        return "in validation" if patient in self.validation else "new"


def known_patients(facts: RunFacts, predictions: Predictions) -> KnownPatients:
    """The tested patients who trained the run with these facts, and who validated."""
    parts = (sorted(set(facts.patients[part]) & set(predictions.patients)) for part in ("train", VALIDATION))
    return KnownPatients(*map(tuple, parts))


def subgroups(corpus: Corpus, predictions: Predictions, known: KnownPatients) -> tuple[Subgroups, ...]:
    """Scores by place, age group, sex, diagnosis; and by whether the run had met the patient, where it had met any."""
    recording_of = {cycle.key: cycle.recording for cycle in corpus.cycles}
    recordings = [recording_of[key] for key in predictions.keys]
    by_fact: dict[str, Sequence[str]] = {
        "location": [recording.location or "" for recording in recordings],
        "age group": age_groups([recording.age_years for recording in recordings]),
        "sex": [recording.sex or "" for recording in recordings],
        "diagnosis": [recording.diagnosis or "" for recording in recordings],
    }
    if known != KnownPatients():
        by_fact["patient"] = [known.group(patient) for patient in predictions.patients]
    return score_subgroups(predictions, by_fact)


def hard_cycles(corpus: Corpus, predictions: Predictions, front_end: FrontEnd) -> list[HardCycle]:
    """The hardest cycles with their sound, as the front end cuts them, before they are fitted to the input's length."""
    cycle_of = {cycle.key: cycle for cycle in corpus.cycles}
    hardest = []
    for row in hardest_rows(predictions):
        cycle = cycle_of[predictions.keys[row]]
        waveform = front_end.cut(front_end.read(cycle.recording.path), start_s=cycle.start_s, end_s=cycle.end_s)
        hardest.append(
            HardCycle.of_row(predictions, row, waveform=waveform.numpy(), sample_rate_hz=front_end.sample_rate_hz)
        )
    return hardest


def columns_of(run: RunFolder, progress: Progress, config: RunConfig, facts: RunFacts) -> list[Columns]:
    """The three columns of a run, for each part of the test; none of a run that keeps no predictions of its epochs."""
    unwatched = unwatched_columns(
        is_test_watched=config.train.is_test_watched or COLUMN_OF[config.train.selection] == TEST,
        has_validation=facts.num_cycles["validation"] > 0,
    )
    columns, epochs = run.columns(), progress.best_epochs | {LAST: config.train.epochs}
    parts = sorted({part for predictions in columns.values() for part in predictions.parts} - {VALIDATION})
    return [read_columns([columns], [epochs], part=part, unwatched=unwatched) for part in parts]


def _are_patients_the_same(facts: RunFacts, corpus: Corpus) -> bool:
    """True when a patient's name stands for the same person in this corpus and in the one that was trained on."""
    trained_on = facts.corpus
    is_same = corpus.fingerprint == trained_on.fingerprint
    # The same number is the same patient in any part of a real corpus, but not in two synthetic ones.
    return is_same or (corpus.name == trained_on.name and not corpus.is_synthetic)


def _selection(config: RunConfig, *, is_chosen: bool, is_other_corpus: bool) -> str:
    """The way in which the epoch was chosen, a key of `report.EPOCH_SELECTIONS`."""
    selection = config.train.selection if is_chosen else "last"
    return BEST_ON_OTHER_TEST if selection == BEST_ON_TEST and is_other_corpus else selection


def _notes(corpus: Corpus, facts: RunFacts, known: KnownPatients, *, is_unchosen: bool) -> list[str]:
    notes = [SYNTHETIC_NOTE] if corpus.is_synthetic else []
    if known.train:
        notes.append(f"Patients on both sides of the split: {_named(known.train)}.")
    if known.validation:
        notes.append(f"Patients of the test who validate too: {_named(known.validation)}.")
    if facts.left_out_patients:
        left_out = _named(facts.left_out_patients)
        notes.append(f"Patients of the test whose cycles in the training set were left out: {left_out}.")
    if is_unchosen:
        notes.append(f"{NONE_CHOSEN.capitalize()}: the last epoch was kept.")
    return notes


def _named(patients: Sequence[str]) -> str:
    more = f" and {len(patients) - NUM_NAMED} more" if len(patients) > NUM_NAMED else ""
    return f"{', '.join(patients[:NUM_NAMED])}{more}"


def predict_corpus(
    trained: TrainedModel, corpus: Corpus, rows: Sequence[int], *, device: torch.device, console: Console
) -> Predictions:
    """Probabilities of a trained model for some cycles of a corpus, with what they are keyed by."""
    fbanks = open_store(open_filter_banks, "filter banks", corpus, trained.front_end, console=console)
    inputs = Inputs.of(corpus, fbanks, trained.front_end, trained.label_set, mean=trained.mean, std=trained.std)
    with track(console, "evaluation") as on_progress:
        probabilities, _ = predict_cycles(
            trained.model,
            inputs.to_predict(rows, EVALUATION_BATCH_SIZE),
            device=device,
            on_progress=lambda done: on_progress(done, len(rows)),
        )
    labels = inputs.labels[list(rows)].tolist()
    return predictions_of(corpus, rows, labels, probabilities, classes=trained.label_set.classes)


def _context(
    config: RunConfig,
    facts: RunFacts,
    data: DataSettings,
    corpus: Corpus,
    rows: Sequence[int],
    selection: str,
) -> dict[str, str]:
    trained_on = facts.corpus
    test = sorted({corpus.split[corpus.cycles[row].recording.name] for row in rows})
    trained_split = split_words(trained_on.name, trained_on.notes, config.data.split)
    trained_corpus = _named_corpus(trained_on.name, f"{facts.num_cycles['train']} cycles", config.data)
    pretrained = config.model.pretrained
    return {
        "corpus": _named_corpus(corpus.name, f"{len(corpus.recordings)} recordings", data),
        "split": f"{split_words(corpus.name, corpus.notes, data.split)}; tested on {', '.join(test)}",
        "trained on": f"{trained_corpus}; split {trained_split}",
        "pretrained weights": "none, random initialisation" if pretrained == "none" else pretrained,
        "protocol": _protocol_sentence(config.data.protocol, facts),
        "epoch selection": selection,
        "recipe": config.name,
        "objective": config.objective.name,
        "model": _model_name(config.model),
        "labels": config.data.label_set,
        "input": f"{config.audio.duration_s:g} s, {config.audio.num_mels} mels",
        "epochs": str(config.train.epochs),
        "batch size": str(config.train.batch_size),
        "seed": str(config.train.seed),
        "training cycles": str(facts.num_cycles["train"]),
        "device and precision": f"{facts.device}, {facts.precision}; evaluated in fp32",
        "command": facts.command,
        "revision": str(facts.revision),
        "versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
        "corpus fingerprint": corpus.fingerprint,
    }


def _protocol_sentence(name: str, facts: RunFacts) -> str:
    """The division of the run's patients, from the settings' name of the protocol and the run's facts."""
    patients = {part: len(names) for part, names in facts.patients.items()}
    if name == "published":
        return "published: all of the training set trains, no patient is held out"
    left_out = facts.left_out_patients
    shared = f"{len(left_out)} that the test has too left out" if left_out else "none left out"
    return f"strict: {patients['train']} patients train, {patients['validation']} validate, {shared}"


def split_words(corpus_name: str, notes: Sequence[str], setting: str) -> str:
    """The origin of a corpus's parts: as its reader noted, else as its kind has them.

    `setting` is data.split, which says no more than "official" of corpora that have one split only.
    """
    if setting.startswith(DEVICE_SPLIT):
        return f"the device {setting.removeprefix(DEVICE_SPLIT)} against all others"
    noted = [note.removeprefix(SPLIT_NOTE) for note in notes if note.startswith(SPLIT_NOTE)]
    own = {"table": "that of the table", "folders": "that of the folders"}.get(corpus_name, setting)
    return "; ".join(noted) or own


def _named_corpus(name: str, size: str, data: DataSettings) -> str:
    """The corpus, what of it was kept, and what its words were read by."""
    kept = [f"devices {', '.join(data.devices)}"] if data.devices else []
    kept += [f"modes {', '.join(data.modes)}"] if data.modes else []
    words = [f"labels read by {Path(data.label_map).name}"] if data.label_map else []
    return "; ".join([f"{name}, {size}", *kept, *words])


def _model_name(model: ModelSettings) -> str:
    if model.architecture != "ast":
        return model.architecture
    return f"AST {model.size}" + (", average token" if model.pooling == "average_token" else "")
