"""A gRPC server with health, reflection, and a drain: what a Tokenwire service listens with."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tokenwire import channel_arguments

from tokenwire_service.connections import disconnect
from tokenwire_service.reflection import enable_reflection
from tokenwire_service.rpc_boundary import RpcBoundary
from tokenwire_service.settings import TlsSettings
from tokenwire_service.tls import server_credentials

log = structlog.get_logger()

STOP_GRACE_S = 2.0
"""Time that calls have to end after the drain before they are cut off."""

FAREWELL_S = 0.1
"""Time that written statuses have to leave this process; a busy machine takes more than 20 ms."""


@dataclass(frozen=True)
class Service:
    """A gRPC service to offer."""

    name: str
    """Full name, such as `tokenwire.worker.v1.WorkerService`."""
    add: Callable[[Any, Any], None]
    """The generated `add_..._to_server`."""
    servicer: Any
    """The implementation."""


class ListenError(ValueError):
    """The address can't be listened on."""


class RpcServer:
    """Listens on one address. Health is NOT_SERVING until `set_serving` says otherwise.

    Args:
        address: HOST:PORT to listen on; port 0 takes any.
        tls: TLS of the port.
        services: what is offered.
        request_bytes: largest message that a caller may send.

    Raises:
        ListenError: the address can't be listened on.
        TlsError: a file of TLS can't be used.
    """

    def __init__(
        self,
        address: str,
        tls: TlsSettings,
        services: Sequence[Service],
        request_bytes: int = channel_arguments.REQUEST_BYTES,
    ) -> None:
        self._boundary = RpcBoundary()
        self._server = grpc.aio.server(
            options=channel_arguments.server(request_bytes), interceptors=[self._boundary]
        )
        self._names = ["", *(service.name for service in services)]
        self._health = health.aio.HealthServicer()
        self.serving = False
        """Whether work is welcome, as health checks are told."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for service in services:
            service.add(service.servicer, self._server)
        enable_reflection(self._server, [*self._names[1:], health.SERVICE_NAME])
        self.address = self._bind(address, tls)

    def _bind(self, address: str, tls: TlsSettings) -> str:
        credentials = check_port(address, tls)
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise _cannot_listen(address, "gRPC can't open the port") from error
        return f"{address.rpartition(':')[0]}:{port}"

    async def start(self) -> None:
        """Starts to answer; every service is NOT_SERVING until `set_serving`."""
        await self.set_serving(serving=False)
        await self._server.start()
        log.info("listening", address=self.address)

    async def set_serving(self, *, serving: bool) -> None:
        """Tells health checks, by service and for the whole server, whether work is welcome."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        self.serving = serving
        value = status.SERVING if serving else status.NOT_SERVING
        for name in self._names:
            await self._health.set(name, value)

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Stops listening; what is still open has the grace and is then refused as DRAINING.

        New calls are refused so to the end. Then the connections are closed before gRPC stops,
        since it ends with a bare CANCELLED what arrives between its stop and the caller's hearing
        of it; over a closed connection a call is UNAVAILABLE.
        """
        await self._health.enter_graceful_shutdown()
        await self._boundary.close(grace_s)
        await asyncio.sleep(FAREWELL_S)
        disconnect(int(self.address.rpartition(":")[2]))
        await self._server.stop(grace_s)


def log_draining(grace_s: float) -> None:
    """Logs that the drain begins, and on a terminal how not to wait for it."""
    hint = {"hint": "Ctrl-C again to stop now"} if sys.stderr.isatty() else {}
    log.info("draining", grace_s=grace_s, **hint)


def check_port(address: str, tls: TlsSettings) -> grpc.ServerCredentials | None:
    """Returns the credentials of a port that can be listened on; None for plain text.

    gRPC tells no reason where it can't, so the address is bound here first.

    Raises:
        ListenError: the address can't be listened on.
        TlsError: a file of TLS can't be used.
    """
    credentials = server_credentials(tls)
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    fault: OSError | None = None
    try:
        for family, *_, place in socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                _bind_once(family, place)
            except OSError as error:
                fault = error
            else:
                return credentials  # one of a name's addresses is enough for gRPC too
    except OSError as error:
        fault = error
    # Where the host has no IPv6, gRPC takes 0.0.0.0 for [::].
    if fault is not None and (host != "::" or fault.errno == errno.EADDRINUSE):
        raise _cannot_listen(address, fault.strerror or str(fault)) from fault
    return credentials


def _bind_once(family: int, place: tuple[Any, ...]) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        probe.bind(place)


def _cannot_listen(address: str, reason: str) -> ListenError:
    return ListenError(f"--listen {address} can't be listened on: {reason}")
