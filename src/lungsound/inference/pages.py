"""Review pages: an HTML file for each recording with its sound, picture and predictions, and a list of them."""

import base64
import hashlib
import io
import re
from collections.abc import Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import soundfile
from markupsafe import Markup
from rich.console import Console

from lungsound.audio.front_end import FrontEnd
from lungsound.audio.io import Samples
from lungsound.axes import PATCH_SIZE
from lungsound.errors import AudioError
from lungsound.files import short_names, write_text, written_whole
from lungsound.inference.prediction import MEANINGS, RULE, Provenance, RecordingPrediction, lanes, margin, uncertainty
from lungsound.inference.predictor import Predictor
from lungsound.page import render
from lungsound.progress import track

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
INDEX = "index.html"
NUM_TONES = 7  # of the style; classes beyond share the last
_CHANGED_S = 0.01  # a file whose duration differs by more is not the one that was predicted

RELEVANCE_FORMAT = "lungsound relevance 1"


def write_review_pages(
    predictor: Predictor,
    predictions: Sequence[RecordingPrediction],
    out: Path,
    *,
    created: datetime,
    num_explained: int | None = 0,
    console: Console,
) -> list[Path]:
    """Write a page for each prediction into the folder `out`, and for several `index.html`, the first path returned.

    The recordings are read again: where one is gone or is another file now, the page says so in place of its sound.
    The relevance of the `num_explained` most uncertain cycles is drawn. None draws that of every cycle, and writes it
    beside the page as an `.npz` (`_write_relevance`). Same input (with `created`, which needs a time zone), same bytes.
    """
    shared = _shared(predictor.provenance(created))
    paths, arrays = [out / page_name(prediction) for prediction in predictions], []
    index = INDEX if len(predictions) > 1 else None
    with track(console, "pages") as on_progress:
        for number, (path, prediction) in enumerate(zip(paths, predictions, strict=True), start=1):
            values, relevances = _recording(predictor, prediction, num_explained)
            if relevances is not None and num_explained is None:
                arrays.append(path.with_suffix(".npz"))
                _write_relevance(arrays[-1], predictor, prediction, relevances)
            write_text(path, render("review_recording.html", **shared, **values, index=index))
            on_progress(number, len(predictions))
    if index is None:
        return [*paths, *arrays]
    titles = short_names([Path(prediction.path_text) for prediction in predictions])
    rows = [*zip([path.name for path in paths], titles, predictions, map(uncertainty, predictions), strict=True)]
    rows.sort(key=lambda row: (-row[3], row[2].path_text))
    write_text(out / INDEX, render("review_index.html", **shared, title="Recordings", rows=rows))
    return [out / INDEX, *paths, *arrays]


def _write_relevance(
    path: Path, predictor: Predictor, prediction: RecordingPrediction, relevances: dict[int, Samples]
) -> None:
    front_end = predictor.trained.front_end
    values: dict[str, Any] = {f"relevance_{number}": bins for number, bins in relevances.items()}
    values |= {
        "start_s": np.array([cycle.start_s for cycle in prediction.cycles]),
        "end_s": np.array([cycle.end_s for cycle in prediction.cycles]),
        "best_guess": np.array([cycle.best_guess for cycle in prediction.cycles], dtype=str),
        "frame_s": np.array(front_end.log_mel.hop_size / front_end.sample_rate_hz),
        "mel_hz": np.array(mel_centres_hz(front_end)),
        "path": np.array(prediction.path_text),
        "model_sha256": np.array(predictor.trained.sha256),
        "format": np.array(RELEVANCE_FORMAT),
    }
    with written_whole(path) as partial, partial.open("wb") as file:
        np.savez(file, **values)


