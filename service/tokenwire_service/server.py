"""A gRPC server with health, reflection, and a drain: what a Tokenwire service listens with."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tokenwire import channel_arguments

from tokenwire_service.connections import disconnect, peers, stop_listening
from tokenwire_service.ports import ListenError, check_free
from tokenwire_service.reflection import enable_reflection
from tokenwire_service.rpc_boundary import RETRY_S, Admit, RpcBoundary
from tokenwire_service.settings import TlsSettings
from tokenwire_service.tls import ServerTls

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


class RpcServer:
    """Listens. Health is NOT_SERVING until `set_serving` says otherwise.

    Args:
        address: HOST:PORT to listen on; port 0 takes any.
        tls: TLS of the port.
        services: what is offered.
        request_bytes: largest message that a caller may send.
        setting: which setting has the address.
        admit: as RpcBoundary has it.
        connection_age_s: age at which a connection takes no further calls; None: no such age.

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
        setting: str = "--listen",
        admit: Admit | None = None,
        connection_age_s: float | None = None,
    ) -> None:
        self._boundary = RpcBoundary(admit)
        self.tls = ServerTls(tls)
        self._services = services
        self._request_bytes = request_bytes
        self._connection_age_s = connection_age_s
        self._names = ["", *(service.name for service in services)]
        self._health = health.aio.HealthServicer()
        self.serving = False
        """Whether work is welcome, as health checks are told."""
        check_free(setting, address)
        self._server, self.address = self._bound(setting, address, shared=False)
        self._shared: grpc.aio.Server | None = None
        self._shared_port = 0

    def _bound(self, setting: str, address: str, *, shared: bool) -> tuple[grpc.aio.Server, str]:
        """Returns a server that has the address, and the address with its port."""
        server = grpc.aio.server(
            options=channel_arguments.server(
                self._request_bytes, shared=shared, connection_age_s=self._connection_age_s
            ),
            interceptors=[self._boundary],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        for service in self._services:
            service.add(service.servicer, server)
        enable_reflection(server, [*self._names[1:], health.SERVICE_NAME])
        try:
            credentials = self.tls.credentials()
            if credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ListenError(setting, address, "gRPC can't open the port") from error
        return server, f"{address.rpartition(':')[0]}:{port}"

    async def start(self) -> None:
        """Starts to answer; every service is NOT_SERVING until `set_serving`."""
        await self.set_serving(serving=False)
        await self._server.start()
        log.info("listening", address=self.address)

    async def share(self, address: str) -> None:
        """Answers on an address as well that other processes listen on too (SO_REUSEPORT).

        Each of them gets a share of the connections, for good.

        Raises:
            ListenError: the address can't be listened on.
        """
        self._shared, _ = self._bound("--listen", address, shared=True)
        self._shared_port = _port(address)
        await self._shared.start()
        log.info("sharing", address=address)

    async def set_serving(self, *, serving: bool) -> None:
        """Tells health checks, by service and for the whole server, whether work is welcome."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        self.serving = serving
        value = status.SERVING if serving else status.NOT_SERVING
        for name in self._names:
            await self._health.set(name, value)

    async def stop_sharing(self) -> None:
        """Leaves new connections to the others; a call that is on its way has a moment to come."""
        if self._shared is not None:
            stop_listening(self._shared_port)
            await asyncio.sleep(FAREWELL_S)

    async def leave_shared(self, grace_s: float) -> None:
        """Lets callers go to the others, after `stop_sharing`; calls in flight have the grace.

        Connections that no call uses are closed, and after
        a time callers on the others are told to connect anew for their next call (GOAWAY). Not
        sooner: gRPC ends with a bare CANCELLED what arrives before its caller has heard of that,
        and by then callers that keep to `retry_after` are waiting.
        """
        if self._shared is None:
            return
        idle: set[str] = set()
        until_s = time.monotonic() + RETRY_S
        while time.monotonic() < until_s:
            # Idle twice, since a call's status may have yet to leave.
            before, idle = idle, peers(self._shared_port) - self._boundary.peers()
            disconnect(self._shared_port, before & idle)
            await asyncio.sleep(FAREWELL_S)
        await self._shared.stop(grace_s)

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Stops listening; what is still open has the grace and is then refused as DRAINING.

        New calls are refused so to the end. Then the connections are closed before gRPC stops,
        since it ends with a bare CANCELLED what arrives between its stop and the caller's hearing
        of it; over a closed connection a call is UNAVAILABLE. Before that no new one is accepted:
        a caller that calls without a pause connects anew at once.
        """
        await self._health.enter_graceful_shutdown()
        await self._boundary.close(grace_s)
        await asyncio.sleep(FAREWELL_S)
        port = _port(self.address)
        stop_listening(port)
        disconnect(port)
        if self._shared is not None:
            disconnect(self._shared_port)
            await self._shared.stop(grace_s)
        await self._server.stop(grace_s)


def log_draining(grace_s: float) -> None:
    """Logs that the drain begins, and on a terminal how not to wait for it."""
    hint = {"hint": "Ctrl-C again to stop now"} if sys.stderr.isatty() else {}
    log.info("draining", grace_s=grace_s, **hint)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
