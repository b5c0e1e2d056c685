"""The routes, as FastAPI. No Ray here: a replica and a test mount the same app behind the guard."""

from __future__ import annotations

import asyncio
import html
import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

import mmray
from mmray.config import Serve
from mmray.errors import MmrayError, RecordingError
from mmray.serving.answer import Answer, Filters, QueryError, UnknownRecordingError
from mmray.serving.api_types import (
    Ask,
    Health,
    Problem,
    SearchAnswer,
    SearchById,
    SearchByVector,
    Status,
)
from mmray.serving.guard import FAULT, problem
from mmray.serving.live import Live
from mmray.serving.retriever import Retriever
from mmray.serving.sniff import refuse_references

_Model = TypeVar("_Model", bound=BaseModel)
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_STATUS: tuple[tuple[type[MmrayError], int], ...] = (
    (UnknownRecordingError, 404),
    (RecordingError, 422),
    (QueryError, 422),
)


def routes(live: Live, serve: Serve) -> FastAPI:
    """Every route, unguarded: mount it behind a Guard."""
    app = FastAPI(
        title="mmray",
        version=mmray.__version__,
        summary="Which recordings, of voice or EEG, are most like this one?",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses={code: {"model": Problem} for code in (401, 403, 404, 413, 415, 422, 503)},
    )
    _describe_errors(app)
    # one encoding at a time a replica: it is bound by the processor, and more would only slow each other
    encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")

    async def encode(upload: UploadFile, ask: Ask) -> Answer:
        with TemporaryDirectory(prefix="mmray-upload-") as folder:
            path = Path(folder) / "upload"
            work = asyncio.get_running_loop().run_in_executor(
                encoder, _search_upload, live.retriever, upload, path, ask
            )
            return await work

    @app.post(
        "/v1/search",
        response_model=SearchAnswer,
        summary="Search with a file or a stored recording",
        openapi_extra={"requestBody": _request_body()},
    )
    async def search(request: Request) -> Answer:
        """Send a form with `file` or `recording_id`, or JSON with `recording_id`; `target` is required."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            by_id = _parsed(SearchById, await _json(request))
            return await _by_id(live.retriever, by_id)
        if kind not in _FORMS:
            raise HTTPException(415, f"send {_FORMS[0]} with a file, or application/json with a recording_id")
        async with request.form(max_files=1, max_fields=16, max_part_size=4096) as form:
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            upload = form.get("file")
            if isinstance(upload, UploadFile):
                return await encode(upload, _parsed(Ask, fields))
            return await _by_id(live.retriever, _parsed(SearchById, fields))

    @app.post(
        "/v1/search/vector",
        response_model=SearchAnswer,
        summary="Search with an embedding",
        openapi_extra={"requestBody": _json_body(SearchByVector)},
    )
    async def search_vector(request: Request) -> Answer:
        """The vector is one of this run's retrieval embeddings, of the length that /v1/status names."""
        ask = _parsed(SearchByVector, await _json(request))
        return await asyncio.to_thread(live.retriever.search_vector, ask.vector, ask.target, ask.top_k, _filters(ask))

    @app.get("/v1/status", summary="What is served")
    async def status() -> Status:
        """The index, the run and the limits."""
        manifest = live.retriever.index.manifest
        return Status(
            index_version=manifest.version,
            run_id=manifest.run_id,
            model=manifest.model,
            features=manifest.features,
            kind=manifest.kind,
            width=manifest.width,
            recordings=manifest.counts,
            top_k_limit=serve.top_k_limit,
            max_upload_mb=serve.max_upload_mb,
            version=mmray.__version__,
        )

    @app.get("/healthz", summary="Whether a replica answers")
    async def healthz() -> Health:
        """Asks for the key like every route; Serve's own /-/healthz does not."""
        return Health()

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        return schema

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return page

    schema = _schema(app)
    page = HTMLResponse(
        _docs(schema), headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
    )
    return app


