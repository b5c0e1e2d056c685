"""The page at `/`: its files, as they lie in the package, under a policy that lets it load nothing else."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
NAMES = (
    "index.html",
    "style.css",
    "icon.svg",
    "api.js",
    "classes.js",
    "dom.js",
    "evidence.js",
    "files.js",
    "main.js",
    "matches.js",
    "player.js",
    "queries.js",
    "query.js",
    "reasons.js",
    "served.js",
    "signal.js",
    "spectrum.js",
    "stored.js",
    "words.js",
)
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


def mount(app: FastAPI) -> None:
    """Add `/`, and its modules and styles at `/page/{name}`. Only the names above exist: an address is never a path."""
    folder = files("mmray.serving") / "page"
    held = {name: (folder / name).read_bytes() for name in NAMES}

    def answer(name: str) -> Response:
        return Response(
            held[name],
            media_type=_TYPES[name.rpartition(".")[2]],
            headers={"content-security-policy": _POLICY},
        )

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return answer("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in held:
            raise HTTPException(404)
        return answer(name)
