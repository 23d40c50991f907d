"""Filter banks of a corpus in one memory-mapped file, and batches of them as a function of seed and epoch."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lungsound.audio.fbank import normalize
from lungsound.audio.front_end import FrontEnd
from lungsound.data.corpus import Cycle
from lungsound.randomness import generator_at

FilterBanks = NDArray[np.float32]  # (cycle, time, mel), before normalisation
# Part of the key of kept filter banks: change it whenever the same settings give other numbers.
FRONT_END_VERSION = "1"
Augment = Callable[[Tensor, torch.Generator], Tensor]


def open_filter_banks(
    cycles: Sequence[Cycle],
    front_end: FrontEnd,
    *,
    cache_dir: Path,
    fingerprint: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> FilterBanks:
    """Filter banks (cycle, time, mel) of `cycles`, in their order, as a read-only memory map.

    They are computed once for a corpus (`fingerprint`: its audio and annotations) and a front end, and kept under
    `cache_dir`. The file is written under a name of its own process and renamed when it is whole: two runs that
    start at once do the work twice and disturb nothing.
    """
    identity = "\n".join([FRONT_END_VERSION, repr(front_end), fingerprint, *(cycle.key for cycle in cycles)])
    path = cache_dir / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.npy"
    if not path.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            _write_filter_banks(partial, cycles, front_end, on_progress)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    fbanks: FilterBanks = np.load(path, mmap_mode="r")
    return fbanks


def _write_filter_banks(
    path: Path, cycles: Sequence[Cycle], front_end: FrontEnd, on_progress: Callable[[int, int], None] | None
) -> None:
    shape = (len(cycles), front_end.num_frames, front_end.num_mels)
    store = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    row = 0
    for recording, group in groupby(cycles, key=lambda cycle: cycle.recording):
        waveform = front_end.read(recording.path)
        clips = [front_end.cycle(waveform, start_s=cycle.start_s, end_s=cycle.end_s) for cycle in group]
        store[row : row + len(clips)] = front_end.filter_banks(torch.stack(clips)).numpy()
        row += len(clips)
        if on_progress is not None:
            on_progress(row, len(cycles))
    store.flush()


@dataclass(frozen=True)
class Batch:
    """Normalised filter banks (batch, time, mel) and labels (batch,) int64."""

    fbank: Tensor
    labels: Tensor


class CycleBatches:
    """Batches of some rows of the filter banks.

    Training: `epoch(n)` gives them in an order drawn from the seed and the epoch, augmented by draws from the seed,
    the epoch and the position among the training cycles, so that an epoch can be taken up again at any step.
    Evaluation: `in_order()`.
    """

    def __init__(
        self,
        fbanks: FilterBanks,
        rows: Sequence[int],
        labels: Sequence[int],
        *,
        batch_size: int,
        mean: float,
        std: float,
        seed: int = 0,
        augment: Augment | None = None,
        is_last_dropped: bool = False,
    ) -> None:
        self.fbanks = fbanks
        self.rows = np.asarray(rows, dtype=np.int64)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.batch_size = batch_size
        self.mean = mean
        self.std = std
        self.seed = seed
        self.augment = augment
        self.is_last_dropped = is_last_dropped

    def __len__(self) -> int:
        """Number of cycles."""
        return len(self.rows)

    @property
    def num_steps(self) -> int:
        """Batches in one epoch."""
        whole, rest = divmod(len(self.rows), self.batch_size)
        return whole if self.is_last_dropped or not rest else whole + 1

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        """The training batches of an epoch from `first_step` on."""
        order = torch.randperm(len(self.rows), generator=generator_at(self.seed, "order", epoch)).numpy()
        for step in range(first_step, self.num_steps):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            batch = self._batch(chosen)
            if self.augment is None:
                yield batch
                continue
            generators = (generator_at(self.seed, "augment", epoch, int(position)) for position in chosen)
            augmented = [self.augment(fbank, gen) for fbank, gen in zip(batch.fbank, generators, strict=True)]
            yield Batch(torch.stack(augmented), batch.labels)

    def in_order(self) -> Iterator[Batch]:
        """All cycles in their order, none dropped, not augmented."""
        for first in range(0, len(self.rows), self.batch_size):
            yield self._batch(np.arange(first, min(first + self.batch_size, len(self.rows))))

    def _batch(self, positions: NDArray[np.int64]) -> Batch:
        fbank = torch.from_numpy(self.fbanks[self.rows[positions]])
        return Batch(normalize(fbank, mean=self.mean, std=self.std), self.labels[torch.from_numpy(positions)])
