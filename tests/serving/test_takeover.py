"""Under steady load nothing is lost: index and model exchanged, a replica killed, one added, one removed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mmray.config import Config
from mmray.index import store
from mmray.serving.retriever import Retriever
from mmray.storage import Workspace
from tests.serving.served import Served

CALLERS = 4
SWAPS = 20
RECORDINGS = tuple(f"s{n}-eeg-1" for n in range(1, 7))


@dataclass
class Load:
    """Callers who ask one recording after another over their own connection and forgive nothing."""

    served: Served
    expected: dict[str, Any]
    stop: threading.Event = field(default_factory=threading.Event)
    failures: list[str] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.served.port, timeout=30)
        turn = 0
        while not self.stop.is_set():
            turn += 1
            try:
                self._ask(connection, RECORDINGS[turn % len(RECORDINGS)])
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.failures.append(f"{time.monotonic():.2f} {type(error).__name__}: {error}")
                connection.close()
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, recording: str) -> None:
        body = json.dumps({"recording_id": recording, "target": "audio", "top_k": 3})
        headers = {"X-API-Key": self.served.key, "Content-Type": "application/json"}
        connection.request("POST", "/v1/search", body, headers)
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise ValueError(f"status {response.status}: {text[:200]!r}")
        answer = json.loads(text)
        version = answer["index_version"]
        self.versions[version] += 1
        wanted = self.expected[version]
        found = (answer["run_id"], [match["recording_id"] for match in answer["matches"]])
        if found != wanted[recording] or answer.get("model", wanted["model"]) != wanted["model"]:
            raise ValueError(f"{version} answered {found}, not {wanted[recording]}")


def expectations(workspace: Workspace, version: str) -> dict[str, Any]:
    retriever = Retriever.open(workspace, version)
    answers = {name: retriever.search_recording(name, "audio", 3) for name in RECORDINGS}
    wanted: dict[str, Any] = {
        name: (answer.run_id, [match.recording_id for match in answer.matches]) for name, answer in answers.items()
    }
    return {**wanted, "model": retriever.index.manifest.model}


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_no_request_fails_while_models_are_exchanged_and_replicas_die_come_and_go(
    pair: Served, two_models: Config
) -> None:
    workspace = Workspace(two_models.workspace)
    versions = [name for name in workspace.names("index") if workspace.exists("index", name, "manifest.json")]
    expected = {version: expectations(workspace, version) for version in versions}
    assert len({json.dumps(wanted, sort_keys=True) for wanted in expected.values()}) == 2
    load = Load(pair, expected)
    callers = [threading.Thread(target=load.run) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        for swap in range(SWAPS):
            store.point_to(workspace, versions[swap % 2])
            if swap == 5:
                killed = pair.replicas()[0]
                os.kill(killed.pid, signal.SIGKILL)
            if swap == 10:
                pair.deploy(replicas=3)
            if swap == 15:
                pair.deploy(replicas=2)
            time.sleep(0.5)
        wait_for(lambda: len(pair.replicas()) == 2)
        before = load.versions.copy()
        wait_for(lambda: sum((load.versions - before).values()) > 50)
    finally:
        load.stop.set()
        for caller in callers:
            caller.join()
    print(f"{sum(load.versions.values())} answered, {len(load.failures)} failed, {dict(load.versions)}")
    assert load.failures == []
    assert min(load.versions[version] for version in versions) > 50


def test_another_port_is_refused_while_serve_runs(pair: Served) -> None:
    """Serve would keep the old one with a warning in its log, and the new one be waited for in vain."""
    said = pair.deploy(port=pair.port + 1)
    assert said.startswith(f"not deployed: serve: Serve runs on this cluster with serve.port={pair.port} and keeps it")
    with pair.client() as client:
        assert client.get("/healthz").status_code == 200
