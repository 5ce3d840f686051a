"""Streams write in turns, so that load makes their messages larger and no queue longer.

Each write of a stream takes the event loop 30 to 100 microseconds, nearly all gRPC's. If all
streams wrote at each step of a worker, the loop would come to read the next frame only after them,
at most one frame a round, and gRPC hands over one new call in a round: from some hundred streams
on, both would wait in gRPC. So only a few are let through in a turn of the loop. Whatever comes
meanwhile joins the deltas of those that wait.
"""

from __future__ import annotations

import asyncio
from collections import deque

from tokenwire_frontend import poller

TURN_STREAMS = 4
"""Streams let through in a turn: a fraction of a millisecond of writing. With 64 no token was
cheaper, and a call's first token took about twice as long at 64 streams."""

BEHIND_STREAMS = 64
"""Streams that wait where the loop does not keep up. It never sleeps then, so that on its core
gRPC's thread, which reads what has come, would run only every few milliseconds."""


class Turnstile:
    """Lets some streams through in each turn of the event loop, in the order they came."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Event] = deque()
        self._let_through = 0
        """In this turn."""

    def pass_through(self, ready: asyncio.Event) -> None:
        """Sets the event, now or in one of the next turns; not again until it was set."""
        if not self._let_through:
            asyncio.get_running_loop().call_soon(self._turn)
        if self._let_through < TURN_STREAMS and not self._waiting:
            self._let_through += 1
            ready.set()
        else:
            self._waiting.append(ready)

    def _turn(self) -> None:
        waiting = self._waiting
        if len(waiting) > BEHIND_STREAMS:
            poller.let_run()
        self._let_through = min(len(waiting), TURN_STREAMS)
        for _ in range(self._let_through):
            waiting.popleft().set()
        if self._let_through:
            asyncio.get_running_loop().call_soon(self._turn)
