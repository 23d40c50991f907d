"""Forms with files (multipart/form-data), received up to the gate's limit.

Routes that answer for sounds that are sent: one (`/v1/predictions`) or several (`/v1/batch`).

Routes of review: the recordings of a folder, their sound, and their cycles corrected by hand.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from fastapi import Request as answering_Request
from fastapi import Request as review_routes_Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from lungsound.errors import DataError
from lungsound.inference.formats.json_lines import record
from lungsound.inference.prediction import Provenance, RecordingPrediction
from lungsound.inference.predictor import Predictor
from lungsound.serve import openapi as examples
from lungsound.serve.limits import MAX_TEXT_BYTES, Limits, Metrics, Refusal, asked_of
from lungsound.serve.queue import WorkQueue
from lungsound.serve.review import CorrectedCycle, Reviewed, ReviewFolder, wav_bytes
from lungsound.serve.uploads import (
    check_sound,
    chunks_of,
    private_folder,
    raw_name,
    safe_name,
    save_annotation,
    save_sound,
    told,
)

MAX_FIELDS = 8  # beside the files


class WholeFormParser(MultiPartParser):
    """Takes no form that ends before its last boundary: what is missing of it may be an annotation."""

    is_whole = False

    def on_end(self) -> None:
        self.is_whole = True

    async def parse(self) -> FormData:
        form = await super().parse()
        if not self.is_whole:
            for file in self._files_to_close_on_error:
                file.close()
            raise MultiPartException("The form ends before its last boundary.")
        return form


@asynccontextmanager
async def form_of(request: Request, *, max_files: int) -> AsyncIterator[FormData]:
    """The form of a request; Refusal for what is none. Larger files lie unnamed on disk until the block ends."""
    parser = WholeFormParser(
        request.headers, request.stream(), max_files=max_files, max_fields=MAX_FIELDS, max_part_size=MAX_TEXT_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal("bad request", f"the form cannot be read: {error.message}") from None
    try:
        yield form
    finally:
        await form.close()


class Answering:
    """A predictor behind a queue and limits."""

    def __init__(self, predictor: Predictor, *, limits: Limits, queue: WorkQueue, metrics: Metrics) -> None:
        self.predictor = predictor
        self.limits = limits
        self.queue = queue
        self.metrics = metrics

    async def answer(
        self,
        chunks: AsyncIterator[bytes],
        *,
        name: str,
        request: answering_Request,
        annotation: AsyncIterator[bytes] | None = None,
        device: str | None = None,
    ) -> dict[str, Any]:
        """The record of a sound. Nothing of the sound is kept, and no request waits on the disk of another."""
        with private_folder() as folder:
            path = await save_sound(chunks, folder)
            if annotation is not None:
                await save_annotation(annotation, folder)
            answer = await self.queue.run(
                lambda: self.answer_file(path, device=device), is_gone=request.is_disconnected
            )
        asked = asked_of(request)
        asked.num_cycles += len(answer.cycles)
        asked.duration_s += answer.duration_s
        return named_record(answer, self.provenance(), name)

    def answer_file(self, path: Path, *, device: str | None = None) -> RecordingPrediction:
        """The answer for a file, when its header keeps to the limits. Refusal for what the sender can mend."""
        check_sound(path, self.limits)
        try:
            return self.predictor.predict(path, device=device)
        except DataError as error:
            raise Refusal("unusable", told(error, path)) from None

    def provenance(self) -> Provenance:
        """What made the answers; of the model's path its name alone."""
        provenance = self.predictor.provenance(datetime.now(UTC))
        path = Path(provenance.model)
        return replace(provenance, model=path.parent.name if path.name == "model.safetensors" else path.name)


def named_record(answer: RecordingPrediction, provenance: Provenance, name: str) -> dict[str, Any]:
    """The record of an answer under the name that the sender knows."""
    return record(replace(answer, path=Path(name)), provenance)


