"""Answers as an Audacity label track: lines `start<TAB>end<TAB>label`, in seconds.

Answers as a Raven selection table: tab-separated, with the columns that Raven needs and ours behind them.

Answers as a Praat TextGrid (long form): intervals cover the recording, those between cycles are empty.

Answers as annotations to be corrected and trained on: ICBHI's `.txt` and SPRSound's `.json`.

Neither has a word for "uncertain": the best guess is written for every cycle.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lungsound.errors import SettingsError
from lungsound.inference.formats.json_lines import record
from lungsound.inference.formats.tables import PROBABILITY_PREFIX
from lungsound.inference.prediction import SEPARATOR, TIME_DECIMALS, CyclePrediction, Provenance, RecordingPrediction
from lungsound.labels import LABEL_SETS, LabelSet, LungSound, sound_of

if TYPE_CHECKING:
    from lungsound.data.corpus import Cycle


def audacity_text(answer: RecordingPrediction, _: Provenance) -> str:
    """A label for each cycle, as "crackle 0.83" or "uncertain (crackle 0.41)"."""
    return "".join(
        f"{cycle.start_s:.{TIME_DECIMALS}f}\t{cycle.end_s:.{TIME_DECIMALS}f}\t{cycle.caption}\n"
        for cycle in answer.cycles
    )


COLUMNS = (
    "Selection",
    "View",
    "Channel",
    "Begin Time (s)",
    "End Time (s)",
    "Low Freq (Hz)",
    "High Freq (Hz)",
    "Answer",
    "Best Guess",
    "Possible",
)


def raven_text(answer: RecordingPrediction, provenance: Provenance) -> str:
    """A selection for each cycle, over the frequencies that the model hears and the recording has."""
    classes = provenance.label_set.classes
    low_hz, high_hz = provenance.band_hz
    high_hz = min(high_hz, answer.sample_rate_hz / 2)
    lines = [[*COLUMNS, *(PROBABILITY_PREFIX + name for name in classes)]]
    lines += [
        [
            str(number),
            "Spectrogram 1",
            "1",
            f"{cycle.start_s:.{TIME_DECIMALS}f}",
            f"{cycle.end_s:.{TIME_DECIMALS}f}",
            f"{low_hz:.1f}",
            f"{high_hz:.1f}",
            cycle.label,
            cycle.best_guess,
            SEPARATOR.join(cycle.possible),
            *(f"{cycle.probabilities[name]:.6f}" for name in classes),
        ]
        for number, cycle in enumerate(answer.cycles, start=1)
    ]
    return "".join("\t".join(line) + "\n" for line in lines)


TIER = "lung sound"

Interval = tuple[float, float, str]


def textgrid_text(answer: RecordingPrediction, _: Provenance) -> str:
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


def _without_overlap(cycles: Sequence[CyclePrediction]) -> list[list[CyclePrediction]]:
    """The cycles (in order of time) dealt to as few tiers as hold them without overlap; one tier at least."""
    tiers: list[list[CyclePrediction]] = [[]]
    for cycle in cycles:
        free = next((tier for tier in tiers if not tier or tier[-1].end_s <= cycle.start_s), None)
        if free is None:
            tiers.append([cycle])
        else:
            free.append(cycle)
    return tiers


def _intervals(cycles: Sequence[CyclePrediction], end_s: float) -> list[Interval]:
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


RECORD_KEY = "lungsound"


def icbhi_prediction_text(answer: RecordingPrediction, _: Provenance) -> str | None:
    """Lines `start end crackle wheeze`; None for a recording without cycles, for which ICBHI has no file."""
    from lungsound.data.convert import icbhi_text

    return icbhi_text(_cycles(answer)) if answer.cycles else None


def sprsound_prediction_text(answer: RecordingPrediction, provenance: Provenance) -> str:
    """The events, or for a label set of recordings the word for the whole; all else under the key `lungsound`."""
    from lungsound.data.convert import sprsound_text

    is_whole = provenance.label_set.unit == "recording"
    word = answer.aggregate.best_guess if is_whole and answer.aggregate is not None else None
    content = json.loads(sprsound_text(word, () if is_whole else _cycles(answer)))
    return json.dumps({**content, RECORD_KEY: record(answer, provenance)}, allow_nan=False)


def require_icbhi_words(label_set: LabelSet) -> None:
    """SettingsError unless each class is one of the four sounds."""
    _require("icbhi", label_set, LABEL_SETS["sound4"].classes, [n for n in label_set.classes if sound_of(n) is None])


def require_sprsound_words(label_set: LabelSet) -> None:
    """SettingsError unless each class is a type of SPRSound's events, or of its recordings."""
    known = LABEL_SETS["sprsound_record5" if label_set.unit == "recording" else "sprsound_event7"].classes
    _require("sprsound", label_set, known, [name for name in label_set.classes if name not in known])


def _require(to: str, label_set: LabelSet, known: tuple[str, ...], unsaid: list[str]) -> None:
    if unsaid:
        raise SettingsError(
            f"{to} has no word for {', '.join(map(repr, unsaid))} of label set {label_set.name!r}; its words are "
            f"{', '.join(known)}: choose another format, or a model of another label set"
        )


def _cycles(answer: RecordingPrediction) -> "list[Cycle]":
    from lungsound.data.corpus import Cycle, Recording

    recording = Recording(
        name=answer.name,
        patient=answer.patient or "unknown",
        path=answer.path,
        duration_s=answer.duration_s,
        sample_rate_hz=answer.sample_rate_hz,
        device=answer.device,
    )
    found = []
    for position, cycle in enumerate(answer.cycles):
        sound = sound_of(cycle.best_guess) or LungSound.NORMAL
        flags = (sound.has_crackle, sound.has_wheeze)
        found.append(Cycle(recording, cycle.start_s, cycle.end_s, *flags, cycle.best_guess, position))
    return found
