"""How many generations this frontend holds at once, of whom, and its drain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from tokenwire_service.errors import InvalidRequestError

from tokenwire_frontend import errors, no_room
from tokenwire_frontend.core.model import ModelLimits
from tokenwire_frontend.core.tenants import Tenant, Tenants
from tokenwire_frontend.core.validation import PRIORITY_LIMIT, PROMPT_TOO_LONG
from tokenwire_frontend.generation.incoming import Incoming
from tokenwire_frontend.generation.lease import Lease
from tokenwire_frontend.generation.queues import Queues, Ticket

BYTES_PER_TOKEN = 4
"""Of a request, until its prompt is tokenised: about what tokenizers make of English."""


class Admission:
    """Places for generations.

    Args:
        limit: generations at once; the next is refused.
        queues: where they wait for workers.
        tenants: whose they are.
    """

    def __init__(self, limit: int, queues: Queues, tenants: Tenants) -> None:
        self.limit = limit
        self.queues = queues
        self.tenants = tenants
        self.held = 0
        """Generations now: being started, or at a worker, or with something that the client has yet
        to take. So this also bounds what waits for clients that do not read, and what workers have
        yet to cancel."""
        self.closing = asyncio.Event()
        """Set once new generations are refused because the frontend is being stopped."""
        self.over = asyncio.Event()
        """Set when nothing is held any more, or the drain's grace is over: watches of the activity
        end. A session ends once nothing of its own is open."""
        self._ends_s = 0.0
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self, incoming: Incoming, model: str) -> Lease:
        """Takes a place, or refuses at as little cost as can be: nothing is read yet.

        Args:
            incoming: the generation.
            model: name of its model; empty: unknown, which is refused later.

        Raises:
            ServiceError: DRAINING, or for want of room; see no_room.
        """
        if self.closing.is_set():
            raise errors.draining()
        if self.held >= self.limit:
            raise no_room.too_many(self.limit)
        tenant = self.tenants.named(incoming.caller.tenant)
        ticket = _ticket(incoming, tenant)
        self.queues.check(model, ticket)
        _enter(tenant)
        self.held += 1
        self._idle.clear()
        return Lease(ticket, partial(self._leave, tenant), self.queues.look)

    async def drain(self, grace_s: float) -> bool:
        """Takes nothing new; returns whether nothing was held any more within the grace."""
        self._ends_s = time.monotonic() + grace_s
        self.closing.set()
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    @property
    def grace_left_s(self) -> float:
        """Time that what is held still has, once `closing` is set."""
        return max(self._ends_s - time.monotonic(), 0.0)

    def _leave(self, tenant: Tenant) -> None:
        tenant.generations -= 1
        self.held -= 1
        if not self.held:
            self._idle.set()


def _ticket(incoming: Incoming, tenant: Tenant) -> Ticket:
    ticket = Ticket(
        tenant=tenant.name,
        lane=incoming.lane,
        priority=max(min(incoming.priority, tenant.limits.highest_priority), -PRIORITY_LIMIT),
        weight=tenant.limits.weight,
        size_bytes=incoming.size_bytes,
        continues=incoming.continues,
        owner=tenant,
    )
    if incoming.deadline_s is not None:
        ticket.ends_s = incoming.received_s + incoming.deadline_s
    return ticket


def _enter(tenant: Tenant) -> None:
    """Counts one more generation of a tenant.

    Raises:
        ServiceError: TENANT_BUSY, TENANT_REQUESTS.
    """
    limits = tenant.limits
    most = limits.concurrent_generations
    if most is not None and tenant.generations >= most:
        raise no_room.tenant_busy(tenant.name, most)
    wait_s = tenant.request_wait_s(time.monotonic())
    if wait_s:
        each_minute = limits.requests_per_minute or 0
        raise no_room.tenant_rate(tenant.name, "requests", each_minute, wait_s)
    tenant.take_request()
    tenant.generations += 1


def charge(ticket: Ticket, output_tokens: int, sequences: int) -> None:
    """Counts what a request may come to, for its tenant and for its turn; its prompt is a guess.

    Args:
        ticket: the request's, which gives back what it did not use.
        output_tokens: most tokens of one sequence.
        sequences: how many.

    Raises:
        ServiceError: TENANT_TOKENS.
    """
    ticket.output_tokens = output_tokens
    tokens = ticket.size_bytes / BYTES_PER_TOKEN + output_tokens * sequences
    tenant = ticket.owner
    wait_s = tenant.token_wait_s(tokens, time.monotonic())
    if wait_s:
        each_minute = tenant.limits.tokens_per_minute or 0
        raise no_room.tenant_rate(tenant.name, "tokens", each_minute, wait_s)
    ticket.price(tokens)


@contextmanager
def limited(tenant: Tenant, limits: ModelLimits) -> Iterator[ModelLimits]:
    """Offers a model's limits with the tenant's own bound of prompts; what breaks it names it."""
    most = tenant.limits.prompt_tokens
    if most is None or most >= limits.prompt_tokens:
        yield limits
        return
    try:
        yield replace(limits, prompt_tokens=most)
    except InvalidRequestError as error:
        if error.reason == PROMPT_TOO_LONG:
            error.quota = no_room.prompt_quota(tenant.name, most)
        raise
