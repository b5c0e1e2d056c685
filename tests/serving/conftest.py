from __future__ import annotations

import pytest

from mmray.config import Config
from tests.small_run import built_once


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Config:
    """A config whose workspace holds a published index of six people."""
    return built_once(tmp_path_factory)[0]
