"""The page to try it: files for a browser, which hold nothing of anybody.

Whoever reaches the port may read them, since a browser has no credential before the page asks for
one. What the page then sends is authenticated as every request is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from aiohttp import web

from tokenwire_frontend.edge.openai import errors

PATH = "/"

_FOLDER = Path(__file__).with_name("static")

_INDEX = "index.html"

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

HEADERS = {
    **errors.SERVER,
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""The first keeps the browser from running, loading or sending anything that is not this port's."""


def files() -> dict[str, Callable[[], web.Response]]:
    """Returns what answers with each file, by its path."""
    return {
        PATH if file.name == _INDEX else f"/static/{file.name}": partial(
            _answer, file.read_bytes(), _TYPES[file.suffix]
        )
        for file in _FOLDER.iterdir()
    }


def _answer(body: bytes, kind: str) -> web.Response:
    return web.Response(body=body, content_type=kind, charset="utf-8", headers=HEADERS)
