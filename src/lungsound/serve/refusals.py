"""What a request is refused for: a status, a kind that is counted, and one line that is told."""

from http import HTTPStatus

from fastapi.responses import JSONResponse

STATUS_OF = {
    "bad request": HTTPStatus.BAD_REQUEST,
    "unauthorized": HTTPStatus.UNAUTHORIZED,
    "not found": HTTPStatus.NOT_FOUND,
    "wrong method": HTTPStatus.METHOD_NOT_ALLOWED,
    "too large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "too long": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "not sound": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "unusable": HTTPStatus.UNPROCESSABLE_ENTITY,
    "busy": HTTPStatus.TOO_MANY_REQUESTS,
    "internal": HTTPStatus.INTERNAL_SERVER_ERROR,
    "not ready": HTTPStatus.SERVICE_UNAVAILABLE,
    "timeout": HTTPStatus.GATEWAY_TIMEOUT,
}
RETRY_AFTER_S = 2
RETRIED = ("busy", "not ready", "timeout")


class Refusal(Exception):
    """A request that is not answered; `kind` is one of `STATUS_OF`, the message is for the one who asked."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))
        self.kind = kind

    @property
    def status(self) -> int:
        return STATUS_OF[self.kind].value

    def response(self) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if self.kind == "unauthorized" else {}
        if self.kind in RETRIED:
            headers["Retry-After"] = str(RETRY_AFTER_S)
        return JSONResponse({"error": str(self)}, self.status, headers=headers)
