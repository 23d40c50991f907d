"""A sound in, its record out: as the predictor answers, under the sender's name, and nothing kept."""

import json
from pathlib import Path

import pytest

from lungsound.inference.prediction import Reason
from lungsound.inference.predictor import Predictor
from lungsound.labels import LABEL_SETS
from lungsound.serve import uploads
from lungsound.serve.limits import Limits
from lungsound.serve.routes import OPENAPI
from tests.unit.serve.served import client, recorded, save_tiny, sound


def without_time(record: dict) -> dict:
    return {**record, "provenance": {**record["provenance"], "created": None}}


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3", "m4a", "aac", "webm", "mp4"])
def test_the_record_is_the_predictors_answer_for_the_file(
    tiny: Predictor, format: str, tmp_path: Path, temporary: Path
) -> None:
    path = tmp_path / f"any.{format.lower()}"
    path.write_bytes(sound(format, duration_s=6.4) if format.isupper() else recorded(format, duration_s=6.4))
    expected = tiny.predict(path)
    with client(tiny) as http:
        form = http.post("/v1/predictions", files={"file": ("ward 3/ann.wav", path.read_bytes())})
        raw = http.post("/v1/predictions?name=ann.wav", content=path.read_bytes())
    assert form.status_code == raw.status_code == 200
    assert without_time(form.json()) == without_time(raw.json())
    record = form.json()
    assert (record["path"], record["patient"], record["cycles_from"]) == ("ann.wav", None, expected.cycles_from)
    assert record["duration_s"] == expected.duration_s
    for given, cycle in zip(record["cycles"], expected.cycles, strict=True):
        assert (given["start_s"], given["end_s"], given["best_guess"]) == (cycle.start_s, cycle.end_s, cycle.best_guess)
        assert given["probabilities"] == pytest.approx(dict(cycle.probabilities), abs=1e-6)
    assert record["provenance"]["model"].startswith("tiny-run")
    assert "/" not in record["provenance"]["model"]
    assert list(temporary.iterdir()) == []


