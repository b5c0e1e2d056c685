"""Under steady load nothing is lost: index and model exchanged, a replica killed, one added, one removed."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from mmray.config import Config, from_dict
from mmray.index import store
from mmray.index.build import build_index
from mmray.serving.retriever import Retriever
from mmray.storage import Workspace
from tests.serving.served import RESIZABLE, Served, serving
from tests.small_run import make_run

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


@pytest.fixture(scope="module")
def two_models(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A copy of the workspace with an index of one run and an index of another, which answer differently."""
    root = tmp_path_factory.mktemp("takeover")
    shutil.copytree(config.workspace, root / "ws")
    copied = from_dict({**config.model_dump(), "workspace": str(root / "ws")})
    make_run(copied, "run-b", seed=5)
    build_index(copied, "run-b")
    return copied


@pytest.fixture(scope="module")
def served(two_models: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve")
    with serving(two_models, folder, cpus=6, start=RESIZABLE, replicas=2, refresh_s=0.2) as endpoint:
        yield endpoint


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_no_request_fails_while_models_are_exchanged_and_replicas_die_come_and_go(
    served: Served, two_models: Config
) -> None:
    workspace = Workspace(two_models.workspace)
    versions = [name for name in workspace.names("index") if workspace.exists("index", name, "manifest.json")]
    expected = {version: expectations(workspace, version) for version in versions}
    assert len({json.dumps(wanted, sort_keys=True) for wanted in expected.values()}) == 2
    load = Load(served, expected)
    callers = [threading.Thread(target=load.run) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        for swap in range(SWAPS):
            store.point_to(workspace, versions[swap % 2])
            if swap == 5:
                killed = served.replicas()[0]
                os.kill(killed.pid, signal.SIGKILL)
            if swap == 10:
                served.resize(3)
            if swap == 15:
                served.resize(2)
            time.sleep(0.5)
        wait_for(lambda: len(served.replicas()) == 2)
        before = load.versions.copy()
        wait_for(lambda: sum((load.versions - before).values()) > 50)
    finally:
        load.stop.set()
        for caller in callers:
            caller.join()
    print(f"{sum(load.versions.values())} answered, {len(load.failures)} failed, {dict(load.versions)}")
    assert load.failures == []
    assert min(load.versions[version] for version in versions) > 50
