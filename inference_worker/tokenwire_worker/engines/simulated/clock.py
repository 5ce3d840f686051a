"""One thread that keeps the time of every simulated engine of the process.

Hundreds of workers in one process are hundreds of timers of one thread, which takes the GIL once
for all that are due.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Clock:
    """Calls functions when their time has come, on a thread of its own."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def call_at(self, due_s: float, function: Callable[[], None]) -> None:
        """Has a function called once, which raises nothing. From any thread.

        Args:
            due_s: when, on time.monotonic's clock; a time that has passed is now.
            function: what to call.
        """
        with self._changed:
            heapq.heappush(self._due, (due_s, next(self._numbers), function))
            if self._thread is None:
                # A daemon: it holds nothing that has to be ended.
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()
            elif self._due[0][0] == due_s:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            for function in self._wait():
                function()

    def _wait(self) -> list[Callable[[], None]]:
        """Waits until something is due, and returns all that is."""
        with self._changed:
            while True:
                now_s = time.monotonic()
                found = []
                while self._due and self._due[0][0] <= now_s:
                    found.append(heapq.heappop(self._due)[2])
                if found:
                    return found
                self._changed.wait(self._due[0][0] - now_s if self._due else None)


CLOCK = Clock()
"""The process's; its thread starts with the first engine that has work."""
