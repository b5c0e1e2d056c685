"""Every error as problem details (RFC 9457), and what of a body was wrong."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mmray.errors import MmrayError, RecordingError, ResourceError
from mmray.serving.answer import NothingServedError, QueryError, UnknownRecordingError
from mmray.serving.guard import FAULT, problem

logger = logging.getLogger("ray.serve")

MEDIA_TYPE = "application/problem+json"
_Model = TypeVar("_Model", bound=BaseModel)
_STATUS: tuple[tuple[type[MmrayError], int], ...] = (
    (UnknownRecordingError, 404),
    (RecordingError, 422),
    (QueryError, 422),
    (NothingServedError, 503),
    (ResourceError, 503),
)
_LATER = {"retry-after": "5"}
# A body is parsed whole before a field of it is judged, on the thread that all requests wait for: 60 bytes a number and
# a kilobyte an unknown field. The longest vector that is taken has 1.6 MB.
MOST_JSON_BYTES = 2_000_000
_MOST_COLONS = 10_000


async def json_of(body: AsyncIterator[bytes]) -> bytes:
    """A JSON body. Raises HTTPException 413 where it is longer than any question is, as it streams."""
    parts, length = [], 0
    async for part in body:
        parts.append(part)
        length += len(part)
        if length > MOST_JSON_BYTES:
            raise HTTPException(413, f"a JSON body of more than {MOST_JSON_BYTES / 1e6:g} MB; ask less at once")
    return b"".join(parts)


def parsed_json(model: type[_Model], body: bytes) -> _Model:
    """A JSON body. Raises HTTPException 422 where it is none, or a field is wrong."""
    if body.count(b":") > _MOST_COLONS:
        raise HTTPException(422, "body: more fields than any question has")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, explained(error.errors(include_url=False, include_input=False))) from None


def parsed(model: type[_Model], given: dict[str, Any]) -> _Model:
    """The fields of a form. Raises HTTPException 422 where one is wrong."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise HTTPException(422, explained(error.errors(include_url=False, include_input=False))) from None


def explained(errors: Any) -> str:
    """Where and what, of the first few; never what was sent, which may be anything."""
    return "; ".join(f"{'.'.join(str(part)[:40] for part in e['loc'][:3]) or 'body'}: {e['msg']}" for e in errors[:5])


def answered(error: Exception) -> JSONResponse | None:
    """An error as problem details; None where it is a fault of ours."""
    if isinstance(error, HTTPException):
        missing = error.status_code == 404 and error.detail == "Not Found"
        return _response(error.status_code, "no such route; see /docs" if missing else error.detail, error.headers)
    if isinstance(error, RequestValidationError):
        return _response(422, explained(error.errors()))
    if isinstance(error, ResourceError):  # it names what lies behind this endpoint
        logger.error("%s", error)
        return _response(503, "what the index lies in does not answer; try again later", _LATER)
    found = next((status for kind, status in _STATUS if isinstance(error, kind)), None)
    return None if found is None else _response(found, str(error), _LATER if found == 503 else None)


def describe_errors(app: FastAPI) -> None:
    """Every error leaves as problem details."""

    async def handle(_: Request, error: Exception) -> JSONResponse:
        return answered(error) or _response(500, FAULT)

    async def left(_: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it, and it is no fault of ours

    app.add_exception_handler(ClientDisconnect, left)
    for kind in (HTTPException, RequestValidationError, Exception, *(kind for kind, _ in _STATUS)):
        app.add_exception_handler(kind, handle)


def _response(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    # what a caller sent may hold half a character
    whole = detail.encode("utf-8", "replace").decode()
    return JSONResponse(problem(status, whole), status, headers, media_type=MEDIA_TYPE)
