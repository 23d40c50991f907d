"""Speed of lungsound beside peers, as ratios measured in turn in one run: `python -m benchmarks.speed PART`.

PART is data (sound files to features beside a loop over cycles as published, start to first batch), train (a step
beside the plain step of two forward passes), infer (engines beside transformers' AST with the same weights) or all.
"""

import argparse
import contextlib
import copy
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from rich.console import Console
from torch import Tensor, nn

from benchmarks import ours
from benchmarks.measure import (
    Comparison,
    Spread,
    Work,
    ceilings,
    compare,
    flops_of,
    machine,
    peak_resident_bytes,
    resident_bytes,
    seconds_each,
    seconds_of,
    spread,
)
from benchmarks.peers import TransformersPredictions, published_features, transformers
from lungsound.audio.front_end import FrontEnd
from lungsound.config import DataSettings, load_config
from lungsound.data.batches import training_batches, training_inputs
from lungsound.data.splits import divide, load_corpus
from lungsound.data.store import open_filter_banks, waveforms_of
from lungsound.errors import LungsoundError, SettingsError
from lungsound.experiments.study import write_between
from lungsound.files import write_text
from lungsound.inference.engines import (
    AUTO,
    EXACT,
    REGISTRY,
    Floats,
    Parity,
    TorchEngine,
    available,
    measure,
    select,
    write_parity,
)
from lungsound.inference.graph import exported
from lungsound.models.ast import AudioSpectrogramTransformer
from lungsound.page import bullets, paragraphs, table
from lungsound.training.checkpoint import TrainedModel, load_model, model_file

CPU = torch.device("cpu")
GPU_BATCH_SIZES = (16, 32, 64, 128)
NUM_TIMED = 64
HEAD = ("what", "wanted", "measured", "quartiles", "", "how")
DIGITS = {"x": 2, "%": 0, "s": 2, "MiB": 0}


@dataclass(frozen=True)
class Line:
    """A measured line of the table.

    unit      x (how many times as fast as the peer), %, s or MiB
    wanted    at least so much for x and a share of a ceiling, at most for the others (`is_most`)
    numbers   what goes with it: seconds, GFLOP/s, shares; kept in the JSON file
    """

    key: str
    what: str
    unit: str
    wanted: float
    measured: Spread
    note: str
    is_most: bool = False
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_reached(self) -> bool:
        return self.measured.median <= self.wanted if self.is_most else self.measured.median >= self.wanted

    def cells(self) -> tuple[str, ...]:
        """Cells under `HEAD`."""
        low, median, high = (
            f"{each:.{DIGITS[self.unit]}f}" for each in (self.measured.low, self.measured.median, self.measured.high)
        )
        limit = f"{'at most' if self.is_most else 'at least'} {self.wanted:g} {self.unit}"
        verdict = "reached" if self.is_reached else "not reached"
        return (self.what, limit, f"{median} {self.unit}", f"{low} to {high}", verdict, self.note)


@dataclass(frozen=True)
class Bench:
    """Settings of one call.

    sizes     encoders to measure: the first predicts
    ceilings  GFLOP/s and GB/s that this device was seen to reach in the same call
    work      folder for what is made on the way
    data      corpus for the lines on real cycles; None takes noise of ICBHI's lengths
    model     run whose model predicts, in place of one with random weights
    """

    sizes: Sequence[str]
    num_threads: int
    device: torch.device
    ceilings: Mapping[str, float]
    work: Path
    data: Path | None = None
    model: Path | None = None
    is_quick: bool = False

    @property
    def batch_size(self) -> int:
        return 4 if self.is_quick else 8

    def compare(self, own: Work, peer: Work, *, least_pairs: int = 3) -> Comparison:
        """Both in turn: nine pairs, or fewer where that takes longer than 40 s; two in a quick call."""
        if self.is_quick:
            return compare(own, peer, least_pairs=2, most_pairs=2, budget_s=0.0)
        return compare(own, peer, least_pairs=least_pairs, most_pairs=9, budget_s=40.0)


