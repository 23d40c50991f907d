"""How often an engine decides as float32 torch does, measured on real cycles and kept beside the model.

The interface of all engines: waveforms of cycles in, probabilities out.

torch itself, in float32 or under bfloat16 autocast: always there, and on a GPU the only one.

ONNX Runtime on the CPU.

OpenVINO on the CPU.

The engines by name: what each needs, and how it is made.

How fast each engine is on this machine, measured once and remembered.

Which engine answers: the fastest of those that are known to answer as torch does.
"""

import hashlib
import json
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lungsound.audio.filter_bank import normalize
from lungsound.errors import SettingsError, WeightsError
from lungsound.extras import is_installed, load
from lungsound.files import write_text
from lungsound.inference import graph as graphs
from lungsound.inference.graph import EXACT_TOLERANCE, FILTER_BANK, PROBABILITIES, WAVEFORM, probes
from lungsound.training.checkpoint import TrainedModel

FILE_NAME = "engines.json"
FORMAT = "lungsound engines 1"
LEAST_AGREEMENT = 0.99
LEAST_CYCLES = 100  # fewer cannot tell 99 % from 98 %


@dataclass(frozen=True)
class Agreement:
    """`share` of the cycles with the same answer; `largest_difference` in probability."""

    num_cycles: int
    share: float
    largest_difference: float

    @property
    def is_exact(self) -> bool:
        return self.largest_difference <= EXACT_TOLERANCE

    @property
    def is_enough(self) -> bool:
        """Whether the engine may answer for torch without being asked for by name."""
        return self.num_cycles >= LEAST_CYCLES and self.share >= LEAST_AGREEMENT


def agreement(exact: Tensor, found: Tensor) -> Agreement:
    """Of probabilities (cycle, class) with the exact ones."""
    if exact.shape != found.shape or not len(exact):
        raise ValueError(f"probabilities of {tuple(found.shape)} cannot be compared with {tuple(exact.shape)}")
    share = float((exact.argmax(dim=1) == found.argmax(dim=1)).double().mean())
    difference = float(torch.nan_to_num((exact - found).abs(), nan=float("inf")).max())
    return Agreement(len(exact), share, difference)


def write_agreements(folder: Path, trained: TrainedModel, agreements: Mapping[str, Agreement]) -> Path:
    """Keep what was measured for this model file in its folder; the path."""
    path = folder / FILE_NAME
    values = {"format": FORMAT, "model": trained.sha256, "engines": {k: asdict(v) for k, v in agreements.items()}}
    write_text(path, json.dumps(values, indent=2) + "\n")
    return path


