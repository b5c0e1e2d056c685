"""Every job, submitted as the README says to a head that this test starts, with token authentication."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from benchmarks.loopback import free_port
from mmray import config as configuration
from mmray.serving import keys
from mmray.storage import Workspace
from tests.deploy.manifests import MANIFESTS, STAGES

REPOSITORY = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DEADLINE_S = 240
KEY = "a key of the test alone"


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
    }


@pytest.fixture(scope="module")
def head(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    dashboard = free_port()
    folder = tmp_path_factory.mktemp("head")
    temporary = tempfile.mkdtemp(prefix="r-")  # short: Ray's sockets lie below it
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=4", f"--port={free_port()}"),
        *(
            f"--dashboard-port={dashboard}",
            "--dashboard-host=127.0.0.1",
            f"--temp-dir={temporary}",
        ),
        f"--ray-client-server-port={free_port()}",
        f"--dashboard-agent-listen-port={free_port()}",  # its usual one belongs to the session's embedded Ray
    ]
    log = (folder / "head.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(address, environment, process)
        yield address
    finally:
        # a graceful end takes half a minute
        for child in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.wait()
        log.close()
        shutil.rmtree(temporary, ignore_errors=True)


def wait_for(address: str, environment: dict[str, str], process: subprocess.Popen[bytes]) -> None:
    headers = {"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        assert process.poll() is None, "the head ended; see its log"
        with suppress(httpx.TransportError):
            # the dashboard answers some seconds before a node can take a job
            if httpx.get(f"{address}/api/version", headers=headers).status_code == 200:
                ended = submit(address, environment, "true")
                if ended.returncode == 0:
                    return
                assert "No available agent" in ended.stderr, ended.stderr
        time.sleep(0.2)
    raise AssertionError("the head takes no job")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("job workspace")
    values = {
        "workspace": folder / "ws",
        "study.root": folder / "study",
        "synth.subjects": 9,
        "synth.eeg_seconds": 16,
        "synth.clips": 2,
        "split.folds": 3,
        "split.validation_fraction": 0.4,
        "train.epochs": 2,
        "train.passes": 1,
        "train.num_workers": 0,  # tests/faults submits jobs of two
        "sweep.systems": "[ridge]",
        "sweep.learning_rates": "[0.001]",
        "sweep.seeds": 1,
        "evaluate.permutations": 99,
        "evaluate.bootstraps": 99,
        "model.population_neighbours": 2,  # few people train
        "serve.port": free_port(),
    }
    return [argument for key, value in values.items() for argument in ("--set", f"{key}={value}")]


def submit(
    head: str, environment: dict[str, str], *entrypoint: str, deadline_s: float = DEADLINE_S
) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "ray"), "job", "submit", "--address", head, "--working-dir", ".", "--", *entrypoint]
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=deadline_s)


@pytest.fixture(scope="module")
def study(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same settings as a file: what Kubernetes mounts as /etc/mmray/study.yaml."""
    path = tmp_path_factory.mktemp("config") / "study.yaml"
    config = configuration.load(REPOSITORY / "jobs/configs/synthetic.yaml", settings[1::2])
    path.write_text(configuration.to_yaml(config))
    return path


def entrypoint(stage: str, study: Path) -> list[str]:
    """The command of a RayJob's manifest, with this machine's places in place of the pod's."""
    (name,) = (name for name in MANIFESTS if name.endswith(f" {stage}"))
    told = MANIFESTS[name]["spec"]["entrypoint"]
    return shlex.split(told.replace("/opt/mmray", str(REPOSITORY)).replace("/etc/mmray/study.yaml", str(study)))


def test_the_jobs_run_one_after_another_on_a_started_head(
    head: str, environment: dict[str, str], settings: list[str], study: Path
) -> None:
    """The five of Kubernetes' manifests by their own commands, `serve` as the README has it."""
    stages = [stage for stages in STAGES.values() for stage in stages]
    ordered = sorted(stages, key=("prepare", "train", "sweep", "compare", "index").index)
    told = " && ".join(shlex.join(entrypoint(stage, study)) for stage in ordered)  # one job: each takes its time
    ended = submit(head, environment, "sh", "-c", told, deadline_s=2 * DEADLINE_S)
    assert ended.returncode == 0, f"{ended.stdout[-4000:]}\n{ended.stderr[-2000:]}"
    assert "succeeded" in ended.stdout
    readme = ("python", "jobs/serve.py", "--config", "jobs/configs/synthetic.yaml", *settings, "--key", KEY)
    ended = submit(head, environment, *readme)
    assert ended.returncode == 0, f"{ended.stdout[-4000:]}\n{ended.stderr[-2000:]}"
    url = f"http://127.0.0.1:{value_of(settings, 'serve.port')}/healthz"
    assert [httpx.get(url, headers=headers).status_code for headers in ({"X-API-Key": KEY}, {})] == [200, 401]