def _search_upload(retriever: Retriever, upload: UploadFile, path: Path, ask: Ask) -> Answer:
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file)
    try:
        refuse_references(path, retriever.run.config.study.kind)
    except RecordingError as error:
        raise RecordingError(str(error).replace(str(path), "upload")) from error
    return retriever.search_file(path, ask.target, ask.top_k, _filters(ask), name="upload")


async def _by_id(retriever: Retriever, ask: SearchById) -> Answer:
    return await asyncio.to_thread(retriever.search_recording, ask.recording_id, ask.target, ask.top_k, _filters(ask))


def _filters(ask: Ask) -> Filters:
    return Filters(ask.label, ask.task, ask.session, ask.role, ask.exclude_subject)


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError):
        raise HTTPException(422, "the body is not JSON") from None


def _parsed(model: type[_Model], given: Any) -> _Model:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise HTTPException(422, _explain(error.errors())) from None


def _explain(errors: Any) -> str:
    # locations and messages alone: what was sent may be anything
    return "; ".join(f"{'.'.join(str(part) for part in e['loc'][:3]) or 'body'}: {e['msg']}" for e in errors[:5])


def _describe_errors(app: FastAPI) -> None:
    """Every error leaves as problem details."""

    def respond(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse(problem(status, detail), status, headers, media_type="application/problem+json")

    async def of_http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        missing = error.status_code == 404 and error.detail == "Not Found"
        return respond(error.status_code, "no such route; see /docs" if missing else error.detail, error.headers)

    async def of_validation(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return respond(422, _explain(error.errors()))

    def of(status: int) -> Callable[[Request, Exception], Any]:
        async def handle(_: Request, error: Exception) -> JSONResponse:
            return respond(status, str(error))

        return handle

    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_validation)

    async def of_fault(_: Request, error: Exception) -> JSONResponse:
        return respond(500, FAULT)

    app.add_exception_handler(Exception, of_fault)
    for kind, status in _STATUS:
        app.add_exception_handler(kind, of(status))


def _json_body(model: type[BaseModel]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}


def _request_body() -> dict[str, Any]:
    body = _json_body(SearchById)
    form = Ask.model_json_schema()
    form["properties"] = {
        "file": {"type": "string", "format": "binary", "description": "an EEG or voice recording"},
        "recording_id": {"type": "string", "description": "a stored recording, instead of a file"},
        **form["properties"],
    }
    body["content"]["multipart/form-data"] = {"schema": form}
    return body


def _schema(app: FastAPI) -> dict[str, Any]:
    schema = app.openapi()
    schema["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "query": {"type": "apiKey", "in": "query", "name": "key"},
    }
    schema["security"] = [{"bearer": []}, {"header": []}, {"query": []}]
    return schema


def _docs(schema: dict[str, Any]) -> str:
    """The routes as one page that loads nothing from anywhere."""
    rows = "".join(
        f"<tr><td>{method.upper()}</td><td><code>{path}</code></td>"
        f"<td>{html.escape(route['summary'])}. {html.escape(route.get('description', ''))}</td></tr>"
        for path, methods in schema["paths"].items()
        for method, route in methods.items()
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>mmray</title>"
        "<style>body{font:16px system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.3rem .8rem .3rem 0;vertical-align:top}pre{white-space:pre-wrap}</style>"
        f"<h1>mmray {html.escape(schema['info']['version'])}</h1><p>{html.escape(schema['info']['summary'])}</p>"
        f"<table>{rows}</table><pre>curl -H 'X-API-Key: KEY' -F file=@clip.wav -F target=eeg -F top_k=10 URL/v1/search"
        '\ncurl -H \'X-API-Key: KEY\' --json \'{"recording_id": "ID", "target": "audio"}\' URL/v1/search</pre>'
        "<p>The whole description is at <code>/openapi.json</code>.</p></html>"
    )
