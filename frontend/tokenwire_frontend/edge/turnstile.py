"""Streams write in turns, so that load makes their messages larger and no queue longer.

Each write of a stream takes the event loop 30 to 100 microseconds, nearly all gRPC's. If all
streams wrote at each step of a worker, the loop would come to read the next frame only after them,
at most one frame a round: from some hundred streams on, frames would wait in gRPC. So only some are
let through in a turn of the loop. Whatever comes meanwhile joins the deltas of those that wait.

New calls would wait longest: gRPC hands over one of them in a round of the loop. So turns are short
while calls come.
"""

from __future__ import annotations

import asyncio
from collections import deque

TURN_STREAMS = 64
"""Streams let through in a turn: some milliseconds of writing. With 16, what 64 streams cost was
larger by a tenth, since each turn has system calls of its own."""

SHORT_TURN_STREAMS = 8
"""Likewise in a turn of which a new call may wait for the end."""

SHORT_TURNS = 4
"""Short turns after a call: the next is handed over in one or two of them, if it waits already."""


class Turnstile:
    """Lets some streams through in each turn of the event loop, in the order they came."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Event] = deque()
        self._let_through = 0
        """In this turn."""
        self._width = TURN_STREAMS
        """That may be."""
        self._short_turns = 0
        """That are to come."""

    def call_came(self) -> None:
        """Makes the next turns short: more calls may have come with this one."""
        self._short_turns, self._width = SHORT_TURNS, SHORT_TURN_STREAMS

    def pass_through(self, ready: asyncio.Event) -> None:
        """Sets the event, now or in one of the next turns; not again until it was set."""
        if not self._let_through:
            asyncio.get_running_loop().call_soon(self._turn)
        if self._let_through < self._width and not self._waiting:
            self._let_through += 1
            ready.set()
        else:
            self._waiting.append(ready)

    def _turn(self) -> None:
        if self._short_turns:
            self._short_turns -= 1
            if not self._short_turns:
                self._width = TURN_STREAMS
        waiting = self._waiting
        self._let_through = min(len(waiting), self._width)
        for _ in range(self._let_through):
            waiting.popleft().set()
        if self._let_through:
            asyncio.get_running_loop().call_soon(self._turn)
