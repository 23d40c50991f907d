"""What a report says, as blocks of a page: from an evaluation to sentences and tables.

From an evaluation to a report that a researcher reads and checks: Markdown, HTML, JSON and pictures.
"""

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lungsound.evaluation.bootstrap import FEW_PATIENTS, Estimate
from lungsound.evaluation.figures import HistoryRow, ScoreLine, draw_confusion, draw_curves, draw_score_intervals
from lungsound.evaluation.hardest import MAX_SOUND_S, HardCycle, draw_spectrogram, wav_bytes
from lungsound.evaluation.scores import FEW_IS_ROUGH, Evaluation, GroupScores, ScoreEstimates, Subgroups
from lungsound.page import (
    DISCLAIMER,
    Block,
    Bullets,
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


def page_title(evaluation: Evaluation) -> str:
    return f"Score {percent(evaluation.all_classes.score.value)}"


def score_sentences(
    evaluation: Evaluation, num_shared_patients: int | None, num_validation_patients: int = 0
) -> list[Block]:
    """The Score, and that of each part of the split when there are several."""
    score = evaluation.all_classes.score
    patients = "held-out patients" if num_shared_patients == 0 == num_validation_patients else "patients"
    whole = Paragraph(
        f" on {evaluation.num_cycles} cycles of {evaluation.num_patients} {patients}, in percent. Always answering "
        f"normal scores {percent(evaluation.always_normal_score)}.",
        lead=f"Score {percent(score.value)}{_interval_phrase(score)}",
    )
    parts = evaluation.by_part if len(evaluation.by_part) > 1 else ()
    return [whole, *(_part_sentence(part) for part in parts)]


def _part_sentence(part: GroupScores) -> Paragraph:
    score = part.scores.score
    patients = "1 patient" if part.num_patients == 1 else f"{part.num_patients} patients"
    return Paragraph(
        f" on {part.num_cycles} cycles of {patients}.",
        lead=f"{part.name or 'unknown part'}: Score {percent(score.value)}{_interval_phrase(score)}",
    )


def warnings_of(
    evaluation: Evaluation,
    context: Mapping[str, str],
    num_shared_patients: int | None,
    num_validation_patients: int = 0,
) -> list[str]:
    """Reasons to take the Score with care, one sentence or two each."""
    warnings = []
    if context.get(EPOCH_SELECTION) == BEST_ON_TEST:
        warnings.append(
            "Warning: the epoch was chosen by its Score on this same test split. The Score may be too high, by an "
            "unknown amount; compare it only with scores chosen the same way."
        )
    counts = {"in the training set": num_shared_patients, "in validation": num_validation_patients}
    for where, number in counts.items():
        if number:
            have = "has" if number == 1 else "have"
            warnings.append(f"Warning: {number} of the patients also {have} recordings {where}.")
    if evaluation.num_patients < FEW_PATIENTS:
        warnings.append(f"Warning: few patients ({evaluation.num_patients}). {FEW_IS_ROUGH}")
    interval = evaluation.all_classes.score.interval
    if interval.low == interval.high:
        warnings.append("Warning: every resample gave the same Score. An interval of no width is not certainty.")
    if interval.problem is None and interval.num_undefined:
        warnings.append(
            f"In {interval.num_undefined} of {interval.num_draws} resamples of the patients the Score had no value "
            "(no normal or no abnormal cycle was drawn); the interval is over the others."
        )
    return warnings


def first_facts(context: Mapping[str, str]) -> Bullets:
    """What was evaluated and how it was trained, in four lines, and what it is not for."""

    data = [lead + context[name] for name, lead in ((CORPUS, ""), (SPLIT, "split ")) if name in context]
    trained_on = [context[name] for name in (TRAINED_ON, PROTOCOL) if name in context]
    return Bullets(
        [
            f"Data: {'; '.join(data) or 'not stated'}",
            f"Trained on: {'; '.join(trained_on) or 'not stated'}",
            f"Weights: {context.get(WEIGHTS, 'not stated')}",
            f"Epoch: {epoch_sentence(context)}",
            f"Use: {DISCLAIMER[0].lower()}{DISCLAIMER[1:]}",
        ]
    )


def epoch_sentence(context: Mapping[str, str]) -> str:
    """How the epoch was chosen."""
    selection = context.get(EPOCH_SELECTION, "not stated")
    return EPOCH_SELECTIONS.get(selection, selection)


def score_table(evaluation: Evaluation) -> Table:
    readings = [(f"{len(evaluation.classes)} classes", evaluation.all_classes)]
    if evaluation.two_class is not None:
        readings.append(("normal or not", evaluation.two_class))
    return Table(["reading", "Score", "Sp", "Se"], [(name, *_cells(reading)) for name, reading in readings])


def class_blocks(evaluation: Evaluation) -> list[Block]:
    """The table of classes, and the two figures that are over all of them."""
    head = ["class", "cycles", "patients", "answered", "recall", "precision", "F1"]
    rows = [
        (
            c.name,
            c.num_cycles,
            c.num_patients,
            c.num_answered,
            c.recall.in_percent(),
            c.precision.in_percent(),
            c.f1.in_percent(),
        )
        for c in evaluation.per_class
    ]
    over_all = f"Accuracy {evaluation.accuracy.in_percent()}, macro F1 {evaluation.macro_f1.in_percent()}."
    return [Table(head, rows), Paragraph(over_all)]


def all_subgroups(evaluation: Evaluation, subgroups: Sequence[Subgroups]) -> list[Subgroups]:
    """Groups by device, by part of the split when there are several, and by what else is given, each fact once."""
    of_evaluation = [Subgroups(DEVICE, evaluation.by_device)]
    if len(evaluation.by_part) > 1:
        of_evaluation.insert(0, Subgroups(PART, evaluation.by_part))
    given = {groups.fact for groups in subgroups}
    return [*(groups for groups in of_evaluation if groups.fact not in given), *subgroups]


def subgroup_blocks(subgroups: Sequence[Subgroups]) -> list[Block]:
    """One table for each fact; groups of few patients are greyed, and named below."""
    blocks: list[Block] = []
    for found in subgroups:
        rows = [(found.name(g), g.num_cycles, g.num_patients, *_cells(g.scores)) for g in found.groups]
        title = "part of the split" if found.fact == PART else found.fact
        blocks += [
            Heading(f"By {title}", level=3),
            Table([found.fact, "cycles", "patients", "Score", "Sp", "Se"], rows, greyed=found.small),
            *([Paragraph(found.warning)] if found.warning else []),
        ]
    return blocks


def hardest_blocks(hardest: Sequence[HardCycle]) -> list[Block]:
    rows = [
        (c.key, c.label, c.answer, percent(c.probabilities[c.label]), percent(c.probabilities[c.answer]))
        for c in hardest
    ]
    return [
        Heading("Hardest cycles"),
        Paragraph(
            "The cycles whose true class was given the least probability, with those probabilities in percent; only a "
            "few of each recording are taken. The HTML page draws them and lets them be heard: up to "
            f"{MAX_SOUND_S:g} s each, made equally loud."
        ),
        Table(["cycle", "true class", "answered class", "true, %", "answered, %"], rows),
    ]


def how_to_read(evaluation: Evaluation) -> list[Block]:
    interval = evaluation.all_classes.score.interval
    return [
        Heading("How to read this"),
        Bullets(
            [
                "Specificity (Sp): normal cycles answered normal. Sensitivity (Se): abnormal cycles answered with "
                "exactly their class. Score: the mean of the two. Normal or not: any abnormal answer fits an abnormal "
                "cycle.",
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


def score_lines(evaluation: Evaluation) -> list[ScoreLine]:
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


def subgroup_lines(subgroups: Sequence[Subgroups]) -> list[ScoreLine]:
    """Lines of the picture of subgroups: the Score of each group, of facts that make more than one."""
    return [
        ScoreLine(
            f"{found.fact}: {group.name}" if group.name else found.name(group),
            group.scores.score,
            group.num_cycles,
            is_small=index in found.small,
        )
        for found in subgroups
        if len(found.groups) > 1
        for index, group in enumerate(found.groups)
    ]


def percent(fraction: float) -> str:
    return "n/a" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def _cells(reading: ScoreEstimates) -> tuple[str, str, str]:
    return reading.score.in_percent(), reading.specificity.in_percent(), reading.sensitivity.in_percent()


def _interval_phrase(estimate: Estimate) -> str:
    interval = estimate.interval
    if interval.problem is not None:
        return f" (no interval: {interval.problem})"
    return f" ({100 * interval.level:g} % interval {percent(interval.low)} to {percent(interval.high)})"


FORMAT = "lungsound report 2"
# Pictures that not every report has: an older one goes when the new report is without.
SOMETIMES = ("curves.png", "subgroups.png")

Section = Sequence[Block] | Callable[[Path], Sequence[Block]]


def write_report(
    folder: Path,
    evaluation: Evaluation,
    *,
    context: Mapping[str, str],
    history: Sequence[HistoryRow] = (),
    notes: Sequence[str] = (),
    chosen_epoch: int | None = None,
    num_shared_patients: int | None = None,
    num_validation_patients: int = 0,
    columns: Section = (),
    subgroups: Sequence[Subgroups] = (),
    calibration: Section = (),
    hardest: Sequence[HardCycle] = (),
    extra_blocks: Section = (),
) -> Path:
    """Write `report.md`, `report.html`, `report.json` and the pictures into `folder`; return the path of `report.md`.

    `context` holds what was run, in order; its entries "corpus", "split", "trained on", "protocol", "pretrained
    weights" and "epoch selection" (a key of `blocks.EPOCH_SELECTIONS`) also stand at the top. `notes` are printed above
    the tables. `history` has one row per epoch (see `figures.draw_curves`). `num_shared_patients` is how many of the
    evaluated patients also train, None when that is not known, `num_validation_patients` how many also validate.

    `subgroups` are scores by further facts (device and part come from the evaluation, unless they are given here);
    `hardest` are drawn and heard in the HTML page and listed in the Markdown. `columns` follow the score table,
    `calibration` follows the subgroups, `extra_blocks` come after it. Each of the three is blocks, or a function
    that is called with a folder, draws its pictures straight into it and returns blocks (with `Picture`s of that
    folder): the pictures move into place with the report. They bring their own headings, level 2 for a section.
    All is written beside and then moved into place: an error leaves an older report as it was.
    """
    with _moved_into(folder) as staging:
        groups = all_subgroups(evaluation, subgroups)
        heard = {"num_shared_patients": num_shared_patients, "num_validation_patients": num_validation_patients}
        blocks = [
            *score_sentences(evaluation, num_shared_patients, num_validation_patients),
            *map(Remark, warnings_of(evaluation, context, num_shared_patients, num_validation_patients)),
            *(Remark(note, is_warning=False) for note in notes),
            *_scores(evaluation, context, columns, staging),
            *_groups(groups, staging),
            *(block for section in (calibration, extra_blocks) for block in _section(section, staging)),
        ]
        listed, sounds = (hardest_blocks(hardest), _sounds(hardest, staging)) if hardest else ([], [])
        curves = _training(history, context, chosen_epoch, staging)
        last = [*curves, Heading("What was run"), Facts(context), *how_to_read(evaluation)]
        title = page_title(evaluation)
        _write(staging / "report.md", render_markdown(title, [*blocks, *listed, *last]))
        _write(staging / "report.html", render_html(title, [*blocks, *listed, *sounds, *last]))
        run = {"context": context, "notes": notes, "chosen_epoch": chosen_epoch, "history": history} | heard
        _write_numbers(staging / "report.json", _numbers(evaluation, groups, hardest) | run)
    return folder / "report.md"


def first_lines(report: Path) -> list[str]:
    """The Score of a report, of each part when there are several, and its warnings, for a terminal."""
    opening, _, _ = report.read_text(encoding="utf-8").partition("\n## ")
    lines = opening.splitlines()
    chosen = [line.removeprefix("> ").replace("**", "") for line in lines if line.startswith(("**", "> **"))]
    return [re.sub(r"\\([\\`*<])", r"\1", line) for line in chosen]


def _section(section: Section, staging: Path) -> Sequence[Block]:
    return section(staging) if callable(section) else section


def _scores(evaluation: Evaluation, context: Mapping[str, str], columns: Section, staging: Path) -> list[Block]:
    intervals, confusion = staging / "intervals.png", staging / "confusion.png"
    draw_score_intervals(score_lines(evaluation), intervals)
    draw_confusion(evaluation.confusion, evaluation.classes, confusion)
    return [
        first_facts(context),
        score_table(evaluation),
        *_section(columns, staging),
        Picture(intervals, "Scores with intervals"),
        Heading("By class"),
        *class_blocks(evaluation),
        Picture(confusion, "Confusion matrix"),
    ]


def _groups(groups: Sequence[Subgroups], staging: Path) -> list[Block]:
    blocks: list[Block] = [Heading("By group")]
    lines = subgroup_lines(groups)
    if lines:
        draw_score_intervals(lines, staging / "subgroups.png", what="Score")
        blocks.append(Picture(staging / "subgroups.png", "Scores of groups with intervals"))
    return [*blocks, *subgroup_blocks(groups)]


def _training(
    history: Sequence[HistoryRow], context: Mapping[str, str], chosen_epoch: int | None, staging: Path
) -> list[Block]:
    if not history:
        return []
    path = staging / "curves.png"
    is_chosen_on_test = context.get(EPOCH_SELECTION) in (BEST_ON_TEST, BEST_ON_OTHER_TEST)
    draw_curves(history, path, chosen_epoch=chosen_epoch, is_chosen_on_test=is_chosen_on_test)
    return [Heading("Training"), Picture(path, "Training curves")]


def _sounds(hardest: Sequence[HardCycle], staging: Path) -> list[Block]:
    """Spectrogram and sound of each; in a folder of their own, since only the HTML page has them."""
    folder = staging / "hardest"
    folder.mkdir()
    blocks: list[Block] = []
    for number, cycle in enumerate(hardest, 1):
        path = folder / f"{number}.png"
        draw_spectrogram(cycle, path)
        heard = f"{cycle.key}: {cycle.label}, answered {cycle.answer}"
        blocks += [
            Heading(f"{number}. {heard}", level=3),
            Picture(path, f"Waveform and spectrogram of {heard}"),
            Sound(wav_bytes(cycle), f"{cycle.shown_s:.1f} s of {cycle.key}"),
        ]
    return blocks


def _numbers(evaluation: Evaluation, groups: Sequence[Subgroups], hardest: Sequence[HardCycle]) -> dict[str, Any]:
    sound = ("waveform", "sample_rate_hz")
    names = [field.name for field in dataclasses.fields(HardCycle) if field.name not in sound]
    return {
        "format": FORMAT,
        "unit": "fraction",
        **dataclasses.asdict(evaluation),
        "subgroups": {found.fact: [dataclasses.asdict(group) for group in found.groups] for found in groups},
        "hardest": [{name: getattr(cycle, name) for name in names} for cycle in hardest],
    }


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: arrays and tuples as lists, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_numbers(path: Path, numbers: Mapping[str, Any]) -> None:
    _write(path, json.dumps(_plain(numbers), indent=1, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


@contextmanager
def _moved_into(folder: Path) -> Iterator[Path]:
    """A folder whose files move into `folder` when the block ends without an error, and are gone otherwise."""
    staging = folder / "report.partial"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        paths = sorted(path for path in staging.iterdir() if path.is_file())
        for name in set(SOMETIMES) - {path.name for path in paths}:
            (folder / name).unlink(missing_ok=True)
        for path in paths:
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
