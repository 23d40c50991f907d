"""Review pages as a browser would read them: nothing from outside, the sound and the answers in them, escaped."""

import base64
import hashlib
import io
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from rich.console import Console

from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings
from lungsound.errors import SettingsError
from lungsound.inference.explain import relevance
from lungsound.inference.pages import COLOURS, boxes, marks, page_name, sound, write_review_pages
from lungsound.inference.prediction import CyclePrediction, Reason, RecordingPrediction, lanes, uncertainty
from lungsound.inference.predictor import Predictor
from tests.unit.inference.models import EFFICIENTAT_AUDIO, MOBILENET, saved_model

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
NASTY = '<b>&"quoted"\'s {{ 7 * 7 }}.wav'
VOID = {"meta", "img", "link", "br"}


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether all tags close; asks nothing from outside."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", [""]
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()
        assert self._open == [""]
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        for tag, attributes in self.tags:
            for name in ("aria-labelledby", "for"):
                assert attributes.get(name) in [None, *ids]
            for name in ("src", "href"):
                assert re.match(r"data:|#main$|[\w-]+\.html$", attributes.get(name) or "data:"), (tag, attributes)
        assert not re.search(r"url\(|@import|fetch\(|https?://(?!www\.w3\.org/2000/svg)", self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1] not in ("style", "script"):
            self.text += data

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    def classed(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.tags if name in (attributes.get("class") or "").split()]


def decoded(attribute: str | None) -> io.BytesIO:
    assert attribute is not None
    return io.BytesIO(base64.b64decode(attribute.partition(",")[2]))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(saved_model(tmp_path_factory.mktemp("run")), engine="torch")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "sounds" / NASTY
    path.parent.mkdir()
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.02, 20000), 8000, subtype="PCM_16")
    path.with_suffix(".txt").write_text("0.1\t0.9\t0\t0\n0.9\t2.3\t0\t0\n")
    return path


def write(predictor: Predictor, *answers: RecordingPrediction, out: Path, num_explained: int = 0) -> list[Path]:
    console = Console(quiet=True)
    return write_review_pages(predictor, answers, out, created=NOON, num_explained=num_explained, console=console)


def test_a_page_holds_the_sound_the_picture_and_the_answers(
    predictor: Predictor, recording: Path, tmp_path: Path
) -> None:
    answer = predictor.predict(recording)
    (path,) = write(predictor, answer, out=tmp_path / "out")
    page, front_end = Page(path), predictor.trained.front_end
    (audio,) = page.named("audio")
    samples, rate_hz = soundfile.read(decoded(audio["src"]), dtype="float32")
    gain, expected = float(audio["data-gain"] or 0), front_end.read(recording).waveform
    assert rate_hz == front_end.sample_rate_hz
    assert np.abs(gain * expected).max() == pytest.approx(0.9)
    np.testing.assert_allclose(32768 / 32767 * samples, gain * expected, atol=0.51 / 32767)
    (picture,) = page.named("img")
    with Image.open(decoded(picture["src"])) as image:
        assert image.size == (front_end.log_mel.num_frames(len(expected)), front_end.audio.num_mels)
    shares = [float(bar["value"] or 0) for bar in page.named("progress")]
    assert answer.aggregate is not None
    given = [value for each in (answer.aggregate, *answer.cycles) for value in each.probabilities.values()]
    assert shares == pytest.approx(given, abs=1e-6)
    assert sum(shares) == pytest.approx(3, abs=1e-5)
    played = [(button["data-start"], button["data-end"]) for button in page.named("button")]
    assert played == [("0.1", "0.9"), ("0.9", "2.3")] * 2  # bands, then rows of the table
    for said in (
        "Research software, not a medical device.",
        predictor.trained.sha256,
        "not calibrated",
        str(recording),
        NOON.isoformat(),
    ):
        assert said in page.text


