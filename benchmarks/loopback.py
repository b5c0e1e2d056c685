"""A real Ray cluster of several nodes on this machine: on loopback, with a token, and made to lose its nodes.

Each node is a session of processes of its own, so that it can be counted and ended whole. The head runs no work, as in
cluster.yaml. A node may stand apart, in a network namespace behind a pair of virtual interfaces, and be cut off there;
that needs root.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from mmray.serving import front

REPOSITORY = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
CPUS = 2  # of a node that works
_STORE_BYTES = 100 << 20
_PATIENCE_S = 180.0
_REQUEST_S = 30.0  # an answer may take it
_SPACE, _OUTER, _INNER = "mmray-apart", "mmray-o", "mmray-i"
_HOST, _APART = "10.213.47.1", "10.213.47.2"
_FIRST = 10  # node n of the others has the address 127.0.0.(10 + n)
# a node that answers nothing for some twenty seconds is lost; Ray's own half minute is for real networks
_NOTICED = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 3}
# as in cluster.yaml: an answer that a node owed when it was cut off is given up after a minute, in place of seven
_KEPT_ALIVE = {
    "RAY_grpc_client_keepalive_time_ms": "30000",
    "RAY_grpc_client_keepalive_timeout_ms": "30000",
}


@dataclass(frozen=True)
class Node:
    """One `ray start`; its process leads the session of all others of the node."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    apart: bool = False

    def processes(self) -> list[psutil.Process]:
        """All that belong to it and run."""
        found = []
        for pid in psutil.pids():
            with suppress(OSError, psutil.Error):
                if os.getsid(pid) == self.process.pid:
                    found.append(psutil.Process(pid))
        return found

    def raylet(self) -> psutil.Process | None:
        """Its raylet; None once that is dead."""
        for process in self.processes():
            with suppress(psutil.Error):
                if process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE:
                    return process
        return None

    def end(self) -> None:
        """Kill all of it, as when the machine goes."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            self.process.poll()
            if not (left := [process for process in self.processes() if _runs(process)]):
                break
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            time.sleep(0.05)
        self.process.wait(20)


@dataclass
class Loopback:
    """The cluster while it runs.

    Attributes:
        address: of the head's GCS, as RAY_ADDRESS takes it.
        dashboard: its URL.
        environment: of whoever asks the cluster: its token, and our interpreter first on the PATH.
        nodes: those that have not been ended; the head first.
    """

    address: str
    dashboard: str
    environment: dict[str, str]
    folder: Path
    host: str
    nodes: list[Node] = field(default_factory=list)
    _started: int = 0
    _lost: set[str] = field(default_factory=set)

    @property
    def workers(self) -> list[Node]:
        """Every node but the head."""
        return self.nodes[1:]

    def add(self, *options: str, apart: bool = False) -> Node:
        """Start one more node; `wait` tells when it is up. Options are of `ray start`, as --num-gpus=1."""
        # two nodes of one machine that start at once may take one name for their sockets
        self._until_up({node.name for node in self.nodes} - self._lost)
        how = [f"--address={self.address}", f"--num-cpus={CPUS}", *options]
        node = self._start(f"n{self._started}", how, apart=apart)
        self.nodes.append(node)
        return node

    def kill_raylet(self, node: Node) -> None:
        """SIGKILL to the raylet alone: the node's workers are left to notice."""
        self._lost.add(node.name)
        raylet = node.raylet()
        if raylet is not None:
            raylet.kill()

    def end(self, node: Node) -> None:
        """The machine is gone, with every process on it."""
        node.end()
        self.nodes.remove(node)
        if node.apart:
            _link("up")

    def cut(self, node: Node) -> None:
        """No packet passes to or from a node that stands apart; its processes go on."""
        if not node.apart:
            raise ValueError(f"{node.name} is not apart")
        self._lost.add(node.name)
        _link("down")

    def drain(self, node: Node, seconds: int) -> None:
        """Announce that the node will be gone in so many seconds, as a cloud does of a spot machine."""
        self._lost.add(node.name)
        asked = (
            *("drain-node", f"--address={self.address}", f"--node-id={self.node_id(node)}"),
            *("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"),
            f"--deadline-remaining-seconds={seconds}",
        )
        command = [str(BIN / "ray"), *asked]
        ended = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=_PATIENCE_S)
        if ended.returncode:
            raise RuntimeError(f"the drain was refused: {ended.stderr[-1000:]}")

    def alive(self) -> dict[str, str]:
        """Name -> id of the nodes that the head takes for alive."""
        answer = httpx.get(f"{self.dashboard}/api/v0/nodes", headers=self._headers(), timeout=_REQUEST_S)
        answer.raise_for_status()
        rows: list[dict[str, Any]] = answer.json()["data"]["result"]["result"]
        return {row["node_name"]: row["node_id"] for row in rows if row["state"] == "ALIVE"}

    def node_id(self, node: Node) -> str:
        """As Ray calls it."""
        return self.alive()[node.name]

    def wait(self) -> None:
        """Until the head takes exactly the nodes that are here for alive.

        Raises:
            RuntimeError: one ended, or it takes too long.
        """
        names = {node.name for node in self.nodes}
        self._until_up(names)
        deadline = time.monotonic() + _PATIENCE_S
        while set(self.alive()) != names:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the head sees {sorted(self.alive())} where {sorted(names)} are")
            time.sleep(0.3)

    def _until_up(self, names: set[str]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        found: set[str] = set()
        while time.monotonic() < deadline:
            for node in self.nodes:
                if node.name in names and node.process.poll() is not None:
                    raise RuntimeError(f"{node.name} ended: {node.log.read_text(errors='replace')[-2000:]}")
            with suppress(httpx.HTTPError, KeyError, TypeError):
                if names <= (found := set(self.alive())):
                    return
            time.sleep(0.3)
        raise RuntimeError(f"of {sorted(names)} the head sees {sorted(found)}")

    def submit(self, *entrypoint: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
        """`ray job submit` and its end; asked again while the head, which answers before it can take a job, has no
        agent."""
        command = [str(BIN / "ray"), "job", "submit", "--address", self.dashboard, "--working-dir", ".", "--"]
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            ended = subprocess.run(
                [*command, *entrypoint],
                env=self.environment,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=5 * _PATIENCE_S,
            )
            if "No available agent" not in ended.stderr or time.monotonic() > deadline:
                return ended
            time.sleep(0.2)

    def stop_serving(self) -> None:
        """End what is deployed, and wait for that."""
        httpx.delete(f"{self.dashboard}/api/serve/applications/", headers=self._headers(), timeout=_PATIENCE_S)
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if not any(title.startswith("ray::Serve") for node in self.nodes for title in titles(node)):
                return
            time.sleep(0.2)
        raise RuntimeError("Serve does not end")

    def close(self) -> None:
        """End every process of every node."""
        for node in reversed(self.nodes):
            node.end()
        self.nodes.clear()

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}

    def _start(self, name: str, how: list[str], *, apart: bool = False) -> Node:
        self._started += 1
        own = self.folder / name
        own.mkdir(mode=0o700)
        environment = {
            **self.environment,
            **front.settings(str(own), _REQUEST_S),
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            **{f"RAY_{key}": str(value) for key, value in _NOTICED.items()},
        }
        if name != "head":  # several fronts on one machine cannot share a port
            environment["RAY_SERVE_WORKER_PROXY_HTTP_PORT"] = str(free_port())
        if self.host == _HOST:
            environment["GLOO_SOCKET_IFNAME"] = _INNER if apart else _OUTER
            address = self.host
        else:
            environment["GLOO_SOCKET_IFNAME"] = "lo"
            address = f"127.0.0.{_FIRST + self._started}"  # Ray puts the machine's own address in place of 127.0.0.1
        command = [
            *(["ip", "netns", "exec", _SPACE] if apart else []),
            *(str(BIN / "ray"), "start", "--block", f"--node-name={name}", "--disable-usage-stats"),
            *(f"--node-ip-address={_APART if apart else address}", f"--object-store-memory={_STORE_BYTES}"),
            *("--min-worker-port=0", "--max-worker-port=0"),  # several nodes on one machine draw their own
            f"--dashboard-agent-listen-port={free_port()}",
            *how,
        ]
        log = own / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command, env=environment, stdout=stream, stderr=stream, cwd=own, start_new_session=True
            )
        return Node(name, process, log, apart)


