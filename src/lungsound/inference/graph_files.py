"""The ONNX graph of a model file: its inputs and outputs, where it lies, and whether it is this model's."""

from pathlib import Path

import numpy as np

from lungsound.audio.front_end import Sound
from lungsound.files import cache_root, hash_file, read_record, write_record
from lungsound.training.model_file import TrainedModel

GRAPH_VERSION = "6"  # part of the name of kept files: change it whenever the same model gives another graph
WAVEFORM, SPECTRUM = "waveform", "spectrum"
PROBABILITIES, FEATURES, FBANK = "probabilities", "features", "filter_bank"
BESIDE = "model.onnx"  # beside a model file, whose weights it takes
EXACT_TOLERANCE = 1e-4  # in probability, from torch
NUM_PROBES = 2


def cached_graph(trained: TrainedModel) -> Path:
    """Place of the graph of this very model file in the cache."""
    return cache_root() / "engines" / f"{trained.sha256[:24]}-{GRAPH_VERSION}" / "float.onnx"


def find_graph(trained: TrainedModel) -> Path | None:
    """The graph beside the model file or in the cache, if it is, to the byte, what was made of this model."""
    beside = [] if trained.file is None else [trained.file.with_name(BESIDE)]
    return next((path for path in (*beside, cached_graph(trained)) if is_as_made(path, trained)), None)


def is_as_made(path: Path, trained: TrainedModel) -> bool:
    """True for the graph that was sealed for this model, as it was then."""
    return path.is_file() and read_record(_record(path), made_for=trained.sha256) == hash_file(path)


def seal(path: Path, made: Path, trained: TrainedModel) -> None:
    """Keep, for the graph that is to lie at `path`, the checksum of what was made, and the model it was made of."""
    write_record(_record(path), hash_file(made), made_for=trained.sha256)


def _record(path: Path) -> Path:
    return path.with_suffix(".json")


def probes(trained: TrainedModel) -> list[Sound]:
    """Recordings as long as the input, of a swelling noise with a tone, soft and loud: the same every time."""
    num_samples, rate_hz = trained.front_end.num_samples, trained.front_end.sample_rate_hz
    time_s = np.arange(num_samples) / rate_hz
    noise = np.random.default_rng(0).standard_normal((NUM_PROBES, num_samples)).cumsum(axis=1)
    noise /= np.abs(noise).max(axis=1, keepdims=True)
    swell, tone = np.sin(np.pi * time_s / 2) ** 2, 0.1 * np.sin(2 * np.pi * 300 * time_s)
    sounds = np.array([[0.02], [0.5]]) * swell * (noise + tone)
    return [*map(trained.front_end.recording, sounds.astype(np.float32))]
