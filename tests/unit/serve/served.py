"""A tiny model, served in the test's own process, and sounds to send to it."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fastapi.testclient import TestClient

from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings, ModelSettings
from lungsound.inference.prediction import RecordingPrediction
from lungsound.inference.predictor import LoadedRecording, Predictor
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import make_classifier
from lungsound.serve.limits import Limits
from lungsound.serve.review import ReviewFolder
from lungsound.serve.routes import Service, application
from lungsound.serve.server import warm
from lungsound.training.model_file import save_model
from tests.unit.evaluation.calibrated import GOOD_EVIDENCE

AUDIO = AudioSettings(duration_s=1.0, num_mels=32)
ARCHITECTURE = ModelSettings(size="micro", stride=16)


def save_tiny(path: Path, *, label_set: str = "sound4") -> Path:
    """A model of random weights, whose answers differ from cycle to cycle."""
    model = make_classifier(ARCHITECTURE, FrontEnd(AUDIO), LABEL_SETS[label_set])
    model.initialize(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.head[1].weight, std=3.0, generator=torch.Generator().manual_seed(1))
    facts = {"audio": AUDIO, "architecture": ARCHITECTURE, "label_set": LABEL_SETS[label_set]}
    save_model(path, model, mean=-8.0, std=3.0, evidence=GOOD_EVIDENCE, **facts)
    return path


def breathing(duration_s: float = 3.2, *, rate_hz: int = 8000, seed: int = 0) -> np.ndarray:
    """Noise that swells, one channel."""
    num_samples = round(duration_s * rate_hz)
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * np.arange(num_samples) / rate_hz / 2.0)
    return np.random.default_rng(seed).normal(0, 0.1, num_samples) * swell


def sound(format: str = "WAV", *, duration_s: float = 3.2, rate_hz: int = 8000, seed: int = 0) -> bytes:
    """Bytes of a sound file."""
    content = io.BytesIO()
    soundfile.write(content, breathing(duration_s, rate_hz=rate_hz, seed=seed), rate_hz, format=format)
    return content.getvalue()


def recorded(format: str, *, duration_s: float = 3.2, rate_hz: int = 8000, seed: int = 0) -> bytes:
    """Bytes of a sound file as telephones (m4a, aac) and browsers (webm, mp4) write it; skips without the extra."""
    av = pytest.importorskip("av", reason="encoding m4a, aac and webm needs the extra 'av'")
    container_name, codec = {"m4a": ("ipod", "aac"), "aac": ("adts", "aac")}.get(format, (format, "libopus"))
    content = io.BytesIO()
    # A browser writes as it records: without a length in the header.
    options = {"live": "1"} if format == "webm" else {}
    with av.open(content, "w", format=container_name, options=options) as container:
        stream = container.add_stream(codec, rate=48000 if codec == "libopus" else rate_hz, layout="mono")
        samples = breathing(duration_s, rate_hz=rate_hz, seed=seed).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        fitting = av.AudioResampler(stream.format, "mono", stream.rate, frame_size=stream.frame_size)
        for part in (*fitting.resample(frame), *fitting.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return content.getvalue()


class HeldPredictor(Predictor):
    """Answers when `may_go` is set; `has_begun` says that it is asked."""

    def __init__(self, other: Predictor) -> None:
        self.__dict__ |= other.__dict__
        self.may_go, self.has_begun = threading.Event(), threading.Event()

    def predict_loaded(
        self,
        loaded: LoadedRecording,
        patient: str | None = None,
        stethoscope: str | None = None,
        age_years: float | None = None,
    ) -> RecordingPrediction:
        self.has_begun.set()
        assert self.may_go.wait(20)
        return super().predict_loaded(loaded, patient, stethoscope, age_years)


@contextmanager
def client(
    predictor: Predictor,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    folder: Path | None = None,
    is_warm: bool = True,
) -> Iterator[TestClient]:
    """A client of the service; `client.service` is what is served."""
    review = None if folder is None else ReviewFolder(folder, predictor.trained.label_set, limits or Limits())
    service = Service(predictor, limits=limits or Limits(timeout_s=30), folder=review)
    if is_warm:
        warm(service)
    with TestClient(application(service, token=token), raise_server_exceptions=False) as found:
        found.service = service
        yield found
