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
from typing import Any, NamedTuple

from mmray import config as configuration
from mmray.config import Config
from mmray.errors import ConfigError, ResourceError

INTERRUPTED = 130
_FILE = "job.yaml"
_POLL_S = 0.5
_SILENT_S = 60.0  # a tunnel that is opened again by then is not noticed
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
        ResourceError: no cluster answers there, it refuses the token or the job, or it no longer answers while the job
            runs; the job then goes on.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mmray-job-") as folder:
        (Path(folder) / _FILE).write_text(configuration.to_yaml(config), encoding="utf-8")
        with _answering(address):
            from ray.job_submission import JobSubmissionClient

            for name in _TALKERS:
                logging.getLogger(name).setLevel(logging.WARNING)
            os.environ["RAY_API_SERVER_ADDRESS"] = address  # the client obeys it against its own argument
            client = JobSubmissionClient(address)
            job_id = client.submit_job(
                entrypoint=entrypoint(config, stage, arguments or []),
                runtime_env={"working_dir": folder},
                metadata={"mmray": stage},
            )
    job = _Job(client, job_id, address)
    try:
        status = _followed(job) if follow else _status(job)
    except KeyboardInterrupt:
        status = _stopped(job) if stop_on_interrupt else _status(job)
    return Submission(job_id, stage, address, status, _exit_code(job, status), time.monotonic() - started)


def entrypoint(config: Config, stage: str, arguments: list[str]) -> str:
    """The job's command line. `prepare` finds the recordings first, as jobs/prepare.py does."""
    # a sweep that goes on has settings of its own
    given = ["--workspace", config.workspace] if "--resume" in arguments else ["--config", _FILE]
    command = shlex.join(["mmray", stage, *given, *arguments])
    if stage != "prepare":
        return command
    both = [word for word in arguments if word != "--strict"]  # which is prepare's alone
    return f"{shlex.join(['mmray', 'recordings', *given, *both])} && {command}"


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
    # of requests an OSError each; of another server's answer a ValueError or a KeyError
    except (OSError, ValueError, KeyError) as error:
        raise ResourceError(
            f"submit: no cluster answers at {address}; is `ray dashboard cluster.yaml` open, or the head up?"
        ) from error
    except RuntimeError as error:
        raise ResourceError(f"submit: {address} did not take the job: {str(error).splitlines()[0]}") from error


class _Job(NamedTuple):
    client: Any
    job_id: str
    address: str

    def asked(self, question: str) -> Any:
        """What the cluster says of this job, asked again for a while where a tunnel or the head does not answer."""
        end = time.monotonic() + _SILENT_S
        while True:
            try:
                return getattr(self.client, question)(self.job_id)
            except (OSError, RuntimeError) as error:  # of requests an OSError, of an answer that is none a RuntimeError
                if time.monotonic() >= end:
                    raise ResourceError(
                        f"submit: {self.address} no longer answers ({type(error).__name__}); job {self.job_id} goes on "
                        f"there without this command: `ray job logs --follow {self.job_id}` once it does"
                    ) from error
            time.sleep(_POLL_S)


def _followed(job: _Job) -> str:
    """Print the job's log as it is written; its last status."""
    from aiohttp import ClientError

    async def follow() -> None:
        async for text in job.client.tail_job_logs(job.job_id):
            sys.stderr.write(text)
            sys.stderr.flush()

    try:
        asyncio.run(follow())
    except (OSError, RuntimeError, ClientError) as error:  # the job is none the worse for it
        print(f"mmray: the log of {job.job_id} broke off ({error}); waiting for its end", file=sys.stderr)
    return _ended(job)


def _ended(job: _Job) -> str:
    while not job.asked("get_job_status").is_terminal():
        time.sleep(_POLL_S)
    return _status(job)


def _stopped(job: _Job) -> str:
    print(f"mmray: stopping job {job.job_id}", file=sys.stderr)
    job.asked("stop_job")
    return _ended(job)


def _status(job: _Job) -> str:
    return str(job.asked("get_job_status").value)


def _exit_code(job: _Job, status: str) -> int:
    if status == "STOPPED":
        return INTERRUPTED
    code = job.asked("get_job_info").driver_exit_code
    return int(code) if code is not None else int(status == "FAILED")
