"""From a door to a worker: admission, reading, validation, tokenising, placing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import replace

from tokenwire_service.errors import Code, InvalidRequestError, ServiceError, invalid
from tokenwire_service.tasks import Scope

from tokenwire_frontend import errors
from tokenwire_frontend.core.breaker import Casualties, MoveBudget
from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.core.prompt_log import PromptLog
from tokenwire_frontend.core.request import ChatPrompt, GenerationRequest
from tokenwire_frontend.core.tenants import Tenant
from tokenwire_frontend.core.validation import PROMPT_TOO_LONG, prompt_length_violation, violations
from tokenwire_frontend.generation import answer, prompt, reading, resuming
from tokenwire_frontend.generation.admission import Admission, charge, limited
from tokenwire_frontend.generation.conversation import Conversations, Turn
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.generation.incoming import Incoming
from tokenwire_frontend.generation.keeper import Keeper, KeepLimits
from tokenwire_frontend.generation.lease import Lease
from tokenwire_frontend.generation.placing import Placing
from tokenwire_frontend.generation.queues import Ticket
from tokenwire_frontend.generation.reader import Reader
from tokenwire_frontend.generation.readers import Readers
from tokenwire_frontend.generation.record import Recorder
from tokenwire_frontend.generation.sending import Prepared
from tokenwire_frontend.models.model import Model
from tokenwire_frontend.models.tokenizer_pool import TokenizerPool
from tokenwire_frontend.workers.pool import WorkerPool


class Generator:
    """All generations of this frontend.

    Args:
        pool: the workers.
        tokenizers: the processes that tokenise.
        recorder: where generations are written down.
        admission: the places for generations.
        conversations: what is kept between turns.
        move_wait_s: time that a generation whose worker was lost waits for another; 0: none moves.
        keeping: bounds of those that outlive their calls.
    """

    def __init__(
        self,
        pool: WorkerPool,
        tokenizers: TokenizerPool,
        recorder: Recorder,
        admission: Admission,
        conversations: Conversations,
        move_wait_s: float,
        keeping: KeepLimits | None = None,
    ) -> None:
        self._budget = MoveBudget(admission.limit, time.monotonic())
        self._casualties = Casualties()
        self._moves = Scope("move")
        self._move_wait_s = move_wait_s
        self.pool = pool
        self.tokenizers = tokenizers
        self.admission = admission
        self.conversations = conversations
        self._recorder = recorder
        self.keeper = Keeper(keeping or KeepLimits(), recorder.metrics, self._run, self.refuse)
        self._live: set[Generation] = set()

    def open(self, incoming: Incoming, reader: Reader) -> AbstractAsyncContextManager[Generation]:
        """Starts a generation; inside the block a worker has taken it, or it is done already.

        Leaving the block, however that happens, leaves nothing of it behind, unless its terms are
        that it is kept: no place, no timer, no work at a worker.

        Args:
            incoming: the generation.
            reader: who takes it; `begin` it inside the block.

        Raises:
            ServiceError: the request can't be served; its fields are paths from the request's root.
            Elsewhere: another process has the generation of its key.
        """
        if incoming.keeps is None:
            return self._run(incoming, reader)
        return self.keeper.open(incoming, reader)

    @asynccontextmanager
    async def _run(self, incoming: Incoming, reader: Reader | Readers) -> AsyncIterator[Generation]:
        """Runs a generation, which ends with the block.

        An unexpected exception, of the block too, ends it with INTERNAL.
        """
        with closing(self._enter(incoming)) as lease:
            record = self._recorder.begin(incoming, self.pool.known_name(incoming.model))
            generation = Generation(record, lease, reader)
            self._live.add(generation)
            try:
                await self._start(generation, incoming, lease.ticket)
                yield generation
            except ServiceError as error:
                generation.fail(error)
                raise
            except Exception as error:
                raise generation.fault(error) from error
            finally:
                generation.leave()
                lease.ticket.used(*generation.used)
                self._live.discard(generation)

    def live(self, tenant: str | None) -> Iterator[Generation]:
        """Yields the generations that have a place now: of one tenant, or with None of all."""
        return (each for each in self._live if tenant is None or each.record.tenant == tenant)

    def refuse(self, error: ServiceError, incoming: Incoming) -> None:
        """Writes down a generation that has just been received, and is refused unread."""
        self._recorder.begin(incoming, self.pool.known_name(incoming.model)).refuse(error)

    async def drain(self, grace_s: float) -> None:
        """Takes nothing new and waits for what is live; after this long, ends it with an error."""
        if not await self.admission.drain(grace_s):
            for generation in list(self._live):
                generation.fail(errors.grace_over(), "drain")
        self.admission.over.set()

    def _enter(self, incoming: Incoming) -> Lease:
        """Takes a place, or refuses at as little cost as can be: nothing is read yet."""
        try:
            return self.admission.enter(incoming, self.pool.known_name(incoming.model))
        except ServiceError as error:
            self._count_refusal(self.admission.tenants.named(incoming.caller.tenant), error)
            self.refuse(error, incoming)
            raise

    def _count_refusal(self, tenant: Tenant, error: ServiceError) -> None:
        if error.code is Code.RESOURCE_EXHAUSTED:
            self._recorder.metrics.refusals.count(tenant.label, error.reason).value += 1

    async def _start(self, generation: Generation, incoming: Incoming, ticket: Ticket) -> None:
        """Returns once a worker has taken the generation, or it is done.

        Raises:
            ServiceError: it can't be served, or was failed meanwhile.
        """
        request = incoming.read()
        generation.record.asked(request)
        try:
            async with generation.starting():
                prepared = await self._prepare(generation, request, incoming, ticket)
                if prepared is not None:
                    await self._placing(generation, incoming, prepared).start()
        except InvalidRequestError as error:
            raise errors.prefixed(error, incoming.path) from error
        except ServiceError as error:
            if not ticket.sent_s:
                self._count_refusal(ticket.owner, error)
            raise
        finally:
            ticket.arrived()
        if generation.failure is not None:
            raise generation.failure

    def _placing(self, generation: Generation, incoming: Incoming, prepared: Prepared) -> Placing:
        return Placing(
            self.pool,
            self.admission.queues,
            self._budget,
            self._casualties,
            self._moves,
            self._move_wait_s,
            generation,
            incoming,
            prepared,
        )

    async def _prepare(
        self,
        generation: Generation,
        request: GenerationRequest,
        incoming: Incoming,
        ticket: Ticket,
    ) -> Prepared | None:
        """Checks a request, waits for its turn, and tokenises it; None: it is done."""
        model = self.pool.model(request.model, "model")
        limits = model.limits
        faults = violations(request, limits)
        if faults:
            raise InvalidRequestError(faults)
        if ticket.priority != request.priority:
            request = replace(request, priority=ticket.priority)
        if request.time_budget_s is not None:
            # What it has waited for the event loop is an estimate, which must not end it.
            request = replace(request, time_budget_s=request.time_budget_s + incoming.lag_s)
        self._refuse_if_too_late(model, request, incoming)
        limit = incoming.answer_bytes_limit
        if limit is not None:
            if request.output_so_far:
                raise invalid("output_so_far", "is not supported by Generate")
            answer.check_size(request, limits, limit)
        charge(ticket, request.stopping.max_tokens or limits.context_tokens, request.sequence_count)
        turn = self._begin_turn(model, request, incoming)
        if turn is not None:
            generation.take_turn(turn)
            request = replace(request, prompt=turn.chat)
        generation.was_read(request.sequence_count, request.time_budget_s, limit)
        if not await self._turn(generation, model, request, incoming, ticket):
            generation.end(Finish.TIME_BUDGET)
            return None
        return await self._tokenise(generation, model, request, ticket)

    async def _turn(
        self,
        generation: Generation,
        model: Model,
        request: GenerationRequest,
        incoming: Incoming,
        ticket: Ticket,
    ) -> bool:
        """Waits for a worker with room; returns False where the time budget is spent before."""
        began_s = time.monotonic()
        budget_s = request.time_budget_s
        if budget_s is not None:
            budget_s -= began_s - incoming.received_s
        try:
            return await self.admission.queues.turn(ticket, model.name, budget_s)
        finally:
            if ticket.queued and not generation.done:
                generation.record.waited(began_s, ticket.owner.label)

    async def _tokenise(
        self,
        generation: Generation,
        model: Model,
        request: GenerationRequest,
        ticket: Ticket,
    ) -> Prepared:
        """Tokenises a request whose turn it is."""
        answer_limit = generation.answer_bytes_limit
        with limited(ticket.owner, model.limits) as limits:
            ids, text = await prompt.tokenise(
                self.tokenizers, model, request, limits, generation.record, generation.turn
            )
            fault = prompt_length_violation(len(ids), request, limits)
            if fault is not None:
                raise InvalidRequestError([fault], reason=PROMPT_TOO_LONG)
        prompt_log = None
        if request.output.prompt_logprobs is not None:
            prompt_log = PromptLog(model.tokenizer.token_bytes)
            if answer_limit is not None:
                answer.check_size(request, model.limits, answer_limit, prompt_tokens=len(ids))
        banned = await prompt.banned_sequences(self.tokenizers, model, request)
        read = reading.reading(model, request, ids, text)
        decoders = prompt.decoders(model, request, ids, text, read, generation.record.request_id)
        so_far = request.output_so_far
        if so_far:
            prompt_log = None  # it came before the first id
            await resuming.resume(decoders, so_far, model.limits.vocabulary_size)
        room = model.limits.context_tokens - len(ids)
        most_tokens = min(request.stopping.max_tokens or room, room)
        ticket.price(len(ids) + most_tokens * request.sequence_count)
        generation.was_tokenised(len(ids), decoders, prompt_log, most_tokens)
        held = reading.hold(model, request, read)
        return Prepared(model, resuming.pinned(held, model.defaults), ids, banned, ticket)

    def _refuse_if_too_late(
        self, model: Model, request: GenerationRequest, incoming: Incoming
    ) -> None:
        """Refuses a request whose time budget would be spent before an engine has it."""
        # What workers tell is of priority 0; what goes before others waits for less.
        if request.time_budget_s is None or request.priority > 0:
            return
        left_s = request.time_budget_s - (time.monotonic() - incoming.received_s)
        late = self.pool.too_late(model.name, left_s, request.lora_adapter)
        if late is not None and left_s > 0:  # one that is spent has a result, without tokens
            raise late

    def _begin_turn(
        self, model: Model, request: GenerationRequest, incoming: Incoming
    ) -> Turn | None:
        """Begins a turn where the request is one of a conversation."""
        if request.conversation is None:
            return None
        assert isinstance(request.prompt, ChatPrompt)  # noqa: S101 - validated before
        tenant = incoming.caller.tenant
        return self.conversations.begin(request.conversation, tenant, request.prompt, model)
