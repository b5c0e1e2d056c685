"""An endpoint as a user starts it: its own process, Ray Serve, HAProxy, HTTP over loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.loopback import free_port
from mmray import config as configuration
from mmray.config import Config, from_dict

ROOT = Path(__file__).parents[2]
START = "import sys; from mmray import config; from mmray.serving.app import serve; serve(config.load(sys.argv[1]))"
# as START, and deploys itself anew, beside what serves, with the settings of `serve` that each line of stdin says
DEPLOYING = """
import json, sys
from mmray import config
from mmray.errors import ConfigError
from mmray.serving import app
settings = config.load(sys.argv[1])
with app.running(settings) as endpoint:
    print(f"key: {endpoint.key}\\n{endpoint.link}", flush=True)
    for line in sys.stdin:
        changed = settings.serve.model_copy(update=json.loads(line))
        try:
            app.deploy(settings.model_copy(update={"serve": changed}), endpoint.key)
            print("deployed", flush=True)
        except ConfigError as error:
            print(f"not deployed: {error}", flush=True)
"""


@dataclass
class Served:
    process: subprocess.Popen[str]
    url: str
    key: str
    link: str
    scratch: Path
    output: Path
    config: Config

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=headers or {"X-API-Key": self.key}, timeout=60)

    def processes(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def replicas(self) -> list[psutil.Process]:
        """The processes that answer; Ray names them for their deployment."""
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ServeReplica:mmray"):
                    found.append(process)
        return found

    def deploy(self, **changed: Any) -> str:
        """Have it deployed anew with these settings of `serve`, and what it says; for an endpoint of DEPLOYING."""
        assert self.process.stdin is not None
        before = len(self.output.read_text())
        self.process.stdin.write(json.dumps(changed) + "\n")
        self.process.stdin.flush()
        end = time.monotonic() + 120
        while not (said := re.search(r"^(not )?deployed.*\n", self.output.read_text()[before:], re.MULTILINE)):
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < end, self.output.read_text()
            time.sleep(0.1)
        return said[0].strip()

    def logs(self) -> str:
        """All that this Ray session, HAProxy and the process itself have written."""
        files = [path for path in self.scratch.rglob("*") if path.is_file() and "logs" in path.parts]
        return self.output.read_text() + "".join(path.read_text(errors="replace") for path in files)


@contextmanager
def serving(config: Config, folder: Path, cpus: int = 2, start: str = START, **settings: Any) -> Iterator[Served]:
    """An endpoint of a config's workspace under these settings of `serve`, for as long as the block runs."""
    scratch = Path(tempfile.mkdtemp(prefix="m", dir="/tmp"))  # short: Ray's sockets lie under it
    config = from_dict(
        {**config.model_dump(), "serve": {"port": free_port(), **settings}, "cluster": {"num_cpus": cpus}}
    )
    (folder / "config.yaml").write_text(configuration.to_yaml(config))
    output = folder / "output"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}
    with output.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", start, str(folder / "config.yaml")],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        end = time.monotonic() + 180
        while not (found := re.search(r"key: (\S+)\n(\S+)\n", output.read_text())):
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < end, output.read_text()
            time.sleep(0.2)
        url = f"http://127.0.0.1:{config.serve.port}"
        yield Served(process, url, found[1], found[2], scratch, output, config)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)
        shutil.rmtree(scratch, ignore_errors=True)
