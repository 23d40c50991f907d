"""Evaluate a trained run: predictions, scores, report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from lungsound.audio.front_end import FrontEnd
from lungsound.config import CorpusSettings, DataSettings, RunConfig
from lungsound.data.batches import Inputs
from lungsound.data.corpus import UNKNOWN_LABEL, Corpus
from lungsound.data.reader import read_corpus
from lungsound.data.shards import sound_file
from lungsound.data.splits import (
    CALIBRATION,
    CORPUS_SPLIT,
    DEVICE_SPLIT,
    VALIDATION,
    corpora_of,
    load_corpus,
    rows_to_test,
)
from lungsound.data.store import open_filter_banks
from lungsound.errors import SettingsError
from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.predictions import HELD_OUT_PARTS, Predictions, read_predictions, write_predictions
from lungsound.evaluation.report import HardCycle, ReportInputs, hardest_rows, summary_lines, write_report
from lungsound.evaluation.rescore import PatientCounts, rescore
from lungsound.evaluation.scores import Subgroups, age_groups, evaluate_predictions, score_subgroups
from lungsound.evaluation.selection import (
    BEST_ON_OTHER_TEST,
    BEST_ON_TEST,
    COLUMN_OF,
    LAST,
    NONE_CHOSEN,
    column_rows,
    unwatched_columns,
)
from lungsound.files import first_names
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import find_device
from lungsound.progress import track
from lungsound.training.callbacks import predict_rows
from lungsound.training.model_file import TrainedModel, load_model, unfinished
from lungsound.training.run import RunFacts, RunFolder

NUM_NAMED = 10  # patients in a note; SPRSound's intra test alone shares 160
KNOWN, VALIDATES = "known to the training set", "in validation"  # patients that the run has met
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

    Without `data_root` on the test set of the run's own corpus, into the run's folder; with one on every part of that
    corpus but "train" (see `data_to_test`), and `out_dir` is needed. `device` is that of the run by default.
    """
    run = RunFolder(Path(run_dir))
    if problem := unfinished(run.path):
        raise SettingsError(problem)
    run.check_model()
    if data_root is not None and out_dir is None:
        raise SettingsError(
            "evaluating on another corpus needs a folder for its report: give --out DIR, in Python out_dir"
        )
    data = data_to_test(run.config().data, None if data_root is None else Path(data_root), label_map)
    corpus, out = load_corpus(data), None if out_dir is None else Path(out_dir)
    rows = rows_to_test(corpus, data.test_parts)
    return report_on(run, corpus, rows, data=data, out_dir=out, device=device, console=console or Console())


def data_to_test(trained: DataSettings, root: Path | None, label_map: Path | None) -> DataSettings:
    """Settings by which a corpus is read that a run is tested on; `trained` are those of the run's own.

    The run's own (no `root`, or the same folder) as then, one of several as that one alone. Any other whole, with its
    official split, and by the run's label map when it has words that are known to no label set.
    """
    own = {} if label_map is None else {"label_map": str(label_map)}
    if root is None:
        return trained.model_copy(update=own)
    for each in corpora_of(trained) if trained.corpora else [trained]:
        if each.root is not None and root.resolve() == Path(each.root).resolve():
            return each.model_copy(update=own)
    there = DataSettings(root=str(root), label_set=trained.label_set).model_copy(update=own)
    if label_map is None and trained.label_map is not None:
        unit = LABEL_SETS[trained.label_set].unit
        problems = read_corpus(root, is_strict=False, unit=unit).problems
        if any(problem.kind == UNKNOWN_LABEL for problem in problems):
            return there.model_copy(update={"label_map": trained.label_map})
    return there


def data_of_model(file: Path, trained: TrainedModel, root: Path | None) -> DataSettings:
    """Settings of a corpus to use a model on: its run's (`data_to_test`), or that in `root`; SettingsError without."""
    if (file.parent / "run.json").is_file():
        return data_to_test(RunFolder(file.parent).config().data, root, None)
    if root is None:
        raise SettingsError(f"{file} alone names no cycles: give a corpus with --data, in Python data_root")
    return DataSettings.model_validate({"root": str(root), "label_set": trained.label_set.name})


