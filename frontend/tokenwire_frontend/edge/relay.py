"""Calls that are sent on to the process that has their generation.

Messages pass as bytes, unread. One is read from the owner when the one before was written, so a
client that reads slowly finds its deltas merged there; a call that ends here ends there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import Message
from opentelemetry import trace
from tokenwire.channel_arguments import WORKER_HOP
from tokenwire_service.errors import Code, ServiceError
from tokenwire_service.status import UNKNOWN, from_rpc_error
from tokenwire_service.telemetry import tracing
from tokenwire_service.tls import Credentials

from tokenwire_frontend import errors
from tokenwire_frontend.core.voucher import Vouchers
from tokenwire_frontend.edge import callers
from tokenwire_frontend.edge.owners import SENDER_KEY, Place

SERVICE = "/tokenwire.frontend.v1.GenerationService/"

CHANNELS_LIMIT = 1024
"""Owners to which a connection is kept: frontends of a fleet and processes of this one, of which
those that were started anew have new addresses."""

Context = grpc.aio.ServicerContext[Any, Any]

_Key = tuple[str, grpc.ChannelCredentials | None]
"""Address and credentials: a connection that was made with others serves its calls to their end."""


class Relay:
    """Connections to other frontends, and to other processes of this one.

    Args:
        credentials: of these connections.
        vouchers: tell the owner who calls.
    """

    def __init__(self, credentials: Credentials, vouchers: Vouchers) -> None:
        self._credentials = credentials
        self._vouchers = vouchers
        self._channels: dict[_Key, grpc.aio.Channel] = {}

    async def unary(self, place: Place, method: str, request: Message, context: Context) -> bytes:
        """Returns the owner's answer.

        Raises:
            ServiceError: the owner's, or that it can't be reached.
        """
        method_there: Any = (await self._channel(place.address)).unary_unary(SERVICE + method)
        call = method_there(request.SerializeToString(), **self._told(place, context))
        async with _errors_of(place.address, call):
            answer: bytes = await call
            return answer

    async def stream(self, place: Place, method: str, request: Message, context: Context) -> None:
        """Writes the owner's events.

        Raises:
            ServiceError: as with `unary`.
        """
        method_there: Any = (await self._channel(place.address)).unary_stream(SERVICE + method)
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
        method_there: Any = (await self._channel(place.address)).stream_stream(SERVICE + "Session")
        call = method_there(**self._told(place, context))
        async with _errors_of(place.address, call):
            yield call

    async def close(self) -> None:
        """Closes every connection."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    def _told(self, place: Place, context: Context) -> dict[str, Any]:
        """Returns what the owner is told beside the request."""
        headers = tracing.inject(trace.get_current_span().get_span_context())
        caller = callers.VOUCHER_KEY, self._vouchers.write(callers.current())
        metadata = (*headers.items(), caller, (SENDER_KEY, place.sender.name.lower()))
        return {"metadata": metadata, "timeout": context.time_remaining()}

    async def _channel(self, address: str) -> grpc.aio.Channel:
        credentials = self._credentials()
        channel = self._channels.pop((address, credentials), None)
        if channel is None:
            if len(self._channels) >= CHANNELS_LIMIT:
                await self._channels.pop(next(iter(self._channels))).close(None)
            if credentials is None:
                channel = grpc.aio.insecure_channel(address, WORKER_HOP)
            else:
                channel = grpc.aio.secure_channel(address, credentials, WORKER_HOP)
        self._channels[address, credentials] = channel  # the one used last is last
        return channel


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
        return errors.owner_unreachable(address)
    return told
