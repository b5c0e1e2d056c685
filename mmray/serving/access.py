"""One line a request and the counts of it, neither of which tells whom it was about. Plain ASGI, outermost.

A line holds the route's template and never the address, which may hold ids and a key; the body is not looked at.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from functools import cache
from logging.handlers import RotatingFileHandler
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmray.serving import metrics
from mmray.serving.guard import template

logger = logging.getLogger("mmray.access")

_FILE_BYTES, _FILES = 50_000_000, 5
_count_of = cache(metrics.REQUESTS.labels)
_seconds_of = cache(metrics.SECONDS.labels)
_METHODS = {"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Observed:
    """Counts and logs every request, refused ones too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, sent = 499, 0  # 499: the client left before there was an answer
        start = time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        metrics.IN_FLIGHT.inc()
        try:
            await self._app(scope, receive, noted)
        finally:
            seconds = time.perf_counter() - start
            metrics.IN_FLIGHT.dec()
            route = template(scope)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            _count_of(route, method, status).inc()
            _seconds_of(route).observe(seconds)
            if "mmray.refused" in scope:
                metrics.REFUSED.labels(scope["mmray.refused"]).inc()
            if logger.isEnabledFor(logging.INFO):
                line = {
                    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "method": method,
                    "route": route,
                    "status": status,
                    "ms": round(seconds * 1e3, 2),
                    "key": scope.get("mmray.key"),
                    "bytes_in": scope.get("mmray.bytes_in", 0),
                    "bytes_out": sent,
                }
                logger.info(json.dumps(line))


def start_log(folder: str | None, replica: str) -> None:
    """Let lines go to a file of this replica in a folder, or to stderr, which Ray keeps in its session's logs."""
    handler: logging.Handler
    if folder is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        Path(folder).mkdir(parents=True, exist_ok=True)
        place = Path(folder) / f"access-{replica}.log"
        handler = RotatingFileHandler(place, maxBytes=_FILE_BYTES, backupCount=_FILES, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
