"""The port: connections, TLS, and a drain as the gRPC server's.

Connections are bounded in number; what one may hold of a request is bounded by aiohttp's limits of
lines, headers and pipelined requests, and by the body's. One that says nothing, or does not end a
request's headers, is closed after IDLE_S.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import BadHttpMessage
from tokenwire_service.ports import ListenError, check_free
from tokenwire_service.settings import TlsSettings
from tokenwire_service.tls import HttpTls

log = structlog.get_logger()

SETTING = "--openai-listen"

CONNECTIONS_LIMIT = 4096
"""In each process: four times the generations that it has by default, each with a connection of its
own. One takes about 20 KB."""

IDLE_S = 75.0
"""Time from a connection's beginning, or from the answer before, to the end of a request's headers.
Above the 60 s after which load balancers let go of an idle connection, so that none sends a request
into one that is being closed."""

LINE_BYTES = 16 * 1024
"""Of the request line, and of one header: a JWT has up to some kilobytes."""

HEADERS_LIMIT = 100

BACKLOG = 1024
"""Connections that wait to be accepted: as many as a burst of clients opens at once."""

LINGER_S = 2.0
"""Time for which the rest of a body is read that was refused, so that its sender sees why."""


class Handle(Protocol):
    """Answers a request."""

    async def __call__(self, request: web.BaseRequest, *, last: bool) -> web.StreamResponse:
        """`last`: its connection takes no further ones."""


class OpenAiServer:
    """Listens for HTTP.

    Args:
        tls: TLS of the port.
        handle: answers a request.
        request_bytes: largest body.

    Raises:
        TlsError: a file of TLS can't be used.
    """

    def __init__(self, tls: TlsSettings, handle: Handle, request_bytes: int) -> None:
        self.tls = HttpTls(tls)
        self.address = ""
        """HOST:PORT that it listens on."""
        self._handle = handle
        self._request_bytes = request_bytes
        self._closing = self._shared = False
        self._connections = _Connections(
            self._answer,
            request_factory=self._request,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=IDLE_S,
            max_line_size=LINE_BYTES,
            max_field_size=LINE_BYTES,
            max_headers=HEADERS_LIMIT,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        self._listening: asyncio.Server | None = None
        # Bad HTTP is answered 400; it is not a fault to log.
        logging.getLogger("aiohttp.server").addFilter(_is_no_bad_request)

    async def listen(self, address: str, *, shared: bool) -> None:
        """Starts to answer.

        Args:
            address: HOST:PORT; port 0 takes any.
            shared: other processes listen there too (SO_REUSEPORT).

        Raises:
            ListenError: the address can't be listened on.
        """
        self._shared = shared
        if not shared:
            check_free(SETTING, address)
        host, _, port = address.rpartition(":")
        try:
            self._listening = await asyncio.get_running_loop().create_server(
                self._connections,
                host.strip("[]"),
                int(port),
                ssl=self.tls.context(),
                backlog=BACKLOG,
                reuse_port=shared or None,
            )
        except OSError as error:
            raise ListenError(SETTING, address, error.strerror or str(error)) from error
        bound = self._listening.sockets[0].getsockname()[1]
        self.address = f"{host}:{bound}"
        log.info("openai_listening", address=self.address)

    def drain(self) -> None:
        """Lets each connection go with its next answer; where others listen, accepts no more."""
        self._closing = True
        if self._shared:
            self._stop_listening()

    async def stop(self, grace_s: float) -> None:
        """Ends every connection; requests in flight have the grace to be answered."""
        self._closing = True
        self._stop_listening()
        self._connections.pre_shutdown()
        await self._connections.shutdown(grace_s)

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._handle(request, last=self._closing)

    def _request(
        self,
        message: Any,
        payload: Any,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        loop, limit = asyncio.get_running_loop(), self._request_bytes
        return web.BaseRequest(
            message, payload, protocol, writer, task, loop, client_max_size=limit
        )


class _Connections(web.Server):
    """aiohttp's server, with at most CONNECTIONS_LIMIT connections."""

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Takes a connection, or closes it at once."""
        super().connection_made(handler, transport)
        if len(self._connections) > CONNECTIONS_LIMIT:
            handler.force_close()


def _is_no_bad_request(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, BadHttpMessage)