def data_lines(bench: Bench) -> list[Line]:
    """Cold path of a small corpus of noise, then the warm start of one of ICBHI's size."""
    num_recordings, num_cycles = (8, 40) if bench.is_quick else (40, 300)
    small = ours.write_noise_corpus(bench.work / "small", num_recordings=num_recordings, num_cycles=num_cycles)
    lines = []
    for is_padding_encoded in (True, False):
        overrides = [f"data.root={small}", f"audio.is_padding_encoded={str(is_padding_encoded).lower()}"]
        config = load_config("patchmix_cl", overrides)
        front_end = FrontEnd(config.audio)

        def cold(config: Any = config, front_end: Any = front_end) -> None:
            with cache_in(bench.work / "cold"):
                open_filter_banks(load_corpus(config.data), front_end, console=Console(quiet=True))
            shutil.rmtree(bench.work / "cold")

        padded = FrontEnd(config.audio.model_copy(update={"is_padding_encoded": True}))
        taken = bench.compare(cold, lambda padded=padded: published_features(small, padded))
        numbers = _seconds(taken)
        own_ms, peer_ms = (1e3 * numbers[name] / num_cycles for name in ("ours_s", "peer_s"))
        note = (
            f"ours {own_ms:.1f} ms a cycle, peer {peer_ms:.1f} ms; {num_cycles} cycles of {num_recordings} recordings "
            f"of noise at 44.1 kHz, {taken.num_pairs} pairs"
        )
        what = f"corpus to features, cold, a cycle, {bench.num_threads} threads / a loop over cycles as published"
        key = "data-cold"
        if not is_padding_encoded:
            key, what = "data-cold-own", "the same, where padding is not encoded (the loop computes it)"
        lines.append(Line(key, what, "x", 5.0, taken.ratio, note, numbers=numbers))
    if bench.is_quick:
        corpus = ours.write_noise_corpus(bench.work / "all", num_recordings=56, num_cycles=240, rate_hz=16000)
    else:
        corpus = ours.write_noise_corpus(bench.work / "all")
    starts = [_in_a_process("start", cache=bench.work / "warm", corpus=str(corpus)) for _ in range(4)][1:]
    start_s, growth_mib = (spread(tuple(each[name] for each in starts)) for name in ("start_s", "growth_mib"))
    num_cycles = int(starts[0]["num_cycles"])
    what = f"start to first batch, warm store, {num_cycles:,} cycles"
    note = f"imports included; {len(starts)} starts, files in the page cache"
    more = "the same, growth of resident memory over a pass through all cycles"
    lines.append(Line("data-start", what, "s", 2.0, start_s, note, is_most=True))
    return [*lines, Line("data-growth", more, "MiB", 300.0, growth_mib, "beyond imports and settings", is_most=True)]


def start(began_s: float, *, corpus: str) -> dict[str, float]:
    """Do what a run does before its first step, in this process: seconds, and growth over a pass through the corpus."""
    config = load_config("patchmix_cl", [f"data.root={corpus}"])
    baseline = resident_bytes()
    read, quiet = load_corpus(config.data), Console(quiet=True)
    parts = divide(read, config.data, config.train)
    inputs = training_inputs(config, read, parts, console=quiet)
    next(training_batches(config, read, parts, inputs, console=quiet).epoch(1))
    start_s = time.time() - began_s
    num_cycles = sum(len(fbank) for fbank, _ in inputs.to_predict(range(len(read.cycles)), 32))
    return {
        "start_s": start_s,
        "growth_mib": (resident_bytes() - baseline) / 2**20,
        "num_cycles": num_cycles,
    }


def train_lines(bench: Bench) -> list[Line]:
    """Memory and seconds of a step of each size; then of the first with cycles of their own length."""
    wanted = {"base": 3.5, "tiny": 2.8, "micro": 1.0}
    memory = [_memory_line(bench, size) for size in bench.sizes]  # first, while this process holds nothing
    lines = [
        line
        for size, beside in zip(bench.sizes, memory, strict=True)
        for line in (_step_line(bench, size, f"train-{size}", wanted[size]), beside)
    ]
    return [*lines, _step_line(bench, bench.sizes[0], f"train-{bench.sizes[0]}-packed", 8.0, is_packed=True)]


