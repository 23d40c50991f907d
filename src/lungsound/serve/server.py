"""The server process: a model is loaded, predicts a probe, and is served until a signal, cutting nobody off."""

import asyncio
import faulthandler
import gc
import json
import os
import resource
import socket
import sys
import threading
import time
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from types import FrameType

import h11
import numpy as np
import soundfile
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lungsound.errors import SettingsError
from lungsound.files import private_folder
from lungsound.inference.predictor import Predictor
from lungsound.page import DISCLAIMER
from lungsound.serve.gate import LOCAL_HOSTS, SECURITY_HEADERS, Gate
from lungsound.serve.limits import Limits, json_lines, log, log_libraries, place_of
from lungsound.serve.queue import GatheringEngine
from lungsound.serve.readers import AbandonedError, is_abandoned
from lungsound.serve.review import ReviewFolder
from lungsound.serve.routes import Service, application

PROBE_S = 1.0
HEADERS_TIMEOUT_S = 5
STOP_S = 10


def warm(service: Service) -> None:
    """Predict a probe, so that the first request does not wait for what is made once."""
    rate_hz = service.predictor.trained.front_end.sample_rate_hz
    noise = np.random.default_rng(0).normal(0.0, 0.05, int(PROBE_S * rate_hz))
    with private_folder() as folder:
        path = folder / "probe.wav"
        soundfile.write(path, noise, rate_hz, subtype="PCM_16")
        service.predict_file(path)
    service.is_ready = True


def predict_folder(service: Service) -> None:
    """Predict the recordings under review, one after the other, as long as the service is not stopping."""
    assert service.folder is not None
    is_abandoned.set(lambda: service.queue.is_stopping)
    for each in service.folder:
        if service.queue.is_stopping:
            return
        try:
            service.folder.predicted(each.id, service.predict_file)
        except AbandonedError:
            return
        except Exception as error:
            log("error", error=place_of(error))


class Connection(H11Protocol):
    """A connection that is closed when for `HEADERS_TIMEOUT_S` no request was begun, or none ended its headers.

    uvicorn itself has no such limit before the first byte, nor from the first byte to the last of the headers. It
    hangs up on who closes the sending half after a complete request, and who is answered here.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._is_half_closed = False
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_watch.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """True where somebody waits for an answer: the transport then stays open for it."""
        self._is_half_closed = True
        if self.cycle is None or self.cycle.response_complete:
            return False
        if self.cycle.more_body and not self.cycle.response_started:
            self.conn.receive_data(b"")  # which is the end: a request that is cut short is answered 400
            self.handle_events()
        return not self.cycle.more_body

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_half_closed and self.cycle.response_complete:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, as everything else is refused, with the status that h11 knows for it."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        content = json.dumps({"error": f"{msg} {error}"}).encode()
        headers = {
            **SECURITY_HEADERS,
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            "Connection": "close",
        }
        head = h11.Response(status_code=status, headers=list(headers.items()), reason=HTTPStatus(status).phrase)
        for event in (head, h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _watch(self, last_idle: tuple[object] | None = None) -> None:
        """Close what has done nothing since it was last seen idle; `last_idle` holds its last request at that time."""
        is_idle = self.cycle is None or self.cycle.response_complete
        idle = (self.cycle,) if is_idle else None
        if idle is not None and idle == last_idle:
            self.transport.close()
        self._next_watch = self.loop.call_later(HEADERS_TIMEOUT_S, self._watch, idle)


class Server(uvicorn.Server):
    """Stop at a signal when the last request is done, with 503 at /health/ready until then; at a second signal at once.

    What is not done after `timeout_s` is given up, and whatever may happen, the process ends `STOP_S` later. With a
    folder for review, the model is asked for its recordings in the background, one after the other.
    """

    def __init__(self, service: Service, app: Gate, *, timeout_s: float) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=HEADERS_TIMEOUT_S,
            timeout_graceful_shutdown=STOP_S // 2,
            lifespan="on",
            ws="none",
        )
        super().__init__(config)
        self._service, self._timeout_s = service, timeout_s
        self._stop_s: float | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        if self._service.folder is not None:
            threading.Thread(target=predict_folder, args=(self._service,), name="review", daemon=True).start()
        super().run(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.queue.is_stopping:
            super().handle_exit(sig, frame)
        else:
            nowhere = os.open(os.devnull, os.O_WRONLY)  # each line of standard error is JSON
            faulthandler.dump_traceback_later(self._timeout_s + STOP_S, exit=True, file=nowhere)
        self._service.queue.is_stopping = True

    async def on_tick(self, counter: int) -> bool:
        queue = self._service.queue
        if queue.is_stopping and self._stop_s is None:
            log("stopping", requests=queue.num_requests)  # not in the handler, which may interrupt another line
            self._stop_s = time.monotonic() + self._timeout_s
        is_over = self._stop_s is not None and (queue.num_requests == 0 or time.monotonic() > self._stop_s)
        self.should_exit = self.should_exit or is_over
        return await super().on_tick(counter)


TOKEN_VARIABLE = "LUNGSOUND_TOKEN"
MIN_TOKEN = 16


def serve(
    model: str | Path,
    *,
    folder: Path | None = None,
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    device: str = "cpu",
    engine: str = "auto",
) -> None:
    """Serve a model over HTTP until SIGTERM or SIGINT, then finish what was begun.

    `folder` is for review: the page is of its recordings, the most uncertain first, and corrections are kept in it.
    `token` is what clients must show, default the environment variable LUNGSOUND_TOKEN. Raises SettingsError for a port
    that is taken; what `Predictor.load` raises.
    """
    token = os.environ.get(TOKEN_VARIABLE) if token is None else token
    if token is not None and (len(token) < MIN_TOKEN or not (token.isascii() and token.isprintable()) or " " in token):
        raise SettingsError(
            f"a token has {MIN_TOKEN} characters or more of ASCII without blanks; got {len(token)} characters"
        )
    limits = limits or Limits()
    with closing(_bind(host, port)) as listening, json_lines():
        log_libraries()
        _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # of idle connections there may be many
        log("start", note=DISCLAIMER.lower().rstrip("."))
        if host not in LOCAL_HOSTS and token is None:
            log("warning", message=f"whoever reaches {host} may ask: set {TOKEN_VARIABLE}, or serve 127.0.0.1 alone")
        predictor = Predictor.load(model, device=device, engine=engine)
        review_folder = None if folder is None else ReviewFolder(folder, predictor.trained.label_set, limits)
        with closing(GatheringEngine(predictor.engine, predictor.device)) as shared:
            predictor.engine = shared
            service = Service(predictor, limits=limits, folder=review_folder)
            warm(service)
            gc.freeze()  # or each collection goes through all of torch, and the end of the process through it twice
            app = application(service, token=token, is_local_only=host in LOCAL_HOSTS and token is None)
            address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
            log("ready", address=address, model_sha256=predictor.trained.sha256, engine=shared.name)
            Server(service, app, timeout_s=limits.timeout_s).run(sockets=[listening])
        log("stop")


def _bind(host: str, port: int) -> socket.socket:
    """A socket at the address, before the model is loaded: a port that is taken is known at once."""
    if not 0 <= port <= 65535:
        raise SettingsError(f"port {port}: ports are 1 to 65535, and 0 is any that is free")
    if not host:
        raise SettingsError("an empty --host is every address of this machine: give 127.0.0.1, or 0.0.0.0 for all")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise SettingsError(
            f"{host} port {port} cannot be served ({reason}); choose another --host or --port"
        ) from None
