"""Inference backends: torch, ONNX Runtime and OpenVINO, their parity with torch and their speed, and which one is used.

"exact" selects the fastest engine whose probabilities are those of torch in float32, "auto" also engines that were
measured by `lungsound export` to decide as torch does. Parity is a fact of the model and lies beside it; speed is a
fact of the machine and lies in the cache.
"""

import hashlib
import json
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from lungsound.audio.filter_bank import normalize
from lungsound.errors import SettingsError, WeightsError
from lungsound.evaluation.out_of_domain import spectral_features
from lungsound.extras import is_installed, load
from lungsound.files import write_text
from lungsound.inference.graph import (
    EXACT_TOLERANCE,
    FILTER_BANK,
    PROBABILITIES,
    WAVEFORM,
    exported,
    exported_path,
    probes,
)
from lungsound.models.classifier import predict_cycles
from lungsound.progress import track
from lungsound.training.checkpoint import TrainedModel

BATCH_SIZE = 4  # on a CPU larger ones bring nothing per cycle, and take more memory
CPU = torch.device("cpu")


class Engine(ABC):
    """Inference backend of a model. `name` is what a user calls it by."""

    def __init__(self, name: str, trained: TrainedModel, *, batch_size: int = BATCH_SIZE) -> None:
        self.name = name
        self.trained = trained
        self.batch_size = batch_size

    def predict(self, waveforms: Sequence[Tensor], *, on_progress: Callable[[int], None] | None = None) -> Tensor:
        """Probabilities (cycle, class) alone, as `run` gives them."""
        return self.run(waveforms, on_progress=on_progress)[0]

    def run(
        self, waveforms: Sequence[Tensor], *, on_progress: Callable[[int], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Probabilities (cycle, class) and features of the domain (cycle, feature), in the order of `waveforms`.

        Both are float32 on the CPU; there are no features (cycle, 0) for a model that keeps no domain. Waveforms are
        those of cycles as `FrontEnd.cut` gives them, each (samples,) of any length. They are fitted to the model's
        input a batch at a time, those that take equally much of it together. `on_progress` gets the number done.
        """
        front_end, domain = self.trained.front_end, self.trained.domain
        probabilities, num_done = torch.empty(len(waveforms), len(self.trained.label_set.classes)), 0
        features = torch.empty(len(waveforms), 0 if domain is None else len(domain.mean))
        sizes = [self.trained.num_input_samples(len(waveform)) for waveform in waveforms]
        for _, group in groupby(sorted(range(len(sizes)), key=sizes.__getitem__), key=sizes.__getitem__):
            of_one_length = list(group)
            for first in range(0, len(of_one_length), self.batch_size):
                places = of_one_length[first : first + self.batch_size]
                clips = torch.stack([self.trained.input_of(waveforms[place]) for place in places])
                probabilities[places], fbanks = self._outputs(clips)
                if domain is not None:
                    if not front_end.is_padding_encoded:  # the domain's are of frames that no encoder sees, too
                        fbanks = front_end.filter_banks_of([waveforms[place] for place in places])
                    features[places] = torch.from_numpy(spectral_features(fbanks.numpy()))
                num_done += len(places)
                if on_progress is not None:
                    on_progress(num_done)
        return probabilities, features

    @abstractmethod
    def _outputs(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (batch, class) and filter banks (batch, time, mel), not normalised, float32 on the CPU.

        Of inputs (batch, samples) (`TrainedModel.input_of`).
        """

    def _not_normalized(self, fbanks: Tensor) -> Tensor:
        return fbanks * (2 * self.trained.std) + self.trained.mean


class TorchEngine(Engine):
    """The model as it was trained, the only engine on a GPU. The filter bank is float32 in any case."""

    def __init__(self, trained: TrainedModel, *, device: torch.device = CPU, is_bf16: bool = False) -> None:
        super().__init__("torch-bf16" if is_bf16 else "torch", trained)
        self.device, self.is_bf16 = device, is_bf16
        trained.model.to(device).eval()

    def _outputs(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        trained = self.trained
        fbanks = trained.front_end.filter_banks(clips)
        inputs = [(normalize(fbanks, mean=trained.mean, std=trained.std), None)]
        probabilities, _ = predict_cycles(trained.model, inputs, device=self.device, is_bf16=self.is_bf16)
        return torch.from_numpy(probabilities), fbanks


class OnnxEngine(Engine):
    """The exported graph in ONNX Runtime on the CPU, with as many threads as torch has."""

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__("onnx", trained)
        runtime = load("onnxruntime", extra="onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        # Threads that spin while they wait take the processor from torch's, which read the next recording.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = str(exported(trained))
        self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def _outputs(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        probabilities, fbanks = self._session.run([PROBABILITIES, FILTER_BANK], {WAVEFORM: clips.numpy()})
        return torch.from_numpy(probabilities), self._not_normalized(torch.from_numpy(fbanks))


class OpenVinoEngine(Engine):
    """The exported graph in OpenVINO on the CPU, with as many threads as torch has.

    With `is_bf16` all of it computes in bfloat16 but the filter bank, which is compiled on its own: OpenVINO sets the
    precision of complete models, and in bfloat16 the logarithm of a soft band is wrong by tens of percents.
    """

    def __init__(self, trained: TrainedModel, *, is_bf16: bool = False) -> None:
        super().__init__("openvino-bf16" if is_bf16 else "openvino", trained)
        openvino = load("openvino", extra="openvino")
        core = openvino.Core()
        graph = core.read_model(str(exported(trained)))
        fbank = graph.output(FILTER_BANK).get_node().input_value(0)
        front = openvino.Model([fbank], graph.get_parameters(), "filter bank")
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
        inputs = [given, *graph.get_parameters()]
        rest = openvino.Model([graph.output(PROBABILITIES).get_node().input_value(0)], inputs, "encoder")
        settings["INFERENCE_PRECISION_HINT"] = "bf16" if is_bf16 else "f32"
        self._rest = core.compile_model(rest, "CPU", settings)

    def _outputs(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        waveforms = clips.numpy()
        fbanks = self._front(waveforms)[0]
        probabilities = torch.from_numpy(self._rest([fbanks, waveforms])[0].copy())
        return probabilities, self._not_normalized(torch.from_numpy(fbanks.copy()))


@dataclass(frozen=True)
class Backend:
    """`extra` must be installed, unless None. Without `is_bf16` it can equal torch to `EXACT_TOLERANCE`."""

    make: Callable[[TrainedModel], Engine]
    extra: str | None = None
    is_bf16: bool = False


REGISTRY = {
    "torch": Backend(TorchEngine),
    "torch-bf16": Backend(lambda trained: TorchEngine(trained, is_bf16=True), is_bf16=True),
    "onnx": Backend(OnnxEngine, "onnx"),
    "openvino": Backend(OpenVinoEngine, "openvino"),
    "openvino-bf16": Backend(lambda trained: OpenVinoEngine(trained, is_bf16=True), "openvino", is_bf16=True),
}
AUTO, EXACT = "auto", "exact"


def make(name: str, trained: TrainedModel, *, device: torch.device = CPU) -> Engine:
    """Make the engine of that name; the graph it needs is exported where it is not there yet."""
    if name not in REGISTRY:
        raise SettingsError(f"engine {name!r} is not known; use {AUTO}, {EXACT}, {', '.join(REGISTRY)}")
    if device.type == "cpu":
        return REGISTRY[name].make(trained)
    if REGISTRY[name].extra is not None:
        raise SettingsError(f"engine {name!r} is for the CPU, and the device is {device}: use torch or torch-bf16")
    return TorchEngine(trained, device=device, is_bf16=REGISTRY[name].is_bf16)


def available(trained: TrainedModel) -> list[str]:
    """Engines for the CPU that are installed, have their graph exported, and have a processor for their precision."""
    is_exported = exported_path(trained).exists()
    return [
        name
        for name, backend in REGISTRY.items()
        if (backend.extra is None or (is_exported and is_installed(backend.extra)))
        and (not backend.is_bf16 or has_bf16())
    ]


def has_bf16() -> bool:
    """Find bfloat16 among the processor's flags; elsewhere it is emulated, and slower than float32."""
    flags = {flag for line in _cpu_info() for flag in line.split() if line.startswith(("flags", "Features"))}
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True)
class Parity:
    """Parity with torch: the `share` of cycles of the same class, and the `largest_difference` in probability."""

    num_cycles: int
    share: float
    largest_difference: float

    LEAST_SHARE = 0.99
    LEAST_CYCLES = 100  # fewer cannot tell 99 % from 98 %

    @property
    def is_exact(self) -> bool:
        return self.largest_difference <= EXACT_TOLERANCE

    @property
    def is_enough(self) -> bool:
        """Enough parity for "auto" to take the engine in torch's place."""
        return self.num_cycles >= self.LEAST_CYCLES and self.share >= self.LEAST_SHARE


def parity(exact: Tensor, probabilities: Tensor) -> Parity:
    """Parity of probabilities (cycle, class) with the exact ones."""
    if exact.shape != probabilities.shape or not len(exact):
        raise ValueError(f"probabilities {tuple(probabilities.shape)} cannot be compared with {tuple(exact.shape)}")
    share = float((exact.argmax(dim=1) == probabilities.argmax(dim=1)).double().mean())
    difference = float(torch.nan_to_num((exact - probabilities).abs(), nan=float("inf")).max())
    return Parity(len(exact), share, difference)


@dataclass(frozen=True)
class Measurement:
    """One engine on some cycles. Infinite seconds: a float32 engine that is wrong on the probes of `graph.probes`."""

    parity: Parity
    seconds_per_cycle: float


def measure(
    trained: TrainedModel, names: Sequence[str], waveforms: Sequence[Tensor], *, console: Console
) -> dict[str, Measurement]:
    """Parity and speed of torch and of engines on the CPU, in one pass over the waveforms, after one over the probes.

    The seconds of a cycle are the median over batches. The speeds are kept for `select`.
    """
    clips, measured = list(probes(trained)), {}
    exact = exact_clips = torch.empty(0)
    for name in dict.fromkeys(["torch", *names]):
        engine = make(name, trained)
        of_clips, marks = engine.predict(clips), [(0, time.perf_counter())]
        with track(console, name) as on_progress:

            def mark(num_done: int, on_progress: Callable[[int, int], None] = on_progress) -> None:
                marks.append((num_done, time.perf_counter()))  # noqa: B023 (called within the iteration)
                on_progress(num_done, len(waveforms))

            probabilities = engine.predict(waveforms, on_progress=mark)
        if name == "torch":
            exact, exact_clips = probabilities, of_clips
        taken_s = median((end_s - start_s) / (after - before) for (before, start_s), (after, end_s) in pairwise(marks))
        is_wrong = not REGISTRY[name].is_bf16 and not parity(exact_clips, of_clips).is_exact
        measured[name] = Measurement(parity(exact, probabilities), float("inf") if is_wrong else taken_s)
    speeds = _read_speeds(trained) | {name: each.seconds_per_cycle for name, each in measured.items()}
    write_text(_speeds_path(trained), json.dumps(speeds, indent=2) + "\n")
    return measured


NUM_ROUNDS = 3


def speeds_of(trained: TrainedModel, names: Sequence[str]) -> dict[str, float]:
    """Seconds per cycle of engines on the CPU of this machine with the threads of now.

    What is not known yet is measured on the probes (seconds for each engine).
    """
    known = _read_speeds(trained)
    if missing := [name for name in names if name not in known]:
        measured = measure(trained, missing, list(probes(trained)) * NUM_ROUNDS, console=Console(quiet=True))
        known |= {name: measured[name].seconds_per_cycle for name in missing}
    return {name: known[name] for name in names}


def _read_speeds(trained: TrainedModel) -> dict[str, float]:
    path = _speeds_path(trained)
    speeds: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return speeds


def _speeds_path(trained: TrainedModel) -> Path:
    """The file of this processor, its threads, and the versions of the libraries."""
    processor = next((line for line in _cpu_info() if line.startswith("model name")), platform.processor())
    facts = [platform.machine(), processor, str(torch.get_num_threads())]
    for package in ("torch", "onnxruntime", "openvino"):
        try:
            facts.append(version(package))
        except PackageNotFoundError:
            facts.append("none")
    key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    return exported_path(trained).with_name(f"speeds-{key}.json")


def _cpu_info() -> list[str]:
    """Lines of Linux's description of the processors; none on other systems."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


PARITY_FILE = "engines.json"
FORMAT = "lungsound engines 1"


def write_parity(folder: Path, trained: TrainedModel, measured: Mapping[str, Parity]) -> Path:
    """Keep what was measured for this model file in its folder; the path."""
    path = folder / PARITY_FILE
    values = {"format": FORMAT, "model": trained.sha256, "engines": {k: asdict(v) for k, v in measured.items()}}
    write_text(path, json.dumps(values, indent=2) + "\n")
    return path


def read_parity(folder: Path, trained: TrainedModel) -> dict[str, Parity]:
    """Parity of engines for this model file; empty when none was measured, or for another. WeightsError if damaged."""
    path = folder / PARITY_FILE
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT or values["model"] != trained.sha256:
            return {}
        return {name: Parity(**numbers) for name, numbers in values["engines"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); remove it, and 'lungsound export' again") from None


def select(name: str, trained: TrainedModel, *, folder: Path | None, device: torch.device) -> Engine:
    """Make the engine that `name` asks for.

    "exact": the fastest float32 engine whose probabilities are those of torch to `EXACT_TOLERANCE`, on the probes and,
    where that was measured, on real cycles. "auto": the fastest of these and of the others that were measured in
    `folder`, that of the model file, to decide as torch in 99 % of the cycles; without such a measurement "exact". Only
    engines whose graph was exported take part, so without an export both are torch. Any other name: that engine,
    measured or not. On a GPU "exact" and "auto" are torch.
    """
    if name not in (AUTO, EXACT):
        return make(name, trained, device=device)
    names = candidates(name, trained, folder) if device.type == "cpu" else ["torch"]
    if len(names) == 1:
        return make(names[0], trained, device=device)
    speeds = speeds_of(trained, names)
    return make(min(names, key=speeds.__getitem__), trained, device=device)


def candidates(name: str, trained: TrainedModel, folder: Path | None) -> list[str]:
    """Names of the engines that "auto" or "exact" selects from; torch is always one of them."""
    names = available(trained)
    measured = {} if folder is None else read_parity(folder, trained)
    exact = [each for each in names if not REGISTRY[each].is_bf16 and (each not in measured or measured[each].is_exact)]
    if name == EXACT:
        return exact
    return exact + [each for each in names if each not in exact and each in measured and measured[each].is_enough]