def _step_line(bench: Bench, size: str, key: str, wanted: float, *, is_packed: bool = False) -> Line:
    durations_s, how = None, ""
    if is_packed:
        durations_s, source = _durations_s(bench)
        how = f", padding-aware, {source}"
    kwargs: dict[str, Any] = {"batch_size": bench.batch_size, "device": bench.device, "is_quick": bench.is_quick}
    own = ours.make_step("ours", size, durations_s=durations_s, **kwargs)
    taken = bench.compare(own, ours.make_step("peer", size, **kwargs), least_pairs=2 if size == "base" else 3)
    numbers = _seconds(taken)
    gflop = flops_of(own) / 1e9
    share = gflop / numbers["ours_s"] / bench.ceilings["bf16"]
    numbers |= {"gflop": gflop, "ceiling_share": share}
    peer = "plain step, fp32" if bench.device.type == "cpu" else "plain step, eager, AMP"
    what = f"patchmix_cl step, AST-{size.title()}, batch {bench.batch_size}{how}, {_name(bench.device)}, bf16 / {peer}"
    note = (
        f"ours {numbers['ours_s']:.2f} s, peer {numbers['peer_s']:.2f} s, {taken.num_pairs} pairs; {gflop:.0f} GFLOP, "
        f"{100 * share:.0f} % of the bf16 ceiling"
    )
    return Line(key, what, "x", wanted, taken.ratio, note, numbers=numbers)


def _memory_line(bench: Bench, size: str) -> Line:
    own, peer = (
        _in_a_process(
            "memory",
            side=side,
            size=size,
            batch_size=bench.batch_size,
            num_threads=bench.num_threads,
            is_quick=bench.is_quick,
        )["mib"]
        for side in ("ours", "peer")
    )
    what = f"the same, peak memory over the plain step's, AST-{size.title()}"
    note = f"ours {own:,.0f} MiB, peer {peer:,.0f} MiB, each in a process of its own, less imports"
    share = Spread(*[100 * own / peer] * 3)
    numbers = {"ours_mib": own, "peer_mib": peer}
    return Line(f"train-{size}-memory", what, "%", 60.0, share, note, is_most=True, numbers=numbers)


def memory(
    began_s: float, *, side: str, size: str, batch_size: int, num_threads: int, is_quick: bool
) -> dict[str, float]:
    """Peak memory of two steps of one side in this process, above that after all imports."""
    del began_s
    torch.set_num_threads(num_threads)
    if side == "peer":
        transformers().ASTForAudioClassification  # noqa: B018 (imported when first asked for)
    baseline = resident_bytes()
    step = ours.make_step(side, size, batch_size=batch_size, device=CPU, is_quick=is_quick)
    step()
    step()
    return {"mib": (peak_resident_bytes() - baseline) / 2**20}


def gpu_lines(bench: Bench) -> list[Line]:
    """Share of the GPU's ceiling, the best over batch sizes, and the plain step beside ours."""
    size, shares = bench.sizes[0], {}
    for batch_size in (bench.batch_size,) if bench.is_quick else GPU_BATCH_SIZES:
        step = ours.make_step("ours", size, batch_size=batch_size, device=bench.device, is_quick=bench.is_quick)
        flops = flops_of(step)
        taken_s = seconds_each(step, least=2, most=2 if bench.is_quick else 9, budget_s=10.0)
        shares[batch_size] = spread(tuple(100 * flops / each / 1e9 / bench.ceilings["bf16"] for each in taken_s))
    best = max(shares, key=lambda batch_size: shares[batch_size].median)
    note = f"batch {best}; " + ", ".join(f"{size}: {share.median:.0f} %" for size, share in shares.items())
    what = f"{_name(bench.device)}, AST-{size.title()} patchmix_cl, bf16: share of the measured bf16 ceiling"
    return [Line("gpu-share", what, "%", 50.0, shares[best], note), _step_line(bench, size, "gpu-step", 3.0)]


