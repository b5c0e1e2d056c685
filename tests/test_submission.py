"""A job's command line, and what is said when the cluster falls silent under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from mmray import cli, submission
from mmray import config as configuration
from mmray.config import Config
from mmray.errors import ResourceError

CONFIGS = Path(__file__).parents[1] / "jobs" / "configs"


def test_what_a_user_adds_is_for_recordings_and_prepare_but_for_what_prepare_alone_knows() -> None:
    told = submission.entrypoint(Config(), "prepare", ["--strict", "--set", "study.tasks=[rest]"])
    assert told == (
        "mmray recordings --config job.yaml --set 'study.tasks=[rest]' && "
        "mmray prepare --config job.yaml --strict --set 'study.tasks=[rest]'"
    )
    assert submission.entrypoint(Config(), "train", ["--name", "a b"]) == "mmray train --config job.yaml --name 'a b'"
    assert submission.entrypoint(Config(workspace="s3://b"), "sweep", ["--resume"]) == (
        "mmray sweep --workspace s3://b --resume"
    )


@pytest.mark.parametrize("name", ["synthetic.yaml", "modma.yaml"])
def test_a_home_in_the_settings_is_that_of_the_cluster(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Config] = []

    def submit(config: Config, stage: str, address: str, *_: object, **__: object) -> submission.Submission:
        sent.append(config)
        return submission.Submission("raysubmit_1", stage, address, "SUCCEEDED", 0, 1.0)

    monkeypatch.setattr(submission, "submit", submit)
    monkeypatch.setenv("HOME", "/home/laptop")
    assert cli.main(["submit", "train", "--config", str(CONFIGS / name)]) == 0
    assert "laptop" not in configuration.to_yaml(sent[0])
    assert "workspace: ~/mmray/" in configuration.to_yaml(sent[0])


class Silent:
    def get_job_status(self, job_id: str) -> Any:
        raise requests.exceptions.ConnectionError("Connection refused")


def test_a_cluster_that_stays_silent_is_said_with_the_job_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_SILENT_S", 0.0)
    job = submission._Job(Silent(), "raysubmit_1", "http://127.0.0.1:8265")
    with pytest.raises(ResourceError, match=r"8265 no longer answers \(ConnectionError\); job raysubmit_1 goes on"):
        job.asked("get_job_status")


@pytest.mark.parametrize(
    "error",
    [
        requests.exceptions.InvalidURL("bad port"),
        requests.exceptions.HTTPError("404"),
        requests.exceptions.JSONDecodeError("Expecting value", "<html>", 0),
        KeyError("submission_id"),
        ConnectionError("refused"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_address_behind_which_is_something_else_is_said_in_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other:
        def __init__(self, address: str) -> None:
            raise error

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", Other)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    with pytest.raises(ResourceError, match=r"no cluster answers at http://127\.0\.0\.1:1;"):
        submission.submit(Config(), "train", "http://127.0.0.1:1")
