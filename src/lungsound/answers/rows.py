"""The rows of the tables: one for each recording, one for each of its cycles."""

from collections.abc import Iterator, Sequence

from lungsound.answers.answer import CycleAnswer, Provenance, RecordingAnswer

FORMAT_VERSION = 1
# Columns never change their meaning or order within a format version; new ones come behind these.
COLUMNS = (
    "format_version",
    "path",
    "patient",
    "device",
    "duration_s",
    "cycles_from",
    "unit",
    "start_s",
    "end_s",
    "answer",
    "best_guess",
    "possible",
    "quality",
    "out_of_domain",
    "model_sha256",
    "calibration",
)
PROBABILITY_PREFIX = "p_"

Value = str | int | float | tuple[str, ...] | None


def columns(provenance: Provenance) -> tuple[str, ...]:
    """The fixed columns, then `p_<class>` for each class."""
    return (*COLUMNS, *(PROBABILITY_PREFIX + name for name in provenance.label_set.classes))


def rows(answers: Sequence[RecordingAnswer], provenance: Provenance) -> Iterator[tuple[Value, ...]]:
    """Of each recording the row of the whole, then those of its cycles; None for what is not known."""
    for answer in answers:
        yield _row(answer, answer.whole, provenance, unit="recording")
        for cycle in answer.cycles:
            yield _row(answer, cycle, provenance, unit="cycle")


def _row(answer: RecordingAnswer, cycle: CycleAnswer | None, provenance: Provenance, *, unit: str) -> tuple[Value, ...]:
    return (
        FORMAT_VERSION,
        answer.path_text,
        answer.patient,
        answer.device,
        answer.duration_s,
        answer.cycles_from,
        unit,
        0.0 if cycle is None else cycle.start_s,
        answer.duration_s if cycle is None else cycle.end_s,
        None if cycle is None else cycle.said,
        None if cycle is None else cycle.answer,
        () if cycle is None else cycle.possible,
        answer.quality,
        answer.out_of_domain,
        provenance.model_sha256,
        provenance.calibration,
        *(None if cycle is None else cycle.probabilities[name] for name in provenance.label_set.classes),
    )
