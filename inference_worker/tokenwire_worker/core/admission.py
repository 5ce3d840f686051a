"""Who goes to the engine next: a bounded queue in order of priority, and the engine's places.

The engine is fed only while it has room, so that priorities count on every engine and the number of
requests that wait is known. A request of several sequences waits until all of them fit, and nothing
overtakes the head of the queue: a large request is late, but never starved.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tokenwire_worker.core.recent_mean import RecentMean

SLACK_ENTRIES = 64
"""Entries of the heap, besides those that wait, that may have been withdrawn: beyond it they are
cleared away, since one that is not at the head would stay for as long as the head waits."""


FRESH_S = 60.0
"""How long places were held is not believed any more when none was given back for so long, and for
twice as long as they were held: what runs now may be of another kind."""

LEAST_HELD_S = 1e-6
"""Of a place that is given back within the clock's resolution."""

RENEWED_S = 10.0
"""Time after which what was known of places counts for about a third."""


@dataclass(slots=True, eq=False)
class Place:
    """A request's place, owned by whoever it was given to: in the queue, then in the engine."""

    key: int
    sequences: int
    """How many it takes in the engine."""
    priority: int = 0
    taken_s: float = 0.0
    """When they went there, on the admission's clock."""
    in_engine: set[int] = field(default_factory=set)
    """Numbers of the sequences that the engine has."""
    _admission: Admission | None = None

    def give_back(self, sequence: int) -> None:
        """Gives back the place of a sequence that the engine has ended; others are passed over."""
        if sequence in self.in_engine and self._admission is not None:
            self.in_engine.discard(sequence)
            self._admission.note_given_back(self, 1)

    def leave_queue(self) -> None:
        """Gives up waiting; what the engine has, it keeps."""
        if self._admission is not None:
            self._admission.withdraw(self)

    def close(self) -> None:
        """Gives back whatever it holds; nothing the second time."""
        if self._admission is not None:
            self._admission.withdraw(self)
            count = len(self.in_engine)
            self.in_engine.clear()
            self._admission.note_given_back(self, count)
            self._admission = None


class Admission:
    """Counts the engine's places and queues what finds none."""

    def __init__(
        self,
        running_limit: int,
        waiting_limit: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts empty.

        Args:
            running_limit: sequences that the engine runs at once; at least 1.
            waiting_limit: requests that may wait; 0 admits only what finds a place at once.
            clock: tells the time, in seconds.
        """
        self.running = 0
        """Sequences that hold a place in the engine."""
        self._running_limit = running_limit
        self._waiting_limit = waiting_limit
        self._heap: list[tuple[int, int, Place]] = []
        """Minus the priority, the order of arrival, and the place."""
        self._waiting: set[Place] = set()
        self._waiting_sequences = 0
        """Of requests that go before a new one of priority 0."""
        self._arrivals = 0
        self._clock = clock
        self._inside: dict[Place, None] = {}
        """Places in the engine, in the order in which they went there."""
        self._held_s = RecentMean()
        """How long the last sequences held theirs."""
        self._given_back_s = -math.inf
        """When the last place was given back."""

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
        place = Place(key, sequences, priority, _admission=self)
        self._waiting.add(place)
        self._waiting_sequences += sequences if priority >= 0 else 0
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
                self._stop_waiting(place)
                place.taken_s = self._clock()
                self._inside[place] = None
                place.in_engine.update(range(place.sequences))
                self.running += place.sequences
                taken.append(place)
            else:
                break
        return taken

    def withdraw(self, place: Place) -> None:
        """Takes a request out of the queue, where it waits there."""
        self._stop_waiting(place)
        if len(self._heap) > 2 * len(self._waiting) + SLACK_ENTRIES:
            self._heap = [entry for entry in self._heap if entry[2] in self._waiting]
            heapq.heapify(self._heap)

    def note_given_back(self, place: Place, count: int) -> None:
        """Notes that so many sequences of a place have left the engine."""
        if not count:
            return
        self.running -= count
        now_s = self._clock()
        age_s = min(now_s - self._given_back_s, FRESH_S)
        self._held_s.add(now_s - place.taken_s, least_weight=1 - math.exp(-age_s / RENEWED_S))
        self._given_back_s = now_s
        if not place.in_engine:
            self._inside.pop(place, None)

    def wait_s(self) -> float | None:
        """Returns how long a request would wait that came now, in seconds; None: not known.

        It is of one sequence and of priority 0. Free places are there at once. Else it waits until
        as many places are given back as it and those before it lack. Each is expected to be given
        back once it has been held for as long as the last ones were, or where it has been held for
        longer, once that time has passed again: a few that run on and on tell nothing of the rest.
        """
        lacking = self._waiting_sequences + 1 - max(self._running_limit - self.running, 0)
        if lacking <= 0 or not self._inside:
            return 0.0
        held_s, now_s = self._held_s.value, self._clock()
        if held_s is None or now_s - self._given_back_s > max(FRESH_S, 2 * held_s):
            return None
        held_s = max(held_s, LEAST_HELD_S)
        rate, left = 0.0, self.running
        for place in self._inside:  # the longest held first
            age_s = now_s - place.taken_s
            if age_s <= held_s:
                break
            rate += len(place.in_engine) / age_s
            left -= len(place.in_engine)
        return lacking / (rate + left / held_s)

    def _stop_waiting(self, place: Place) -> None:
        if place in self._waiting:
            self._waiting.discard(place)
            self._waiting_sequences -= place.sequences if place.priority >= 0 else 0

    def _fits(self, sequences: int) -> bool:
        # A request of more sequences than there are places runs alone.
        return self.running + sequences <= self._running_limit or self.running == 0
