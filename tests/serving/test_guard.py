from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mmray.serving.guard import Guard, is_loopback
from mmray.serving.keys import Keyring, add, digest
from mmray.storage import Workspace

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


def headers_of(messages: list[dict[str, Any]], name: bytes) -> list[bytes]:
    return [value for key, value in messages[0]["headers"] if key == name]


def test_opening_the_page_with_a_key_in_the_address_sets_a_cookie_that_opens_without_it() -> None:
    (cookie,) = headers_of(ask(headers={}, query=f"key={KEY}", path="/"), b"set-cookie")
    assert cookie.startswith(b"mmray=")
    assert cookie.endswith(b"; HttpOnly; SameSite=Strict; Path=/")
    assert KEY.encode() not in cookie
    value = cookie.partition(b";")[0].decode()
    assert status(ask(headers={"Cookie": f"other=1; {value}"})) == 200
    assert status(ask(headers={"Cookie": value[:-1]})) == 401
    assert status(ask(headers={"Cookie": f"mmray={digest(KEY)}"})) == 401


@pytest.mark.parametrize(("path", "query", "headers"), [("/v1/status", f"key={KEY}", {}), ("/", "", None)])
def test_no_other_request_is_given_a_cookie(path: str, query: str, headers: Any) -> None:
    assert headers_of(ask(headers=headers, query=query, path=path), b"set-cookie") == []


def test_a_cookie_behind_tls_is_sent_over_tls_alone() -> None:
    messages = ask(headers={"X-Forwarded-Proto": "https"}, query=f"key={KEY}", path="/")
    assert headers_of(messages, b"set-cookie")[0].endswith(b"; Secure")


def test_a_key_over_its_rate_is_429_with_the_seconds_to_wait_and_another_key_is_not(tmp_path: Any) -> None:
    workspace = Workspace(str(tmp_path))
    made = add(workspace, "clinic", rate=2)
    ring = Keyring(digest(KEY), workspace)
    answers = [ask(headers={"X-API-Key": made.key}, keys=ring) for _ in range(3)]
    assert [status(messages) for messages in answers] == [200, 200, 429]
    assert 1 <= int(headers_of(answers[2], b"retry-after")[0]) <= 30
    assert status(ask(keys=ring)) == 200
