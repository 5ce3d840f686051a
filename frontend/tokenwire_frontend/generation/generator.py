"""From a door to a worker: admission, reading, validation, tokenising, placing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import replace

from tokenwire_service.errors import InvalidRequestError, ServiceError, invalid
from tokenwire_service.tasks import Scope

from tokenwire_frontend import errors
from tokenwire_frontend.core.breaker import MoveBudget
from tokenwire_frontend.core.prompt_log import PromptLog
from tokenwire_frontend.core.request import ChatPrompt, GenerationRequest
from tokenwire_frontend.core.validation import prompt_length_violation, violations
from tokenwire_frontend.generation import answer, prompt, reading, resuming
from tokenwire_frontend.generation.admission import Admission
from tokenwire_frontend.generation.conversation import Conversations, Turn
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.generation.incoming import Incoming
from tokenwire_frontend.generation.keeper import Keeper, KeepLimits
from tokenwire_frontend.generation.lease import Lease
from tokenwire_frontend.generation.placing import Placing, Prepared
from tokenwire_frontend.generation.reader import Reader
from tokenwire_frontend.generation.readers import Readers
from tokenwire_frontend.generation.record import Recorder
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
                await self._start(generation, incoming)
                yield generation
            except ServiceError as error:
                generation.fail(error)
                raise
            except Exception as error:
                raise generation.fault(error) from error
            finally:
                generation.leave()
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
            lease = self.admission.enter()
        except ServiceError as error:
            self.refuse(error, incoming)
            raise
        full = self.pool.full(self.pool.known_name(incoming.model))
        if full is not None:
            lease.close()
            self.refuse(full, incoming)
            raise full
        return lease

    async def _start(self, generation: Generation, incoming: Incoming) -> None:
        """Returns once a worker has taken the generation, or it is done.

        Raises:
            ServiceError: it can't be served, or was failed meanwhile.
        """
        request = incoming.read()
        generation.record.asked(request)
        try:
            async with generation.starting():
                prepared = await self._prepare(generation, request, incoming)
                placing = Placing(
                    self.pool,
                    self._budget,
                    self._moves,
                    self._move_wait_s,
                    generation,
                    incoming,
                    prepared,
                )
                await placing.start()
        except InvalidRequestError as error:
            raise errors.prefixed(error, incoming.path) from error
        if generation.failure is not None:
            raise generation.failure

    async def _prepare(
        self, generation: Generation, request: GenerationRequest, incoming: Incoming
    ) -> Prepared:
        """Checks and tokenises a request."""
        model = self.pool.model(request.model, "model")
        faults = violations(request, model.limits)
        if faults:
            raise InvalidRequestError(faults)
        if request.time_budget_s is not None:
            # What it has waited for the event loop is an estimate, which must not end it.
            request = replace(request, time_budget_s=request.time_budget_s + incoming.lag_s)
        full = self.pool.full(model.name)
        if full is not None:  # said before the work on the text, which overload would only add to
            raise full
        self._refuse_if_too_late(model, request, incoming)
        limit = incoming.answer_bytes_limit
        if limit is not None:
            if request.output_so_far:
                raise invalid("output_so_far", "is not supported by Generate")
            answer.check_size(request, model.limits, limit)
        turn = self._begin_turn(model, request, incoming)
        if turn is not None:
            generation.take_turn(turn)
            request = replace(request, prompt=turn.chat)
        generation.was_read(request.sequence_count, request.time_budget_s, limit)
        ids, text = await prompt.tokenise(self.tokenizers, model, request, generation.record, turn)
        fault = prompt_length_violation(len(ids), request, model.limits)
        if fault is not None:
            raise InvalidRequestError([fault], reason="PROMPT_TOO_LONG")
        prompt_log = None
        if request.output.prompt_logprobs is not None:
            prompt_log = PromptLog(model.tokenizer.token_bytes)
            if limit is not None:
                answer.check_size(request, model.limits, limit, prompt_tokens=len(ids))
        banned = await prompt.banned_sequences(self.tokenizers, model, request)
        read = reading.reading(model, request, ids, text)
        decoders = prompt.decoders(model, request, ids, text, read, generation.record.request_id)
        so_far = request.output_so_far
        if so_far:
            prompt_log = None  # it came before the first id
            await resuming.resume(decoders, so_far, model.limits.vocabulary_size)
        room = model.limits.context_tokens - len(ids)
        most_tokens = min(request.stopping.max_tokens or room, room)
        generation.was_tokenised(len(ids), decoders, prompt_log, most_tokens)
        held = reading.hold(model, request, read)
        return Prepared(model, resuming.pinned(held, model.defaults), ids, banned)

    def _refuse_if_too_late(
        self, model: Model, request: GenerationRequest, incoming: Incoming
    ) -> None:
        """Refuses a request whose time budget would be spent before an engine has it."""
        # What workers tell is of priority 0; what goes before others waits for less.
        if request.time_budget_s is None or request.priority > 0:
            return
        left_s = request.time_budget_s - (time.monotonic() - incoming.received_s)
        late = self.pool.too_late(model.name, left_s)
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
