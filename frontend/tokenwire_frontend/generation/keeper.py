"""Generations that outlive their calls: begun, found again, bounded, and dropped in the end.

A kept generation runs in a task of its own, and calls only read it. It ends by itself, by a cancel,
by its time budget, or when it has had no reader for its time. All of its output stays until it is
dropped, so that a reader may begin after any id.
"""

from __future__ import annotations

import asyncio
import secrets
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from opentelemetry import trace
from tokenwire_service.errors import InvalidRequestError, ServiceError, invalid
from tokenwire_service.tasks import Scope
from tokenwire_service.wording import counted

from tokenwire_frontend import errors, kept_errors
from tokenwire_frontend.core.caller import Caller, scoped
from tokenwire_frontend.core.events import Resume
from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.generation.incoming import Incoming, Terms
from tokenwire_frontend.generation.kept import TTL_DEFAULT_S, Kept
from tokenwire_frontend.generation.reader import Reader
from tokenwire_frontend.generation.readers import Readers
from tokenwire_frontend.metrics import FrontendMetrics

UNKNOWN = "UNKNOWN_GENERATION"
EXPIRED = "EXPIRED"
EVICTED = "EVICTED"
"""Why a generation is not kept: reasons that a caller is told."""

GONE_LIMIT = 4096
"""Generations of which it is remembered why they were dropped, about 150 bytes each: what was
dropped before these is unknown."""

Runs = Callable[[Incoming, Readers], AbstractAsyncContextManager[Generation]]
Refuses = Callable[[ServiceError, Incoming], None]


@dataclass(frozen=True, slots=True)
class KeepLimits:
    """Bounds of what is kept."""

    bytes: int = 256 * 2**20
    """Of all kept generations together."""
    ttl_s: float = 3600.0
    """Most that one is kept without a caller."""


class Elsewhere(Exception):  # noqa: N818 - no error: the generation is found there
    """The generation of a key is another process's.

    Args:
        address: HOST:PORT of that process.
    """

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address


class Claims(Protocol):
    """Which process has the generation of a key, where several serve together."""

    async def claim(self, key: str) -> str | None:
        """Takes the key for this process; returns the address of the one that has it, if one does.

        Raises:
            ServiceError: that can't be found out.
        """
        ...

    def release(self, key: str) -> None:
        """Lets go of the key, if this process has it."""
        ...


