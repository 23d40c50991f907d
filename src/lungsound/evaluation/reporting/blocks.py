"""What a report says, as blocks of a page: from an evaluation to sentences and tables."""

import math
from collections.abc import Mapping, Sequence

from lungsound.evaluation.evaluate import Evaluation, GroupScores, ScoreReading
from lungsound.evaluation.figures import ScoreLine
from lungsound.evaluation.reporting.hardest import MAX_SOUND_S, HardCycle
from lungsound.evaluation.subgroups import FEW_IS_ROUGH, Subgroups
from lungsound.evaluation.uncertainty import FEW_PATIENTS, Estimate
from lungsound.page import DISCLAIMER, Block, Bullets, Heading, Paragraph, Table

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
    "validation": "chosen by the Score on patients held out of the training part",
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
    counts = {"in the training part": num_shared_patients, "in validation": num_validation_patients}
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


def _cells(reading: ScoreReading) -> tuple[str, str, str]:
    return reading.score.in_percent(), reading.specificity.in_percent(), reading.sensitivity.in_percent()


def _interval_phrase(estimate: Estimate) -> str:
    interval = estimate.interval
    if interval.problem is not None:
        return f" (no interval: {interval.problem})"
    return f" ({100 * interval.level:g} % interval {percent(interval.low)} to {percent(interval.high)})"