def report_on(
    run: RunFolder,
    corpus: Corpus,
    rows: Sequence[int],
    *,
    data: DataSettings,
    console: Console,
    out_dir: Path | None = None,
    device: str | None = None,
) -> Path:
    """Predict the cycles of `rows` with the run's model in float32, write predictions and report; its path.

    `data` says how the corpus was read. The Score and what to know of it are printed. Only in the run's own folder the
    report has the three ways to choose the epoch.
    """
    folder = run.path if out_dir is None else out_dir
    path = folder / run.predictions.name
    trained, where = load_model(run.model), find_device(device or run.config().train.device)
    fbanks = open_filter_banks(corpus, trained.front_end, console=console)
    inputs = Inputs.of(corpus, fbanks, trained.front_end, trained.label_set, mean=trained.mean, std=trained.std)
    with track(console, "evaluation") as on_progress:
        tested = predict_rows(
            trained.model, corpus, inputs, rows, batch_size=EVALUATION_BATCH_SIZE, device=where, on_progress=on_progress
        )
    write_predictions(path, tested if trained.calibration is None else trained.calibration.decided(tested))
    predictions = read_predictions(path)  # the file is what the report is made from
    columns = columns_of(run) if out_dir is None else {}
    reported = report_inputs(run, trained, corpus, predictions, data=data, columns=columns)
    report = write_report(folder, reported)
    for line in summary_lines(reported):
        console.print(line, highlight=False, markup=False)
    return report


def report_inputs(
    run: RunFolder,
    trained: TrainedModel,
    corpus: Corpus,
    predictions: Predictions,
    *,
    data: DataSettings,
    columns: Mapping[str, Sequence[tuple[str, ...]]],
) -> ReportInputs:
    """Everything that the report is made from."""
    config, facts, progress = run.config(), run.facts(), run.progress()
    prefix = facts.corpus.prefix_of(corpus)
    met = {} if prefix is None else known_patients(facts, predictions, prefix=prefix)
    both_sides, validating = (sorted(p for p, group in met.items() if group == each) for each in (KNOWN, VALIDATES))
    selection: str = config.train.selection
    chosen_epoch = progress.best_epochs.get(COLUMN_OF[selection], 0)
    notes = [SYNTHETIC_NOTE] if corpus.is_synthetic else []
    named = {
        "Patients on both sides of the split": both_sides,
        "Patients of the test who validate too": validating,
        "Patients of the test whose cycles in the training set were left out": facts.left_out_patients,
    }
    notes += [f"{what}: {first_names(patients, NUM_NAMED)}." for what, patients in named.items() if patients]
    if trained.calibration is not None and trained.normal_threshold is not None:
        notes.append(f"{trained.calibration.decision}.")
    if selection != "last" and not chosen_epoch:
        notes.append(f"{NONE_CHOSEN.capitalize()}: the last epoch was kept.")
        selection = "last"
    if selection == BEST_ON_TEST and prefix is None:
        selection = BEST_ON_OTHER_TEST
    return ReportInputs(
        predictions=predictions,
        evaluation=evaluate_predictions(predictions),
        context=_context(config, facts, data, corpus, predictions.parts)
        | {"epoch selection": selection, "model hash": trained.sha256},
        notes=notes,
        history=progress.history,
        chosen_epoch=chosen_epoch or None,
        num_shared_patients=None if prefix is None else len(both_sides),
        num_validation_patients=len(validating),
        columns=columns,
        subgroups=subgroups(corpus, predictions, met),
        calibration=trained.calibration,
        metrics=[
            rescore(PatientCounts.of(predictions, [part]), epoch="unknown", bootstrap=Bootstrap())
            for part in dict.fromkeys(predictions.parts)
        ],
        hardest=hard_cycles(corpus, predictions, trained.front_end),
    )


def known_patients(facts: RunFacts, predictions: Predictions, *, prefix: str = "") -> dict[str, str]:
    """`KNOWN` or `VALIDATES` by tested patient whom the run has met; `prefix` begins their names in the run."""
    groups = {VALIDATES: HELD_OUT_PARTS, KNOWN: ("train",)}
    met = {patient: group for group, parts in groups.items() for part in parts for patient in facts.patients[part]}
    tested = sorted(set(predictions.patients))
    return {patient: met[f"{prefix}{patient}"] for patient in tested if f"{prefix}{patient}" in met}


def subgroups(corpus: Corpus, predictions: Predictions, met: Mapping[str, str]) -> tuple[Subgroups, ...]:
    """Scores by place, age group, sex, diagnosis; and by whether the run had met the patient, where it had met any."""
    recording_of = {cycle.key: cycle.recording for cycle in corpus.cycles}
    recordings = [recording_of[key] for key in predictions.keys]
    by_fact: dict[str, Sequence[str]] = {
        "location": [recording.location or "" for recording in recordings],
        "age group": age_groups([recording.age_years for recording in recordings]),
        "sex": [recording.sex or "" for recording in recordings],
        "diagnosis": [recording.diagnosis or "" for recording in recordings],
    }
    if met:
        by_fact["patient"] = [met.get(patient, "new") for patient in predictions.patients]
    return score_subgroups(predictions, by_fact)