def router(answering: Answering) -> APIRouter:
    routes = APIRouter(prefix="/v1")

    @routes.post("/predictions", **examples.PREDICTION)
    async def predict(request: answering_Request) -> dict[str, Any]:
        """Answer for one sound: a form with the field `file` (and `annotation`), or the sound as the body."""
        device = request.query_params.get("device") or None
        with answering.queue.place():
            if not _is_form(request):
                return await answering.answer(request.stream(), name=raw_name(request), request=request, device=device)
            async with form_of(request, max_files=2) as form:
                files, annotation = _files(form), form.get("annotation")
                if len(files) != 1:
                    message = f"{len(files)} files in the form's field 'file'; send one, or several to /v1/batch"
                    raise Refusal("unusable", message)
                return await answering.answer(
                    chunks_of(files[0]),
                    name=safe_name(files[0].filename),
                    request=request,
                    annotation=None if annotation is None else chunks_of(annotation),
                    device=device,
                )

    @routes.post("/batch", **examples.BATCH)
    async def batch(request: answering_Request) -> dict[str, Any]:
        """Answer for several sounds: a form with as many fields `file`. What fails says why, and stops no other."""
        if not _is_form(request):
            raise Refusal("not sound", "a form (multipart/form-data) with fields 'file' is needed")
        results = []
        with answering.queue.place():
            async with form_of(request, max_files=answering.limits.max_files) as form:
                files = _files(form)
                if not files:
                    raise Refusal("unusable", "the form has no file in a field 'file'; send one or more")
                for file in files:
                    name = safe_name(file.filename)
                    try:
                        results.append(await answering.answer(chunks_of(file), name=name, request=request))
                    except Refusal as refusal:
                        answering.metrics.errors.labels(refusal.kind).inc()
                        results.append({"name": name, "error": str(refusal)})
        return {"results": results}

    return routes


def _is_form(request: answering_Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/")


def _files(form: FormData) -> list[UploadFile]:
    return [file for file in form.getlist("file") if isinstance(file, UploadFile)]


def router_of_review_routes(answering: Answering, folder: ReviewFolder) -> APIRouter:
    routes = APIRouter(prefix="/v1/recordings", responses=examples.ERRORS)
    queue = answering.queue

    @routes.get("")
    async def recordings() -> list[dict[str, Any]]:
        """All recordings, most doubtful first. `doubt` is null until the model was asked, or where it cannot answer."""
        corrected = await queue.run(folder.corrections)
        return [_summary(each, is_corrected=each.id in corrected) for each in folder]

    @routes.get("/{id}")
    async def recording(id: str, request: review_routes_Request) -> dict[str, Any]:
        """The record of a recording, and in `corrected` its cycles as they were corrected, or null."""
        with queue.place():
            found = await queue.run(lambda: folder.answered(id, answering.answer_file))
            corrected = (await queue.run(folder.corrections)).get(id)
        if found.answer is None:
            raise Refusal("unusable", found.error or "the recording has no answer")
        asked_of(request).num_cycles += len(found.answer.cycles)
        cycles = None if corrected is None else [cycle.model_dump() for cycle in corrected]
        return {"id": id, **named_record(found.answer, answering.provenance(), found.name), "corrected": cycles}

    @routes.get("/{id}/audio")
    async def audio(id: str) -> Response:
        """The sound as WAV of 16 bits."""
        path = folder[id].path

        def decode() -> bytes:
            check_sound(path, answering.limits)
            return wav_bytes(path)

        with queue.place():
            return Response(await queue.run(decode), media_type="audio/wav")

    @routes.put("/{id}/cycles")
    async def correct(id: str, cycles: list[CorrectedCycle]) -> dict[str, int]:
        """Keep corrected cycles; they are on disk when this is answered."""
        with queue.place():
            await queue.run(lambda: folder.correct(id, cycles))
        return {"num_cycles": len(cycles)}

    return routes


def _summary(reviewed: Reviewed, *, is_corrected: bool) -> dict[str, Any]:
    return {
        "id": reviewed.id,
        "name": reviewed.name,
        "doubt": reviewed.uncertainty,
        "num_cycles": None if reviewed.answer is None else len(reviewed.answer.cycles),
        "is_corrected": is_corrected,
        "error": reviewed.error,
    }
