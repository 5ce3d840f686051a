"""From request to worker: admission, validation, tokenising, routing, submission."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from opentelemetry.context import Context
from tokenwire_service.errors import Code, InvalidRequestError, ServiceError
from tokenwire_service.telemetry import semconv

from tokenwire_frontend import errors
from tokenwire_frontend.core.detokenizer import SEED_IDS
from tokenwire_frontend.core.events import Pace
from tokenwire_frontend.core.request import ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt
from tokenwire_frontend.core.router import Choice
from tokenwire_frontend.core.sequence import Finish, Sequence
from tokenwire_frontend.core.stop_matcher import StopMatcher, StopStrings
from tokenwire_frontend.core.validation import prompt_length_violation, violations
from tokenwire_frontend.generation.generation import LiveGeneration
from tokenwire_frontend.generation.record import GenerationRecord, Recorder
from tokenwire_frontend.models.chat_template import ChatTemplateError
from tokenwire_frontend.models.model import Model
from tokenwire_frontend.models.tokenizer import Tokenizer
from tokenwire_frontend.models.tokenizer_pool import TokenizerPool
from tokenwire_frontend.workers.link import WorkerLink
from tokenwire_frontend.workers.messages import worker_request
from tokenwire_frontend.workers.pool import WorkerPool

ATTEMPTS = 3
"""Workers tried for one request: a refusal for want of room or for draining says nothing of the
next."""

_TRY_ANOTHER = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED})


class Generator:
    """All generations of this frontend.

    Args:
        pool: the workers.
        tokenizers: the threads that tokenise.
        recorder: where generations are written down.
        limit: generations at once; the next is refused.
    """

    def __init__(
        self, pool: WorkerPool, tokenizers: TokenizerPool, recorder: Recorder, limit: int
    ) -> None:
        self.pool = pool
        self.tokenizers = tokenizers
        self.limit = limit
        self.held = 0
        """Generations now."""
        self._recorder = recorder
        self._live: set[LiveGeneration] = set()
        self.closing = asyncio.Event()
        """Set once new generations are refused because the frontend is being stopped."""
        self.over = asyncio.Event()
        """Set when nothing is live any more and nothing will be: streams end."""
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(
        self,
        read: Callable[[], GenerationRequest],
        on_news: Callable[[LiveGeneration], None],
        *,
        pace: Pace,
        request_id: str = "",
        deadline_s: float | None = None,
        context: Context | None = None,
    ) -> LiveGeneration:
        """Starts a generation that has just been received; returns once a worker has taken it.

        Args:
            read: returns the generation; raises InvalidRequestError where it can't be read.
            on_news: called when there is something to take from the generation.
            pace: when `on_news` is called.
            request_id: the caller's name for it, known even where it can't be read.
            deadline_s: seconds after which the caller no longer waits, or None.
            context: trace context of the request; None: the current one.

        Raises:
            ServiceError: the request can't be served; InvalidRequestError names fields from
            `Generation`.
        """
        received_s = time.monotonic()
        try:
            request = read()
        except InvalidRequestError as error:
            self.refuse(error, request_id, context)
            raise
        known = self.pool.known_name(request.model)
        record = self._recorder.begin(request, known, received_s, context)
        record.deadline_s = deadline_s
        try:
            live, model, prompt = await self._prepare(request, record, pace, on_news)
        except ServiceError as error:
            record.refuse(error)
            raise
        except BaseException:
            record.vanish()
            raise
        self._live.add(live)
        await self._submit(live, model, request, prompt, deadline_s)
        return live

    def refuse(
        self, error: ServiceError, request_id: str = "", context: Context | None = None
    ) -> None:
        """Writes down a generation that has just been received, and refused unread."""
        unread = GenerationRequest(prompt=None, request_id=request_id)
        self._recorder.begin(unread, "", time.monotonic(), context).refuse(error)

    async def _prepare(
        self,
        request: GenerationRequest,
        record: GenerationRecord,
        pace: Pace,
        on_news: Callable[[LiveGeneration], None],
    ) -> tuple[LiveGeneration, Model, list[int]]:
        """Admits, checks and tokenises a request; returns also its model and its prompt's ids."""
        self._admit()
        try:
            model = self.pool.model(request.model, "model")
            faults = violations(request, model.limits)
            if faults:
                raise InvalidRequestError(faults)
            prompt, text = await self._tokenize(model, request, record)
            fault = prompt_length_violation(len(prompt), request, model.limits)
            if fault is not None:
                raise InvalidRequestError([fault], reason="PROMPT_TOO_LONG")
            sequences = _sequences(model, request, prompt, text)
        except BaseException:
            self._release(None)
            raise
        live = LiveGeneration(record, sequences, len(prompt), pace, on_news, self._release)
        return live, model, prompt

    async def drain(self, grace_s: float) -> None:
        """Takes nothing new and waits for what is live; after this long, ends it with an error."""
        self.closing.set()
        try:
            await asyncio.wait_for(self._idle.wait(), grace_s)
        except TimeoutError:
            for live in list(self._live):
                live.fail(errors.grace_over())
        self.over.set()

    def _admit(self) -> None:
        if self.closing.is_set():
            raise errors.draining()
        if self.held >= self.limit:
            raise errors.too_many(self.limit)
        self.held += 1
        self._idle.clear()

    def _release(self, live: LiveGeneration | None) -> None:
        if live is not None:
            self._live.discard(live)
        self.held -= 1
        if not self.held:
            self._idle.set()

    async def _tokenize(
        self, model: Model, request: GenerationRequest, record: GenerationRecord
    ) -> tuple[list[int], str]:
        """Returns the prompt's ids, and its text where it is echoed."""
        prompt, tokenizer = request.prompt, model.tokenizer
        if isinstance(prompt, TokenPrompt):
            if not request.output.echo:
                return prompt.token_ids, ""
            ids = prompt.token_ids
            text = await self.tokenizers.run(
                lambda: tokenizer.decode(ids, skip_special_tokens=False)
            )
            return ids, text
        assert prompt is not None  # noqa: S101 - validated before
        if isinstance(prompt, ChatPrompt) and tokenizer.chat_template is None:
            raise errors.no_chat_template(model.name)
        encoded, text, times = await self.tokenizers.run(
            lambda: _encode(tokenizer, prompt, request.add_special_tokens)
        )
        for stage, from_s, to_s in times:
            record.stage(stage, from_s, to_s)
        return encoded, text

    async def _submit(
        self,
        live: LiveGeneration,
        model: Model,
        request: GenerationRequest,
        prompt: list[int],
        deadline_s: float | None,
    ) -> None:
        """Submits to one worker after the other until one takes it."""
        tried: list[WorkerLink] = []
        try:
            while not live.done:
                routed_s = time.monotonic()
                link, choice = self.pool.route(model, prompt, tried)
                _send(live, link, choice, model, request, prompt, deadline_s, routed_s)
                try:
                    await live.accepted
                except ServiceError as error:
                    tried.append(link)
                    others = [each for each in self.pool.ready(model.name) if each not in tried]
                    if error.code not in _TRY_ANOTHER or len(tried) == ATTEMPTS or not others:
                        raise
                else:
                    return
        except ServiceError as error:
            live.refuse(error)
            raise
        except BaseException:
            live.abandon()
            raise


