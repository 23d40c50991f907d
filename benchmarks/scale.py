"""What one and two processes do, and a model of cost checked against that: `python -m benchmarks.scale RECORDING...`.

The model has three terms: operations over a rate, bytes of messages over a bandwidth, and bytes of files. Its constants
are measured here; what it says for machines that are not here is computed from constants that are stated. Prints
tables in Markdown, or writes them into docs/scale.md.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from benchmarks import ours
from benchmarks.measure import flops_of, seconds_in_turn, table
from benchmarks.predicting import predict
from benchmarks.rows import CPU, Bench, made_by, parser_of, print_or_write
from lungsound.errors import LungsoundError
from lungsound.inference.bulk import sound_files
from lungsound.ranks import ALONE, Alone, Ranks

MARK = "benchmarks.scale"  # of the place in a file
BATCH_SIZE, NUM_STEPS, FLOAT_BYTES = 8, 4, 4
CYCLES_OF_RECORDING = 5
NUM_RECORDINGS = 10_000_000


@dataclass(frozen=True)
class Shape:
    """What a training step sends: patches of each cycle, the encoder's width, the weights; and its operations."""

    num_patches: int
    dim: int
    num_weights: int
    flops: float  # of a cycle

    @classmethod
    def of(cls, size: str, *, is_quick: bool = False) -> "Shape":
        config = ours.run_config(size, precision="fp32", is_quick=is_quick)
        model = ours.classifier(config)
        flops = flops_of(ours.our_step(size, 2, CPU, precision="fp32", is_quick=is_quick)) / 2
        num_weights = sum(each.numel() for each in model.parameters())
        return cls(model.patch_encoder.grid.num_patches, model.encoder.dim, num_weights, flops)

    def gradient_bytes(self, num: int) -> float:
        """Bytes that each of `num` processes sends to add up gradients, in a ring: all but its share, twice."""
        return 2 * (num - 1) / num * FLOAT_BYTES * self.num_weights

    def patch_bytes(self, num: int, batch_size: int) -> float:
        """Bytes that each receives of the patches of all cycles, and sends to add up their gradients."""
        return 3 * (num - 1) / num * FLOAT_BYTES * batch_size * self.num_patches * self.dim


@dataclass(frozen=True)
class Machines:
    """Processors that train together: how many, in all and in a node, and what each does in a second."""

    name: str
    num: int
    flops_per_s: float
    bytes_per_s: float

    def step_s(self, shape: Shape, batch_size: int) -> tuple[float, float, float]:
        """Seconds of a step: operations, gradients, patches; `batch_size` is of one processor."""
        sent = shape.gradient_bytes(self.num), shape.patch_bytes(self.num, self.num * batch_size)
        gradients_s, patches_s = (each / self.bytes_per_s for each in sent)
        return batch_size * shape.flops / self.flops_per_s, gradients_s, patches_s


# Of NVIDIA's data sheet of the H200: 989 TFLOP/s in bf16, of which 40 % are taken for granted, 900 GB/s of NVLink in
# both directions together; between nodes 400 Gbit/s for each GPU. Of the bandwidths 70 %.
GPUS = (
    Machines("1 GPU", 1, 0.4 * 989e12, 1.0),
    Machines("8 GPUs, one node", 8, 0.4 * 989e12, 0.7 * 450e9),
    Machines("64 GPUs, eight nodes", 64, 0.4 * 989e12, 0.7 * 50e9),
)


