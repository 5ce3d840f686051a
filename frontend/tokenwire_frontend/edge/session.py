"""One Session call: many generations on one stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from tokenwire.frontend.v1 import generation_pb2, options_pb2
from tokenwire_service.errors import Code, ServiceError, invalid
from tokenwire_service.limits import MESSAGE_COMMANDS
from tokenwire_service.status import to_status
from tokenwire_service.tasks import Scope
from tokenwire_service.telemetry import tracing

from tokenwire_frontend import errors
from tokenwire_frontend.core.events import News
from tokenwire_frontend.edge import to_proto, wire
from tokenwire_frontend.edge.received import received
from tokenwire_frontend.generation.credit import CREDIT_LIMIT, Credit
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.incoming import Incoming
from tokenwire_frontend.generation.reader import LEAST_BYTES, MESSAGE_BYTES_LIMIT, Reader
from tokenwire_frontend.workers.messages import duration

OPEN_LIMIT = 1024
"""Generations open at once in one session; the next is refused, since a session that stopped to
read would not hear a cancel."""

EVENTS_LIMIT = 1024
"""Acceptances and refusals that wait to be written. While it is met, the session reads no further
command, so that a client which sends and never reads is held back by gRPC's flow control. An
acceptance has some 100 bytes, a refusal at most 4 KiB."""

SLICE_OPENS = 8
SLICE_BYTES = 64 * 1024
SLICE_SMALL = 1024
"""Commands of one message that are obeyed before the event loop goes on with other calls: starting
a generation takes about 0.3 ms and reading it about 5 ms a MiB, a cancel or a credit about a
microsecond."""

Event = generation_pb2.SessionEvent


class _Opened:
    """One number of a session, from its Open to its last event."""

    __slots__ = ("finished", "generation", "number", "reader", "task", "wire_number")

    def __init__(self, number: int, tell: Callable[[_Opened], None], credit: Credit | None) -> None:
        self.number = number
        self.wire_number = wire.session_number(number)
        self.reader = Reader(partial(tell, self), credit=credit)
        self.generation: Generation | None = None
        """Set once it is accepted."""
        self.finished = asyncio.Event()
        """The client has been given all of it."""
        self.task: asyncio.Task[None] | None = None


class Session:
    """Reads commands, starts generations, and writes their events.

    There is one writer. What becomes new while it writes waits in the generations, so one message
    carries the news of all of them, and a slow client's deltas merge.
    """

    def __init__(self, generator: Generator, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._generator = generator
        self._context = context
        self._scope = Scope("session")
        self._span = trace.get_current_span().get_span_context()
        self._open: dict[int, _Opened] = {}
        self._told: dict[int, _Opened] = {}
        # With news, in order of it.
        self._events: deque[bytes] = deque()
        # Acceptances and refusals, which come before their generations' deltas.
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._reading = True
        self._draining = False
        self._broken: Exception | None = None
        self._overdue: ServiceError | None = None
        # Set once a generation has met the call's deadline, which is the session's own.

    async def run(self, requests: AsyncIterator[generation_pb2.SessionRequest]) -> None:
        """Serves the session until the client has closed it and everything open has ended.

        Raises:
            ServiceError: a generation met the call's deadline, or the frontend stops and nothing
            is open any more.
        """
        async with self._scope as scope:
            scope.start(self._read(requests), on_fault=self._break)
            scope.start(self._await_drain(), on_fault=self._break)
            await self._write()
        if self._overdue is not None:
            raise self._overdue

    # Commands.

    async def _read(self, requests: AsyncIterator[generation_pb2.SessionRequest]) -> None:
        try:
            async for request in requests:
                await self._obey(request)
        finally:
            self._reading = False
            for opened in self._open.values():  # there can be no more credit
                opened.reader.grant(CREDIT_LIMIT)
            self._news.set()

    async def _obey(self, request: generation_pb2.SessionRequest) -> None:
        command = request.WhichOneof("command")
        if command is None and not (request.opens or request.cancels or request.credits):
            self._refuse(0, invalid("command", "is not set; give `open` or `cancel`"))
        if command == "open":
            self._start(request.open)
        elif command == "cancel":
            self._cancel(request.cancel.id)
        for name in ("opens", "cancels", "credits"):
            given = len(getattr(request, name))
            if given > MESSAGE_COMMANDS:
                beyond = (
                    f"has {given}; at most {MESSAGE_COMMANDS} in one message; the rest is not read"
                )
                self._refuse(0, invalid(name, beyond))
        await self._make_room()
        count = size = 0
        for message in islice(request.opens, MESSAGE_COMMANDS):
            self._start(message)
            count, size = count + 1, size + message.ByteSize()
            if count == SLICE_OPENS or size > SLICE_BYTES:
                count = size = 0
                await asyncio.sleep(0)
            await self._make_room()
        for place, cancel in enumerate(islice(request.cancels, MESSAGE_COMMANDS), 1):
            self._cancel(cancel.id)
            if not place % SLICE_SMALL:
                await asyncio.sleep(0)
        for place, credit in enumerate(islice(request.credits, MESSAGE_COMMANDS), 1):
            self._grant(credit)
            if not place % SLICE_SMALL:
                await asyncio.sleep(0)

    async def _make_room(self) -> None:
        while len(self._events) >= EVENTS_LIMIT:
            self._room.clear()
            await self._room.wait()

    def _start(self, message: generation_pb2.Open) -> None:
        number = message.id
        opened = _Opened(number, self._tell, _credit(message))
        incoming = self._received(message, opened.reader)
        if number == 0:
            self._refuse_open(incoming, 0, invalid("open.id", "is 0; numbers begin at 1"))
        elif number in self._open:
            self._give_up(self._open.pop(number))
            twice = invalid("open.id", f"{number} was open already; both have ended")
            self._refuse_open(incoming, number, twice)
        elif len(self._open) >= OPEN_LIMIT:
            self._refuse_open(incoming, number, errors.too_many(OPEN_LIMIT, "session"))
        elif _is_uncountable(message):
            fault = "does not go with `open.stream.content` TEXT, which has no token ids to count"
            self._refuse_open(incoming, number, invalid("open.credit_tokens", fault))
        else:
            self._open[number] = opened
            opened.task = self._scope.start(
                self._run(opened, incoming), on_fault=partial(self._fault, opened)
            )

    def _received(self, message: generation_pb2.Open, reader: Reader) -> Incoming:
        context = _trace_context(message)
        return received(
            message.generation,
            reader,
            within="open.",
            stream=message.stream,
            deadline_s=self._context.time_remaining(),
            # Without a context of its own it begins a trace: a session may live for days.
            context=Context() if context is None else context,
            links=(self._span,) if context is None and self._span.is_valid else (),
        )

    def _cancel(self, number: int) -> None:
        opened = self._open.get(number)
        if opened is not None:
            opened.reader.cancel()

    def _grant(self, message: generation_pb2.Credit) -> None:
        opened = self._open.get(message.id)
        if opened is not None:
            opened.reader.grant(message.amount)

    # One generation.

    async def _run(self, opened: _Opened, incoming: Incoming) -> None:
        try:
            async with self._generator.open(incoming, opened.reader) as generation:
                opened.generation = generation
                accepted = to_proto.accepted(generation)
                self._events.append(
                    wire.session_event(opened.wire_number, wire.SESSION_ACCEPTED, accepted)
                )
                self._news.set()
                opened.reader.begin()
                await opened.finished.wait()
        except ServiceError as error:
            self._end(opened, error)

    def _fault(self, opened: _Opened, error: Exception) -> None:
        trace_id = trace.format_trace_id(self._span.trace_id)
        self._end(opened, errors.internal_fault(error, trace_id))

    def _end(self, opened: _Opened, error: ServiceError) -> None:
        """Tells the client that the generation has ended with an error, if it is open."""
        if self._open.get(opened.number) is opened:
            del self._open[opened.number]
            self._refuse(opened.number, error)

    def _refuse_open(self, incoming: Incoming, number: int, error: ServiceError) -> None:
        """Refuses what the generator is not asked for."""
        self._generator.refuse(error, incoming)
        self._refuse(number, error)

    def _refuse(self, number: int, error: ServiceError) -> None:
        self._events.append(_message(Event(id=number, error=to_status(error))))
        self._news.set()

    @staticmethod
    def _give_up(opened: _Opened) -> None:
        opened.reader.close()
        if opened.task is not None:
            opened.task.cancel()

    # Events.

    def _tell(self, opened: _Opened) -> None:
        if not self._told:
            self._news.set()
        self._told[opened.number] = opened

    def _break(self, error: Exception) -> None:
        self._broken = error
        self._news.set()

    async def _await_drain(self) -> None:
        admission = self._generator.admission
        await admission.closing.wait()
        grace = duration(admission.grace_left_s)
        self._events.append(_message(Event(draining=generation_pb2.Draining(grace=grace))))
        self._draining = True
        self._news.set()

    async def _write(self) -> None:
        while self._reading or self._open or self._events:
            if self._draining and not (self._open or self._events):
                raise errors.draining()
            await self._news.wait()
            self._news.clear()
            if self._broken is not None:
                raise self._broken
            response = self._collect()
            if response:
                await self._context.write(response)
            self._room.set()

    def _collect(self) -> bytes:
        """Returns the next message; what does not fit into it is news again.

        SessionResponses one after the other are one that has the events of all of them.
        """
        parts: list[bytes] = []
        left = MESSAGE_BYTES_LIMIT
        while self._events and left >= LEAST_BYTES:
            parts.append(self._events.popleft())
            left -= len(parts[-1])
        if self._events:
            self._news.set()
            return b"".join(parts)
        told, self._told = self._told, {}
        opens = self._open
        for number, opened in told.items():
            if opens.get(number) is not opened:
                continue
            if left < LEAST_BYTES:
                self._tell(opened)
                continue
            part = self._take(opened, left)
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _take(self, opened: _Opened, max_bytes: int) -> bytes:
        """Returns a generation's news as a message."""
        number, generation = opened.wire_number, opened.generation
        assert generation is not None  # noqa: S101 - it has begun; for the type checker
        try:
            plain = opened.reader.take_plain(max_bytes)
            if plain is not None:
                return wire.session_event(number, wire.SESSION_DELTA, wire.delta(plain))
            news = opened.reader.take(max_bytes)
            parts = [*map(_message, self._told_apart(opened.number, news))]
            if news.completion is not None:
                completed = wire.completed(news.completion)
                parts.append(wire.session_event(number, wire.SESSION_COMPLETED, completed))
        except Exception as error:  # noqa: BLE001 - ends this generation alone
            self._finish(opened)
            return _message(Event(id=opened.number, error=to_status(generation.fault(error))))
        if news.failure is not None:
            parts.append(_message(Event(id=opened.number, error=to_status(news.failure))))
            if news.failure.code is Code.DEADLINE_EXCEEDED:
                self._overdue = news.failure
        if news.failure is not None or news.completion is not None:
            self._finish(opened)
        return b"".join(parts)

    @staticmethod
    def _told_apart(number: int, news: News) -> Iterator[Event]:
        """Yields events of a prompt's log probabilities, and of deltas that are not plain."""
        if news.prompt is not None:
            yield Event(id=number, prompt_logprobs=to_proto.prompt_logprobs(news.prompt))
        for delta in news.deltas:
            event = Event(id=number)
            to_proto.put_delta(delta, event.delta)
            yield event

    def _finish(self, opened: _Opened) -> None:
        """Notes that the client has been given all of it: its number is free again."""
        del self._open[opened.number]
        opened.finished.set()


def _message(event: Event) -> bytes:
    return generation_pb2.SessionResponse(events=(event,)).SerializeToString()


def _trace_context(message: generation_pb2.Open) -> Context | None:
    """Returns the trace context that a generation brings; None: it brings none."""
    carrier = {
        tracing.TRACEPARENT: message.trace_context.traceparent,
        tracing.TRACESTATE: message.trace_context.tracestate,
    }
    return tracing.extract(carrier) if carrier[tracing.TRACEPARENT] else None


def _credit(message: generation_pb2.Open) -> Credit | None:
    """Returns the credit that a generation begins with; None: it needs none."""
    kind = message.WhichOneof("credit")
    if kind is None:
        return None
    return Credit(getattr(message, kind), counts_tokens=kind == "credit_tokens")


def _is_uncountable(message: generation_pb2.Open) -> bool:
    """Whether its credit is of tokens, and the client could not tell how many were used."""
    return (
        message.HasField("credit_tokens")
        and message.stream.content == options_pb2.STREAM_CONTENT_TEXT
    )
