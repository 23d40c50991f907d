"""Routes that answer for sounds that are sent: one (`/v1/predictions`) or several (`/v1/batch`)."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.datastructures import FormData, UploadFile

from lungsound.answers.answer import Provenance, RecordingAnswer
from lungsound.answers.json_lines import record
from lungsound.app.predictor import Predictor
from lungsound.errors import DataError
from lungsound.serve import examples
from lungsound.serve.forms import form_of
from lungsound.serve.gate import asked_of
from lungsound.serve.limits import Limits
from lungsound.serve.metrics import Metrics
from lungsound.serve.refusals import Refusal
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
from lungsound.serve.work_queue import WorkQueue


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
        request: Request,
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

    def answer_file(self, path: Path, *, device: str | None = None) -> RecordingAnswer:
        """The answer for a file, when its header keeps to the limits. Refusal for what the sender can mend."""
        check_sound(path, self.limits)
        try:
            return self.predictor.answer(path, device=device)
        except DataError as error:
            raise Refusal("unusable", told(error, path)) from None

    def provenance(self) -> Provenance:
        """What made the answers; of the model's path its name alone."""
        provenance = self.predictor.provenance(datetime.now(UTC))
        path = Path(provenance.model)
        return replace(provenance, model=path.parent.name if path.name == "model.safetensors" else path.name)


def named_record(answer: RecordingAnswer, provenance: Provenance, name: str) -> dict[str, Any]:
    """The record of an answer under the name that the sender knows."""
    return record(replace(answer, path=Path(name)), provenance)


def router(answering: Answering) -> APIRouter:
    routes = APIRouter(prefix="/v1")

    @routes.post("/predictions", **examples.PREDICTION)
    async def predict(request: Request) -> dict[str, Any]:
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
    async def batch(request: Request) -> dict[str, Any]:
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


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/")


def _files(form: FormData) -> list[UploadFile]:
    return [file for file in form.getlist("file") if isinstance(file, UploadFile)]
