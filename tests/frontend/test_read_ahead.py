"""How far the streams of a service are read ahead of the work on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tokenwire.frontend.v1.tokenization_pb2 import StreamTokenizeRequest
from tokenwire_frontend.edge.grpc.read_ahead import ReadAhead

MESSAGE = StreamTokenizeRequest(text="x" * 100)
SIZE = MESSAGE.ByteSize()


class Source:
    """A stream of so many messages that counts those which were read."""

    def __init__(self, count: int) -> None:
        self.read = 0
        self._count = count

    async def __aiter__(self) -> AsyncIterator[StreamTokenizeRequest]:
        while self.read < self._count:
            self.read += 1
            yield MESSAGE


async def settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_streams_are_read_as_far_as_all_of_them_may_and_each_by_one():
    together = ReadAhead(10 * SIZE)
    first, second = Source(100), Source(100)
    async with together.of(first.__aiter__()) as ahead, together.of(second.__aiter__()) as other:
        await settled()
        assert first.read + second.read == 11
        assert min(first.read, second.read) >= 1
        for _ in range(5):
            assert await anext(ahead) == MESSAGE
        await settled()
        assert first.read + second.read == 15
        assert [message async for message in other] == [MESSAGE] * 100
        assert [message async for message in ahead] == [MESSAGE] * 95
    assert together._held_bytes == 0


async def test_what_a_stream_leaves_makes_room_for_others():
    together = ReadAhead(10 * SIZE)
    async with together.of(Source(100).__aiter__()):
        await settled()
        assert together.full
        second = Source(100)
        async with together.of(second.__aiter__()):
            await settled()
            assert second.read == 1
    assert together._held_bytes == 0
    assert not together.full


async def test_a_stream_that_fails_fails_behind_what_it_brought():
    async def fails() -> AsyncIterator[StreamTokenizeRequest]:
        yield MESSAGE
        raise LookupError

    async with ReadAhead(2**20).of(fails()) as ahead:
        await settled()
        assert await anext(ahead) == MESSAGE
        with pytest.raises(LookupError):
            await anext(ahead)