def test_what_telephones_record_needs_an_extra_which_is_named(
    tiny: Predictor, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    monkeypatch.setattr(uploads, "is_installed", lambda _: False)
    with client(tiny) as http:
        for head, name in ((b"\0\0\0\x1cftypM4A ", "m4a"), (b"\x1aE\xdf\xa3", "webm"), (b"\xff\xf1L@", "aac")):
            answer = http.post("/v1/predictions", content=head + bytes(100))
            needed = f"{name} needs FFmpeg, which is not installed here (pip install 'lungsound[av]')"
            assert (answer.status_code, answer.json()["error"]) == (415, f"{needed}; send wav, flac, ogg, mp3")
        assert http.get("/v1/model").json()["sound_formats"] == ["wav", "flac", "ogg", "mp3"]
    assert list(temporary.iterdir()) == []


def test_an_annotation_says_where_the_cycles_are(tiny: Predictor) -> None:
    with client(tiny) as http:
        files = {"file": ("a.wav", sound()), "annotation": ("notes.txt", b"1.5\t2.5\t1\t0\n0.1\t1.2\t0\t0\n")}
        record = http.post("/v1/predictions?stethoscope=Meditron", files=files).json()
        bad = http.post("/v1/predictions", files={**files, "annotation": ("a.txt", b"of the nurse\n")})
        late = http.post("/v1/predictions", files={**files, "annotation": ("a.txt", b"7 9 0 0\n")})
    assert [(cycle["start_s"], cycle["end_s"]) for cycle in record["cycles"]] == [(0.1, 1.2), (1.5, 2.5)]
    assert (record["cycles_from"], record["stethoscope"]) == ("annotation", "Meditron")
    assert bad.status_code == late.status_code == 422
    assert bad.json()["error"].startswith("the annotation line 1: ")
    assert late.json()["error"].startswith("the annotation line 1: cycle past the end: from 7 s")


WRONG = ("a\nb", "\x1b[31m", "x" * 201)


def test_the_age_that_is_stated_counts_for_all_sounds_of_a_request(tiny: Predictor) -> None:
    with client(tiny) as http:
        one = http.post("/v1/predictions?age_years=7.5&stethoscope=", files={"file": ("a.wav", sound())}).json()
        two = http.post("/v1/batch?age_years=7.5&stethoscope=Meditron", files=[("file", ("a.wav", sound()))]).json()
        form = http.post(
            "/v1/predictions", files={"file": ("a.wav", sound())}, data={"age_years": "8", "stethoscope": " Meditron "}
        ).json()
        ages = ("old", "-1", "nan", "inf", "1_0", "9" * 500)
        for name, word, values in (("age_years", "age", ages), ("stethoscope", "stethoscope", WRONG)):
            for wrong in values:
                query = http.post("/v1/predictions", params={name: wrong}, files={"file": ("a.wav", sound())})
                batch = http.post("/v1/batch", data={name: wrong}, files={"file": ("a.wav", sound())})
                assert query.status_code == batch.status_code == 422
                assert query.json()["error"].startswith(f"{word} is ")
        for twice in ("?age_years=8", "?age_years=8&age_years=9"):
            answer = http.post(f"/v1/predictions{twice}", files={"file": ("a.wav", sound())}, data={"age_years": "80"})
            assert (answer.status_code, "age_years" in answer.json()["error"]) == (422, True)
    assert (one["age_years"], one["stethoscope"]) == (7.5, None)
    assert (form["age_years"], form["stethoscope"]) == (8.0, "Meditron")
    assert [(each["age_years"], each["stethoscope"]) for each in two["results"]] == [(7.5, "Meditron")]


@pytest.mark.parametrize("path", ["/v1/predictions", "/v1/batch"])
def test_a_name_that_nobody_reads_is_refused(path: str, tiny: Predictor) -> None:
    """An age under another name would be lost, and with it a reason to withhold."""
    files = {"file": ("a.wav", sound())}
    with client(tiny) as http:
        for name in ("age", "device", "stehtoscope", "x" * 5000):
            answer = http.post(f"{path}?{name}=7", files=files)
            assert answer.status_code == 422
            assert name[:80] in answer.json()["error"]
            assert len(answer.json()["error"]) < 200
        in_form = http.post(path, files=files, data={"age": "70"})
    assert in_form.status_code == 422
    assert "'age' is not read in the form" in in_form.json()["error"]


def test_a_batch_answers_what_it_can_and_names_the_rest(tiny: Predictor, temporary: Path) -> None:
    files = [
        ("file", ("a.wav", sound(seed=1))),
        ("file", ("../b.wav", b"RIFF")),
        ("file", ("c.flac", sound("FLAC", seed=2))),
    ]
    with client(tiny) as http:
        answer = http.post("/v1/batch", files=files)
        metrics = http.get("/metrics").text
    first, second, third = answer.json()["results"]
    assert answer.status_code == 200
    assert (first["path"], third["path"]) == ("a.wav", "c.flac")
    assert second == {
        "name": "b.wav",
        "error": f"not a sound file of a format that is read; send {', '.join(uploads.formats())}",
    }
    assert 'lungsound_errors_total{kind="not sound"} 1.0' in metrics
    assert list(temporary.iterdir()) == []


def test_the_files_of_a_batch_are_answered_as_each_alone(tiny: Predictor) -> None:
    contents = [sound(seed=seed, duration_s=1 + seed % 3) for seed in range(12)]
    with client(tiny) as http:
        alone = [
            http.post(f"/v1/predictions?name={n}.wav", content=content).json() for n, content in enumerate(contents)
        ]
        files = [("file", (f"{n}.wav", content)) for n, content in enumerate(contents)]
        together = http.post("/v1/batch", files=files).json()["results"]
    assert [each["path"] for each in together] == [f"{n}.wav" for n in range(12)]
    for one, other in zip(alone, together, strict=True):
        assert len(one["cycles"]) == len(other["cycles"]) > 0
        for cycle, same in zip(one["cycles"], other["cycles"], strict=True):
            assert cycle["reasons"] == same["reasons"]
            assert cycle["probabilities"] == pytest.approx(same["probabilities"], abs=1e-6)


def test_what_the_service_says_of_its_model(tiny: Predictor) -> None:
    with client(tiny, limits=Limits(max_bytes=1000, max_duration_s=7)) as http:
        model = http.get("/v1/model").json()
    assert model["classes"] == ["normal", "crackle", "wheeze", "both"]
    assert (model["sample_rate_hz"], model["duration_s"], model["label_set"]) == (16000, 1.0, "sound4")
    assert (model["calibration"], model["is_calibrated"], model["is_review"]) == (None, False, False)
    assert model["limits"] == {"max_bytes": 1000, "max_duration_s": 7.0}
    assert model["formats"] == ["icbhi", "csv"]
    assert model["model_sha256"] == tiny.trained.sha256
    assert model["evidence"] == tiny.evidence
    assert set(model["reasons"]) == set(Reason)
    assert model["note"] == "Research software, not a medical device."


def test_the_examples_have_the_keys_of_real_answers(tiny: Predictor) -> None:
    """What OpenAPI shows cannot age unnoticed; and the description asks no other machine."""
    with client(tiny) as http:
        record = http.post("/v1/predictions", files={"file": ("a.wav", sound())}).json()
        model, api = http.get("/v1/model").json(), http.get("/openapi.json").json()
        corrected = http.post("/v1/answers/icbhi", json=OPENAPI["corrected"])
        pages = [http.get("/docs").status_code, http.get("/redoc").status_code]

    def example(path: str, method: str) -> dict:
        return api["paths"][path][method]["responses"]["200"]["content"]["application/json"]["example"]

    shown = example("/v1/predictions", "post")
    assert list(shown) == [key for key in record if key != "patient"]  # which is unknown here
    assert list(shown["cycles"][0]) == list(record["cycles"][0])
    assert list(shown["provenance"]) == list(record["provenance"])
    assert list(example("/v1/model", "get")) == list(model)
    assert set(api["paths"]["/v1/predictions"]["post"]["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/octet-stream",
    }
    assert corrected.text == "0.036\t1.579\t1\t0\n"
    assert pages == [404, 404]
    assert "http" not in json.dumps(api)


@pytest.mark.parametrize("label_set", ["sprsound_event7", "diagnosis3", "sprsound_record5"])
def test_formats_are_those_with_words_for_the_classes(label_set: str, tmp_path: Path) -> None:
    predictor = Predictor.load(save_tiny(tmp_path / "model.safetensors", label_set=label_set))
    with client(predictor) as http:
        model = http.get("/v1/model").json()
    assert model["formats"] == (["icbhi", "sprsound", "csv"] if label_set == "sprsound_event7" else [])
    assert model["classes"] == list(LABEL_SETS[label_set].classes)
