"""Engines on AST-Base, beside the transformers library's with the same weights in float32."""

import copy
from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from benchmarks import ours
from benchmarks.measure import flops_of
from benchmarks.peers import TransformersPredictions
from benchmarks.rows import Bench, Row, cache_in
from lungsound.audio.front_end import Sound
from lungsound.inference import engines
from lungsound.inference.graph import exported
from lungsound.training.model_file import TrainedModel

NUM_OWN, NUM_PEER = 32, 4  # cycles in turn: the library takes as long for a short cycle as for a long one


def inference_rows(bench: Bench) -> list[Row]:
    """Inputs of the whole length by the exact engine; then cycles of ICBHI's lengths, whose padding is not encoded."""
    size, rows = "micro" if bench.is_quick else "base", []
    with cache_in(bench.work / "engines"):
        trained = ours.trained_model(ours.run_config(size, precision="fp32", is_quick=bench.is_quick))
        if not bench.is_quick:
            exported(trained)
        engine = engines.select(engines.EXACT, trained, folder=None, device="cpu")
        whole = ours.sounds(trained.front_end, [trained.front_end.audio.duration_s] * NUM_PEER)
        rows += _rows(bench, engine, whole, TransformersPredictions(trained), whole)
        settings = {"is_quick": bench.is_quick, "is_padding_encoded": False}
        packed = ours.trained_model(ours.run_config(size, precision="fp32", **settings))
        if not bench.is_quick:
            exported(packed)
        cycles = ours.sounds(packed.front_end, ours.noise_durations_s()[:NUM_OWN])
        names = [engines.select(engines.EXACT, packed, folder=None, device="cpu").name]
        in_bf16 = [name for name in engines.available(packed) if engines.REGISTRY[name].is_bf16]
        if in_bf16:
            speeds = engines.speeds_of(packed, in_bf16)
            names.append(min(in_bf16, key=speeds.__getitem__))
        peer = TransformersPredictions(packed)
        for name in names:
            rows += _rows(bench, engines.make(name, packed), cycles, peer, cycles[:NUM_PEER])
    return rows


def _rows(
    bench: Bench,
    engine: engines.Engine,
    cycles: Sequence[Sound],
    peer: TransformersPredictions,
    of_peer: Sequence[Sound],
) -> list[Row]:
    trained, is_whole = engine.trained, engine.trained.front_end.audio.is_padding_encoded
    seconds = bench.in_turn(lambda: engine.predict(cycles), lambda: peer(of_peer), least=2)
    own_s, peer_s = seconds[:, 0] / len(cycles), seconds[:, 1] / len(of_peer)
    dtype = "bf16" if engines.REGISTRY[engine.name].is_bf16 else "fp32"
    flops = _flops(trained, cycles)
    lengths = "8 s" if is_whole else "own lengths as ICBHI's"
    what = f"inference, AST-{trained.architecture.size.title()}, {lengths}"
    how = f"{engine.name}, {1e3 * np.median(own_s):.0f} ms and {flops / 1e9:.3g} GFLOP a cycle; {len(seconds)} rounds"
    share = Row(
        f"{what}, share of the {dtype} ceiling",
        100 * flops / 1e9 / own_s / bench.ceilings[dtype],
        "%",
        how,
        at_least=90 if is_whole else None,
    )
    aim = None if is_whole else {"fp32": 4.3, "bf16": 8.0}[dtype]
    peers = f"the same, {dtype} / transformers, fp32, 8 s"
    how = f"peer {1e3 * np.median(peer_s):.0f} ms a cycle"
    if is_whole:  # else the peer has another input
        differences = np.abs(engine.predict(of_peer)[0] - peer(of_peer).numpy())
        how += f"; probabilities differ by {differences.max():.1g} at most"
    return [share, Row(peers, peer_s / own_s, "x", how, at_least=aim)]


def _flops(trained: TrainedModel, cycles: Sequence[Sound]) -> float:
    """Operations of the model for a cycle, from shapes: the filter bank is left out."""
    front_end, model = trained.front_end, copy.deepcopy(trained.model).to("meta")
    sizes = Counter(front_end.log_mel.num_frames(trained.num_input_samples(len(cycle.waveform))) for cycle in cycles)
    with torch.no_grad():
        inputs = {size: torch.empty(1, size, front_end.audio.num_mels, device="meta") for size in sizes}
        return sum(num * flops_of(partial(model, inputs[size])) for size, num in sizes.items()) / len(cycles)
