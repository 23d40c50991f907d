"""Speed of lungsound beside peers, as ratios measured in turn in one run: `python -m benchmarks.speed PART`.

PART is data (sound files to features beside a loop over cycles as published, start to first batch), train (a step
beside the plain step of two forward passes), infer (engines beside transformers' AST with the same weights) or all.
The table is printed as Markdown. Memory is measured on Linux only.
"""

import argparse
import copy
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from torch import nn

from benchmarks import ours
from benchmarks.measure import Work, ceilings, flops_of, machine, memory_mib, seconds_in_turn, table
from benchmarks.peers import TransformersPredictions, published_features, transformers
from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.config import DataSettings, load_config
from lungsound.data.batches import training_batches, training_inputs
from lungsound.data.corpus import Corpus
from lungsound.data.splits import divide, load_corpus
from lungsound.data.store import open_filter_banks, sounds_of
from lungsound.errors import LungsoundError, SettingsError
from lungsound.inference import engines
from lungsound.inference.graph import exported
from lungsound.inference.hugging_face import check_expressible
from lungsound.inference.predictor import find_model
from lungsound.training.model_file import TrainedModel, load_model

CPU, QUIET = torch.device("cpu"), Console(quiet=True)
Row = tuple[str, str, str, str]


def row(what: str, values: Sequence[float] | npt.NDArray[np.float64], unit: str, how: str) -> Row:
    """Median and quartiles of values in a unit; x: how many times as fast as the peer."""
    digits = 2 if unit in ("x", "s") else 0
    low, median, high = (f"{each:.{digits}f}" for each in np.quantile(values, (0.25, 0.5, 0.75)))
    return what, f"{median} {unit}", f"{low} to {high}", how


@dataclass(frozen=True)
class Bench:
    """Settings of one call.

    sizes     encoders to measure: the first predicts
    ceilings  GFLOP/s that this device was seen to reach in the same call
    work      folder for what is made on the way
    data      corpus for the rows on real cycles; None takes noise of ICBHI's lengths
    model     run whose model predicts, in place of one with random weights
    """

    sizes: Sequence[str]
    device: torch.device
    ceilings: dict[str, float]
    work: Path
    data: Path | None = None
    model: Path | None = None
    is_quick: bool = False
    batch_size: int = 8

    def corpus(self) -> Corpus | None:
        """Single-channel recordings of `data`."""
        if self.data is None:
            return None
        return load_corpus(DataSettings(root=str(self.data), modes=("sc",), is_strict=False))

    def step(self, size: str, durations_s: Sequence[float] | None = None) -> Work:
        return ours.our_step(size, self.batch_size, self.device, is_quick=self.is_quick, durations_s=durations_s)

    def plain_step(self, size: str) -> Work:
        return ours.plain_step(size, self.batch_size, self.device, is_quick=self.is_quick)

    def compare(self, own: Work, peer: Work, *, least: int = 3) -> tuple[npt.NDArray[np.float64], float, float, str]:
        """Ratio of the peer's seconds to ours of each pair, the medians of both, and the number of pairs in words.

        Nine pairs, or fewer where that takes longer than 40 s; two in a quick call.
        """
        most, budget_s = (2, 0.0) if self.is_quick else (9, 40.0)
        seconds = seconds_in_turn(own, peer, least=min(least, most), most=most, budget_s=budget_s)
        own_s, peer_s = np.median(seconds, axis=0).tolist()
        return seconds[:, 1] / seconds[:, 0], own_s, peer_s, f"{len(seconds)} pairs"


def in_a_process(function: Callable[..., tuple[float, ...]], *arguments: object) -> tuple[float, ...]:
    """Call a function in a new process that holds nothing yet; its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def cache_in(folder: Path) -> AbstractContextManager[object]:
    """Keep the package's cache in `folder` while this lasts."""
    return patch.dict(os.environ, LUNGSOUND_CACHE=str(folder))


