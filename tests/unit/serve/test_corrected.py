"""Cycles corrected by hand, as files that a corpus is read from again."""

from pathlib import Path

import pytest

from lungsound.data.icbhi import read_annotation
from lungsound.data.sprsound import read_sprsound
from lungsound.data.table import read_table
from lungsound.inference.predictor import Predictor
from lungsound.labels import LABEL_SETS
from lungsound.serve.limits import Refusal
from lungsound.serve.review import CorrectedRecording, corrected_text
from tests.unit.serve.served import client, save_tiny, sound

CYCLES = [
    {"start_s": 1.5, "end_s": 3.2, "label": "both"},
    {"start_s": 0.036, "end_s": 1.5, "label": "normal"},
]
GIVEN = {"name": "p07_left, again.wav", "duration_s": 3.2, "sample_rate_hz": 8000, "cycles": CYCLES}
SOUND4 = LABEL_SETS["sound4"]


def test_icbhi_comes_back_as_it_was_corrected(tiny: Predictor, tmp_path: Path) -> None:
    with client(tiny) as http:
        answer = http.post("/v1/answers/icbhi", json=GIVEN)
    assert answer.headers["Content-Disposition"] == 'attachment; filename="corrected.txt"'
    (tmp_path / "a.txt").write_bytes(answer.content)
    found = [cycle for _, cycle in read_annotation(tmp_path / "a.txt")]
    assert found == [(0.036, 1.5, False, False), (1.5, 3.2, True, True)]


def test_a_table_beside_the_sound_is_a_corpus(tiny: Predictor, tmp_path: Path) -> None:
    with client(tiny) as http:
        answer = http.post("/v1/answers/csv", json=GIVEN)
    (tmp_path / GIVEN["name"]).write_bytes(sound())
    (tmp_path / "table.csv").write_bytes(answer.content)
    corpus = read_table(tmp_path).require_sound()
    (recording,) = corpus.recordings
    assert (recording.patient, recording.name, corpus.vocabulary) == ("p07", "p07_left, again", "sound4")
    assert [(cycle.start_s, cycle.end_s, cycle.word) for cycle in corpus.cycles] == [
        (0.036, 1.5, "normal"),
        (1.5, 3.2, "both"),
    ]


def test_sprsound_comes_back_in_its_own_words(tmp_path: Path) -> None:
    predictor = Predictor.load(save_tiny(tmp_path / "model.safetensors", label_set="sprsound_event7"))
    cycles = [{"start_s": 0.5, "end_s": 1.25, "label": "Rhonchi"}, {"start_s": 1.25, "end_s": 3, "label": "Normal"}]
    name = "40512331_8.1_1_p1_3544"
    with client(predictor) as http:
        answer = http.post("/v1/answers/sprsound", json={**GIVEN, "name": f"{name}.wav", "cycles": cycles})
        table = http.post("/v1/answers/csv", json={**GIVEN, "name": f"{name}.wav", "cycles": cycles, "patient": "7"})
    for folder in ("train_wav", "train_json", "test_wav", "test_json/inter_test_json", "test_json/intra_test_json"):
        (tmp_path / "corpus" / folder).mkdir(parents=True)
    (tmp_path / f"corpus/train_wav/{name}.wav").write_bytes(sound())
    (tmp_path / f"corpus/train_json/{name}.json").write_bytes(answer.content)
    found = [(c.start_s, c.end_s, c.word) for c in read_sprsound(tmp_path / "corpus").cycles]
    assert found == [(0.5, 1.25, "Rhonchi"), (1.25, 3.0, "Normal")]
    assert table.text.splitlines()[1] == f"{name}.wav,0.5,1.25,Rhonchi,7,train,{name}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cycles": []}, "no cycles"),
        ({"cycles": [{"start_s": 0, "end_s": 1, "label": "rale"}]}, "label 'rale' is none of normal, crackle, wheeze"),
        ({"cycles": [{"start_s": 0, "end_s": 4, "label": "both"}]}, "cycle past the end: from 0 s to 4 s"),
        ({"cycles": [CYCLES[0], CYCLES[0]]}, "duplicate cycle: 1.500-3.200 s"),
        ({"cycles": [{"start_s": 1, "end_s": 1, "label": "both"}]}, "empty cycle: from 1 s to 1 s"),
        ({"cycles": [{"start_s": -1, "end_s": 1, "label": "both"}]}, "body.cycles.0.start_s: "),
        ({"cycles": [{"start_s": 0, "end_s": "inf", "label": "both"}]}, "body.cycles.0.end_s: "),
        ({"cycles": [{"start_s": 0, "end_s": 1, "labels": "both"}]}, "body.cycles.0.label: "),
        ({"duration_s": 0}, "body.duration_s: "),
    ],
)
def test_cycles_that_cannot_be_are_named(tiny: Predictor, change: dict, message: str) -> None:
    with client(tiny) as http:
        answer = http.post("/v1/answers/csv", json={**GIVEN, **change})
    assert answer.status_code == 422
    assert message in answer.json()["error"]


def test_many_cycles_take_no_long_time() -> None:
    cycles = [{"start_s": n / 100, "end_s": (n + 1) / 100, "label": "normal"} for n in range(5000)]
    given = CorrectedRecording.model_validate({**GIVEN, "duration_s": 200, "cycles": cycles})
    assert corrected_text(given, "icbhi", SOUND4).count("\n") == 5000


def test_a_format_without_words_is_refused() -> None:
    given = CorrectedRecording.model_validate(GIVEN)
    with pytest.raises(Refusal, match="sprsound has no words for label set 'sound4'; formats that have: icbhi, csv"):
        corrected_text(given, "sprsound", SOUND4)
    with pytest.raises(Refusal, match="formats that have: none"):
        corrected_text(given, "csv", LABEL_SETS["sprsound_record3"])