def test_what_looks_like_markup_in_names_is_text(predictor: Predictor, recording: Path, tmp_path: Path) -> None:
    answer = predictor.predict(recording, patient="<i>", stethoscope="{% x %}")
    nasty = replace(answer, quality=("<script>alert(1)</script>",))
    plain = replace(
        answer, path=shutil.copy(recording, tmp_path / "a.wav"), patient="p", stethoscope="d", quality=("q",)
    )
    index, *pages = map(Page, write(predictor, nasty, plain, out=tmp_path / "out"))
    assert [tag for tag, _ in pages[0].tags] == [tag for tag, _ in pages[1].tags]
    assert all(text in pages[0].text for text in (NASTY, "<i>", "{% x %}", nasty.quality[0]))
    assert not index.named("b")[2:]
    assert NASTY in index.text


def test_the_policy_lets_the_page_run_its_own_script_only(
    predictor: Predictor, recording: Path, tmp_path: Path
) -> None:
    (path,) = write(predictor, predictor.predict(recording), out=tmp_path)
    html = path.read_text(encoding="utf-8")
    script = html.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        in html
    )


def test_the_index_has_every_recording_once_most_doubtful_first(
    predictor: Predictor, recording: Path, tmp_path: Path
) -> None:
    answer = predictor.predict(recording)
    cycles = [
        (replace(answer.cycles[0], probabilities={"normal": p, "crackle": 1 - p, "wheeze": 0.0, "both": 0.0}),)
        for p in (0.9, 0.6, 0.75)
    ]
    answers = [replace(answer, path=Path(f"in{n}/a.wav"), cycles=each) for n, each in enumerate(cycles)]
    answers.append(replace(answer, path=Path("index.wav"), cycles=(), aggregate=None))
    index, *pages = write(predictor, *answers, out=tmp_path / "out")
    assert index.name == "index.html"
    assert len(set(pages)) == 4
    assert [path.name for path in pages] == [page_name(each) for each in answers]
    links = [link["href"] for link in Page(index).named("a")][1:]
    assert links == [pages[3].name, pages[1].name, pages[2].name, pages[0].name]
    assert all(name in Page(index).text for name in ("in0/a.wav", "in1/a.wav", "in2/a.wav"))
    assert [uncertainty(each) for each in answers] == pytest.approx([0.2, 0.8, 0.5, 1.0])
    for path in pages:
        page = Page(path)
        assert "cannot be read" in page.text  # the recordings are not there
        assert not page.named("audio")
        assert index.name in [link["href"] for link in page.named("a")]


