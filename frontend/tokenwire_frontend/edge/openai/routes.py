"""What is served where, and what every request gets: identity, span, duration, errors."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog
from aiohttp import web
from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind, Status, StatusCode
from tokenwire_service.errors import Code, InvalidRequestError, ServiceError
from tokenwire_service.telemetry import loop_lag, registry, semconv, tracing
from tokenwire_service.telemetry.histogram import Histogram

from tokenwire_frontend import errors as frontend_errors
from tokenwire_frontend.edge.callers import Callers
from tokenwire_frontend.edge.openai import (
    answers,
    chat,
    completions,
    errors,
    generations,
    models,
    response_request,
    responses,
    stream,
)
from tokenwire_frontend.edge.openai.body import read_body
from tokenwire_frontend.edge.openai.errors import CLIENT_GONE
from tokenwire_frontend.edge.openai.fields import Fields
from tokenwire_frontend.edge.openai.generations import Ask, Asks
from tokenwire_frontend.edge.openai.identity import Headers
from tokenwire_frontend.edge.turnstile import Turnstile
from tokenwire_frontend.generation.generator import Generator

log = structlog.get_logger()

HEALTH = "/health"

OTHER = "other"
"""Route of what is not served, in spans and metrics: a caller's invention must not be one."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
"""Methods by their names there; others are `_OTHER`, as OpenTelemetry calls them."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

FormT = TypeVar("FormT")

Handler = Callable[["Call"], Awaitable[web.StreamResponse]]


class Call:
    """One request: its span, its duration, its names.

    Args:
        request: the request.
        route: which of the routes it has.
        last: whether its connection takes no further ones.
    """

    def __init__(self, request: web.BaseRequest, route: str, *, last: bool) -> None:
        self.request = request
        self.route = route
        self.last = last
        self.request_id = request.headers.get(errors.REQUEST_ID) or f"{random.getrandbits(64):016x}"
        peer = request.transport.get_extra_info("peername") if request.transport else None
        self.lane = f"http:{peer[0]}:{peer[1]}" if peer else "http"
        self._began_s = time.monotonic() - loop_lag.last_s()
        carrier = {key: request.headers[key] for key in tracing.HEADERS if key in request.headers}
        self._method = request.method if request.method in METHODS else "_OTHER"
        name = f"{self._method} {route}"
        self.span = tracing.begin(name, tracing.extract(carrier), SpanKind.SERVER, self._began_s)
        self.context = self.span.as_parent()
        self._status = 0
        self._fault = ""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every answer."""
        told = {"Server": "tokenwire", errors.TRACE_ID: self.span.trace_id}
        if _REQUEST_ID.fullmatch(self.request_id):
            told[errors.REQUEST_ID] = self.request_id
        return told

    def refusal(self, error: Exception) -> ServiceError:
        """Returns what the caller is told of an error, once the log has it."""
        if not isinstance(error, ServiceError):
            log.error("http_fault", route=self.route, exc_info=error)
            error = frontend_errors.internal_fault(error, self.span.trace_id)
        elif not error.logged:
            fields = {"route": self.route, "code": error.code.name, "reason": error.reason}
            internal = error.code in (Code.INTERNAL, Code.UNKNOWN)
            level = log.error if internal else log.info
            level("rpc_refused", **fields, message=error.message)
        self._fault = error.reason
        return error

    def gone(self) -> None:
        """Notes that the client has gone."""
        self._status = CLIENT_GONE

    def end(self, response: web.StreamResponse | None, duration: Histogram) -> None:
        """Writes down how it has ended."""
        status = self._status or (500 if response is None else response.status)
        told: dict[str, str | int] = {
            semconv.HTTP_REQUEST_METHOD: self._method,
            semconv.HTTP_ROUTE: self.route,
            semconv.HTTP_RESPONSE_STATUS_CODE: status,
        }
        if self._fault:
            told[semconv.ERROR_TYPE] = self._fault
            self.span.status = Status(StatusCode.ERROR if status >= 500 else StatusCode.UNSET)
        ended_s = time.monotonic()
        self.span.attributes.update(told)
        self.span.end(ended_s)
        duration.record(ended_s - self._began_s, told, self.context if self.span.sampled else None)


