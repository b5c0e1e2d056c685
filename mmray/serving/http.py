"""The routes, as FastAPI. No Ray here: a replica and a test mount the same app behind the guard."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import mmray
from mmray.config import Serve
from mmray.serving import documents, pages, problems, questions, stored
from mmray.serving.api_types import Health, Problem, Status
from mmray.serving.live import Live
from mmray.serving.uploads import Encoder

_LATER = {"retry-after": "5"}
_ERRORS = (401, 403, 404, 413, 415, 422, 429, 503)


def routes(live: Live, serve: Serve) -> ASGIApp:
    """Every route, unguarded: mount it behind a Guard."""
    app = FastAPI(
        title="mmray",
        version=mmray.__version__,
        summary="Which recordings, of voice or EEG, are most like this one?",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses={code: {"model": Problem} for code in _ERRORS},
    )
    problems.describe_errors(app)
    encoder = Encoder(serve.max_recording_s)
    questions.mount(app, live, encoder)
    stored.mount(app, live, encoder, serve.playback)
    pages.mount(app)

    @app.get("/v1/status", summary="What is served")
    async def status() -> Status:
        """The index, the run and what its own test found, and the limits."""
        retriever = live.retriever
        manifest = retriever.index.manifest
        return Status(
            index_version=manifest.version,
            run_id=manifest.run_id,
            model=manifest.model,
            features=manifest.features,
            kind=manifest.kind,
            width=manifest.width,
            recordings=manifest.counts,
            labels=retriever.labels,
            evaluation=retriever.metrics,
            takeover=live.refused,
            top_k_limit=serve.top_k_limit,
            max_upload_mb=serve.max_upload_mb,
            max_recording_s=serve.max_recording_s,
            playback=serve.playback,
            version=mmray.__version__,
        )

    @app.get("/healthz", summary="Whether a replica answers")
    async def healthz() -> Health:
        """A search of the index was tried. Asks for the key like every route; Serve's own /-/healthz does not."""
        try:
            await asyncio.to_thread(live.check)
        except Exception as error:  # whatever it is, no request could be answered
            raise HTTPException(503, "the index cannot be searched; see the endpoint's log", _LATER) from error
        return Health()

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        return document

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return page

    document = documents.schema(app)
    page = HTMLResponse(
        documents.page(document), headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
    )
    return questions.VectorSearch(app, live)