def infer_lines(bench: Bench) -> list[Line]:
    """Cycles of the complete input by the exact and the fast engine; then, padding not encoded, of real lengths.

    A trained model predicts as it was trained, so the last line is there for one that does not encode padding.
    """
    with cache_in(bench.work / "engines"):
        trained, _, measured, source = _prepared(bench, is_padding_encoded=True)
        full = ours.waveforms(trained.front_end, [trained.front_end.audio.duration_s] * bench.batch_size)
        what = f"inference, {trained.front_end.audio.duration_s:g} s cycles"
        lines = [
            _infer_line(bench, trained, "exact", full, f"{what}, exact engine", {}, source),
            _infer_line(bench, trained, "fast", full, f"{what}, fast default", measured, source),
        ]
        if bench.model is not None and trained.front_end.is_padding_encoded:
            return lines
        own, cycles, measured, source = _prepared(bench, is_padding_encoded=False)
        what = f"inference, {len(cycles)} cycles ({source}), padding-aware, fast default"
        return [*lines, _infer_line(bench, own, "real", cycles, what, measured, source)]


def _prepared(
    bench: Bench, *, is_padding_encoded: bool
) -> tuple[TrainedModel, list[Tensor], Mapping[str, Parity], str]:
    """A model whose engines are measured into `bench.work`, cycles to time it on, the measurement, and their source.

    Random weights predict the same class for every cycle, in which no engine could err: the head's bias is set so that
    all classes have the same mean logit, by margins as small as the predictions differ.
    """
    if bench.model is None:
        config = ours.run_config(
            bench.sizes[0], precision="fp32", is_quick=bench.is_quick, is_padding_encoded=is_padding_encoded
        )
        trained = ours.trained_model(config)
    else:
        trained = load_model(model_file(bench.model))
        encoder = trained.model.encoder
        if not isinstance(encoder, AudioSpectrogramTransformer) or encoder.pooling != "class_token":
            raise SettingsError(
                f"{bench.model} is not what transformers' AST is, which it would be measured against: give a run with "
                "model.architecture 'ast' and model.pooling 'class_token'"
            )
    timed, compared, source = _cycles(bench, trained)
    if bench.model is None:
        linear = trained.model.head[-1]
        assert isinstance(linear, nn.Linear)
        with torch.no_grad():
            linear.bias.sub_(torch.from_numpy(TorchEngine(trained).predict(_arrays(compared))[0]).log().mean(dim=0))
    if not bench.is_quick:
        exported(trained)
    measured = measure(trained, available(trained), _arrays(compared), console=Console(quiet=True))
    parities = {name: parity for name, (parity, _) in measured.items()}
    write_parity(bench.work, trained, parities)
    return trained, timed, parities, source


def _arrays(cycles: Sequence[Tensor]) -> list[Floats]:
    return [cycle.numpy() for cycle in cycles]


def _cycles(bench: Bench, trained: TrainedModel) -> tuple[list[Tensor], list[Tensor], str]:
    """Cycles to time and others to compare engines on, drawn at random, the same at every call; their source."""
    num_timed = bench.batch_size if bench.is_quick else NUM_TIMED
    num = num_timed + Parity.LEAST_CYCLES
    if bench.data is None:
        cycles, source = ours.waveforms(trained.front_end, ours.noise_durations_s(num)), "noise of ICBHI's lengths"
    else:
        corpus = load_corpus(DataSettings(root=str(bench.data), modes=("sc",), is_strict=False))
        if len(corpus.cycles) < num:
            raise SettingsError(f"the benchmark needs {num} cycles, and {bench.data} has {len(corpus.cycles)}")
        rows = np.random.default_rng(0).permutation(len(corpus.cycles))[:num]
        # Cut recording by recording, each of which is read once, and put back into the order of the draw.
        cut = waveforms_of([corpus.cycles[row] for row in np.sort(rows)], trained.front_end)
        cycles, source = [cut[place] for place in rows.argsort().argsort()], f"real cycles of {corpus.name}-SC"
    return cycles[:num_timed], cycles[num_timed:], source


