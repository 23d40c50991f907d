"""A bounded queue of requests, and one engine for several threads, whose waiting requests share batches."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

import torch
from starlette.requests import ClientDisconnect

from lungsound.audio.front_end import Sound
from lungsound.inference.engines import Engine, Outputs
from lungsound.progress import OnProgress
from lungsound.serve.limits import Refusal

Result = TypeVar("Result")


class WorkQueue:
    """Places for requests, and threads for their work; to be used from one event loop.

    A thread cannot be stopped: work whose request was given up keeps its thread until it ends, and its result is
    dropped. Work that has not begun is taken out of the queue.
    """

    def __init__(self, *, num_workers: int, max_waiting: int) -> None:
        self.num_requests = 0
        self.num_waiting = 0
        self.is_stopping = False
        self._max_requests = num_workers + max_waiting
        self._free_threads = asyncio.Semaphore(num_workers)
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="predict")

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for a request, from before its body is read until its response is sent. Refusal without one."""
        if self.is_stopping:
            raise Refusal("not ready", "the service is stopping; ask again in a moment")
        if self.num_requests >= self._max_requests:
            raise Refusal("busy", f"{self.num_requests} requests are in progress, which is the limit; ask again later")
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1

    async def run(self, work: Callable[[], Result], *, is_gone: Callable[[], Awaitable[bool]] | None = None) -> Result:
        """The result of `work`, done in a thread as soon as one is free.

        ClientDisconnect when `is_gone` says by then that nobody waits for it any more.
        """
        self.num_waiting += 1
        try:
            await self._free_threads.acquire()
        finally:
            self.num_waiting -= 1
        try:
            if is_gone is not None and await is_gone():
                raise ClientDisconnect
        except BaseException:
            self._free_threads.release()
            raise
        loop = asyncio.get_running_loop()

        def free(_: Future[Result]) -> None:
            loop.call_soon_threadsafe(self._free_threads.release)

        future = self._pool.submit(work)
        future.add_done_callback(free)
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        """Wait for the threads, given-up work included."""
        await asyncio.to_thread(self._pool.shutdown)


GPU_BATCH_SIZE = 32


class GatheringEngine(Engine):
    """Predicts with `engine` in a thread of its own, which no other thread uses.

    While a batch is computed, others may come to wait; as many of these as fill the next batch are predicted together.
    Nobody waits for a batch to fill, and what fills one alone is predicted alone: on a CPU, whose batches are small,
    requests are predicted one after the other.
    """

    def __init__(self, engine: Engine, device: torch.device) -> None:
        if device.type == "cuda":
            engine.batch_size = GPU_BATCH_SIZE
        super().__init__(engine.name, engine.trained, engine.run_batch, batch_size=engine.batch_size)
        self._engine = engine
        self._waiting: SimpleQueue[tuple[Sequence[Sound], Future[Outputs]] | None] = SimpleQueue()
        self._thread = Thread(target=self._run_all, name="engine", daemon=True)
        self._thread.start()

    def predict(self, cycles: Sequence[Sound], *, on_progress: OnProgress | None = None) -> Outputs:
        """As `Engine.predict`; `on_progress` is called when all are done."""
        future: Future[Outputs] = Future()
        self._waiting.put((cycles, future))
        outputs = future.result()
        if on_progress is not None:
            on_progress(len(cycles), len(cycles))
        return outputs

    def close(self) -> None:
        """Predict what waits, then end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run_all(self) -> None:
        while (first := self._waiting.get()) is not None:
            requests, is_last = [first], False
            while sum(len(cycles) for cycles, _ in requests) < self.batch_size and not self._waiting.empty():
                another = self._waiting.get()
                if another is None:
                    is_last = True
                    break
                requests.append(another)
            try:
                together = [cycle for cycles, _ in requests for cycle in cycles]
                probabilities, features = self._engine.predict(together)
            except Exception as error:
                for _, future in requests:
                    future.set_exception(error)
            else:
                start = 0
                for cycles, future in requests:
                    rows = slice(start, start := start + len(cycles))
                    future.set_result((probabilities[rows], features[rows]))
            if is_last:
                return
