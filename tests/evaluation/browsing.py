"""A page as a browser shows it, and what it asked for meanwhile."""

from __future__ import annotations

import json
from pathlib import Path


def opened(browser, page: Path, width: int, scheme: str) -> None:
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what went before
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())


def asked(browser) -> list[str]:
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("chrome", "data:"))]  # its own first tab; bytes of the page
