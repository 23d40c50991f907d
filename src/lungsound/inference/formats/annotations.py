"""Predictions beside a recording: Audacity, Raven, Praat's TextGrid, ICBHI's `.txt`, SPRSound's `.json`, and FHIR.

ICBHI and SPRSound have no word for "uncertain": the best guess is written for every cycle.
"""

import json
from itertools import compress
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

from lungsound.errors import SettingsError
from lungsound.inference.formats.tables import PROBABILITY_PREFIX, record
from lungsound.inference.prediction import SEPARATOR, TIME_DECIMALS, Provenance, RecordingPrediction, lanes
from lungsound.labels import LABEL_SETS, LabelSet, LungSound, sound_of
from lungsound.page import render

if TYPE_CHECKING:
    from lungsound.data.corpus import Cycle

RAVEN_COLUMNS = ("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)")
OWN_COLUMNS, LAST_COLUMN = ("Answer", "Best Guess", "Possible"), "Reasons"
TIER = "lung sound"
RECORD_KEY = "lungsound"  # of SPRSound's JSON
RESEARCH_USE = "research use only, not for diagnosis"


def audacity_text(prediction: RecordingPrediction, _: Provenance) -> str:
    """Label track of lines `start<TAB>end<TAB>label` (s), each label the caption of its cycle."""
    return "".join(
        f"{cycle.start_s:.{TIME_DECIMALS}f}\t{cycle.end_s:.{TIME_DECIMALS}f}\t{cycle.caption}\n"
        for cycle in prediction.cycles
    )


def raven_text(prediction: RecordingPrediction, provenance: Provenance) -> str:
    """Selection table: Raven's columns, then ours; over the frequencies of the model's input and the recording."""
    classes = provenance.label_set.classes
    low_hz, high_hz = provenance.band_hz
    high_hz = min(high_hz, prediction.sample_rate_hz / 2)
    lines = [[*RAVEN_COLUMNS, *OWN_COLUMNS, *(PROBABILITY_PREFIX + name for name in classes), LAST_COLUMN]]
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
            SEPARATOR.join(cycle.reasons),
        ]
        for number, cycle in enumerate(prediction.cycles, start=1)
    ]
    return "".join("\t".join(line) + "\n" for line in lines)


def textgrid_text(prediction: RecordingPrediction, _: Provenance) -> str:
    """TextGrid (long form) whose intervals cover the recording; overlapping cycles stand in tiers of their own."""
    # An annotation may end a little behind its recording.
    end_s = max([prediction.duration_s, *(cycle.end_s for cycle in prediction.cycles)])
    rows = lanes([(cycle.start_s, cycle.end_s) for cycle in prediction.cycles])
    tiers = []
    for tier in range(1 + max(rows, default=0)):
        intervals, reached_s = [], 0.0
        for cycle in compress(prediction.cycles, [row == tier for row in rows]):
            if reached_s < cycle.start_s:
                intervals.append((reached_s, cycle.start_s, ""))
            intervals.append((cycle.start_s, cycle.end_s, cycle.caption))
            reached_s = cycle.end_s
        if reached_s < end_s:
            intervals.append((reached_s, end_s, ""))
        tiers.append(intervals)
    return render("TextGrid", name=TIER, end_s=end_s, tiers=tiers)


def icbhi_prediction_text(prediction: RecordingPrediction, _: Provenance) -> str | None:
    """Lines `start end crackle wheeze`; None for a recording without cycles, for which ICBHI has no file."""
    from lungsound.data.convert import icbhi_text

    return icbhi_text(_cycles(prediction)) if prediction.cycles else None


def sprsound_prediction_text(prediction: RecordingPrediction, provenance: Provenance) -> str:
    """Events, or for a label set of recordings the recording's word; everything else under the key `lungsound`."""
    from lungsound.data.convert import sprsound_text

    if provenance.label_set.unit == "recording":
        content = sprsound_text(None if prediction.aggregate is None else prediction.aggregate.best_guess, ())
    else:
        content = sprsound_text(None, _cycles(prediction))
    return json.dumps({**json.loads(content), RECORD_KEY: record(prediction, provenance)}, allow_nan=False)


def fhir_text(prediction: RecordingPrediction, provenance: Provenance) -> str:
    """FHIR R4 Bundle: a preliminary DiagnosticReport, its Observations, and the Device that made them.

    No code of a terminology is used but for units and for absent values: a prediction is no finding. Nothing names the
    patient or the file: the subject is the pseudonym, or left out. The same prediction gives the same ids.
    https://hl7.org/fhir/R4/diagnosticreport.html, observation.html, device.html
    """

    def url(part: str) -> str:
        facts = (provenance.model_sha256, provenance.created_text, prediction.path_text, part)
        return uuid5(NAMESPACE_URL, "\n".join(facts)).urn

    score, calibration = prediction.out_of_domain, provenance.calibration
    versions = {"lungsound": provenance.lungsound_version, "model SHA-256": provenance.model_sha256}
    conclusion = "No answer" if prediction.aggregate is None else prediction.aggregate.caption
    bundle = render(
        "fhir.json",
        prediction=prediction,
        provenance=provenance,
        url=url,
        research_use=RESEARCH_USE,
        method=f"lungsound {provenance.lungsound_version}, model SHA-256 {provenance.model_sha256}, "
        f"calibration {calibration or 'none'}; cycles from {prediction.cycles_from}",
        versions=versions if calibration is None else versions | {"calibration": calibration},
        settings=f"label set {provenance.label_set.name}; settings {json.dumps(provenance.settings, allow_nan=False)}",
        remarks=[f"quality: {name}" for name in prediction.quality]
        + ([] if score is None else [f"out-of-domain score: {score:g}"]),
        conclusion=f"{provenance.evidence} {conclusion}. {provenance.note}",
    )
    return json.dumps(json.loads(bundle), allow_nan=False, indent=1) + "\n"


def require_words(to: str, label_set: LabelSet) -> None:
    """SettingsError unless each class is one of the four sounds (icbhi), or of SPRSound's events or recordings."""
    if to == "icbhi":
        known, unknown = LABEL_SETS["sound4"].classes, [name for name in label_set.classes if sound_of(name) is None]
    else:
        known = LABEL_SETS["sprsound_record5" if label_set.unit == "recording" else "sprsound_event7"].classes
        unknown = [name for name in label_set.classes if name not in known]
    if unknown:
        raise SettingsError(
            f"{to} has no word for {', '.join(map(repr, unknown))} of label set {label_set.name!r}; its words are "
            f"{', '.join(known)}: choose another format, or a model of another label set"
        )


def _cycles(prediction: RecordingPrediction) -> "list[Cycle]":
    from lungsound.data.corpus import Cycle, Recording

    recording = Recording(
        name=prediction.name,
        patient=prediction.patient or "unknown",
        path=prediction.path,
        duration_s=prediction.duration_s,
        sample_rate_hz=prediction.sample_rate_hz,
        device=prediction.stethoscope,
    )
    cycles = []
    for position, cycle in enumerate(prediction.cycles):
        sound = sound_of(cycle.best_guess) or LungSound.NORMAL
        flags = (sound.has_crackle, sound.has_wheeze)
        cycles.append(Cycle(recording, cycle.start_s, cycle.end_s, *flags, cycle.best_guess, position))
    return cycles
