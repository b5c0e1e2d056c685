"""The page as a user meets it, served on loopback; run as a module it takes the README's picture of it.

python -m tests.serving.serving_page mmray-demo/workspace 02020013-eeg-rest docs/page.png
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from starlette.types import ASGIApp

from mmray.config import Config
from mmray.serving.guard import Guard
from mmray.serving.http import routes
from mmray.serving.keys import Keyring, digest
from mmray.serving.live import Live
from mmray.storage import Workspace
from tests.browsing import chromium, opened
from tests.serving.loopback import served

KEY = "a-key-of-sixteen-or-more"


@contextmanager
def served_page(config: Config, behind_guard: Callable[[ASGIApp], ASGIApp] = lambda app: app) -> Iterator[str]:
    """Every route of a config's index behind the guard; yields the origin."""
    app = routes(Live(Workspace(config.workspace)), config.serve)
    keys = Keyring(digest(KEY))
    guard = Guard(behind_guard(app), keys=keys, loopback_only=True, max_body_bytes=10**8, timeout_s=60)
    with served(guard) as origin:
        yield origin


def main(workspace: str, recording: str, picture: str) -> None:
    """Ask the page for a stored recording of a workspace, and save what it shows of the answer."""
    from mmray.config import from_dict

    config = from_dict({"workspace": workspace})
    with TemporaryDirectory() as profile, served_page(config) as origin, chromium(Path(profile)) as browser:
        browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        opened(browser, f"{origin}/?key={KEY}#recording={recording}", 1200, "light", height=1180)
        end = time.monotonic() + 60
        while not browser.execute_script(_SHOWN) and time.monotonic() < end:
            time.sleep(0.1)
        seen = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
        seen.quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)  # a third of the bytes


_SHOWN = """
    const pictures = [...document.querySelectorAll('.query img, .match img')];
    return pictures.length > 1 && pictures.slice(0, 6).every(p => p.complete && p.naturalWidth > 0);"""

if __name__ == "__main__":
    main(*sys.argv[1:])
