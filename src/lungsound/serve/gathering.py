"""One engine for several threads: requests that wait for it share batches."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread

import torch
from torch import Tensor

from lungsound.engines.engine import Engine

GPU_BATCH_SIZE = 32


class GatheringEngine(Engine):
    """Answers by `engine` in a thread of its own, which no other thread uses.

    While a batch is computed, others may come to wait; as many of these as fill the next batch are answered together.
    Nobody waits for a batch to fill, and what fills one alone is answered alone: on a CPU, whose batches are small,
    requests are answered one after the other.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.name, engine.trained, batch_size=engine.batch_size)
        self._engine = engine
        self._asked: SimpleQueue[tuple[Sequence[Tensor], Future[Tensor]] | None] = SimpleQueue()
        self._thread = Thread(target=self._answer_all, name="engine", daemon=True)
        self._thread.start()

    def answer(self, waveforms: Sequence[Tensor], *, on_progress: Callable[[int], None] | None = None) -> Tensor:
        """As `Engine.answer`; `on_progress` gets the number when all are done."""
        future: Future[Tensor] = Future()
        self._asked.put((waveforms, future))
        found = future.result()
        if on_progress is not None:
            on_progress(len(waveforms))
        return found

    def close(self) -> None:
        """Answer what has been asked, then end the thread."""
        self._asked.put(None)
        self._thread.join()

    def _answer_all(self) -> None:
        while (first := self._asked.get()) is not None:
            asked, is_last = [first], False
            while sum(len(waveforms) for waveforms, _ in asked) < self.batch_size and not is_last:
                try:
                    another = self._asked.get_nowait()
                except Empty:
                    break
                if another is None:
                    is_last = True
                else:
                    asked.append(another)
            self._answer_together(asked)
            if is_last:
                return

    def _answer_together(self, asked: Sequence[tuple[Sequence[Tensor], Future[Tensor]]]) -> None:
        try:
            found = self._engine.answer([waveform for waveforms, _ in asked for waveform in waveforms])
        except Exception as error:
            for _, future in asked:
                future.set_exception(error)
            return
        first = 0
        for waveforms, future in asked:
            future.set_result(found[first : first + len(waveforms)])
            first += len(waveforms)

    def _probabilities(self, clips: Tensor) -> Tensor:
        return self._engine._probabilities(clips)


def gathered(engine: Engine, device: torch.device) -> GatheringEngine:
    """The engine for several threads, with larger batches on a GPU."""
    if device.type == "cuda":
        engine.batch_size = GPU_BATCH_SIZE
    return GatheringEngine(engine)