def _send(
    live: LiveGeneration,
    link: WorkerLink,
    choice: Choice,
    model: Model,
    request: GenerationRequest,
    prompt: list[int],
    deadline_s: float | None,
    routed_s: float,
) -> None:
    """Sends the generation to one worker, with what is left of its budget and deadline."""
    record = live.record
    elapsed_s = time.monotonic() - record.received_s
    budget_s = request.time_budget_s
    if budget_s is not None and budget_s <= elapsed_s:
        live.end(Finish.TIME_BUDGET)
        return
    limits = [limit for limit in (budget_s, deadline_s) if limit is not None]
    message = worker_request(
        request,
        record.request_id,
        prompt,
        model.defaults,
        time_left_s=max(min(limits) - elapsed_s, 0.0) if limits else None,
        trace_context=record.routed(link.info.name if link.info else "", link.address, choice),
    )
    handle = link.submit(message, live)
    record.stage(semconv.SPAN_ROUTE, routed_s, time.monotonic())
    live.submitted(link, handle, deadline_first=limits != [] and min(limits) == deadline_s)
    if budget_s is not None:
        live.arm_budget(budget_s - elapsed_s)


def _encode(
    tokenizer: Tokenizer, prompt: TextPrompt | ChatPrompt, add_special_tokens: bool | None
) -> tuple[list[int], str, list[tuple[str, float, float]]]:
    """Renders and tokenises; runs on a tokenizer thread.

    Returns:
        The ids, the text, and each stage's name and time.monotonic() of its beginning and end.
    """
    start = time.monotonic()
    times = []
    if isinstance(prompt, ChatPrompt):
        text = render(tokenizer, prompt, "prompt.chat")
        special = bool(add_special_tokens)
        rendered = time.monotonic()
        times.append((semconv.SPAN_RENDER, start, rendered))
        start = rendered
    else:
        text = prompt.text
        special = add_special_tokens is not False
    ids = tokenizer.encode_ids(text, add_special_tokens=special)
    times.append((semconv.SPAN_TOKENIZE, start, time.monotonic()))
    return ids, text, times


def render(tokenizer: Tokenizer, chat: ChatPrompt, field: str) -> str:
    """Returns the chat as the tokenizer's template, which it must have, renders it.

    Raises:
        ServiceError: CHAT_TEMPLATE_FAILED at `field`.
    """
    assert tokenizer.chat_template is not None  # noqa: S101 - the caller has checked
    try:
        return tokenizer.chat_template.render(chat)
    except ChatTemplateError as error:
        raise errors.template_failed(field, str(error)) from error


def _sequences(
    model: Model, request: GenerationRequest, prompt: list[int], text: str
) -> list[Sequence]:
    stopping, tokenizer = request.stopping, model.tokenizer
    own = frozenset() if stopping.ignore_eos else frozenset(model.limits.eos_token_ids)
    own -= frozenset(stopping.stop_token_ids)
    return [
        Sequence(
            index,
            tokenizer.detokenizer(
                skip_special_tokens=request.output.skip_special_tokens, seed=prompt[-SEED_IDS:]
            ),
            StopMatcher(StopStrings(stopping.stop), include=stopping.include_stop_in_output)
            if stopping.stop
            else None,
            stop_token_ids=own | frozenset(stopping.stop_token_ids),
            own_eos_ids=own,
            min_tokens=stopping.min_tokens,
            include_stop=stopping.include_stop_in_output,
            echo=text if request.output.echo else "",
        )
        for index in range(request.sequence_count)
    ]