def test_the_same_answers_give_the_same_bytes(predictor: Predictor, recording: Path, tmp_path: Path) -> None:
    answer = predictor.predict(recording)
    answers = (answer, replace(answer, path=recording.with_name("gone.wav")))
    first, again = (write(predictor, *answers, out=tmp_path / name, num_explained=8) for name in ("first", "again"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_a_file_that_is_another_one_now_is_not_shown(predictor: Predictor, recording: Path, tmp_path: Path) -> None:
    answer = predictor.predict(recording)
    soundfile.write(recording, np.zeros(9000), 8000)
    (path,) = write(predictor, answer, out=tmp_path / "out", num_explained=8)
    page = Page(path)
    assert "another duration" in page.text
    assert not page.named("audio") + page.named("img")
    assert all("disabled" in button for button in page.named("button"))


def test_the_most_doubtful_cycles_are_explained(predictor: Predictor, recording: Path, tmp_path: Path) -> None:
    answer = predictor.predict(recording)
    answer = replace(answer, cycles=(answer.cycles[0], replace(answer.cycles[1], reasons=(Reason.LOW_CONFIDENCE,))))
    (path,) = write(predictor, answer, out=tmp_path, num_explained=1)
    page = Page(path)
    assert [image["alt"] for image in page.named("img")][1:] == ["Spectrogram of cycle 2"]
    assert "Only the 1 most uncertain" in page.text
    assert "Only the first 1 s are the model's input." in page.text
    front_end, cycle = predictor.trained.front_end, answer.cycles[1]
    heard = front_end.cut(front_end.read(recording), start_s=0.9, end_s=2.3)
    found = boxes(
        relevance(predictor.trained, heard, class_index=predictor.classes.index(cycle.best_guess)).numpy(), front_end
    )
    drawn = [(rect["x"], rect["class"]) for rect in page.named("rect") if rect.get("class")]
    assert drawn == [(f"{box['left']:.2f}", "for" if box["share"] > 0 else "against") for box in found]


def test_a_model_without_patches_is_refused(recording: Path, tmp_path: Path) -> None:
    predictor = Predictor(saved_model(tmp_path, audio=EFFICIENTAT_AUDIO, architecture=MOBILENET), engine="torch")
    answer = predictor.predict(recording)
    assert Page(write(predictor, answer, out=tmp_path)[0]).named("img")
    with pytest.raises(SettingsError, match="a model of patches"):
        write(predictor, answer, out=tmp_path, num_explained=8)


def test_boxes_are_where_the_relevance_is() -> None:
    front_end = FrontEnd(AudioSettings(num_mels=32))
    bins = np.zeros((40, 32), np.float32)
    bins[16:32, 16:] = 2.0
    bins[32:, :16] = -1.0
    bins[:16, :16] = 0.4  # less than a quarter
    strong, against = boxes(bins, front_end)
    places = [[box[key] for key in ("left", "top", "width", "height")] for box in (strong, against)]
    assert places == [[40.0, 0.0, 40.0, 50.0], [80.0, 50.0, 20.0, 50.0]]
    assert (strong["share"], against["share"]) == (1.0, -0.5)
    assert [box[key] for box in (strong, against) for key in ("start_s", "end_s")] == [0.16, 0.32, 0.32, 0.4]
    assert 0 < against["low_hz"] < against["high_hz"] < strong["low_hz"] < strong["high_hz"] < 8000
    assert boxes(np.zeros((40, 32), np.float32), front_end) == []


def test_a_tone_is_dark_beside_its_frequency() -> None:
    front_end = FrontEnd(AudioSettings())
    noise = 1e-3 * np.random.default_rng(0).standard_normal(32000)
    tone = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000)
    found = sound((tone + noise).astype(np.float32), front_end)
    with Image.open(io.BytesIO(base64.b64decode(found["picture"]))) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    row = int(pixels.sum(axis=2).sum(axis=1).argmin())
    (top,) = (top for top, text in found["marks"] if text == "1 kHz")
    assert abs(top / 100 * 128 - 0.5 - row) <= 1
    assert np.abs(pixels[row] - COLOURS[-1]).max() < 90
    assert [text for _, text in found["ticks"]] == ["0 s", "0.5 s", "1 s", "1.5 s"]


@pytest.mark.parametrize("num_samples", [1, 399, 400, 960001])
def test_sounds_of_any_length_have_a_page(num_samples: int) -> None:
    found = sound(np.zeros(num_samples, np.float32), FrontEnd(AudioSettings()))
    assert bool(found["picture"]) == (num_samples >= 400)
    assert found["gain"] == 40
    assert 0 <= found["picture_width"] <= 100
    if num_samples > 960000:
        with Image.open(io.BytesIO(base64.b64decode(found["picture"]))) as image:
            assert image.size == (5998, 128)


def test_a_wave_reaches_from_lowest_to_highest_sample(predictor: Predictor) -> None:
    samples = np.zeros(8000, np.float32)
    samples[2], samples[4001] = 0.2, -0.1
    points = [
        tuple(map(float, point.split(","))) for point in sound(samples, predictor.trained.front_end)["wave"].split()
    ]
    upper, lower = points[:2000], points[:1999:-1]
    assert [point for point in upper if point[1] != 1] == [(0, 0)]
    assert [point for point in lower if point[1] != 1] == [(1000, 1.5)]


def test_marks_and_lanes() -> None:
    assert marks(["normal", "Coarse Crackle", "Crackle, coarse", "42"]) == {
        "normal": "N",
        "Coarse Crackle": "CC",
        "Crackle, coarse": "CC3",
        "42": "?",
    }
    assert lanes([(0, 2), (1, 3), (2, 4), (2.5, 5), (3, 4)]) == [0, 1, 0, 2, 1]


def test_names_of_pages_are_safe_and_differ() -> None:
    cycle = CyclePrediction(0, 1, "a", {"a": 1.0, "b": 0.0})
    names = {
        page_name(RecordingPrediction(Path(path), 1, 8000, "windows", (cycle,)))
        for path in (
            "in/a.wav",
            "out/a.wav",
            "a.flac",
            "../..wav",
            "a b.wav",
            "a_b.wav",
            "\udcff.wav",
            300 * "x" + ".wav",
        )
    }
    assert len(names) == 8
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,94}\.html", name) for name in names)
