"""Filter banks and waveforms of a corpus in memory-mapped files; batches as a function of seed and epoch."""

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
# Filter bank (time, mel) of a row's cycle with its waveform changed; None when the draw leaves it as it is.
ChangeCycle = Callable[[int, torch.Generator], Tensor | None]
OnProgress = Callable[[int, int], None]


def open_filter_banks(
    cycles: Sequence[Cycle],
    front_end: FrontEnd,
    *,
    cache_dir: Path,
    fingerprint: str,
    on_progress: OnProgress | None = None,
) -> FilterBanks:
    """Filter banks (cycle, time, mel) of `cycles`, in their order, as a read-only memory map.

    They are computed once for a corpus (`fingerprint`: its audio and annotations) and a front end, and kept under
    `cache_dir`. The file is written under a name of its own process and renamed when it is whole: two runs that
    start at once do the work twice and disturb nothing.
    """
    path = cache_dir / f"{_key(cycles, front_end, fingerprint)}.npy"
    _keep(path, lambda partial: _write_filter_banks(partial, cycles, front_end, on_progress))
    fbanks: FilterBanks = np.load(path, mmap_mode="r")
    return fbanks


class Waveforms:
    """Waveforms of cycles, as cut and not yet fitted to the input's length, in one memory-mapped file.

    The file holds the samples of all cycles as float32, one after the other, then where each begins and the last
    ends, as int64.
    """

    def __init__(self, path: Path, num_cycles: int) -> None:
        self._samples = np.memmap(path, dtype=np.float32, mode="r")
        num_places = 2 * (num_cycles + 1)  # an int64 takes two places of float32
        self._starts = np.frombuffer(self._samples[-num_places:].tobytes(), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, row: int) -> Tensor:
        """A copy (samples,) of the waveform of a cycle."""
        return torch.from_numpy(np.array(self._samples[self._starts[row] : self._starts[row + 1]]))


def open_waveforms(
    cycles: Sequence[Cycle],
    front_end: FrontEnd,
    *,
    cache_dir: Path,
    fingerprint: str,
    on_progress: OnProgress | None = None,
) -> Waveforms:
    """Waveforms of `cycles`, in their order, read once and kept as `open_filter_banks` keeps filter banks."""
    path = cache_dir / f"{_key(cycles, front_end, fingerprint)}.waveforms"
    _keep(path, lambda partial: _write_waveforms(partial, cycles, front_end, on_progress))
    return Waveforms(path, len(cycles))


def _key(cycles: Sequence[Cycle], front_end: FrontEnd, fingerprint: str) -> str:
    identity = "\n".join([FRONT_END_VERSION, repr(front_end), fingerprint, *(cycle.key for cycle in cycles)])
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def _keep(path: Path, write: Callable[[Path], None]) -> None:
    """Write the file, if it is not there, beside its place, and rename it."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_filter_banks(
    path: Path, cycles: Sequence[Cycle], front_end: FrontEnd, on_progress: OnProgress | None
) -> None:
    shape = (len(cycles), front_end.num_frames, front_end.num_mels)
    store = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    row = 0
    for parts in _cut(cycles, front_end):
        clips = [front_end.fit(part) for part in parts]
        store[row : row + len(clips)] = front_end.filter_banks(torch.stack(clips)).numpy()
        row += len(clips)
        if on_progress is not None:
            on_progress(row, len(cycles))
    store.flush()


def _write_waveforms(path: Path, cycles: Sequence[Cycle], front_end: FrontEnd, on_progress: OnProgress | None) -> None:
    starts = [0]
    with path.open("wb") as file:
        for parts in _cut(cycles, front_end):
            for part in parts:
                file.write(part.numpy().tobytes())
                starts.append(starts[-1] + len(part))
            if on_progress is not None:
                on_progress(len(starts) - 1, len(cycles))
        file.write(np.array(starts, dtype=np.int64).tobytes())


def _cut(cycles: Sequence[Cycle], front_end: FrontEnd) -> Iterator[list[Tensor]]:
    """Recording by recording, the waveforms of its cycles."""
    for recording, group in groupby(cycles, key=lambda cycle: cycle.recording):
        waveform = front_end.read(recording.path)
        yield [front_end.cut(waveform, start_s=cycle.start_s, end_s=cycle.end_s) for cycle in group]


@dataclass(frozen=True)
class Batch:
    """Normalised filter banks (batch, time, mel) and labels (batch,) int64."""

    fbank: Tensor
    labels: Tensor


class CycleBatches:
    """Batches of some rows of the filter banks.

    Training: `epoch(n)` gives them in an order drawn from the seed and the epoch, their waveforms changed by `change`
    and their filter banks by `augment`, with draws from the seed, the epoch and the position among the training
    cycles, so that an epoch can be taken up again at any step. Evaluation: `in_order()`.
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
        change: ChangeCycle | None = None,
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
        self.change = change
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
            batch = self._batch(chosen, self._changed(epoch, chosen))
            if self.augment is None:
                yield batch
                continue
            generators = (generator_at(self.seed, "augment", epoch, int(position)) for position in chosen)
            augmented = [self.augment(fbank, gen) for fbank, gen in zip(batch.fbank, generators, strict=True)]
            yield Batch(torch.stack(augmented), batch.labels)

    def in_order(self) -> Iterator[Batch]:
        """All cycles in their order, none dropped, none changed, not augmented."""
        for first in range(0, len(self.rows), self.batch_size):
            yield self._batch(np.arange(first, min(first + self.batch_size, len(self.rows))))

    def _changed(self, epoch: int, positions: NDArray[np.int64]) -> list[Tensor | None]:
        """New filter banks for a batch's cycles; None where the stored one is taken."""
        if self.change is None:
            return []
        generators = (generator_at(self.seed, "waveform", epoch, int(position)) for position in positions)
        return [self.change(int(row), gen) for row, gen in zip(self.rows[positions], generators, strict=True)]

    def _batch(self, positions: NDArray[np.int64], changed: Sequence[Tensor | None] = ()) -> Batch:
        fbank = torch.from_numpy(self.fbanks[self.rows[positions]])
        for place, new in enumerate(changed):
            if new is not None:
                fbank[place] = new
        return Batch(normalize(fbank, mean=self.mean, std=self.std), self.labels[torch.from_numpy(positions)])
