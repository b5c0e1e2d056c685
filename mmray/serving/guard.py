"""What stands before every route: who may ask, how much they may send, and for how long. Plain ASGI."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import math
from http import HTTPStatus
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmray.serving.keys import Keyring, proof

logger = logging.getLogger("ray.serve")

Headers = list[tuple[bytes, bytes]]
_HEADERS: Headers = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),  # a key may stand in the address
    (b"x-content-type-options", b"nosniff"),
]

_COOKIE = b"mmray"

FAULT = "this is a fault of the endpoint and not of the request; its log has the time"


class TooLargeError(Exception):
    """The body grew past the limit."""


def problem(status: int, detail: str) -> dict[str, object]:
    """An RFC 9457 body."""
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}


class Guard:
    """Checks in this order: peer, key, the key's rate, size; then the app, within a time limit.

    What it learns of a request it leaves in the scope: `mmray.key` (its name), `mmray.bytes_in`, `mmray.refused` (why).

    Args:
        app: what lies behind.
        keys: who may ask, and how often.
        loopback_only: refuse peers that are not this machine, should a replica listen past the front.
        max_body_bytes: a longer body is 413, seen while it streams.
        timeout_s: a request is cut after it, whatever its own headers ask for.
    """

    def __init__(
        self, app: ASGIApp, *, keys: Keyring, loopback_only: bool, max_body_bytes: int, timeout_s: float
    ) -> None:
        self._app = app
        self._keys = keys
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

        async def refuse(reason: str, status: int, detail: str, more: Headers | None = None) -> None:
            scope["mmray.refused"] = reason
            await _refuse(send, status, detail, more)

        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._loopback_only and not is_loopback(scope.get("client")):
            await refuse("peer", 403, "this endpoint answers its own machine only; set serve.host to open it")
            return
        by_query = _query_keys(scope)
        key = self._keys.find([*_header_keys(headers), *by_query], _cookie(headers))
        if key is None:
            challenge = [(b"www-authenticate", b"Bearer")]
            detail = "no valid key; send it as 'Authorization: Bearer KEY', as 'X-API-Key: KEY' or as ?key=KEY"
            await refuse("key", 401, detail, challenge)
            return
        scope["mmray.key"] = key.name
        if wait_s := self._keys.wait_s(key):
            detail = f"the key {key.name} may ask {key.rate} times a minute"
            await refuse("rate", 429, detail, [(b"retry-after", str(math.ceil(wait_s)).encode())])
        elif (length := headers.get(b"content-length", b"0")).isdigit() and int(length) > self._max_body_bytes:
            await refuse("size", 413, self._too_large())
        else:
            # who opens the page with a key in the address needs it there only once
            opener = next((one for one in by_query if self._keys.find([one], b"")), b"")
            cookie = _set_cookie(opener, headers) if opener and scope["path"] == "/" else []
            await self._serve(scope, receive, send, cookie)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, cookie: Headers) -> None:
        started, taken = False, 0

        async def answer(reason: str, status: int, detail: str, headers: Headers | None = None) -> None:
            nonlocal started
            if not started:
                started = True
                scope["mmray.refused"] = reason
                await _refuse(send, status, detail, headers)

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_body_bytes:
                await answer("size", 413, self._too_large())
                raise TooLargeError
            return message

        async def hardened(message: Message) -> None:
            nonlocal started
            if taken > self._max_body_bytes:
                return  # the app's own idea of what went wrong; 413 was said already
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS, *cookie]}
            await send(message)

        try:
            async with asyncio.timeout(self._timeout_s):
                await self._app(scope, counted, hardened)
        except TooLargeError:
            pass
        except TimeoutError:
            detail = f"not done within {self._timeout_s:g} s; try again later or send a shorter recording"
            await answer("time", 503, detail, [(b"retry-after", b"5")])
        except Exception as error:  # the boundary: a trace may hold paths and values, so neither log nor client gets it
            logger.error("%s on %s", type(error).__name__, template(scope))
            await answer("fault", 500, FAULT)
        finally:
            scope["mmray.bytes_in"] = taken

    def _too_large(self) -> str:
        return f"the body is larger than {self._max_body_bytes / 1e6:g} MB (serve.max_upload_mb); send less"


def _header_keys(headers: dict[bytes, bytes]) -> list[bytes]:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    bearer = [token.strip()] if scheme.lower() == b"bearer" else []
    return [*bearer, headers.get(b"x-api-key", b"")]


def _query_keys(scope: Scope) -> list[bytes]:
    query = scope.get("query_string", b"")
    if b"key=" not in query:
        return []
    return [value.encode() for name, value in parse_qsl(query.decode("latin-1")) if name == "key"]


def _cookie(headers: dict[bytes, bytes]) -> bytes:
    for part in headers.get(b"cookie", b"").split(b";"):
        name, _, value = part.strip().partition(b"=")
        if name == _COOKIE:
            return value
    return b""


def _set_cookie(key: bytes, headers: dict[bytes, bytes]) -> Headers:
    value = _COOKIE + b"=" + proof(key) + b"; HttpOnly; SameSite=Strict; Path=/"
    if headers.get(b"x-forwarded-proto") == b"https":
        value += b"; Secure"
    return [(b"set-cookie", value)]


def template(scope: Scope) -> str:
    """The pattern of the route that a request met, which holds no id; "none" where it met none."""
    return str(scope.get("mmray.route") or getattr(scope.get("route"), "path", None) or "none")


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