def value_of(settings: list[str], name: str) -> str:
    return next(value for value in settings if value.startswith(f"{name}=")).partition("=")[2]


def test_serve_deploy_puts_the_file_in_place_of_what_serves(
    head: str, environment: dict[str, str], settings: list[str], study: Path, tmp_path: Path
) -> None:
    """jobs/serve_config.yaml as it is, but for the workspace and for loopback and a port of the test's own."""
    told = yaml.safe_load((REPOSITORY / "jobs/serve_config.yaml").read_text())
    port = free_port()
    told["http_options"] |= {"host": "127.0.0.1", "port": port}
    (one,) = told["applications"]
    one["args"] |= {"config": str(study), "workspace": None}
    file = tmp_path / "serve_config.yaml"
    file.write_text(yaml.safe_dump(told))
    workspace = Workspace(value_of(settings, "workspace"))
    key = keys.add(workspace, "clinic").key
    serve(environment, "shutdown", "-a", head, "-y")  # Serve keeps the port that it was started with
    serve(environment, "deploy", "-a", head, str(file))
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + DEADLINE_S
    state: dict[str, Any] = {}
    while state.get("status") != "RUNNING":
        assert time.monotonic() < end, state
        assert state.get("status") != "DEPLOY_FAILED", state
        time.sleep(0.5)
        state = yaml.safe_load(serve(environment, "status", "-a", head))["applications"]["mmray"]
    assert state["deployments"]["Retriever"]["replica_states"] == {"RUNNING": 2}  # serve.replicas of the file
    answers = [httpx.get(f"{url}/v1/status", headers=headers) for headers in ({"X-API-Key": key}, {})]
    assert [answer.status_code for answer in answers] == [200, 401]
    known = workspace.read_table("recordings.parquet").to_pylist()
    query = {"recording_id": next(row["recording_id"] for row in known if row["modality"] == "eeg"), "target": "audio"}
    found = httpx.post(f"{url}/v1/search", headers={"X-API-Key": key}, json={**query, "top_k": 3})
    assert len(found.json()["matches"]) == 3


