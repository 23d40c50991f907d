"""The report of one run: report.md, report.html, report.json, pictures and MODEL_CARD.md, from one typed value.

It ends with the cycles that the model got most wrong, to look at and to listen to. The sections of the model card
follow Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019).
"""

import dataclasses
import io
import math
import shutil
import wave
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lungsound.evaluation.bootstrap import FEW_PATIENTS, Estimate
from lungsound.evaluation.calibration import Calibration
from lungsound.evaluation.calibration_report import calibration_blocks
from lungsound.evaluation.figures import (
    HistoryRow,
    ScoreLine,
    draw_confusion,
    draw_curves,
    draw_score_intervals,
    picture,
)
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.rescore import Rescored, metric_table_blocks
from lungsound.evaluation.scores import FEW_IS_ROUGH, Evaluation, GroupScores, ScoreEstimates, Subgroups
from lungsound.evaluation.selection import COLUMN_HEAD, RULE, Columns, column_rows
from lungsound.files import write_json, write_text
from lungsound.page import (
    DISCLAIMER,
    Block,
    Bullets,
    Cell,
    Facts,
    Heading,
    Paragraph,
    Picture,
    Remark,
    Sound,
    Table,
    render_html,
    render_markdown,
)

NUM_CYCLES = 10
MAX_PER_RECORDING = 2
# Of a page that holds ten of them a sound may take 0.1 MB or so. What is heard in lungs lies below 2 kHz.
SOUND_RATE_HZ = 8000
MAX_SOUND_S = 6.0
PEAK = 0.9
WINDOW_S, HOP_S = 0.040, 0.010
LOWEST_HZ, HIGHEST_HZ = 100.0, 2000.0  # heart and handling are louder below
RANGE_DB = 60.0

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class HardCycle:
    """One cycle with its sound: `waveform` (samples,), full scale 1; probabilities by class name."""

    key: str
    label: str
    predicted: str
    probabilities: Mapping[str, float]
    waveform: Waveform
    sample_rate_hz: int

    @classmethod
    def of_row(cls, predictions: Predictions, row: int, *, waveform: Waveform, sample_rate_hz: int) -> "HardCycle":
        """A row of the predictions with the sound of its cycle."""
        classes = predictions.classes
        return cls(
            key=predictions.keys[row],
            label=classes[int(predictions.labels[row])],
            predicted=classes[int(predictions.predicted[row])],
            probabilities=dict(zip(classes, predictions.probabilities[row].tolist(), strict=True)),
            waveform=waveform,
            sample_rate_hz=sample_rate_hz,
        )

    @property
    def shown_s(self) -> float:
        """Seconds of it that are drawn and heard: its beginning, `MAX_SOUND_S` at most."""
        return min(MAX_SOUND_S, len(self.waveform) / self.sample_rate_hz)


def hardest_rows(
    predictions: Predictions, *, num_cycles: int = NUM_CYCLES, max_per_recording: int = MAX_PER_RECORDING
) -> tuple[int, ...]:
    """Rows whose true class was given the least probability, least first, rows that are equal in their order.

    At most `num_cycles` of them, and at most `max_per_recording` of one recording, since one bad recording would
    fill the list.
    """
    of_truth = predictions.probabilities[np.arange(len(predictions.keys)), predictions.labels]
    taken: Counter[str] = Counter()
    rows: list[int] = []
    for row in np.argsort(of_truth, kind="stable").tolist():
        recording = predictions.keys[row].rpartition("#")[0]
        if len(rows) < num_cycles and taken[recording] < max_per_recording:
            taken[recording] += 1
            rows.append(row)
    return tuple(rows)


