"""How many generations this frontend holds at once, whether it takes new ones, and its drain."""

from __future__ import annotations

import asyncio
import time

from tokenwire_frontend import errors
from tokenwire_frontend.generation.lease import Lease


class Admission:
    """Places for generations.

    Args:
        limit: generations at once; the next is refused.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        """Generations now: being started, or at a worker, or with something that the client has yet
        to take. So this also bounds what waits for clients that do not read, and what workers have
        yet to cancel."""
        self.closing = asyncio.Event()
        """Set once new generations are refused because the frontend is being stopped."""
        self.over = asyncio.Event()
        """Set when nothing is held any more, or the drain's grace is over: watches of the activity
        end. A session ends once nothing of its own is open."""
        self._ends_s = 0.0
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self) -> Lease:
        """Takes a place.

        Raises:
            ServiceError: DRAINING or TOO_MANY_GENERATIONS.
        """
        if self.closing.is_set():
            raise errors.draining()
        if self.held >= self.limit:
            raise errors.too_many(self.limit)
        self.held += 1
        self._idle.clear()
        return Lease(self._leave)

    async def drain(self, grace_s: float) -> bool:
        """Takes nothing new; returns whether nothing was held any more within the grace."""
        self._ends_s = time.monotonic() + grace_s
        self.closing.set()
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    @property
    def grace_left_s(self) -> float:
        """Time that what is held still has, once `closing` is set."""
        return max(self._ends_s - time.monotonic(), 0.0)

    def _leave(self) -> None:
        self.held -= 1
        if not self.held:
            self._idle.set()
