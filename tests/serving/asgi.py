"""The routes of a small index asked in this process: no server, no Ray, no key."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from mmray.config import Config, Serve
from mmray.serving.http import routes
from mmray.serving.live import Live
from mmray.storage import Workspace


def app_of(config: Config, **serve: Any) -> ASGIApp:
    """The routes over a config's workspace."""
    return routes(Live(Workspace(config.workspace)), Serve(**serve))


def ask(app: ASGIApp, method: str, path: str, **how: Any) -> httpx.Response:
    """One request; an exception that leaves the app counts as its answer 500."""

    async def one() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://mmray") as client:
            return await client.request(method, path, **how)

    return asyncio.run(one())


def parts(*paths: Path) -> list[tuple[str, tuple[str, bytes]]]:
    """Files as a form's `file` parts, under a name that lies."""
    return [("file", ("../../evil.sh", path.read_bytes())) for path in paths]
