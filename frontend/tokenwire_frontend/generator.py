"""From request to worker: admission, validation, tokenising, routing, submission."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import replace

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind
from tokenwire_service import semconv, telemetry
from tokenwire_service.errors import Code, InvalidRequestError, ServiceError

from tokenwire_frontend import errors
from tokenwire_frontend.chat_template import ChatTemplateError
from tokenwire_frontend.core.detokenizer import SEED_IDS
from tokenwire_frontend.core.events import Pace, Stage
from tokenwire_frontend.core.request import ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt
from tokenwire_frontend.core.sequence import Finish, Sequence
from tokenwire_frontend.core.stop_matcher import StopMatcher
from tokenwire_frontend.core.validation import prompt_length_violation, violations
from tokenwire_frontend.generation import LiveGeneration
from tokenwire_frontend.tokenizer import Tokenizer, TokenizerPool
from tokenwire_frontend.workers.link import WorkerLink
from tokenwire_frontend.workers.messages import worker_request
from tokenwire_frontend.workers.pool import Model, WorkerPool

EXCHANGE_METHOD = "tokenwire.worker.v1.ExecutionService/Exchange"

ATTEMPTS = 3
"""Workers tried for one request: a refusal for want of room or for draining says nothing of the
next."""

_TRY_ANOTHER = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED})


class Generator:
    """All generations of this frontend.

    Args:
        pool: the workers.
        tokenizers: the threads that tokenise.
        limit: generations at once; the next is refused.
    """

    def __init__(self, pool: WorkerPool, tokenizers: TokenizerPool, limit: int) -> None:
        self.pool = pool
        self.tokenizers = tokenizers
        self._limit = limit
        self._held = 0
        self._live: set[LiveGeneration] = set()
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(
        self,
        request: GenerationRequest,
        on_news: Callable[[LiveGeneration], None],
        *,
        received_s: float,
        pace: Pace,
        deadline_s: float | None = None,
        context: Context | None = None,
    ) -> LiveGeneration:
        """Starts a generation and returns once a worker has taken it.

        Args:
            request: the generation.
            on_news: called when there is something to take from the generation.
            received_s: time.monotonic() of the request's receipt.
            pace: when `on_news` is called.
            deadline_s: seconds from receipt after which the caller no longer waits, or None.
            context: trace context of the request; None: the current one.

        Raises:
            ServiceError: the request can't be served; InvalidRequestError names fields from
            `Generation`.
        """
        self._admit()
        span = telemetry.tracer().start_span("generate", context, SpanKind.INTERNAL)
        try:
            if not request.request_id:
                request = replace(request, request_id=secrets.token_hex(8))
            span.set_attribute(semconv.REQUEST_ID, request.request_id)
            model = self.pool.model(request.model, "model")
            faults = violations(request, model.limits)
            if faults:
                raise InvalidRequestError(faults)
            with trace.use_span(span, end_on_exit=False):
                prompt, text, stages = await self._tokenize(model, request, received_s)
            fault = prompt_length_violation(len(prompt), request, model.limits)
            if fault is not None:
                raise InvalidRequestError([fault], reason="PROMPT_TOO_LONG")
            live = LiveGeneration(
                request.request_id,
                _sequences(model, request, prompt, text),
                len(prompt),
                received_s,
                stages,
                span,
                pace,
                on_news,
                self._release,
            )
        except BaseException as error:
            self._release(None)
            if isinstance(error, ServiceError):
                span.set_attribute(semconv.ERROR_TYPE, error.reason)
            span.end()
            raise
        self._live.add(live)
        await self._submit(live, model, request, prompt, deadline_s)
        return live

    async def drain(self, grace_s: float) -> None:
        """Takes nothing new and waits for what is live; after this long, ends it with an error."""
        self._draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), grace_s)
        except asyncio.TimeoutError:
            for live in list(self._live):
                live.fail(errors.grace_over())

    def _admit(self) -> None:
        if self._draining:
            raise errors.draining()
        if self._held >= self._limit:
            raise errors.too_many(self._limit)
        self._held += 1
        self._idle.clear()

    def _release(self, live: LiveGeneration | None) -> None:
        if live is not None:
            self._live.discard(live)
        self._held -= 1
        if not self._held:
            self._idle.set()

    async def _tokenize(
        self, model: Model, request: GenerationRequest, received_s: float
    ) -> tuple[list[int], str, list[Stage]]:
        """Returns the prompt's ids, its text where it is echoed, and the stages that this took."""
        prompt, tokenizer = request.prompt, model.tokenizer
        if isinstance(prompt, TokenPrompt):
            if not request.output.echo:
                return prompt.token_ids, "", []
            ids = prompt.token_ids
            text = await self.tokenizers.run(
                lambda: tokenizer.decode(ids, skip_special_tokens=False)
            )
            return ids, text, []
        assert prompt is not None  # noqa: S101 - validated before
        if isinstance(prompt, ChatPrompt) and tokenizer.chat_template is None:
            raise errors.no_chat_template(model.name)
        with telemetry.tracer().start_as_current_span("tokenize"):
            return await self.tokenizers.run(
                lambda: _encode(tokenizer, prompt, request.add_special_tokens, received_s)
            )

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
                live.span.set_attribute(semconv.ROUTE_REASON, choice.reason)
                _send(live, link, model, request, prompt, deadline_s, routed_s)
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
    model: Model,
    request: GenerationRequest,
    prompt: list[int],
    deadline_s: float | None,
    routed_s: float,
) -> None:
    """Sends the generation to one worker, with what is left of its budget and deadline."""
    elapsed_s = time.monotonic() - live.received_s
    budget_s = request.time_budget_s
    if budget_s is not None and budget_s <= elapsed_s:
        live.end(Finish.TIME_BUDGET)
        return
    limits = [limit for limit in (budget_s, deadline_s) if limit is not None]
    span = telemetry.tracer().start_span(
        EXCHANGE_METHOD,
        trace.set_span_in_context(live.span),
        SpanKind.CLIENT,
        attributes={
            semconv.RPC_SYSTEM_NAME: semconv.GRPC,
            semconv.RPC_METHOD: EXCHANGE_METHOD,
            semconv.SERVER_ADDRESS: link.address,
        },
    )
    message = worker_request(
        request,
        prompt,
        model.defaults,
        time_left_s=max(min(limits) - elapsed_s, 0.0) if limits else None,
        trace_context=telemetry.inject(span),
    )
    handle = link.submit(message, live)
    start_s, took_s = routed_s - live.received_s, time.monotonic() - routed_s
    live.stages.append(Stage("frontend", "route", start_s, took_s))
    live.submitted(link, handle, span, deadline_first=limits != [] and min(limits) == deadline_s)
    if budget_s is not None:
        live.arm_budget(budget_s - elapsed_s)


def _encode(
    tokenizer: Tokenizer,
    prompt: TextPrompt | ChatPrompt,
    add_special_tokens: bool | None,
    received_s: float,
) -> tuple[list[int], str, list[Stage]]:
    """Renders and tokenises; runs on a tokenizer thread."""
    start = time.monotonic()
    stages = []
    if isinstance(prompt, ChatPrompt):
        text = render(tokenizer, prompt, "prompt.chat")
        special = bool(add_special_tokens)
        rendered = time.monotonic()
        stages.append(Stage("frontend", "render", start - received_s, rendered - start))
        start = rendered
    else:
        text = prompt.text
        special = add_special_tokens is not False
    ids = tokenizer.encode_ids(text, add_special_tokens=special)
    stages.append(Stage("frontend", "tokenize", start - received_s, time.monotonic() - start))
    return ids, text, stages


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
            StopMatcher(stopping.stop, include=stopping.include_stop_in_output)
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
