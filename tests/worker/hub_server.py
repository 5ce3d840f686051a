"""A small Hugging Face Hub on the loopback: models in memory, and what it was asked."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What it serves, and what it saw."""

    models: dict[str, dict[str, bytes]]
    gated: frozenset[str] = frozenset()
    """Models that need a token."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and Authorization of each request."""
    address: str = ""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server.hub
        path, _, _ = self.path.partition("?")
        token = self.headers.get("Authorization", "")
        hub.asked.append((self.command, path, token))
        parts = path.strip("/").split("/")
        described = parts[0] == "api"
        name = "/".join(parts[2:4] if described else parts[:2])
        if name in hub.gated and not token:
            self._send(401, b"", {"X-Error-Code": "GatedRepo"})
        elif name not in hub.models:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif described:
            self._describe(name, hub.models[name], parts[4:5] == ["tree"])
        else:
            self._give(hub.models[name].get("/".join(parts[4:])))

    def _describe(self, name: str, files: dict[str, bytes], tree: bool) -> None:
        told = [
            {"type": "file", "path": each, "size": len(data), "oid": "0" * 40}
            for each, data in files.items()
        ]
        siblings = [{"rfilename": each} for each in files]
        answer = told if tree else {"id": name, "sha": COMMIT, "siblings": siblings}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _give(self, data: bytes | None) -> None:
        if data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        tag = hashlib.sha1(data).hexdigest()
        self._send(200, data, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    hub: Hub


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serves it at `hub.address`."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = hub
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
