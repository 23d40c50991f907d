"""The exported graphs of a model, kept in the cache folder."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock
from torch import Tensor

from lungsound.checkpoint import TrainedModel
from lungsound.data.cache import cache_root
from lungsound.engines.export import GRAPH_VERSION, export_onnx, quantize_weights, quantize_with

FLOAT, INT8_WEIGHTS, INT8 = "float.onnx", "int8-weights.onnx", "int8.onnx"


def folder(trained: TrainedModel) -> Path:
    """Where the graphs of this very model file are kept, made by this version of torch."""
    return cache_root() / "engines" / f"{trained.sha256[:24]}-{GRAPH_VERSION}-{version('torch')}"


def make(trained: TrainedModel, inputs: Sequence[Tensor] = ()) -> None:
    """Export what is not there yet; with some inputs (samples,) also the graph that learns its ranges by them.

    Two programs that start at once wait for each other.
    """
    place = folder(trained)
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / "lock"):
        if not (place / FLOAT).exists():
            export_onnx(trained, place / FLOAT)
        if not (place / INT8_WEIGHTS).exists():
            quantize_weights(place / FLOAT, place / INT8_WEIGHTS)
        if inputs:
            quantize_with(place / FLOAT, place / INT8, inputs)
