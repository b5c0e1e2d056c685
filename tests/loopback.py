"""A Ray cluster of several nodes on this machine, each a `ray start` of its own that can be killed or drained."""

from __future__ import annotations

import json
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

import psutil

BIN = Path(sys.executable).parent
MEMORY = 4 << 30  # what a node says it has


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Loopback:
    """Nodes by name; the first is the head, which takes no work.

    Attributes:
        environment: for a driver that joins it.
    """

    folder: str
    address: str
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *arguments: str, cpus: float, gpus: int = 0, **labels: str) -> None:
        """Start a node; labels are as `mmray/market`, here market=."""
        told = ",".join(f"mmray/{key}={value}" for key, value in ({"name": name} | labels).items())
        log = open(f"{self.folder}/{name}.log", "wb")  # noqa: SIM115  the process has it
        command = [
            str(BIN / "ray"),
            "start",
            "--block",
            "--node-ip-address=127.0.0.1",
            f"--num-cpus={cpus:g}",
            f"--num-gpus={gpus}",
            *arguments,
        ]
        command += [f"--labels={told}", f"--memory={MEMORY}", f"--object-store-memory={100 << 20}"]
        command += [] if "--head" in arguments else [f"--address={self.address}"]
        env = {key: value for key, value in self.environment.items() if key != "RAY_ADDRESS"}
        self.processes[name] = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)

    def kill(self, name: str) -> None:
        """As when a machine is gone: everything at once."""
        process = self.processes.pop(name)
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()

    def nodes(self) -> dict[str, str]:
        """Names and Ray's ids of the nodes that are up."""
        told = self.python(
            "import json, ray; ray.init(log_to_driver=False, logging_level='ERROR');"
            "print(json.dumps({n['Labels']['mmray/name']: n['NodeID'] for n in ray.nodes() if n['Alive']}))"
        )
        return dict(json.loads(told.stdout.splitlines()[-1]))

    def wait_for(self, *names: str) -> dict[str, str]:
        end = time.monotonic() + 60
        while not {*names} <= (found := self.nodes()).keys():
            assert time.monotonic() < end, found
        return found

    def drain(self, node_id: str, seconds: int) -> None:
        """Announce that a node will be taken away, as a cloud does with a spot machine."""
        command = [str(BIN / "ray"), "drain-node", f"--address={self.address}", f"--node-id={node_id}"]
        command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
        command += [f"--deadline-remaining-seconds={seconds}"]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)

    def python(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a driver of this cluster."""
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
        )


@contextmanager
def cluster() -> Iterator[Loopback]:
    """A head on loopback, with token authentication; what was started in the block ends with it."""
    folder = tempfile.mkdtemp(prefix="r-")  # short: Ray's sockets lie below it
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ADDRESS": address,
        # nodes that died are seen after seconds, notices at once
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "3",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    }
    made = Loopback(folder, address, environment)
    ports = (f"--port={address.rpartition(':')[2]}", f"--dashboard-agent-listen-port={free_port()}")
    made.start("head", "--head", "--include-dashboard=false", f"--temp-dir={folder}", *ports, cpus=0)
    try:
        made.wait_for("head")
        yield made
    finally:
        for name in reversed(list(made.processes)):
            made.kill(name)
        shutil.rmtree(folder, ignore_errors=True)
