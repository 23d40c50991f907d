"""The service in a thread, with answers that are planted instead of computed: the page is what is tested."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from lungsound.inference.prediction import CyclePrediction, Reason, RecordingPrediction
from lungsound.inference.predictor import LoadedRecording, Predictor
from lungsound.serve.limits import Limits
from lungsound.serve.review import ReviewFolder
from lungsound.serve.routes import Service, application
from lungsound.serve.server import Server
from tests.unit.serve.served import save_tiny

CLASSES = ("normal", "crackle", "wheeze", "both")
# Where each cycle lies, as shares of the recording, and what is said of it.
PLANTED = (
    (0.0, 0.25, (0.82, 0.08, 0.06, 0.04)),
    (0.25, 0.5, (0.38, 0.45, 0.10, 0.07)),
    (0.5, 0.7, (0.05, 0.86, 0.04, 0.05)),
    (0.8, 1.0, (0.30, 0.05, 0.60, 0.05)),
)
SURE = 0.5  # a smaller probability is uncertain


class PlantedPredictor(Predictor):
    """Says the same of every recording."""

    def predict_loaded(
        self,
        loaded: LoadedRecording,
        patient: str | None = None,
        stethoscope: str | None = None,
        age_years: float | None = None,
    ) -> RecordingPrediction:
        duration_s = loaded.duration_s
        return RecordingPrediction(
            path=loaded.path,
            duration_s=duration_s,
            sample_rate_hz=loaded.sample_rate_hz,
            cycles_from="annotation" if loaded.cycles_from == "annotation" else "segmentation",
            cycles=tuple(cycle(low * duration_s, high * duration_s, shares) for low, high, shares in PLANTED),
            aggregate=cycle(0.0, duration_s, (0.3, 0.5, 0.15, 0.05)),
            patient=patient,
            stethoscope=stethoscope,
            age_years=age_years,
            quality=("hum at 50 Hz",),
            out_of_domain=0.25,
        )


def cycle(start_s: float, end_s: float, shares: tuple[float, ...]) -> CyclePrediction:
    answer = CLASSES[int(np.argmax(shares))]
    possible = tuple(name for name, share in zip(CLASSES, shares, strict=True) if share > 0.2)
    reasons = (Reason.LOW_CONFIDENCE,) if max(shares) < SURE else ()
    return CyclePrediction(start_s, end_s, answer, dict(zip(CLASSES, shares, strict=True)), reasons, possible)


@dataclass(frozen=True)
class Served:
    address: str
    folder: Path
    sound: Path


@contextmanager
def serve(folder: Path, *, token: str | None = None, review: Path | None = None) -> Iterator[Served]:
    """The service until the end of the block, and a sound of 8 s to send to it."""
    predictor = PlantedPredictor.load(save_tiny(folder / "model.safetensors"))
    limits = Limits(timeout_s=30)
    reviewed = None if review is None else ReviewFolder(review, predictor.trained.label_set, limits)
    service = Service(predictor, limits=limits, folder=reviewed, is_ready=True)
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(service, application(service, token=token), timeout_s=5)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}/", folder, write_sound(folder / "p01_left.wav"))
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


def write_sound(path: Path, *, duration_s: float = 8.0, rate_hz: int = 8000, seed: int = 0) -> Path:
    """Noise that swells like breathing."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    swell = 0.05 + 0.2 * np.sin(np.pi * time_s / 2.0) ** 2
    soundfile.write(path, swell * np.random.default_rng(seed).normal(0.0, 0.5, len(time_s)), rate_hz, subtype="PCM_16")
    return path