def data_rows(bench: Bench) -> list[Row]:
    """Cold path of a small corpus of noise, then the warm start of one of ICBHI's size."""
    num_recordings, num_cycles, rate_hz = (8, 40, 16000) if bench.is_quick else (40, 300, ours.RATE_HZ)
    small = ours.write_noise_corpus(bench.work / "small", num_recordings, num_cycles, rate_hz)
    config, rows = load_config("patchmix_cl", [f"data.root={small}"]), []
    padded = FrontEnd(config.audio)

    def cold(front_end: FrontEnd) -> None:
        with cache_in(bench.work / "cold"):
            open_filter_banks(load_corpus(config.data), front_end, console=QUIET)
        shutil.rmtree(bench.work / "cold")

    for is_padding_encoded in (True, False):
        front_end = FrontEnd(config.audio.model_copy(update={"is_padding_encoded": is_padding_encoded}))
        ratios, own_s, peer_s, pairs = bench.compare(
            partial(cold, front_end), lambda: published_features(small, padded)
        )
        what = "corpus to features, cold / a loop over cycles as published"
        what += "" if is_padding_encoded else ", where padding is not encoded (the loop computes it)"
        own_ms, peer_ms = (f"{1e3 * each / num_cycles:.1f} ms" for each in (own_s, peer_s))
        how = f"ours {own_ms} a cycle, peer {peer_ms}; {num_cycles} cycles of noise at {rate_hz} Hz, {pairs}"
        rows.append(row(what, ratios, "x", how))
    num_recordings, num_cycles = (56, 240) if bench.is_quick else (ours.NUM_RECORDINGS, ours.NUM_CYCLES)
    corpus = ours.write_noise_corpus(bench.work / "all", num_recordings, num_cycles, rate_hz)
    with cache_in(bench.work / "warm"):
        # The first fills the store.
        starts = [in_a_process(start, time.time(), corpus) for _ in range(2 if bench.is_quick else 4)]
    start_s, growth_mib = np.array(starts[1:]).T
    what = f"start to first batch, warm store, {num_cycles:,} cycles"
    rows.append(row(what, start_s, "s", f"imports included; {len(start_s)} starts, files in the page cache"))
    what = "the same, growth of memory over a pass through all cycles"
    return [*rows, row(what, growth_mib, "MiB", "beyond imports and settings")]


def start(began_s: float, corpus: Path) -> tuple[float, float]:
    """Do what a run does before its first step: seconds since `began_s`, and MiB of growth over a pass through all."""
    config = load_config("patchmix_cl", [f"data.root={corpus}"])
    before_mib = memory_mib("RssAnon")  # pages of the store, which is mapped, are given back when they are needed
    read = load_corpus(config.data)
    parts = divide(read, config.data, config.train)
    inputs = training_inputs(config, read, parts, console=QUIET)
    next(training_batches(config, read, parts, inputs, console=QUIET).epoch(1))
    start_s = time.time() - began_s
    for _ in inputs.to_predict(range(len(read.cycles)), 32):
        pass
    return start_s, memory_mib("RssAnon") - before_mib


def train_rows(bench: Bench) -> list[Row]:
    """Seconds and memory of a step of each size; then of the first with cycles of their own length."""
    rows = []
    for size in bench.sizes:
        (own_mib,), (peer_mib,) = (in_a_process(memory, bench, is_ours, size) for is_ours in (True, False))
        what = f"the same, peak memory over the plain step's, AST-{size.title()}"
        how = f"ours {own_mib:,.0f} MiB, peer {peer_mib:,.0f} MiB, each in a process of its own, less imports"
        rows += [step_row(bench, size), row(what, [100 * own_mib / peer_mib], "%", how)]
    return [*rows, step_row(bench, bench.sizes[0], is_packed=True)]


def memory(bench: Bench, is_ours: bool, size: str) -> tuple[float]:
    """Peak MiB of two steps in this process, above those after all imports."""
    if not is_ours:
        transformers().ASTForAudioClassification  # noqa: B018 (imported when first asked for)
    before_mib = memory_mib("VmRSS")
    step = bench.step(size) if is_ours else bench.plain_step(size)
    step()
    step()
    return (memory_mib("VmHWM") - before_mib,)