def spectrogram(waveform: Waveform, sample_rate_hz: int) -> tuple[npt.NDArray[np.float64], float]:
    """Level in dB below the loudest bin from 100 Hz up `(frequency, time)`, -60 to 0, and the highest frequency in Hz.

    Hann windows of 40 ms centred every 10 ms from the first sample on, zeros beyond the ends, up to 2 kHz. What is
    louder below 100 Hz (the heart) is 0 dB too; silence is -60 all over.
    """
    size, hop = (max(1, round(seconds * sample_rate_hz)) for seconds in (WINDOW_S, HOP_S))
    padded = np.pad(np.asarray(waveform, dtype=np.float64), size // 2)
    padded = np.pad(padded, (0, max(0, size - len(padded))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    lowest, highest = (min(power.shape[1] - 1, int(hz * size / sample_rate_hz)) for hz in (LOWEST_HZ, HIGHEST_HZ))
    shown = power[:, : highest + 1].T
    loudest = shown[lowest:].max()
    relative = shown / loudest if loudest > 0 else np.zeros_like(shown)
    levels = 10.0 * np.log10(np.clip(relative, 10.0 ** (-RANGE_DB / 10.0), 1.0))
    return levels, highest * sample_rate_hz / size


def draw_spectrogram(cycle: HardCycle, path: Path) -> None:
    """Draw a cycle as PNG: its waveform, and below it its spectrogram, time to the right and frequency up."""
    samples = cycle.waveform[: round(cycle.shown_s * cycle.sample_rate_hz)]
    levels, highest_hz = spectrogram(samples, cycle.sample_rate_hz)
    with picture(path, width_inch=7.2, height_inch=3.0) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3])
        above.plot(np.arange(len(samples)) / cycle.sample_rate_hz, samples, color="#595959", linewidth=0.5)
        above.set_yticks([])
        above.spines["left"].set_visible(False)
        image = below.imshow(
            levels,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            cmap="magma",
            vmin=-RANGE_DB,
            vmax=0.0,
            extent=(-HOP_S / 2, (levels.shape[1] - 0.5) * HOP_S, 0.0, highest_hz / 1000.0),
        )
        below.set_xlim(0.0, cycle.shown_s)
        below.set_xlabel("seconds")
        below.set_ylabel("kHz")
        figure.colorbar(image, ax=below, label="dB", pad=0.01)


def wav_bytes(cycle: HardCycle) -> bytes:
    """The sound of a cycle as a WAV file: 16-bit PCM, one channel, at most 8 kHz, its peak at 0.9 of full scale."""
    import torch

    from lungsound.audio.io import resample

    rate_hz = min(cycle.sample_rate_hz, SOUND_RATE_HZ)
    shown = np.array(cycle.waveform[: round(cycle.shown_s * cycle.sample_rate_hz)], dtype=np.float32)
    samples = resample(torch.from_numpy(shown), cycle.sample_rate_hz, rate_hz).numpy()
    peak = float(np.abs(samples).max(initial=0.0))
    scaled = np.round(samples * (PEAK * 32767.0 / peak)) if peak > 0 else np.zeros_like(samples)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(scaled.astype("<i2").tobytes())
    return buffer.getvalue()


FORMAT = "lungsound report 2"
REPORT, MODEL_CARD = "report.md", "MODEL_CARD.md"
# Pictures that not every report has: an older one goes when the new report is without.
OPTIONAL_PICTURES = ("curves.png", "subgroups.png")

# Facts of `context` that also stand on the first screen of a report.
CORPUS, SPLIT, TRAINED_ON, PROTOCOL, WEIGHTS, EPOCH_SELECTION = (
    "corpus",
    "split",
    "trained on",
    "protocol",
    "pretrained weights",
    "epoch selection",
)
BEST_ON_TEST, BEST_ON_OTHER_TEST = "best_on_test", "best_on_other_test"
EPOCH_SELECTIONS = {
    "last": "the last one; no score chose it",
    "validation": "chosen by the Score on patients held out of the training set",
    BEST_ON_TEST: "chosen by the Score on the test split itself",
    BEST_ON_OTHER_TEST: "chosen by the Score on the test split of the corpus that it was trained on",
}
DEVICE, PART = "device", "part"
# The section of the model card that a fact of `context` stands in; all others are about training.
MODEL_FACTS = ("model", "pretrained weights", "labels", "input")
EVALUATION_FACTS = ("corpus", "split")
VERSION_FACTS = ("device and precision", "command", "revision", "versions", "corpus fingerprint", "model hash")
UNCALIBRATED = "Not measured. A probability orders the classes; it is not how often they are right."


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportInputs:
    """Everything that a run's report is made from.

    `context` holds what was run, in order; its entries "corpus", "split", "trained on", "protocol", "pretrained
    weights" and "epoch selection" (a key of `EPOCH_SELECTIONS`) also stand at the top. `notes` are printed above the
    tables. `history` has one row per epoch (see `figures.draw_curves`). `num_shared_patients` is how many of the
    evaluated patients also train, None when that is not known, `num_validation_patients` how many also validate.
    `columns` are the three ways to choose the epoch and `metrics` every metric in use, for each part of the test;
    `subgroups` are scores by further facts (device and part come from the evaluation, unless they are given here).
    """

    predictions: Predictions
    evaluation: Evaluation
    context: Mapping[str, str]
    notes: Sequence[str] = ()
    history: Sequence[HistoryRow] = ()
    chosen_epoch: int | None = None
    num_shared_patients: int | None = None
    num_validation_patients: int = 0
    columns: Sequence[Columns] = ()
    subgroups: Sequence[Subgroups] = ()
    calibration: Calibration | None = None
    metrics: Sequence[Rescored] = ()
    hardest: Sequence[HardCycle] = ()

    @property
    def warnings(self) -> list[str]:
        """Reasons to take the Score with care, one sentence or two each."""
        warnings = []
        if self.context.get(EPOCH_SELECTION) == BEST_ON_TEST:
            warnings.append(
                "Warning: the epoch was chosen by its Score on this same test split. The Score may be too high, by an "
                "unknown amount; compare it only with scores chosen the same way."
            )
        counts = {"in the training set": self.num_shared_patients, "in validation": self.num_validation_patients}
        for where, number in counts.items():
            if number:
                have = "has" if number == 1 else "have"
                warnings.append(f"Warning: {number} of the patients also {have} recordings {where}.")
        if self.evaluation.num_patients < FEW_PATIENTS:
            warnings.append(f"Warning: few patients ({self.evaluation.num_patients}). {FEW_IS_ROUGH}")
        interval = self.evaluation.all_classes.score.interval
        if interval.low == interval.high:
            warnings.append("Warning: every resample gave the same Score. An interval of no width is not certainty.")
        if interval.problem is None and interval.num_undefined:
            warnings.append(
                f"In {interval.num_undefined} of {interval.num_draws} resamples of the patients the Score had no value "
                "(no normal or no abnormal cycle was drawn); the interval is over the others."
            )
        return warnings

    @property
    def all_subgroups(self) -> list[Subgroups]:
        """Groups by device, by part of the split when there are several, and by what else is given, each fact once."""
        of_evaluation = [Subgroups(DEVICE, self.evaluation.by_device)]
        if len(self.evaluation.by_part) > 1:
            of_evaluation.insert(0, Subgroups(PART, self.evaluation.by_part))
        given = {groups.fact for groups in self.subgroups}
        return [*(groups for groups in of_evaluation if groups.fact not in given), *self.subgroups]

    @property
    def epoch_sentence(self) -> str:
        """The way in which the epoch was chosen, in words."""
        selection = self.context.get(EPOCH_SELECTION, "not stated")
        return EPOCH_SELECTIONS.get(selection, selection)

    def facts(self, names: Sequence[str]) -> dict[str, str]:
        """These facts of the context, "not stated" where it lacks one."""
        return {name: self.context.get(name, "not stated") for name in names}


def write_report(folder: Path, inputs: ReportInputs) -> Path:
    """Write report and model card into `folder`; return the path of `report.md`.

    The hardest cycles are drawn and heard in the HTML page and listed in the Markdown. All is written beside and then
    moved into place: an error leaves an older report as it was.
    """
    evaluation, groups, hardest = inputs.evaluation, inputs.all_subgroups, inputs.hardest
    with _moved_into(folder) as staging:
        calibration = _calibration_blocks(inputs, staging)
        blocks = [
            *score_sentences(inputs),
            *map(Remark, inputs.warnings),
            *(Remark(note, is_warning=False) for note in inputs.notes),
            *_score_blocks(inputs, staging),
            *_group_blocks(groups, staging),
            *calibration,
            *_metric_blocks(inputs.metrics),
        ]
        listed, sounds = (_hardest_blocks(hardest), _sounds(hardest, staging)) if hardest else ([], [])
        last = [*_training_blocks(inputs, staging), Heading("What was run"), Facts(inputs.context)]
        last += _reading_blocks(evaluation)
        title = f"Score {percent(evaluation.all_classes.score.value)}"
        write_text(staging / REPORT, render_markdown(title, [*blocks, *listed, *last]))
        write_text(staging / "report.html", render_html(title, [*blocks, *listed, *sounds, *last]))
        card = f"Model card: {inputs.context.get('recipe', 'lungsound model')}"
        write_text(staging / MODEL_CARD, render_markdown(card, _card_blocks(inputs, calibration)))
        write_json(staging / "report.json", _numbers(inputs))
    return folder / REPORT


def summary_lines(inputs: ReportInputs) -> list[str]:
    """The Score, that of each part when there are several, warnings and notes, for a terminal."""
    scores = [f"{sentence.lead}{sentence.text}" for sentence in score_sentences(inputs)]
    return [*scores, *inputs.warnings, *inputs.notes]


def score_sentences(inputs: ReportInputs) -> list[Paragraph]:
    """The Score, and that of each part of the split when there are several."""
    evaluation = inputs.evaluation
    score = evaluation.all_classes.score
    patients = "held-out patients" if inputs.num_shared_patients == 0 == inputs.num_validation_patients else "patients"
    all_parts = Paragraph(
        f" on {evaluation.num_cycles} cycles of {evaluation.num_patients} {patients}, in percent. Always predicting "
        f"normal scores {percent(evaluation.always_normal_score)}.",
        lead=f"Score {percent(score.value)}{_interval_phrase(score)}",
    )
    parts = evaluation.by_part if len(evaluation.by_part) > 1 else ()
    return [all_parts, *(_part_sentence(part) for part in parts)]


def _part_sentence(part: GroupScores) -> Paragraph:
    score = part.scores.score
    patients = "1 patient" if part.num_patients == 1 else f"{part.num_patients} patients"
    return Paragraph(
        f" on {part.num_cycles} cycles of {patients}.",
        lead=f"{part.name or 'unknown part'}: Score {percent(score.value)}{_interval_phrase(score)}",
    )


def _score_blocks(inputs: ReportInputs, staging: Path) -> list[Block]:
    evaluation, context = inputs.evaluation, inputs.context
    intervals, confusion = staging / "intervals.png", staging / "confusion.png"
    draw_score_intervals(_score_lines(evaluation), intervals)
    draw_confusion(evaluation.confusion, evaluation.classes, confusion)
    data = [lead + context[name] for name, lead in ((CORPUS, ""), (SPLIT, "split ")) if name in context]
    trained_on = [context[name] for name in (TRAINED_ON, PROTOCOL) if name in context]
    first_facts = [
        f"Data: {'; '.join(data) or 'not stated'}",
        f"Trained on: {'; '.join(trained_on) or 'not stated'}",
        f"Weights: {context.get(WEIGHTS, 'not stated')}",
        f"Epoch: {inputs.epoch_sentence}",
        f"Use: {DISCLAIMER[0].lower()}{DISCLAIMER[1:]}",
    ]
    return [
        Bullets(first_facts),
        _score_table(evaluation),
        *_column_blocks(inputs.columns),
        Picture(intervals, "Scores with intervals"),
        Heading("By class"),
        *_class_blocks(evaluation),
        Picture(confusion, "Confusion matrix"),
    ]


def _score_table(evaluation: Evaluation) -> Table:
    readings = [(f"{len(evaluation.classes)} classes", evaluation.all_classes)]
    if evaluation.two_class is not None:
        readings.append(("normal or not", evaluation.two_class))
    return Table(["reading", "Score", "Sp", "Se"], [(name, *_cells(reading)) for name, reading in readings])


def _column_blocks(columns: Sequence[Columns]) -> list[Block]:
    """The columns as tables, with the difference that the choice on the test makes."""
    if not columns:
        return []
    blocks: list[Block] = [
        Heading("Three ways to choose the epoch"),
        Paragraph(
            "One training, its predictions at each chosen epoch. The last column is the Score of the epoch that was "
            "chosen on the test minus that of the line, in points, paired over the same patients."
        ),
    ]
    for each in columns:
        if len(columns) > 1:
            blocks.append(Heading(each.part, level=3))
        blocks.append(Table(COLUMN_HEAD, column_rows(each)))
    return [*blocks, Paragraph(RULE)]


def _class_blocks(evaluation: Evaluation) -> list[Block]:
    """The table of classes, and the two figures that are over all of them."""
    head = ["class", "cycles", "patients", "predicted", "recall", "precision", "F1"]
    rows: list[tuple[Cell, ...]] = []
    for each in evaluation.per_class:
        shares = [share.in_percent() for share in (each.recall, each.precision, each.f1)]
        rows.append((each.name, each.num_cycles, each.num_patients, each.num_answered, *shares))
    over_all = f"Accuracy {evaluation.accuracy.in_percent()}, macro F1 {evaluation.macro_f1.in_percent()}."
    return [Table(head, rows), Paragraph(over_all)]


def _group_blocks(groups: Sequence[Subgroups], staging: Path) -> list[Block]:
    blocks: list[Block] = [Heading("By group")]
    lines = [
        ScoreLine(
            f"{of_fact.fact}: {group.name}" if group.name else of_fact.name(group),
            group.scores.score,
            group.num_cycles,
            is_small=index in of_fact.small,
        )
        for of_fact in groups
        if len(of_fact.groups) > 1
        for index, group in enumerate(of_fact.groups)
    ]
    if lines:
        draw_score_intervals(lines, staging / "subgroups.png", what="Score")
        blocks.append(Picture(staging / "subgroups.png", "Scores of groups with intervals"))
    return [*blocks, *_subgroup_tables(groups)]


def _subgroup_tables(groups: Sequence[Subgroups]) -> list[Block]:
    """One table for each fact; groups of few patients are greyed, and named below."""
    blocks: list[Block] = []
    for of_fact in groups:
        rows = [(of_fact.name(g), g.num_cycles, g.num_patients, *_cells(g.scores)) for g in of_fact.groups]
        title = "part of the split" if of_fact.fact == PART else of_fact.fact
        blocks += [
            Heading(f"By {title}", level=3),
            Table([of_fact.fact, "cycles", "patients", "Score", "Sp", "Se"], rows, greyed=of_fact.small),
            *([Paragraph(of_fact.warning)] if of_fact.warning else []),
        ]
    return blocks


def _calibration_blocks(inputs: ReportInputs, staging: Path) -> list[Block]:
    if inputs.calibration is None:
        return []
    blocks = calibration_blocks(inputs.calibration, inputs.predictions, folder=staging)
    if num := inputs.num_validation_patients:
        blocks.append(Remark(f"Validation has {num} of these patients too: this is optimistic."))
    return blocks


def _metric_blocks(metrics: Sequence[Rescored]) -> list[Block]:
    """Every metric in use for each part of the test, and which published column it may stand beside."""
    blocks: list[Block] = [Heading("Every metric in use")] if metrics else []
    for result in metrics:
        blocks += [Heading(result.part or "unknown part", level=3)] if len(metrics) > 1 else []
        blocks += metric_table_blocks(result)
    return blocks


def _hardest_blocks(hardest: Sequence[HardCycle]) -> list[Block]:
    rows = [
        (c.key, c.label, c.predicted, percent(c.probabilities[c.label]), percent(c.probabilities[c.predicted]))
        for c in hardest
    ]
    return [
        Heading("Hardest cycles"),
        Paragraph(
            "The cycles whose true class was given the least probability, with those probabilities in percent; only a "
            "few of each recording are taken. The HTML page draws them and lets them be heard: up to "
            f"{MAX_SOUND_S:g} s each, made equally loud."
        ),
        Table(["cycle", "true class", "predicted class", "true, %", "predicted, %"], rows),
    ]


def _sounds(hardest: Sequence[HardCycle], staging: Path) -> list[Block]:
    """Spectrogram and sound of each; in a folder of their own, since only the HTML page has them."""
    folder = staging / "hardest"
    folder.mkdir()
    blocks: list[Block] = []
    for number, cycle in enumerate(hardest, 1):
        path = folder / f"{number}.png"
        draw_spectrogram(cycle, path)
        title = f"{cycle.key}: {cycle.label}, predicted {cycle.predicted}"
        blocks += [
            Heading(f"{number}. {title}", level=3),
            Picture(path, f"Waveform and spectrogram of {title}"),
            Sound(wav_bytes(cycle), f"{cycle.shown_s:.1f} s of {cycle.key}"),
        ]
    return blocks


def _training_blocks(inputs: ReportInputs, staging: Path) -> list[Block]:
    if not inputs.history:
        return []
    path = staging / "curves.png"
    is_chosen_on_test = inputs.context.get(EPOCH_SELECTION) in (BEST_ON_TEST, BEST_ON_OTHER_TEST)
    draw_curves(inputs.history, path, chosen_epoch=inputs.chosen_epoch, is_chosen_on_test=is_chosen_on_test)
    return [Heading("Training"), Picture(path, "Training curves")]


def _reading_blocks(evaluation: Evaluation) -> list[Block]:
    interval = evaluation.all_classes.score.interval
    return [
        Heading("How to read this"),
        Bullets(
            [
                "Specificity (Sp): normal cycles predicted normal. Sensitivity (Se): abnormal cycles predicted as "
                "exactly their class. Score: the mean of the two. Normal or not: any abnormal prediction fits an "
                "abnormal cycle.",
                f"Intervals: {100 * interval.level:g} % bootstrap, {interval.num_draws} resamples of whole patients "
                f"(seed {evaluation.interval_seed}), since cycles of one patient resemble each other. They do not "
                "cover the chance of training: another seed gives another model.",
                f"Grey rows: fewer than {FEW_PATIENTS} patients. A difference between two groups is no finding by "
                "itself: stethoscope, place, age and diagnosis go together.",
                "n/a: there is nothing to divide by, or too few patients for an interval.",
                "All numbers as fractions, with these settings, are in report.json.",
            ]
        ),
    ]


def _score_lines(evaluation: Evaluation) -> list[ScoreLine]:
    """Lines of the picture of intervals."""
    scores, num_cycles = evaluation.all_classes, evaluation.num_cycles
    lines = [
        ScoreLine("Score", scores.score, num_cycles, is_headline=True),
        ScoreLine("Specificity", scores.specificity, int(evaluation.confusion[0].sum())),
        ScoreLine("Sensitivity", scores.sensitivity, int(evaluation.confusion[1:].sum())),
    ]
    if evaluation.two_class is not None:
        lines.append(ScoreLine("Score, normal or not", evaluation.two_class.score, num_cycles))
    if len(evaluation.by_part) > 1:
        lines += [
            ScoreLine(f"Score, {part.name or 'unknown part'}", part.scores.score, part.num_cycles)
            for part in evaluation.by_part
        ]
    return lines


def _card_blocks(inputs: ReportInputs, calibration: Sequence[Block]) -> list[Block]:
    """The model card: what the model is, what it learned from, how well it predicts, what it is not for."""
    evaluation = inputs.evaluation
    *others, last = evaluation.classes
    elsewhere = {*MODEL_FACTS, *EVALUATION_FACTS, *VERSION_FACTS, EPOCH_SELECTION}
    epoch = "" if inputs.chosen_epoch is None else f"epoch {inputs.chosen_epoch}; "
    is_unknown = inputs.num_shared_patients is None
    return [
        Heading("Intended use"),
        Bullets(
            [
                "Research on the classification of lung sounds: to compare methods and to repeat results.",
                "Not to diagnose, treat or monitor anyone. It was not tested for that.",
                "It gives a piece of a chest recording, cut out beforehand, one of the classes "
                f"{', '.join(others)} and {last}. It gives one to every sound, also to one that is no lung.",
            ]
        ),
        Heading("Model"),
        Facts(inputs.facts(MODEL_FACTS)),
        Heading("Training"),
        Facts({name: value for name, value in inputs.context.items() if name not in elsewhere}),
        Heading("Scores"),
        Facts({**inputs.facts(EVALUATION_FACTS), "epoch": epoch + inputs.epoch_sentence}),
        *score_sentences(inputs),
        _score_table(evaluation),
        *_column_blocks(inputs.columns),
        *_class_blocks(evaluation),
        Heading("Scores by group"),
        *_subgroup_tables(inputs.all_subgroups),
        *(calibration or [Heading("Calibration"), Paragraph(UNCALIBRATED)]),
        Heading("Limits"),
        Bullets(
            [
                *inputs.warnings,
                *inputs.notes,
                *(["Whether these patients are in the training set is not known."] if is_unknown else []),
                "The scores are of patients, stethoscopes and annotators like those above; of others they say nothing.",
                "The intervals are over patients. Another seed of the same training gives another model.",
            ]
        ),
        Heading("Versions"),
        Facts(inputs.facts(VERSION_FACTS)),
    ]


def _numbers(inputs: ReportInputs) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "unit": "fraction",
        **dataclasses.asdict(inputs.evaluation),
        "subgroups": {
            of_fact.fact: [dataclasses.asdict(group) for group in of_fact.groups] for of_fact in inputs.all_subgroups
        },
        "hardest": [
            {"key": c.key, "label": c.label, "answer": c.predicted, "probabilities": c.probabilities}
            for c in inputs.hardest
        ],
        "context": inputs.context,
        "notes": inputs.notes,
        "chosen_epoch": inputs.chosen_epoch,
        "history": inputs.history,
        "num_shared_patients": inputs.num_shared_patients,
        "num_validation_patients": inputs.num_validation_patients,
    }


def percent(fraction: float) -> str:
    return "n/a" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def _cells(reading: ScoreEstimates) -> tuple[str, str, str]:
    return reading.score.in_percent(), reading.specificity.in_percent(), reading.sensitivity.in_percent()


def _interval_phrase(estimate: Estimate) -> str:
    interval = estimate.interval
    if interval.problem is not None:
        return f" (no interval: {interval.problem})"
    return f" ({100 * interval.level:g} % interval {percent(interval.low)} to {percent(interval.high)})"


@contextmanager
def _moved_into(folder: Path) -> Iterator[Path]:
    """A folder whose files move into `folder` when the block ends without an error, and are gone otherwise."""
    staging = folder / "report.partial"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        paths = sorted(path for path in staging.iterdir() if path.is_file())
        for name in set(OPTIONAL_PICTURES) - {path.name for path in paths}:
            (folder / name).unlink(missing_ok=True)
        for path in paths:
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