def page_name(prediction: RecordingPrediction) -> str:
    """A file name of letters that are safe everywhere; recordings of one name differ by their paths."""
    place = hashlib.sha256(prediction.path_text.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', prediction.name)[:80]}-{place}.html"


def _shared(provenance: Provenance) -> dict[str, Any]:
    """Values of every page: style, script, classes, provenance."""
    package = resources.files("lungsound")
    service, own = package / "serve" / "static", package / "templates"
    style = "".join(file.read_text(encoding="utf-8") for file in (service / "page.css", own / "review.css"))
    script, classes = (own / "review.js").read_text(encoding="utf-8"), provenance.label_set.classes
    return {
        "style": Markup(style),
        "script": Markup(script),
        "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "icon": Markup((service / "icon.svg").read_text(encoding="utf-8").strip()),
        "classes": classes,
        "marks": marks(classes),
        "tones": {name: min(index, NUM_TONES - 1) for index, name in enumerate(classes)},
        "provenance": provenance,
        "rule": RULE,
        "meanings": MEANINGS,
    }


def marks(classes: Sequence[str]) -> dict[str, str]:
    """A short mark for each class, unlike the others: the initials of its words ("Coarse Crackle": CC)."""
    initials = ["".join(word[0].upper() for word in re.findall("[A-Za-z]+", name)) or "?" for name in classes]
    return {
        name: mark if initials.index(mark) == index else f"{mark}{index + 1}"
        for index, (name, mark) in enumerate(zip(classes, initials, strict=True))
    }


def _recording(
    predictor: Predictor, prediction: RecordingPrediction, num_explained: int | None
) -> tuple[dict[str, Any], dict[int, Samples] | None]:
    """Values of a recording's page, and the relevance (time, mel) by number of cycle; None without its sound."""
    front_end = predictor.trained.front_end
    recording, problem = None, None
    try:
        recording = front_end.read(prediction.path)
    except AudioError as error:
        problem = f"No sound: {' '.join(str(error).split())}."
    if recording and abs(len(recording.waveform) / front_end.sample_rate_hz - prediction.duration_s) > _CHANGED_S:
        recording, problem = None, "No sound: the file has another duration than the recording that was predicted."
    rows = lanes([(cycle.start_s, cycle.end_s) for cycle in prediction.cycles])
    explained, relevances = [], None
    if recording is not None:
        relevances, numbered = {}, enumerate(prediction.cycles, start=1)
        by_uncertainty = sorted(numbered, key=lambda each: (not each[1].is_uncertain, margin(each[1])))
        for number, cycle in sorted(by_uncertainty[:num_explained]):
            from lungsound.inference.explain import relevance  # late: it needs torch

            cut = front_end.cut(recording, start_s=cycle.start_s, end_s=cycle.end_s)
            class_index = predictor.classes.index(cycle.best_guess)
            relevances[number] = relevance(predictor.trained, cut, class_index=class_index).numpy()
            num_frames = front_end.log_mel.num_frames(min(len(cut.waveform), front_end.num_samples))
            values = {
                "number": number,
                "cycle": cycle,
                "picture": _png(_fbank(cut.waveform[: front_end.num_samples], front_end)) if num_frames else "",
                "picture_width": 100 * num_frames / len(relevances[number]),
                "boxes": boxes(relevances[number], front_end),
                "input_s": min(cycle.end_s - cycle.start_s, front_end.audio.duration_s),
            }
            explained.append(values)
    page = {
        "title": PurePosixPath(prediction.path_text).name,
        "prediction": prediction,
        "problem": problem,
        "sound": None if recording is None else sound(recording.waveform, front_end),
        "cycles": list(zip(range(1, len(rows) + 1), prediction.cycles, rows, strict=True)),
        "num_lanes": 1 + max(rows, default=0),
        "scaling": predictor.scaling,
        "explained": explained,
    }
    return page, relevances


def sound(waveform: Samples, front_end: FrontEnd) -> dict[str, Any]:
    """Sound and pictures of a recording (samples,) at the model's rate, as text that HTML holds.

    Places and widths are in percent; `wave` are the points of a polygon in a box of `NUM_WAVE_COLUMNS` by 2.
    """
    log_mel, rate_hz = front_end.log_mel, front_end.sample_rate_hz
    duration_s = len(waveform) / rate_hz
    loudest = max(float(np.abs(waveform).max()), 1e-6)
    gain = min(MAX_GAIN, PLAYED_PEAK / loudest)
    flac = io.BytesIO()
    samples = (32767 * np.clip(gain * waveform, -1, 1)).round().astype(np.int16)
    soundfile.write(flac, samples, rate_hz, format="FLAC", subtype="PCM_16")
    num_frames, banks, places = log_mel.num_frames(len(waveform)), log_mel.mel_banks, []
    for frequency_hz in MARKS_HZ:  # each at the mel that has most of it
        fft_bin = round(frequency_hz * log_mel.fft_size / rate_hz)
        if fft_bin < len(banks) and bool(banks[fft_bin].any()):
            text = f"{frequency_hz} Hz" if frequency_hz < 1000 else f"{frequency_hz / 1000:g} kHz"
            places.append((100 * (1 - (int(banks[fft_bin].argmax()) + 0.5) / banks.shape[1]), text))
    parts = np.array_split(waveform / loudest, min(NUM_WAVE_COLUMNS, len(waveform)))
    outline = [(column, part.max()) for column, part in enumerate(parts)]
    outline += reversed([(column, part.min()) for column, part in enumerate(parts)])
    step_s = next((step_s for step_s in TICKS_S if duration_s / step_s <= MAX_TICKS), TICKS_S[-1])
    return {
        "flac": base64.b64encode(flac.getvalue()).decode(),
        "gain": gain,
        "picture": _png(_fbank(waveform, front_end)) if num_frames else "",
        "picture_width": min(100.0, 100 * num_frames * log_mel.hop_size / len(waveform)),
        "wave": " ".join(f"{NUM_WAVE_COLUMNS / len(parts) * column:g},{1 - level:.3f}" for column, level in outline),
        "marks": places,
        "ticks": [(100 * time_s / duration_s, f"{time_s:g} s") for time_s in np.arange(0, duration_s, step_s)],
        "duration_s": duration_s,
    }


def boxes(bins: Samples, front_end: FrontEnd) -> list[dict[str, float]]:
    """Tiles of a cycle's relevance (time, mel) of `MIN_SHARE` of the strongest or more, strongest first.

    Places and sizes are in percent from the top left of the cycle's picture, `share` is of the strongest, -1 to 1.
    """
    num_frames, num_mels = bins.shape
    means = _mean_of_groups(_mean_of_groups(bins, PATCH_SIZE).T, PATCH_SIZE).T
    strongest = max(float(np.abs(means).max()), 1e-12)
    centres_hz, hop_s = mel_centres_hz(front_end), front_end.log_mel.hop_size / front_end.sample_rate_hz
    drawn = []
    for row, column in np.ndindex(*means.shape):
        share = float(means[row, column]) / strongest
        if abs(share) < MIN_SHARE:
            continue
        frame, mel = row * PATCH_SIZE, column * PATCH_SIZE
        last_frame, last_mel = min(frame + PATCH_SIZE, num_frames), min(mel + PATCH_SIZE, num_mels)
        drawn.append(
            {
                "left": 100 * frame / num_frames,
                "top": 100 * (num_mels - last_mel) / num_mels,
                "width": 100 * (last_frame - frame) / num_frames,
                "height": 100 * (last_mel - mel) / num_mels,
                "share": share,
                "start_s": frame * hop_s,
                "end_s": last_frame * hop_s,
                "low_hz": centres_hz[mel],
                "high_hz": centres_hz[last_mel - 1],
            }
        )
    return sorted(drawn, key=lambda box: -abs(box["share"]))


def mel_centres_hz(front_end: FrontEnd) -> list[float]:
    """Frequency of the highest weight of each mel."""
    log_mel = front_end.log_mel
    centres: list[float] = (log_mel.mel_banks.argmax(axis=0) * front_end.sample_rate_hz / log_mel.fft_size).tolist()
    return centres


def _fbank(waveform: Samples, front_end: FrontEnd) -> Samples:
    """Filter bank (time, mel) of a waveform (samples,) of any length, with `MAX_COLUMNS` frames at most."""
    fbank = front_end.filter_banks(waveform[None])[0]
    return _mean_of_groups(fbank, -(-len(fbank) // MAX_COLUMNS))


def _mean_of_groups(values: Samples, size: int) -> Samples:
    """Means of so many neighbouring rows each, of the last as many as there are."""
    firsts = np.arange(0, len(values), size)
    counts = np.diff(firsts, append=len(values))[:, None]
    return np.asarray(np.add.reduceat(values, firsts) / counts, np.float32)


def _png(fbank: Samples) -> str:
    """A picture of one pixel for each bin (time, mel), low mels below, in base64."""
    from PIL import Image

    low, high = (float(np.quantile(fbank, share)) for share in (LOWEST_SHARE, HIGHEST_SHARE))
    levels = np.clip(255 * (fbank - low) / max(high - low, MIN_RANGE), 0, 255).round().astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(levels.T[::-1]))
    places = np.linspace(0, 255, len(COLOURS))
    channels = [np.interp(np.arange(256), places, values) for values in zip(*COLOURS, strict=True)]
    image.putpalette(np.stack(channels, axis=1).round().astype(np.uint8).tobytes())
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()
