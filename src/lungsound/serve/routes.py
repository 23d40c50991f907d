"""The service as one ASGI application: predictions, review, facts and health, errors in one line, behind the gate."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import ImmutableMultiDict, UploadFile
from starlette.exceptions import HTTPException

from lungsound.errors import LungsoundError, first_fault
from lungsound.files import private_folder
from lungsound.inference.formats.tables import record
from lungsound.inference.prediction import MEANINGS, Provenance, RecordingPrediction, as_stated
from lungsound.inference.predictor import LoadedRecording, Predictor
from lungsound.inference.withholding import known_stethoscopes
from lungsound.serve import readers, review, uploads
from lungsound.serve.gate import Gate, Metrics, response_to
from lungsound.serve.limits import STATUS_OF, Limits, Refusal
from lungsound.serve.queue import WorkQueue

STATIC = Path(__file__).parent / "static"
KIND_OF = {status: kind for kind, status in reversed(STATUS_OF.items())}
FILES_PER_READER = 4  # of a batch at once: some are read, others wait for the model, which takes them together
# Request bodies and examples of responses for the routes' OpenAPI description.
OPENAPI: dict[str, Any] = json.loads(Path(__file__).with_name("openapi.json").read_text(encoding="utf-8"))
ERRORS: dict[int | str, dict[str, Any]] = OPENAPI["errors"]
STATED = ("stethoscope", "age_years")  # in a query or form: what the sender knows of all its sounds
MAX_SHOWN = 80  # characters of a name, in an error
SAMPLE_BYTES = 4
Stated = tuple[str | None, float | None]


@dataclass
class Service:
    """A predictor behind a queue and limits. `is_ready` once it has predicted a probe; `folder` is there for review."""

    predictor: Predictor
    limits: Limits = field(default_factory=Limits)
    folder: review.ReviewFolder | None = None
    is_ready: bool = False

    def __post_init__(self) -> None:
        self.queue = WorkQueue(num_workers=self.limits.num_workers, max_waiting=self.limits.max_waiting)
        self.metrics = Metrics(num_waiting=lambda: self.queue.num_waiting, num_requests=lambda: self.queue.num_requests)

    async def predict_saved(self, path: Path, *, name: str, request: Request, stated: Stated) -> dict[str, Any]:
        """The record of a sound, by the stethoscope and the age that the request states for all its sounds."""
        loaded = await self.queue.read(lambda: self.load_file(path), is_gone=request.is_disconnected)
        num_samples = loaded.duration_s * self.predictor.trained.front_end.sample_rate_hz
        with self.queue.hold(round(num_samples) * SAMPLE_BYTES):  # its cycles are parts of one waveform
            prediction = await self.queue.run(lambda: self.predictor.predict_loaded(loaded, None, *stated))
        facts = request.state.facts
        facts.num_cycles += len(prediction.cycles)
        facts.duration_s += prediction.duration_s
        return self.record(prediction, name)

    def load_file(self, path: Path) -> LoadedRecording:
        """Load a file that keeps to the limits. Refusal for what the sender can mend."""
        return readers.load_apart(path, self.predictor, self.limits)

    def predict_file(self, path: Path) -> RecordingPrediction:
        """Predict a file that keeps to the limits. Refusal for what the sender can mend."""
        return self.predictor.predict_loaded(self.load_file(path))

    def record(self, prediction: RecordingPrediction, name: str) -> dict[str, Any]:
        """The record of a prediction under the name that the sender knows."""
        return record(replace(prediction, path=Path(name)), self.provenance())

    def provenance(self) -> Provenance:
        """Provenance of predictions; of the model's path its name alone."""
        provenance = self.predictor.provenance(datetime.now(UTC))
        path = Path(provenance.model)
        return replace(provenance, model=path.parent.name if path.name == "model.safetensors" else path.name)


