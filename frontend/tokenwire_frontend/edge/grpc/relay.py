"""Calls that are sent on to the process that has their generation.

Messages pass as bytes, unread. One is read from the owner when the one before was written, so a
client that reads slowly finds its deltas merged there; a call that ends here ends there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from opentelemetry import trace
from tokenwire.channel_arguments import WORKER_HOP
from tokenwire_service.errors import Code, ServiceError
from tokenwire_service.status import UNKNOWN, from_rpc_error
from tokenwire_service.telemetry import tracing
from tokenwire_service.tls import Credentials

from tokenwire_frontend import kept_errors
from tokenwire_frontend.core.voucher import Vouchers
from tokenwire_frontend.edge import callers
from tokenwire_frontend.edge.grpc.owners import SENDER_KEY, Place

SERVICE = "/tokenwire.frontend.v1.GenerationService/"

CHANNELS_LIMIT = 1024
"""Owners to which a connection is kept: frontends of a fleet and processes of this one, of which
those that were started anew have new addresses."""

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True, eq=False)
class _Connection:
    """One to an owner."""

    channel: grpc.aio.Channel
    credentials: grpc.ChannelCredentials | None
    """Once there are others, the next call has another connection."""
    calls: int = 0
    left: bool = False
    """It gets no further call, and is closed with the last one that it has."""

    async def leave(self) -> None:
        self.left = True
        if not self.calls:
            await self.channel.close()


class Relay:
    """Connections to other frontends, and to other processes of this one.

    Args:
        credentials: of these connections.
        vouchers: tell the owner who calls.
    """

    def __init__(self, credentials: Credentials, vouchers: Vouchers) -> None:
        self._credentials = credentials
        self._vouchers = vouchers
        self._connections: dict[str, _Connection] = {}
        """By address; the one used last is last."""

    async def unary(self, place: Place, method: str, request: Message, context: Context) -> bytes:
        """Returns the owner's answer.

        Raises:
            ServiceError: the owner's, or that it can't be reached.
        """
        async with self._connected(place.address) as channel:
            method_there: Any = channel.unary_unary(SERVICE + method)
            call = method_there(request.SerializeToString(), **self._told(place, context))
            async with _errors_of(place.address, call):
                answer: bytes = await call
                return answer

    async def stream(self, place: Place, method: str, request: Message, context: Context) -> None:
        """Writes the owner's events.

        Raises:
            ServiceError: as with `unary`.
        """
        async with self._connected(place.address) as channel:
            method_there: Any = channel.unary_stream(SERVICE + method)
            call = method_there(request.SerializeToString(), **self._told(place, context))
            async with _errors_of(place.address, call):
                async for message in call:
                    await context.write(message)

    @asynccontextmanager
    async def session(self, place: Place, context: Context) -> AsyncIterator[Any]:
        """Opens a Session at the owner, which ends with the block; messages are bytes.

        Raises:
            ServiceError: as with `unary`, of what the block reads.
        """
        async with self._connected(place.address) as channel:
            method_there: Any = channel.stream_stream(SERVICE + "Session")
            call = method_there(**self._told(place, context))
            async with _errors_of(place.address, call):
                yield call

    async def close(self) -> None:
        """Closes every connection."""
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.channel.close()

    def _told(self, place: Place, context: Context) -> dict[str, Any]:
        """Returns what the owner is told beside the request."""
        headers = tracing.inject(trace.get_current_span().get_span_context())
        caller = callers.VOUCHER_KEY, self._vouchers.write(callers.current())
        metadata = (*headers.items(), caller, (SENDER_KEY, place.sender.name.lower()))
        return {"metadata": metadata, "timeout": context.time_remaining()}

    @asynccontextmanager
    async def _connected(self, address: str) -> AsyncIterator[grpc.aio.Channel]:
        """Offers a connection, which lasts for as long as the block."""
        found = self._connections.pop(address, None)
        credentials = self._credentials()
        if found is not None and found.credentials is credentials:
            connection, superfluous = found, None
        else:
            connection, superfluous = (
                _Connection(_channel(address, credentials), credentials),
                found,
            )
        self._connections[address] = connection
        if len(self._connections) > CHANNELS_LIMIT:
            superfluous = self._connections.pop(next(iter(self._connections)))
        connection.calls += 1
        try:
            if superfluous is not None:
                await superfluous.leave()
            yield connection.channel
        finally:
            connection.calls -= 1
            if connection.left:
                await connection.leave()


def _channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address, WORKER_HOP)
    return grpc.aio.secure_channel(address, credentials, WORKER_HOP)


@asynccontextmanager
async def _errors_of(address: str, call: Any) -> AsyncIterator[None]:
    """Ends the call with the block, and says what the owner says where that fails."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise _error(address, from_rpc_error(error)) from error
    finally:
        call.cancel()


def _error(address: str, told: ServiceError) -> ServiceError:
    """Returns what the client is told; an error without a reason is not the owner's word."""
    if told.reason == UNKNOWN and told.code in (Code.UNAVAILABLE, Code.CANCELLED, Code.UNKNOWN):
        return kept_errors.owner_unreachable(address)
    return told
