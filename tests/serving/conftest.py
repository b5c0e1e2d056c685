from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from mmray.config import Config, from_dict
from mmray.index.build import build_index
from tests.serving.served import DEPLOYING, Served, serving
from tests.small_run import built_once, make_run


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Config:
    """A config whose workspace holds a published index of six people."""
    return built_once(tmp_path_factory)[0]


@pytest.fixture(scope="package")
def running(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Served]]:
    """The endpoint of `served`, started anew where a test has ended it."""
    small = {"max_upload_mb": 4, "max_ongoing_requests": 2, "max_queued_requests": 2}
    started: list[Served] = []
    with ExitStack() as ends:

        def endpoint() -> Served:
            if not started or started[-1].process.poll() is not None:
                started.append(ends.enter_context(serving(config, tmp_path_factory.mktemp("serve"), **small)))
            return started[-1]

        yield endpoint


@pytest.fixture(scope="module")
def served(running: Callable[[], Served]) -> Served:
    """An endpoint with one replica that takes little, so that its limits are easy to meet; one for all modules."""
    return running()


@pytest.fixture(scope="package")
def two_models(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A copy of the workspace with an index of one run and an index of another, which answer differently."""
    root = tmp_path_factory.mktemp("takeover")
    shutil.copytree(config.workspace, root / "ws")
    copied = from_dict({**config.model_dump(), "workspace": str(root / "ws")})
    make_run(copied, "run-b", seed=5)
    build_index(copied, "run-b")
    return copied


@pytest.fixture(scope="package")
def pair(two_models: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An endpoint with two replicas, or with as many as a test asks it for."""
    folder = tmp_path_factory.mktemp("serve")
    with serving(two_models, folder, cpus=6, start=DEPLOYING, replicas=2, refresh_s=0.2) as endpoint:
        yield endpoint
