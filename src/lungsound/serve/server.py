"""The server process: warmed before it listens, and stopped without cutting anybody off."""

import asyncio
import socket
import threading
from types import FrameType

import numpy as np
import soundfile
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lungsound.serve.application import Service
from lungsound.serve.gate import Gate
from lungsound.serve.logs import log, place_of
from lungsound.serve.uploads import private_folder

PROBE_S = 1.0
HEADERS_TIMEOUT_S = 5


def warm(service: Service) -> None:
    """Answer for a probe, so that the first request does not wait for what is made once."""
    rate_hz = service.predictor.trained.front_end.sample_rate_hz
    noise = np.random.default_rng(0).normal(0.0, 0.05, int(PROBE_S * rate_hz))
    with private_folder() as folder:
        path = folder / "probe.wav"
        soundfile.write(path, noise, rate_hz, subtype="PCM_16")
        service.predictor.answer(path)
    service.is_ready = True


def answer_folder(service: Service) -> None:
    """Ask the model for the recordings under review, one after the other, as long as the service is not stopping."""
    assert service.folder is not None
    for each in service.folder:
        if service.queue.is_stopping:
            return
        try:
            service.folder.answered(each.id, service.answering.answer_file)
        except Exception as error:
            log("error", error=place_of(error))


class Connection(H11Protocol):
    """A connection that is closed when for `HEADERS_TIMEOUT_S` no request was begun, or none ended its headers.

    uvicorn itself has no such limit before the first byte, nor from the first byte to the last of the headers.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_watch.cancel()
        super().connection_lost(exc)

    def _watch(self, last_idle: tuple[object] | None = None) -> None:
        """Close what has done nothing since it was found idle; `last_idle` holds the request it had answered then."""
        is_idle = self.cycle is None or self.cycle.response_complete
        idle = (self.cycle,) if is_idle else None
        if idle is not None and idle == last_idle:
            self.transport.close()
        self._next_watch = self.loop.call_later(HEADERS_TIMEOUT_S, self._watch, idle)


class Server(uvicorn.Server):
    """Stops at a signal when the last request is answered: until then /health/ready says 503. A second stops it now.

    With a folder for review, the model is asked for its recordings in the background, one after the other.
    """

    def __init__(self, service: Service, app: Gate, *, timeout_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=HEADERS_TIMEOUT_S,
                timeout_graceful_shutdown=max(1, int(timeout_s)),
                lifespan="on",
                ws="none",
            )
        )
        self._service = service
        self._is_stop_told = False

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        if self._service.folder is not None:
            threading.Thread(target=answer_folder, args=(self._service,), name="review", daemon=True).start()
        super().run(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.queue.is_stopping:
            super().handle_exit(sig, frame)
        self._service.queue.is_stopping = True

    async def on_tick(self, counter: int) -> bool:
        queue = self._service.queue
        if queue.is_stopping and not self._is_stop_told:
            log("stopping", requests=queue.num_requests)  # not in the handler, which may interrupt another line
            self._is_stop_told = True
        self.should_exit = self.should_exit or (queue.is_stopping and queue.num_requests == 0)
        return await super().on_tick(counter)