def _in_rank(rank: int, num: int, folder: Path, size: str, is_quick: bool, has_messages: bool) -> None:
    """Seconds of some steps, and of adding up the gradients alone, into a file; in a process of its own."""
    torch.set_num_threads(1)
    ranks: Alone = ALONE
    if num > 1:
        distributed.init_process_group("gloo", init_method=f"file://{folder / 'met'}", rank=rank, world_size=num)
        ranks = Ranks()
    config = ours.run_config(size, precision="fp32", is_quick=is_quick)
    batch = ours.batch(config, batch_size=BATCH_SIZE)
    own = ranks.own(BATCH_SIZE)
    labels = batch.labels if has_messages else batch.labels[own]
    batch = replace(batch, fbank=batch.fbank[own], labels=labels)
    step = ours.train_step(config, device=CPU, ranks=ranks if has_messages else ALONE)
    gradients = torch.zeros(sum(each.numel() for each in step.model.parameters()))
    in_turn = partial(seconds_in_turn, least=NUM_STEPS, most=NUM_STEPS, budget_s=0.0)
    step_s = in_turn(lambda: step(batch, learning_rate=5e-5, generator=torch.Generator().manual_seed(0)))
    sum_s = in_turn(lambda: distributed.all_reduce(gradients)) if num > 1 else [0.0]
    np.savez(folder / f"{rank}.npz", step_s=step_s, sum_s=sum_s)
    if num > 1:
        distributed.destroy_process_group()