def _durations_s(bench: Bench) -> tuple[list[float], str]:
    """Seconds of a batch of cycles that stands for all of them, at evenly spaced quantiles; their source."""
    durations_s, source = ours.noise_durations_s(ours.NUM_CYCLES), "lengths like ICBHI's"
    if bench.data is not None:
        corpus = load_corpus(DataSettings(root=str(bench.data), modes=("sc",), is_strict=False))
        durations_s = [each.end_s - each.start_s for each in corpus.cycles]
        source = f"lengths of {corpus.name}-SC's cycles"
    quantiles = (np.arange(bench.batch_size) + 0.5) / bench.batch_size
    return [float(each) for each in np.quantile(durations_s, quantiles)], source


def _infer_line(
    bench: Bench,
    trained: TrainedModel,
    kind: str,
    cycles: Sequence[Tensor],
    what: str,
    measured: Mapping[str, Parity],
    source: str,
) -> Line:
    """One line: milliseconds a cycle of both sides, the selected engine, and the parity of each that was tried."""
    name = f"AST-{bench.sizes[0].title()}"
    if bench.model is not None:
        encoder = trained.model.patch_encoder
        name = f"{bench.model.absolute().name} (AST of {len(encoder.blocks)} blocks of width {encoder.dim}, trained)"
    engine = select(EXACT if kind == "exact" else AUTO, trained, folder=bench.work, device=CPU)
    peer = TransformersPredictions(trained.model, trained.front_end, mean=trained.mean, std=trained.std)
    arrays = _arrays(cycles)
    # The peer takes as long for a short cycle as for a long one: no more pairs than needed.
    taken = bench.compare(lambda: engine.predict(arrays), lambda: peer(cycles), least_pairs=2)
    numbers = _seconds(taken) | {"gflop": forward_flops(trained, cycles) / 1e9}
    own_ms, peer_ms = (1e3 * numbers[side] / len(cycles) for side in ("ours_s", "peer_s"))
    features_ms = 1e3 * seconds_of(lambda: peer.features(cycles)) / len(cycles)
    dtype = "bf16" if REGISTRY[engine.name].is_bf16 else "fp32"
    share = 1e3 * numbers["gflop"] / own_ms / bench.ceilings[dtype]
    numbers |= {"ours_ms": own_ms, "ceiling_share": share}
    note = (
        f"{engine.name}, {own_ms:.0f} ms a cycle, {numbers['gflop']:.3g} GFLOP, {100 * share:.0f} % of the {dtype} "
        f"ceiling"
    )
    for other, each in measured.items():
        numbers[f"same_class_{other}"] = each.share
        note += f"; {other}: the class of torch fp32 in {each.share:.1%} of {each.num_cycles} cycles"
    note += f" ({source})" if measured else ""
    note += f"; peer {peer_ms:.0f} ms, of which {features_ms:.0f} ms its features; {taken.num_pairs} pairs"
    if trained.front_end.is_padding_encoded:  # else they are asked something else
        numbers["largest_difference"] = float(np.abs(engine.predict(arrays)[0] - peer(cycles).numpy()).max())
        note += f"; probabilities differ by {numbers['largest_difference']:.1g} at most"
    wanted = {"exact": 2.3, "fast": 5.0, "real": 12.0}[kind]
    return Line(f"infer-{kind}", f"{name} {what} / transformers fp32", "x", wanted, taken.ratio, note, numbers=numbers)


def forward_flops(trained: TrainedModel, cycles: Sequence[Tensor]) -> float:
    """Operations of the model for a cycle, the mean of these; the filter bank left out."""
    front_end, model = trained.front_end, copy.deepcopy(trained.model).to("meta")
    sizes = [front_end.log_mel.num_frames(trained.num_input_samples(len(cycle))) for cycle in cycles]
    with torch.no_grad():
        of_size = {
            num_frames: flops_of(lambda: model(torch.empty(1, num_frames, front_end.num_mels, device="meta")))  # noqa: B023 (called at once)
            for num_frames in set(sizes)
        }
    return sum(of_size[num_frames] for num_frames in sizes) / len(sizes)


