"""The engines by name: what each needs, and how it is made."""

from dataclasses import dataclass
from pathlib import Path

import torch

from lungsound.checkpoint import TrainedModel
from lungsound.engines import graphs
from lungsound.engines.engine import Engine
from lungsound.engines.extras import is_installed
from lungsound.engines.onnx_engine import OnnxEngine
from lungsound.engines.openvino_engine import OpenVinoEngine
from lungsound.engines.torch_engine import TorchEngine
from lungsound.errors import SettingsError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Kind:
    """`extra` is what must be installed, `graph` the exported file; `is_float32` engines can equal torch to 1e-4."""

    extra: str | None = None
    graph: str | None = None
    is_bf16: bool = False

    @property
    def is_float32(self) -> bool:
        return not self.is_bf16 and self.graph in (None, graphs.FLOAT)


KINDS = {
    "torch": Kind(),
    "torch-bf16": Kind(is_bf16=True),
    "onnx": Kind("onnx", graphs.FLOAT),
    "onnx-int8": Kind("onnx", graphs.INT8_WEIGHTS),
    "openvino": Kind("openvino", graphs.FLOAT),
    "openvino-bf16": Kind("openvino", graphs.FLOAT, is_bf16=True),
    "openvino-int8": Kind("openvino", graphs.INT8, is_bf16=True),
}


def available(trained: TrainedModel) -> list[str]:
    """Names of the engines that can answer on the CPU here and now: installed, and their graph exported."""
    place = graphs.folder(trained)
    return [
        name
        for name, kind in KINDS.items()
        if kind.extra is None or (is_installed(kind.extra) and kind.graph and (place / kind.graph).exists())
    ]


def make(name: str, trained: TrainedModel, *, device: torch.device = CPU) -> Engine:
    """The engine of that name; the graph it needs is exported where it is not there yet."""
    if name not in KINDS:
        raise SettingsError(f"engine {name!r} is not known; use auto, exact, {', '.join(KINDS)}")
    kind = KINDS[name]
    if kind.extra is None:
        return TorchEngine(trained, device=device, is_bf16=kind.is_bf16)
    if device.type != "cpu":
        raise SettingsError(f"engine {name!r} is for the CPU, and the device is {device}: use torch or torch-bf16")
    return _of_graph(name, kind, trained, _graph(name, kind, trained))


def _graph(name: str, kind: Kind, trained: TrainedModel) -> Path:
    path = graphs.folder(trained) / str(kind.graph)
    if not path.exists():
        graphs.make(trained)
    if not path.exists():
        raise SettingsError(
            f"engine {name!r} has no graph of this model: 'lungsound export RUN' makes it (int8 is for transformers)"
        )
    return path


def _of_graph(name: str, kind: Kind, trained: TrainedModel, path: Path) -> Engine:
    if kind.extra == "onnx":
        return OnnxEngine(name, path, trained)
    return OpenVinoEngine(name, path, trained, is_bf16=kind.is_bf16)
