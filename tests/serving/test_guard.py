from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mmray.serving.guard import Guard, is_loopback
from mmray.serving.keys import Keyring, digest

KEY = "a-key-of-sixteen-or-more"


async def read_all(scope: Any, receive: Any, send: Any) -> None:
    """An app that reads the body to its end and tells its length."""
    taken = 0
    while True:
        message = await receive()
        taken += len(message["body"])
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(taken).encode()})


async def sleep(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(60)


async def fail(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("/secret/path 0.123")


def ask(
    app: Any = read_all,
    client: Any = ("127.0.0.1", 5),
    headers: dict[str, str] | None = None,
    query: str = "",
    chunks: tuple[bytes, ...] = (b"",),
    loopback_only: bool = True,
    timeout_s: float = 30,
    kind: str = "http",
    keys: Keyring | None = None,
    path: str = "/v1/status",
) -> list[dict[str, Any]]:
    """The messages that a request through the guard is answered with."""
    guard = Guard(
        app, keys=keys or Keyring(digest(KEY)), loopback_only=loopback_only, max_body_bytes=10, timeout_s=timeout_s
    )
    given = {"X-API-Key": KEY} if headers is None else headers
    scope = {
        "type": kind,
        "path": path,
        "client": client,
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
    }
    incoming = [
        {"type": "http.request", "body": chunk, "more_body": i < len(chunks) - 1} for i, chunk in enumerate(chunks)
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))  # type: ignore[arg-type]
    return sent


def status(messages: list[dict[str, Any]]) -> int:
    return int(messages[0]["status"])


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"X-API-Key": KEY}, ""),
        ({"Authorization": f"Bearer {KEY}"}, ""),
        ({"Authorization": f"bearer  {KEY}"}, ""),
        ({}, f"key={KEY}"),
        ({}, f"top_k=3&key={KEY}"),
    ],
)
def test_each_way_to_send_the_key_opens(headers: dict[str, str], query: str) -> None:
    assert status(ask(headers=headers, query=query)) == 200


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({}, ""),
        ({"X-API-Key": ""}, ""),
        ({"X-API-Key": KEY[:-1]}, ""),
        ({"X-API-Key": KEY + "x"}, ""),
        ({"Authorization": KEY}, ""),
        ({"Authorization": f"Basic {KEY}"}, ""),
        ({}, "key="),
        ({}, f"Key={KEY}"),
        ({}, f"xkey={KEY}"),
        ({"Cookie": f"key={KEY}"}, ""),
    ],
)
def test_anything_else_is_401(headers: dict[str, str], query: str) -> None:
    assert status(ask(headers=headers, query=query)) == 401


@pytest.mark.parametrize("client", [("192.0.2.7", 5), ("10.0.0.1", 5), ("::ffff:192.0.2.7", 5), None, ("host", 5)])
def test_a_peer_that_is_not_this_machine_is_refused_even_with_the_key(client: Any) -> None:
    assert status(ask(client=client)) == 403
    assert status(ask(client=client, loopback_only=False)) == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_every_loopback_address_counts_as_this_machine(address: str) -> None:
    assert is_loopback((address, 1))


def test_a_body_at_the_limit_passes_and_one_byte_more_is_413() -> None:
    assert status(ask(chunks=(b"12345", b"67890"))) == 200
    messages = ask(chunks=(b"12345", b"67890", b"1"))
    assert status(messages) == 413
    assert len(messages) == 2


def test_a_declared_length_over_the_limit_is_413_before_anything_is_read() -> None:
    assert status(ask(app=fail, headers={"X-API-Key": KEY, "Content-Length": "11"})) == 413


def test_a_request_that_takes_too_long_is_503_with_retry_after_whatever_it_asked_for() -> None:
    headers = {"X-API-Key": KEY, "X-Request-Timeout-Seconds": "0"}
    messages = ask(app=sleep, headers=headers, timeout_s=0.05)
    assert status(messages) == 503
    assert dict(messages[0]["headers"])[b"retry-after"] == b"5"


def test_a_fault_is_500_and_neither_answer_nor_log_holds_its_text(caplog: pytest.LogCaptureFixture) -> None:
    messages = ask(app=fail)
    assert status(messages) == 500
    assert b"secret" not in messages[1]["body"]
    assert "secret" not in caplog.text


def test_a_websocket_is_closed() -> None:
    assert [message["type"] for message in ask(kind="websocket")] == ["websocket.close"]
