"""The page of `lungsound rescore`: every metric of a file, what it may stand beside, and what was published there."""

import math
from collections.abc import Sequence
from typing import Any

from lungsound.evaluation.rescoring.published import PublishedScore
from lungsound.evaluation.rescoring.rescore import ClassLine, Line, Rescored, Value
from lungsound.page import Block, Bullets, Heading, Paragraph, Remark, Table

EPOCHS = {
    "last": "last",
    "validation": "on validation patients",
    "test": "on test (optimistic)",
    "unknown": "not known",
    "none": "nothing trained",
}


def rescore_blocks(results: Sequence[Rescored]) -> list[Block]:
    """The page's blocks: a section for each part of the file."""
    blocks: list[Block] = []
    for result in results:
        blocks += _section(result)
    return blocks


def summary(result: Rescored) -> str:
    """What was counted and over what the intervals are, as one sentence or two."""
    num_cycles = int(result.confusion.sum())
    known = f", {result.test_set.name}, {result.test_set.task}" if result.test_set is not None else ""
    level = next((line.value.interval.level for line in result.lines if line.value.interval is not None), None)
    units = f"{result.num_units} {result.unit}{'' if result.num_units == 1 else 's'}"
    over = f" of {units}" if result.unit else ""
    intervals = f" In brackets: {100 * level:g} % intervals over {result.unit}s." if level is not None else ""
    cycles = f"{num_cycles} cycle{'' if num_cycles == 1 else 's'}"
    return f"{cycles}{over}{known}; classes {', '.join(result.classes)}. Values in percent.{intervals}"


def _section(result: Rescored) -> list[Block]:
    confusion = result.confusion.tolist()
    blocks: list[Block] = [Heading(f"Part {result.part}" if result.part else "All rows"), Paragraph(summary(result))]
    blocks += [Remark(warning) for warning in result.warnings]
    blocks += [
        Heading("Metrics", 3),
        *metric_table_blocks(result),
        Heading("By class", 3),
        Table(
            ("class", "cycles", "answered", "recall", "precision", "F1"),
            [
                (
                    each.name,
                    each.num_cycles,
                    each.num_answered,
                    *(v.text() for v in (each.recall, each.precision, each.f1)),
                )
                for each in result.per_class
            ],
        ),
        Heading("Confusion matrix: true class (rows), answer (columns)", 3),
        Table(("", *result.classes), [(name, *row) for name, row in zip(result.classes, confusion, strict=True)]),
        *_published_blocks(result),
    ]
    if result.notes:
        blocks += [Heading("How the file was read", 3), Bullets(result.notes)]
    return blocks


def metric_table_blocks(result: Rescored) -> list[Block]:
    """The table of metrics, values before definitions: on a narrow screen the first columns are seen."""
    rows = [(line.name, line.text, line.beside, line.definition) for line in result.lines]
    table = Table(("metric", "value", "may stand beside", "what it is"), rows)
    return [table, *(Paragraph(note) for note in result.resample_notes)]


def _published_blocks(result: Rescored) -> list[Block]:
    beside = [score for score in result.published if score.not_comparable is None]
    apart = [score for score in result.published if score.not_comparable is not None]
    if not beside:
        return []
    heading = Heading("Published numbers of this test set, in percent", 3)
    head = ("method", "from", "task", "Sp", "Se", "Score", "epoch chosen", "this file minus it")
    rows = sorted(beside, key=lambda score: (score.task, score.score or 0.0))
    blocks: list[Block] = [heading, Table(head, [_published_row(result, score) for score in rows])]
    if apart:
        blocks += [
            Paragraph("Published too, but not to stand beside:"),
            Bullets([f"{score.name}{_number_text(score)}: {score.not_comparable}." for score in apart]),
        ]
    return blocks


def _number_text(score: PublishedScore) -> str:
    return "" if score.score is None else f" ({score.score:.2f})"


def _published_row(result: Rescored, score: PublishedScore) -> tuple[str, ...]:
    source = score.paper if score.year is None else f"{score.paper} {score.year}"
    spread = "" if score.score_sd is None else f" \N{PLUS-MINUS SIGN} {score.score_sd:.2f}"
    ours = result.value_beside(score).value
    parts = ["" if value is None else f"{value:.2f}" for value in (score.specificity, score.sensitivity, score.score)]
    difference = "" if score.score is None or math.isnan(ours) else f"{100 * ours - score.score:+.1f}"
    return (score.name, source, score.task, *parts[:2], parts[2] + spread, EPOCHS[score.epoch], difference)


def rescore_json(results: Sequence[Rescored], *, source: str) -> dict[str, Any]:
    """All of it as plain values; numbers that are not defined are null, fractions are from 0 to 1."""
    return {
        "format": "lungsound rescore 1",
        "unit": "fraction",
        "file": source,
        "parts": [_plain_part(result) for result in results],
    }


def _plain_part(result: Rescored) -> dict[str, Any]:
    return {
        "part": result.part,
        "test_set": None if result.test_set is None else f"{result.test_set.name}, {result.test_set.task}",
        "epoch": result.epoch,
        "classes": list(result.classes),
        "confusion": result.confusion.tolist(),
        "intervals_over": result.unit or None,
        "num_units": result.num_units if result.unit else None,
        "metrics": [_plain_line(line) for line in result.lines],
        "by_class": [_plain_class(each) for each in result.per_class],
        "warnings": list(result.warnings),
        "notes": list(result.notes),
    }


def _plain_line(line: Line) -> dict[str, Any]:
    texts = {"key": line.key, "name": line.name, "definition": line.definition, "may_stand_beside": line.beside}
    return texts | {"is_beside_published": line.is_beside_published} | _plain_value(line.value)


def _plain_class(each: ClassLine) -> dict[str, Any]:
    values = {name: _plain_value(getattr(each, name)) for name in ("recall", "precision", "f1")}
    return {"name": each.name, "num_cycles": each.num_cycles, "num_answered": each.num_answered} | values


def _plain_value(value: Value) -> dict[str, float | int | None]:
    interval = value.interval
    numbers = {
        "value": value.value,
        "low": math.nan if interval is None else interval.low,
        "high": math.nan if interval is None else interval.high,
    }
    plain = {name: None if math.isnan(number) else number for name, number in numbers.items()}
    return plain | {"num_undefined": None if interval is None else interval.num_undefined}
