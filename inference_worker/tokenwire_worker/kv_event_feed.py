"""Hands the KV cache's events to whoever watches them; on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

import structlog

from tokenwire_worker.core.kv_events import EVENT_WORDS, KvEventLog
from tokenwire_worker.engines.port import KvCleared, KvEvent

log = structlog.get_logger()


class KvEventFeed:
    """The log of KV cache events, and the watches that read it, each at its own pace."""

    def __init__(self, events: KvEventLog | None = None) -> None:
        """Starts with an empty log."""
        self._log = events or KvEventLog()
        self._watches: set[asyncio.Event] = set()
        self._ended = asyncio.Event()

    def publish(self, events: Sequence[KvEvent]) -> None:
        """Takes events from the engine.

        One that can't be understood stands for lost count: whoever mirrors the cache starts over.
        """
        try:
            self._log.append(events)
        except Exception:
            log.exception("engine_event_fault")
            self._log.append([KvCleared()])
        self._wake()

    def end(self) -> None:
        """Ends every watch, once it has told what is there."""
        self._ended.set()
        self._wake()

    def _wake(self) -> None:
        for news in self._watches:
            news.set()

    async def watch(
        self, first_number: int, interval_s: float = 0.0
    ) -> AsyncGenerator[tuple[int, list[KvEvent]], None]:
        """Yields events, each time with the first one's number, until `end`.

        Args:
            first_number: number to begin with; 0: the next that comes.
            interval_s: time for which events are gathered, until they are as many as a message
                takes; 0: they come one by one.

        Raises:
            NumberGoneError: a number is not kept any more, or lies beyond the next.
        """
        number = first_number or self._log.next_number
        most_words = EVENT_WORDS if interval_s else 0
        news = asyncio.Event()
        self._watches.add(news)
        try:
            while True:
                news.clear()
                while events := self._log.batch(number, most_words):
                    yield number, events
                    number += len(events)
                if self._ended.is_set():
                    return
                await news.wait()
                if interval_s:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(interval_s):
                            await self._ended.wait()
        finally:
            self._watches.discard(news)
