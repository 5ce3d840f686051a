"""A call's messages, as the handlers of streams get them in place of gRPC's context.

Two things that grpc.aio leaves to chance at a stream's end are settled here, for every handler:

- While a stream's first write is in flight, no status can be sent, and never again once that write
  was cancelled: its batch and the status's would both open the stream. The call would never end.
  So the first write goes on though its handler is cancelled, and the status waits for it. A later
  write needs no care: gRPC sends the status behind it.
- Bytes that are no message would be an exception of whichever task reads, which the call may never
  come to see. So they end the call itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

import grpc
from google.protobuf.message import DecodeError

from tokenwire_service.tasks import Scope


class Stream:
    """Reads and writes one call's messages; what it does not have itself is the context's.

    Args:
        context: gRPC's.
        scope: that of the call.
        on_malformed: told of bytes that are no message; it cancels the call's task.
        on_gone: told that the caller has gone; as above.
    """

    def __init__(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        scope: Scope,
        on_malformed: Callable[[DecodeError], None],
        on_gone: Callable[[], object],
    ) -> None:
        self._context = context
        self._scope = scope
        self._on_malformed = on_malformed
        self._on_gone = on_gone
        self._first: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        message = await self.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

    async def read(self) -> Any:
        """Returns the next message, or EOF."""
        message = await self._context.read()
        if isinstance(message, DecodeError):
            self._on_malformed(message)
            # Nothing comes after it; whoever reads is cancelled with the call.
            await asyncio.get_running_loop().create_future()
        return message

    async def write(self, message: Any) -> None:
        """Sends a message; one at a time.

        A caller that has gone makes it fail, maybe before gRPC cancels the handler for that: then
        the handler is cancelled here.
        """
        try:
            if self._first is None:
                self._first = self._scope.start(self._open(message))
                await self.settled()
                if self._failure is not None:
                    raise self._failure
            else:
                await self._context.write(message)
        except grpc.aio.InternalError:
            self._on_gone()
            await asyncio.get_running_loop().create_future()

    async def settled(self) -> None:
        """Waits until a status can be sent."""
        if self._first is not None and not self._first.done():
            await asyncio.shield(self._first)

    async def _open(self, message: Any) -> None:
        try:
            await self._context.write(message)
        except Exception as error:  # noqa: BLE001 - it is the handler's
            self._failure = error
