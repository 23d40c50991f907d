"""The sound and the pictures of a review page, as text that HTML holds.

Answers as pages for people: one HTML file for each recording, with its sound and its picture, and a list of them.

The pages need no network and nothing beside them, and look like the page of the service: they hold its style.
"""

import base64
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor
from torch.nn import functional as F

from lungsound.audio.front_end import FrontEnd
from lungsound.errors import AudioError
from lungsound.files import short_names, write_text
from lungsound.inference.explain import TILE_SIZE, relevance, tile_means, tiles
from lungsound.inference.prediction import RULE, CyclePrediction, Provenance, RecordingPrediction, margin, uncertainty
from lungsound.inference.predictor import Predictor

PLAYED_PEAK, MAX_GAIN = 0.9, 40.0  # quiet recordings are raised, as the service's page does
MAX_COLUMNS = 6000  # of a picture; longer recordings have means of neighbouring frames
NUM_WAVE_COLUMNS = 2000
LOWEST_SHARE, HIGHEST_SHARE = 0.1, 0.998  # of the levels, beyond which is white or darkest
MIN_RANGE = 4.6  # natural logarithm of power: 20 dB
# Colours (red, green, blue) of levels from none to most.
COLOURS = ((255, 255, 255), (214, 230, 240), (112, 172, 205), (22, 94, 142), (10, 34, 66))
MARKS_HZ = (250, 500, 1000, 2000, 4000)
TICKS_S = (0.5, 1, 2, 5, 10, 30, 60, 300)
MAX_TICKS = 24
MIN_SHARE = 0.25  # of the strongest box, below which none is drawn


@dataclass(frozen=True)
class Sound:
    """A recording to be heard and seen. `gain` is by how much it is played louder; `picture` "" when it is too short.

    Marks are (place from the top or the left, text); places and `picture_width` are in percent. `wave` are the points
    of a polygon in a box of `NUM_WAVE_COLUMNS` by 2.
    """

    flac: str
    gain: float
    picture: str
    picture_width: float
    wave: str
    marks: list[tuple[float, str]]
    ticks: list[tuple[float, str]]
    duration_s: float


@dataclass(frozen=True)
class Box:
    """A tile of a cycle's picture, in percent from its top left, and its relevance, -1 to 1, 1 that of the strongest.

    `start_s` and `end_s` are from the start of the cycle.
    """

    left: float
    top: float
    width: float
    height: float
    share: float
    start_s: float
    end_s: float
    low_hz: float
    high_hz: float


def sound(waveform: Tensor, front_end: FrontEnd) -> Sound:
    """Of a recording (samples,) at the model's rate."""
    log_mel, rate_hz = front_end.log_mel, front_end.sample_rate_hz
    duration_s = len(waveform) / rate_hz
    gain = min(MAX_GAIN, PLAYED_PEAK / max(float(waveform.abs().max()), 1e-6))
    num_frames = log_mel.num_frames(len(waveform))
    step_s = next((step_s for step_s in TICKS_S if duration_s / step_s <= MAX_TICKS), TICKS_S[-1])
    return Sound(
        flac=_flac(gain * waveform, rate_hz),
        gain=gain,
        picture=_png(_fbank(waveform, front_end)) if num_frames else "",
        picture_width=min(100.0, 100 * num_frames * log_mel.hop_size / len(waveform)),
        wave=_wave(waveform),
        marks=list(_frequency_marks(front_end)),
        ticks=[(100 * time_s / duration_s, f"{time_s:g} s") for time_s in np.arange(0, duration_s, step_s)],
        duration_s=duration_s,
    )


def explained_png(waveform: Tensor, front_end: FrontEnd) -> tuple[str, int]:
    """The picture of what is heard of a cycle (samples,), and its frames; ("", 0) when it is too short for one."""
    num_frames = front_end.log_mel.num_frames(len(waveform))
    return (_png(_fbank(waveform, front_end)) if num_frames else ""), num_frames


