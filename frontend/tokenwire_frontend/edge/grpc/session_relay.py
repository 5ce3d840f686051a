"""One generation of a session that another process has.

It has a Session of its own there, with the client's number, so that commands and events pass as
they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from tokenwire.frontend.v1 import generation_pb2
from tokenwire_service.tasks import Scope

from tokenwire_frontend import errors
from tokenwire_frontend.generation.reader import Reader

Request = generation_pb2.SessionRequest
Response = generation_pb2.SessionResponse


class SessionRelay:
    """Stands where a reader stands otherwise.

    Args:
        number: the client's.
        on_news: called when there is a message to `take`; not again until it was taken.
    """

    def __init__(self, number: int, on_news: Callable[[], None]) -> None:
        self.over = False
        """The generation's last event was taken."""
        self._number = number
        self._on_news = on_news
        self._message = b""
        self._last = False
        self._taken = asyncio.Event()
        self._credit = 0
        self._cancelled = False
        self._commands = asyncio.Event()

    def take_over(self, reader: Reader, request: Request) -> None:
        """Goes on from a reader that has read nothing.

        Args:
            reader: what the client has commanded since.
            request: what begins the generation at the owner; gets the credit that there is.
        """
        if reader.cancelled:
            self.cancel()
        beginning = request.attaches[0] if request.attaches else request.open
        kind = beginning.WhichOneof("credit")
        if kind is not None and reader.credit is not None:
            setattr(beginning, kind, reader.credit.left)

    def cancel(self) -> None:
        """Ends the generation; what exists and the end still come."""
        self._cancelled = True
        self._commands.set()

    def grant(self, amount: int) -> None:
        """Adds credit."""
        self._credit += amount
        self._commands.set()

    def close(self) -> None:
        """Does nothing: the session's end is told by its task."""

    def take_plain(self, _max_bytes: int) -> None:
        """Takes nothing: what comes are events."""

    def take(self) -> bytes:
        """Returns the events that came, and lets the next come."""
        message, self._message, self.over = self._message, b"", self._last
        self._taken.set()
        return message

    async def run(self, call: Any, request: Request) -> None:
        """Passes commands and events until the client has been given the last.

        Args:
            call: the Session at the owner, whose messages are bytes.
            request: what begins it.

        Raises:
            ServiceError: the owner ended the session before the generation.
            AioRpcError: the call failed.
        """
        await call.write(request.SerializeToString())
        async with Scope("session_relay") as scope:
            scope.start(self._send(call))
            while not self._last:
                message = await call.read()
                if message is grpc.aio.EOF:
                    raise errors.draining()
                if self._keep(Response.FromString(message)):
                    self._taken.clear()
                    self._on_news()
                    await self._taken.wait()

    def _keep(self, response: Response) -> bool:
        """Keeps what is of this generation, to be taken; returns whether anything is."""
        events = [event for event in response.events if event.id == self._number]
        self._last = any(each.HasField("completed") or each.HasField("error") for each in events)
        self._message = Response(events=events).SerializeToString()
        return bool(events)

    async def _send(self, call: Any) -> None:
        """Sends what the client commands."""
        while True:
            await self._commands.wait()
            self._commands.clear()
            request = Request()
            if self._cancelled:
                self._cancelled = False
                request.cancels.add(id=self._number)
            if self._credit:
                amount, self._credit = min(self._credit, 2**32 - 1), 0
                request.credits.add(id=self._number, amount=amount)
            await call.write(request.SerializeToString())
