"""The report of one run: report.md, report.html, report.json, pictures and MODEL_CARD.md, from one typed value.

Their texts are the templates report.md and model_card.md. The sections of the model card follow Mitchell et al., "Model
Cards for Model Reporting" (FAT* 2019).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from markupsafe import Markup

from lungsound.evaluation.bootstrap import FEW_PATIENTS, Estimate, percent
from lungsound.evaluation.calibration import Calibration
from lungsound.evaluation.calibration_report import calibration_section
from lungsound.evaluation.figures import (
    HistoryRow,
    ScoreLine,
    Waveform,
    draw_confusion,
    draw_curves,
    draw_score_intervals,
    draw_spectrogram,
)
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.rescore import Rescored, metric_table
from lungsound.evaluation.runs import hashes_of
from lungsound.evaluation.scores import FEW_IS_ROUGH, SCORES_HEAD, Evaluation, Subgroups
from lungsound.evaluation.selection import BEST_ON_OTHER_TEST, BEST_ON_TEST, COLUMN_HEAD, RULE
from lungsound.files import write_json, write_text, written_together
from lungsound.page import counted, fill, render_html, render_markdown

FORMAT = "lungsound report 2"
REPORT, MODEL_CARD = "report.md", "MODEL_CARD.md"
# Pictures that not every report has: an older one goes when the new report is without.
OPTIONAL_PICTURES = ("curves.png", "subgroups.png")

EPOCH_SELECTION = "epoch selection"
EPOCH_SELECTIONS = {
    "last": "the last one; no score chose it",
    "validation": "chosen by the Score on patients held out of the training set",
    BEST_ON_TEST: "chosen by the Score on the test split itself",
    BEST_ON_OTHER_TEST: "chosen by the Score on the test split of the corpus that it was trained on",
}
NOT_STATED = "not stated"
AUC = "AUC of normal or not"
# The section of the model card that a fact of `context` stands in; all others are about training.
MODEL_FACTS = ("model", "pretrained weights", "labels", "input")
EVALUATION_FACTS = ("corpus", "split")
VERSION_FACTS = ("device and precision", "command", "revision", "versions", "corpus fingerprint", "model hash")

NUM_CYCLES, MAX_PER_RECORDING = 10, 2
# Of a page that holds ten of them a sound may take 0.1 MB or so. What is heard in lungs lies below 2 kHz.
SOUND_RATE_HZ, MAX_SOUND_S, PEAK = 8000, 6.0, 0.9


@dataclass(frozen=True, eq=False)
class HardCycle:
    """A cycle that the model got wrong, with its sound: `waveform` (samples,), full scale 1."""

    key: str
    label: str
    predicted: str
    probabilities: Mapping[str, float]
    waveform: Waveform
    sample_rate_hz: int

    @classmethod
    def of_row(cls, predictions: Predictions, row: int, *, waveform: Waveform, sample_rate_hz: int) -> "HardCycle":
        classes = predictions.classes
        label, predicted = (classes[int(each[row])] for each in (predictions.labels, predictions.predicted))
        probabilities = dict(zip(classes, predictions.probabilities[row].tolist(), strict=True))
        return cls(predictions.keys[row], label, predicted, probabilities, waveform, sample_rate_hz)

    @property
    def shown(self) -> Waveform:
        """Its beginning, `MAX_SOUND_S` at most, which is drawn and heard."""
        return self.waveform[: round(MAX_SOUND_S * self.sample_rate_hz)]

    @property
    def shown_s(self) -> float:
        return len(self.shown) / self.sample_rate_hz


def hardest_rows(
    predictions: Predictions, *, num_cycles: int = NUM_CYCLES, max_per_recording: int = MAX_PER_RECORDING
) -> tuple[int, ...]:
    """Rows with least probability of the true class, least first; few of one recording, which might fill the list."""
    of_truth = predictions.probabilities[np.arange(len(predictions.keys)), predictions.labels]
    taken: Counter[str] = Counter()
    rows: list[int] = []
    for row in np.argsort(of_truth, kind="stable").tolist():
        recording = predictions.keys[row].rpartition("#")[0]
        if len(rows) < num_cycles and taken[recording] < max_per_recording:
            taken[recording] += 1
            rows.append(row)
    return tuple(rows)


def write_sound(cycle: HardCycle, path: Path) -> None:
    """Write the sound of a cycle as WAV: 16-bit PCM, one channel, at most 8 kHz, its peak at 0.9 of full scale."""
    from lungsound.audio.io import resample

    rate_hz = min(cycle.sample_rate_hz, SOUND_RATE_HZ)
    samples = resample(cycle.shown.astype(np.float32), cycle.sample_rate_hz, rate_hz)
    peak = float(np.abs(samples).max(initial=0.0))
    scaled = np.round(samples * (PEAK * 32767.0 / peak)) if peak > 0 else np.zeros_like(samples)
    soundfile.write(path, scaled.astype(np.int16), rate_hz, subtype="PCM_16")


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportInputs:
    """Everything that a run's report is made from.

    `context` holds what was run, in order ("epoch selection" is a key of `EPOCH_SELECTIONS`). `notes` are printed above
    the tables. `history` has one row per epoch (see `figures.draw_curves`). `num_shared_patients` is how many of the
    evaluated patients also train, None when that is not known, `num_validation_patients` how many also validate.
    `columns` are the three ways to choose the epoch and `metrics` every metric in use, for each part of the test;
    `subgroups` are scores by further facts than device and part, which come from the evaluation.
    """

    predictions: Predictions
    evaluation: Evaluation
    context: Mapping[str, str]
    notes: Sequence[str] = ()
    history: Sequence[HistoryRow] = ()
    chosen_epoch: int | None = None
    num_shared_patients: int | None = None
    num_validation_patients: int = 0
    columns: Mapping[str, Sequence[tuple[str, ...]]] = field(default_factory=dict)
    subgroups: Sequence[Subgroups] = ()
    calibration: Calibration | None = None
    metrics: Sequence[Rescored] = ()
    hardest: Sequence[HardCycle] = ()

    @property
    def warnings(self) -> list[str]:
        """Reasons to take the Score with care, one sentence or two each."""
        warnings = []
        if self.fact(EPOCH_SELECTION) == BEST_ON_TEST:
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
        """Groups by part of the split when there are several, by device, and by further facts."""
        parts = [Subgroups("part", self.evaluation.by_part)] if len(self.evaluation.by_part) > 1 else []
        return [*parts, Subgroups("device", self.evaluation.by_device), *self.subgroups]

    @property
    def epoch_sentence(self) -> str:
        """The way in which the epoch was chosen, in words."""
        return EPOCH_SELECTIONS.get(self.fact(EPOCH_SELECTION), self.fact(EPOCH_SELECTION))

    @property
    def score_sentences(self) -> list[tuple[str, str]]:
        """The Score, and that of each part of the split when there are several: what stands in bold, and the rest."""
        evaluation = self.evaluation
        score, num = evaluation.all_classes.score, evaluation.num_patients
        patients = "held-out patients" if self.num_shared_patients == 0 == self.num_validation_patients else "patients"
        always = f"Always predicting normal scores {percent(evaluation.always_normal_score)}."
        auc = f"{AUC} {evaluation.all_classes.auc.in_percent()}."
        cycles = f"on {evaluation.num_cycles} cycles of {num} {patients}, in percent."
        sentences = [(f"Score {_with_interval(score)}", f"{cycles} {always} {auc}")]
        for part in evaluation.by_part if len(evaluation.by_part) > 1 else ():
            lead = f"{part.name or 'unknown part'}: Score {_with_interval(part.scores.score)}"
            patients, auc = counted(part.num_patients, "patient"), part.scores.auc.in_percent()
            sentences.append((lead, f"on {part.num_cycles} cycles of {patients}. {AUC} {auc}."))
        return sentences

    def fact(self, name: str) -> str:
        return self.context.get(name, NOT_STATED)

    def facts(self, *names: str) -> dict[str, str]:
        return {name: self.fact(name) for name in names}


def write_report(folder: Path, inputs: ReportInputs) -> Path:
    """Write report and model card into `folder`; return the path of `report.md`.

    All is written beside and then moved into place: an error leaves an older report as it was.
    """
    evaluation, context = inputs.evaluation, inputs.context
    with written_together(folder) as staging:
        scores, num_cycles, confusion = evaluation.all_classes, evaluation.num_cycles, evaluation.confusion
        lines = [
            ScoreLine("Score", scores.score, num_cycles, is_headline=True),
            ScoreLine("Specificity", scores.specificity, int(confusion[0].sum())),
            ScoreLine("Sensitivity", scores.sensitivity, int(confusion[1:].sum())),
        ]
        if evaluation.two_class is not None:
            lines.append(ScoreLine("Score, normal or not", evaluation.two_class.score, num_cycles))
        lines.append(ScoreLine(AUC, scores.auc, num_cycles))
        lines += [
            ScoreLine(f"Score, {part.name or 'unknown part'}", part.scores.score, part.num_cycles)
            for part in (evaluation.by_part if len(evaluation.by_part) > 1 else ())
        ]
        draw_score_intervals(lines, staging / "intervals.png")
        draw_confusion(confusion, evaluation.classes, staging / "confusion.png")
        group_lines = [
            ScoreLine(
                f"{of_fact.fact}: {group.name}" if group.name else of_fact.name(group),
                group.scores.score,
                group.num_cycles,
                is_small=group.is_small,
            )
            for of_fact in inputs.all_subgroups
            if len(of_fact.groups) > 1
            for group in of_fact.groups
        ]
        if group_lines:
            draw_score_intervals(group_lines, staging / "subgroups.png", what="Score")
        if inputs.history:
            draw_curves(
                inputs.history,
                staging / "curves.png",
                chosen_epoch=inputs.chosen_epoch,
                is_chosen_on_test=inputs.fact(EPOCH_SELECTION) in (BEST_ON_TEST, BEST_ON_OTHER_TEST),
            )
        (staging / "hardest").mkdir()  # a folder of their own, since only the HTML page has them
        for number, cycle in enumerate(inputs.hardest, 1):
            draw_spectrogram(cycle.shown, cycle.sample_rate_hz, staging / "hardest" / f"{number}.png")
            write_sound(cycle, staging / "hardest" / f"{number}.wav")
        calibration = Markup("")
        if inputs.calibration is not None:
            num = inputs.num_validation_patients
            remarks = [f"Validation has {num} of these patients too: this is optimistic."] if num else []
            calibration = calibration_section(inputs.calibration, inputs.predictions, folder=staging, remarks=remarks)
        elsewhere = {*MODEL_FACTS, *EVALUATION_FACTS, *VERSION_FACTS, EPOCH_SELECTION}
        epoch = "" if inputs.chosen_epoch is None else f"epoch {inputs.chosen_epoch}; "
        values = {
            "report": inputs,
            "evaluation": evaluation,
            "interval": evaluation.all_classes.score.interval,
            "data": _joined(context, {"corpus": "", "split": "split "}),
            "trained_on": _joined(context, {"trained on": "", "protocol": ""}),
            "scores_head": SCORES_HEAD,
            "columns": list(inputs.columns.items()),
            "column_head": COLUMN_HEAD,
            "rule": RULE,
            "group_lines": group_lines,
            "calibration": calibration,
            "metrics": [(result.part, metric_table(result)) for result in inputs.metrics],
            "max_sound_s": MAX_SOUND_S,
            "few_patients": FEW_PATIENTS,
            "percent": percent,
            "training_facts": {name: value for name, value in context.items() if name not in elsewhere},
            "score_facts": {**inputs.facts(*EVALUATION_FACTS), "epoch": epoch + inputs.epoch_sentence},
            "model_facts": inputs.facts(*MODEL_FACTS),
            "version_facts": inputs.facts(*VERSION_FACTS),
        }
        title = f"Score {percent(evaluation.all_classes.score.value)}"
        card = f"Model card: {context.get('recipe', 'lungsound model')}"
        markdown, html = (fill("report.md", **values, is_html=is_html) for is_html in (False, True))
        write_text(staging / REPORT, render_markdown(title, markdown))
        write_text(staging / "report.html", render_html(title, html, staging))
        write_text(staging / MODEL_CARD, render_markdown(card, fill("model_card.md", **values)))
        kept = ("context", "notes", "chosen_epoch", "history", "num_shared_patients", "num_validation_patients")
        numbers = {
            "format": FORMAT,
            "unit": "fraction",
            **asdict(evaluation),
            "subgroups": {each.fact: [asdict(group) for group in each.groups] for each in inputs.all_subgroups},
            "hardest": [
                {"key": c.key, "label": c.label, "answer": c.predicted, "probabilities": c.probabilities}
                for c in inputs.hardest
            ],
            **{name: getattr(inputs, name) for name in kept},
        }
        write_json(staging / "report.json", {**numbers, "files": hashes_of(folder)}, is_sealed=True)
        for name in OPTIONAL_PICTURES:
            if not (staging / name).exists():
                (folder / name).unlink(missing_ok=True)
    return folder / REPORT


def summary_lines(inputs: ReportInputs) -> list[str]:
    """The Score, that of each part when there are several, warnings and notes, for a terminal."""
    return [*(" ".join(sentence) for sentence in inputs.score_sentences), *inputs.warnings, *inputs.notes]


def _joined(context: Mapping[str, str], leads: Mapping[str, str]) -> str:
    return "; ".join(lead + context[name] for name, lead in leads.items() if name in context) or NOT_STATED


def _with_interval(estimate: Estimate) -> str:
    interval, value = estimate.interval, percent(estimate.value)
    if interval.problem is not None:
        return f"{value} (no interval: {interval.problem})"
    return f"{value} ({100 * interval.level:g} % interval {percent(interval.low)} to {percent(interval.high)})"
