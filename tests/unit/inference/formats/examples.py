"""Answers for the tests of the formats: uncertain cycles, both sounds, overlap, awkward names, nothing at all."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from lungsound.inference.prediction import CyclePrediction, Provenance, Reason, RecordingPrediction
from lungsound.labels import LABEL_SETS, LabelSet

SOUND4 = LABEL_SETS["sound4"]
AWKWARD = LabelSet(
    "awkward", ("Normal", "Coarse Crackle, both lungs", 'a "quoted" word', "sibil\N{LATIN SMALL LETTER A}ncia")
)
PROVENANCE = Provenance(
    model_sha256="5d" * 32,
    model="runs/patchmix",
    evidence="Trained on nobody.",
    label_set=SOUND4,
    band_hz=(20.0, 8000.0),
    settings={"engine": "torch", "overlap": 0.5, "is_calibrated": True},
    calibration="cal-1f2e",
    lungsound_version="0.1.0",
    created=datetime(2026, 11, 23, 14, 5, 6, 789, tzinfo=timezone(timedelta(hours=1))),
)
SHARES = (0.125, 0.5, 0.0625, 0.3125)


def cycle(
    start_s: float,
    end_s: float,
    answer: str = "crackle",
    *,
    label_set: LabelSet = SOUND4,
    reasons: tuple[Reason, ...] = (),
    possible: tuple[str, ...] = (),
) -> CyclePrediction:
    """The answer's class has the highest probability, 0.5 of four classes."""
    shares = [share for share in SHARES if share != 0.5][: len(label_set.classes) - 1]
    rest = iter(shares)
    probabilities = {name: 0.5 if name == answer else next(rest) for name in label_set.classes}
    return CyclePrediction(start_s, end_s, answer, probabilities, reasons=reasons, possible=possible)


ANSWER = RecordingPrediction(
    path=Path("ward 3, left") / "\N{SNOWMAN}" / "101_1b1_Al_sc_Meditron.wav",
    duration_s=4.5,
    sample_rate_hz=44100,
    cycles_from="annotation",
    cycles=(
        cycle(1.5, 2.75, "both", possible=("both", "crackle")),
        cycle(0.25, 1.5, "normal"),
        cycle(3.0, 4.5, "wheeze", reasons=(Reason.SPEECH, Reason.LOW_CONFIDENCE), possible=("normal", "wheeze")),
    ),
    aggregate=cycle(0.0, 4.5, "both"),
    patient="P-101",
    stethoscope="Meditron",
    age_years=7.5,
    quality=("hum", "clipping"),
    out_of_domain=1.25,
)
SILENT = RecordingPrediction(
    path=Path("silent.wav"),
    duration_s=0.75,
    sample_rate_hz=4000,
    cycles_from="segmentation",
    cycles=(),
    quality=("silence",),
)
OVERLAPPING = replace(
    ANSWER,
    path=Path("windows.flac"),
    cycles_from="windows",
    cycles=(cycle(0.0, 2.0), cycle(1.0, 3.0, "normal"), cycle(2.0, 4.0, "wheeze"), cycle(3.0, 4.5, "both")),
)


def awkward_answer() -> tuple[RecordingPrediction, Provenance]:
    """Class names with blanks, commas, quotes and letters beyond ASCII."""
    names = AWKWARD.classes
    cycles = (
        cycle(0.0, 1.0, names[1], label_set=AWKWARD, possible=names[1:3]),
        cycle(1.0, 2.0, names[3], label_set=AWKWARD, reasons=(Reason.SPEECH, Reason.LOW_CONFIDENCE)),
        cycle(2.5, 3.0, names[2], label_set=AWKWARD),
    )
    whole = cycle(0.0, 4.5, names[1], label_set=AWKWARD)
    return replace(ANSWER, cycles=cycles, aggregate=whole), replace(PROVENANCE, label_set=AWKWARD)