@contextmanager
def cluster(workers: int = 2, *, head_cpus: int = 0, apart: bool = False) -> Iterator[Loopback]:
    """A head and some working nodes, all up, for as long as the block runs.

    Args:
        head_cpus: what the head works itself.
        apart: the last node stands in a network namespace of its own, and can be cut off.

    Raises:
        RuntimeError: a node does not start.
    """
    dashboard, gcs = free_port(), free_port()
    host = _HOST if apart else f"127.0.0.{_FIRST + 1}"  # the first that is started
    folder = Path(tempfile.mkdtemp(prefix="mml-"))  # short: Ray's sockets lie below
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        **_KEPT_ALIVE,
    }
    here = Loopback(f"{host}:{gcs}", f"http://127.0.0.1:{dashboard}", environment, folder, host)
    try:
        if apart:
            _link_apart()
        how = ["--head", f"--port={gcs}", f"--num-cpus={head_cpus}", f"--dashboard-port={dashboard}"]
        how += ["--dashboard-host=127.0.0.1", f"--temp-dir={folder}/r", f"--ray-client-server-port={free_port()}"]
        here.nodes.append(here._start("head", how))
        _until_it_listens(host, gcs, here.nodes[0])
        for number in range(workers):
            here.add(apart=apart and number == workers - 1)
        here.wait()
        yield here
    finally:
        here.close()
        if apart:
            _unlink_apart()
        shutil.rmtree(folder, ignore_errors=True)


