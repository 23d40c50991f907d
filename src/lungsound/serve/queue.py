"""A bounded queue of requests, and one engine for several threads, whose waiting requests share batches in turns."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event, Thread
from typing import TypeVar

import numpy as np
from starlette.requests import ClientDisconnect

from lungsound.audio.front_end import Sound
from lungsound.inference.engines import Engine, Outputs
from lungsound.progress import OnProgress
from lungsound.serve.limits import Refusal
from lungsound.serve.readers import AbandonedError, is_abandoned

Result = TypeVar("Result")

MAX_HELD_BYTES = 192 * 2**20  # of waveforms that wait for the model: five of 600 s at 16 kHz


class WorkQueue:
    """Places for requests, and threads for their work; to be used from one event loop.

    Work whose request was given up is told so by `is_abandoned`, and its result is dropped. Work that has not begun is
    taken out of the queue.
    """

    def __init__(self, *, num_workers: int, max_waiting: int) -> None:
        self.num_requests = 0
        self.num_waiting = 0
        self.is_stopping = False
        self._max_requests = num_workers + max_waiting
        self._num_readers = asyncio.Semaphore(num_workers)
        self._num_held_bytes, self._has_room = 0, asyncio.Event()
        self._has_room.set()
        self._pool = ThreadPoolExecutor(num_workers + self._max_requests, thread_name_prefix="work")

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for a request, from the last byte of its body until its response is sent. Refusal without one."""
        if self.is_stopping:
            raise Refusal("not ready", "the service is stopping; ask again in a moment")
        if self.num_requests >= self._max_requests:
            raise Refusal("busy", f"{self.num_requests} requests are in progress, which is the limit; ask again later")
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1

    async def read(self, work: Callable[[], Result], *, is_gone: Callable[[], Awaitable[bool]] | None = None) -> Result:
        """The result of work that reads, as soon as fewer than `num_workers` do and what was read has been predicted.

        ClientDisconnect when `is_gone` says by then that nobody waits for it any more.
        """
        self.num_waiting += 1
        try:
            await self._num_readers.acquire()
        finally:
            self.num_waiting -= 1
        try:
            await self._has_room.wait()
            if is_gone is not None and await is_gone():
                raise ClientDisconnect
            return await self.run(work)
        finally:
            self._num_readers.release()

    @contextmanager
    def hold(self, num_bytes: int) -> Iterator[None]:
        """Count what was read as long as it is kept: beyond `MAX_HELD_BYTES` nothing more is read."""
        self._keep(num_bytes)
        try:
            yield
        finally:
            self._keep(-num_bytes)

    def _keep(self, num_bytes: int) -> None:
        self._num_held_bytes += num_bytes
        if self._num_held_bytes < MAX_HELD_BYTES:
            self._has_room.set()
        else:
            self._has_room.clear()

    async def run(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, done in a thread."""
        abandoned = Event()
        context = copy_context()
        context.run(is_abandoned.set, abandoned.is_set)
        try:
            return await asyncio.wrap_future(self._pool.submit(context.run, work))
        except asyncio.CancelledError:
            abandoned.set()
            raise

    async def close(self) -> None:
        """Wait for the threads, whose work ends soon after it was given up."""
        await asyncio.to_thread(self._pool.shutdown)


GPU_BATCH_SIZE = 32
# Cycles of one request that are predicted before others have their turn: more than most recordings have.
TURN = 32
GATHERED = 64  # cycles of several requests, at least, if as many wait; those of like length share forward passes


@dataclass(eq=False)
class _Asked:
    """Cycles of a request, the outputs so far, and whether anybody still waits for them."""

    cycles: Sequence[Sound]
    is_abandoned: Callable[[], bool]
    future: Future[Outputs] = field(default_factory=Future)
    outputs: list[Outputs] = field(default_factory=list)
    num_done: int = 0

    @property
    def turn(self) -> Sequence[Sound]:
        return self.cycles[self.num_done : self.num_done + TURN]


class GatheringEngine(Engine):
    """Predicts with `engine` in a thread of its own, which no other thread uses.

    While some are predicted, others may come to wait; these are predicted together next, up to `GATHERED` cycles, and
    nobody waits for more to come. After a `TURN` a long request waits again, and one that is given up is left.
    """

    def __init__(self, engine: Engine, device: str) -> None:
        if device.startswith("cuda"):
            engine.batch_size = GPU_BATCH_SIZE
        super().__init__(engine.name, engine.trained, engine.run_batch, batch_size=engine.batch_size)
        self._engine = engine
        self._waiting: SimpleQueue[_Asked | None] = SimpleQueue()
        self._thread = Thread(target=self._run_all, name="engine", daemon=True)
        self._thread.start()

    def predict(self, cycles: Sequence[Sound], *, on_progress: OnProgress | None = None) -> Outputs:
        """As `Engine.predict`; `on_progress` is called when all are done. AbandonedError when nobody waits any more."""
        asked = _Asked(cycles, is_abandoned.get())
        self._waiting.put(asked)
        outputs = asked.future.result()
        if on_progress is not None:
            on_progress(len(cycles), len(cycles))
        return outputs

    def close(self) -> None:
        """Predict what waits, then end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run_all(self) -> None:
        is_last = False
        while not (is_last and self._waiting.empty()):
            requests: list[_Asked] = []
            while not requests or (sum(len(each.turn) for each in requests) < GATHERED and not self._waiting.empty()):
                asked = self._waiting.get()
                if asked is None:
                    is_last = True
                    break
                requests.append(asked)
            self._take_turn(requests)

    def _take_turn(self, requests: Sequence[_Asked]) -> None:
        """Predict some cycles of each request; those with more to predict wait again."""
        present = []
        for each in requests:
            if each.is_abandoned():
                each.future.set_exception(AbandonedError())
            else:
                present.append(each)
        if not present:
            return
        try:
            probabilities, features = self._engine.predict([cycle for each in present for cycle in each.turn])
        except Exception as error:
            for each in present:
                each.future.set_exception(error)
            return
        start = 0
        for each in present:
            rows = slice(start, start := start + len(each.turn))
            each.outputs.append((probabilities[rows], features[rows]))
            each.num_done += len(each.turn)
            if each.num_done < len(each.cycles):
                self._waiting.put(each)
            else:
                together = [np.concatenate(parts) for parts in zip(*each.outputs, strict=True)]
                each.future.set_result((together[0], together[1]))