def boxes(relevance: Tensor, front_end: FrontEnd) -> list[Box]:
    """Tiles of a cycle's relevance (time, mel) that weigh `MIN_SHARE` of the strongest or more, strongest first."""
    num_frames, num_mels = relevance.shape
    tile = tiles(num_frames, num_mels)
    means = tile_means(relevance, tile)
    shares = (means / means.abs().max().clamp(min=1e-12)).tolist()
    per_row, hop_s = -(-num_mels // TILE_SIZE), front_end.log_mel.hop_size / front_end.sample_rate_hz
    centres_hz = front_end.log_mel.mel_banks.argmax(dim=0) * front_end.sample_rate_hz / front_end.log_mel.fft_size
    found = []
    for place in sorted(range(len(shares)), key=lambda place: -abs(shares[place])):
        if abs(shares[place]) < MIN_SHARE:
            break
        frame, mel = (TILE_SIZE * each for each in divmod(place, per_row))
        last_frame, last_mel = min(frame + TILE_SIZE, num_frames), min(mel + TILE_SIZE, num_mels)
        found.append(
            Box(
                left=100 * frame / num_frames,
                top=100 * (num_mels - last_mel) / num_mels,
                width=100 * (last_frame - frame) / num_frames,
                height=100 * (last_mel - mel) / num_mels,
                share=shares[place],
                start_s=frame * hop_s,
                end_s=last_frame * hop_s,
                low_hz=float(centres_hz[mel]),
                high_hz=float(centres_hz[last_mel - 1]),
            )
        )
    return found


def _fbank(waveform: Tensor, front_end: FrontEnd) -> Tensor:
    """Filter bank (time, mel) of a waveform (samples,) of any length, with `MAX_COLUMNS` frames at most."""
    fbank = front_end.filter_banks(waveform[None])[0]
    size = -(-len(fbank) // MAX_COLUMNS)
    return F.avg_pool1d(fbank.T, size, ceil_mode=True).T


def _flac(waveform: Tensor, rate_hz: int) -> str:
    content = io.BytesIO()
    samples = (32767 * waveform.clamp(-1, 1)).round().to(torch.int16).numpy()
    soundfile.write(content, samples, rate_hz, format="FLAC", subtype="PCM_16")
    return base64.b64encode(content.getvalue()).decode("ascii")


def _png(fbank: Tensor) -> str:
    """A picture of one pixel for each bin (time, mel), low mels below, in base64."""
    from PIL import Image

    low, high = (float(np.quantile(fbank.numpy(), share)) for share in (LOWEST_SHARE, HIGHEST_SHARE))
    levels = (255 * (fbank - low) / max(high - low, MIN_RANGE)).clamp(0, 255).round().to(torch.uint8)
    image = Image.fromarray(np.ascontiguousarray(levels.T.flip(0).numpy()))
    places = np.linspace(0, 255, len(COLOURS))
    channels = [np.interp(np.arange(256), places, values) for values in zip(*COLOURS, strict=True)]
    image.putpalette(np.stack(channels, axis=1).round().astype(np.uint8).tobytes())
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode("ascii")


def _wave(waveform: Tensor) -> str:
    samples: npt.NDArray[np.float32] = (waveform / waveform.abs().max().clamp(min=1e-6)).numpy()
    parts = np.array_split(samples, min(NUM_WAVE_COLUMNS, len(samples)))
    step = NUM_WAVE_COLUMNS / len(parts)
    upper = [f"{step * column:g},{1 - part.max():.3f}" for column, part in enumerate(parts)]
    lower = [f"{step * column:g},{1 - part.min():.3f}" for column, part in enumerate(parts)]
    return " ".join([*upper, *reversed(lower)])


def _frequency_marks(front_end: FrontEnd) -> Iterator[tuple[float, str]]:
    """Where frequencies are in a picture of mels: where the mel that has most of them is."""
    banks = front_end.log_mel.mel_banks
    for frequency_hz in MARKS_HZ:
        fft_bin = round(frequency_hz * front_end.log_mel.fft_size / front_end.sample_rate_hz)
        if fft_bin < len(banks) and bool(banks[fft_bin].any()):
            text = f"{frequency_hz} Hz" if frequency_hz < 1000 else f"{frequency_hz / 1000:g} kHz"
            yield 100 * (1 - (int(banks[fft_bin].argmax()) + 0.5) / banks.shape[1]), text


INDEX = "index.html"
MAX_EXPLAINED = 8
CYCLES_FROM = {
    "annotation": "cycles from the annotation",
    "segmentation": "cycles found by segmentation",
    "windows": "sliding windows, not breathing cycles",
}
NUM_TONES = 7  # of the style; classes beyond share the last
_CHANGED_S = 0.01  # a file whose duration differs by more is not the one that was answered


def write_review_pages(
    predictor: Predictor,
    answers: Sequence[RecordingPrediction],
    out: Path,
    *,
    created: datetime,
    is_explained: bool = False,
    max_explained: int = MAX_EXPLAINED,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write a page for each answer into the folder `out`, and for several `index.html`, the first of what is returned.

    The recordings are read again: of one that is gone or is another file now, the page says so in place of its sound.
    With `is_explained`, which takes about a second a cycle, the `max_explained` most doubtful cycles of each recording
    show what their answers rest on; SettingsError for a model without patches. Same input (with `created`, which needs
    a time zone), same bytes.
    """
    pages, provenance = _Pages(), predictor.provenance(created)
    num_explained = max_explained if is_explained else 0
    paths = [out / page_name(answer) for answer in answers]
    for number, (path, answer) in enumerate(zip(paths, answers, strict=True), start=1):
        values = _recording(predictor, answer, num_explained=num_explained)
        pages.write(path, "review_recording.html", provenance, index=INDEX if len(answers) > 1 else None, **values)
        if on_progress is not None:
            on_progress(number, len(answers))
    if len(answers) < 2:
        return paths
    titles = short_names([Path(answer.path_text) for answer in answers])
    named = zip(paths, answers, titles, strict=True)
    rows = [{"href": path.name, **_row(answer, title)} for path, answer, title in named]
    rows.sort(key=lambda row: (-row["doubt"], row["path"]))
    pages.write(out / INDEX, "review_index.html", provenance, title="Recordings", rows=rows)
    return [out / INDEX, *paths]


def page_name(answer: RecordingPrediction) -> str:
    """A file name of letters that are safe everywhere; recordings of one name differ by their paths."""
    place = hashlib.sha256(answer.path_text.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', answer.name)[:80]}-{place}.html"


def marks(classes: Sequence[str]) -> dict[str, str]:
    """A short mark for each class, unlike the others: the initials of its words ("Coarse Crackle": CC)."""
    initials = ["".join(word[0].upper() for word in re.findall("[A-Za-z]+", name)) or "?" for name in classes]
    return {
        name: mark if initials.index(mark) == index else f"{mark}{index + 1}"
        for index, (name, mark) in enumerate(zip(classes, initials, strict=True))
    }


def lanes(spans_s: Sequence[tuple[float, float]]) -> list[int]:
    """The row of each stretch (start, end), in order of time, such that those of one row never overlap."""
    ends: list[float] = []
    rows = []
    for start_s, end_s in spans_s:
        row = next((row for row, taken_until_s in enumerate(ends) if taken_until_s <= start_s), len(ends))
        ends[row : row + 1] = [end_s]
        rows.append(row)
    return rows


class _Pages:
    """The templates, with the style and the script that every page holds."""

    def __init__(self) -> None:
        package = resources.files("lungsound")
        service, own = package / "serve" / "static", package / "templates"
        style = "".join(file.read_text(encoding="utf-8") for file in (service / "page.css", own / "review.css"))
        script = (own / "review.js").read_text(encoding="utf-8")
        self._shared = {
            "style": Markup(style),
            "script": Markup(script),
            "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            "icon": Markup((service / "icon.svg").read_text(encoding="utf-8").strip()),
        }
        loader = PackageLoader("lungsound")
        self._templates = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self._templates.filters.update(percent=lambda share: f"{100 * share:.0f} %", seconds=lambda time: f"{time:.2f}")

    def write(self, path: Path, template: str, provenance: Provenance, **values: Any) -> None:
        classes = provenance.label_set.classes
        given = {
            **self._shared,
            "classes": classes,
            "marks": marks(classes),
            "tones": {name: min(index, NUM_TONES - 1) for index, name in enumerate(classes)},
            "made_by": _made_by(provenance),
            "note": provenance.note,
            "rule": RULE,
            **values,
        }
        write_text(path, self._templates.get_template(template).render(given), is_shared=True)


@dataclass(frozen=True)
class _Why:
    """What the answer for one cycle rests on."""

    number: int
    cycle: CyclePrediction
    picture: str
    picture_width: float
    boxes: list[Box]
    heard_s: float


def _recording(predictor: Predictor, answer: RecordingPrediction, *, num_explained: int) -> dict[str, Any]:
    waveform, problem = _sound(predictor, answer)
    rows = lanes([(cycle.start_s, cycle.end_s) for cycle in answer.cycles])
    cycles = list(zip(range(1, len(answer.cycles) + 1), answer.cycles, rows, strict=True))
    doubtful = sorted(cycles, key=lambda each: (not each[1].is_uncertain, margin(each[1]), each[0]))[:num_explained]
    return {
        "title": PurePosixPath(answer.path_text).name,
        "answer": answer,
        "facts": _facts(answer),
        "problem": problem,
        "sound": None if waveform is None else sound(waveform, predictor.trained.front_end),
        "cycles": cycles,
        "num_lanes": 1 + max(rows, default=0),
        "scaling": predictor.scaling,
        "whys": [] if waveform is None else [_why(predictor, waveform, *each[:2]) for each in sorted(doubtful)],
    }


def _sound(predictor: Predictor, answer: RecordingPrediction) -> tuple[Tensor | None, str | None]:
    """The recording as the model hears it, or why it cannot be had."""
    front_end = predictor.trained.front_end
    try:
        waveform = front_end.read(answer.path)
    except AudioError as error:
        return None, f"No sound: {' '.join(str(error).split())}."
    if abs(len(waveform) / front_end.sample_rate_hz - answer.duration_s) > _CHANGED_S:
        return None, "No sound: the file has another duration than what was answered for."
    return waveform, None


def _why(predictor: Predictor, waveform: Tensor, number: int, cycle: CyclePrediction) -> _Why:
    front_end = predictor.trained.front_end
    heard = front_end.cut(waveform, start_s=cycle.start_s, end_s=cycle.end_s)
    found = relevance(predictor.trained, heard, class_index=predictor.classes.index(cycle.best_guess))
    picture, num_frames = explained_png(heard[: front_end.num_samples], front_end)
    return _Why(
        number,
        cycle,
        picture,
        picture_width=100 * num_frames / len(found),
        boxes=boxes(found, front_end),
        heard_s=min(cycle.end_s - cycle.start_s, front_end.duration_s),
    )


def _row(answer: RecordingPrediction, title: str) -> dict[str, Any]:
    return {
        "path": answer.path_text,
        "title": title,
        "answer": answer,
        "doubt": uncertainty(answer),
        "num_uncertain": sum(cycle.is_uncertain for cycle in answer.cycles),
    }


def _facts(answer: RecordingPrediction) -> list[str]:
    named = {"patient": answer.patient, "device": answer.device}
    return [
        answer.path_text,
        f"{answer.duration_s:.1f} s",
        f"{answer.sample_rate_hz / 1000:g} kHz",
        CYCLES_FROM[answer.cycles_from],
        *(f"{name} {value}" for name, value in named.items() if value is not None),
    ]


def _made_by(provenance: Provenance) -> Mapping[str, str]:
    settings = (f"{name} {'none' if value is None else value}" for name, value in provenance.settings.items())
    low_hz, high_hz = provenance.band_hz
    return {
        "model": provenance.model,
        "its SHA-256": provenance.model_sha256,
        "calibration": provenance.calibration or "none",
        "settings": ", ".join(settings),
        "classes": f"{', '.join(provenance.label_set.classes)} ({provenance.label_set.name})",
        "hears": f"{low_hz:g} to {high_hz:g} Hz",
        "lungsound": provenance.lungsound_version,
        "page written": provenance.created_text,
    }
