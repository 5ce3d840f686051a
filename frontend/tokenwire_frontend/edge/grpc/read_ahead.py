"""Messages of a stream that are read while those before them are worked on.

So bytes that are no message end the call at once, and not after what waits before them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, Self, TypeVar

from google.protobuf.message import Message
from tokenwire_service.tasks import Scope

MessageT = TypeVar("MessageT", bound=Message)


class ReadAhead:
    """What the streams of a service have read ahead.

    Args:
        limit_bytes: of all messages that wait; where it is met, each stream still reads one.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.changed = asyncio.Event()
        """Set when a message has been taken."""
        self._limit_bytes = limit_bytes
        self._held_bytes = 0

    @property
    def full(self) -> bool:
        """As much waits as may."""
        return self._held_bytes >= self._limit_bytes

    def count(self, size_bytes: int) -> None:
        """Adds what waits now, or takes off what does no more."""
        self._held_bytes += size_bytes
        if size_bytes < 0:
            self.changed.set()

    @asynccontextmanager
    async def of(self, stream: AsyncIterator[MessageT]) -> AsyncIterator[_Ahead[MessageT]]:
        """Reads a stream inside the block; iterate over what it gives."""
        ahead = _Ahead(stream, self)
        try:
            async with Scope("read_ahead") as scope:
                scope.start(ahead.read(), on_fault=ahead.end)
                yield ahead
        finally:
            ahead.drop()


class _Ahead(Generic[MessageT]):
    def __init__(self, stream: AsyncIterator[MessageT], together: ReadAhead) -> None:
        self._stream = stream
        self._together = together
        self._waiting: deque[tuple[MessageT, int]] = deque()
        self._news = asyncio.Event()
        self._end: Exception | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MessageT:
        while not self._waiting:
            if self._end is not None:
                raise self._end
            self._news.clear()
            await self._news.wait()
        message, size = self._waiting.popleft()
        self._together.count(-size)
        return message

    async def read(self) -> None:
        together = self._together
        async for message in self._stream:
            size = message.ByteSize()
            self._waiting.append((message, size))
            together.count(size)
            self._news.set()
            while self._waiting and together.full:
                together.changed.clear()
                await together.changed.wait()
        self.end(StopAsyncIteration())

    def end(self, how: Exception) -> None:
        self._end = how
        self._news.set()

    def drop(self) -> None:
        self._together.count(-sum(size for _, size in self._waiting))
        self._waiting.clear()
