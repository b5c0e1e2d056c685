"""What is counted and logged: every request, and of nobody."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from mmray.config import Config, from_dict
from mmray.serving import access
from mmray.serving.app import stack
from mmray.serving.keys import digest
from mmray.serving.live import Live
from mmray.serving.metrics import merged
from mmray.storage import Workspace
from tests.serving.served import Served

REPOSITORY = Path(__file__).parents[2]
KEY = "a-key-of-sixteen-or-more"


class Shelf:
    """A board in memory."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}

    def put(self, name: str, text: str) -> None:
        self.held[name] = text

    def others(self, name: str) -> dict[str, str]:
        return {other: text for other, text in self.held.items() if other != name}


@pytest.fixture
def client(config: Config, tmp_path: Path) -> Iterator[TestClient]:
    access.start_log(str(tmp_path / "log"), "r1")
    open_ = from_dict({**config.model_dump(), "serve": {"host": "0.0.0.0"}})
    shelf = Shelf()
    shelf.put("r2", 'mmray_requests_total{route="/v1/status",method="GET",status="200"} 5.0\n')
    app = stack(open_, Live(Workspace(config.workspace)), digest(KEY), "r1", shelf)
    with TestClient(app, headers={"X-API-Key": KEY}) as client:
        yield client
    access.logger.handlers.clear()


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log" / "access-r1.log").read_text().splitlines()]


def value(text: str, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_a_line_holds_the_routes_pattern_and_neither_id_nor_key_nor_query(client: TestClient, tmp_path: Path) -> None:
    client.post("/v1/search?note=s6-eeg-1", json={"recording_id": "s1-eeg-1", "target": "audio"})
    client.get(f"/v1/status?key={KEY}")
    client.get("/v1/nowhere/s2-eeg-1")
    client.get("/v1/status", headers={"X-API-Key": "wrong"})
    found = lines(tmp_path)
    assert [(line["route"], line["status"], line["key"]) for line in found] == [
        ("/v1/search", 200, "started"),
        ("/v1/status", 200, "started"),
        ("none", 404, "started"),
        ("none", 401, None),
    ]
    assert set(found[0]) == {"time", "method", "route", "status", "ms", "key", "bytes_in", "bytes_out"}
    assert found[0]["bytes_in"] == len(
        json.dumps({"recording_id": "s1-eeg-1", "target": "audio"}, separators=(",", ":"))
    )
    text = (tmp_path / "log" / "access-r1.log").read_text()
    assert not re.search(r"s\d-(eeg|audio)|wrong", text)
    assert KEY not in text


def test_one_page_holds_this_replicas_figures_and_the_others_each_under_its_name(client: TestClient) -> None:
    before = value(client.get("/metrics").text, "mmray_requests_total", route="/v1/status", replica="r1")
    client.get("/v1/status")
    text = client.get("/metrics").text
    assert value(text, "mmray_requests_total", route="/v1/status", replica="r1") == before + 1
    assert value(text, "mmray_requests_total", route="/v1/status", replica="r2") == 5
    assert text.count("# TYPE mmray_requests_total counter") == 1


def test_metrics_ask_for_the_key_and_hold_no_id(client: TestClient) -> None:
    client.get("/v1/recordings/s1-eeg-1")
    assert client.get("/metrics", headers={"X-API-Key": "wrong"}).status_code == 401
    text = client.get("/metrics").text
    assert "s1-eeg-1" not in text
    assert value(text, "mmray_refused_total", reason="key") >= 1


def test_the_page_tells_what_answers_now(client: TestClient) -> None:
    text = client.get("/metrics").text
    status = client.get("/v1/status").json()
    assert value(text, "mmray_index", index_version=status["index_version"], run_id=status["run_id"]) == 1
    assert value(text, "mmray_index_recordings", modality="audio") == 12
    assert value(text, "mmray_takeover_refused") == 0


def test_replicas_of_one_family_are_merged_under_one_heading() -> None:
    text = "# TYPE a_total counter\na_total 1.0\n"
    assert merged({"x": text, "y": text}).decode().splitlines() == [
        "# HELP a_total ",
        "# TYPE a_total counter",
        'a_total{replica="x"} 1.0',
        'a_total{replica="y"} 1.0',
    ]


def test_every_query_of_the_dashboard_names_a_metric_that_is_exported(client: TestClient) -> None:
    client.get("/v1/status")
    client.get("/v1/status", headers={"X-API-Key": "wrong"})
    exported = {s.name for f in text_string_to_metric_families(client.get("/metrics").text) for s in f.samples}
    board = json.loads((REPOSITORY / "dashboards" / "mmray.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    asked = {name for query in queries for name in re.findall(r"\bmmray_\w+", query)}
    assert len(queries) >= 8
    assert asked <= exported
    wanted = {name for name in exported if not name.endswith(("_sum", "_count"))}
    assert wanted <= asked  # and nothing is exported that no panel shows


def test_a_scrape_of_two_replicas_counts_every_request_and_no_log_holds_a_key_or_an_id(pair: Served) -> None:
    def scraped() -> str:
        return httpx.get(f"{pair.url}/metrics", headers={"X-API-Key": pair.key}).text

    asked, before = 40, scraped()
    already = value(before, "mmray_requests_total", route="/v1/search")
    for _ in range(asked):  # a connection each, so that both replicas are met
        answer = httpx.post(
            f"{pair.url}/v1/search?key={pair.key}", json={"recording_id": "s1-eeg-1", "target": "audio"}
        )
        assert answer.status_code == 200
    end = time.monotonic() + 30
    while True:
        text = scraped()
        if value(text, "mmray_requests_total", route="/v1/search") == already + asked:
            break
        assert time.monotonic() < end, text
        time.sleep(0.2)
    named = set(re.findall(r'mmray_requests_total\{.*replica="(\w+)"', text))
    counts = [[value(page, "mmray_requests_total", replica=name) for name in named] for page in (before, text)]
    assert sum(after > earlier for earlier, after in zip(*counts, strict=True)) == 2
    logs = pair.logs().replace(f"key: {pair.key}\n{pair.link}", "")
    assert '"route": "/v1/search"' in logs
    assert pair.key not in logs
    assert "s1-eeg-1" not in logs