def serve(environment: dict[str, str], *arguments: str) -> str:
    ended = subprocess.run(
        [str(BIN / "serve"), *arguments], env=environment, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_job_that_fails_says_so_in_one_line_and_by_its_exit_code(head: str, environment: dict[str, str]) -> None:
    ended = submit(head, environment, "python", "jobs/train.py", "--set", "workspace=elsewhere")
    assert ended.returncode != 0
    assert "which Ray deletes when it ends" in ended.stdout
    assert "Traceback" not in ended.stdout


def test_a_client_without_the_token_is_refused(head: str, environment: dict[str, str]) -> None:
    stranger = {**environment, "RAY_AUTH_TOKEN": "0" * 64}
    assert submit(head, stranger, "true").returncode != 0


def mmray_submit(head: str, *arguments: str) -> list[str]:
    return [str(BIN / "mmray"), "submit", *arguments, "--address", head, "--json"]


def ended(head: str, environment: dict[str, str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, summary and what stood on stderr of an `mmray submit`."""
    process = subprocess.run(
        mmray_submit(head, *arguments), env=environment, capture_output=True, text=True, timeout=DEADLINE_S
    )
    return process.returncode, json.loads(process.stdout) if process.stdout else {}, process.stderr


def test_submit_runs_a_stage_under_the_settings_resolved_here_and_follows_its_log(
    head: str, environment: dict[str, str], settings: list[str], tmp_path: Path
) -> None:
    there = ("--config", str(REPOSITORY / "jobs/configs/synthetic.yaml"), "--workspace", str(tmp_path / "ws"))
    code, summary, log = ended(head, environment, "prepare", *there, *settings[2:])  # less its workspace
    assert (code, summary["status"], summary["exit_code"]) == (0, "SUCCEEDED", 0), log
    assert "9 prepared" in log
    assert "dashboard_sdk" not in log
    assert (tmp_path / "ws" / "recordings.parquet").exists()
    assert list((tmp_path / "ws" / "features").glob("*/parts.parquet"))


def test_submit_ends_with_the_stages_own_exit_code_and_its_one_line(
    head: str, environment: dict[str, str], tmp_path: Path
) -> None:
    code, summary, log = ended(head, environment, "train", "--workspace", str(tmp_path / "empty"))
    assert (code, summary["status"], summary["exit_code"]) == (4, "FAILED", 4), log
    assert "mmray recordings" in log


@pytest.mark.parametrize("stop", [False, True])
def test_interrupting_leaves_the_job_running_unless_it_was_told_to_stop_it(
    head: str, environment: dict[str, str], tmp_path: Path, stop: bool
) -> None:
    settings = ("--set", "study.kind=synthetic", "--set", f"study.root={tmp_path / 'study'}")
    many = ("--set", "synth.subjects=500", "--set", "synth.eeg_seconds=16", "--set", "synth.clips=1")
    command = mmray_submit(
        head, "prepare", *settings, *many, "--workspace", str(tmp_path / "ws"), *(["--stop-on-interrupt"] * stop)
    )
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    )
    assert process.stderr is not None
    line = ""
    while "synthetic study" not in line:
        line = process.stderr.readline()
        assert line, "it ended before its progress was seen"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=DEADLINE_S)
    summary = json.loads(output)
    if stop:
        assert (process.returncode, summary["status"]) == (130, "STOPPED")
    else:
        assert (process.returncode, summary["status"]) == (0, "RUNNING")
        client = [str(BIN / "ray"), "job", "stop", "--address", head, summary["job_id"]]
        assert subprocess.run(client, env=environment, capture_output=True, timeout=DEADLINE_S).returncode == 0


def test_submit_says_which_token_or_address_is_wrong(head: str, environment: dict[str, str]) -> None:
    code, _, line = ended(head, {**environment, "RAY_AUTH_TOKEN": "0" * 64}, "train")
    assert code == 5
    assert "refuses this token" in line
    assert "Traceback" not in line
    code, _, line = ended("http://127.0.0.1:9", environment, "train")
    assert code == 5
    assert "no cluster answers" in line
    code, _, line = ended("127.0.0.1:6379", environment, "train")
    assert code == 2
    assert "http://host:8265" in line


class Tunnel:
    """As `ray dashboard`'s: what reaches this port goes on to the head, until it is shut."""

    def __init__(self, head: str) -> None:
        self.there = ("127.0.0.1", int(head.rpartition(":")[2]))
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.open()

    def open(self) -> None:
        self.ends: list[socket.socket] = [socket.create_server(("127.0.0.1", self.port))]
        threading.Thread(target=self._take, args=(self.ends[0],), daemon=True).start()

    def shut(self) -> None:
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _take(self, door: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = door.accept()
                far = socket.create_connection(self.there)
                self.ends += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


def test_a_tunnel_that_breaks_and_is_opened_again_costs_the_log_and_not_the_exit_code(
    head: str, environment: dict[str, str], tmp_path: Path
) -> None:
    tunnel = Tunnel(head)
    some = ("--set", "synth.subjects=12", "--set", "synth.eeg_seconds=16", "--set", "synth.clips=1")
    settings = ("--set", "study.kind=synthetic", "--set", f"study.root={tmp_path / 'study'}", *some)
    process = subprocess.Popen(
        mmray_submit(tunnel.address, "prepare", *settings, "--workspace", str(tmp_path / "ws")),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = ""
    while "synthetic study" not in line:
        line = process.stderr.readline()
        assert line, "it ended before its progress was seen"
    tunnel.shut()
    time.sleep(3)
    tunnel.open()
    output, log = process.communicate(timeout=DEADLINE_S)
    tunnel.shut()
    assert process.returncode == 0, log
    assert json.loads(output)["status"] == "SUCCEEDED"
    assert "Traceback" not in log
