"""Which job a process does next: a short text never waits behind a long one."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

from tokenwire_frontend.models.text_process import TimeLimit

SHORT_BYTES = 32 * 1024
"""A short job: about 8,000 tokens, which take about 10 ms."""

OLDEST_EVERY = 4
"""Of long jobs the shortest goes first, but each fourth time the oldest, so that none waits for
ever."""


@dataclass(eq=False, slots=True)
class Job:
    """A job that waits."""

    payload: bytes
    limit: TimeLimit
    short: bool
    """Whether it goes before long ones."""
    taken: asyncio.Future[asyncio.Future[tuple[str, Any]]]
    """Done, with what becomes of the job, once a process has it."""


class Lanes:
    """The jobs that wait."""

    def __init__(self) -> None:
        self._short: deque[Job] = deque()
        self._long: list[Job] = []
        self._long_taken = 0

    def put(self, job: Job) -> None:
        """Adds a job."""
        if job.short:
            self._short.append(job)
        else:
            self._long.append(job)

    def drop(self, job: Job) -> None:
        """Removes a job that nobody waits for any more."""
        lane = self._short if job.short else self._long
        if job in lane:
            lane.remove(job)

    def take(self, *, long: bool, long_first: bool) -> Job | None:
        """Returns the next job for a process, or None.

        Args:
            long: whether the process takes long jobs at all.
            long_first: whether it takes them before short ones.
        """
        if long and self._long and (long_first or not self._short):
            return self._take_long()
        return self._short.popleft() if self._short else None

    def _take_long(self) -> Job:
        self._long_taken += 1
        oldest = not self._long_taken % OLDEST_EVERY
        job = self._long[0] if oldest else min(self._long, key=lambda each: len(each.payload))
        self._long.remove(job)
        return job
