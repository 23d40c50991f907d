"""OpenVINO on the CPU."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lungsound.checkpoint import TrainedModel
from lungsound.engines.engine import Engine
from lungsound.engines.export import FILTER_BANK, PROBABILITIES
from lungsound.engines.extras import load


class OpenVinoEngine(Engine):
    """A graph of ours in a file, with as many threads as torch has.

    With `is_bf16` all of it computes in bfloat16 but the filter bank, which is compiled on its own: OpenVINO sets the
    precision of whole models, and in bfloat16 the logarithm of a soft band is wrong by tens of percents.
    """

    def __init__(self, name: str, path: Path, trained: TrainedModel, *, is_bf16: bool) -> None:
        super().__init__(name, trained)
        openvino = load("openvino", extra="openvino")
        core = openvino.Core()
        whole = core.read_model(str(path))
        fbank = whole.output(FILTER_BANK).get_node().input_value(0)
        front = openvino.Model([fbank], whole.get_parameters(), "filter bank")
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._front = core.compile_model(front, "CPU", settings)
        given = openvino.opset13.parameter(fbank.get_partial_shape(), openvino.Type.f32)
        for reader in fbank.get_target_inputs():
            reader.replace_source_output(given.output(0))
        # The waveform stays an input: the graph takes the size of the batch from it.
        inputs = [given, *whole.get_parameters()]
        rest = openvino.Model([whole.output(PROBABILITIES).get_node().input_value(0)], inputs, "encoder")
        settings["INFERENCE_PRECISION_HINT"] = "bf16" if is_bf16 else "f32"
        self._rest = core.compile_model(rest, "CPU", settings)

    def _probabilities(self, clips: Tensor) -> Tensor:
        waveforms = clips.numpy()
        return torch.from_numpy(self._rest([self._front(waveforms)[0], waveforms])[0].copy())


def has_bf16() -> bool:
    """Whether this processor computes in bfloat16, by OpenVINO's word."""
    return "BF16" in load("openvino", extra="openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
