"""Who goes to the engine next: a bounded queue in order of priority.

The engine is fed only while it has room, so that priorities count on every engine and the number of
requests that wait is known. A request of several sequences waits until all of them fit, and nothing
overtakes the head of the queue: a large request is late, but never starved.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field


@dataclass(slots=True, order=True)
class _Entry:
    rank: tuple[int, int]
    """Minus the priority, then the order of arrival."""
    key: int = field(compare=False)
    sequences: int = field(compare=False)


class Admission:
    """Counts the engine's places and queues what finds none."""

    def __init__(self, running_limit: int, waiting_limit: int) -> None:
        """Starts empty.

        Args:
            running_limit: sequences that the engine runs at once; at least 1.
            waiting_limit: requests that may wait; 0 admits only what finds a place at once.
        """
        self.running = 0
        """Sequences that hold a place."""
        self._running_limit = running_limit
        self._waiting_limit = waiting_limit
        self._heap: list[_Entry] = []
        self._waiting: dict[int, _Entry] = {}
        self._arrivals = 0

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether one more that finds no place at once would be refused."""
        return len(self._waiting) >= self._waiting_limit

    def offer(self, key: int, sequences: int, priority: int) -> bool:
        """Queues a request, and returns False where there is no room for it to wait.

        `take` hands it out, possibly at once.
        """
        starts_at_once = not self._waiting and self._fits(sequences)
        if self.full and not starts_at_once:
            return False
        self._arrivals += 1
        entry = _Entry((-priority, self._arrivals), key, sequences)
        self._waiting[key] = entry
        heapq.heappush(self._heap, entry)
        return True

    def take(self) -> list[int]:
        """Returns the requests that go to the engine now, in order; they hold their places."""
        taken: list[int] = []
        while self._heap:
            head = self._heap[0]
            if head.key not in self._waiting:  # withdrawn while it waited
                heapq.heappop(self._heap)
            elif self._fits(head.sequences):
                heapq.heappop(self._heap)
                del self._waiting[head.key]
                self.running += head.sequences
                taken.append(head.key)
            else:
                break
        return taken

    def withdraw(self, key: int) -> bool:
        """Takes a request out of the queue; returns False where it does not wait there."""
        return self._waiting.pop(key, None) is not None

    def release(self, sequences: int = 1) -> None:
        """Gives back places of sequences that the engine has ended."""
        self.running -= sequences

    def _fits(self, sequences: int) -> bool:
        # A request of more sequences than there are places runs alone.
        return self.running + sequences <= self._running_limit or self.running == 0
