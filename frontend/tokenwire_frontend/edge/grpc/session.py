"""One Session call: many generations on one stream."""

from __future__ import annotations

import asyncio
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
from tokenwire_service.errors import ServiceError, invalid
from tokenwire_service.limits import MESSAGE_COMMANDS
from tokenwire_service.tasks import Scope

from tokenwire_frontend import errors, no_room
from tokenwire_frontend.edge import callers
from tokenwire_frontend.edge.grpc import to_proto, wire
from tokenwire_frontend.edge.grpc.outbox import Opened, Outbox
from tokenwire_frontend.edge.grpc.owners import Owners, Place, Sender
from tokenwire_frontend.edge.grpc.received import begin_at, received
from tokenwire_frontend.edge.grpc.relay import Relay
from tokenwire_frontend.edge.grpc.session_messages import (
    Event,
    as_message,
    first_credit,
    trace_context,
    uncountable,
)
from tokenwire_frontend.edge.grpc.session_relay import SessionRelay
from tokenwire_frontend.generation.credit import CREDIT_LIMIT
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.incoming import Incoming
from tokenwire_frontend.generation.keeper import Elsewhere
from tokenwire_frontend.generation.reader import Reader
from tokenwire_frontend.workers.messages import duration

OPEN_LIMIT = 1024
"""Generations open at once in one session; the next is refused, since a session that stopped to
read would not hear a cancel."""

SLICE_OPENS = 8
SLICE_BYTES = 64 * 1024
SLICE_SMALL = 1024
"""Commands of one message that are obeyed before the event loop goes on with other calls: starting
a generation takes about 0.3 ms and reading it about 5 ms a MiB, a cancel or a credit about a
microsecond."""

MessageT = TypeVar("MessageT", bound=Message)

_LISTS = ("opens", "cancels", "credits", "attaches")
"""Commands of which a message may have several."""


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
        self._news = asyncio.Event()
        self._outbox = Outbox(self._news.set)
        self._room = asyncio.Event()
        self._reading = True
        self._draining = False
        self._broken: Exception | None = None

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
        if self._outbox.overdue is not None:
            raise self._outbox.overdue

    # Commands.

    async def _read(self, requests: AsyncIterator[generation_pb2.SessionRequest]) -> None:
        try:
            async for request in requests:
                await self._obey(request)
        finally:
            self._reading = False
            for opened in self._outbox.open.values():  # there can be no more credit
                opened.reader.grant(CREDIT_LIMIT)
            self._news.set()

    async def _obey(self, request: generation_pb2.SessionRequest) -> None:
        command = request.WhichOneof("command")
        if command is None and not any(getattr(request, name) for name in _LISTS):
            self._outbox.refuse(0, invalid("command", "is not set; give `open` or `cancel`"))
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
                self._outbox.refuse(0, invalid(name, beyond))
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
        while self._outbox.full:
            self._room.clear()
            await self._room.wait()

    def _start(self, message: generation_pb2.Open) -> None:
        opened = Opened(message.id)
        opened.reader = reader = Reader(
            partial(self._outbox.inbox.add, opened), credit=first_credit(message)
        )
        try:
            incoming = self._received(message, reader)
        except ServiceError as error:  # the session's credential is not good any more
            self._outbox.refuse(message.id, self._refusal(message.id, "open.id") or error)
            return
        refusal = self._refusal(message.id, "open.id") or uncountable(message)
        if refusal is not None:
            self._generator.refuse(refusal, incoming)
            self._outbox.refuse(message.id, refusal)
            return
        if message.generation.idempotency_key:
            opened.message = message
        self._begin(opened, self._open_here(opened, reader, incoming))

    def _attach(self, message: generation_pb2.Attach) -> None:
        opened = Opened(message.id)
        opened.reader = reader = Reader(
            partial(self._outbox.inbox.add, opened), credit=first_credit(message)
        )
        refusal = self._refusal(message.id, "attach.id") or uncountable(message)
        if refusal is None:
            self._begin(opened, self._attach_here(opened, reader, message))
        else:
            self._outbox.refuse(message.id, refusal)

    def _refusal(self, number: int, field: str) -> ServiceError | None:
        """Returns why this number can't be opened, if it can't; one that is open ends."""
        if number == 0:
            return invalid(field, "is 0; numbers begin at 1")
        if number in self._outbox.open:
            self._give_up(self._outbox.open.pop(number))
            return invalid(field, f"{number} was open already; both have ended")
        if len(self._outbox.open) >= OPEN_LIMIT:
            return no_room.too_many(OPEN_LIMIT, "session")
        return None

    def _begin(self, opened: Opened, work: Coroutine[Any, Any, None]) -> None:
        self._outbox.open[opened.number] = opened
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
        opened = self._outbox.open.get(number)
        if opened is not None:
            opened.reader.cancel()

    def _grant(self, message: generation_pb2.Credit) -> None:
        opened = self._outbox.open.get(message.id)
        if opened is not None:
            opened.reader.grant(message.amount)

    # One generation.

    async def _open_here(self, opened: Opened, reader: Reader, incoming: Incoming) -> None:
        try:
            await self._serve(opened, reader, self._generator.open(incoming, reader))
        except Elsewhere as found:
            again = generation_pb2.SessionRequest(open=opened.message)
            await self._pass_on(opened, reader, Place(found.address, Sender.PROCESS), again)
        except ServiceError as error:
            self._outbox.end(opened, error)

    async def _attach_here(
        self, opened: Opened, reader: Reader, message: generation_pb2.Attach
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
            self._outbox.end(opened, error)

    async def _serve(
        self, opened: Opened, reader: Reader, opening: AbstractAsyncContextManager[Generation]
    ) -> None:
        """Gives the client a generation of this process."""
        async with opening as generation:
            opened.generation, opened.message = generation, None
            accepted = to_proto.accepted(generation, attached=reader.attached)
            head = wire.session_head(opened.number, wire.SESSION_ACCEPTED)
            self._outbox.add(wire.session_event(head, accepted))
            reader.begin()
            await opened.finished.wait()

    async def _pass_on(
        self, opened: Opened, reader: Reader, place: Place, request: generation_pb2.SessionRequest
    ) -> None:
        """Gives the client a generation of another process."""
        relay = SessionRelay(opened.number, partial(self._outbox.inbox.add, opened))
        relay.take_over(reader, request)
        opened.reader = relay
        try:
            async with self._relay.session(place, self._context) as call:
                await relay.run(call, request)
        except ServiceError as error:
            self._outbox.end(opened, error)

    def _fault(self, opened: Opened, error: Exception) -> None:
        trace_id = trace.format_trace_id(self._span.trace_id)
        self._outbox.end(opened, errors.internal_fault(error, trace_id))

    @staticmethod
    def _give_up(opened: Opened) -> None:
        opened.reader.close()
        if opened.task is not None:
            opened.task.cancel()

    # Events.

    def _break(self, error: Exception) -> None:
        self._broken = error
        self._news.set()

    async def _await_drain(self) -> None:
        admission = self._generator.admission
        await admission.closing.wait()
        grace = duration(admission.grace_left_s)
        self._draining = True
        self._outbox.add(as_message(Event(draining=generation_pb2.Draining(grace=grace))))

    async def _ask_to_move(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._outbox.add(as_message(Event(move=generation_pb2.Move(reason="connection_age"))))

    async def _write(self) -> None:
        while self._reading or self._outbox:
            if self._draining and not self._outbox:
                raise errors.draining()
            await self._news.wait()
            self._news.clear()
            if self._broken is not None:
                raise self._broken
            response = self._outbox.collect()
            if response:
                await self._context.write(response)
            self._room.set()
