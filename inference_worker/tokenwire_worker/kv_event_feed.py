"""Hands the KV cache's events to whoever watches them; on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import structlog

from tokenwire_worker.core.kv_events import KvEventLog
from tokenwire_worker.engines.port import KvCleared, KvEvent

log = structlog.get_logger()


class KvEventFeed:
    """The log of KV cache events, and the watches that read it, each at its own pace."""

    def __init__(self, events: KvEventLog | None = None) -> None:
        """Starts with an empty log."""
        self._log = events or KvEventLog()
        self._watches: set[asyncio.Event] = set()
        self._ended = False

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
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        for news in self._watches:
            news.set()

    async def watch(self, first_number: int) -> AsyncGenerator[tuple[int, KvEvent], None]:
        """Yields events with their numbers, until `end`.

        Args:
            first_number: number to begin with; 0: the next that comes.

        Raises:
            NumberGoneError: a number is not kept any more, or lies beyond the next.
        """
        number = first_number or self._log.next_number
        news = asyncio.Event()
        self._watches.add(news)
        try:
            while True:
                news.clear()
                while (event := self._log.get(number)) is not None:
                    yield number, event
                    number += 1
                if self._ended:
                    return
                await news.wait()
        finally:
            self._watches.discard(news)
