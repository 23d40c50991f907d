"""The ONNX graph of a model file: its inputs and outputs, where it lies, and whether it is this model's."""

from pathlib import Path

from lungsound.files import cache_root, hash_file, read_record, write_record
from lungsound.training.model_file import TrainedModel

GRAPH_VERSION = "6"  # part of the name of kept files: change it whenever the same model gives another graph
WAVEFORM, SPECTRUM = "waveform", "spectrum"
PROBABILITIES, FEATURES, FBANK = "probabilities", "features", "filter_bank"
BESIDE = "model.onnx"  # beside a model file, whose weights it takes


def cached_graph(trained: TrainedModel) -> Path:
    """Place of the graph of this very model file in the cache."""
    return cache_root() / "engines" / f"{trained.sha256[:24]}-{GRAPH_VERSION}" / "float.onnx"


def find_graph(trained: TrainedModel) -> Path | None:
    """The graph beside the model file or in the cache, if it is, to the byte, what was made of this model."""
    beside = [] if trained.file is None else [trained.file.with_name(BESIDE)]
    return next((path for path in (*beside, cached_graph(trained)) if is_sound(path, trained)), None)


def is_sound(path: Path, trained: TrainedModel) -> bool:
    """True for the graph that was sealed for this model, as it was then."""
    return path.is_file() and read_record(_record(path), made_for=trained.sha256) == hash_file(path)


def seal(path: Path, made: Path, trained: TrainedModel) -> None:
    """Keep, for the graph that is to lie at `path`, the checksum of what was made, and the model it was made of."""
    write_record(_record(path), hash_file(made), made_for=trained.sha256)


def _record(path: Path) -> Path:
    return path.with_suffix(".json")