def _seconds(taken: Comparison) -> dict[str, float]:
    medians = {"ours_s": spread(taken.ours_s).median, "peer_s": spread(taken.peer_s).median}
    return medians | {"num_pairs": taken.num_pairs}


def _name(device: torch.device) -> str:
    return "GPU" if device.type == "cuda" else "CPU"


@contextlib.contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Keep the package's cache in `folder` while this lasts."""
    before = os.environ.get("LUNGSOUND_CACHE")
    os.environ["LUNGSOUND_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["LUNGSOUND_CACHE"]
        if before is not None:
            os.environ["LUNGSOUND_CACHE"] = before


def _in_a_process(name: str, *, cache: Path | None = None, **arguments: Any) -> dict[str, float]:
    """Call a function of `PROCESSES` in a process of its own; its numbers."""
    command = [sys.executable, "-m", "benchmarks.speed", name, json.dumps({"began_s": time.time()} | arguments)]
    environment = os.environ | ({} if cache is None else {"LUNGSOUND_CACHE": str(cache)})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"signal {-done.returncode}: is the memory used up?"]
        raise LungsoundError(f"{name} of {arguments} could not be measured: {reason[0]}")
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


PARTS = {"data": data_lines, "train": train_lines, "infer": infer_lines}
PROCESSES = {"start": start, "memory": memory}


def main(words: Sequence[str]) -> None:
    if words and words[0] in PROCESSES:
        print(json.dumps(PROCESSES[words[0]](**json.loads(words[1]))))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--size", choices=["base", "tiny", "micro"], action="append", help="repeatable; base and tiny")
    parser.add_argument("--data", type=Path, help="corpus for the lines on real cycles")
    parser.add_argument("--model", type=Path, help="run whose model predicts in infer")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder, or a document (.md) with the marks of the table")
    parser.add_argument("--quick", action="store_true", help="see that it works: numbers that mean nothing")
    options = parser.parse_args(words)
    if options.model is not None and options.part != "infer":
        parser.error("--model is of the part infer")
    transformers()
    torch.set_num_threads(options.threads)
    sizes = options.size or (["micro"] if options.quick else ["base", "tiny"])
    with tempfile.TemporaryDirectory(prefix="lungsound-bench-") as work:
        settings: dict[str, Any] = {"data": options.data, "model": options.model, "is_quick": options.quick}
        reached = ceilings(CPU, is_quick=options.quick)
        bench = Bench(sizes, options.threads, CPU, reached, Path(work), **settings)
        lines = [line for part in PARTS if options.part in (part, "all") for line in PARTS[part](bench)]
        device = CPU
        if torch.cuda.is_available() and options.part in ("train", "all"):
            device = torch.device("cuda")
            lines += gpu_lines(replace(bench, device=device, ceilings=ceilings(device, is_quick=options.quick)))
    command = shlex.join(["python", "-m", "benchmarks.speed", *words])
    facts = machine(num_threads=options.threads, device=device)
    date = datetime.now(UTC).date().isoformat()
    num_reached = sum(line.is_reached for line in lines)
    text = paragraphs(
        Markup(f"**Measured {date}.** {num_reached} of {len(lines)} lines are reached."),
        table(HEAD, [line.cells() for line in lines]),
        bullets(
            [
                f"Command: {command}",
                "Machine: " + ", ".join(f"{name} {value}" for name, value in facts.items()),
                f"Ceilings measured in the same call: {reached['fp32']:.0f} GFLOP/s in fp32, {reached['bf16']:.0f} "
                "in bf16 (matrix products, the better of torch's and oneDNN's), "
                f"{reached['copy']:.1f} GB/s of a copy, read and write.",
            ]
        ),
    )
    print(text)
    if options.out is not None and options.out.suffix == ".md":
        write_between(options.out, "speed", text)
    elif options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        plain = [asdict(line) | {"is_reached": line.is_reached} for line in lines]
        values = {"lines": plain, "machine": facts, "ceilings": reached, "command": command, "date": date}
        write_text(options.out / "bench.json", json.dumps(values, indent=1) + "\n")
        write_text(options.out / "bench.md", text)


if __name__ == "__main__":
    main(sys.argv[1:])
