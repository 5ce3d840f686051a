"""What one generation holds that others wait for, or that outlives a forgotten object."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from tokenwire_frontend.generation.queues import Ticket


class Lease:
    """A place among this frontend's generations, a way to a worker, and timers.

    The place is given back once, when the lease is closed and no worker has the generation any
    more: until then it is the worker's work that is bounded, whether or not anyone still wants it.

    Args:
        ticket: the way to a worker.
        give_back: gives the place back.
        left_worker: called when a worker has let go of it: there is room for another.
    """

    __slots__ = ("_at_workers", "_closed", "_give_back", "_left_worker", "_timers", "ticket")

    def __init__(
        self,
        ticket: Ticket,
        give_back: Callable[[], None],
        left_worker: Callable[[], None] = lambda: None,
    ) -> None:
        self.ticket = ticket
        self._give_back = give_back
        self._left_worker = left_worker
        self._timers: list[asyncio.TimerHandle] = []
        self._at_workers = 0
        self._closed = False

    def call_later(self, delay_s: float, call: Callable[..., None], *arguments: object) -> None:
        """Calls that long from now, unless the lease is closed before."""
        if not self._closed:
            loop = asyncio.get_running_loop()
            self._timers.append(loop.call_later(delay_s, call, *arguments))

    def lend(self, *, arrived: bool = True) -> None:
        """Notes that a worker was sent the generation, and has it until `regain`.

        Where it has not `arrived`, it is still to go on to another, which is to have room for it.
        """
        self._at_workers += 1
        if arrived:
            self.ticket.arrived()
        self.ticket.sent_s = self.ticket.sent_s or time.monotonic()

    def regain(self) -> None:
        """Notes that the worker has let go of it."""
        self._at_workers -= 1
        self.ticket.left_s = time.monotonic()
        self._left_worker()
        self._settle()

    def close(self) -> None:
        """Ends the timers, and gives the place back as soon as no worker has the generation."""
        if self._closed:
            return
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self.ticket.close()
        self._settle()

    def _settle(self) -> None:
        if self._closed and not self._at_workers:
            self._give_back()