class Routes:
    """Answers requests.

    Args:
        generator: the generations of this process.
        callers: lets requests in.
        request_bytes: largest body.
        serving: tells whether work is welcome.
    """

    def __init__(
        self,
        generator: Generator,
        callers: Callers,
        request_bytes: int,
        serving: Callable[[], bool],
    ) -> None:
        self._generator = generator
        self._callers = callers
        self._request_bytes = request_bytes
        self._serving = serving
        self._turnstile = Turnstile()
        self._duration = Histogram(registry.HTTP_SERVER_DURATION)
        self._handlers: dict[str, dict[str, Handler]] = {
            chat.PATH: {"POST": self._chat},
            completions.PATH: {"POST": self._completions},
            responses.PATH: {"POST": self._responses},
            models.PATH: {"GET": self._models},
            models.ONE: {"GET": self._model},
        }

    async def handle(self, request: web.BaseRequest, *, last: bool) -> web.StreamResponse:
        """Answers one request.

        Args:
            request: the request.
            last: whether its connection is to take no further ones.
        """
        if request.path == HEALTH:
            return self._health(request)
        route = models.ONE if request.path.startswith(models.PATH + "/") else request.path
        call = Call(request, route if route in self._handlers else OTHER, last=last)
        token = otel_context.attach(call.context)
        response: web.StreamResponse | None = None
        try:
            response = await self._answered(call)
        except (asyncio.CancelledError, ConnectionError):
            call.gone()
            raise
        finally:
            call.end(response, self._duration)
            otel_context.detach(token)
        return response

    async def _answered(self, call: Call) -> web.StreamResponse:
        try:
            handler = self._handler(call)
            self._callers.admit(f"openai{call.route}", Headers(call.request))
            response = await handler(call)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - the last net: the caller gets a status
            response = errors.response(call.refusal(error), call.headers)
        if call.last:
            response.force_close()
        return response

    def _handler(self, call: Call) -> Handler:
        served = self._handlers.get(call.route)
        path, method = call.request.path[:256], call.request.method[:16]
        if served is None:
            raise ServiceError(Code.NOT_FOUND, "UNKNOWN_PATH", f"{path!r} is not served here")
        if method not in served:
            allowed = ", ".join(served)
            raise ServiceError(
                Code.UNIMPLEMENTED, "METHOD_NOT_ALLOWED", f"{path!r} is served for {allowed} alone"
            )
        return served[method]

    def _health(self, request: web.BaseRequest) -> web.Response:
        """Tells a load balancer whether work is welcome; anybody may ask."""
        serving = self._serving()
        text = "ok\n" if serving else "not serving\n"
        return web.Response(text=text, status=200 if serving else 503)

    async def _models(self, call: Call) -> web.StreamResponse:
        return answers.response(models.listed(self._generator.pool), call.headers)

    async def _model(self, call: Call) -> web.StreamResponse:
        name = call.request.path.removeprefix(models.PATH + "/")
        return answers.response(models.one(self._generator.pool, name), call.headers)

    async def _chat(self, call: Call) -> web.StreamResponse:
        form, size_bytes = await self._read(call, chat.read, is_chat=True)
        asks = self._asks(call, form.asks, size_bytes)
        model = self._generator.pool.known_name(asks.first.model)
        if not form.stream:
            news = await generations.whole(self._generator, asks)
            told = chat.answer(asks.first, call.request_id, model, news)
            return answers.response(told, call.headers)
        chunks = chat.ChatChunks(
            asks.first, call.request_id, model, include_usage=form.include_usage
        )
        return await stream.answer(call, self._generator, self._turnstile, asks, chunks)

    async def _completions(self, call: Call) -> web.StreamResponse:
        form, size_bytes = await self._read(call, completions.read, is_chat=False)
        asks = self._asks(call, form.asks, size_bytes)
        model = self._generator.pool.known_name(asks.first.model)
        if not form.stream:
            news = await generations.whole(self._generator, asks)
            told = completions.answer(asks.first, call.request_id, model, news)
            return answers.response(told, call.headers)
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
            [news] = await generations.whole(self._generator, asks)
            return answers.response(
                responses.answer(form, call.request_id, model, news), call.headers
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
