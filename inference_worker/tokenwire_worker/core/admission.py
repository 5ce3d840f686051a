"""Who goes to the engine next: a bounded queue in order of priority, and the engine's places.

The engine is fed only while it has room, so that priorities count on every engine and the number of
requests that wait is known. A request of several sequences waits until all of them fit, and nothing
overtakes the head of the queue: a large request is late, but never starved.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

SLACK_ENTRIES = 64
"""Entries of the heap, besides those that wait, that may have been withdrawn: beyond it they are
cleared away, since one that is not at the head would stay for as long as the head waits."""


@dataclass(slots=True, eq=False)
class Place:
    """A request's place, owned by whoever it was given to: in the queue, then in the engine."""

    key: int
    sequences: int
    """How many it takes in the engine."""
    in_engine: set[int] = field(default_factory=set)
    """Numbers of the sequences that the engine has."""
    _admission: Admission | None = None

    def give_back(self, sequence: int) -> None:
        """Gives back the place of a sequence that the engine has ended; others are passed over."""
        if sequence in self.in_engine and self._admission is not None:
            self.in_engine.discard(sequence)
            self._admission.running -= 1

    def leave_queue(self) -> None:
        """Gives up waiting; what the engine has, it keeps."""
        if self._admission is not None:
            self._admission.withdraw(self)

    def close(self) -> None:
        """Gives back whatever it holds; nothing the second time."""
        if self._admission is not None:
            self._admission.withdraw(self)
            self._admission.running -= len(self.in_engine)
            self.in_engine.clear()
            self._admission = None


class Admission:
    """Counts the engine's places and queues what finds none."""

    def __init__(self, running_limit: int, waiting_limit: int) -> None:
        """Starts empty.

        Args:
            running_limit: sequences that the engine runs at once; at least 1.
            waiting_limit: requests that may wait; 0 admits only what finds a place at once.
        """
        self.running = 0
        """Sequences that hold a place in the engine."""
        self._running_limit = running_limit
        self._waiting_limit = waiting_limit
        self._heap: list[tuple[int, int, Place]] = []
        """Minus the priority, the order of arrival, and the place."""
        self._waiting: set[Place] = set()
        self._arrivals = 0

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether one more that finds no place at once would be refused."""
        return len(self._waiting) >= self._waiting_limit

    def offer(self, key: int, sequences: int, priority: int) -> Place | None:
        """Queues a request; returns its place, or None where the queue is full.

        `take` hands it out, possibly at once.
        """
        starts_at_once = not self._waiting and self._fits(sequences)
        if self.full and not starts_at_once:
            return None
        self._arrivals += 1
        place = Place(key, sequences, _admission=self)
        self._waiting.add(place)
        heapq.heappush(self._heap, (-priority, self._arrivals, place))
        return place

    def take(self) -> list[Place]:
        """Returns the places of the requests that go to the engine now, in order."""
        taken: list[Place] = []
        while self._heap:
            place = self._heap[0][2]
            if place not in self._waiting:  # withdrawn while it waited
                heapq.heappop(self._heap)
            elif self._fits(place.sequences):
                heapq.heappop(self._heap)
                self._waiting.discard(place)
                place.in_engine.update(range(place.sequences))
                self.running += place.sequences
                taken.append(place)
            else:
                break
        return taken

    def withdraw(self, place: Place) -> None:
        """Takes a request out of the queue, where it waits there."""
        self._waiting.discard(place)
        if len(self._heap) > 2 * len(self._waiting) + SLACK_ENTRIES:
            self._heap = [entry for entry in self._heap if entry[2] in self._waiting]
            heapq.heapify(self._heap)

    def _fits(self, sequences: int) -> bool:
        # A request of more sequences than there are places runs alone.
        return self.running + sequences <= self._running_limit or self.running == 0
