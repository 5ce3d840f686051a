"""Hears an engine on any thread and hands over to the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tokenwire_worker.engines.port import KvEvent, Step


class LoopListener:
    """An EngineListener whose callbacks run on an event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_step: Callable[[Step, float], None],
        on_death: Callable[[str], None],
        on_kv_events: Callable[[Sequence[KvEvent]], None],
    ) -> None:
        """Binds to the running event loop, which is this one."""
        self.loop = loop
        self._thread = threading.get_ident()
        # The engine's thread has no context of its own; log lines take theirs from the loop's.
        self._context = contextvars.copy_context()
        self._on_step = on_step
        self._on_death = on_death
        self._on_kv_events = on_kv_events

    def on_step(self, step: Step) -> None:
        """Hands a step over, with the time of its end: a busy loop hears of it later."""
        self._call(self._on_step, step, time.monotonic())

    def on_death(self, reason: str) -> None:
        """Hands the engine's death over."""
        self._call(self._on_death, reason)

    def on_kv_events(self, events: Sequence[KvEvent]) -> None:
        """Hands what happened to the KV cache over."""
        self._call(self._on_kv_events, events)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        # Waking a loop costs more than routing a step, and it is awake if it calls this itself.
        here = threading.get_ident() == self._thread
        call = self.loop.call_soon if here else self.loop.call_soon_threadsafe
        call(function, *arguments, context=self._context)
