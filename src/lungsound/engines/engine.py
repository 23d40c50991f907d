"""The interface of all engines: waveforms of cycles in, probabilities out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from lungsound.checkpoint import TrainedModel

BATCH_SIZE = 4  # on a CPU larger ones bring nothing per cycle, and take more memory


class Engine(ABC):
    """What answers for cycles. `name` is what a user calls it by."""

    def __init__(self, name: str, trained: TrainedModel, *, batch_size: int = BATCH_SIZE) -> None:
        self.name = name
        self.trained = trained
        self.batch_size = batch_size

    def answer(self, waveforms: Sequence[Tensor], *, on_progress: Callable[[int], None] | None = None) -> Tensor:
        """Probabilities (cycle, class), float32 on the CPU, in the order of `waveforms`.

        Waveforms are those of cycles as `FrontEnd.cut` gives them, each (samples,) of any length. They are fitted to
        the model's input a batch at a time, those that take equally much of it together. `on_progress` gets the
        number done.
        """
        found, num_done = torch.empty(len(waveforms), len(self.trained.label_set.classes)), 0
        sizes = [self.trained.num_input_samples(len(waveform)) for waveform in waveforms]
        for _, group in groupby(sorted(range(len(sizes)), key=sizes.__getitem__), key=sizes.__getitem__):
            alike = list(group)
            for first in range(0, len(alike), self.batch_size):
                places = alike[first : first + self.batch_size]
                clips = torch.stack([self.trained.input_of(waveforms[place]) for place in places])
                found[places] = self._probabilities(clips)
                num_done += len(places)
                if on_progress is not None:
                    on_progress(num_done)
        return found

    @abstractmethod
    def _probabilities(self, clips: Tensor) -> Tensor:
        """Probabilities (batch, class), float32 on the CPU, of inputs (batch, samples) (`TrainedModel.input_of`)."""