class Keeper:
    """All kept generations of this process.

    Args:
        limits: bounds of what is kept.
        metrics: the instruments.
        runs: starts a generation; inside the block a worker has taken it, or it is done already.
        refuses: writes down a generation that is refused unread.
    """

    def __init__(
        self, limits: KeepLimits, metrics: FrontendMetrics, runs: Runs, refuses: Refuses
    ) -> None:
        self.held_bytes = 0
        """Counted for all of them."""
        self.claims: Claims | None = None
        """None: no other process serves with this one."""
        self.token: Callable[[str], str] = str
        """Makes the token of a generation by its name."""
        self._limits = limits
        self._metrics = metrics
        self._runs = runs
        self._refuses = refuses
        self._scope = Scope("kept_generation")
        self._every: dict[str, Kept] = {}
        self._of_key: dict[str, Kept] = {}
        self._ended: dict[str, Kept] = {}
        # In the order of their ends.
        self._gone: dict[str, str] = {}
        # Why each was dropped, the latest last.

    def __len__(self) -> int:
        return len(self._every)

    async def close(self) -> None:
        """Ends what is left."""
        for kept in list(self._every.values()):
            kept.stay()
        await self._scope.close()

    # What calls do.

    @asynccontextmanager
    async def open(self, incoming: Incoming, reader: Reader) -> AsyncIterator[Generation]:
        """Begins a generation, or finds the one of its key; leaving the block leaves it running.

        Args:
            incoming: the generation, with terms.
            reader: who takes it; `begin` it inside the block.

        Raises:
            ServiceError: it can't be served, or the key is that of another request.
            Elsewhere: the generation of this key is another process's.
        """
        terms = self._terms(incoming)
        kept = self._of_key.get(scoped(incoming.caller.tenant, terms.key)) if terms.key else None
        if kept is None:
            kept = self._begin(incoming, terms)
        elif kept.terms.digest != terms.digest:
            raise self._refused(kept_errors.idempotency_conflict(terms.key), incoming)
        else:
            reader.attached = True
        async with self._read(kept, reader):
            if reader.attached:
                _go_on(reader, terms, kept.generation, incoming.path)
                self._metrics.attaches.count("key").value += 1
            yield kept.generation

    @asynccontextmanager
    async def attach(
        self, name: str, caller: Caller, reader: Reader, path: str
    ) -> AsyncIterator[Generation]:
        """Finds a generation; leaving the block leaves it running.

        Args:
            name: that of the generation.
            caller: who asks; what is another tenant's is not found.
            reader: who takes it, from its `offsets` on; `begin` it inside the block.
            path: that of the offsets in the caller's message.

        Raises:
            ServiceError: it is not kept here, or it has no such place.
        """
        kept = self._found(name)
        if kept.tenant != caller.tenant:  # also for administrators, who do not read texts
            raise kept_errors.not_kept(UNKNOWN)
        async with self._read(kept, reader) as generation:
            _begin_at_offsets(reader, generation, path)
            self._metrics.attaches.count("token").value += 1
            yield generation

    def cancel(self, name: str, caller: Caller) -> None:
        """Ends a generation, unless it has ended.

        Raises:
            ServiceError: it is not kept here, or is another tenant's.
        """
        kept = self._found(name)
        if not caller.sees(kept.tenant):
            raise kept_errors.not_kept(UNKNOWN)
        generation = kept.readers.generation
        if generation is not None:
            generation.cancel()

    # How one begins and ends.

    def _terms(self, incoming: Incoming) -> Terms:
        keeps, incoming.keeps = incoming.keeps, None
        assert keeps is not None  # noqa: S101 - asked for those that have terms
        try:
            return keeps()
        except InvalidRequestError as error:
            raise self._refused(error, incoming) from error

    def _refused(self, error: ServiceError, incoming: Incoming) -> ServiceError:
        self._refuses(error, incoming)
        return error

    def _begin(self, incoming: Incoming, terms: Terms) -> Kept:
        readers = Readers(lambda: self._excess(kept))
        ttl_s = min(TTL_DEFAULT_S if terms.ttl_s is None else terms.ttl_s, self._limits.ttl_s)
        # Without what belongs to the caller's message, which may be large.
        terms, tenant = replace(terms, so_far=()), incoming.caller.tenant
        kept = Kept(secrets.token_hex(12), tenant, terms, ttl_s, readers)
        excess = self._excess(kept)
        if excess is not None:
            self._count(kept, 0)
            raise self._refused(excess, incoming)
        self._every[kept.name] = kept
        if kept.key:
            self._of_key[kept.key] = kept
        self._scope.start(self._run(kept, incoming), on_fault=partial(self._fault, kept))
        return kept

    async def _run(self, kept: Kept, incoming: Incoming) -> None:
        """Runs it to its end, whoever reads it."""
        incoming.deadline_s = None  # the call's, which may end before
        try:
            await self._claim(kept, incoming)
            if kept.dropped:
                return
            async with self._runs(incoming, kept.readers) as generation:
                kept.begin(generation, Resume(self.token(kept.name), kept.ttl_s))
                await kept.readers.ended.wait()
        except (ServiceError, Elsewhere) as error:
            kept.settle(error)
        finally:
            self._end(kept)

    async def _claim(self, kept: Kept, incoming: Incoming) -> None:
        """Makes sure that no other process has the generation of its key.

        Raises:
            Elsewhere: one has it.
            ServiceError: that can't be found out, or the caller was sent here by that one.
        """
        if self.claims is None or not kept.key:
            return
        address = await self.claims.claim(kept.key)
        if address is not None:
            raise Elsewhere(address) if incoming.may_move else kept_errors.key_moved()

    def _fault(self, kept: Kept, error: Exception) -> None:
        trace_id = trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)
        kept.settle(errors.internal_fault(error, trace_id))

    def _end(self, kept: Kept) -> None:
        """Notes that it runs no more."""
        if kept.dropped:
            kept.settle(kept_errors.not_kept(EXPIRED))
            return
        if not kept.started.done() or kept.started.result() is not None:
            kept.settle(errors.draining())
            self._drop(kept, UNKNOWN)
            return
        if kept.generation.failure is not None:
            self._release_key(kept)  # the same request may do better
        self._ended[kept.name] = kept
        self._excess(kept)
        if not kept.terms.detaches:
            kept.expire_later(self._expire)

    # Who reads it, and until when it is kept.

    @asynccontextmanager
    async def _read(self, kept: Kept, reader: Reader) -> AsyncIterator[Generation]:
        kept.readers.add(reader)
        kept.stay()
        try:
            refusal = await asyncio.shield(kept.started)
            if refusal is not None:
                raise refusal
            yield kept.generation
        finally:
            kept.readers.remove(reader)
            kept.expire_later(self._expire)

    def _found(self, name: str) -> Kept:
        kept = self._every.get(name)
        if kept is None:
            raise kept_errors.not_kept(self._gone.get(name, UNKNOWN))
        return kept

    def _expire(self, kept: Kept) -> None:
        """Ends and drops one that has had no reader for its time."""
        generation = kept.readers.generation
        self._drop(kept, EXPIRED)
        if generation is not None and not generation.done:
            generation.record.cancelled("detach_ttl")
            generation.end(Finish.CANCELLED)

    # What it takes.

    def _excess(self, kept: Kept) -> ServiceError | None:
        """Counts one anew; returns why it has to end, where it takes too much.

        The oldest that have ended, and that nobody reads, make room for it.
        """
        self._count(kept, kept.size())
        while self.held_bytes > self._limits.bytes:
            oldest = next((each for each in self._ended.values() if not each.readers), None)
            if oldest is None:
                return kept_errors.retention_full(self._limits.bytes)
            self._drop(oldest, EVICTED)
        return None

    def _count(self, kept: Kept, size: int) -> None:
        self.held_bytes += size - kept.bytes
        kept.bytes = size

    def _drop(self, kept: Kept, why: str) -> None:
        """Lets go of one, and remembers why."""
        kept.dropped = True
        kept.stay()
        self._count(kept, 0)
        self._release_key(kept)
        self._every.pop(kept.name, None)
        self._ended.pop(kept.name, None)
        if why is UNKNOWN:
            return
        self._metrics.kept_dropped.count(why.lower()).value += 1
        self._gone[kept.name] = why
        if len(self._gone) > GONE_LIMIT:
            del self._gone[next(iter(self._gone))]

    def _release_key(self, kept: Kept) -> None:
        if kept.key and self._of_key.get(kept.key) is kept:
            del self._of_key[kept.key]
            if self.claims is not None:
                self.claims.release(kept.key)


