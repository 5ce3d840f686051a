"""What is served where, and what every request gets: identity, span, duration, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from aiohttp import web
from opentelemetry import context as otel_context
from tokenwire_service.errors import Code, InvalidRequestError, ServiceError
from tokenwire_service.telemetry import registry
from tokenwire_service.telemetry.histogram import Histogram

from tokenwire_frontend.edge.callers import Callers
from tokenwire_frontend.edge.grpc.activity import Processes
from tokenwire_frontend.edge.openai import (
    answers,
    chat,
    completions,
    errors,
    generations,
    models,
    page,
    records,
    response_request,
    responses,
    stream,
)
from tokenwire_frontend.edge.openai.body import read_body
from tokenwire_frontend.edge.openai.call import OTHER, Call
from tokenwire_frontend.edge.openai.errors import CLIENT_GONE
from tokenwire_frontend.edge.openai.fields import Fields
from tokenwire_frontend.edge.openai.generations import Ask, Asks
from tokenwire_frontend.edge.openai.identity import Headers
from tokenwire_frontend.edge.openai.logprobs import ChatLogprobs, CompletionLogprobs
from tokenwire_frontend.edge.openai.whole import answered
from tokenwire_frontend.edge.turnstile import Turnstile
from tokenwire_frontend.generation.generator import Generator

HEALTH = "/health"

READS = ("GET", "HEAD")
"""Of a HEAD, aiohttp leaves the body out."""

_NAMED = {f"{models.PATH}/": models.ONE, records.PREFIX: records.ONE}
"""Routes whose paths end with a name, by what they begin with."""

FormT = TypeVar("FormT")

Handler = Callable[["Call"], Awaitable[web.StreamResponse]]


class Routes:
    """Answers requests.

    Args:
        generator: the generations of this process.
        processes: all that serve together.
        callers: lets requests in.
        request_bytes: largest body.
        serving: tells whether work is welcome.
    """

    def __init__(
        self,
        generator: Generator,
        processes: Processes,
        callers: Callers,
        request_bytes: int,
        serving: Callable[[], bool],
    ) -> None:
        self._generator = generator
        self._processes = processes
        self._callers = callers
        self._request_bytes = request_bytes
        self._serving = serving
        self._turnstile = Turnstile()
        self._duration = Histogram(registry.HTTP_SERVER_DURATION)
        self._open = {HEALTH: self._health, **page.files()}
        """What anybody may read."""
        self._handlers: dict[str, tuple[Sequence[str], Handler]] = {
            chat.PATH: (("POST",), self._chat),
            completions.PATH: (("POST",), self._completions),
            responses.PATH: (("POST",), self._responses),
            models.PATH: (READS, self._models),
            models.ONE: (READS, self._model),
            records.ONE: (READS, self._record),
        }

    async def handle(self, request: web.BaseRequest, *, last: bool) -> web.StreamResponse:
        """Answers one request.

        Args:
            request: the request.
            last: whether its connection is to take no further ones.
        """
        if request.path in self._open and request.method in READS:
            return self._open[request.path]()
        call = Call(request, self._route(request.path), last=last)
        token = otel_context.attach(call.context)
        response: web.StreamResponse | None = None
        try:
            response = await self._answered(call)
        except asyncio.CancelledError:
            call.gone()
            raise
        finally:
            call.end(response, self._duration)
            otel_context.detach(token)
        return response

    def _route(self, path: str) -> str:
        for prefix, route in _NAMED.items():
            if path.startswith(prefix) and path != prefix:
                return route
        return path if path in self._handlers else OTHER

    async def _answered(self, call: Call) -> web.StreamResponse:
        try:
            handler = self._handler(call)
            self._callers.admit(f"openai{call.route}", Headers(call.request))
            response = await handler(call)
        except ConnectionError:  # a write has met it before the connection's own end
            call.gone()
            response = web.Response(status=CLIENT_GONE)
        except Exception as error:  # noqa: BLE001 - the last net: the caller gets a status
            response = errors.response(call.refusal(error), call.headers)
        if call.last:
            response.force_close()
        return response

    def _handler(self, call: Call) -> Handler:
        path = call.request.path
        methods, handler = self._handlers.get(call.route, (READS, None))
        if handler is None and path not in self._open:
            raise ServiceError(Code.NOT_FOUND, "UNKNOWN_PATH", f"{path[:256]!r} is not served here")
        if handler is None or call.request.method not in methods:
            raise errors.method_not_allowed(path, methods)
        return handler

    def _health(self) -> web.Response:
        """Tells a load balancer whether work is welcome."""
        serving = self._serving()
        text = "ok\n" if serving else "not serving\n"
        return web.Response(text=text, status=200 if serving else 503, headers=errors.SERVER)

    async def _models(self, call: Call) -> web.StreamResponse:
        told = models.listed(self._generator.pool)
        return answers.response(answers.as_json(told), call.headers)

    async def _model(self, call: Call) -> web.StreamResponse:
        name = call.request.path.removeprefix(models.PATH + "/")
        told = models.one(self._generator.pool, name)
        return answers.response(answers.as_json(told), call.headers)

    async def _record(self, call: Call) -> web.StreamResponse:
        request_id = call.request.path.removeprefix(records.PREFIX)
        told = await records.one(self._processes, request_id)
        return answers.response(told, call.headers)

    async def _chat(self, call: Call) -> web.StreamResponse:
        form, size_bytes = await self._read(call, chat.read, is_chat=True)
        asks = self._asks(call, form.asks, size_bytes)
        model = self._generator.pool.known_name(asks.first.model)
        if not form.stream:
            scorer = ChatLogprobs if asks.first.output.logprobs else None
            [told] = await answered(self._generator, asks, scorer)
            return answers.response(chat.answer(call.request_id, model, told), call.headers)
        chunks = chat.ChatChunks(
            asks.first, call.request_id, model, include_usage=form.include_usage
        )
        return await stream.answer(call, self._generator, self._turnstile, asks, chunks)

    async def _completions(self, call: Call) -> web.StreamResponse:
        form, size_bytes = await self._read(call, completions.read, is_chat=False)
        asks = self._asks(call, form.asks, size_bytes)
        model = self._generator.pool.known_name(asks.first.model)
        if not form.stream:
            output = asks.first.output
            scorer = partial(CompletionLogprobs, alternatives=bool(output.top_logprobs))
            told = await answered(self._generator, asks, scorer if output.logprobs else None)
            return answers.response(completions.answer(call.request_id, model, told), call.headers)
        chunks = completions.CompletionChunks(
            asks.first,
            len(asks.each),
            call.request_id,
            model,
            include_usage=form.include_usage,
        )
        return await stream.answer(call, self._generator, self._turnstile, asks, chunks)

    async def _responses(self, call: Call) -> web.StreamResponse:
        form, size_bytes = await self._read(call, response_request.read, is_chat=True)
        asks = self._asks(call, [form.ask], size_bytes)
        model = self._generator.pool.known_name(asks.first.model)
        if not form.stream:
            [told] = await answered(self._generator, asks)
            return answers.response(
                responses.answer(form, call.request_id, model, told), call.headers
            )
        chunks = responses.ResponseChunks(responses.Answer(form, call.request_id, model))
        return await stream.answer(call, self._generator, self._turnstile, asks, chunks)

    def _asks(self, call: Call, asks: Sequence[Ask], size_bytes: int) -> Asks:
        call.request_id = asks[0].request.request_id
        return Asks(asks, call.lane, size_bytes)

    async def _read(
        self, call: Call, read: Callable[[Fields, str], FormT], *, is_chat: bool
    ) -> tuple[FormT, int]:
        """Returns a request for generations and its size; writes down one that can't be read."""
        body, size_bytes = await read_body(call.request, self._request_bytes)
        try:
            form = read(body, call.request_id)
        except InvalidRequestError as error:
            generations.refuse(
                self._generator,
                error,
                lane=call.lane,
                request_id=call.request_id,
                is_chat=is_chat,
            )
            raise
        return form, size_bytes
