"""What a queue's decisions make of an overload, in simulated time: no machine's speed counts."""

from __future__ import annotations

import asyncio
import heapq
import random
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from tokenwire_frontend.core.tenants import NO_LIMITS, Tenant
from tokenwire_frontend.generation import queues
from tokenwire_frontend.generation.queues import Line, QueueLimits, Ticket

PLACES = 16
AHEAD = 4
RUN_S = 1.3
"""A generation at its place, on average."""
TOKENS = 64
CAPACITY = PLACES / RUN_S
LASTS_S = 60.0

STALL_S = (15.0, 25.0)
"""Time in which nothing ends, as in a worker that is held up."""


class Simulation:
    """Calls with a deadline that come at random, a queue, and a worker; times are simulated."""

    def __init__(self, load: float, deadline_s: float, *, stalls: bool = False) -> None:
        self.now_s = 0.0
        self._stalls = stalls
        self.good = self.late = 0
        self._random = random.Random(7)
        self._load, self._deadline_s = load, deadline_s
        self._line = Line("demo", self, QueueLimits(requests=512))
        self._events: list[tuple[float, int, Any]] = []
        self._order = count()
        self._running = 0
        self._ahead: list[Ticket] = []
        self._verdicts: dict[Ticket, asyncio.Future[Any]] = {}
        self._owner = Tenant("", "other", NO_LIMITS.default)

    @property
    def queued(self) -> int:
        return len(self._line.queue)

    # What the line asks of workers.

    def is_ready(self, _model: str) -> bool:
        return True

    def has_room(self, _model: str, more: int, _ahead: float | None) -> bool:
        return self._running + len(self._ahead) + more <= PLACES + AHEAD

    def places(self, _model: str) -> int:
        return PLACES

    # What happens.

    def run(self) -> float:
        """Returns the tokens of what ended in time, as a share of the capacity.

        Where there is a stall, only what comes some seconds after it counts.
        """
        self._after(0.0, self._arrive)
        from_s = STALL_S[1] + 5 if self._stalls else 0.0
        while self.now_s < LASTS_S:
            self.now_s, _, happens = heapq.heappop(self._events)
            if self.now_s < from_s:
                self.good = self.late = 0
            happens()
        return self.good / (CAPACITY * (LASTS_S - from_s))

    def _after(self, delay_s: float, happens: Any) -> None:
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._order), happens))

    def _arrive(self) -> None:
        self._after(self._random.expovariate(self._load * CAPACITY), self._arrive)
        ticket = Ticket(
            tenant="",
            lane="",
            owner=self._owner,
            output_tokens=TOKENS,
            ends_s=self.now_s + self._deadline_s,
        )
        if not self._line.queue and self._line.has_room():
            self._send(ticket)
        elif self._line.refusal(ticket) is None:
            self._verdicts[ticket] = self._line.join(ticket)
            self._after(self._deadline_s, lambda: self._line.leave(ticket))

    def _send(self, ticket: Ticket) -> None:
        ticket.sent_s = self.now_s
        ticket.line = self._line
        if self._running < PLACES:
            self._begin(ticket)
        else:
            self._ahead.append(ticket)

    def _begin(self, ticket: Ticket) -> None:
        self._running += 1
        self._after(self._random.gauss(1.0, 0.15) * RUN_S, lambda: self._end(ticket))

    def _end(self, ticket: Ticket) -> None:
        if self._stalls and STALL_S[0] < self.now_s < STALL_S[1]:
            self._after(STALL_S[1] - self.now_s + self._random.random(), lambda: self._end(ticket))
            return
        self._running -= 1
        ticket.left_s = self.now_s
        ticket.used(8, TOKENS, 1)
        in_time = self.now_s <= ticket.ends_s
        self.good, self.late = self.good + in_time, self.late + (not in_time)
        if self._ahead:
            self._begin(self._ahead.pop(0))
        self._line.dispatch()
        for each, verdict in list(self._verdicts.items()):
            if verdict.done():
                del self._verdicts[each]
                if verdict.result() is None:
                    each.arrived()
                    self._send(each)


def simulated(monkeypatch: pytest.MonkeyPatch, *given: Any, **more: Any) -> Simulation:
    simulation = Simulation(*given, **more)
    clock = SimpleNamespace(monotonic=lambda: simulation.now_s)
    monkeypatch.setattr(queues, "time", clock)
    return simulation


@pytest.mark.parametrize("deadline_s", [4.0, 60.0])
@pytest.mark.parametrize("load", [1.0, 10.0, 50.0])
async def test_an_overload_leaves_nine_tenths_of_the_capacity_to_calls_in_time(
    load, deadline_s, monkeypatch
):
    simulation = simulated(monkeypatch, load, deadline_s)
    assert simulation.run() >= 0.9
    assert simulation.late <= 0.02 * simulation.good
    assert simulation.queued <= CAPACITY * deadline_s


async def test_after_a_stall_the_queue_is_soon_as_good_as_before(monkeypatch):
    """What it sheds then says nothing of how fast the workers are."""
    simulation = simulated(monkeypatch, 10.0, 8.0, stalls=True)
    assert simulation.run() >= 0.9
    assert simulation.late <= 0.02 * simulation.good