def read_agreements(folder: Path, trained: TrainedModel) -> dict[str, Agreement]:
    """What was measured for this model file; nothing when none was, or for another. WeightsError when damaged."""
    path = folder / FILE_NAME
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT or values["model"] != trained.sha256:
            return {}
        return {name: Agreement(**found) for name, found in values["engines"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); remove it, and 'lungsound export' again") from None


def usable(agreements: Mapping[str, Agreement], names: Sequence[str]) -> list[str]:
    """Those of the engines that were measured and decide as torch does in 99 % of the cycles."""
    return [name for name in names if name in agreements and agreements[name].is_enough]


BATCH_SIZE = 4  # on a CPU larger ones bring nothing per cycle, and take more memory


class Engine(ABC):
    """What answers for cycles. `name` is what a user calls it by."""

    def __init__(self, name: str, trained: TrainedModel, *, batch_size: int = BATCH_SIZE) -> None:
        self.name = name
        self.trained = trained
        self.batch_size = batch_size

    def answer(self, waveforms: Sequence[Tensor], *, on_progress: Callable[[int], None] | None = None) -> Tensor:
        """Probabilities (cycle, class), float32 on the CPU, in the order of `waveforms`.

        Waveforms are those of cycles as `FrontEnd.cut` gives them, each (samples,) of any length. They are fitted to
        the model's input a batch at a time, those that take equally much of it together. `on_progress` gets the
        number done.
        """
        found, num_done = torch.empty(len(waveforms), len(self.trained.label_set.classes)), 0
        sizes = [self.trained.num_input_samples(len(waveform)) for waveform in waveforms]
        for _, group in groupby(sorted(range(len(sizes)), key=sizes.__getitem__), key=sizes.__getitem__):
            alike = list(group)
            for first in range(0, len(alike), self.batch_size):
                places = alike[first : first + self.batch_size]
                clips = torch.stack([self.trained.input_of(waveforms[place]) for place in places])
                found[places] = self._probabilities(clips)
                num_done += len(places)
                if on_progress is not None:
                    on_progress(num_done)
        return found

    @abstractmethod
    def _probabilities(self, clips: Tensor) -> Tensor:
        """Probabilities (batch, class), float32 on the CPU, of inputs (batch, samples) (`TrainedModel.input_of`)."""


class TorchEngine(Engine):
    """The model as it was trained. The filter bank is float32 whatever the encoder computes in."""

    def __init__(self, trained: TrainedModel, *, device: torch.device, is_bf16: bool = False) -> None:
        super().__init__("torch-bf16" if is_bf16 else "torch", trained)
        self.device, self.is_bf16 = device, is_bf16
        trained.model.to(device).eval()

    @torch.inference_mode()
    def _probabilities(self, clips: Tensor) -> Tensor:
        fbank = self.trained.front_end.filter_banks(clips)
        fbank = normalize(fbank, mean=self.trained.mean, std=self.trained.std).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            logits: Tensor = self.trained.model(fbank)
        return logits.float().softmax(dim=1).cpu()


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


PACKAGES = ("torch", "onnxruntime", "openvino")
NUM_ROUNDS = 3


def speeds(trained: TrainedModel, names: Sequence[str]) -> dict[str, float]:
    """Seconds per cycle of engines on the CPU of this machine with the threads of now.

    What is not known yet is measured (seconds for each engine) and kept with the exported graphs. A float32 engine
    whose answers to the probes are not those of torch to 1e-4 gets infinity.
    """
    path = graphs.folder(trained) / f"speeds-{_machine()}.json"
    known: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    missing = [name for name in names if name not in known]
    if missing:
        known |= _measured(trained, missing)
        write_text(path, json.dumps(known, indent=2) + "\n")
    return {name: known[name] for name in names}


def _measured(trained: TrainedModel, names: Sequence[str]) -> dict[str, float]:
    clips = list(probes(trained))
    expected = make("torch", trained).answer(clips)
    found = {}
    for name in names:
        engine = make(name, trained)
        difference = agreement(expected, engine.answer(clips)).largest_difference
        is_wrong = KINDS[name].is_float32 and difference > EXACT_TOLERANCE
        found[name] = float("inf") if is_wrong else seconds_per_cycle(engine, clips)
    return found


def seconds_per_cycle(engine: Engine, waveforms: Sequence[Tensor]) -> float:
    """Median of some rounds; the caller has let it answer once before."""
    times = []
    for _ in range(NUM_ROUNDS):
        start_s = time.perf_counter()
        engine.answer(waveforms)
        times.append((time.perf_counter() - start_s) / len(waveforms))
    return median(times)


def _machine() -> str:
    """A name for this processor, its threads, and the versions of what computes."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else [platform.processor()]
    processor = next((line for line in lines if line.startswith("model name")), lines[0] if lines else "")
    facts = [platform.machine(), processor, str(torch.get_num_threads()), *(_version(name) for name in PACKAGES)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


AUTO, EXACT = "auto", "exact"


def choose(name: str, trained: TrainedModel, *, folder: Path | None, device: torch.device) -> Engine:
    """The engine that `name` asks for.

    "exact": the fastest float32 engine whose probabilities are those of torch to 1e-4, on the probes and, where that
    was measured, on real cycles. "auto": the fastest of these and of the others that were measured in `folder`, that
    of the model file, to decide as torch in 99 % of the cycles; without such a measurement "exact". Only engines whose
    graph was exported take part, so without an export both are torch. Any other name: that engine, measured or not.
    On a GPU "exact" and "auto" are torch.
    """
    if name not in (AUTO, EXACT):
        return make(name, trained, device=device)
    candidates = candidates_of(name, trained, folder) if device.type == "cpu" else ["torch"]
    if len(candidates) == 1:
        return make(candidates[0], trained, device=device)
    measured = speeds(trained, candidates)
    return make(min(candidates, key=lambda candidate: measured[candidate]), trained, device=device)


def candidates_of(name: str, trained: TrainedModel, folder: Path | None) -> list[str]:
    """Names of the engines that may answer under "auto" or "exact"; torch is always one of them."""
    found = available(trained)
    agreements = {} if folder is None else read_agreements(folder, trained)
    exact = [name for name in found if KINDS[name].is_float32 and (name not in agreements or agreements[name].is_exact)]
    if name == EXACT:
        return exact
    return exact + usable(agreements, [name for name in found if name not in exact and name != "torch"])
