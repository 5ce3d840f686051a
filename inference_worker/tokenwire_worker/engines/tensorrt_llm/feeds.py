"""Follows TensorRT-LLM's statistics and KV cache events, which end whenever there is a silence.

Both come from an object that exists only once a request has been submitted, that yields until
nothing has come for a while, and that then counts as done until the next request; `mark_undone`
has it yield again for requests that are still running.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Sequence
from typing import Any

import structlog

from tokenwire_worker.engines.port import KvEvent
from tokenwire_worker.engines.tensorrt_llm.kv_events import KvEventReader

log = structlog.get_logger()

SILENCE_S = 2.0
"""Silence after which an iteration ends; TensorRT-LLM's own default."""

PAUSE_S = 0.1
"""Between two iterations, so that one that ends at once does not keep the loop busy."""

RETRY_S, LONGEST_RETRY_S = 1.0, 60.0
"""After an error, and after many in a row. Event threads have been seen to fail and go on
(TensorRT-LLM issue 4666); with orchestrators that are prototypes there may be none at all."""


async def follow_statistics(
    llm: Any, submitted: asyncio.Event, take: Callable[[dict[str, Any]], None]
) -> None:
    """Hands on the statistics of each iteration, for ever.

    Args:
        llm: the tensorrt_llm.LLM, made with enable_iter_perf_stats.
        submitted: set once a request has been submitted.
        take: takes them.
    """
    await submitted.wait()
    retry = _Retry("engine_statistics_failed")
    while True:
        try:
            async for statistics in _undone(llm.get_stats_async(timeout=SILENCE_S)):
                take(statistics)
                retry.reset()
        except Exception as error:  # noqa: BLE001 - load is worth less than what it tells of
            await retry.after(error)
        await asyncio.sleep(PAUSE_S)


async def follow_kv_events(
    llm: Any,
    submitted: asyncio.Event,
    reader: KvEventReader,
    take: Callable[[Sequence[KvEvent]], None],
) -> None:
    """Hands on what happens to the KV cache, for ever.

    Args:
        llm: the tensorrt_llm.LLM, made with an event_buffer_max_size.
        submitted: set once a request has been submitted.
        reader: reads its events.
        take: takes the port's.
    """
    await submitted.wait()
    retry = _Retry("engine_kv_events_failed")
    while True:
        try:
            async for news in _undone(llm.get_kv_cache_events_async(timeout=SILENCE_S)):
                take(reader.read(news))
                retry.reset()
        except Exception as error:  # noqa: BLE001 - routing goes on without
            take([reader.lose_count()] if reader.has_read else [])
            await retry.after(error)
        await asyncio.sleep(PAUSE_S)


def _undone(iteration: AsyncIterable[Any]) -> AsyncIterable[Any]:
    # Before there is anything to tell it is a plain empty iterable.
    mark_undone = getattr(iteration, "mark_undone", None)
    if mark_undone is not None:
        mark_undone()
    return iteration


class _Retry:
    """Waits after errors, longer for each in a row."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._wait_s = RETRY_S

    def reset(self) -> None:
        """Notes that all is well."""
        self._wait_s = RETRY_S

    async def after(self, error: Exception) -> None:
        """Logs an error and waits."""
        log.warning(self._event, error=str(error) or type(error).__name__, retry_s=self._wait_s)
        await asyncio.sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, LONGEST_RETRY_S)
