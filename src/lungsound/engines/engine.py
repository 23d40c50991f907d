"""The interface of all engines: waveforms of cycles in, probabilities out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lungsound.audio.front_end import FrontEnd

BATCH_SIZE = 4  # on a CPU larger ones bring nothing per cycle, and take more memory


class Engine(ABC):
    """What answers for cycles. `name` is what a user calls it by."""

    def __init__(self, name: str, front_end: FrontEnd, num_classes: int, *, batch_size: int = BATCH_SIZE) -> None:
        self.name = name
        self.front_end = front_end
        self.num_classes = num_classes
        self.batch_size = batch_size

    def answer(self, waveforms: Sequence[Tensor], *, on_progress: Callable[[int], None] | None = None) -> Tensor:
        """Probabilities (cycle, class), float32 on the CPU, in the order of `waveforms`.

        Waveforms are those of cycles as `FrontEnd.cut` gives them, each (samples,) of any length. They are fitted to
        the model's input a batch at a time, those of like length together. `on_progress` gets the number done.
        """
        found = torch.empty(len(waveforms), self.num_classes)
        order = sorted(range(len(waveforms)), key=lambda place: len(waveforms[place]))
        for first in range(0, len(order), self.batch_size):
            places = order[first : first + self.batch_size]
            found[places] = self._probabilities(torch.stack([self.front_end.fit(waveforms[place]) for place in places]))
            if on_progress is not None:
                on_progress(first + len(places))
        return found

    @abstractmethod
    def _probabilities(self, clips: Tensor) -> Tensor:
        """Probabilities (batch, class), float32 on the CPU, of fitted waveforms (batch, num_samples)."""