def step_row(bench: Bench, size: str, *, is_packed: bool = False) -> Row:
    """Our step beside the plain one; packed: on a batch of the corpus's lengths at evenly spaced quantiles."""
    durations_s, lengths = None, ""
    if is_packed:
        corpus = bench.corpus()
        every_s = [each.end_s - each.start_s for each in corpus.cycles] if corpus else ours.noise_durations_s()
        durations_s = np.quantile(every_s, (np.arange(bench.batch_size) + 0.5) / bench.batch_size).tolist()
        lengths = f", padding-aware, lengths of {f'cycles of {corpus.name}-SC' if corpus else 'noise'}"
    own = bench.step(size, durations_s)
    ratios, own_s, peer_s, pairs = bench.compare(own, bench.plain_step(size), least=2 if size == "base" else 3)
    gflop = flops_of(own) / 1e9
    peer = "CPU, bf16 / plain step, fp32" if bench.device == CPU else "GPU, bf16 / plain step, eager, AMP"
    share = gflop / own_s / bench.ceilings["bf16"]
    how = f"ours {own_s:.2f} s, peer {peer_s:.2f} s, {pairs}; {gflop:.0f} GFLOP, {share:.0%} of the bf16 ceiling"
    return row(f"patchmix_cl step, AST-{size.title()}, batch {bench.batch_size}{lengths}, {peer}", ratios, "x", how)


def infer_rows(bench: Bench) -> list[Row]:
    """Cycles of the complete input by the exact and the fast engine; then, padding not encoded, of real lengths.

    A trained model predicts as it was trained, so the last row is not there for one.
    """
    with cache_in(bench.work / "engines"):
        if bench.model is not None:
            trained = load_model(find_model(bench.model))
            check_expressible(trained)
        else:
            trained = ours.trained_model(ours.run_config(bench.sizes[0], precision="fp32", is_quick=bench.is_quick))
        _, agreement = prepare(bench, trained)
        duration_s = trained.front_end.audio.duration_s
        full = ours.sounds(trained.front_end, [duration_s] * bench.batch_size)
        rows = [
            infer_row(bench, trained, engines.EXACT, full, f"{duration_s:g} s cycles, exact engine", ""),
            infer_row(bench, trained, engines.AUTO, full, f"{duration_s:g} s cycles, fast default", agreement),
        ]
        if bench.model is None:
            kwargs = {"is_quick": bench.is_quick, "is_padding_encoded": False}
            trained = ours.trained_model(ours.run_config(bench.sizes[0], precision="fp32", **kwargs))
            cycles, agreement = prepare(bench, trained)
            what = f"{len(cycles)} cycles, padding-aware, fast default"
            rows.append(infer_row(bench, trained, engines.AUTO, cycles, what, agreement))
        return rows


def prepare(bench: Bench, trained: TrainedModel) -> tuple[list[Sound], str]:
    """Draw cycles and measure the engines on some, into `bench.work`: others to time, and the engines' agreement.

    Random weights predict the same class for every cycle, in which no engine could err: the head's bias is set so that
    all classes have the same mean logit, by margins as small as the predictions differ.
    """
    num_timed, corpus = 4 if bench.is_quick else 64, bench.corpus()
    num = num_timed + engines.Parity.LEAST_CYCLES
    if corpus is None:
        cycles, source = ours.sounds(trained.front_end, ours.noise_durations_s()[:num]), "noise of ICBHI's lengths"
    elif len(corpus.cycles) < num:
        raise SettingsError(f"the benchmark needs {num} cycles, and {bench.data} has {len(corpus.cycles)}")
    else:
        rows = np.random.default_rng(0).permutation(len(corpus.cycles))[:num]
        # Cut recording by recording, each of which is read once, and put back into the order of the draw.
        cut = sounds_of([corpus.cycles[row] for row in np.sort(rows)], trained.front_end)
        cycles, source = [cut[place] for place in rows.argsort().argsort()], f"cycles of {corpus.name}-SC"
    compared = cycles[num_timed:]
    if bench.model is None:
        linear = trained.model.head[-1]
        assert isinstance(linear, nn.Linear)
        with torch.no_grad():
            linear.bias.sub_(torch.from_numpy(engines.make("torch", trained).predict(compared)[0]).log().mean(dim=0))
    if not bench.is_quick:
        exported(trained)
    measured = engines.measure(trained, engines.available(trained), compared, console=QUIET)
    engines.write_parity(bench.work, trained, {name: parity for name, (parity, _) in measured.items()})
    shares = ", ".join(f"{name} {parity.share:.1%}" for name, (parity, _) in measured.items())
    return cycles[:num_timed], f"; the class of torch fp32 in {len(compared)} {source}: {shares}"


