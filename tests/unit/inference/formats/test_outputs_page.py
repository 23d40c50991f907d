"""docs/outputs.md shows what is written: each of its examples is made again."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from lungsound.audio import quality
from lungsound.audio import quality as other_sounds
from lungsound.inference import predictor
from lungsound.inference.formats.annotations import (
    RECORD_KEY,
    audacity_text,
    fhir_text,
    icbhi_prediction_text,
    raven_text,
    sprsound_prediction_text,
    textgrid_text,
)
from lungsound.inference.formats.tables import COLUMN_TYPES, LAST_TYPES, csv_text, json_lines_text
from lungsound.inference.formats.write import FORMATS
from lungsound.inference.prediction import MEANINGS, RULE, CyclePrediction, Provenance, Reason, RecordingPrediction
from lungsound.inference.withholding import OF_REMARK
from lungsound.labels import LABEL_SETS, LabelSet

PAGE = Path(__file__).parents[4] / "docs" / "outputs.md"


def answers(label_set: LabelSet, crackle: str, wheeze: str) -> RecordingPrediction:
    """A cycle with crackles, one that is uncertain."""

    def cycle(start_s: float, end_s: float, answer: str, share: float, *possible: str) -> CyclePrediction:
        rest = round((1.0 - share) / (label_set.num_classes - 1), 4)
        shares = {name: share if name == answer else rest for name in label_set.classes}
        reasons = (Reason.LOW_CONFIDENCE,) if len(possible) > 1 else ()
        return CyclePrediction(start_s, end_s, answer, shares, reasons, possible)

    return RecordingPrediction(
        path=Path("ward/101_1b1_Al_sc_Meditron.wav"),
        duration_s=20.0,
        sample_rate_hz=44100,
        cycles_from="annotation",
        cycles=(cycle(0.036, 1.579, crackle, 0.82, crackle), cycle(1.579, 3.25, wheeze, 0.43, crackle, wheeze)),
        aggregate=cycle(0.0, 20.0, crackle, 0.7),
        patient="101",
        stethoscope="Meditron",
        quality=("mains hum",),
        out_of_domain=0.31,
    )


SOUND4, EVENTS = LABEL_SETS["sound4"], LABEL_SETS["sprsound_event7"]
PROVENANCE = Provenance(
    model_sha256="9f2c61d0" * 8,
    model="runs/patchmix",
    evidence="Trained on ICBHI 2017. Score (mean of specificity and sensitivity; always normal has 50 %) on patients "
    "of 3 to 81 years: patients held out 58.2 % (53.1 to 63.0).",
    label_set=SOUND4,
    band_hz=(0.0, 8000.0),
    settings={"engine": "torch", "device": "cpu", "cycles": "auto"}
    | {"domain": "48f7aa644522", "gate": "0d3ac7f1be54", "doubted": "9b61c02e7d35"},
    calibration="c41d7a02",
    lungsound_version="0.1.0",
    created=datetime(2026, 11, 23, 14, 5, tzinfo=UTC),
)


def examples() -> dict[str, str]:
    """What the page shows of each format."""
    answer = answers(SOUND4, "crackle", "wheeze")
    events = answers(EVENTS, "Fine Crackle", "Wheeze")
    sprsound = json.loads(sprsound_prediction_text(events, replace(PROVENANCE, label_set=EVENTS)))
    bundle = json.loads(fhir_text(answer, PROVENANCE))
    return {
        "csv": csv_text([answer], PROVENANCE),
        "jsonl": json.dumps(json.loads(json_lines_text([answer], PROVENANCE)), indent=1),
        "audacity": audacity_text(answer, PROVENANCE),
        "raven": raven_text(answer, PROVENANCE),
        "textgrid": textgrid_text(answer, PROVENANCE),
        "icbhi": str(icbhi_prediction_text(answer, PROVENANCE)),
        "sprsound": json.dumps({key: value for key, value in sprsound.items() if key != RECORD_KEY}),
        "fhir": json.dumps(bundle["entry"][2], indent=1),
    }


def test_the_pages_examples_are_what_is_written() -> None:
    shown = dict(re.findall(r"^### `(\w+)`.*?^```\w*\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S))
    for name, text in examples().items():
        assert shown[name].rstrip("\n") == text.rstrip("\n"), name


def test_the_page_tells_of_every_format_and_column() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in FORMATS if f"| `{name}` | `" not in text] == []
    assert [name for name in COLUMN_TYPES | LAST_TYPES if f"| `{name}` |" not in text] == []


def test_the_page_tells_of_every_remark() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("## Remarks")[2].partition("\n## ")[0]
    source = Path(quality.__file__).read_text(encoding="utf-8")
    kinds = {*re.findall(r'Defect\("([^"]+)"', source), quality.MOSTLY_SILENT, quality.TOO_SHORT}
    kinds |= {other_sounds.HUM, other_sounds.SPEECH, other_sounds.HEART, predictor.SILENT_CYCLES}
    kinds |= {predictor.UNLIKE, predictor.STETHOSCOPE_NOT_STATED, predictor.OTHER_STETHOSCOPE, predictor.AGE_NOT_STATED}
    assert len(kinds) >= 19
    assert kinds - set(re.findall("`([^`]+)`", text)) == set()
    assert set(re.findall(r"`([^`]+)` \*", text)) == set(OF_REMARK)


def test_the_page_tells_of_every_reason() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("## Reasons")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", text, re.M) == [reason.value for reason in Reason]
    assert list(MEANINGS) == list(Reason)


def test_the_page_tells_the_rule_of_the_whole() -> None:
    assert RULE in " ".join(PAGE.read_text(encoding="utf-8").split())
