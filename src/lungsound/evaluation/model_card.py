"""MODEL_CARD.md of one trained model: what it is, what it learned from, how well it answers, what it is not for.

The sections follow Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lungsound.evaluation import report as say
from lungsound.evaluation.scores import Evaluation, Subgroups
from lungsound.files import write_text
from lungsound.page import Block, Bullets, Facts, Heading, Paragraph, render_markdown

FILE_NAME = "MODEL_CARD.md"
UNCALIBRATED = "Not measured. A probability orders the classes; it is not how often they are right."
# Which section a fact of the run stands in; all others are about training.
MODEL_FACTS = ("model", "pretrained weights", "labels", "input")
EVALUATION_FACTS = ("corpus", "split")
VERSION_FACTS = ("device and precision", "command", "revision", "versions", "corpus fingerprint", "model hash")


def write_model_card(
    folder: Path,
    evaluation: Evaluation,
    *,
    context: Mapping[str, str],
    notes: Sequence[str] = (),
    chosen_epoch: int | None = None,
    num_shared_patients: int | None = None,
    num_validation_patients: int = 0,
    columns: Sequence[Block] = (),
    subgroups: Sequence[Subgroups] = (),
    calibration: Sequence[Block] = (),
) -> Path:
    """Write `MODEL_CARD.md` into `folder` and return its path; arguments as `report.write_report`.

    `columns` follow the score table; `calibration` is a section with its heading, and the card says that it was not
    measured when there is none. Their pictures must lie in `folder`.
    """
    warnings = say.warnings_of(evaluation, context, num_shared_patients, num_validation_patients)
    is_known = num_shared_patients is not None
    blocks: list[Block] = [
        *_intended_use(evaluation),
        Heading("Model"),
        Facts(_chosen(context, MODEL_FACTS)),
        Heading("Training"),
        Facts({name: value for name, value in context.items() if name not in _ELSEWHERE}),
        Heading("Scores"),
        Facts({**_chosen(context, EVALUATION_FACTS), "epoch": _epoch(context, chosen_epoch)}),
        *say.score_sentences(evaluation, num_shared_patients, num_validation_patients),
        say.score_table(evaluation),
        *columns,
        *say.class_blocks(evaluation),
        Heading("Scores by group"),
        *say.subgroup_blocks(say.all_subgroups(evaluation, subgroups)),
        *(calibration or [Heading("Calibration"), Paragraph(UNCALIBRATED)]),
        *_limits([*warnings, *notes], is_known=is_known),
        Heading("Versions"),
        Facts(_chosen(context, VERSION_FACTS)),
    ]
    path = folder / FILE_NAME
    write_text(path, render_markdown(f"Model card: {context.get('recipe', 'lungsound model')}", blocks))
    return path


_ELSEWHERE = {*MODEL_FACTS, *EVALUATION_FACTS, *VERSION_FACTS, say.EPOCH_SELECTION}


def _chosen(context: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: context.get(name, "not stated") for name in names}


def _epoch(context: Mapping[str, str], chosen_epoch: int | None) -> str:
    which = "" if chosen_epoch is None else f"epoch {chosen_epoch}; "
    return which + say.epoch_sentence(context)


def _intended_use(evaluation: Evaluation) -> list[Block]:
    *others, last = evaluation.classes
    return [
        Heading("Intended use"),
        Bullets(
            [
                "Research on the classification of lung sounds: to compare methods and to repeat results.",
                "Not to diagnose, treat or monitor anyone. It was not tested for that.",
                "It gives a piece of a chest recording, cut out beforehand, one of the classes "
                f"{', '.join(others)} and {last}. It answers every sound, also one that is no lung.",
            ]
        ),
    ]


def _limits(told: Sequence[str], *, is_known: bool) -> list[Block]:
    """`told` and what holds of every model; `is_known`: which of the patients training had heard."""
    shared = [] if is_known else ["Whether training had heard these patients is not known."]
    return [
        Heading("Limits"),
        Bullets(
            [
                *told,
                *shared,
                "The scores are of patients, stethoscopes and annotators like those above; of others they say nothing.",
                "The intervals are over patients. Another seed of the same training gives another model.",
            ]
        ),
    ]
