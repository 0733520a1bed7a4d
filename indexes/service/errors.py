"""What a request is refused with: a status, what is wrong, and the way out; never a trace."""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from infra.errors import SluiceError

RETRY_AFTER = 1  # seconds


class RefusalError(SluiceError):
    """A SluiceError with an HTTP status of its own; a plain one is a bad question, 400."""

    def __init__(self, status: int, what: str, way_out: str = "") -> None:
        super().__init__(what, way_out)
        self.status = status


class Json(Response):
    """JSON by orjson, which writes numbers that are none as null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Bytes are taken for JSON that is written already."""
        return content if isinstance(content, bytes) else orjson.dumps(content, default=str)


def refusal(
    status: int, what: str, way_out: str = "", headers: Mapping[str, str] | None = None
) -> Json:
    """The answer to a request that is refused."""
    more = {"Retry-After": str(RETRY_AFTER)} if status in (429, 503) else {}
    if status == 401:
        more = {"WWW-Authenticate": "Bearer"}
    return Json({"error": what, "way_out": way_out}, status, {**more, **(headers or {})})


def handle_errors(app: FastAPI) -> None:
    """Let an app tell failures as `refusal` does."""
    app.add_exception_handler(SluiceError, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, SluiceError)
    return refusal(getattr(error, "status", 400), error.what, error.way_out)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told: list[str] = []
    for each in error.errors()[:5]:  # the value itself is not repeated
        place = ".".join(str(step) for step in each["loc"])
        told.append(f"{place}: {each['msg']}")
    return refusal(422, "; ".join(told), "/openapi.json says what each field may be")


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    way_out = "/openapi.json lists what there is" if error.status_code in (404, 405) else ""
    return refusal(error.status_code, str(error.detail), way_out, error.headers)
