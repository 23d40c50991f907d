"""Inference backends: torch, ONNX Runtime and OpenVINO, their parity with torch and their speed, and which one is used.

Parity is a fact of the model and lies beside it; speed is a fact of the machine and lies in the cache.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from rich.console import Console

from lungsound.audio.filter_bank import normalize
from lungsound.audio.front_end import Sound
from lungsound.errors import SettingsError, WeightsError
from lungsound.evaluation.out_of_domain import HIGHEST_SCORE, spectral_features
from lungsound.extras import load
from lungsound.files import read_model, read_record, write_record, write_text
from lungsound.inference.graph_files import (
    EXACT_TOLERANCE,
    FBANK,
    FEATURES,
    PROBABILITIES,
    SPECTRUM,
    WAVEFORM,
    cached_graph,
    find_graph,
    probes,
)
from lungsound.processor import has_bf16, num_threads, processor_name
from lungsound.progress import OnProgress, track
from lungsound.training.model_file import TrainedModel

BATCH_SIZE = 4  # on a CPU larger ones bring nothing per cycle, and take more memory

Floats = NDArray[np.float32]
Outputs = tuple[Floats, Floats]
BatchOutputs = tuple[Floats, Floats, Floats]
# From inputs (batch, samples), as `TrainedModel.input_of` makes them, and the spectra (batch, mel) of their recordings
# where these are taken, to probabilities (batch, class), the encoder's features (batch, dim), and filter banks
# (batch, time, mel), not normalised further.
RunBatch = Callable[..., BatchOutputs]


@dataclass(eq=False)
class Engine:
    """Inference backend of a model. `name` is what a user calls it by."""

    name: str
    trained: TrainedModel
    run_batch: RunBatch
    batch_size: int = BATCH_SIZE

    def predict(self, cycles: Sequence[Sound], *, on_progress: OnProgress | None = None) -> Outputs:
        """Probabilities (cycle, class), and features (cycle, feature): the encoder's, then `spectral_features`.

        Cycles of any length are fitted to the model's input a batch at a time, those that take equally much of it
        together.
        """
        trained, front_end = self.trained, self.trained.front_end
        probabilities = np.empty((len(cycles), len(trained.label_set.classes)), np.float32)
        features: list[Floats] = [np.empty(0, np.float32)] * len(cycles)
        sizes, num_done = [trained.num_input_samples(len(cycle.waveform)) for cycle in cycles], 0
        for _, group in groupby(sorted(range(len(sizes)), key=sizes.__getitem__), key=sizes.__getitem__):
            of_one_size = list(group)
            for first in range(0, len(of_one_size), self.batch_size):
                places = of_one_size[first : first + self.batch_size]
                batch = [cycles[place] for place in places]
                clips = np.stack([trained.input_of(cycle.waveform) for cycle in batch])
                spectra = front_end.spectra(batch)
                inputs = [clips] if spectra is None else [clips, spectra]
                probabilities[places], encoded, fbanks = self.run_batch(*inputs)
                own = [front_end.num_own_frames(len(cycle.waveform)) for cycle in batch]
                for place, *parts in zip(places, encoded, spectral_features(fbanks, own), strict=True):
                    features[place] = np.concatenate(parts)
                num_done += len(places)
                if on_progress is not None:
                    on_progress(num_done, len(cycles))
        return probabilities, np.stack(features) if features else np.empty((0, 0), np.float32)


def run_torch(trained: TrainedModel, *, device: str = "cpu", is_bf16: bool = False) -> RunBatch:
    """The model as it was trained, the only one for a GPU. The filter bank is float32 in any case."""
    load("torch", extra="train")  # late, as all that needs it: the other engines do not
    from lungsound.models.classifier import find_device

    trained.model.to(find_device(device)).eval()
    return partial(_run_torch_batch, trained, device, is_bf16)  # and not a closure, so that it can be pickled


def _run_torch_batch(trained: TrainedModel, device: str, is_bf16: bool, *inputs: Floats) -> BatchOutputs:
    import torch

    from lungsound.models.classifier import predict_cycles

    fbanks = trained.front_end.filter_banks(*inputs)
    batches = [(torch.from_numpy(normalize(fbanks, mean=trained.mean, std=trained.std)), None)]
    return (*predict_cycles(trained.model, batches, device=torch.device(device), is_bf16=is_bf16), fbanks)


def graph_of(trained: TrainedModel) -> Path:
    """The model's ONNX graph, which is exported where it is not there yet."""
    if (path := find_graph(trained)) is not None:
        return path
    from lungsound.inference.graph import exported

    return exported(trained)


