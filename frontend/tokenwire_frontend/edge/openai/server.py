"""The port: connections, TLS, and a drain as the gRPC server's.

Connections are bounded in number; what one may hold of a request is bounded by aiohttp's limits of
lines, headers and pipelined requests, and by the body's. One that says nothing, or does not end a
request's headers, is closed after IDLE_S.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import BadHttpMessage, InvalidURLError, LineTooLong
from tokenwire_service.errors import Code, ServiceError
from tokenwire_service.ports import ListenError, check_free
from tokenwire_service.settings import TlsSettings
from tokenwire_service.tls import HttpTls

from tokenwire_frontend.edge.openai import errors

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
            self._request,
            access_log=None,
            keepalive_timeout=IDLE_S,
            max_line_size=LINE_BYTES,
            max_field_size=LINE_BYTES,
            max_headers=HEADERS_LIMIT,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        self._listening: asyncio.Server | None = None

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

    def __init__(self, handler: Any, request_factory: Any, **settings: Any) -> None:
        super().__init__(
            handler, request_factory=request_factory, handler_cancellation=True, **settings
        )
        self._settings = settings

    def __call__(self) -> web.RequestHandler:
        """Returns what serves the next connection."""
        return _Connection(self, loop=asyncio.get_running_loop(), **self._settings)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Takes a connection, or closes it at once."""
        super().connection_made(handler, transport)
        if len(self._connections) > CONNECTIONS_LIMIT:
            handler.force_close()


class _Connection(web.RequestHandler):
    """aiohttp's connection. What is not HTTP is refused in OpenAI's form, and is not logged."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Returns the answer to what has come to no handler."""
        if not isinstance(exc, BadHttpMessage) or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        response = errors.response(_not_http(exc), errors.SERVER)
        response.force_close()
        return response


def _not_http(error: BadHttpMessage) -> ServiceError:
    """Returns what its sender is told, without what aiohttp quotes of it."""
    if isinstance(error, LineTooLong):
        told = f"the request line or a header has more than {LINE_BYTES} bytes"
        return ServiceError(Code.INVALID_ARGUMENT, "HEADERS_TOO_LARGE", told)
    if isinstance(error, InvalidURLError):
        told = "the target is not a URL"
    else:
        told = " ".join(error.message.partition("\n\n")[0].split()).rstrip(".:")
    return ServiceError(Code.INVALID_ARGUMENT, "BAD_HTTP", f"not a request of HTTP/1.1: {told}")
