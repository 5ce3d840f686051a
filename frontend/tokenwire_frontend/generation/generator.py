"""From a door to a worker: admission, reading, validation, tokenising, attempts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass, replace

from tokenwire_service.errors import Code, InvalidRequestError, ServiceError
from tokenwire_service.telemetry import semconv

from tokenwire_frontend import errors
from tokenwire_frontend.core.held_calls import told_of_tools
from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.core.prompt_log import PromptLog
from tokenwire_frontend.core.request import ChatPrompt, GenerationRequest
from tokenwire_frontend.core.router import Choice
from tokenwire_frontend.core.validation import prompt_length_violation, violations
from tokenwire_frontend.generation import answer, prompt, reading
from tokenwire_frontend.generation.admission import Admission
from tokenwire_frontend.generation.attempt import Attempt
from tokenwire_frontend.generation.conversation import Conversations, Turn
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.generation.incoming import Incoming
from tokenwire_frontend.generation.keeper import Keeper, KeepLimits
from tokenwire_frontend.generation.lease import Lease
from tokenwire_frontend.generation.reader import Reader
from tokenwire_frontend.generation.readers import Readers
from tokenwire_frontend.generation.record import Recorder
from tokenwire_frontend.models.model import Model
from tokenwire_frontend.models.tokenizer_pool import TokenizerPool
from tokenwire_frontend.workers.link import WorkerLink
from tokenwire_frontend.workers.messages import WorkerRequest, fill_request, prompt_request
from tokenwire_frontend.workers.pool import WorkerPool

ATTEMPTS = 3
"""Workers that one request is sent to: a refusal for want of room or for draining says nothing of
the next. Those that it can't be sent to are not counted."""

_TRY_ANOTHER = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED})


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that was checked and tokenised."""

    model: Model
    request: GenerationRequest
    ids: Sequence[int]
    """The prompt's."""
    banned: Sequence[Sequence[int]]
    """Ids of each banned word, in every form that it has."""


class Generator:
    """All generations of this frontend.

    Args:
        pool: the workers.
        tokenizers: the processes that tokenise.
        recorder: where generations are written down.
        admission: the places for generations.
        conversations: what is kept between turns.
        keeping: bounds of those that outlive their calls.
    """

    def __init__(
        self,
        pool: WorkerPool,
        tokenizers: TokenizerPool,
        recorder: Recorder,
        admission: Admission,
        conversations: Conversations,
        keeping: KeepLimits | None = None,
    ) -> None:
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
        return (
            self._run(incoming, reader)
            if incoming.keeps is None
            else (self.keeper.open(incoming, reader))
        )

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
                await self._try_workers(generation, incoming, prepared)
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
            answer.check_size(request, model.limits, limit)
        turn = self._begin_turn(model, request)
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
        generation.was_tokenised(len(ids), decoders, prompt_log)
        return Prepared(model, reading.hold(model, request, read), ids, banned)

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

    def _begin_turn(self, model: Model, request: GenerationRequest) -> Turn | None:
        """Begins a turn where the request is one of a conversation."""
        if request.conversation is None:
            return None
        assert isinstance(request.prompt, ChatPrompt)  # noqa: S101 - validated before
        return self.conversations.begin(request.conversation, request.prompt, model)

    async def _try_workers(
        self, generation: Generation, incoming: Incoming, prepared: Prepared
    ) -> None:
        """Submits to one worker after the other until one takes it."""
        tried: list[WorkerLink] = []
        sent = 0
        preferred = "" if generation.turn is None else generation.turn.worker
        while not generation.done:
            message = await prompt_request(prepared.ids)
            if generation.done:
                return
            routed_s = time.monotonic()
            link, choice = self.pool.route(prepared.model, prepared.ids, tried, preferred)
            attempt = _submit(generation, link, incoming, prepared, message, choice, routed_s)
            if attempt is None:
                return
            refusal = await attempt.settled
            if refusal is None:
                return
            tried.append(link)
            sent += attempt.was_sent
            others = [each for each in self.pool.ready(prepared.model.name) if each not in tried]
            if refusal.code not in _TRY_ANOTHER or sent == ATTEMPTS or not others:
                raise told_of_tools(refusal, prepared.request)


def _submit(
    generation: Generation,
    link: WorkerLink,
    incoming: Incoming,
    prepared: Prepared,
    message: WorkerRequest,
    choice: Choice,
    routed_s: float,
) -> Attempt | None:
    """Sends the generation to one worker, with what is left of its budget and deadline.

    `message` has the prompt.

    Returns None where the budget is spent: the generation is done. An attempt that can't be sent is
    settled with the reason.
    """
    record = generation.record
    budget_s, deadline_s = prepared.request.time_budget_s, incoming.deadline_s
    elapsed_s = time.monotonic() - incoming.received_s
    if budget_s is not None and budget_s <= elapsed_s:
        generation.end(Finish.TIME_BUDGET)
        return None
    limits = [limit for limit in (budget_s, deadline_s) if limit is not None]
    fill_request(
        message,
        prepared.request,
        record.request_id,
        prepared.model.defaults,
        banned=prepared.banned,
        time_left_s=max(min(limits) - elapsed_s, 0.0) if limits else None,
        trace_context=record.routed(link.info.name if link.info else "", link.address, choice),
    )
    deadline_first = limits != [] and min(limits) == deadline_s
    attempt = generation.try_at(link, deadline_first=deadline_first)
    try:
        handle = link.submit(message, attempt)
    except ServiceError as error:
        attempt.unsent(error)
    else:
        attempt.sent(handle)
        record.stage(semconv.SPAN_ROUTE, routed_s, attempt.submitted_s)
    return attempt
