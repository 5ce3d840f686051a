"""Whether a worker gets requests, and how long its silence is borne."""

from __future__ import annotations

from enum import Enum

TICK_S = 0.25
"""Between two looks at the clock; every wait that is counted here is as precise as that."""

LATE_TICKS = 2
"""A tick counts as so many at most, however late it comes."""


class AwakeClock:
    """Seconds during which this process was able to hear its peers.

    What holds a process up (it is stopped, or its event loop is busy) also keeps it from hearing
    anyone. So that time says nothing about its peers and is left out.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self._ticked_s: float | None = None

    def tick(self, monotonic_s: float) -> None:
        """Counts the time since the last tick; to be called every TICK_S."""
        if self._ticked_s is not None:
            self.now_s += min(monotonic_s - self._ticked_s, LATE_TICKS * TICK_S)
        self._ticked_s = monotonic_s


class Vital(Enum):
    """What a peer's silence says of it."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    LOST = "lost"


class Liveness:
    """Believes a peer for as long as it is heard.

    Args:
        clock: what silence is counted on.
        suspect_s: silence after which the peer is suspect.
        lost_s: silence after which it is lost.
    """

    def __init__(self, clock: AwakeClock, suspect_s: float, lost_s: float) -> None:
        self._clock = clock
        self._suspect_s = suspect_s
        self._lost_s = lost_s
        self._heard_s = clock.now_s

    def hear(self) -> None:
        """Takes note of a sign of life."""
        self._heard_s = self._clock.now_s

    @property
    def silent_s(self) -> float:
        """Time since the last sign of life."""
        return self._clock.now_s - self._heard_s

    @property
    def vital(self) -> Vital:
        """What the silence says by now."""
        silent_s = self.silent_s
        if silent_s < self._suspect_s:
            return Vital.ALIVE
        return Vital.SUSPECT if silent_s < self._lost_s else Vital.LOST


class LinkState(Enum):
    """Whether a worker gets requests."""

    CONNECTING = "connecting"
    READY = "ready"
    SUSPECT = "suspect"
    """Not heard for a while: gets requests only where every worker of its model is suspect."""
    DRAINING = "draining"
    REFUSED = "refused"
    LOST = "lost"
    """Not heard for so long that what it had has failed; again being tried."""


SERVING = frozenset({LinkState.READY, LinkState.SUSPECT, LinkState.DRAINING})
"""States in which a worker's streams are open."""


NOT_LISTED = "it is not listed any more"


class LinkStatus:
    """The state of the link to one worker, and the reason where it is not READY.

    Each method takes an event and returns whether state or reason have changed.
    """

    def __init__(self) -> None:
        self.state = LinkState.CONNECTING
        self.reason = "not reached yet"
        self.listed = True

    def set_listed(self, *, listed: bool) -> bool:
        """The worker is to get requests, or it is not any more, and finishes what it has."""
        self.listed = listed
        if listed and self.reason != NOT_LISTED:
            return False  # such as a worker that drains by itself
        return self.serve() if self.state in SERVING else False

    def serve(self) -> bool:
        """The worker's streams are open."""
        if not self.listed:
            return self._set(LinkState.DRAINING, NOT_LISTED)
        return self._set(LinkState.READY, "")

    def drain(self) -> bool:
        """The worker says that it is draining."""
        if self.state not in (LinkState.READY, LinkState.SUSPECT):
            return False
        return self._set(LinkState.DRAINING, "the worker is draining")

    def judge(self, liveness: Liveness) -> bool:
        """Time has passed, or the worker was heard."""
        vital = liveness.vital
        if vital is Vital.ALIVE and self.state is LinkState.READY:  # of hundreds, 4 times a second
            return False
        if self.state not in SERVING:
            return False
        if vital is Vital.LOST:
            return self._set(LinkState.LOST, f"silent for {liveness.silent_s:.0f} s")
        if vital is Vital.SUSPECT and self.state is LinkState.READY:
            return self._set(LinkState.SUSPECT, f"silent for {liveness.silent_s:.0f} s")
        if vital is Vital.ALIVE and self.state is LinkState.SUSPECT:
            return self.serve()
        return False

    def fail(self, reason: str) -> bool:
        """The worker could not be reached, or its streams have ended."""
        if self.state is LinkState.LOST:  # says more than what its next connection met
            return False
        return self._set(LinkState.CONNECTING, reason)

    def refuse(self, reason: str) -> bool:
        """The worker was reached and can't serve here."""
        return self._set(LinkState.REFUSED, reason)

    def _set(self, state: LinkState, reason: str) -> bool:
        changed = (state, reason) != (self.state, self.reason)
        self.state, self.reason = state, reason
        return changed