def application(service: Service, *, token: str | None = None, is_local_only: bool = False) -> Gate:
    """The service behind its gate. `token`, when given, is asked for on /v1 and /metrics."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.queue.close()

    app = FastAPI(
        title="lungsound",
        version=service.provenance().lungsound_version,
        description="Hears crackles and wheezes in chest recordings. Research software, not a medical device.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # to an address made of the Host header, which anybody writes
        lifespan=lifespan,
    )
    app.include_router(_prediction_routes(service))
    if service.folder is not None:
        app.include_router(_review_routes(service, service.folder))
    app.include_router(_model_routes(service))

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """The process runs."""
        return {"status": "live"}

    @app.get("/health/ready", responses={503: ERRORS["503"]})
    async def ready() -> dict[str, str]:
        """The model is loaded, has predicted a probe, and takes requests."""
        if service.queue.is_stopping:
            raise Refusal("not ready", "the service is stopping")
        if not service.is_ready:
            raise Refusal("not ready", "the model has not predicted a probe yet")
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    app.mount("/static", StaticFiles(directory=STATIC, check_dir=False), name="static")
    for error in (Refusal, LungsoundError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(error, _refuse)
    return Gate(app, limits=service.limits, metrics=service.metrics, token=token, is_local_only=is_local_only)


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """Answer an error with one line of JSON."""
    facts = request.state.facts
    headers: Mapping[str, str] = {}
    if isinstance(error, Refusal):
        refusal = error
    elif isinstance(error, LungsoundError):
        refusal = Refusal("unusable", str(error))
    elif isinstance(error, HTTPException):
        # Reading a form or JSON turns a refusal by the gate into an error of its own.
        refusal = facts.refusal or Refusal(KIND_OF.get(error.status_code, "bad request"), str(error.detail))
        headers = error.headers or {}  # the methods that a route has
    elif isinstance(error, RequestValidationError):
        refusal = Refusal("unusable", first_fault(error.errors()))
        is_json = "json" in request.headers.get("content-type", "").lower()
        if not is_json and any(each["loc"][0] == "body" for each in error.errors()):
            refusal = Refusal("not sound", "JSON is needed, with the header 'Content-Type: application/json'")
    else:
        refusal = Refusal("internal", f"internal error (bug), request {facts.request_id}")
    facts.error = refusal.kind
    return response_to(refusal, headers)


def _stated(*places: ImmutableMultiDict[str, Any]) -> Stated:
    """Stethoscope and age by query and form. Refusal for what is neither, and for two that differ."""
    texts = []
    for name in STATED:
        values = {value for place in places for value in place.getlist(name)} - {""}
        if len(values) > 1 or not all(isinstance(value, str) for value in values):
            raise Refusal("unusable", f"{name} must be one text; {len(values)} different ones or a file were sent")
        texts.append(values.pop() if values else None)
    return as_stated(*texts)


def _refuse_unread(names: Iterable[str], *, known: Sequence[str], place: str) -> None:
    """Refusal for a name that nobody reads: an age or a stethoscope under it would be lost, and what it withholds."""
    for name in names:
        if name not in known:
            raise Refusal(
                "unusable", f"{name[:MAX_SHOWN]!r} is not read in the {place}, which may have {', '.join(known)}"
            )


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/")


def _prediction_routes(service: Service) -> APIRouter:
    routes = APIRouter(prefix="/v1", responses=ERRORS)

    @routes.post("/predictions", **OPENAPI["prediction"])
    async def predict(request: Request) -> dict[str, Any]:
        """Predict one sound: a form with the field `file` (and `annotation`), or the sound as the body."""
        query = request.query_params
        _refuse_unread(query, known=("name", *STATED), place="query")
        stated = _stated(query)
        with private_folder() as folder:
            if not _is_form(request):
                name = uploads.safe_name(query.get("name") or unquote(request.headers.get("x-filename", "")))
                path = await uploads.save_sound(request.stream(), folder)
                with service.queue.place():
                    return await service.predict_saved(path, name=name, request=request, stated=stated)
            async with uploads.form_of(request, max_files=2) as form:
                _refuse_unread(form, known=("file", "annotation", *STATED), place="form")
                stated = _stated(query, form)
                files, annotation = uploads.files_of(form), form.get("annotation")
                if len(files) != 1:
                    message = f"{len(files)} files in the form's field 'file'; send one, or several to /v1/batch"
                    raise Refusal("unusable", message)
                with service.queue.place():
                    path = await uploads.save_sound(uploads.chunks_of(files[0]), folder)
                    if annotation is not None:
                        await uploads.save(uploads.chunks_of(annotation), path.with_suffix(".txt"))
                    name = uploads.safe_name(files[0].filename)
                    return await service.predict_saved(path, name=name, request=request, stated=stated)

    @routes.post("/batch", **OPENAPI["batch"])
    async def batch(request: Request) -> dict[str, Any]:
        """Predict several sounds: a form with as many fields `file`. What fails says why, and stops no other."""
        if not _is_form(request):
            raise Refusal("not sound", "a form (multipart/form-data) with fields 'file' is needed")
        _refuse_unread(request.query_params, known=STATED, place="query")
        at_once = asyncio.Semaphore(FILES_PER_READER * service.limits.num_workers)

        async def answer(file: UploadFile, stated: Stated) -> dict[str, Any]:
            name = uploads.safe_name(file.filename)
            try:
                async with at_once:
                    with private_folder() as folder:
                        path = await uploads.save_sound(uploads.chunks_of(file), folder)
                        return await service.predict_saved(path, name=name, request=request, stated=stated)
            except Refusal as refusal:
                service.metrics.errors.labels(refusal.kind).inc()
                return {"name": name, "error": str(refusal)}

        async with uploads.form_of(request, max_files=service.limits.max_files) as form:
            _refuse_unread(form, known=("file", *STATED), place="form")
            stated = _stated(request.query_params, form)
            files = uploads.files_of(form)
            if not files:
                raise Refusal("unusable", "the form has no file in a field 'file'; send one or more")
            with service.queue.place():
                try:
                    async with asyncio.TaskGroup() as group:
                        answers = [group.create_task(answer(file, stated)) for file in files]
                except ExceptionGroup as errors:
                    raise errors.exceptions[0] from None
        return {"results": [each.result() for each in answers]}

    return routes


def _review_routes(service: Service, folder: review.ReviewFolder) -> APIRouter:
    routes, queue = APIRouter(prefix="/v1/recordings", responses=ERRORS), service.queue

    @routes.get("")
    async def recordings() -> list[dict[str, Any]]:
        """All recordings, most uncertain first. `doubt` is null until the model was asked, and for an error.

        After them, without an id, what of the table of corrections is not read.
        """
        with queue.place():
            corrected, problems = await queue.read(folder.corrections)
        listed = [
            {
                "id": each.id,
                "name": each.name,
                "doubt": each.uncertainty,
                "num_cycles": None if each.prediction is None else len(each.prediction.cycles),
                "is_corrected": each.id in corrected,
                "error": each.error,
            }
            for each in folder
        ]
        nothing = {"id": None, "doubt": None, "num_cycles": None, "is_corrected": False}
        return listed + [{**nothing, "name": each.where, "error": f"{each.kind}: {each.detail}"} for each in problems]

    @routes.get("/{id}")
    async def recording(id: str, request: Request) -> dict[str, Any]:
        """The record of a recording, and in `corrected` its cycles as they were corrected, or null."""
        with queue.place():
            reviewed = await queue.read(lambda: folder.predicted(id, service.predict_file))
            corrected, _ = await queue.read(folder.corrections)
        if reviewed.prediction is None:
            raise Refusal("unusable", reviewed.error or "the recording has no prediction")
        request.state.facts.num_cycles += len(reviewed.prediction.cycles)
        cycles = [cycle.model_dump() for cycle in corrected[id]] if id in corrected else None
        return {"id": id, **service.record(reviewed.prediction, reviewed.name), "corrected": cycles}

    @routes.get("/{id}/audio")
    async def audio(id: str) -> Response:
        """The sound as WAV of 16 bits."""
        path = folder[id].path
        with queue.place(), private_folder() as private:
            wav = private / "sound.wav"
            await queue.read(lambda: readers.wav_apart(path, wav, service.limits))
            size, file = wav.stat().st_size, wav.open("rb")  # its name goes now, the sound when it is sent
        headers = {"Content-Length": str(size)}
        return StreamingResponse(uploads.chunks_of_file(file), media_type="audio/wav", headers=headers)

    @routes.put("/{id}/cycles")
    async def correct(id: str, cycles: list[review.CorrectedCycle]) -> dict[str, int]:
        """Keep corrected cycles; they are on disk when this returns."""
        with queue.place():
            await queue.read(lambda: folder.correct(id, cycles))
        return {"num_cycles": len(cycles)}

    return routes


def _model_routes(service: Service) -> APIRouter:
    routes = APIRouter(prefix="/v1")
    label_set, front_end = service.predictor.trained.label_set, service.predictor.trained.front_end

    @routes.get("/model", **OPENAPI["model"])
    async def model() -> dict[str, Any]:
        """The model, and the limits of the service."""
        provenance = service.provenance()
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
            "evidence": provenance.evidence,
            "stethoscopes": known_stethoscopes(service.predictor.trained),
            "reasons": MEANINGS,
            "note": provenance.note,
            "limits": {"max_bytes": service.limits.max_bytes, "max_duration_s": service.limits.max_duration_s},
            "sound_formats": uploads.formats(),
            "formats": review.formats_of(label_set),
            "is_review": service.folder is not None,
        }

    @routes.post("/answers/{format}", responses=ERRORS)
    async def corrected(
        format: review.CorrectedFormat,
        recording: Annotated[review.CorrectedRecording, Body(examples=[OPENAPI["corrected"]])],
    ) -> Response:
        """Cycles that a person corrected, as a file that `lungsound train` reads."""
        with service.queue.place():
            content = await service.queue.run(lambda: review.corrected_text(recording, format, label_set))
        name = f"corrected{review.SUFFIX[format]}"  # a header holds no name that a person chose
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content.encode(), media_type="application/octet-stream", headers=headers)

    return routes
