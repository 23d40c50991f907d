"""Batches of filter banks as a function of seed and epoch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lungsound.audio.fbank import normalize
from lungsound.randomness import generator_at


class Rows(Protocol):
    """Filter banks (cycle, time, mel) before normalisation: an array, or `FilterBanks` on disk."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.float32]:
        """A copy of some rows."""


@dataclass(frozen=True)
class Batch:
    """Normalised filter banks (batch, time, mel) and labels (batch,) int64.

    Of each only its first `num_frames` (batch,) are to be encoded (`FrontEnd.num_own_frames`); None, all of them.
    """

    fbank: Tensor
    labels: Tensor
    num_frames: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """On a device, but for `num_frames`: lengths are asked for on the CPU, and nobody waits for a GPU's answer."""
        return replace(self, fbank=self.fbank.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Changed:
    """Filter bank (time, mel) of a cycle whose waveform was changed, and as in `Batch` its `num_frames`."""

    fbank: Tensor
    num_frames: int | None = None


# From a filter bank (time, mel), a generator and as in `Batch` its `num_frames` to a changed copy.
Augment = Callable[[Tensor, torch.Generator, int | None], Tensor]
# From a row and a generator; None when the draw leaves the cycle as it is.
ChangeCycle = Callable[[int, torch.Generator], Changed | None]


class CycleBatches:
    """Batches of some rows of the filter banks, with a label and, if need be, `num_frames` of each.

    Training: `epoch(n)` gives them in an order drawn from the seed and the epoch, their waveforms changed by `change`
    and their filter banks by `augment`, with draws from the seed, the epoch and the position among the training
    cycles, so that an epoch can be taken up again at any step. Evaluation: `in_order()`.
    """

    def __init__(
        self,
        fbanks: Rows,
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
        num_frames: Sequence[int] | None = None,
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
        self.num_frames = None if num_frames is None else torch.tensor(num_frames, dtype=torch.int64)

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
            lengths = [None] * len(chosen) if batch.num_frames is None else batch.num_frames.tolist()
            augmented = map(self.augment, batch.fbank, generators, lengths)
            yield replace(batch, fbank=torch.stack([*augmented]))

    def in_order(self) -> Iterator[Batch]:
        """All cycles in their order, none dropped, none changed, not augmented."""
        for first in range(0, len(self.rows), self.batch_size):
            yield self._batch(np.arange(first, min(first + self.batch_size, len(self.rows))))

    def _changed(self, epoch: int, positions: NDArray[np.int64]) -> list[Changed | None]:
        """New filter banks for a batch's cycles; None where the stored one is taken."""
        if self.change is None:
            return []
        generators = (generator_at(self.seed, "waveform", epoch, int(position)) for position in positions)
        return [self.change(int(row), gen) for row, gen in zip(self.rows[positions], generators, strict=True)]

    def _batch(self, positions: NDArray[np.int64], changed: Sequence[Changed | None] = ()) -> Batch:
        fbank, chosen = torch.from_numpy(self.fbanks[self.rows[positions]]), torch.from_numpy(positions)
        num_frames = None if self.num_frames is None else self.num_frames[chosen]
        for place, new in enumerate(changed):
            if new is not None:
                fbank[place] = new.fbank
                if num_frames is not None and new.num_frames is not None:
                    num_frames[place] = new.num_frames
        return Batch(normalize(fbank, mean=self.mean, std=self.std), self.labels[chosen], num_frames)
