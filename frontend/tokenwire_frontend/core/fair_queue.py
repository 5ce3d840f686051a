"""Who goes next among requests that wait: by priority, and fairly among those of one priority.

Two levels are fair: tenants, and the lanes of a tenant, such as its connections. Each is counted
the tokens that it was given, divided by its weight, and whoever has had the least goes next. One
that begins to wait starts at what the last one served had had before (start-time fair queueing):
so nobody saves up for a burst while idle, and nobody gains by sending one request at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Generic, TypeVar

FLOWS = 4096
"""Tenants, or lanes of a tenant, of which it is remembered how much they were given while others
wait, at some 200 bytes each. Beyond it those that do not wait are forgotten, the oldest first."""


class Flow:
    """A tenant, or one of its lanes."""

    __slots__ = ("had", "lanes", "waiting")

    def __init__(self, had: float) -> None:
        self.had = had
        """Tokens that it was given, divided by its weight."""
        self.waiting = 0
        """Requests of it that wait."""
        self.lanes = Flows()


class Flows:
    """Those that share something, and how much of it each has had."""

    __slots__ = ("_flows", "_now")

    def __init__(self) -> None:
        self._flows: dict[Hashable, Flow] = {}
        self._now = 0.0
        """What the one that was served last had had before."""

    def __getitem__(self, name: Hashable) -> Flow:
        return self._flows[name]

    def join(self, name: Hashable) -> Flow:
        """Returns a flow of which one more request waits."""
        flow = self._flows.get(name)
        if flow is None:
            self._forget()
            flow = self._flows[name] = Flow(self._now)
        elif not flow.waiting:
            flow.had = max(flow.had, self._now)
        flow.waiting += 1
        return flow

    def serve(self, flow: Flow, amount: float) -> None:
        """Notes that a request of a flow is served."""
        self._now = max(self._now, flow.had)
        flow.had += amount

    def _forget(self) -> None:
        """Makes room: first those go that have had no more than one that begins now."""
        if len(self._flows) < FLOWS:
            return
        idle = [name for name, flow in self._flows.items() if not flow.waiting]
        known = [name for name in idle if self._flows[name].had <= self._now]
        for name in known or idle[: len(idle) // 2]:
            del self._flows[name]


@dataclass(slots=True, eq=False, kw_only=True)
class Claim:
    """A request that waits, or is about to."""

    tenant: Hashable
    lane: Hashable
    priority: int = 0
    """Higher goes first."""
    weight: float = 1.0
    """The tenant's: of two that wait, one with weight 2 is given twice the tokens."""
    size_bytes: int = 0
    """What it takes while it waits."""
    continues: bool = False
    """It goes on with output that exists: first among those of its lane."""
    tokens: float = 0.0
    """What it counts for, once it is served."""
    flow: Flow | None = None
    """The tenant's, once it is served."""


ClaimT = TypeVar("ClaimT", bound=Claim)


class _Share(Generic[ClaimT]):
    """What waits of one tenant at one priority."""

    __slots__ = ("count", "lanes", "weight")

    def __init__(self, weight: float) -> None:
        self.count = 0
        self.weight = weight
        self.lanes: dict[Hashable, deque[ClaimT]] = {}

    def after(self, count: int, weight: float) -> float:
        """Returns how many of it are served before one that has so many of its own before it."""
        return min(self.count, count * self.weight / weight)


