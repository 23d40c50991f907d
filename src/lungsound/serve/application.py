"""The service as one ASGI application: routes, errors in one line, and the gate before all of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from lungsound.errors import LungsoundError
from lungsound.inference.predictor import Predictor
from lungsound.serve import openapi as examples
from lungsound.serve import routes as answering
from lungsound.serve import routes as review_routes
from lungsound.serve.limits import STATUS_OF, Gate, Limits, Metrics, Refusal, asked_of
from lungsound.serve.queue import WorkQueue
from lungsound.serve.review import SUFFIX, CorrectedFormat, CorrectedRecording, ReviewFolder, corrected_text, formats_of
from lungsound.serve.routes import Answering
from lungsound.serve.uploads import formats

STATIC = Path(__file__).parent / "static"
KIND_OF = {int(status): kind for kind, status in reversed(STATUS_OF.items())}


@dataclass
class Service:
    """A predictor to be served. `is_ready` once it has answered for a probe; `folder` is there for review."""

    predictor: Predictor
    limits: Limits = field(default_factory=Limits)
    folder: ReviewFolder | None = None
    is_ready: bool = False

    def __post_init__(self) -> None:
        self.queue = WorkQueue(num_workers=self.limits.num_workers, max_waiting=self.limits.max_waiting)
        self.metrics = Metrics(num_waiting=lambda: self.queue.num_waiting, num_requests=lambda: self.queue.num_requests)
        self.answering = Answering(self.predictor, limits=self.limits, queue=self.queue, metrics=self.metrics)


def application(service: Service, *, token: str | None = None, is_local_only: bool = False) -> Gate:
    """The service behind its gate. `token`, when given, is asked for on /v1 and /metrics."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.queue.close()

    app = FastAPI(
        title="lungsound",
        version=service.answering.provenance().lungsound_version,
        description="Hears crackles and wheezes in chest recordings. Research software, not a medical device.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # to an address made of the Host header, which anybody writes
        lifespan=lifespan,
    )
    app.include_router(answering.router(service.answering))
    if service.folder is not None:
        app.include_router(review_routes.router_of_review_routes(service.answering, service.folder))
    _add_facts(app, service)
    _add_health(app, service)
    _add_page(app)
    _add_errors(app)
    return Gate(app, limits=service.limits, metrics=service.metrics, token=token, is_local_only=is_local_only)


def _add_facts(app: FastAPI, service: Service) -> None:
    label_set, front_end = service.predictor.trained.label_set, service.predictor.trained.front_end

    @app.get("/v1/model", responses={200: {"content": {"application/json": {"example": examples.MODEL}}}})
    async def model() -> dict[str, Any]:
        """What answers, and within which limits."""
        provenance = service.answering.provenance()
        return {
            "classes": label_set.classes,
            "label_set": label_set.name,
            "sample_rate_hz": front_end.sample_rate_hz,
            "duration_s": front_end.audio.duration_s,
            "model_sha256": provenance.model_sha256,
            "model": provenance.model,
            "calibration": provenance.calibration,
            "is_calibrated": service.predictor.is_calibrated,
            "scaling": service.predictor.scaling,
            "note": provenance.note,
            "limits": {"max_bytes": service.limits.max_bytes, "max_duration_s": service.limits.max_duration_s},
            "sound_formats": formats(),
            "formats": formats_of(label_set),
            "is_review": service.folder is not None,
        }

    @app.post("/v1/answers/{format}", responses=examples.ERRORS)
    async def answers(format: CorrectedFormat, recording: CorrectedRecording) -> Response:
        """Cycles that a person corrected, as a file that `lungsound train` reads."""
        content = corrected_text(recording, format, label_set)
        name = f"corrected{SUFFIX[format]}"  # a header holds no name that a person chose
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content.encode(), media_type="application/octet-stream", headers=headers)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    @app.get("/health/ready", responses={503: examples.ERRORS[503]})
    async def ready() -> dict[str, str]:
        """The model is loaded, has answered for a probe, and takes requests."""
        if service.queue.is_stopping:
            raise Refusal("not ready", "the service is stopping")
        if not service.is_ready:
            raise Refusal("not ready", "the model has not answered for a probe yet")
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    app.mount("/static", StaticFiles(directory=STATIC, check_dir=False), name="static")


def _add_errors(app: FastAPI) -> None:
    """Every error as one line of JSON."""

    def refuse(request: Request, refusal: Refusal) -> JSONResponse:
        asked_of(request).error = refusal.kind
        return refusal.response()

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> JSONResponse:
        return refuse(request, refusal)

    @app.exception_handler(LungsoundError)
    async def unusable(request: Request, error: LungsoundError) -> JSONResponse:
        return refuse(request, Refusal("unusable", str(error)))

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> JSONResponse:
        overflow = asked_of(request).refusal  # which reading a form or JSON turns into an error of its own
        kind = KIND_OF.get(error.status_code, "bad request")
        return refuse(request, overflow or Refusal(kind, str(error.detail)))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return refuse(request, Refusal("unusable", f"{where}: {first['msg']}"))

    @app.exception_handler(Exception)
    async def mistake(request: Request, _: Exception) -> JSONResponse:
        request_id = asked_of(request).request_id
        return refuse(request, Refusal("internal", f"internal error (bug), request {request_id}"))
