"""One Session call: many generations on one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from opentelemetry.context import Context
from tokenwire.frontend.v1 import generation_pb2
from tokenwire_service.errors import Code, InvalidRequestError, ServiceError, invalid
from tokenwire_service.status import to_status
from tokenwire_service.telemetry import tracing

from tokenwire_frontend import errors
from tokenwire_frontend.core.events import Pace
from tokenwire_frontend.edge import from_proto, to_proto
from tokenwire_frontend.generation.generation import LiveGeneration
from tokenwire_frontend.generation.generator import Generator

OPEN_LIMIT = 1024
"""Generations open at once in one session; the next is refused, since a session that stopped to
read would not hear a cancel."""

EVENTS_LIMIT = 1024
"""Acceptances and refusals that wait to be written. While it is met, the session reads no further
command, so that a client which sends and never reads is held back by gRPC's flow control."""

Event = generation_pb2.SessionEvent


class Session:
    """Reads commands, starts generations, and writes their events.

    There is one writer. What becomes new while it writes waits in the generations, so one message
    carries the news of all of them, and a slow client's deltas merge.
    """

    def __init__(self, generator: Generator, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._generator = generator
        self._context = context
        self._open: dict[int, LiveGeneration | None] = {}
        # Value: None while the generation is being started.
        self._cancelled: set[int] = set()
        # Cancelled while being started.
        self._told: dict[int, LiveGeneration] = {}
        # With news, in order of it.
        self._events: list[Event] = []
        self._starts: dict[int, asyncio.Task[None]] = {}
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._reading = True
        self._overdue: ServiceError | None = None
        # Set once a generation has met the call's deadline, which is the session's own.

    async def run(self, requests: AsyncIterator[generation_pb2.SessionRequest]) -> None:
        """Serves the session until the client has closed it and everything open has ended.

        Raises:
            ServiceError: a generation met the call's deadline, or the frontend stops and nothing
            is open any more.
        """
        reader = asyncio.create_task(self._read(requests))
        over = asyncio.create_task(self._generator.over.wait())
        over.add_done_callback(lambda _: self._news.set())
        try:
            while self._reading or self._open or self._events:
                if self._generator.over.is_set() and not (self._open or self._events):
                    raise errors.draining()
                await self._news.wait()
                self._news.clear()
                if reader.done() and not reader.cancelled():
                    reader.result()
                response = self._collect()
                if response.events:
                    await self._context.write(response)
                self._room.set()
            if self._overdue is not None:
                raise self._overdue
        finally:
            reader.cancel()
            over.cancel()
            for start in self._starts.values():
                start.cancel()
            for live in self._open.values():
                if live is not None:
                    live.abandon()

    async def _read(self, requests: AsyncIterator[generation_pb2.SessionRequest]) -> None:
        try:
            async for request in requests:
                self._obey(request)
                while len(self._events) >= EVENTS_LIMIT:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._reading = False
            self._news.set()

    def _obey(self, request: generation_pb2.SessionRequest) -> None:
        command = request.WhichOneof("command")
        if command is None and not (request.opens or request.cancels):
            self._refuse(0, invalid("command", "is not set; give `open` or `cancel`"))
        if command == "open":
            self._start(request.open)
        elif command == "cancel":
            self._cancel(request.cancel.id)
        for opened in request.opens:
            self._start(opened)
        for cancelled in request.cancels:
            self._cancel(cancelled.id)

    def _start(self, message: generation_pb2.Open) -> None:
        number = message.id
        if number == 0:
            self._refuse_open(message, invalid("open.id", "is 0; generations are numbered from 1"))
        elif number in self._open:
            live = self._open[number]
            if live is not None:
                live.abandon()
            else:
                self._starts.pop(number).cancel()
            twice = invalid("open.id", f"{number} was open already; both have ended")
            self._refuse_open(message, twice)
        elif len(self._open) >= OPEN_LIMIT:
            self._refuse_open(message, errors.too_many(OPEN_LIMIT, "session"))
        else:
            self._open[number] = None
            self._starts[number] = asyncio.create_task(self._run_start(message))

    async def _run_start(self, message: generation_pb2.Open) -> None:
        number = message.id
        try:
            try:
                pace = from_proto.pace(message.stream, "open.stream")
            except InvalidRequestError as error:
                self._refuse_open(message, error)
                return
            live = await self._generate(message, pace)
        except ServiceError as error:
            self._refuse(number, error)
            return
        finally:
            # A number that was opened twice may be a third one's by now.
            if self._starts.get(number) is asyncio.current_task():
                del self._starts[number]
        self._open[number] = live
        self._events.append(Event(id=number, accepted=to_proto.accepted(live)))
        if number in self._cancelled:
            self._cancelled.discard(number)
            live.cancel()
        self._news.set()

    async def _generate(self, message: generation_pb2.Open, pace: Pace) -> LiveGeneration:
        def on_news(live: LiveGeneration) -> None:
            self._told[message.id] = live
            self._news.set()

        try:
            return await self._generator.start(
                lambda: from_proto.generation_request(message.generation),
                on_news,
                pace=pace,
                request_id=message.generation.request_id,
                deadline_s=self._context.time_remaining(),
                context=_trace_context(message),
            )
        except InvalidRequestError as error:
            raise from_proto.prefixed(error, "open.generation") from error

    def _refuse_open(self, message: generation_pb2.Open, error: ServiceError) -> None:
        """Refuses what the generator is not asked for."""
        self._generator.refuse(error, message.generation.request_id, _trace_context(message))
        self._refuse(message.id, error)

    def _refuse(self, number: int, error: ServiceError) -> None:
        """Ends the generation of this number, if there is one, with the error."""
        self._open.pop(number, None)
        self._told.pop(number, None)
        self._cancelled.discard(number)
        self._events.append(Event(id=number, error=to_status(error)))
        self._news.set()

    def _cancel(self, number: int) -> None:
        live = self._open.get(number)
        if live is not None:
            live.cancel()
        elif number in self._open:
            self._cancelled.add(number)

    def _collect(self) -> generation_pb2.SessionResponse:
        """Takes all news: acceptances and refusals first, since they come before their deltas."""
        events, self._events = self._events, []
        told, self._told = self._told, {}
        for number, live in told.items():
            if self._open.get(number) is not live:
                # Its start has not returned yet; its acceptance has to come first.
                self._told[number] = live
                continue
            news = live.take()
            events.extend(Event(id=number, delta=to_proto.delta(delta)) for delta in news.deltas)
            if news.completion is not None:
                events.append(Event(id=number, completed=to_proto.completed(news.completion)))
                del self._open[number]
            elif news.failure is not None:
                events.append(Event(id=number, error=to_status(news.failure)))
                if news.failure.code is Code.DEADLINE_EXCEEDED:
                    self._overdue = news.failure
                del self._open[number]
        return generation_pb2.SessionResponse(events=events)


def _trace_context(message: generation_pb2.Open) -> Context | None:
    """Returns the trace context that a generation brings; None: the session's own."""
    carrier = {
        tracing.TRACEPARENT: message.trace_context.traceparent,
        tracing.TRACESTATE: message.trace_context.tracestate,
    }
    return tracing.extract(carrier) if carrier[tracing.TRACEPARENT] else None
