"""Training steps: shares of the machine's ceiling, and beside the plain step of two forward passes."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from benchmarks import ours
from benchmarks.measure import ceilings, flops_of
from benchmarks.rows import CPU, Bench, Row

SHARES = {"tiny": 65, "base": 80, "micro": None}  # of the ceiling, in percent, that are aimed at
GPU_BATCHES = (8, 16, 32, 64, 128)


def step_rows(bench: Bench) -> list[Row]:
    """Steps of the Patch-Mix contrastive loss in the dtype that is fastest here; of a GPU too, if there is one."""
    small, *large = ("micro",) if bench.is_quick else ("tiny", "base")
    rows = [*_beside_plain(bench, small, is_packed=False), *_beside_plain(bench, small, is_packed=True)]
    rows += [_share(bench, size) for size in large]
    if torch.cuda.is_available():
        device = torch.device("cuda")
        gpu = replace(bench, device=device, ceilings=ceilings(device, is_quick=bench.is_quick))
        rows += [_share(replace(gpu, batch_size=num), "base") for num in GPU_BATCHES]
        rows += _beside_plain(gpu, "base", is_packed=False)
    return rows


def _share(bench: Bench, size: str) -> Row:
    own = ours.our_step(size, bench.batch_size, bench.device, precision=bench.fastest, is_quick=bench.is_quick)
    return _of_ceiling(bench, size, "", flops_of(own), bench.in_turn(own, least=2)[:, 0])


def _of_ceiling(bench: Bench, size: str, lengths: str, flops: int, seconds: npt.NDArray[np.float64]) -> Row:
    what = f"step of AST-{size.title()}, batch {bench.batch_size}{lengths}, share of the ceiling of the best dtype"
    place = "" if bench.device == CPU else " on a GPU"
    how = f"{bench.fastest}{place}, {np.median(seconds):.2f} s, {flops / 1e9:.0f} GFLOP"
    at_least = SHARES[size] if not lengths and bench.device == CPU else None
    shares = 100 * flops / 1e9 / seconds / bench.ceilings[bench.fastest]
    return Row(what, shares, "%", f"{how}; {len(seconds)} rounds", at_least=at_least)


def _beside_plain(bench: Bench, size: str, *, is_packed: bool) -> list[Row]:
    """Packed: a batch of cycles of their own length, at evenly spaced quantiles of ICBHI's."""
    durations_s, lengths = None, ", 8 s"
    if is_packed:
        places = (np.arange(bench.batch_size) + 0.5) / bench.batch_size
        durations_s, lengths = np.quantile(ours.noise_durations_s(), places).tolist(), ", own lengths as ICBHI's"
    own = ours.our_step(
        size,
        bench.batch_size,
        bench.device,
        precision=bench.fastest,
        is_quick=bench.is_quick,
        durations_s=durations_s,
    )
    plain = ours.plain_step(size, bench.batch_size, bench.device, is_quick=bench.is_quick)
    seconds = bench.in_turn(own, plain)
    shares = _of_ceiling(bench, size, lengths if is_packed else "", flops_of(own), seconds[:, 0])
    peer = "fp32" if bench.device == CPU else "eager, AMP"
    what = f"the same / the plain step of two forward passes ({peer}), 8 s"
    return [shares, Row(what, seconds[:, 1] / seconds[:, 0], "x", f"peer {np.median(seconds[:, 1]):.2f} s")]