def _go_on(reader: Reader, terms: Terms, generation: Generation, path: str) -> None:
    """Has a reader begin after what the caller of a repeated request has.

    Raises:
        ServiceError: that is not what the generation begins with.
    """
    field, logs = f"{path}.output_so_far", generation.logs
    if terms.so_far and len(terms.so_far) != len(logs):
        given = counted(len(terms.so_far), "sequence")
        raise invalid(field, f"has {given}; the generation has {len(logs)}")
    so_far = terms.so_far or [((), False)] * len(logs)
    for place, ((ids, ended), log) in enumerate(zip(so_far, logs, strict=True)):
        if array("I", ids) != log.ids[: len(ids)]:
            raise kept_errors.other_ids(f"{field}[{place}].token_ids")
        if len(ids) < log.resumed or log.told > ended:
            raise kept_errors.less_output(f"{field}[{place}]", log.resumed)
    reader.offsets = [len(ids) for ids, _ in terms.so_far]
    reader.ended = frozenset(place for place, (_, ended) in enumerate(terms.so_far) if ended)


def _begin_at_offsets(reader: Reader, generation: Generation, path: str) -> None:
    """Has a reader begin after the ids that it says, and after none of sequences beyond them.

    Raises:
        ServiceError: there are no such places.
    """
    offsets, logs = reader.offsets, generation.logs
    if len(offsets) > len(logs):
        raise invalid(
            path, f"has {len(offsets)} entries; the generation has {counted(len(logs), 'sequence')}"
        )
    for place, (offset, log) in enumerate(zip(offsets, logs, strict=False)):
        if offset > log.token_count:
            raise kept_errors.offset_beyond(f"{path}[{place}]", offset, log.token_count)
    if offsets:
        reader.offsets = [*offsets, *[0] * (len(logs) - len(offsets))]
