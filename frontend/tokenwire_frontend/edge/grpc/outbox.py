"""What a session has to write: its events, and what is new of the generations that are open."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from tokenwire.frontend.v1 import generation_pb2
from tokenwire_service.errors import Code, ServiceError
from tokenwire_service.status import to_status

from tokenwire_frontend.core.fast_path import Inbox
from tokenwire_frontend.edge.grpc import wire
from tokenwire_frontend.edge.grpc.session_messages import Event, as_message, news_events
from tokenwire_frontend.edge.grpc.session_relay import SessionRelay
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.generation.reader import LEAST_BYTES, MESSAGE_BYTES_LIMIT, Reader

EVENTS_LIMIT = 1024
"""Acceptances and refusals that wait to be written. While it is met, the session reads no further
command, so that a client which sends and never reads is held back by gRPC's flow control. An
acceptance has some 100 bytes, a refusal at most 4 KiB."""


class Opened:
    """One number of a session, from its Open to its last event."""

    __slots__ = ("delta_head", "finished", "generation", "message", "number", "reader", "task")

    def __init__(self, number: int) -> None:
        self.number = number
        self.reader: Reader | SessionRelay
        self.delta_head = wire.session_head(number, wire.SESSION_DELTA)
        self.generation: Generation | None = None
        """Set once it is accepted."""
        self.message: generation_pb2.Open | None = None
        """With which another process may be asked for it, until it has begun."""
        self.finished = asyncio.Event()
        """The client has been given all of it."""
        self.task: asyncio.Task[None] | None = None


class Outbox:
    """Collects the messages of one session.

    Args:
        on_news: called when there may be something to `collect`.
    """

    def __init__(self, on_news: Callable[[], None]) -> None:
        self.open: dict[int, Opened] = {}
        """By number."""
        self.inbox = Inbox(on_news)
        """Of what is open."""
        self.overdue: ServiceError | None = None
        """Set once a generation has met the call's deadline, which is the session's own."""
        self._on_news = on_news
        self._events: deque[bytes] = deque()
        # Acceptances and refusals, which come before their generations' deltas.

    def __bool__(self) -> bool:
        """Something is open, or an event waits."""
        return bool(self.open or self._events)

    @property
    def full(self) -> bool:
        """As many events wait as may."""
        return len(self._events) >= EVENTS_LIMIT

    def add(self, event: bytes) -> None:
        """Adds an event, as a message."""
        self._events.append(event)
        self._on_news()

    def refuse(self, number: int, error: ServiceError) -> None:
        """Adds that a number has an error."""
        self.add(as_message(Event(id=number, error=to_status(error))))

    def end(self, opened: Opened, error: ServiceError) -> None:
        """Tells the client that the generation has ended with an error, if it is open."""
        if self.open.get(opened.number) is opened:
            del self.open[opened.number]
            self.refuse(opened.number, error)

    def collect(self) -> bytes:
        """Returns the next message; what does not fit into it is news again.

        SessionResponses one after the other are one that has the events of all of them.
        """
        message = bytearray()
        most = MESSAGE_BYTES_LIMIT - LEAST_BYTES
        while self._events and len(message) <= most:
            message += self._events.popleft()
        if self._events:
            self._on_news()
            return bytes(message)
        told: list[Opened] = self.inbox.told
        self.inbox.told = []
        for opened in told:
            if self.open.get(opened.number) is not opened:
                continue
            size = len(message)
            if size > most:
                self.inbox.add(opened)
                continue
            try:
                plain = opened.reader.take_plain(MESSAGE_BYTES_LIMIT - size)
                if plain is None:
                    message += self._take(opened, MESSAGE_BYTES_LIMIT - size)
                else:
                    wire.put_session_delta(message, opened.delta_head, plain)
            except Exception as error:  # noqa: BLE001 - ends this generation alone
                message[size:] = self._not_taken(opened, error)
        return bytes(message)

    def _take(self, opened: Opened, max_bytes: int) -> bytes:
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
                self.overdue = news.failure
        if news.failure is not None or news.completion is not None:
            self._finish(opened)
        return b"".join(parts)

    def _not_taken(self, opened: Opened, error: Exception) -> bytes:
        """Ends a generation whose news could not be written; returns that as a message."""
        assert opened.generation is not None  # noqa: S101 - it has begun; for the type checker
        failure = opened.generation.fault(error)
        self._finish(opened)
        return as_message(Event(id=opened.number, error=to_status(failure)))

    def _finish(self, opened: Opened) -> None:
        """Notes that the client has been given all of it: its number is free again."""
        del self.open[opened.number]
        opened.finished.set()
