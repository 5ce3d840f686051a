"""The page to try it: files for a browser, which hold nothing of anybody.

Whoever reaches the port may read them, since a browser has no credential before the page asks for
one. What the page then sends is authenticated as every request is.
"""

from __future__ import annotations

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


class Page:
    """The files, which are read once."""

    def __init__(self) -> None:
        self._files = {
            PATH if file.name == _INDEX else f"/static/{file.name}": (
                file.read_bytes(),
                _TYPES[file.suffix],
            )
            for file in _FOLDER.iterdir()
        }

    def answer(self, request: web.BaseRequest) -> web.Response | None:
        """Returns the file that is asked for; None: it is none of the page's."""
        found = self._files.get(request.path) if request.method in ("GET", "HEAD") else None
        if found is None:
            return None
        body, kind = found
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=HEADERS)
