"""From an evaluation to a report that a researcher reads and checks."""

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lungsound.evaluation.evaluate import Evaluation, GroupScores, ScoreReading
from lungsound.evaluation.figures import HistoryRow, ScoreLine, draw_confusion, draw_curves, draw_score_intervals
from lungsound.evaluation.uncertainty import Estimate

# Facts of `context` that also stand on the first screen of a report.
CORPUS, SPLIT, WEIGHTS, EPOCH_SELECTION = "corpus", "split", "pretrained weights", "epoch selection"
BEST_ON_TEST = "best_on_test"
EPOCH_SELECTIONS = {
    "last": "the last one; no score chose it",
    "validation": "chosen by the Score on patients held out of the training part",
    BEST_ON_TEST: "chosen by the Score on the test split itself",
}
WATCHED_SPLITS = {"validation": "validation", BEST_ON_TEST: "test"}
# With fewer patients a 95 % interval holds the truth in less than 90 % of simulations (see uncertainty).
FEW_PATIENTS = 10
UNKNOWN_DEVICE, UNKNOWN_PART = "unknown device", "unknown part"
TOO_NARROW = f"Intervals from fewer than {FEW_PATIENTS} patients are too narrow."


def write_report(
    folder: Path,
    evaluation: Evaluation,
    *,
    context: Mapping[str, str],
    history: Sequence[HistoryRow] = (),
    notes: Sequence[str] = (),
    chosen_epoch: int | None = None,
    num_shared_patients: int | None = None,
) -> Path:
    """Write `report.md`, `report.json` and the pictures into `folder`; return the path of `report.md`.

    `context` holds what was run, in order; its entries "corpus", "split", "pretrained weights" and "epoch selection"
    ("last", "validation" or "best_on_test") also stand at the top. `notes` are printed above the tables.
    `history` has one row per epoch (see `figures.draw_curves`); `num_shared_patients` is how many of the evaluated
    patients the training part also holds, None when that is not known. All is written beside and then moved
    into place: an error leaves an older report as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / "report.partial"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        draw_confusion(evaluation.confusion, evaluation.classes, staging / "confusion.png")
        draw_score_intervals(_score_lines(evaluation), staging / "intervals.png")
        if history:
            watched = WATCHED_SPLITS.get(context.get(EPOCH_SELECTION, ""), "watched")
            draw_curves(history, staging / "curves.png", chosen_epoch=chosen_epoch, watched=watched)
        facts = {"num_shared_patients": num_shared_patients, "chosen_epoch": chosen_epoch}
        run = {"context": dict(context), "notes": list(notes), **facts, "history": [dict(row) for row in history]}
        numbers = {"format": "lungsound report 1", "unit": "fraction", **dataclasses.asdict(evaluation), **run}
        text = json.dumps(_plain(numbers), indent=1, allow_nan=False)
        (staging / "report.json").write_text(text + "\n", encoding="utf-8")
        warnings = _warnings(evaluation, context, num_shared_patients)
        page = _page(evaluation, context, [*warnings, *notes], num_shared_patients, has_curves=bool(history))
        (staging / "report.md").write_text(page, encoding="utf-8")
        if not history:
            (folder / "curves.png").unlink(missing_ok=True)
        for name in sorted(path.name for path in staging.iterdir()):
            (staging / name).replace(folder / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder / "report.md"


def first_lines(report: Path) -> list[str]:
    """The Score of a report, of each part when there are several, and its warnings, for a terminal."""
    lines = report.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("> ").replace("*", "") for line in lines if line.startswith(("**", "> **"))]


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: arrays and tuples as lists, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _score_lines(evaluation: Evaluation) -> list[ScoreLine]:
    scores, num_cycles = evaluation.all_classes, evaluation.num_cycles
    lines = [
        ScoreLine("Score", scores.score, num_cycles, is_headline=True),
        ScoreLine("Specificity", scores.specificity, int(evaluation.confusion[0].sum())),
        ScoreLine("Sensitivity", scores.sensitivity, int(evaluation.confusion[1:].sum())),
    ]
    if evaluation.two_class is not None:
        lines.append(ScoreLine("Score, normal or not", evaluation.two_class.score, num_cycles))
    for unknown, groups in ((UNKNOWN_PART, evaluation.by_part), (UNKNOWN_DEVICE, evaluation.by_device)):
        if len(groups) > 1:
            lines += [ScoreLine(f"Score, {g.name or unknown}", g.scores.score, g.num_cycles) for g in groups]
    return lines


def _warnings(evaluation: Evaluation, context: Mapping[str, str], num_shared_patients: int | None) -> list[str]:
    warnings = []
    if context.get(EPOCH_SELECTION) == BEST_ON_TEST:
        warnings.append(
            "Warning: the epoch was chosen by its Score on this same test split. The Score is too high by an unknown "
            "amount; compare it only with scores chosen the same way."
        )
    if num_shared_patients:
        have = "has" if num_shared_patients == 1 else "have"
        warnings.append(f"Warning: {num_shared_patients} of the patients also {have} recordings in the training part.")
    if evaluation.num_patients < FEW_PATIENTS:
        warnings.append(f"Warning: few patients ({evaluation.num_patients}). {TOO_NARROW}")
    interval = evaluation.all_classes.score.interval
    if interval.low == interval.high:
        warnings.append("Warning: every resample gave the same Score. An interval of no width is not certainty.")
    if interval.problem is None and interval.num_undefined:
        warnings.append(
            f"In {interval.num_undefined} of {interval.num_draws} resamples of the patients the Score had no value "
            "(no normal or no abnormal cycle was drawn); the interval is over the others."
        )
    return warnings


def _page(
    evaluation: Evaluation,
    context: Mapping[str, str],
    notes: Sequence[str],
    num_shared_patients: int | None,
    *,
    has_curves: bool,
) -> str:
    """The report as Markdown."""
    score = evaluation.all_classes.score
    patients = "held-out patients" if num_shared_patients == 0 else "patients"
    interval = score.interval
    parts = evaluation.by_part if len(evaluation.by_part) > 1 else ()
    blocks = [
        f"# ICBHI Score {_percent(score.value)}",
        f"**Score {_percent(score.value)}{_interval_phrase(score)}** on {evaluation.num_cycles} cycles of "
        f"{evaluation.num_patients} {patients}, in percent. Always answering normal scores "
        f"{_percent(evaluation.always_normal_score)}.",
        *(_part_line(part) for part in parts),
        *(f"> **{_line(note)}**" for note in notes),
        _first_facts(context),
        _score_table(evaluation),
        "*Research software, not a medical device.*",
        "![Scores with intervals](intervals.png)",
        f"## By class\n\n{_class_table(evaluation)}\n\n"
        f"Accuracy {_percent(evaluation.accuracy)}, macro F1 {_percent(evaluation.macro_f1)}.",
        "![Confusion matrix](confusion.png)",
        *([f"## By part of the split\n\n{_group_table('part', parts, UNKNOWN_PART)}\n\n{TOO_NARROW}"] if parts else []),
        f"## By device\n\n{_group_table('device', evaluation.by_device, UNKNOWN_DEVICE)}\n\n{TOO_NARROW}",
        *(["## Training\n\n![Training curves](curves.png)"] if has_curves else []),
        f"## What was run\n\n{_table(['fact', 'value'], list(context.items()))}",
        "## How to read this\n\n"
        "- Specificity (Sp): normal cycles answered normal. Sensitivity (Se): abnormal cycles answered with exactly "
        "their class. Score: the mean of the two. Normal or not: any abnormal answer fits an abnormal cycle.\n"
        f"- Intervals: {100 * interval.level:g} % percentile bootstrap, {interval.num_draws} resamples of whole "
        f"patients (seed {evaluation.interval_seed}), since cycles of one patient resemble each other. They do not "
        "cover the chance of training: another seed gives another model.\n"
        "- n/a: there is nothing to divide by, or too few patients for an interval.\n"
        "- All numbers as fractions, with these settings, are in [report.json](report.json).",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _part_line(part: GroupScores) -> str:
    score = part.scores.score
    patients = "1 patient" if part.num_patients == 1 else f"{part.num_patients} patients"
    return (
        f"**{_line(part.name) or UNKNOWN_PART}: Score {_percent(score.value)}{_interval_phrase(score)}** "
        f"on {part.num_cycles} cycles of {patients}."
    )


def _first_facts(context: Mapping[str, str]) -> str:
    selection = context.get(EPOCH_SELECTION, "not stated")
    facts = [("Data", ", ".join(context[key] for key in (CORPUS, SPLIT) if key in context) or "not stated")]
    facts += [("Weights", context.get(WEIGHTS, "not stated")), ("Epoch", EPOCH_SELECTIONS.get(selection, selection))]
    return "\n".join(f"- {name}: {_line(value)}" for name, value in facts)


def _score_table(evaluation: Evaluation) -> str:
    readings = [(f"{len(evaluation.classes)} classes", evaluation.all_classes)]
    if evaluation.two_class is not None:
        readings.append(("normal or not", evaluation.two_class))
    return _table(["reading", "Score", "Sp", "Se"], [(name, *_cells(reading)) for name, reading in readings])


def _class_table(evaluation: Evaluation) -> str:
    head = ["class", "cycles", "patients", "answered", "recall", "precision", "F1"]
    rows = [
        (
            c.name,
            c.num_cycles,
            c.num_patients,
            c.num_answered,
            c.recall.in_percent(),
            _percent(c.precision),
            _percent(c.f1),
        )
        for c in evaluation.per_class
    ]
    return _table(head, rows)


def _group_table(kind: str, groups: Sequence[GroupScores], unknown: str) -> str:
    rows = [(g.name or unknown, g.num_cycles, g.num_patients, *_cells(g.scores)) for g in groups]
    return _table([kind, "cycles", "patients", "Score", "Sp", "Se"], rows)


def _cells(reading: ScoreReading) -> tuple[str, str, str]:
    return reading.score.in_percent(), reading.specificity.in_percent(), reading.sensitivity.in_percent()


def _percent(fraction: float) -> str:
    return "n/a" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def _interval_phrase(estimate: Estimate) -> str:
    interval = estimate.interval
    if interval.problem is not None:
        return f" (no interval: {interval.problem})"
    return f" ({100 * interval.level:g} % interval {_percent(interval.low)} to {_percent(interval.high)})"


def _line(text: str) -> str:
    return " ".join(str(text).split())


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [
        head,
        ["---"] + ["---:" if isinstance(cell, int) else "---" for cell in (rows[0] if rows else head)][1:],
        *rows,
    ]
    return "\n".join("| " + " | ".join(_line(str(cell)).replace("|", "\\|") for cell in line) + " |" for line in lines)
