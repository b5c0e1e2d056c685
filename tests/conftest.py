"""Fixtures every test package shares: the real recordings, a browser, and one embedded Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browsing import chromium

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    root = Path(os.environ.get("MMRAY_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real recordings at {root}; set MMRAY_TEST_DATA")
    return root


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    from mmray import cluster
    from mmray.config import Cluster

    with cluster.session(Cluster(num_cpus=4)):
        yield
