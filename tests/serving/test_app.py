"""The endpoint as a user starts it: its own process, Ray Serve, HAProxy, HTTP over loopback."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from mmray.config import Config, from_dict
from mmray.errors import ConfigError, ResourceError, WorkspaceError
from mmray.serving import app
from mmray.serving.retriever import search
from tests.serving.served import Served, serving

MEGABYTE = 10**6


def upload(client: httpx.Client, path: Path, **fields: Any) -> httpx.Response:
    return client.post("/v1/search", files={"file": ("../../evil.sh", path.read_bytes())}, data=fields)


def study(config: Config) -> Path:
    return Path(config.workspace).parent / "study"


def test_the_printed_link_opens_the_page_and_what_it_asks_for(served: Served) -> None:
    with httpx.Client() as browser:
        page = browser.get(served.link)
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        status = browser.get(f"{served.url}/v1/status")  # by the cookie
    assert status.json()["recordings"] == {"audio": 12, "eeg": 6}


def test_every_route_of_the_openapi_and_the_rest_asks_for_the_key(served: Served) -> None:
    with served.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    routes = [(method, path) for path, methods in paths.items() for method in methods]
    assert {path for _, path in routes} >= {"/v1/search", "/v1/search/vector", "/v1/status", "/healthz"}
    routes += [("get", path) for path in ("/docs", "/openapi.json", "/redoc", "/", "/nowhere", "/metrics")]
    with served.client(**{"X-API-Key": "not-the-key-at-all"}) as client:
        for method, path in routes:
            answer = client.request(method, path)
            assert answer.status_code == 401, path
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["www-authenticate"] == "Bearer"


def test_health_and_docs_open_with_the_key_and_load_nothing_from_elsewhere(served: Served) -> None:
    with served.client(Authorization=f"Bearer {served.key}") as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        page = client.get("/docs")
        assert page.status_code == 200
        assert "http://" not in page.text
        assert "https://" not in page.text
        assert client.get("/nowhere").json()["detail"] == "no such route; see /docs"


def test_an_id_over_http_answers_what_the_command_line_answers(served: Served, config: Config) -> None:
    expected = search(config, "s1-eeg-1", "audio", 4)
    with served.client() as client:
        as_json = client.post("/v1/search", json={"recording_id": "s1-eeg-1", "target": "audio", "top_k": 4})
        as_form = client.post("/v1/search", data={"recording_id": "s1-eeg-1", "target": "audio", "top_k": 4})
    assert as_json.json() == as_form.json()
    assert [m["recording_id"] for m in as_json.json()["matches"]] == [m.recording_id for m in expected.matches]


@pytest.mark.parametrize("name", ["s5-eeg-1.mat", "s5-audio-2.wav"])
def test_an_upload_answers_what_its_stored_recording_answers(served: Served, config: Config, name: str) -> None:
    target = "audio" if "eeg" in name else "eeg"
    expected = search(config, Path(name).stem, target, 12)
    with served.client() as client:
        answer = upload(client, study(config) / name, target=target, top_k=12, exclude_subject="s6").json()
    kept = [match for match in expected.matches if match.subject_id != "s6"]
    assert [m["recording_id"] for m in answer["matches"]] == [m.recording_id for m in kept]
    assert [m["score"] for m in answer["matches"]] == pytest.approx([m.score for m in kept], abs=1e-6)


def test_a_real_voice_can_be_uploaded(served: Served, real_data: Path) -> None:
    clip = sorted((real_data / "feis" / "data_wav" / "01" / "wavs").glob("*.wav"))[0]
    with served.client() as client:
        answer = upload(client, clip, target="eeg", top_k=3)
    assert answer.status_code == 200, answer.text
    assert answer.json()["query_modality"] == "audio"
    assert len(answer.json()["matches"]) == 3


def test_a_vector_finds_the_recording_it_came_from(served: Served, config: Config) -> None:
    from mmray.index.store import open_index
    from mmray.storage import Workspace

    vector = open_index(Workspace(config.workspace)).vectors["eeg"].vector(2) * 7
    with served.client() as client:
        answer = client.post("/v1/search/vector", json={"vector": vector.tolist(), "target": "eeg", "top_k": 1})
    assert answer.json()["matches"][0]["recording_id"] == "s3-eeg-1"


@pytest.mark.parametrize(
    ("route", "body", "status", "detail"),
    [
        ("/v1/search", {"recording_id": "nobody", "target": "audio"}, 404, "nobody"),
        ("/v1/search", {"recording_id": "s1-eeg-1"}, 422, "target"),
        ("/v1/search", {"target": "audio"}, 422, "recording_id"),
        ("/v1/search", {"recording_id": "s1-eeg-1", "target": "video"}, 422, "target"),
        ("/v1/search", {"recording_id": "s1-eeg-1", "target": "audio", "top_k": 1001}, 422, "between 1 and 1000"),
        ("/v1/search", {"recording_id": "s1-eeg-1", "target": "audio", "tpo_k": 1}, 422, "tpo_k"),
        ("/v1/search", {"recording_id": "s1-eeg-1", "target": "audio", "label": "X"}, 422, "known: HC, MDD"),
        ("/v1/search", [], 422, "body"),
        ("/v1/search/vector", {"vector": [1.0] * 15, "target": "eeg"}, 422, "16"),
        ("/v1/search/vector", {"vector": [0.0] * 16, "target": "eeg"}, 422, "zero"),
        ("/v1/search/vector", {"vector": ["4.2e1x"], "target": "eeg"}, 422, "vector"),
    ],
)
def test_a_bad_question_is_a_problem_that_says_why(
    served: Served, route: str, body: Any, status: int, detail: str
) -> None:
    with served.client() as client:
        answer = client.post(route, json=body)
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert detail in problem["detail"]


def test_a_body_that_is_neither_form_nor_json_is_415_and_bad_json_is_422(served: Served) -> None:
    with served.client() as client:
        assert client.post("/v1/search", content=b"x").status_code == 415
        broken = client.post("/v1/search", content=b"{", headers={"content-type": "application/json"})
        nan = client.post(
            "/v1/search/vector",
            content=json.dumps({"vector": [float("nan")] * 16, "target": "eeg"}),
            headers={"content-type": "application/json"},
        )
    assert broken.status_code == nan.status_code == 422


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04", b"RIFF\x10\x00\x00\x00WAVEfmt "])
def test_an_unreadable_upload_is_422_with_its_reason_and_without_a_path(
    served: Served, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "x").write_bytes(content)
    with served.client() as client:
        answer = upload(client, tmp_path / "x", target="eeg")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("upload: ")
    assert "/tmp" not in answer.text
    assert "evil" not in answer.text


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413(served: Served, tmp_path: Path, chunked: bool) -> None:
    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        for _ in range(6):
            yield bytes(MEGABYTE)
        yield b"\r\n--b--\r\n"

    content: Any = body() if chunked else b"".join(body())
    with served.client() as client:
        answer = client.post("/v1/search", content=content, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413
    assert "4 MB" in answer.json()["detail"]


def test_overload_is_503_with_retry_after_and_the_endpoint_recovers(served: Served, config: Config) -> None:
    path = study(config) / "s1-eeg-1.mat"

    def one(_: int) -> httpx.Response:
        with served.client() as client:
            return upload(client, path, target="audio", top_k=1)

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(one, range(24)))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert one(0).status_code == 200


def test_nothing_answers_a_peer_on_the_machines_other_address(served: Served) -> None:
    address = socket.gethostbyname(socket.gethostname())
    if address.startswith("127."):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.200", 9))  # sends nothing; asks which address would be used
            address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has loopback alone; test_guard covers the refusal")
    for port in [int(served.url.rpartition(":")[2]), *range(30000, 30003)]:
        try:
            answer = httpx.get(f"http://{address}:{port}/healthz", headers={"X-API-Key": served.key}, timeout=5)
        except httpx.TransportError:
            continue  # nothing listens there
        assert answer.status_code in (401, 403, 404), port


def test_a_short_key_a_taken_port_and_a_missing_index_are_said_before_ray_starts(
    config: Config, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="at least 16"), app.running(config, "short"):
        pass
    with pytest.raises(WorkspaceError, match="mmray index"), app.running(from_dict({"workspace": str(tmp_path)})):
        pass
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = from_dict({**config.model_dump(), "serve": {"port": other.getsockname()[1]}})
        with pytest.raises(ResourceError, match=r"serve\.port"), app.running(taken):
            pass


@pytest.mark.parametrize("name", ["ray::HAProxyManager", "ray::SERVE_PROXY_ACTOR"])
def test_a_front_that_is_killed_as_it_starts_is_made_anew(config: Config, tmp_path: Path, name: str) -> None:
    began, killed = time.time(), threading.Event()

    def kill() -> None:
        while not killed.wait(0.02):
            for process in psutil.process_iter(["create_time", "cmdline"]):
                words = process.info["cmdline"] or [""]
                if process.info["create_time"] > began and words[0].startswith(name):
                    process.kill()
                    killed.set()
                    return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with serving(config, tmp_path) as endpoint, endpoint.client() as client:
            assert killed.is_set()
            assert client.get("/healthz").status_code == 200
    finally:
        killed.set()
        killer.join()


def test_interrupting_ends_it_with_exit_code_0_and_leaves_neither_process_nor_file(served: Served) -> None:
    assert not list(served.scratch.glob("mmray-upload-*"))
    port = int(served.url.rpartition(":")[2])
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(60) == 0, served.output.read_text()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not list(served.scratch.iterdir())
    assert "Traceback" not in served.output.read_text()
