"""The admin port: health and metrics over HTTP, for orchestrators, scrapers and people with curl.

    /healthz   200 while the event loop turns; restart the process when it does not answer
    /readyz    200 while work is welcome, else 503; the same word as grpc.health.v1's
    /metrics   Prometheus text, or OpenMetrics with exemplars where the Accept header asks for it

It has no authentication: keep it on loopback or inside the cluster.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import structlog
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from tokenwire_service.server import ListenError

log = structlog.get_logger()

Scrape = Callable[[str], tuple[bytes, str]]
"""Returns the metrics and their content type, given an Accept header; called on a thread."""


def _is_no_bad_request(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, BadHttpMessage)


class AdminServer:
    """Answers on the admin port.

    Args:
        address: HOST:PORT to listen on; port 0 takes any.
        serving: tells whether work is welcome.
        scrape: returns the metrics.
    """

    def __init__(self, address: str, serving: Callable[[], bool], scrape: Scrape) -> None:
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
            raise ListenError(
                f"--admin-listen {self.address} can't be listened on: {error.strerror}"
            ) from error
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
        body, content_type = await asyncio.to_thread(self._scrape, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})