def infer_row(
    bench: Bench, trained: TrainedModel, engine_name: str, cycles: Sequence[Sound], what: str, agreement: str
) -> Row:
    """Milliseconds a cycle of the selected engine and of the peer."""
    engine = engines.select(engine_name, trained, folder=bench.work, device="cpu")
    peer, front_end = TransformersPredictions(trained), trained.front_end
    # The peer takes as long for a short cycle as for a long one: no more pairs than needed.
    ratios, own_s, peer_s, pairs = bench.compare(lambda: engine.predict(cycles), lambda: peer(cycles), least=2)
    features_s = seconds_in_turn(lambda: peer.features(cycles), least=1, most=1, budget_s=0.0).item()
    own_ms, peer_ms, features_ms = (1e3 * each / len(cycles) for each in (own_s, peer_s, features_s))
    # Operations of the model alone, from shapes: the filter bank is left out.
    model = copy.deepcopy(trained.model).to("meta")
    sizes = Counter(front_end.log_mel.num_frames(trained.num_input_samples(len(cycle.waveform))) for cycle in cycles)
    with torch.no_grad():
        inputs = {size: torch.empty(1, size, front_end.audio.num_mels, device="meta") for size in sizes}
        flops = sum(num * flops_of(partial(model, inputs[size])) for size, num in sizes.items()) / len(cycles)
    dtype = "bf16" if engines.REGISTRY[engine.name].is_bf16 else "fp32"
    how = (
        f"{engine.name}, {own_ms:.0f} ms a cycle, {flops / 1e9:.3g} GFLOP, "
        f"{flops / 1e6 / own_ms / bench.ceilings[dtype]:.0%} of the {dtype} ceiling{agreement}; "
        f"peer {peer_ms:.0f} ms, of which {features_ms:.0f} ms its features; {pairs}"
    )
    if front_end.audio.is_padding_encoded:  # else the peer has another input
        how += f"; probabilities differ by {np.abs(engine.predict(cycles)[0] - peer(cycles).numpy()).max():.1g} at most"
    name = bench.model.absolute().name if bench.model else f"AST-{bench.sizes[0].title()}"
    return row(f"{name} inference, {what} / transformers fp32", ratios, "x", how)


PARTS = {"data": data_rows, "train": train_rows, "infer": infer_rows}


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--size", choices=["base", "tiny", "micro"], action="append", help="repeatable; base and tiny")
    parser.add_argument("--data", type=Path, help="corpus for the rows on real cycles")
    parser.add_argument("--model", type=Path, help="run whose model predicts in infer")
    parser.add_argument("--quick", action="store_true", help="see that it works: numbers that mean nothing")
    options = parser.parse_args(words)
    sizes, device = options.size or (["micro"] if options.quick else ["base", "tiny"]), CPU
    reached = ceilings(CPU, is_quick=options.quick)
    with tempfile.TemporaryDirectory(prefix="lungsound-bench-") as work:
        bench = Bench(sizes, CPU, reached, Path(work), options.data, options.model, options.quick)
        try:
            rows = [each for part in PARTS if options.part in (part, "all") for each in PARTS[part](bench)]
            if torch.cuda.is_available() and options.part in ("train", "all"):
                device = torch.device("cuda")
                gpu = replace(bench, device=device, ceilings=ceilings(device, is_quick=options.quick))
                rows += [step_row(replace(gpu, batch_size=num), sizes[0]) for num in (8, 16, 32, 64, 128)]
        except LungsoundError as error:
            parser.error(str(error))
    print(table(("what", "measured", "quartiles", "how"), rows))
    print(f"\n- Command: {shlex.join(['python', '-m', 'benchmarks.speed', *words])}, {datetime.now(UTC).date()}")
    print("- Machine:", ", ".join(f"{name} {value}" for name, value in machine(device).items()))
    print(
        f"- Ceilings measured in the same call: {reached['fp32']:.0f} GFLOP/s in fp32, {reached['bf16']:.0f} in bf16 "
        "(matrix products, the better of torch's and oneDNN's)."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
