"""Answers as pages for people: one HTML file for each recording, with its sound and its picture, and a list of them.

The pages need no network and nothing beside them, and look like the page of the service: they hold its style.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from lungsound.answers.answer import CycleAnswer, Provenance, RecordingAnswer
from lungsound.answers.whole import RULE, doubt, margin
from lungsound.app import review_picture
from lungsound.app.explanation import relevance
from lungsound.app.path_names import short_names
from lungsound.app.predictor import Predictor
from lungsound.errors import AudioError
from lungsound.files import write_text

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
    answers: Sequence[RecordingAnswer],
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


def page_name(answer: RecordingAnswer) -> str:
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
    cycle: CycleAnswer
    picture: str
    picture_width: float
    boxes: list[review_picture.Box]
    heard_s: float


def _recording(predictor: Predictor, answer: RecordingAnswer, *, num_explained: int) -> dict[str, Any]:
    waveform, problem = _sound(predictor, answer)
    rows = lanes([(cycle.start_s, cycle.end_s) for cycle in answer.cycles])
    cycles = list(zip(range(1, len(answer.cycles) + 1), answer.cycles, rows, strict=True))
    doubtful = sorted(cycles, key=lambda each: (not each[1].is_uncertain, margin(each[1]), each[0]))[:num_explained]
    return {
        "title": PurePosixPath(answer.path_text).name,
        "answer": answer,
        "facts": _facts(answer),
        "problem": problem,
        "sound": None if waveform is None else review_picture.sound(waveform, predictor.trained.front_end),
        "cycles": cycles,
        "num_lanes": 1 + max(rows, default=0),
        "scaling": predictor.scaling,
        "whys": [] if waveform is None else [_why(predictor, waveform, *each[:2]) for each in sorted(doubtful)],
    }


def _sound(predictor: Predictor, answer: RecordingAnswer) -> tuple[Tensor | None, str | None]:
    """The recording as the model hears it, or why it cannot be had."""
    front_end = predictor.trained.front_end
    try:
        waveform = front_end.read(answer.path)
    except AudioError as error:
        return None, f"No sound: {' '.join(str(error).split())}."
    if abs(len(waveform) / front_end.sample_rate_hz - answer.duration_s) > _CHANGED_S:
        return None, "No sound: the file has another duration than what was answered for."
    return waveform, None


def _why(predictor: Predictor, waveform: Tensor, number: int, cycle: CycleAnswer) -> _Why:
    front_end = predictor.trained.front_end
    heard = front_end.cut(waveform, start_s=cycle.start_s, end_s=cycle.end_s)
    found = relevance(predictor.trained, heard, class_index=predictor.classes.index(cycle.answer))
    picture, num_frames = review_picture.explained_png(heard[: front_end.num_samples], front_end)
    return _Why(
        number,
        cycle,
        picture,
        picture_width=100 * num_frames / len(found),
        boxes=review_picture.boxes(found, front_end),
        heard_s=min(cycle.end_s - cycle.start_s, front_end.duration_s),
    )


def _row(answer: RecordingAnswer, title: str) -> dict[str, Any]:
    return {
        "path": answer.path_text,
        "title": title,
        "answer": answer,
        "doubt": doubt(answer),
        "num_uncertain": sum(cycle.is_uncertain for cycle in answer.cycles),
    }


def _facts(answer: RecordingAnswer) -> list[str]:
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
