"""The page as a user meets it, served on loopback; run as a module it takes the README's picture of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp

from mmray.config import Config
from mmray.serving.guard import Guard, key_digest
from mmray.serving.http import routes
from mmray.serving.live import Live
from mmray.storage import Workspace
from tests.serving.loopback import served

KEY = "a-key-of-sixteen-or-more"


@contextmanager
def served_page(config: Config, behind_guard: Callable[[ASGIApp], ASGIApp] = lambda app: app) -> Iterator[str]:
    """Every route of a config's index behind the guard; yields the origin."""
    app = routes(Live(Workspace(config.workspace)), config.serve)
    guard = Guard(behind_guard(app), key=key_digest(KEY), loopback_only=True, max_body_bytes=10**8, timeout_s=60)
    with served(guard) as origin:
        yield origin
