"""Answers as annotations to be corrected and trained on: ICBHI's `.txt` and SPRSound's `.json`.

Neither has a word for "uncertain": the best guess is written for every cycle.
"""

import json
from typing import TYPE_CHECKING

from lungsound.answers.answer import Provenance, RecordingAnswer
from lungsound.answers.json_lines import record
from lungsound.errors import SettingsError
from lungsound.labels import LABEL_SETS, LabelSet, LungSound, sound_of

if TYPE_CHECKING:
    from lungsound.data.corpus import Cycle

RECORD_KEY = "lungsound"


def icbhi_answer_text(answer: RecordingAnswer, _: Provenance) -> str | None:
    """Lines `start end crackle wheeze`; None for a recording without cycles, for which ICBHI has no file."""
    from lungsound.data.annotations import icbhi_text  # here, since reading corpora brings in torch

    return icbhi_text(_cycles(answer)) if answer.cycles else None


def sprsound_answer_text(answer: RecordingAnswer, provenance: Provenance) -> str:
    """The events, or for a label set of recordings the word for the whole; all else under the key `lungsound`."""
    from lungsound.data.annotations import sprsound_text

    is_whole = provenance.label_set.unit == "recording"
    word = answer.whole.answer if is_whole and answer.whole is not None else None
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


def _cycles(answer: RecordingAnswer) -> "list[Cycle]":
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
        sound = sound_of(cycle.answer) or LungSound.NORMAL
        flags = (sound.has_crackle, sound.has_wheeze)
        found.append(Cycle(recording, cycle.start_s, cycle.end_s, *flags, cycle.answer, position))
    return found
