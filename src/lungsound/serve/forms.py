"""Forms with files (multipart/form-data), received up to the gate's limit."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from lungsound.serve.limits import MAX_TEXT_BYTES
from lungsound.serve.refusals import Refusal

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