def train_seconds(num: int, size: str, *, is_quick: bool, has_messages: bool = True) -> tuple[float, float]:
    """Seconds of a step of `num` processes, and of adding up the gradients alone: the median, of the slowest."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = (num, folder, size, is_quick, has_messages)
        processes = [context.Process(target=_in_rank, args=(rank, *arguments)) for rank in range(num)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            if process.exitcode:
                raise SystemExit(f"a process ended with exit code {process.exitcode}")
        found = [np.load(folder / f"{rank}.npz") for rank in range(num)]
        return tuple(max(float(np.median(each[name])) for each in found) for name in ("step_s", "sum_s"))  # type: ignore[return-value]


def training_table(shape: Shape, size: str, *, is_quick: bool) -> str:
    """One process, two that do not speak, two that train together; and the model, by the constants of the first two."""
    one_s, _ = train_seconds(1, size, is_quick=is_quick)
    apart_s, _ = train_seconds(2, size, is_quick=is_quick, has_messages=False)
    two_s, sum_s = train_seconds(2, size, is_quick=is_quick)
    here = Machines("here", 2, BATCH_SIZE / 2 * shape.flops / apart_s, shape.gradient_bytes(2) / sum_s)
    model_s = sum(here.step_s(shape, BATCH_SIZE // 2))
    sent = (shape.gradient_bytes(2) + shape.patch_bytes(2, BATCH_SIZE)) / 1e6
    rows = [
        ("1 process, a batch of 8", f"{one_s:.2f}", "", f"{BATCH_SIZE / one_s:.1f}"),
        ("2 processes of half a batch that do not speak", f"{apart_s:.2f}", "", f"{BATCH_SIZE / apart_s:.1f}"),
        ("2 processes of half a batch, together", f"{two_s:.2f}", f"{sent:.0f}", f"{BATCH_SIZE / two_s:.1f}"),
        ("the model for these", f"{model_s:.2f}", f"{sent:.0f}", f"{BATCH_SIZE / model_s:.1f}"),
    ]
    head = (f"AST-{size.title()}, Patch-Mix contrastive, 8 s, fp32", "step, s", "MB sent by each", "cycles a second")
    bandwidth = f"Messages: {here.bytes_per_s / 1e9:.2f} GB/s, measured on the sum of gradients alone."
    return f"{table(head, rows)}\n\n{bandwidth} The model is off by {abs(model_s / two_s - 1):.0%}."


def scoring_table(bench: Bench) -> tuple[str, float]:
    """Start and cost of a recording by one worker on half of them and on all, which tell what two do; and the cost."""
    files = bench.recordings
    works = [partial(predict, bench, *each) for each in ((files[::2], 1), (files, 1), (files, 2))]
    half, whole, two = np.median(bench.in_turn(*works, least=3, most=3), axis=0).tolist()
    each_s = (whole - half) / (len(files) - len(files[::2]))
    start_s = max(0.0, whole - len(files) * each_s)
    model_s = start_s + len(files) * each_s / 2
    rows = [
        (f"1 worker, {len(files[::2])} recordings", f"{half:.1f}", f"{len(files[::2]) / half:.1f}"),
        (f"1 worker, {len(files)} recordings", f"{whole:.1f}", f"{len(files) / whole:.1f}"),
        (f"2 workers, {len(files)} recordings", f"{two:.1f}", f"{len(files) / two:.1f}"),
        ("the model for these", f"{model_s:.1f}", f"{len(files) / model_s:.1f}"),
    ]
    head = ("lungsound predict, the model in the box", "seconds", "recordings a second")
    how = f"A recording costs {1e3 * each_s:.0f} ms of a core, the start {start_s:.1f} s. The model is off by"
    return f"{table(head, rows)}\n\n{how} {abs(model_s / two - 1):.0%}.", each_s


def projected_training(shape: Shape) -> str:
    """An epoch of as many cycles as 10 million recordings have, computed."""
    rows = []
    for gpus in GPUS:
        parts_s = gpus.step_s(shape, BATCH_SIZE)
        epoch_h = CYCLES_OF_RECORDING * NUM_RECORDINGS / (BATCH_SIZE * gpus.num) * sum(parts_s) / 3600
        sent = (shape.gradient_bytes(gpus.num) + shape.patch_bytes(gpus.num, BATCH_SIZE * gpus.num)) / 1e9
        most = ("operations", "gradients", "patches")[int(np.argmax(parts_s))]
        ms = [f"{1e3 * each:.1f}" for each in parts_s]
        rows.append((gpus.name, BATCH_SIZE * gpus.num, *ms, f"{sent:.2f}", f"{epoch_h:,.0f}", most))
    parts = ("operations, ms", "gradients, ms", "patches, ms")
    return table(("AST-Base, bf16", "batch", *parts, "GB sent by each, a step", "hours an epoch", "most time"), rows)


def projected_scoring(each_s: float, file_bytes: float, row_bytes: float) -> str:
    """10 million recordings on so many cores, computed."""
    rows = []
    for num_cores in (2, 64, 1024):
        hours = NUM_RECORDINGS * each_s / num_cores / 3600
        read = NUM_RECORDINGS * file_bytes / (hours * 3600) / 1e6
        rows.append((num_cores, f"{hours:,.1f}", f"{read:,.0f}"))
    read_tb, written_gb = NUM_RECORDINGS * file_bytes / 1e12, NUM_RECORDINGS * row_bytes / 1e9
    head = ("cores", "hours", "MB a second that are read")
    return f"{table(head, rows)}\n\n{read_tb:.1f} TB are read, {written_gb:.0f} GB of answers are written."


def main(words: Sequence[str]) -> None:
    parser = parser_of("python -m benchmarks.scale", __doc__, MARK)
    parser.add_argument("--quick", action="store_true", help="see that it works: numbers that mean nothing")
    options = parser.parse_args(words)
    size = "micro" if options.quick else "tiny"
    with tempfile.TemporaryDirectory(prefix="lungsound-bench-") as work:
        try:
            files = sound_files(options.recordings)
            bench = Bench(files, options.model, {}, Path(work), options.quick)
            training = training_table(Shape.of(size, is_quick=options.quick), size, is_quick=options.quick)
            scoring, each_s = scoring_table(bench)
            written = sum(each.stat().st_size for each in (bench.work / "out").rglob("*") if each.is_file())
        except LungsoundError as error:
            parser.error(str(error))
    read = float(np.mean([each.stat().st_size for each in files]))
    text = "\n\n".join(
        [
            f"### Measured here, {os.cpu_count()} cores",
            training,
            scoring,
            made_by("python -m benchmarks.scale", words, options.recordings),
            "### Computed, not run: training",
            projected_training(Shape.of(size if options.quick else "base", is_quick=options.quick)),
            "### Computed, not run: scoring 10 million recordings",
            projected_scoring(each_s, read, written / len(files)),
        ]
    )
    print_or_write(text, options.into, MARK)


if __name__ == "__main__":
    main(sys.argv[1:])
