"""The routes that ask: search by file, id and vector, many ids at once, and classes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import TypeAdapter
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from mmray.serving.answer import BatchAnswer, Classification, SearchAnswer
from mmray.serving.api_types import Ask, ById, FormIds, SearchBatch, SearchById, SearchByVector, SearchForm
from mmray.serving.documents import JSON, form_body, json_body
from mmray.serving.live import Live
from mmray.serving.problems import answered, json_of, parsed, parsed_json
from mmray.serving.queries import Query
from mmray.serving.retriever import Retriever
from mmray.serving.uploads import Encoder, form_of, media_type

VECTOR = "/v1/search/vector"

_SEARCH = TypeAdapter(SearchAnswer)
_BATCH = TypeAdapter(BatchAnswer)
_CLASSES = TypeAdapter(Classification)


def mount(app: FastAPI, live: Live, encoder: Encoder) -> None:
    """Add the routes."""

    @app.post(
        "/v1/search",
        response_model=SearchAnswer,
        summary="Search with files or stored recordings",
        openapi_extra={"requestBody": form_body(SearchForm, SearchById)},
    )
    async def search(request: Request) -> Response:
        """Send a form with `file` or `recording_id` parts, or JSON with `recording_id`; `target` is required.

        Several recordings are joined: EEG and voice of one person, or more of either.
        """
        retriever = live.retriever
        if media_type(request) == JSON:
            ask = parsed_json(SearchById, await json_of(request.stream()))
            return _answer(_SEARCH, await _by_id(retriever, encoder, ask.ids, ask, ask.explain))
        async with form_of(request) as form:
            if not form.files:
                ask = parsed(SearchById, form.fields)
                return _answer(_SEARCH, await _by_id(retriever, encoder, ask.ids, ask, ask.explain))
            fields = parsed(SearchForm, form.fields)

            def work(named: list[tuple[Path, str]]) -> SearchAnswer:
                asked = _queries(retriever, named, fields.recording_id)
                return retriever.search(asked, fields.target, fields.top_k, fields.filters(), fields.explain)

            return _answer(_SEARCH, await _on_files(retriever, encoder, form.files, work))

    @app.post(
        VECTOR,
        response_model=SearchAnswer,
        summary="Search with an embedding",
        openapi_extra={"requestBody": json_body(SearchByVector)},
    )
    async def search_vector(request: Request) -> Response:
        """The vector is one of this run's retrieval embeddings, of the length that /v1/status names."""
        return Response(await by_vector(live.retriever, await json_of(request.stream())), media_type=JSON)

    @app.post(
        "/v1/search/batch",
        response_model=BatchAnswer,
        summary="Search with many stored recordings, each by itself",
        openapi_extra={"requestBody": json_body(SearchBatch)},
    )
    async def search_batch(request: Request) -> Response:
        """Answers come in the order asked, all of one index version; they are not explained."""
        retriever, ask = live.retriever, parsed_json(SearchBatch, await json_of(request.stream()))

        def work() -> bytes:
            answer = retriever.search_batch(ask.recording_ids, ask.target, ask.top_k, ask.filters())
            return _BATCH.dump_json(answer)

        return Response(await asyncio.to_thread(work), media_type=JSON)

    @app.post(
        "/v1/classify",
        response_model=Classification,
        summary="Class probabilities of files or stored recordings",
        openapi_extra={"requestBody": form_body(FormIds, ById)},
    )
    async def classify(request: Request) -> Response:
        """Send as to /v1/search, without a target. All recordings are taken as one person's. It is no diagnosis."""
        retriever = live.retriever

        def of_ids(ids: list[str]) -> Classification:
            return retriever.classify(retriever.stored(*ids))

        if media_type(request) == JSON:
            ask = parsed_json(ById, await json_of(request.stream()))
            return _answer(_CLASSES, await encoder.run(lambda: of_ids(ask.ids)))
        async with form_of(request) as form:
            if not form.files:
                by_id = parsed(ById, form.fields)
                return _answer(_CLASSES, await encoder.run(lambda: of_ids(by_id.ids)))
            fields = parsed(FormIds, form.fields)

            def work(named: list[tuple[Path, str]]) -> Classification:
                return retriever.classify(_queries(retriever, named, fields.recording_id))

            return _answer(_CLASSES, await _on_files(retriever, encoder, form.files, work))


async def by_vector(retriever: Retriever, body: bytes) -> bytes:
    """A search with an embedding, JSON to JSON. Raises as `parsed_json` and `Retriever.search_vector`."""
    ask = parsed_json(SearchByVector, body)
    given = (ask.vector, ask.target, ask.top_k, ask.filters())
    if retriever.is_quick(ask.target, ask.top_k, given[3]):
        return _SEARCH.dump_json(retriever.search_vector(*given))
    return _SEARCH.dump_json(await asyncio.to_thread(retriever.search_vector, *given))


class VectorSearch:
    """Answers POST /v1/search/vector past the framework, whose layers cost more than the search. Plain ASGI.

    Everything else passes on to the app, which describes this route and would answer it alike.
    """

    def __init__(self, app: ASGIApp, live: Live) -> None:
        self._app = app
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] != VECTOR or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["mmray.route"] = VECTOR
        try:
            body = await by_vector(self._live.retriever, await json_of(Request(scope, receive).stream()))
        except ClientDisconnect:
            return
        except Exception as error:
            response = answered(error)
            if response is None:
                raise
            await response(scope, receive, send)
            return
        headers = [(b"content-type", JSON.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _queries(retriever: Retriever, named: list[tuple[Path, str]], ids: list[str]) -> list[Query]:
    stored = retriever.stored(*ids)  # first: an unknown id is told before anything is encoded
    return [*(retriever.file(path, name) for path, name in named), *stored]


async def _by_id(retriever: Retriever, encoder: Encoder, ids: list[str], ask: Ask, explain: bool) -> SearchAnswer:
    def work() -> SearchAnswer:
        return retriever.search(retriever.stored(*ids), ask.target, ask.top_k, ask.filters(), explain)

    # an explanation may encode, and so waits its turn
    return await (encoder.run(work) if explain else asyncio.to_thread(work))


async def _on_files(retriever: Retriever, encoder: Encoder, files: list[UploadFile], work: Any) -> Any:
    return await encoder.run_on(files, retriever.run.config.study.kind, work)


def _answer(adapter: TypeAdapter[Any], answer: Any) -> Response:
    return Response(adapter.dump_json(answer), media_type=JSON)