def hard_cycles(corpus: Corpus, predictions: Predictions, front_end: FrontEnd) -> list[HardCycle]:
    """The hardest cycles with their sound, as the front end cuts them, before they are fitted to the input's length."""
    cycle_of = {cycle.key: cycle for cycle in corpus.cycles}
    hardest = []
    for row in hardest_rows(predictions):
        cycle = cycle_of[predictions.keys[row]]
        with sound_file(cycle.recording) as path:
            sound = front_end.cut(front_end.read(path), start_s=cycle.start_s, end_s=cycle.end_s)
        waveform, rate_hz = sound.waveform, front_end.sample_rate_hz
        hardest.append(HardCycle.of_row(predictions, row, waveform=waveform, sample_rate_hz=rate_hz))
    return hardest


def columns_of(run: RunFolder) -> dict[str, list[tuple[str, ...]]]:
    """The table of three columns for each part of the test; none of a run that keeps no predictions of its epochs."""
    train = run.config().train
    unwatched = unwatched_columns(
        train.selection, is_test_watched=train.is_test_watched, has_validation=run.facts().num_cycles[VALIDATION] > 0
    )
    columns, epochs = run.columns(), run.progress().best_epochs | {LAST: train.epochs}
    parts = sorted({part for predictions in columns.values() for part in predictions.parts} - set(HELD_OUT_PARTS))
    return {part: column_rows([columns], [epochs], part=part, unwatched=unwatched) for part in parts}


def _context(
    config: RunConfig, facts: RunFacts, data: DataSettings, corpus: Corpus, parts: Sequence[str]
) -> dict[str, str]:
    """Facts of the run by name, in the order of the report."""
    trained_on, num_cycles, model = facts.corpus, facts.num_cycles["train"], config.model
    tested = sorted(set(parts))
    trained_split = split_words(trained_on.name, trained_on.split_origin, config.data.split)
    num_patients = {part: len(names) for part, names in facts.patients.items()}
    left_out = f"{len(facts.left_out_patients)} that the test has too" if facts.left_out_patients else "none"
    calibrating = f"{n} calibrate, " if (n := num_patients[CALIBRATION]) else ""
    held_out = f"{num_patients[VALIDATION]} validate, {calibrating}{left_out} left out"
    strict = f"strict: {num_patients['train']} patients train, {held_out}"
    published = "published: all of the training set trains, no patient is held out"
    share = f"{config.objective.teacher_weight:g} of the cross-entropy"
    distilled = f", {share} by soft labels of {len(facts.teachers)} trained model(s)" if facts.teachers else ""
    size = f"AST {model.size}" + (", average token" if model.pooling == "average_token" else "")
    return {
        "corpus": _named_corpus(corpus.name, f"{len(corpus.recordings)} recordings", data),
        "split": f"{split_words(corpus.name, corpus.split_origin, data.split)}; tested on {', '.join(tested)}",
        "trained on": f"{_named_corpus(trained_on.name, f'{num_cycles} cycles', config.data)}; split {trained_split}",
        "pretrained weights": "none, random initialisation" if model.pretrained == "none" else model.pretrained,
        "protocol": published if config.data.protocol == "published" else strict,
        "epoch selection": config.train.selection,
        "recipe": config.name,
        "objective": f"{config.objective.name}{distilled}",
        "model": size if model.architecture == "ast" else model.architecture,
        "labels": config.data.label_set,
        "input": f"{config.audio.duration_s:g} s, {config.audio.num_mels} mels",
        "epochs": str(config.train.epochs),
        "batch size": str(config.train.batch_size),
        "seed": str(config.train.seed),
        "training cycles": str(num_cycles),
        "device and precision": f"{facts.device}, {facts.precision}; evaluated in fp32",
        "command": facts.command,
        "revision": str(facts.revision),
        "versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
        "corpus fingerprint": corpus.fingerprint,
    }


def split_words(corpus_name: str, origin: str, setting: str) -> str:
    """The origin of a corpus's parts: as data.split or its reader says, else as its kind has them."""
    for prefix, what in ((DEVICE_SPLIT, "device"), (CORPUS_SPLIT, "corpus")):
        if setting.startswith(prefix):
            return f"the {what} {setting.removeprefix(prefix)} against all others"
    return origin or {"table": "that of the table", "folders": "that of the folders"}.get(corpus_name, setting)


def _named_corpus(name: str, size: str, data: DataSettings) -> str:
    """The corpus, what of it was kept, and what its words were read by."""
    facts = [f"{name}, {size}"]
    every: list[DataSettings | CorpusSettings] = [data, *data.corpora]
    for each in every:
        kept = {"devices": each.devices, "modes": each.modes, "parts": each.parts}
        facts += [f"{key} {', '.join(names)}" for key, names in kept.items() if names]
        facts += [f"without {first_names(each.left_out_recordings)}"] if each.left_out_recordings else []
        facts += [f"labels read by {Path(each.label_map).name}"] if each.label_map else []
    return "; ".join(facts)
