"""Requests that no worker has room for: they wait here, and not at a worker, where all are alike.

A worker is sent what its engine runs at once, and a little ahead, so that it never runs dry. What
is beyond waits, by priority and fairly between callers, until a generation ends or a worker tells
of room. Requests wait before they are tokenised, so that one that leaves the queue by another way
has cost next to nothing. New ones that find no worker ready wait here too, for as long as one is
expected back.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from tokenwire_service import deadlines
from tokenwire_service.errors import ServiceError
from tokenwire_service.telemetry import semconv

from tokenwire_frontend import errors, no_room
from tokenwire_frontend.core.fair_queue import Claim, FairQueue
from tokenwire_frontend.core.pace import Duration, Pace
from tokenwire_frontend.core.tenants import Tenant

TICK_S = 0.05
"""Between two looks for room while requests wait. Generations that end are seen at once; this is
for what workers report, every 200 ms at most."""

REPORT_S = 0.2
"""A worker that refuses a request for want of room has told of it after this time."""

RETURNS = 3
"""Times that a request comes back to the queue since workers had no room after all, as with several
frontends before them."""

PATIENCE = 0.5
"""Share of the time that a call's deadline leaves beside the generation, which may be expected to
be spent in the queue: what is expected may be wrong by so much, and a deadline that passes on the
way has cost a worker for nothing."""


MARGIN = 1.5
"""Times the expected time of a generation that a deadline has to leave when its turn comes: some
take longer than most, and there are others that wait."""


@dataclass(frozen=True)
class QueueLimits:
    """How much may wait for the workers of each model, and how long."""

    requests: int = 0
    """0: nothing waits here, and workers are sent what they take."""
    bytes: int = 64 * 2**20
    wait_s: float = 30.0
    ahead: float = 0.25
    """Requests that a worker is sent beyond those that its engine runs at once, as a share of
    these."""
    worker_wait_s: float = 0.0
    """How long a worker is expected back once none of the model is ready; 0: none is."""


class Workers(Protocol):
    """What is known of the room at workers."""

    def is_ready(self, model: str) -> bool:
        """Returns whether any worker of the model gets requests."""
        ...

    def away_s(self, model: str) -> float:
        """Returns for how long no worker of the model has been ready."""
        ...

    def has_room(self, model: str, more: int, ahead: float | None) -> bool:
        """Returns whether ready workers have room for so many more requests.

        `ahead` is QueueLimits.ahead; None: what may wait at a worker is room.
        """
        ...

    def places(self, model: str) -> int:
        """Returns how many sequences the ready workers' engines run at once."""
        ...


@dataclass(slots=True, eq=False, kw_only=True)
class Ticket(Claim):
    """A generation's way to a worker; whoever has it closes it."""

    owner: Tenant
    ends_s: float = math.inf
    """time.monotonic() of the call's deadline."""
    output_tokens: int = 0
    """Most tokens of one sequence; 0 while they are not known."""
    used_tokens: int = 0
    """What it came to in the end, at a worker."""
    line: Line | None = None
    verdict: asyncio.Future[ServiceError | None] | None = None
    """While it waits: set to None when it is its turn, or to why it has to go."""
    holds: bool = False
    """It is on its way to a worker, which does not know of it yet."""
    queued: bool = False
    """It has waited, or waits."""
    returns: int = 0
    """Times that it came back to the queue."""
    sent_s: float = 0.0
    left_s: float = 0.0
    """time.monotonic() when a worker first had it, and last let go of it; 0: has not."""

    def price(self, tokens: float) -> None:
        """Has it count for so many tokens, whatever it counted for before."""
        more = tokens - self.tokens
        self.tokens = tokens
        self.owner.take_tokens(more)
        if self.flow is not None:
            self.flow.had += more / self.weight

    def arrived(self) -> None:
        """Notes that a worker was sent it, or that it goes to none."""
        if self.holds and self.line is not None:
            self.holds = False
            self.line.claimed -= 1

    def used(self, prompt_tokens: int, output_tokens: int, sequences: int) -> None:
        """Notes what it came to in the end."""
        if not self.sent_s:
            return
        self.used_tokens = prompt_tokens + output_tokens
        if self.left_s and output_tokens and self.line is not None:
            took_s = self.left_s - self.sent_s
            self.line.duration.note(math.ceil(output_tokens / sequences), took_s)

    def close(self) -> None:
        """Gives back what it was counted and did not use."""
        self.arrived()
        self.price(self.used_tokens)


