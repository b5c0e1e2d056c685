"""What stands before every route: who may ask, how much they may send, and for how long. Plain ASGI."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
from http import HTTPStatus
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("ray.serve")

Headers = list[tuple[bytes, bytes]]
_HEADERS: Headers = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),  # a key may stand in the address
    (b"x-content-type-options", b"nosniff"),
]

FAULT = "this is a fault of the endpoint and not of the request; its log has the time"


class TooLargeError(Exception):
    """The body grew past the limit."""


def key_digest(key: str) -> bytes:
    """What a replica keeps of the key; the key itself never enters Ray's stores."""
    return hashlib.sha256(key.encode()).digest()


def problem(status: int, detail: str) -> dict[str, object]:
    """An RFC 9457 body."""
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}


class Guard:
    """Checks in this order: peer, key, size; then the app, within a time limit.

    Args:
        app: what lies behind.
        key: digest of the key, of key_digest.
        loopback_only: refuse peers that are not this machine; replicas listen on all interfaces, past the front.
        max_body_bytes: a longer body is 413, seen while it streams.
        timeout_s: a request is cut after it, whatever its own headers ask for.
    """

    def __init__(self, app: ASGIApp, *, key: bytes, loopback_only: bool, max_body_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._key = key
        self._loopback_only = loopback_only
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; what is neither HTTP nor the app's start-up is refused."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._loopback_only and not is_loopback(scope.get("client")):
            await _refuse(send, 403, "this endpoint answers its own machine only; set serve.host to open it")
        elif not self._has_key(scope, headers):
            challenge = [(b"www-authenticate", b"Bearer")]
            detail = "no valid key; send it as 'Authorization: Bearer KEY', as 'X-API-Key: KEY' or as ?key=KEY"
            await _refuse(send, 401, detail, challenge)
        elif (length := headers.get(b"content-length", b"0")).isdigit() and int(length) > self._max_body_bytes:
            await _refuse(send, 413, self._too_large())
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, taken = False, 0

        async def answer(status: int, detail: str, headers: Headers | None = None) -> None:
            nonlocal started
            if not started:
                started = True
                await _refuse(send, status, detail, headers)

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_body_bytes:
                await answer(413, self._too_large())
                raise TooLargeError
            return message

        async def hardened(message: Message) -> None:
            nonlocal started
            if taken > self._max_body_bytes:
                return  # the app's own idea of what went wrong; 413 was said already
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        try:
            async with asyncio.timeout(self._timeout_s):
                await self._app(scope, counted, hardened)
        except TooLargeError:
            pass
        except TimeoutError:
            detail = f"not done within {self._timeout_s:g} s; try again later or send a shorter recording"
            await answer(503, detail, [(b"retry-after", b"5")])
        except Exception as error:  # the boundary: a trace may hold paths and values, so neither log nor client gets it
            logger.error("%s on %s", type(error).__name__, scope["path"])
            await answer(500, FAULT)

    def _has_key(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = [token.strip()] if scheme.lower() == b"bearer" else []
        given.append(headers.get(b"x-api-key", b""))
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
        given += [value.encode() for name, value in query if name == "key"]
        right = [hmac.compare_digest(hashlib.sha256(candidate).digest(), self._key) for candidate in given]
        return any(right)

    def _too_large(self) -> str:
        return f"the body is larger than {self._max_body_bytes / 1e6:g} MB (serve.max_upload_mb); send less"


def is_loopback(client: tuple[str, int] | list[object] | None) -> bool:
    """Whether a connection came from this machine; an unknown peer did not."""
    try:
        address = ipaddress.ip_address(str(client[0])) if client else None
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address is not None and address.is_loopback


async def _refuse(send: Send, status: int, detail: str, headers: Headers | None = None) -> None:
    body = json.dumps(problem(status, detail)).encode()
    length = (b"content-length", str(len(body)).encode())
    # the rest of a refused body is not read, so the connection cannot serve another request
    fixed = [(b"content-type", b"application/problem+json"), (b"connection", b"close"), length, *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *(headers or [])]})
    await send({"type": "http.response.body", "body": body})
