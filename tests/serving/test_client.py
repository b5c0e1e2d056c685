"""The client against real servers on loopback: the index's own routes, and servers that misbehave."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from mmray import cli, client
from mmray.client import AsyncClient, Client
from mmray.config import Config
from mmray.errors import EndpointError, RecordingError
from mmray.serving.answer import Filters, QueryError, UnknownRecordingError
from mmray.serving.guard import Guard
from mmray.serving.keys import Keyring, digest
from mmray.serving.retriever import Retriever, search
from mmray.storage import Workspace
from tests.serving.asgi import app_of

KEY = "a-key-of-sixteen-or-more"


@pytest.fixture(scope="module")
def url(config: Config) -> Iterator[str]:
    """The guarded routes behind uvicorn."""
    guard = Guard(app_of(config), keys=Keyring(digest(KEY)), loopback_only=True, max_body_bytes=10**7, timeout_s=60)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(guard, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


def study(config: Config) -> Path:
    return Path(config.workspace).parent / "study"


def ids(answer: Any) -> list[str]:
    return [match.recording_id for match in answer.matches]


def test_the_client_answers_what_the_local_search_answers(url: str, config: Config) -> None:
    file = study(config) / "s5-audio-1.wav"
    with Client(url, KEY) as client:
        assert client.search("s1-eeg-1", target="audio", top_k=4) == search(config, "s1-eeg-1", "audio", 4)
        remote = client.search("s5-eeg-1", file, target="audio", top_k=4, filters=Filters(task="reading", age_min=32))
        local = Retriever.open(Workspace(config.workspace))
        asked = [local.file(file), *local.stored("s5-eeg-1")]
        assert ids(remote) == ids(local.search(asked, "audio", 4, Filters(task="reading", age_min=32)))
        vector = [float(number) for number in asked[1].vector_E]
        assert ids(client.search_vector(vector, "eeg", 1)) == ["s5-eeg-1"]
        batch = client.search_batch(["s1-eeg-1", "s2-eeg-1"], "audio", 2)
        assert batch == local.search_batch(["s1-eeg-1", "s2-eeg-1"], "audio", 2)
        assert client.classify("s1-eeg-1") == local.classify(local.stored("s1-eeg-1"))
        assert client.classify(file).query == "upload"
        assert client.recordings(modality="eeg", contains="s1").recordings == [
            local.recordings("eeg", contains="s1").recordings[0]
        ]
        assert client.recording("s1-eeg-1") == local.recording("s1-eeg-1")
        assert client.status().run_id == "run-a"


def test_the_asynchronous_client_answers_the_same_all_at_once(url: str, config: Config) -> None:
    async def both() -> Any:
        async with AsyncClient(url, KEY) as client:
            return await asyncio.gather(
                client.search("s1-eeg-1", target="audio", top_k=3, explain=False),
                client.search(study(config) / "s1-eeg-1.mat", target="audio", top_k=3, explain=False),
                client.search_vector([1.0] * 16, "eeg"),
                client.search_batch(["s1-eeg-1"], "audio", 3),
                client.classify("s1-eeg-1"),
                client.recordings(limit=2),
                client.recording("s1-eeg-1"),
                client.status(),
            )

    stored, uploaded, _, batch, classes, listed, one, status = asyncio.run(both())
    assert ids(stored) == ids(uploaded) == ids(batch.answers[0])
    assert (classes.query, len(listed.recordings), one.segments, status.width) == ("s1-eeg-1", 2, 4, 16)


def test_errors_are_typed_and_carry_the_problems_detail(url: str, config: Config, tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"nonsense")
    with Client(url, KEY) as client:
        with pytest.raises(UnknownRecordingError, match=r"no recording 'a b\?c'"):
            client.recording("a b?c")
        with pytest.raises(UnknownRecordingError, match="nobody"):
            client.search("nobody", target="audio")
        with pytest.raises(QueryError, match="between 1 and 1000"):
            client.search("s1-eeg-1", target="audio", top_k=5000)
        with pytest.raises(QueryError, match="upload: its content is of no known format"):
            client.classify(tmp_path / "x.wav")
        with pytest.raises(RecordingError, match="missing"):
            client.classify(tmp_path / "missing.wav")
    with Client(url, "another-key-altogether") as client, pytest.raises(EndpointError, match="no valid key") as caught:
        client.status()
    assert (caught.value.status, caught.value.exit_code) == (401, 6)


@pytest.mark.parametrize("address", ["nowhere", "ftp://x", "http://", ""])
def test_what_is_no_address_is_said_at_once(address: str) -> None:
    with pytest.raises(EndpointError, match="no address of an endpoint"):
        Client(address, KEY)


# servers that misbehave

STATUS = {
    "index_version": "v", "run_id": "r", "model": "m", "features": "f", "kind": "flat", "width": 4, "recordings": {},
    "labels": [], "evaluation": [], "takeover": None, "top_k_limit": 1, "max_upload_mb": 1, "max_recording_s": 1,
    "playback": True, "version": "0",
}  # fmt: skip


@contextmanager
def misbehaving(*turns: str) -> Iterator[tuple[str, list[float]]]:
    """A server that takes one turn a request, the last for ever after; and when it was asked."""
    asked: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(time.monotonic())
            turn = turns[min(len(asked), len(turns)) - 1]
            if turn == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                self.connection.close()
                self.close_connection = True
                return
            if turn == "hang":
                stopped.wait(30)
                return
            if turn == "cut":
                self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
                self.close_connection = True
                return
            if turn == "trickle":
                self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
                while not stopped.wait(0.05):
                    self.wfile.write(b" ")
                return
            status, _, wait = turn.partition(" ")
            body = json.dumps(STATUS if status == "200" else {"detail": f"turn {turn}"}).encode()
            body = b"<html>" if status == "html" else body
            self.send_response(200 if status == "html" else int(status))
            if wait:
                self.send_header("retry-after", wait)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    stopped = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


def status_of(kind: str, url: str, timeout_s: float) -> Any:
    if kind == "sync":
        with Client(url, KEY, timeout_s) as client:
            return client.status()

    async def one() -> Any:
        async with AsyncClient(url, KEY, timeout_s) as client:
            return await client.status()

    return asyncio.run(one())


KINDS = pytest.mark.parametrize("kind", ["sync", "async"])


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first wait is a fifth of what it is, and so are those after it."""
    monkeypatch.setattr(client, "_FIRST_WAIT_S", 0.05)


