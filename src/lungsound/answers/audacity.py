"""Answers as an Audacity label track: lines `start<TAB>end<TAB>label`, in seconds."""

from lungsound.answers.answer import TIME_DECIMALS, Provenance, RecordingAnswer


def audacity_text(answer: RecordingAnswer, _: Provenance) -> str:
    """A label for each cycle, as "crackle 0.83" or "uncertain (crackle 0.41)"."""
    return "".join(
        f"{cycle.start_s:.{TIME_DECIMALS}f}\t{cycle.end_s:.{TIME_DECIMALS}f}\t{cycle.caption}\n"
        for cycle in answer.cycles
    )
