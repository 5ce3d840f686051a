"""What one generation holds that others wait for, or that outlives a forgotten object."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Lease:
    """A place among this frontend's generations, and timers; given back once, by `close`.

    Args:
        give_back: gives the place back.
    """

    __slots__ = ("_give_back", "_timers")

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back: Callable[[], None] | None = give_back
        self._timers: list[asyncio.TimerHandle] = []

    def call_later(self, delay_s: float, call: Callable[..., None], *arguments: object) -> None:
        """Calls that long from now, unless the lease is closed before."""
        if self._give_back is not None:
            loop = asyncio.get_running_loop()
            self._timers.append(loop.call_later(delay_s, call, *arguments))

    def close(self) -> None:
        """Gives everything back; a second time nothing."""
        give_back, self._give_back = self._give_back, None
        if give_back is None:
            return
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        give_back()
