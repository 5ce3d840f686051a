"""What keeps failures from multiplying: breakers of workers, and what a frontend keeps in mind."""

from __future__ import annotations

from collections.abc import Sequence

FAILURES = 8
"""In a row, with no success between, until a worker counts as broken. One request that every worker
fails at can't be told from a worker that fails at every request; that several such come in a row
while a sound worker completes nothing else is unlikely."""

OPEN_FIRST_S = 1.0
OPEN_MOST_S = 30.0
"""Bounds of the time that a broken worker gets nothing; it doubles with each trial that fails."""


class Breaker:
    """Keeps requests from a worker that fails at one after the other.

    Once its time is over, one request at a time tries the worker; a success closes the breaker.
    Times are time.monotonic()'s.
    """

    __slots__ = ("_failures", "_open_s", "_tried", "_until_s")

    def __init__(self) -> None:
        self._failures = 0
        self._open_s = OPEN_FIRST_S
        self._until_s = 0.0
        self._tried = False

    def allows(self, now_s: float) -> bool:
        """Returns whether the worker may be sent a request."""
        return self._failures < FAILURES or now_s >= self._until_s

    def sent(self, now_s: float) -> None:
        """Notes a request: the trial, where the breaker was open."""
        if self._failures >= FAILURES:
            self._until_s = now_s + self._open_s
            self._tried = True

    def succeeded(self) -> None:
        """Notes that the worker has completed a request."""
        self._failures = 0
        self._open_s = OPEN_FIRST_S
        self._tried = False

    def failed(self, now_s: float) -> None:
        """Notes that the worker has failed at a request for a reason of its own."""
        self._failures += 1
        if self._failures == FAILURES:
            self._until_s = now_s + self._open_s
        elif self._tried:
            self._tried = False
            self._open_s = min(self._open_s * 2, OPEN_MOST_S)
            self._until_s = now_s + self._open_s


EARNED = 0.2
"""Of a move, that each generation earns which a worker takes: in the long run one in five moves."""

REFILL_S = 60.0
"""Time in which an empty budget is full again without traffic."""


class MoveBudget:
    """How many generations may be moved from one worker to another.

    It is full at first, so that everything in flight can move once; what a sick fleet uses up is
    earned slowly.

    Args:
        most: moves of a full budget.
        now_s: time.monotonic().
    """

    __slots__ = ("_left", "_most", "_seen_s")

    def __init__(self, most: int, now_s: float) -> None:
        self._most = float(most)
        self._left = float(most)
        self._seen_s = now_s

    def earn(self) -> None:
        """Notes that a worker has taken a generation."""
        self._left = min(self._left + EARNED, self._most)

    def take(self, now_s: float) -> bool:
        """Takes one move; returns whether there was one."""
        self._left = min(self._left + (now_s - self._seen_s) / REFILL_S * self._most, self._most)
        self._seen_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


DEATHS = 2
"""Workers that may die soon after they were given a generation, before it counts as the cause."""

DEATHS_SHARED = 3
"""Likewise, of one that was not alone in all of them: of those that moved together at most one is
the cause, and two workers that are killed in a row are no sign of any."""

TOGETHER_S = 0.5
"""Within which what one worker fails with is one death; a worker takes longer to start again."""


class Casualties:
    """What was lost with each worker that died soon after it had been given that.

    A death is the set of what was lost with it, whole once the frontend's loop has gone round.
    Times are time.monotonic()'s.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, set[object]]] = {}
        """By the worker's address: when its last death was first noted, and that death."""

    def note(self, worker: str, who: object, now_s: float) -> set[object]:
        """Notes that a generation was lost with a worker, and returns the death."""
        recent = {
            each: (begun_s, death)
            for each, (begun_s, death) in self._last.items()
            if now_s - begun_s <= TOGETHER_S
        }
        self._last = recent
        _, death = recent.setdefault(worker, (now_s, set()))
        death.add(who)
        return death


def is_the_cause(deaths: Sequence[set[object]]) -> bool:
    """Returns whether what was lost in all of these deaths counts as what caused them."""
    if len(deaths) < DEATHS:
        return False
    return len(deaths) >= DEATHS_SHARED or len(set.intersection(*deaths)) == 1
