"""Answers as a Praat TextGrid (long form): intervals cover the recording, those between cycles are empty."""

from collections.abc import Sequence

from lungsound.answers.answer import TIME_DECIMALS, CycleAnswer, Provenance, RecordingAnswer

TIER = "lung sound"

Interval = tuple[float, float, str]


def textgrid_text(answer: RecordingAnswer, _: Provenance) -> str:
    """One tier "lung sound"; cycles that overlap stand in further tiers, "lung sound 2" and so on."""
    # An annotation may end a little behind its recording.
    end_s = max([answer.duration_s, *(cycle.end_s for cycle in answer.cycles)])
    tiers = [_intervals(cycles, end_s) for cycles in _without_overlap(answer.cycles)]
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        *_span(0.0, end_s),
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, intervals in enumerate(tiers, start=1):
        name = TIER if number == 1 else f"{TIER} {number}"
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quoted(name)}"]
        lines += [f"        {line}" for line in _span(0.0, end_s)]
        lines.append(f"        intervals: size = {len(intervals)}")
        for index, (start_s, stop_s, text) in enumerate(intervals, start=1):
            lines.append(f"        intervals [{index}]:")
            lines += [f"            {line}" for line in (*_span(start_s, stop_s), f"text = {_quoted(text)}")]
    return "".join(f"{line}\n" for line in lines)


def _without_overlap(cycles: Sequence[CycleAnswer]) -> list[list[CycleAnswer]]:
    """The cycles (in order of time) dealt to as few tiers as hold them without overlap; one tier at least."""
    tiers: list[list[CycleAnswer]] = [[]]
    for cycle in cycles:
        free = next((tier for tier in tiers if not tier or tier[-1].end_s <= cycle.start_s), None)
        if free is None:
            tiers.append([cycle])
        else:
            free.append(cycle)
    return tiers


def _intervals(cycles: Sequence[CycleAnswer], end_s: float) -> list[Interval]:
    found: list[Interval] = []
    reached_s = 0.0
    for cycle in cycles:
        if reached_s < cycle.start_s:
            found.append((reached_s, cycle.start_s, ""))
        found.append((cycle.start_s, cycle.end_s, cycle.caption))
        reached_s = cycle.end_s
    if reached_s < end_s:
        found.append((reached_s, end_s, ""))
    return found


def _span(start_s: float, end_s: float) -> tuple[str, str]:
    return f"xmin = {start_s:.{TIME_DECIMALS}f}", f"xmax = {end_s:.{TIME_DECIMALS}f}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
