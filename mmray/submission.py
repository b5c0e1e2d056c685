"""`mmray submit`: a stage as a job on a cluster, its log followed and its exit code carried back.

The cluster's own mmray runs it; all that travels is the resolved config, which Ray keeps in the job's folder.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmray import config as configuration
from mmray.config import Config
from mmray.errors import ConfigError, ResourceError

INTERRUPTED = 130
_FILE = "job.yaml"
_POLL_S = 0.5
# they set a level of their own when they are imported
_TALKERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


@dataclass(frozen=True)
class Submission:
    """How a job ended, or that it was left running.

    Attributes:
        status: Ray's word: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        exit_code: the stage's own; 0 while it is not known, 130 where it was stopped.
    """

    job_id: str
    stage: str
    address: str
    status: str
    exit_code: int
    seconds: float

    def render(self) -> str:
        """As lines for a terminal."""
        line = f"job {self.job_id} ({self.stage}) at {self.address}: {self.status.lower()} after {self.seconds:.0f} s"
        if self.status in ("PENDING", "RUNNING"):
            return f"{line}\nfollow it: ray job logs -f {self.job_id}; stop it: ray job stop {self.job_id}"
        return f"{line}, exit code {self.exit_code}"


def submit(
    config: Config,
    stage: str,
    address: str,
    arguments: list[str] | None = None,
    *,
    follow: bool = True,
    stop_on_interrupt: bool = False,
) -> Submission:
    """Run a stage on the cluster behind a dashboard's address.

    Args:
        address: of the dashboard, http://host:port.
        arguments: more of the verb's own.
        follow: print the job's log until it ends; else return once the cluster has taken it.
        stop_on_interrupt: Ctrl-C stops the job; else it goes on, and only the following ends.

    Raises:
        ConfigError: the address is no URL.
        ResourceError: no cluster answers there, or it refuses the token or the job.
    """
    started = time.monotonic()
    with _answering(address):
        from ray.job_submission import JobSubmissionClient

        for name in _TALKERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # the client obeys it against its own argument
        client = JobSubmissionClient(address)
        with tempfile.TemporaryDirectory(prefix="mmray-job-") as folder:
            (Path(folder) / _FILE).write_text(configuration.to_yaml(config), encoding="utf-8")
            job_id = client.submit_job(
                entrypoint=entrypoint(config, stage, arguments or []),
                runtime_env={"working_dir": folder},
                metadata={"mmray": stage},
            )
        try:
            status = _followed(client, job_id) if follow else _status(client, job_id)
        except KeyboardInterrupt:
            status = _stopped(client, job_id) if stop_on_interrupt else _status(client, job_id)
        return Submission(
            job_id, stage, address, status, _exit_code(client, job_id, status), time.monotonic() - started
        )


def entrypoint(config: Config, stage: str, arguments: list[str]) -> str:
    """The job's command line. `prepare` finds the recordings first, as jobs/prepare.py does."""
    verbs = ("recordings", "prepare") if stage == "prepare" else (stage,)
    # a sweep that goes on has settings of its own
    given = ["--workspace", config.workspace] if "--resume" in arguments else ["--config", _FILE]
    return " && ".join(shlex.join(["mmray", verb, *given, *arguments]) for verb in verbs)


@contextmanager
def _answering(address: str) -> Iterator[None]:
    """Ray's ways to fail in ours. A stage's own failure is not among them: it is an exit code."""
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"submit: address {address!r} is not the dashboard's, http://host:8265; give --address")
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ResourceError(
            f"submit: {address} refuses this token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH to the cluster's"
        ) from error
    except ConnectionError as error:
        raise ResourceError(
            f"submit: no cluster answers at {address}; is `ray dashboard cluster.yaml` open, or the head up?"
        ) from error
    except RuntimeError as error:
        raise ResourceError(f"submit: {address} did not take the job: {str(error).splitlines()[0]}") from error


def _followed(client: Any, job_id: str) -> str:
    """Print the job's log as it is written; its last status."""

    async def follow() -> None:
        async for text in client.tail_job_logs(job_id):
            sys.stderr.write(text)
            sys.stderr.flush()

    try:
        asyncio.run(follow())
    except RuntimeError as error:  # the job is none the worse for it
        print(f"mmray: the log of {job_id} broke off ({error}); waiting for its end", file=sys.stderr)
    return _ended(client, job_id)


def _ended(client: Any, job_id: str) -> str:
    while not client.get_job_status(job_id).is_terminal():
        time.sleep(_POLL_S)
    return _status(client, job_id)


def _stopped(client: Any, job_id: str) -> str:
    print(f"mmray: stopping job {job_id}", file=sys.stderr)
    client.stop_job(job_id)
    return _ended(client, job_id)


def _status(client: Any, job_id: str) -> str:
    return str(client.get_job_status(job_id).value)


def _exit_code(client: Any, job_id: str, status: str) -> int:
    if status == "STOPPED":
        return INTERRUPTED
    code = client.get_job_info(job_id).driver_exit_code
    return int(code) if code is not None else int(status == "FAILED")
