"""ONNX Runtime on the CPU."""

from pathlib import Path

import torch
from torch import Tensor

from lungsound.checkpoint import TrainedModel
from lungsound.engines.engine import Engine
from lungsound.engines.export import PROBABILITIES, WAVEFORM
from lungsound.engines.extras import load


class OnnxEngine(Engine):
    """A graph of ours in a file, with as many threads as torch has."""

    def __init__(self, name: str, path: Path, trained: TrainedModel) -> None:
        super().__init__(name, trained)
        runtime = load("onnxruntime", extra="onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        # Threads that spin while they wait take the processor from torch's, which read the next recording.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def _probabilities(self, clips: Tensor) -> Tensor:
        return torch.from_numpy(self._session.run([PROBABILITIES], {WAVEFORM: clips.numpy()})[0])