class Line:
    """Those that wait for the workers of one model.

    Args:
        model: its name.
        workers: the workers.
        limits: the bounds.
    """

    def __init__(self, model: str, workers: Workers, limits: QueueLimits) -> None:
        self.queue: FairQueue[Ticket] = FairQueue(limits.requests, limits.bytes)
        self.claimed = 0
        """Requests that are on their way to a worker, which does not know of them yet."""
        self.duration = Duration()
        self._hopeful: set[Ticket] = set()
        """Those that came while no worker was ready, until one is."""
        self._model = model
        self._workers = workers
        self._limits = limits
        self._pace = Pace()

    def expects(self) -> bool:
        """Returns whether a worker may be back soon, where none is ready."""
        return self._workers.away_s(self._model) < self._limits.worker_wait_s

    def has_room(self) -> bool:
        """Returns whether the next request finds room at a worker."""
        return self._workers.has_room(self._model, self.claimed + 1, self._limits.ahead)

    def take(self, ticket: Ticket) -> None:
        """Lets a request go to a worker."""
        ticket.line, ticket.holds = self, True
        self.claimed += 1

    def refusal(self, ticket: Ticket) -> ServiceError | None:
        """Returns why a request that has to wait is not to wait, if so."""
        now_s = time.monotonic()
        wait_s = self.wait_s(ticket, now_s)
        limits = self._limits
        if not self.queue.takes(ticket):
            return no_room.queue_full(self._model, self._bound, wait_s)
        if wait_s is None:
            return None
        if wait_s > limits.wait_s:
            bound = f"the wait is about {wait_s:.2g} s, of at most {limits.wait_s:g} s"
            return no_room.queue_full(self._model, bound, wait_s - limits.wait_s)
        run_s = self.duration.expected_s(ticket.output_tokens)
        left_s = ticket.ends_s - now_s
        if wait_s > (left_s - run_s) * PATIENCE:
            return no_room.deadline_too_short(self._model, left_s, wait_s + run_s)
        return None

    def wait_s(self, ticket: Ticket, now_s: float) -> float | None:
        """Returns about how long a new request would wait here; None: not known."""
        rate = self._pace.rate(now_s)
        if rate is None and self.duration.mean_s:  # too few have left: as fast as workers can be
            rate = self._workers.places(self._model) / self.duration.mean_s
        return self.queue.ahead(ticket) / rate if rate else None

    def join(self, ticket: Ticket) -> asyncio.Future[ServiceError | None]:
        """Has a request wait for which there is no `refusal`; returns its verdict."""
        now_s = time.monotonic()
        if not self.queue:
            self._pace.begin(now_s)
        shed = self.queue.offer(ticket)
        if shed is not None:
            wait_s = self.wait_s(shed, now_s)
            self._settle(shed, no_room.shed(self._model, self._bound, wait_s))
        if not self._workers.is_ready(self._model):
            self._hopeful.add(ticket)
        ticket.line = self
        ticket.verdict = asyncio.get_running_loop().create_future()
        return ticket.verdict

    def leave(self, ticket: Ticket) -> None:
        """Has a request wait no longer, if it does."""
        self._hopeful.discard(ticket)
        if ticket.verdict is not None:
            ticket.verdict = None
            self.queue.remove(ticket)

    def dispatch(self) -> None:
        """Lets go to workers what they have room for."""
        if not self._workers.is_ready(self._model):
            self._pace.begin(time.monotonic())  # this time tells nothing of workers
            if not self.expects():
                self._give_up()
            return
        self._hopeful.clear()
        while self.queue and self.has_room():
            ticket, now_s = self.queue.pop(), time.monotonic()
            run_s = self.duration.expected_s(ticket.output_tokens) * MARGIN
            left_s = ticket.ends_s - now_s
            if run_s > left_s:
                self._settle(ticket, no_room.deadline_too_short(self._model, left_s, run_s))
            elif self._settle(ticket, None):
                self._pace.note(now_s)  # those that go by another way tell nothing of the workers
                self.take(ticket)

    def _give_up(self) -> None:
        """Refuses those that came for a worker that is not back in time."""
        hopeful, self._hopeful = self._hopeful, set()
        for ticket in hopeful:
            if ticket.verdict is not None:  # it has not just lost its place to another
                self.queue.remove(ticket)
                self._settle(ticket, errors.no_worker(self._model))

    @property
    def _bound(self) -> str:
        limits = self._limits
        return f"at most {limits.requests} requests of {limits.bytes // 2**20} MiB wait"

    @staticmethod
    def _settle(ticket: Ticket, refusal: ServiceError | None) -> bool:
        """Tells a request that has left the queue; returns whether anyone waits for that."""
        verdict, ticket.verdict = ticket.verdict, None
        if verdict is None or verdict.done():  # it was cancelled, and has yet to find out
            return False
        verdict.set_result(refusal)
        return True