class FairQueue(Generic[ClaimT]):
    """A bounded queue.

    Where it is full, a new request takes the place of one of lower priority, or else of the last of
    the tenant, and then of the lane, of which more wait: the bound is shared fairly too.

    Args:
        limit: requests that may wait.
        bytes_limit: what they may take together.
    """

    def __init__(self, limit: int, bytes_limit: int) -> None:
        self.limit = limit
        self.bytes_limit = bytes_limit
        self.bytes = 0
        """What those that wait take."""
        self._count = 0
        self._classes: dict[int, dict[Hashable, _Share[ClaimT]]] = {}
        """By priority and by tenant; none is empty."""
        self._tenants = Flows()

    def __len__(self) -> int:
        return self._count

    def takes(self, claim: ClaimT) -> bool:
        """Returns whether `offer` would queue it."""
        return self._fits(claim, None) or self._victim(claim) is not None

    def offer(self, claim: ClaimT) -> ClaimT | None:
        """Queues a request that `takes` is true for; returns the one whose place it has taken."""
        victim = None if self._fits(claim, None) else self._victim(claim)
        if victim is not None:
            self.remove(victim)
        share = self._classes.setdefault(claim.priority, {}).setdefault(
            claim.tenant, _Share(claim.weight)
        )
        lane = share.lanes.setdefault(claim.lane, deque())
        first = sum(1 for _ in takewhile(lambda each: each.continues, lane))
        lane.insert(first if claim.continues else len(lane), claim)
        share.count += 1
        self._tenants.join(claim.tenant).lanes.join(claim.lane)
        self._count += 1
        self.bytes += claim.size_bytes
        return victim

    def pop(self) -> ClaimT:
        """Takes the request that goes next; at least one waits."""
        tenants = self._classes[max(self._classes)]
        flows = self._tenants
        tenant = min(tenants, key=lambda name: flows[name].had)
        flow, lanes = flows[tenant], tenants[tenant].lanes
        lane = min(lanes, key=lambda name: flow.lanes[name].had)
        claim = lanes[lane][0]
        flows.serve(flow, claim.tokens / claim.weight)
        flow.lanes.serve(flow.lanes[lane], claim.tokens)
        claim.flow = flow
        self.remove(claim)
        return claim

    def remove(self, claim: ClaimT) -> None:
        """Takes out a request that waits."""
        tenants = self._classes[claim.priority]
        share = tenants[claim.tenant]
        lane = share.lanes[claim.lane]
        lane.remove(claim)
        if not lane:
            del share.lanes[claim.lane]
        share.count -= 1
        if not share.count:
            del tenants[claim.tenant]
        if not tenants:
            del self._classes[claim.priority]
        flow = self._tenants[claim.tenant]
        flow.waiting -= 1
        flow.lanes[claim.lane].waiting -= 1
        self._count -= 1
        self.bytes -= claim.size_bytes
        # Where nobody waits for anybody, what was before counts no more.
        if not flow.waiting:
            flow.lanes = Flows()
        if not self._count:
            self._tenants = Flows()

    def ahead(self, claim: ClaimT) -> float:
        """Returns about how many are served before a new request."""
        higher = sum(
            share.count
            for priority, tenants in self._classes.items()
            if priority > claim.priority
            for share in tenants.values()
        )
        tenants = self._classes.get(claim.priority, {})
        mine = tenants.get(claim.tenant)
        own = 0 if mine is None else self._ahead_in(mine, claim)
        others = sum(
            share.after(own + 1, claim.weight)
            for tenant, share in tenants.items()
            if tenant != claim.tenant
        )
        return higher + own + others

    @staticmethod
    def _ahead_in(share: _Share[ClaimT], claim: ClaimT) -> int:
        """Returns how many of its own tenant are served before a new request."""
        own = len(share.lanes.get(claim.lane, ()))
        return own + sum(
            min(len(lane), own + 1) for name, lane in share.lanes.items() if name != claim.lane
        )

    def _fits(self, claim: ClaimT, without: ClaimT | None) -> bool:
        """Returns whether there is room for it, once another one has left."""
        count, size = self._count, self.bytes + claim.size_bytes
        if without is not None:
            count, size = count - 1, size - without.size_bytes
        return count < self.limit and size <= self.bytes_limit

    def _victim(self, claim: ClaimT) -> ClaimT | None:
        """Returns whose place a new request takes; None: it finds none."""
        if not self._count:
            return None
        lowest = min(self._classes)
        tenants = self._classes[lowest]
        victim = None
        if lowest < claim.priority:
            victim = _last_of_longest(max(tenants.values(), key=_per_weight).lanes.values())
        elif lowest == claim.priority:
            victim = self._last_of_more(tenants, claim)
        return victim if victim is not None and self._fits(claim, victim) else None

    def _last_of_more(
        self, tenants: dict[Hashable, _Share[ClaimT]], claim: ClaimT
    ) -> ClaimT | None:
        """Returns the last of a tenant, or of a lane, of which more would wait than of its own."""
        mine = tenants.get(claim.tenant)
        most = max(tenants.values(), key=_per_weight)
        count = 0 if mine is None else mine.count
        if most is not mine and _per_weight(most) > (count + 1) / claim.weight:
            return _last_of_longest(most.lanes.values())
        if mine is None:
            return None
        last = _last_of_longest(mine.lanes.values())
        longer = len(mine.lanes[last.lane]) > len(mine.lanes.get(claim.lane, ())) + 1
        if longer or (claim.continues and not last.continues):
            return last
        return None


def _per_weight(share: _Share[ClaimT]) -> float:
    return share.count / share.weight


def _last_of_longest(lanes: Iterable[deque[ClaimT]]) -> ClaimT:
    return max(lanes, key=len)[-1]