def run_onnx(trained: TrainedModel) -> RunBatch:
    """The exported graph in ONNX Runtime on the CPU, with `num_threads` threads."""
    runtime = load("onnxruntime", extra=None)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = num_threads()
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the processor from those that read the next recording.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(str(graph_of(trained)), options, providers=["CPUExecutionProvider"])

    def run_batch(*inputs: Floats) -> BatchOutputs:
        named = dict(zip((WAVEFORM, SPECTRUM), inputs, strict=False))
        probabilities, features, fbanks = session.run([PROBABILITIES, FEATURES, FBANK], named)
        return probabilities, features, fbanks * (2 * trained.std) + trained.mean

    return run_batch


def run_openvino(trained: TrainedModel, *, is_bf16: bool = False) -> RunBatch:
    """The exported graph in OpenVINO on the CPU, with `num_threads` threads.

    With `is_bf16` all of it computes in bfloat16 but the filter bank, which is compiled on its own: OpenVINO sets the
    precision of complete models, and in bfloat16 the logarithm of a soft band is wrong by tens of percents.
    """
    openvino = load("openvino", extra="openvino")
    core = openvino.Core()
    graph = core.read_model(str(graph_of(trained)))
    fbank = graph.output(FBANK).get_node().input_value(0)
    settings = {"INFERENCE_NUM_THREADS": num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    front = openvino.Model([fbank], graph.get_parameters(), "filter bank")
    run_front = core.compile_model(front, "CPU", {**settings, "INFERENCE_PRECISION_HINT": "f32"})
    given = openvino.opset13.parameter(fbank.get_partial_shape(), openvino.Type.f32)
    for reader in fbank.get_target_inputs():
        reader.replace_source_output(given.output(0))
    # The waveform stays an input: the graph takes the size of the batch from it.
    parameters = [given, *graph.get_parameters()]
    results = [graph.output(name).get_node().input_value(0) for name in (PROBABILITIES, FEATURES)]
    rest = openvino.Model(results, parameters, "encoder")
    precision = "bf16" if is_bf16 else "f32"
    run_rest = core.compile_model(rest, "CPU", {**settings, "INFERENCE_PRECISION_HINT": precision})

    def run_batch(*inputs: Floats) -> BatchOutputs:
        fbanks = run_front(inputs)[0]
        predicted = run_rest([fbanks, *inputs])
        return predicted[0], predicted[1], fbanks * (2 * trained.std) + trained.mean

    return run_batch


@dataclass(frozen=True)
class Backend:
    """What runs a model, by a package. Without `is_bf16` it can equal torch to `EXACT_TOLERANCE`."""

    prepare: Callable[[TrainedModel], RunBatch]
    package: str
    is_bf16: bool = False


REGISTRY = {
    "torch": Backend(run_torch, "torch"),
    "torch-bf16": Backend(partial(run_torch, is_bf16=True), "torch", is_bf16=True),
    "onnx": Backend(run_onnx, "onnxruntime"),
    "openvino": Backend(run_openvino, "openvino"),
    "openvino-bf16": Backend(partial(run_openvino, is_bf16=True), "openvino", is_bf16=True),
}
AUTO, EXACT = "auto", "exact"
# Speeds are measured on sounds of one length when all is loaded: others take longer to start, and for each new length.
USUAL, MUCH_FASTER = "onnx", 2 / 3  # of its time


def make(name: str, trained: TrainedModel, *, device: str = "cpu") -> Engine:
    """Make the engine of that name; the graph it needs is exported where it is not there yet."""
    if name not in REGISTRY:
        raise SettingsError(f"engine {name!r} is not known; use {AUTO}, {EXACT}, {', '.join(REGISTRY)}")
    backend = REGISTRY[name]
    if device == "cpu":
        return Engine(name, trained, backend.prepare(trained))
    if backend.package != "torch":
        raise SettingsError(f"engine {name!r} is for the CPU, and the device is {device}: use torch or torch-bf16")
    return Engine(name, trained, run_torch(trained, device=device, is_bf16=backend.is_bf16))


def available(trained: TrainedModel) -> list[str]:
    """Engines for the CPU that are installed, have the graph they need, and have a processor for their precision."""
    has_graph = find_graph(trained) is not None
    return [
        name
        for name, backend in REGISTRY.items()
        if find_spec(backend.package) is not None
        and (backend.package == "torch" or has_graph)
        and (not backend.is_bf16 or has_bf16())
    ]


@dataclass(frozen=True)
class Parity:
    """Parity with torch: the `share` of cycles decided alike, and the `largest_difference` in probability."""

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


def parity(exact: Sequence[Floats], given: Sequence[Floats]) -> Parity:
    """Parity with the exact probabilities (cycle, outcome) of one or more decisions; of each the first largest wins."""
    pairs = list(zip(exact, given, strict=True))
    is_same = np.all([one.argmax(axis=1) == other.argmax(axis=1) for one, other in pairs], axis=0)
    largest = max(float(np.nan_to_num(np.abs(one - other), nan=np.inf).max()) for one, other in pairs)
    return Parity(len(is_same), float(is_same.mean()), largest)


def decisions(trained: TrainedModel, outputs: Outputs) -> list[Floats]:
    """Probabilities (cycle, outcome) of all that is decided from an engine's outputs: class, gates, out of domain.

    A gate is a logistic curve with its threshold at a half, ten times as flat as its regression has it: its score is
    a sum over features, which rounding moves further than a probability. Out of domain is 0 or 1.
    """
    probabilities, features = outputs
    gates = [gate for gate in (trained.gate, trained.doubted) if gate is not None]
    yes = [0.5 + 0.5 * np.tanh((gate.scores(features) - gate.threshold) / 20) for gate in gates]
    if trained.domain is not None:
        scores = trained.domain.scores(features[:, -2 * trained.front_end.audio.num_mels :])
        yes.append((scores == HIGHEST_SCORE).astype(np.float32))
    return [probabilities, *(np.stack([1 - each, each], axis=1).astype(np.float32) for each in yes)]


SLOW = 4.0  # times as slow as the fastest on the probes: nobody would take it, and it is measured no further,
LONG_S = 10.0  # where that would take so long
TRIED_S = 0.3  # for an engine on a probe, or one call


@dataclass(frozen=True)
class Tried:
    """An engine after a try on the probes: seconds per cycle there, and whether it is wrong on them."""

    engine: Engine
    seconds: float
    is_wrong: bool


def try_engines(trained: TrainedModel, names: Sequence[str]) -> Iterator[Tried]:
    """Try engines on the probes: torch first where it is installed, by which the others are judged; else the first."""
    sounds, exact, fastest_s = probes(trained), None, math.inf
    reference = ["torch"] if find_spec("torch") is not None else []
    for name in dict.fromkeys([*reference, *names]):
        engine, start_s = make(name, trained), time.perf_counter()
        given = decisions(trained, engine.predict(sounds))
        seconds = [(time.perf_counter() - start_s) / len(sounds)]  # of the call that warms up: if slow, the only one
        exact = exact or given
        if seconds[0] <= max(SLOW * fastest_s, TRIED_S):
            while len(seconds) == 1 or sum(seconds[1:]) < TRIED_S:
                start_s = time.perf_counter()
                engine.predict(sounds[:1])
                seconds.append(time.perf_counter() - start_s)
        is_wrong = not REGISTRY[name].is_bf16 and not parity(exact, given).is_exact
        fastest_s = fastest_s if is_wrong else min(fastest_s, *seconds)
        yield Tried(engine, min(seconds), is_wrong)


def measure(
    trained: TrainedModel, names: Sequence[str], cycles: Sequence[Sound], *, console: Console
) -> dict[str, tuple[Parity, float]]:
    """Parity with torch, or without it with the first, and seconds per cycle (infinite if wrong on the probes).

    Of torch too, where it is installed; not of one that is `SLOW` on the probes and would take `LONG_S`, which is said.
    Kept for `select`.
    """
    exact: list[Floats] = []
    measured: dict[str, tuple[Parity, float]] = {}
    speeds: dict[str, float] = {}
    for tried in try_engines(trained, names):
        name, fastest_s = tried.engine.name, min(speeds.values(), default=math.inf)
        if tried.seconds > max(SLOW * fastest_s, LONG_S / len(cycles)):
            console.print(f"{name} is left out: {tried.seconds:.1e} s a cycle, where another takes {fastest_s:.1e} s")
            speeds[name] = tried.seconds
            continue
        with track(console, name) as on_progress:
            start_s = time.perf_counter()
            given = decisions(trained, tried.engine.predict(cycles, on_progress=on_progress))
            seconds = (time.perf_counter() - start_s) / len(cycles)
        exact = exact or given
        speeds[name] = math.inf if tried.is_wrong else seconds
        measured[name] = (parity(exact, given), speeds[name])
    _keep_speeds(trained, speeds)
    return measured


def speeds_of(trained: TrainedModel, names: Sequence[str]) -> dict[str, float]:
    """Seconds per cycle of engines on this CPU with the threads of now; measured on the probes if not known yet."""
    _, known = _known_speeds(trained)
    if missing := [name for name in names if name not in known]:
        tried = try_engines(trained, missing)
        known |= {each.engine.name: math.inf if each.is_wrong else each.seconds for each in tried}
        _keep_speeds(trained, known)
    return {name: known[name] for name in names}


def _keep_speeds(trained: TrainedModel, speeds: Mapping[str, float]) -> None:
    path, known = _known_speeds(trained)
    write_record(path, {**known, **speeds}, made_for=f"{trained.sha256} {path.stem}")


def _known_speeds(trained: TrainedModel) -> tuple[Path, dict[str, float]]:
    """File of the speeds on this processor with its threads and the versions of the libraries, and what it holds."""
    packages = [version(name) if find_spec(name) else "none" for name in ("torch", "onnxruntime", "openvino")]
    facts = [processor_name(), str(num_threads()), *packages]
    key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    path = cached_graph(trained).with_name(f"speeds-{key}.json")
    kept = read_record(path, made_for=f"{trained.sha256} {path.stem}") or {}
    # JSON has no infinity.
    return path, {name: math.inf if seconds is None else seconds for name, seconds in kept.items()}


FORMAT = "lungsound engines 2"


class MeasuredEngines(BaseModel):
    """The content of engines.json."""

    format: str
    model: str
    engines: dict[str, Parity]


def write_parity(folder: Path, trained: TrainedModel, measured: Mapping[str, Parity]) -> Path:
    """Keep what was measured for this model file in its folder; the path."""
    path = folder / "engines.json"
    values = {"format": FORMAT, "model": trained.sha256, "engines": {k: asdict(v) for k, v in measured.items()}}
    write_text(path, json.dumps(values, indent=2) + "\n")
    return path


def read_parity(folder: Path, trained: TrainedModel) -> dict[str, Parity]:
    """Parity of engines for this model file; empty when none was measured, or for another. WeightsError if damaged."""
    path = folder / "engines.json"
    if not os.path.lexists(path):  # a link to nothing is damage
        return {}
    advice = "remove it, and 'lungsound export' again"
    kept = read_model(path, MeasuredEngines, WeightsError, advice=advice, is_nan_allowed=True)
    return kept.engines if (kept.format, kept.model) == (FORMAT, trained.sha256) else {}


def select(name: str, trained: TrainedModel, *, folder: Path | None, device: str) -> Engine:
    """Make the engine of that name; for "auto" and "exact" one of `candidates`, on a GPU torch.

    It is `USUAL`, that of a plain installation, unless another one is much faster.
    """
    if name in (AUTO, EXACT):
        names = candidates(name, trained, folder) if device == "cpu" else ["torch"]
        speeds = speeds_of(trained, names) if len(names) > 1 else {}
        name = min(names, key=lambda each: speeds.get(each, 0.0))
        if USUAL in names and speeds.get(name, 0.0) > MUCH_FASTER * speeds.get(USUAL, 0.0):
            name = USUAL
    return make(name, trained, device=device)


def candidates(name: str, trained: TrainedModel, folder: Path | None) -> list[str]:
    """Names of the engines that "auto" or "exact" selects from. SettingsError where there is none.

    "exact": torch, where it is installed, and those of float32 that equal it on the probes and, where that was
    measured, on real cycles. "auto": also those that were measured in `folder`, that of the model file, to decide as
    torch in 99 % of the cycles.
    """
    names = available(trained)
    if not names:
        raise SettingsError(
            f"{trained.file or 'the model'} has no graph beside it, and torch is not installed: 'lungsound export' it "
            "where torch is and copy its folder whole, or pip install 'lungsound[train]'"
        )
    measured = {} if folder is None else read_parity(folder, trained)
    exact = [each for each in names if not REGISTRY[each].is_bf16 and (each not in measured or measured[each].is_exact)]
    if name == EXACT:
        return exact
    return exact + [each for each in names if each not in exact and each in measured and measured[each].is_enough]
