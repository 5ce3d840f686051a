"""What one generation holds that others wait for, or that outlives a forgotten object."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Lease:
    """A place among this frontend's generations, and timers.

    The place is given back once, when the lease is closed and no worker has the generation any
    more: until then it is the worker's work that is bounded, whether or not anyone still wants it.

    Args:
        give_back: gives the place back.
    """

    __slots__ = ("_at_workers", "_closed", "_give_back", "_timers")

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._timers: list[asyncio.TimerHandle] = []
        self._at_workers = 0
        self._closed = False

    def call_later(self, delay_s: float, call: Callable[..., None], *arguments: object) -> None:
        """Calls that long from now, unless the lease is closed before."""
        if not self._closed:
            loop = asyncio.get_running_loop()
            self._timers.append(loop.call_later(delay_s, call, *arguments))

    def lend(self) -> None:
        """Notes that a worker was sent the generation, and has it until `regain`."""
        self._at_workers += 1

    def regain(self) -> None:
        """Notes that the worker has let go of it."""
        self._at_workers -= 1
        self._settle()

    def close(self) -> None:
        """Ends the timers, and gives the place back as soon as no worker has the generation."""
        if self._closed:
            return
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._settle()

    def _settle(self) -> None:
        if self._closed and not self._at_workers:
            self._give_back()
