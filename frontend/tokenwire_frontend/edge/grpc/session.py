"""One Session call: many generations on one stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from opentelemetry import trace
from opentelemetry.context import Context
from tokenwire.frontend.v1 import generation_pb2
from tokenwire_service.errors import Code, ServiceError, invalid
from tokenwire_service.limits import MESSAGE_COMMANDS
from tokenwire_service.status import to_status
from tokenwire_service.tasks import Scope

from tokenwire_frontend import errors, no_room
from tokenwire_frontend.edge import callers
from tokenwire_frontend.edge.grpc import to_proto, wire
from tokenwire_frontend.edge.grpc.owners import Owners, Place, Sender
from tokenwire_frontend.edge.grpc.received import begin_at, received
from tokenwire_frontend.edge.grpc.relay import Relay
from tokenwire_frontend.edge.grpc.session_messages import (
    as_message,
    first_credit,
    news_events,
    trace_context,
    uncountable,
)
from tokenwire_frontend.edge.grpc.session_relay import SessionRelay
from tokenwire_frontend.generation.credit import CREDIT_LIMIT
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.incoming import Incoming
from tokenwire_frontend.generation.keeper import Elsewhere
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

MessageT = TypeVar("MessageT", bound=Message)

_LISTS = ("opens", "cancels", "credits", "attaches")
"""Commands of which a message may have several."""


class _Opened:
    """One number of a session, from its Open to its last event."""

    __slots__ = ("delta_head", "finished", "generation", "message", "number", "reader", "task")

    reader: Reader | SessionRelay

    def __init__(self, number: int) -> None:
        self.number = number
        self.delta_head = wire.session_head(number, wire.SESSION_DELTA)
        self.generation: Generation | None = None
        """Set once it is accepted."""
        self.message: generation_pb2.Open | None = None
        """With which another process may be asked for it, until it has begun."""
        self.finished = asyncio.Event()
        """The client has been given all of it."""
        self.task: asyncio.Task[None] | None = None


class Session:
    """Reads commands, starts generations, and writes their events.

    There is one writer. What becomes new while it writes waits in the generations, so one message
    carries the news of all of them, and a slow client's deltas merge.

    Args:
        generator: the generations of this process.
        owners: tells whose a generation is that outlives its calls.
        relay: asks the owner.
        context: of the call.
        move_after_s: age at which the client is asked to open another session; None: it never is.
    """

    def __init__(
        self,
        generator: Generator,
        owners: Owners,
        relay: Relay,
        context: grpc.aio.ServicerContext[Any, Any],
        move_after_s: float | None = None,
    ) -> None:
        self._generator = generator
        self._owners = owners
        self._relay = relay
        self._sender = Sender.of(context)
        self._context = context
        self._lane = context.peer()
        self._move_after_s = move_after_s
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
            if self._move_after_s is not None:
                scope.start(self._ask_to_move(self._move_after_s), on_fault=self._break)
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
        if command is None and not any(getattr(request, name) for name in _LISTS):
            self._refuse(0, invalid("command", "is not set; give `open` or `cancel`"))
        if command == "open":
            self._start(request.open)
        elif command == "cancel":
            self._cancel(request.cancel.id)
        for name in _LISTS:
            given = len(getattr(request, name))
            if given > MESSAGE_COMMANDS:
                beyond = (
                    f"has {given}; at most {MESSAGE_COMMANDS} in one message; the rest is not read"
                )
                self._refuse(0, invalid(name, beyond))
        await self._make_room()
        await self._start_each(request.opens, self._start)
        await self._start_each(request.attaches, self._attach)
        for place, cancel in enumerate(islice(request.cancels, MESSAGE_COMMANDS), 1):
            self._cancel(cancel.id)
            if not place % SLICE_SMALL:
                await asyncio.sleep(0)
        for place, credit in enumerate(islice(request.credits, MESSAGE_COMMANDS), 1):
            self._grant(credit)
            if not place % SLICE_SMALL:
                await asyncio.sleep(0)

    async def _start_each(
        self, messages: Sequence[MessageT], start: Callable[[MessageT], None]
    ) -> None:
        """Starts generations, and lets others run in between."""
        count = size = 0
        for message in islice(messages, MESSAGE_COMMANDS):
            start(message)
            count, size = count + 1, size + message.ByteSize()
            if count == SLICE_OPENS or size > SLICE_BYTES:
                count = size = 0
                await asyncio.sleep(0)
            await self._make_room()

    async def _make_room(self) -> None:
        while len(self._events) >= EVENTS_LIMIT:
            self._room.clear()
            await self._room.wait()

    def _start(self, message: generation_pb2.Open) -> None:
        opened = _Opened(message.id)
        opened.reader = reader = Reader(partial(self._tell, opened), credit=first_credit(message))
        try:
            incoming = self._received(message, reader)
        except ServiceError as error:  # the session's credential is not good any more
            self._refuse(message.id, self._refusal(message.id, "open.id") or error)
            return
        refusal = self._refusal(message.id, "open.id") or uncountable(message)
        if refusal is not None:
            self._generator.refuse(refusal, incoming)
            self._refuse(message.id, refusal)
            return
        if message.generation.idempotency_key:
            opened.message = message
        self._begin(opened, self._open_here(opened, reader, incoming))

    def _attach(self, message: generation_pb2.Attach) -> None:
        opened = _Opened(message.id)
        opened.reader = reader = Reader(partial(self._tell, opened), credit=first_credit(message))
        refusal = self._refusal(message.id, "attach.id") or uncountable(message)
        if refusal is None:
            self._begin(opened, self._attach_here(opened, reader, message))
        else:
            self._refuse(message.id, refusal)

    def _refusal(self, number: int, field: str) -> ServiceError | None:
        """Returns why this number can't be opened, if it can't; one that is open ends."""
        if number == 0:
            return invalid(field, "is 0; numbers begin at 1")
        if number in self._open:
            self._give_up(self._open.pop(number))
            return invalid(field, f"{number} was open already; both have ended")
        if len(self._open) >= OPEN_LIMIT:
            return no_room.too_many(OPEN_LIMIT, "session")
        return None

    def _begin(self, opened: _Opened, work: Coroutine[Any, Any, None]) -> None:
        self._open[opened.number] = opened
        opened.task = self._scope.start(work, on_fault=partial(self._fault, opened))

    def _received(self, message: generation_pb2.Open, reader: Reader) -> Incoming:
        context = trace_context(message)
        return received(
            message.generation,
            reader,
            lane=self._lane,
            within="open.",
            stream=message.stream,
            deadline_s=self._context.time_remaining(),
            # Without a context of its own it begins a trace: a session may live for days.
            context=Context() if context is None else context,
            links=(self._span,) if context is None and self._span.is_valid else (),
            may_move=self._sender is not Sender.PROCESS,
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

    async def _open_here(self, opened: _Opened, reader: Reader, incoming: Incoming) -> None:
        try:
            await self._serve(opened, reader, self._generator.open(incoming, reader))
        except Elsewhere as found:
            again = generation_pb2.SessionRequest(open=opened.message)
            await self._pass_on(opened, reader, Place(found.address, Sender.PROCESS), again)
        except ServiceError as error:
            self._end(opened, error)

    async def _attach_here(
        self, opened: _Opened, reader: Reader, message: generation_pb2.Attach
    ) -> None:
        within, asked = "attach.generation.", message.generation
        try:
            token = self._owners.read(asked.resume_token, f"{within}resume_token")
            place = await self._owners.locate(token, self._sender)
            if place is not None:
                again = generation_pb2.SessionRequest(attaches=[message])
                await self._pass_on(opened, reader, place, again)
                return
            begin_at(reader, asked, within)
            attached = self._generator.keeper.attach(
                token.generation, callers.current(), reader, f"{within}token_offsets"
            )
            await self._serve(opened, reader, attached)
        except ServiceError as error:
            self._end(opened, error)

    async def _serve(
        self, opened: _Opened, reader: Reader, opening: AbstractAsyncContextManager[Generation]
    ) -> None:
        """Gives the client a generation of this process."""
        async with opening as generation:
            opened.generation, opened.message = generation, None
            accepted = to_proto.accepted(generation, attached=reader.attached)
            head = wire.session_head(opened.number, wire.SESSION_ACCEPTED)
            self._events.append(wire.session_event(head, accepted))
            self._news.set()
            reader.begin()
            await opened.finished.wait()

    async def _pass_on(
        self, opened: _Opened, reader: Reader, place: Place, request: generation_pb2.SessionRequest
    ) -> None:
        """Gives the client a generation of another process."""
        relay = SessionRelay(opened.number, partial(self._tell, opened))
        relay.take_over(reader, request)
        opened.reader = relay
        try:
            async with self._relay.session(place, self._context) as call:
                await relay.run(call, request)
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

    def _refuse(self, number: int, error: ServiceError) -> None:
        self._events.append(as_message(Event(id=number, error=to_status(error))))
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
        self._events.append(as_message(Event(draining=generation_pb2.Draining(grace=grace))))
        self._draining = True
        self._news.set()

    async def _ask_to_move(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._events.append(as_message(Event(move=generation_pb2.Move(reason="connection_age"))))
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
            try:
                plain = opened.reader.take_plain(left)
                if plain is None:
                    part = self._take(opened, left)
                else:
                    part = wire.session_event(opened.delta_head, wire.delta(plain))
            except Exception as error:  # noqa: BLE001 - ends this generation alone
                part = self._not_taken(opened, error)
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _take(self, opened: _Opened, max_bytes: int) -> bytes:
        """Returns a generation's news as a message."""
        reader = opened.reader
        if isinstance(reader, SessionRelay):
            part = reader.take()
            if reader.over:
                self._finish(opened)
            return part
        news = reader.take(max_bytes)
        parts = [*map(as_message, news_events(opened.number, news))]
        if news.completion is not None:
            head = wire.session_head(opened.number, wire.SESSION_COMPLETED)
            parts.append(wire.session_event(head, wire.completed(news.completion)))
        if news.failure is not None:
            parts.append(as_message(Event(id=opened.number, error=to_status(news.failure))))
            if news.failure.code is Code.DEADLINE_EXCEEDED:
                self._overdue = news.failure
        if news.failure is not None or news.completion is not None:
            self._finish(opened)
        return b"".join(parts)

    def _not_taken(self, opened: _Opened, error: Exception) -> bytes:
        """Ends a generation whose news could not be written; returns that as a message."""
        assert opened.generation is not None  # noqa: S101 - it has begun; for the type checker
        failure = opened.generation.fault(error)
        self._finish(opened)
        return as_message(Event(id=opened.number, error=to_status(failure)))

    def _finish(self, opened: _Opened) -> None:
        """Notes that the client has been given all of it: its number is free again."""
        del self._open[opened.number]
        opened.finished.set()