@pytest.mark.usefixtures("soon")
@KINDS
@pytest.mark.parametrize("turns", [("503", "503", "200"), ("429", "200"), ("reset", "200"), ("cut", "reset", "200")])
def test_a_busy_endpoint_and_a_lost_connection_are_asked_again(kind: str, turns: tuple[str, ...]) -> None:
    with misbehaving(*turns) as (url, asked):
        assert status_of(kind, url, 30).run_id == "r"
    assert len(asked) == len(turns)


@KINDS
def test_retry_after_is_waited_for(kind: str) -> None:
    with misbehaving("503 1", "200") as (url, asked):
        status_of(kind, url, 30)
    assert asked[1] - asked[0] >= 1


def test_a_date_to_retry_after_is_waited_for_too() -> None:
    later = datetime.now(UTC) + timedelta(seconds=2.5)
    with misbehaving(f"503 {format_datetime(later, usegmt=True)}", "200") as (url, asked):
        status_of("sync", url, 30)
    assert asked[1] - asked[0] >= 0.5


@pytest.mark.usefixtures("soon")
def test_waits_grow_from_try_to_try() -> None:
    with misbehaving("503") as (url, asked), pytest.raises(EndpointError, match="busy"):
        status_of("sync", url, 1.0)
    waits = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert 3 <= len(waits) <= 6  # more than twenty, did they not grow
    assert waits[-1] > waits[0]


@KINDS
@pytest.mark.parametrize(
    ("turn", "reason"), [("503", "is busy \\(turn 503\\)"), ("503 60", "is busy"), ("hang", "did not answer")]
)
def test_the_time_limit_ends_all_tries(kind: str, turn: str, reason: str) -> None:
    with misbehaving(turn) as (url, asked), pytest.raises(EndpointError, match=reason) as caught:
        status_of(kind, url, 1.0)
    assert caught.value.status == (None if turn == "hang" else 503)
    assert len(asked) <= 4


def test_an_answer_that_trickles_is_cut_at_the_time_limit() -> None:
    with misbehaving("trickle") as (url, _), pytest.raises(EndpointError, match="did not answer"):
        status_of("async", url, 1.0)


@pytest.mark.usefixtures("soon")
@KINDS
def test_nobody_there_is_not_waited_for_until_the_limit(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(EndpointError, match="after 6 tries"):
        status_of(kind, f"http://127.0.0.1:{port}", 600)


@KINDS
def test_a_refusal_is_not_tried_again_and_another_server_is_recognised(kind: str) -> None:
    with misbehaving("500") as (url, asked), pytest.raises(EndpointError, match="turn 500"):
        status_of(kind, url, 30)
    assert len(asked) == 1
    with misbehaving("html") as (url, asked), pytest.raises(EndpointError, match="cannot read"):
        status_of(kind, url, 30)
    assert len(asked) == 1


# the command line


def test_the_command_line_prints_the_same_table_from_a_url_as_from_the_workspace(
    url: str, config: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["search", "s5-eeg-1", str(study(config) / "s5-audio-1.wav"), "--target", "audio", "--top-k", "3"]
    assert cli.main([*asked, "--workspace", config.workspace]) == 0
    local = capsys.readouterr().out
    monkeypatch.setenv("MMRAY_KEY", KEY)
    assert cli.main([*asked, "--url", url]) == 0
    remote = capsys.readouterr().out
    assert local.splitlines()[1:] == remote.splitlines()[1:]
    assert local.startswith("s5-eeg-1, s5-audio-1.wav -> audio: best 3 of 12")
    assert cli.main([*asked, "--url", url, "--key", "a-wrong-key-of-length"]) == 6
    assert "no valid key" in capsys.readouterr().err


def test_the_client_imports_neither_the_models_nor_the_server() -> None:
    code = (
        "import sys, mmray.client; print([m for m in ('torch', 'fastapi', 'faiss', 'ray', 'mne') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
