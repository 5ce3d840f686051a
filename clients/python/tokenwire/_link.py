"""One stream of a session: what is sent on it, and which generations are open there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import grpc

from tokenwire._ending import Ending
from tokenwire._frontends import AsyncFrontend
from tokenwire._trace import Trace
from tokenwire.errors import TokenwireError, from_rpc_error
from tokenwire.frontend.v1 import generation_pb2

if TYPE_CHECKING:
    from tokenwire._lane import Lane

_LARGEST_ID = 2**32 - 1


class Link:
    """A stream to one frontend.

    Args:
        frontend: whose it is.
        trace: of the stream's own span.
        take: called with each event.
    """

    def __init__(
        self,
        frontend: AsyncFrontend,
        trace: Trace,
        take: Callable[[Link, generation_pb2.SessionEvent], None],
    ) -> None:
        self.frontend = frontend
        self.lanes: dict[int, Lane] = {}
        """The generations that are open, by number."""
        self._trace = trace
        self._take = take
        self._last_id = 0
        self._is_left = False
        self._commands: asyncio.Queue[generation_pb2.SessionRequest | None] = asyncio.Queue()

    def add(self, lane: Lane) -> int:
        """Returns the number of one more generation."""
        # Ascending, so that a cancel that crossed a generation's end never meets the next one.
        while True:
            self._last_id = self._last_id % _LARGEST_ID + 1
            if self._last_id not in self.lanes:
                self.lanes[self._last_id] = lane
                return self._last_id

    def remove(self, number: int) -> None:
        """Notes that a number is free again."""
        self.lanes.pop(number, None)
        if self._is_left and not self.lanes:
            self.finish()

    def send(self, command: generation_pb2.SessionRequest) -> None:
        """Sends a command, after those before it."""
        self._commands.put_nowait(command)

    def leave(self) -> None:
        """Notes that nothing more will be opened: the stream ends when nothing is open."""
        self._is_left = True
        if not self.lanes:
            self.finish()

    def finish(self) -> None:
        """Ends the sending side."""
        self._commands.put_nowait(None)

    async def read(self) -> TokenwireError | None:
        """Reads until the stream ends; returns what it failed with."""
        trace = self._trace
        try:
            call = trace.start(self.frontend.generation.Session, self._write())
            ending = Ending(call)
            async for response in call:
                for event in response.events:
                    self._take(self, event)
        except grpc.RpcError as failure:
            real = ending.real(failure)
            return None if real is None else from_rpc_error(real, trace.trace_id)
        return None

    def broken_off(self) -> list[Lane]:
        """Returns what was open, and lets go of it."""
        lanes = list(self.lanes.values())
        self.lanes.clear()
        self.finish()
        return lanes

    async def _write(self) -> AsyncIterator[generation_pb2.SessionRequest]:
        # gRPC takes one write at a time on a stream; the queue puts them in order.
        while (command := await self._commands.get()) is not None:
            yield command
