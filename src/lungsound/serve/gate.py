"""The gate before the service: host, token, origin, bytes and time of a request; metrics, and a line in the log."""

import asyncio
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lungsound.serve.limits import MAX_TEXT_BYTES, STATUS_OF, Limits, Refusal, log, place_of

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
RETRY_AFTER_S = 2
RETRIED = ("busy", "not ready", "timeout")


def response_to(refusal: Refusal, more: Mapping[str, str] | None = None) -> JSONResponse:
    """One line of JSON, with the headers that the refusal's status needs and `more`."""
    headers = {**(more or {}), **({"WWW-Authenticate": "Bearer"} if refusal.kind == "unauthorized" else {})}
    if refusal.kind == "slow":
        headers["Connection"] = "close"
    if refusal.kind in RETRIED:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return JSONResponse({"error": str(refusal)}, STATUS_OF[refusal.kind], headers=headers)


BUCKETS_S = (0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Counters of one service, in a registry of its own."""

    def __init__(self, *, num_waiting: Callable[[], float], num_requests: Callable[[], float]) -> None:
        own = self._registry = CollectorRegistry()
        by_route = ("lungsound_request_seconds", "Time from a request's first byte to its response.", ["route"])
        self.requests = Counter(
            "lungsound_requests", "Requests by route and status.", ["route", "status"], registry=own
        )
        self.seconds = Histogram(*by_route, buckets=BUCKETS_S, registry=own)
        self.cycles = Counter("lungsound_cycles_answered", "Cycles predicted.", registry=own)
        self.errors = Counter("lungsound_errors", "Requests and files refused, by kind.", ["kind"], registry=own)
        waiting = Gauge("lungsound_queue_length", "Recordings that wait for a thread.", registry=own)
        waiting.set_function(num_waiting)
        places = Gauge("lungsound_requests_in_progress", "Requests that have a place.", registry=own)
        places.set_function(num_requests)

    def text(self) -> bytes:
        """All counters in Prometheus' text format."""
        return generate_latest(self._registry)


WITH_SOUND = ("/v1/predictions", "/v1/batch")
BODY_S, MIN_BODY_BYTES = 10.0, 2**14  # a body that brings less in such a time is cut off: 13 kbit/s
MAX_RECEIVING = 256  # bodies at the same time; each takes three of the files that a process may have open, often 1024
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CLIENT_GONE = 499  # in logs and metrics: nobody is there to get a status
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(eq=False)
class RequestFacts:
    """Facts of a request for its line in the log; `refusal` when it was refused while its body was read."""

    request_id: str
    num_bytes: int = 0
    num_cycles: int = 0
    duration_s: float = 0.0
    status: int = 0
    error: str | None = None
    refusal: Refusal | None = None
    is_receiving: bool = False
    next_check_s: float | None = None
    num_checked_bytes: int = 0


def _is_same_origin(headers: Headers) -> bool:
    """True where no browser says that another site's page sends the request.

    A proxy may change the host: the header of newer browsers counts before it.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


class Gate:
    """An ASGI application before another. `is_local_only`: only requests to this machine by its own names pass.

    That check keeps a page of somebody else, whose name leads to this machine, from reading what is served here.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        metrics: Metrics,
        token: str | None = None,
        is_local_only: bool = False,
    ) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.token, self.is_local_only = token, is_local_only
        self._requests: set[RequestFacts] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # as GET; whoever sends the answer leaves its body out
            scope = {**scope, "method": "GET"}
        facts, start_s = RequestFacts(uuid4().hex), time.perf_counter()
        scope.setdefault("state", {})["facts"] = facts
        max_bytes = self.limits.max_bytes if scope["path"] in WITH_SOUND else MAX_TEXT_BYTES

        async def receive_counted() -> Message:
            try:
                return await self._receive(receive, facts, max_bytes)
            except Refusal as refusal:
                facts.refusal = refusal
                raise

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                facts.status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in {**SECURITY_HEADERS, "X-Request-ID": facts.request_id}.items():
                    headers.setdefault(name, value)
            await send(message)

        async def refuse(refusal: Refusal) -> None:
            facts.error = refusal.kind
            if not facts.status:
                await response_to(refusal)(scope, receive, send_with_headers)

        self._requests.add(facts)
        try:
            self._admit(scope, max_bytes)
            async with asyncio.timeout(self.limits.timeout_s):
                await self.app(scope, receive_counted, send_with_headers)
        except TimeoutError:
            message = f"no answer within {self.limits.timeout_s:g} s; send less, or ask again later"
            await refuse(Refusal("timeout", message))
        except Refusal as refusal:
            await refuse(refusal)
        except asyncio.CancelledError:
            await refuse(Refusal("not ready", "the service is stopping; ask again in a moment"))
        except ClientDisconnect:
            facts.status, facts.error = CLIENT_GONE, "client gone"
        except Exception as error:
            log("error", id=facts.request_id, error=place_of(error))
            await refuse(Refusal("internal", f"internal error (bug), request {facts.request_id}"))
        finally:
            self._requests.remove(facts)
            self._note(scope, facts, time.perf_counter() - start_s)

    async def _receive(self, receive: Receive, facts: RequestFacts, max_bytes: int) -> Message:
        """The next message of a request. Refusal when too many bytes are received, or they come too slowly."""
        now_s = asyncio.get_running_loop().time
        if facts.next_check_s is None:
            if sum(each.is_receiving for each in self._requests) >= MAX_RECEIVING:
                raise Refusal(
                    "busy", f"{MAX_RECEIVING} requests are being received, which is the limit; ask again later"
                )
            facts.is_receiving, facts.next_check_s = True, now_s() + BODY_S
        while True:
            try:
                async with asyncio.timeout_at(facts.next_check_s if facts.is_receiving else None):
                    message = await receive()
                break
            except TimeoutError:
                if facts.num_bytes - facts.num_checked_bytes < MIN_BODY_BYTES:
                    needed = f"{MIN_BODY_BYTES} bytes in {BODY_S:g} s are needed"
                    raise Refusal("slow", f"the body comes too slowly: {needed}") from None
                facts.num_checked_bytes, facts.next_check_s = facts.num_bytes, now_s() + BODY_S
        facts.num_bytes += len(message.get("body", b""))
        facts.is_receiving = message.get("more_body", False)
        if facts.num_bytes > max_bytes:
            raise Refusal("too large", f"more than {max_bytes} bytes were sent, which is the limit")
        if sum(each.num_bytes for each in self._requests) > self.limits.max_received:
            raise Refusal("busy", "too many bytes are being received at the same time; ask again later")
        return message

    def _admit(self, scope: Scope, max_bytes: int) -> None:
        """Refusal before a byte of the body is read: by host, token, origin, and the length that is announced."""
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "").lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if self.is_local_only and name not in LOCAL_HOSTS:
            raise Refusal("bad request", f"without a token only {', '.join(LOCAL_HOSTS)} are accepted, as the host")
        if self.token is not None and (path.startswith("/v1/") or path == "/metrics"):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            is_same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self.token.encode())
            if scheme.lower() != "bearer" or not is_same:
                raise Refusal("unauthorized", "a token is needed: send the header 'Authorization: Bearer TOKEN'")
        if scope["method"] not in SAFE_METHODS and not _is_same_origin(headers):
            raise Refusal("forbidden", "a page of another site must not send this")
        announced = headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > max_bytes:
            raise Refusal("too large", f"{announced} bytes announced; at most {max_bytes}")

    def _note(self, scope: Scope, facts: RequestFacts, seconds: float) -> None:
        # The template of the route: the path of the request may hold a name.
        is_static = scope["path"].startswith("/static/")
        route = "/static" if is_static else str(getattr(scope.get("route"), "path", "unknown"))
        if facts.error is not None:
            self.metrics.errors.labels(facts.error).inc()
        self.metrics.requests.labels(route, facts.status).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        self.metrics.cycles.inc(facts.num_cycles)
        if not route.startswith("/health"):
            log(
                "request",
                id=facts.request_id,
                method=scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PUT") else "other",
                route=route,
                status=facts.status,
                ms=round(1000 * seconds, 1),
                bytes=facts.num_bytes,
                duration_s=round(facts.duration_s, 3),
                cycles=facts.num_cycles,
                error=facts.error,
            )
