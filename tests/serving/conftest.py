from __future__ import annotations

from collections.abc import Iterator

import pytest

from mmray.config import Config
from tests.serving.served import Served, serving
from tests.small_run import built_once


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Config:
    """A config whose workspace holds a published index of six people."""
    return built_once(tmp_path_factory)[0]


@pytest.fixture(scope="module")
def served(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An endpoint with one replica that takes little, so that its limits are easy to meet."""
    small = {"max_upload_mb": 4, "max_ongoing_requests": 2, "max_queued_requests": 2}
    with serving(config, tmp_path_factory.mktemp("serve"), **small) as endpoint:
        yield endpoint
