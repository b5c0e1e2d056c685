"""Every error as problem details (RFC 9457), and what of a body was wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from mmray.errors import MmrayError, RecordingError
from mmray.serving.answer import QueryError, UnknownRecordingError
from mmray.serving.guard import FAULT, problem

MEDIA_TYPE = "application/problem+json"
_Model = TypeVar("_Model", bound=BaseModel)
_STATUS: tuple[tuple[type[MmrayError], int], ...] = (
    (UnknownRecordingError, 404),
    (RecordingError, 422),
    (QueryError, 422),
)


def parsed_json(model: type[_Model], body: bytes) -> _Model:
    """A JSON body. Raises HTTPException 422 where it is none, or a field is wrong."""
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
    return next((_response(status, str(error)) for kind, status in _STATUS if isinstance(error, kind)), None)


def describe_errors(app: FastAPI) -> None:
    """Every error leaves as problem details."""

    async def handle(_: Request, error: Exception) -> JSONResponse:
        return answered(error) or _response(500, FAULT)

    for kind in (HTTPException, RequestValidationError, Exception, *(kind for kind, _ in _STATUS)):
        app.add_exception_handler(kind, handle)


def _response(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    # what a caller sent may hold half a character
    whole = detail.encode("utf-8", "replace").decode()
    return JSONResponse(problem(status, whole), status, headers, media_type=MEDIA_TYPE)