def titles(node: Node) -> list[str]:
    """What the node's processes call themselves."""
    found = []
    for process in node.processes():
        with suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return found


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_it_listens(host: str, port: int, node: Node) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and node.process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the head does not start: {node.log.read_text(errors='replace')[-2000:]}")


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _ip(*words: str, inside: bool = False) -> None:
    command = ["ip", *(["netns", "exec", _SPACE, "ip"] if inside else []), *words]
    subprocess.run(command, check=True, capture_output=True, timeout=30)


def _link_apart() -> None:
    _unlink_apart()
    _ip("netns", "add", _SPACE)
    _ip("link", "add", _OUTER, "type", "veth", "peer", "name", _INNER)
    _ip("link", "set", _INNER, "netns", _SPACE)
    _ip("addr", "add", f"{_HOST}/30", "dev", _OUTER)
    _ip("addr", "add", f"{_APART}/30", "dev", _INNER, inside=True)
    _ip("link", "set", "lo", "up", inside=True)
    _ip("link", "set", _INNER, "up", inside=True)
    _link("up")


def _link(state: str) -> None:
    # the outer end keeps its address: the head listens there
    _ip("link", "set", _INNER, state, inside=True)
    if state == "up":
        _ip("link", "set", _OUTER, "up")


def _unlink_apart() -> None:
    for words in (("link", "del", _OUTER), ("netns", "del", _SPACE)):
        subprocess.run(["ip", *words], capture_output=True, timeout=30)


def can_stand_apart() -> bool:
    """Whether this machine lets us make a network namespace."""
    try:
        _link_apart()
    except (OSError, subprocess.SubprocessError):
        return False
    finally:
        with suppress(OSError):
            _unlink_apart()
    return True
