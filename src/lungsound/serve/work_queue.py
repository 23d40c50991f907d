"""A bounded queue: few recordings are worked on at once, few requests wait, the others are told to come again."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from starlette.requests import ClientDisconnect

from lungsound.serve.refusals import Refusal

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
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="answer")

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for a request, from before its body is read until it is answered. Refusal when there is none."""
        if self.is_stopping:
            raise Refusal("not ready", "the service is stopping; ask again in a moment")
        if self.num_requests >= self._max_requests:
            raise Refusal("busy", f"{self.num_requests} requests are being answered, which is all; ask again later")
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
