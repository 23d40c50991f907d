"""Routes of review: the recordings of a folder, their sound, and their cycles corrected by hand."""

from typing import Any

from fastapi import APIRouter, Request, Response

from lungsound.serve import examples
from lungsound.serve.answering import Answering, named_record
from lungsound.serve.corrected import CorrectedCycle
from lungsound.serve.gate import asked_of
from lungsound.serve.refusals import Refusal
from lungsound.serve.reviewing import Reviewed, ReviewFolder, wav_bytes
from lungsound.serve.uploads import check_sound


def router(answering: Answering, folder: ReviewFolder) -> APIRouter:
    routes = APIRouter(prefix="/v1/recordings", responses=examples.ERRORS)
    queue = answering.queue

    @routes.get("")
    async def recordings() -> list[dict[str, Any]]:
        """All recordings, most doubtful first. `doubt` is null until the model was asked, or where it cannot answer."""
        corrected = await queue.run(folder.corrections)
        return [_summary(each, is_corrected=each.id in corrected) for each in folder]

    @routes.get("/{id}")
    async def recording(id: str, request: Request) -> dict[str, Any]:
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
        "doubt": reviewed.doubt,
        "num_cycles": None if reviewed.answer is None else len(reviewed.answer.cycles),
        "is_corrected": is_corrected,
        "error": reviewed.error,
    }