class Queues:
    """The queues of all models.

    Args:
        workers: the workers.
        limits: the bounds of each queue.
    """

    def __init__(self, workers: Workers, limits: QueueLimits) -> None:
        self.limits = limits
        self.depths: Counter[tuple[str, str]] = Counter()
        """Requests that wait, by model and class of priority."""
        self._workers = workers
        self._lines: dict[str, Line] = {}
        self._ticking = False

    @property
    def awaits_workers(self) -> bool:
        """Whether requests wait where no worker is ready."""
        return bool(self.limits.requests and self.limits.worker_wait_s)

    @property
    def models(self) -> Iterable[str]:
        """Models that requests came for and that have workers."""
        return self._lines.keys()

    def check(self, model: str, ticket: Ticket) -> None:
        """Refuses a request that would find no place, before anything is done for it.

        Args:
            model: name of its model; empty: unknown, which is refused later.
            ticket: its ticket.

        Raises:
            ServiceError: QUEUE_FULL, BUDGET_TOO_SHORT.
        """
        if not self.limits.requests:
            if model and not self._workers.has_room(model, 1, None):
                raise no_room.queue_full(model, "as many requests wait there as may")
            return
        line = self._lines.get(model)
        if line is not None and line.queue:
            refusal = line.refusal(ticket)
            if refusal is not None:
                raise refusal

    async def turn(self, ticket: Ticket, model: str, budget_s: float | None) -> bool:
        """Returns once a worker has room; False: its time budget is spent.

        Args:
            ticket: the request's.
            model: name of its model.
            budget_s: what is left of its time budget, in seconds.

        Raises:
            ServiceError: it is not its turn in time, or NO_WORKER.
        """
        if not self.limits.requests:
            self.check(model, ticket)
            return True
        line = self._line(model)
        if not self._workers.is_ready(model):
            if not line.expects():
                raise errors.no_worker(model)
        elif not line.queue and line.has_room():
            line.take(ticket)
            return True
        refusal = line.refusal(ticket)
        if refusal is not None:
            raise refusal
        if budget_s is not None:
            wait_s = line.wait_s(ticket, time.monotonic()) or 0.0
            if wait_s > budget_s > 0:  # one that is spent has a result, without tokens
                raise no_room.budget_too_short(model, budget_s, wait_s)
        return await self._wait(ticket, line, model, budget_s)

    async def again(self, ticket: Ticket, model: str, budget_s: float | None) -> bool:
        """Has a request wait anew that no worker took after all; see `turn`.

        Returns whether it is its turn; False: it has come back too often, or its time budget is
        spent.

        Raises:
            ServiceError: as `turn`.
        """
        ticket.returns += 1
        if not self.limits.requests or ticket.returns > RETURNS:
            return False
        ticket.arrived()
        ticket.continues = True
        began_s = time.monotonic()
        await asyncio.sleep(REPORT_S if budget_s is None else min(REPORT_S, max(budget_s, 0.0)))
        left_s = None if budget_s is None else budget_s - (time.monotonic() - began_s)
        return await self.turn(ticket, model, left_s)

    def look(self) -> None:
        """Looks for room: a generation has ended."""
        for line in self._lines.values():
            if line.queue:
                line.dispatch()

    async def _wait(self, ticket: Ticket, line: Line, model: str, budget_s: float | None) -> bool:
        depth = model, depth_class(ticket.priority)
        limit_s = self.limits.wait_s
        if budget_s is not None:
            limit_s = min(limit_s, max(budget_s, 0.0))
        ends_s = time.monotonic() + limit_s
        ticket.queued = True
        self.depths[depth] += 1
        try:
            async with asyncio.timeout(limit_s):
                verdict = line.join(ticket)
                line.dispatch()
                self._tick_later()
                refusal = await verdict
        except TimeoutError:
            if limit_s < self.limits.wait_s:
                await deadlines.reached(ends_s)  # whoever asks next what is left is told: nothing
                return False
            retry_s = line.wait_s(ticket, time.monotonic())
            raise no_room.queue_timeout(model, limit_s, retry_s) from None
        finally:
            self.depths[depth] -= 1
            line.leave(ticket)
        if refusal is not None:
            raise refusal
        return True

    def _line(self, model: str) -> Line:
        line = self._lines.get(model)
        if line is None:
            # Of models that have gone; what is on its way keeps its own.
            for name in [name for name, each in self._lines.items() if not each.queue]:
                if not self._workers.is_ready(name):
                    del self._lines[name]
            line = self._lines[model] = Line(model, self._workers, self.limits)
        return line

    def _tick_later(self) -> None:
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        self.look()
        if any(line.queue for line in self._lines.values()):
            self._tick_later()


def depth_class(priority: int) -> str:
    """Returns what a priority counts as in metrics, whose attributes must be few."""
    if priority > 0:
        return semconv.HIGH
    return semconv.LOW if priority < 0 else semconv.NORMAL
