"""The admin port: health and metrics over HTTP, for orchestrators, scrapers and people with curl.

    /healthz   200 while the event loop turns; restart the process when it does not answer
    /readyz    200 while work is welcome, else 503; the same word as grpc.health.v1's
    /metrics   Prometheus text, or OpenMetrics with exemplars where the Accept header asks for it
    /processes the processes that serve behind one address, as JSON, where there are several

It has no authentication: keep it on loopback or inside the cluster.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from tokenwire_service.ports import ListenError

log = structlog.get_logger()

Scrape = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Returns the metrics and their content type, given an Accept header."""

Processes = Callable[[], list[dict[str, Any]]]
"""Describes each of the processes that serve."""


def _is_no_bad_request(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, BadHttpMessage)


class AdminServer:
    """Answers on the admin port.

    Args:
        address: HOST:PORT to listen on; port 0 takes any.
        serving: tells whether work is welcome.
        scrape: returns the metrics.
        processes: describes the processes that serve, where these are several.
    """

    def __init__(
        self,
        address: str,
        serving: Callable[[], bool],
        scrape: Scrape,
        processes: Processes | None = None,
    ) -> None:
        self.address = address
        self._serving = serving
        self._scrape = scrape
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        if processes is not None:
            app.add_routes([web.get("/processes", lambda _: _as_json(processes()))])
        # No access log: a scrape every few seconds is no news.
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        # Whatever else connects, such as a gRPC client, is answered 400; it is no fault of ours.
        logging.getLogger("aiohttp.server").addFilter(_is_no_bad_request)

    async def start(self) -> None:
        """Starts to answer.

        Raises:
            ListenError: the address can't be listened on.
        """
        await self._runner.setup()
        host, _, port = self.address.rpartition(":")
        site = web.TCPSite(self._runner, host.strip("[]"), int(port))
        try:
            await site.start()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ListenError("--admin-listen", self.address, reason) from error
        bound = self._runner.addresses[0][1]
        self.address = f"{host}:{bound}"
        log.info("admin_listening", address=self.address)

    async def stop(self) -> None:
        """Ends every connection and stops listening."""
        await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._serving():
            return web.Response(text="ready\n")
        return web.Response(text="not ready\n", status=503)

    async def _metrics(self, request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")
        body, content_type = await self._scrape(accept)
        return web.Response(body=body, headers={"Content-Type": content_type})


async def _as_json(value: object) -> web.Response:
    return web.json_response(text=json.dumps(value) + "\n")
