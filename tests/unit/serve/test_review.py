"""Review of a folder: order, predictions, sound, and corrected cycles as files that a corpus is read from."""

import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import soundfile
from fastapi.testclient import TestClient

from lungsound.audio import io as io_of_sounds
from lungsound.data.icbhi import read_annotation
from lungsound.data.sprsound import read_sprsound
from lungsound.data.table import read_table
from lungsound.errors import SettingsError
from lungsound.inference.prediction import CyclePrediction, RecordingPrediction, uncertainty
from lungsound.inference.predictor import Predictor
from lungsound.labels import LABEL_SETS
from lungsound.serve.limits import Limits, Refusal
from lungsound.serve.review import CorrectedCycle, CorrectedRecording, ReviewFolder, corrected_text
from lungsound.serve.server import predict_folder
from tests.unit.serve.served import breathing, client, recorded, save_tiny, sound

SOUND4 = LABEL_SETS["sound4"]
NEW = [{"start_s": 0.0, "end_s": 1.0, "label": "crackle"}, {"start_s": 1.0, "end_s": 3.0, "label": "normal"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three recordings of three patients, one of them in a folder within, and a file that is no sound."""
    root = tmp_path / "ward"
    (root / "monday").mkdir(parents=True)
    (root / "p1_a.wav").write_bytes(sound(seed=1))
    (root / "p2_a.flac").write_bytes(sound("FLAC", seed=2))
    (root / "monday" / "p3_a.wav").write_bytes(sound(seed=3))
    (root / "p4_a.wav").write_bytes(b"RIFF")
    return root


def answered(*probabilities: tuple[float, ...]) -> RecordingPrediction:
    cycles = tuple(
        CyclePrediction(start, start + 1, "normal", dict(zip(SOUND4.classes, each, strict=True)))
        for start, each in enumerate(probabilities)
    )
    return RecordingPrediction(Path("a.wav"), 10.0, 8000, "windows", cycles)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (answered((1, 0, 0, 0)), 0.0),
        (answered((0.25, 0.25, 0.25, 0.25)), 1.0),
        (answered((0.1, 0.7, 0.15, 0.05)), 0.45),
        (answered((1, 0, 0, 0), (0.4, 0.1, 0.4, 0.1)), 0.5),
        (answered(), 1.0),
    ],
)
def test_doubt_is_how_near_the_two_likeliest_are(answer: RecordingPrediction, expected: float) -> None:
    assert uncertainty(answer) == pytest.approx(expected)


def test_the_most_doubtful_come_first_and_what_has_no_answer_last(tiny: Predictor, folder: Path) -> None:
    with client(tiny, folder=folder) as http:
        before = http.get("/v1/recordings").json()
        predict_folder(http.service)
        after = http.get("/v1/recordings").json()
        assert http.get("/v1/model").json()["is_review"] is True
        opened = http.get(f"/v1/recordings/{after[-1]['id']}")
    assert [each["doubt"] for each in before] == [None] * 4
    assert {each["name"] for each in after} == {"p1_a.wav", "p2_a.flac", "monday/p3_a.wav", "p4_a.wav"}
    doubts = [each["doubt"] for each in after[:3]]
    assert doubts == sorted(doubts, reverse=True)
    for each in after[:3]:
        answer = tiny.predict(folder / each["name"])
        assert each["doubt"] == pytest.approx(uncertainty(answer), abs=1e-6)
        assert (each["num_cycles"], each["is_corrected"], each["error"]) == (len(answer.cycles), False, None)
    assert (after[3]["name"], after[3]["doubt"]) == ("p4_a.wav", None)
    assert str(folder) not in after[3]["error"]
    assert (opened.status_code, opened.json()["error"]) == (422, after[3]["error"])


def test_a_recording_that_is_replaced_is_answered_anew(tiny: Predictor, folder: Path) -> None:
    with client(tiny, folder=folder) as http:
        (id,) = [each["id"] for each in http.get("/v1/recordings").json() if each["name"] == "p1_a.wav"]
        first = http.get(f"/v1/recordings/{id}").json()
        assert http.get(f"/v1/recordings/{id}").json() == first
        shutil.copy(folder / "monday" / "p3_a.wav", folder / "p1_a.wav")
        second = http.get(f"/v1/recordings/{id}").json()
        (folder / "p1_a.wav").write_text("no sound")
        third = http.get(f"/v1/recordings/{id}")
    expected = tiny.predict(folder / "monday" / "p3_a.wav")
    assert [each["best_guess"] for each in second["cycles"]] == [each.best_guess for each in expected.cycles]
    assert second["cycles"] != first["cycles"]
    assert third.status_code == 422


def test_a_recording_is_answered_played_corrected_and_read_as_a_corpus(tiny: Predictor, folder: Path) -> None:
    with client(tiny, folder=folder) as http:
        ids = {each["name"]: each["id"] for each in http.get("/v1/recordings").json()}
        first = http.get(f"/v1/recordings/{ids['monday/p3_a.wav']}").json()
        audio = http.get(f"/v1/recordings/{ids['p2_a.flac']}/audio")
        for name in ("monday/p3_a.wav", "p2_a.flac", "p2_a.flac"):
            kept = http.put(f"/v1/recordings/{ids[name]}/cycles", json=NEW if name != "p2_a.flac" else NEW[:1])
            assert (kept.status_code, kept.json()["num_cycles"]) == (200, 2 if name != "p2_a.flac" else 1)
        second = http.get(f"/v1/recordings/{ids['monday/p3_a.wav']}").json()
        marks = {each["name"]: each["is_corrected"] for each in http.get("/v1/recordings").json()}
    assert (first["path"], first["corrected"]) == ("monday/p3_a.wav", None)
    assert second == {**first, "corrected": NEW, "provenance": second["provenance"]}
    samples, rate_hz = soundfile.read(io.BytesIO(audio.content))
    assert soundfile.info(io.BytesIO(audio.content)).subtype == "PCM_16"
    assert (rate_hz, audio.headers["content-type"]) == (8000, "audio/wav")
    assert samples == pytest.approx(breathing(seed=2), abs=2 / 2**15)
    assert marks == {"p1_a.wav": False, "p2_a.flac": True, "monday/p3_a.wav": True, "p4_a.wav": False}
    corpus = read_table(folder / "corrections").require_sound()
    assert [(c.recording.name, c.recording.patient, c.start_s, c.end_s, c.word) for c in corpus.cycles] == [
        ("monday/p3_a.wav", "p3", 0.0, 1.0, "crackle"),
        ("monday/p3_a.wav", "p3", 1.0, 3.0, "normal"),
        ("p2_a.flac", "p2", 0.0, 1.0, "crackle"),
    ]
    assert corpus.recordings[0].path.resolve() == folder / "monday" / "p3_a.wav"
    assert sorted(corpus.split.values()) == ["test", "train"]
    with client(tiny, folder=folder) as http:
        assert http.get(f"/v1/recordings/{ids['monday/p3_a.wav']}").json()["corrected"] == NEW


def test_what_no_browser_plays_is_played_as_wav(tiny: Predictor, folder: Path) -> None:
    soundfile.write(folder / "p5_a.wav", breathing(seed=5), 8000, subtype="FLOAT")
    with client(tiny, folder=folder) as http:
        (id,) = (each["id"] for each in http.get("/v1/recordings").json() if each["name"] == "p5_a.wav")
        samples, _ = soundfile.read(io.BytesIO(http.get(f"/v1/recordings/{id}/audio").content))
    assert samples == pytest.approx(breathing(seed=5), abs=2 / 2**15)


def test_what_telephones_record_is_reviewed(tiny: Predictor, folder: Path) -> None:
    (folder / "p6_a.m4a").write_bytes(recorded("m4a"))
    with client(tiny, folder=folder) as http:
        (id,) = (each["id"] for each in http.get("/v1/recordings").json() if each["name"] == "p6_a.m4a")
        assert http.get(f"/v1/recordings/{id}").json()["cycles"]
        samples, rate_hz = soundfile.read(io.BytesIO(http.get(f"/v1/recordings/{id}/audio").content))
        assert http.put(f"/v1/recordings/{id}/cycles", json=NEW).status_code == 200
    assert (len(samples) / rate_hz, samples.std()) == pytest.approx((3.2, breathing().std()), rel=0.15)
    assert read_table(folder / "corrections").require_sound().recordings[0].name == "p6_a.m4a"


def test_two_who_correct_at_once_lose_nothing(folder: Path) -> None:
    people = [ReviewFolder(folder, SOUND4, Limits()), ReviewFolder(folder, SOUND4, Limits())]
    ids = [each.id for each in people[0] if each.name != "p4_a.wav"]
    cycles = [CorrectedCycle(**each) for each in NEW]
    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(person.correct, id, cycles) for person in people for id in ids]:
            future.result()
    assert people[0].corrections() == people[1].corrections() == (dict.fromkeys(ids, cycles), ())


@pytest.mark.parametrize(
    ("cycles", "status"),
    [([], 422), ([{"start_s": 0, "end_s": 9, "label": "normal"}], 422), ({"cycles": NEW}, 422), (NEW, 200)],
)
def test_corrections_that_cannot_be_change_nothing(
    tiny: Predictor, folder: Path, cycles: list[dict], status: int
) -> None:
    with client(tiny, folder=folder) as http:
        id = next(each["id"] for each in http.get("/v1/recordings").json() if each["name"] == "p1_a.wav")
        assert http.put(f"/v1/recordings/{id}/cycles", json=NEW[:1]).status_code == 200
        assert http.put(f"/v1/recordings/{id}/cycles", json=cycles).status_code == status
        assert http.get(f"/v1/recordings/{id}").json()["corrected"] == (NEW if status == 200 else NEW[:1])


@pytest.mark.parametrize("id", ["x", "..", "%2e%2e%2fsecret", "p1_a.wav"])
def test_only_recordings_of_the_folder_are_reached(tiny: Predictor, folder: Path, id: str) -> None:
    with client(tiny, folder=folder) as http:
        assert http.get(f"/v1/recordings/{id}/audio").status_code == 404
        assert http.put(f"/v1/recordings/{id}/cycles", json=NEW).status_code == 404
    assert not (folder / "corrections").exists()


def put(http: TestClient, name: str, cycles: list[dict]) -> httpx.Response:
    (id,) = (each["id"] for each in http.get("/v1/recordings").json() if each["name"] == name)
    return http.put(f"/v1/recordings/{id}/cycles", json=cycles)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"path,patient,label\n../p1_a.wav,1,normal\n", None),
        (b"path,patient,label\n../none.wav,1,normal\n", "bad sound file"),
        (b"dear,nurse\n", "table not read"),
        ("path,patient,label\n".encode("utf-16"), "table not read"),
    ],
)
def test_a_table_by_hand_is_named_beside_the_rest_and_stays(
    tiny: Predictor, folder: Path, content: bytes, named: str | None
) -> None:
    table = folder / "corrections" / "corrections.csv"
    table.parent.mkdir()
    table.write_bytes(content)
    with client(tiny, folder=folder) as http:
        listed = http.get("/v1/recordings")
        kept = put(http, "p2_a.flac", NEW)
    assert listed.status_code == 200
    problems = [each for each in listed.json() if each["id"] is None]
    assert [each["error"].partition(":")[0] for each in problems] == ([] if named is None else [named])
    assert [each["is_corrected"] for each in listed.json() if each["name"] == "p1_a.wav"] == [named is None]
    assert kept.status_code == 409
    assert "corrections.csv" in kept.json()["error"]
    assert table.read_bytes() == content


def test_a_line_that_is_not_read_costs_no_other_and_stays(tiny: Predictor, folder: Path) -> None:
    """A moved sound, a slip of the pen, and a word that is none."""
    table = folder / "corrections" / "corrections.csv"
    with client(tiny, folder=folder) as http:
        for name in ("p1_a.wav", "p2_a.flac"):
            assert put(http, name, NEW).status_code == 200
        (folder / "p2_a.flac").rename(folder / "p9_a.flac")
        bad = "../p1_a.wav,0.0,x,1,0,p1,train,p1_a.wav"
        table.write_text(f"{table.read_text()}{bad}\n")
        listed = http.get("/v1/recordings").json()
        assert put(http, "monday/p3_a.wav", NEW).status_code == 200
        opened = http.get(f"/v1/recordings/{listed[0]['id']}")
        (folder / "p9_a.flac").rename(folder / "p2_a.flac")
        after = http.get("/v1/recordings").json()
    problems = [each["name"] for each in listed if each["id"] is None]
    assert sorted(name.endswith("p2_a.flac") for name in problems) == [False, True]
    assert {each["name"] for each in listed if each["is_corrected"]} == {"p1_a.wav"}
    assert opened.status_code in (200, 422)
    assert bad.partition("train")[0] in table.read_text()  # patients are split anew
    assert {each["name"] for each in after if each["is_corrected"]} == {"p1_a.wav", "p2_a.flac", "monday/p3_a.wav"}
    assert len([each for each in after if each["id"] is None]) == 1


@pytest.mark.parametrize(
    "name", [" p5_a.wav", "_a.wav", "  .wav", 'a,"b".wav', "a\nb.wav", "a\rb.wav", "=1+1.wav", "a\udcff.wav"]
)
def test_any_name_is_read_back_or_refused(tiny: Predictor, folder: Path, name: str) -> None:
    (folder / name).write_bytes(sound(seed=5))
    (folder / name.strip()).write_bytes(sound(seed=6))
    shown = name.encode("utf-8", "backslashreplace").decode()
    with client(tiny, folder=folder) as http:
        assert put(http, "p1_a.wav", NEW).status_code == 200
        kept = put(http, shown, NEW)
        listed = http.get("/v1/recordings").json()
    assert kept.status_code in (200, 422)
    corrected = {each["name"] for each in listed if each["is_corrected"]}
    assert corrected == ({"p1_a.wav", shown} if kept.status_code == 200 else {"p1_a.wav"})
    assert kept.status_code == (422 if name in ("a\nb.wav", "a\rb.wav", "a\udcff.wav") else 200)
    assert [each for each in listed if each["id"] is None] == []


@pytest.mark.parametrize(
    "spans_s",
    [
        [(0, 1e-9)],
        [(1, 2), (1 + 1e-7, 2)],
        [(0, 3.2 + 1e-9)],
        [(0, 3.2099)],
        [(3.2 - 1e-9, 3.2)],
        [(1e-320, 3)],
        [(0.1 + 0.2, 0.7 + 0.1)],
    ],
)
def test_what_is_kept_is_read_back(tiny: Predictor, folder: Path, spans_s: list[tuple[float, float]]) -> None:
    cycles = [{"start_s": start_s, "end_s": end_s, "label": "normal"} for start_s, end_s in spans_s]
    with client(tiny, folder=folder) as http:
        assert put(http, "p2_a.flac", NEW).status_code == 200
        status = put(http, "p1_a.wav", cycles).status_code
        listed = http.get("/v1/recordings")
        assert put(http, "p2_a.flac", NEW).status_code == 200
    assert listed.status_code == 200
    corrected = {each["name"] for each in listed.json() if each["is_corrected"]}
    assert (status, corrected) in ((200, {"p1_a.wav", "p2_a.flac"}), (422, {"p2_a.flac"}))
    assert read_table(folder / "corrections").problems == ()


def test_no_sound_is_read_in_the_service(tiny: Predictor, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it happens in processes that can be ended."""
    with client(tiny, folder=folder) as http:
        assert put(http, "p1_a.wav", NEW).status_code == 200

        def read(*_: object, **__: object) -> None:
            raise AssertionError("read in the service")

        monkeypatch.setattr(io_of_sounds, "_decode", read)
        (folder / "p2_a.flac").write_bytes(sound("FLAC", seed=5))
        assert put(http, "p2_a.flac", NEW).status_code == 200
        assert [each["name"] for each in http.get("/v1/recordings").json() if each["is_corrected"]] == [
            "p1_a.wav",
            "p2_a.flac",
        ]


def test_a_table_that_takes_too_much_to_read_costs_nothing_else(
    tiny: Predictor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object, **__: object) -> None:
        raise Refusal("too large", "reading takes more than 600 MB")

    with client(tiny, folder=folder) as http:
        assert put(http, "p1_a.wav", NEW).status_code == 200
        monkeypatch.setattr("lungsound.serve.review.run_apart", ended)
        listed, kept = http.get("/v1/recordings"), put(http, "p2_a.flac", NEW)
    assert [each["error"] for each in listed.json() if each["id"] is None] == [
        "table not read: reading takes more than 600 MB"
    ]
    assert (len(listed.json()), kept.status_code) == (5, 413)


def test_a_folder_that_cannot_be_reviewed_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(SettingsError, match="is no folder"):
        ReviewFolder(tmp_path / "none", SOUND4, Limits())
    with pytest.raises(SettingsError, match="'sprsound_record3' is of whole recordings"):
        ReviewFolder(folder, LABEL_SETS["sprsound_record3"], Limits())


CYCLES = [
    {"start_s": 1.5, "end_s": 3.2, "label": "both"},
    {"start_s": 0.036, "end_s": 1.5, "label": "normal"},
]
GIVEN = {"name": "p07_left, again.wav", "duration_s": 3.2, "sample_rate_hz": 8000, "cycles": CYCLES}


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
        ({"cycles": [{"start_s": -1, "end_s": 1, "label": "both"}]}, "body.cycles.0.start_s"),
        ({"cycles": [{"start_s": 0, "end_s": "inf", "label": "both"}]}, "body.cycles.0.end_s"),
        ({"cycles": [{"start_s": 0, "end_s": 1, "labels": "both"}]}, "body.cycles.0.label"),
        ({"duration_s": 0}, "body.duration_s"),
        ({"patient": "\ud800"}, "body.patient"),
        ({"patient": "a\x1b[31m"}, "body.patient"),
        ({"patient": "x" * 201}, "body.patient"),
        ({"cycles": [{"start_s": 0, "end_s": 1, "label": "x" * 10_000}]}, "x...x"),
        ({"cycles": [{"start_s": 0, "end_s": 1, "label": "\ud800"}]}, "label '\\ud800' is none of"),
    ],
)
def test_cycles_that_cannot_be_are_named(tiny: Predictor, change: dict, message: str) -> None:
    with client(tiny) as http:
        content = json.dumps({**GIVEN, **change})  # halves of characters are escaped
        answer = http.post("/v1/answers/csv", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert message in answer.json()["error"]
    assert len(answer.json()["error"]) < 300


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
