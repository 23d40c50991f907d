"""Review of a folder: the most doubtful first, corrections kept in a table that a corpus is read from."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import soundfile

from lungsound.data.table import read_table
from lungsound.errors import SettingsError
from lungsound.inference.prediction import CyclePrediction, RecordingPrediction, uncertainty
from lungsound.inference.predictor import Predictor
from lungsound.labels import LABEL_SETS
from lungsound.serve.review import CorrectedCycle, ReviewFolder
from lungsound.serve.server import predict_folder
from tests.unit.serve.served import breathing, client, recorded, sound

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
    people = [ReviewFolder(folder, SOUND4), ReviewFolder(folder, SOUND4)]
    ids = [each.id for each in people[0] if each.name != "p4_a.wav"]
    cycles = [CorrectedCycle(**each) for each in NEW]
    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(person.correct, id, cycles) for person in people for id in ids]:
            future.result()
    assert set(people[0].corrections()) == set(ids)
    assert people[1].corrections() == dict.fromkeys(ids, cycles)


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


def test_a_table_that_somebody_broke_is_an_error_and_stays(tiny: Predictor, folder: Path) -> None:
    table = folder / "corrections" / "corrections.csv"
    table.parent.mkdir()
    table.write_text("path,patient,label\n../none.wav,1,normal\n")
    with client(tiny, folder=folder) as http:
        answer = http.get("/v1/recordings")
    assert answer.status_code == 422
    assert "1 problem" in answer.json()["error"]
    assert table.read_text().endswith("../none.wav,1,normal\n")


def test_a_folder_that_cannot_be_reviewed_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(SettingsError, match="is no folder"):
        ReviewFolder(tmp_path / "none", SOUND4)
    with pytest.raises(SettingsError, match="'sprsound_record3' is of whole recordings"):
        ReviewFolder(folder, LABEL_SETS["sprsound_record3"])
