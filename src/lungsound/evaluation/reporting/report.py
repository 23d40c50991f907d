"""From an evaluation to a report that a researcher reads and checks: Markdown, HTML, JSON and pictures."""

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

from lungsound.evaluation.evaluate import Evaluation
from lungsound.evaluation.figures import HistoryRow, draw_confusion, draw_curves, draw_score_intervals
from lungsound.evaluation.reporting import blocks as say
from lungsound.evaluation.reporting.hardest import HardCycle, draw_spectrogram, wav_bytes
from lungsound.evaluation.subgroups import Subgroups
from lungsound.page import Block, Facts, Heading, Picture, Remark, Sound, render_html, render_markdown

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
        groups = say.all_subgroups(evaluation, subgroups)
        heard = {"num_shared_patients": num_shared_patients, "num_validation_patients": num_validation_patients}
        blocks = [
            *say.score_sentences(evaluation, num_shared_patients, num_validation_patients),
            *map(Remark, say.warnings_of(evaluation, context, num_shared_patients, num_validation_patients)),
            *(Remark(note, is_warning=False) for note in notes),
            *_scores(evaluation, context, columns, staging),
            *_groups(groups, staging),
            *(block for section in (calibration, extra_blocks) for block in _section(section, staging)),
        ]
        listed, sounds = (say.hardest_blocks(hardest), _sounds(hardest, staging)) if hardest else ([], [])
        curves = _training(history, context, chosen_epoch, staging)
        last = [*curves, Heading("What was run"), Facts(context), *say.how_to_read(evaluation)]
        title = say.page_title(evaluation)
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
    draw_score_intervals(say.score_lines(evaluation), intervals)
    draw_confusion(evaluation.confusion, evaluation.classes, confusion)
    return [
        say.first_facts(context),
        say.score_table(evaluation),
        *_section(columns, staging),
        Picture(intervals, "Scores with intervals"),
        Heading("By class"),
        *say.class_blocks(evaluation),
        Picture(confusion, "Confusion matrix"),
    ]


def _groups(groups: Sequence[Subgroups], staging: Path) -> list[Block]:
    blocks: list[Block] = [Heading("By group")]
    lines = say.subgroup_lines(groups)
    if lines:
        draw_score_intervals(lines, staging / "subgroups.png", what="Score")
        blocks.append(Picture(staging / "subgroups.png", "Scores of groups with intervals"))
    return [*blocks, *say.subgroup_blocks(groups)]


def _training(
    history: Sequence[HistoryRow], context: Mapping[str, str], chosen_epoch: int | None, staging: Path
) -> list[Block]:
    if not history:
        return []
    path = staging / "curves.png"
    is_chosen_on_test = context.get(say.EPOCH_SELECTION) in (say.BEST_ON_TEST, say.BEST_ON_OTHER_TEST)
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
