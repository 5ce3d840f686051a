"""The link to a worker, on streams that a test ends when it likes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tokenwire_frontend.workers.link import WorkerLink


class EndedStream:
    """What the worker has closed."""

    def __aiter__(self) -> EndedStream:
        return self

    async def __anext__(self) -> Any:
        raise StopAsyncIteration

    def cancel(self) -> None: ...


class LateStream(EndedStream):
    """Takes its time to end when it is cancelled."""

    def __init__(self) -> None:
        self.ending = asyncio.Event()
        self.end = asyncio.Event()

    async def __anext__(self) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            self.ending.set()
            await self.end.wait()


class Streams:
    """Both stubs of a worker."""

    def __init__(self) -> None:
        self.load = LateStream()

    def Exchange(self, _requests: Any) -> EndedStream:
        return EndedStream()

    def WatchLoad(self, _request: Any) -> EndedStream:
        return self.load


async def nothing(*_: Any) -> None: ...


async def test_a_link_ends_when_its_worker_does_at_the_same_time(monkeypatch):
    """A cancel that comes while the streams of a worker are being ended is not lost."""
    link = WorkerLink("127.0.0.1:1", None, nothing, lambda: None)
    streams = Streams()
    monkeypatch.setattr(link, "_execution", streams)
    monkeypatch.setattr(link, "_worker", streams)
    monkeypatch.setattr(link, "_handshake", nothing)
    running = asyncio.create_task(link.run())
    await asyncio.wait_for(streams.load.ending.wait(), 10)
    running.cancel()
    streams.load.end.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(running), 10)
