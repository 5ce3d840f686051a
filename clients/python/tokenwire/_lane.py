"""One of a session's generations: what has come of it, and the stream that it is open on."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import grpc

from tokenwire._course import Course
from tokenwire._trace import TRACEPARENT, Trace
from tokenwire.errors import InternalError, TokenwireError, from_status
from tokenwire.frontend.v1 import generation_pb2
from tokenwire.types import Delta

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from tokenwire._link import Link
    from tokenwire._spans import RpcSpan

_METHOD = "tokenwire.frontend.v1.GenerationService/Session"


class Credit:
    """How much more of a generation may come."""

    def __init__(self, field: str, left: int) -> None:
        if not 0 <= left < 2**32:
            raise ValueError(f"{field}={left}: not from 0 to {2**32 - 1}")
        self.field = field
        """Its name in Open."""
        self.left = left

    @classmethod
    def of(cls, tokens: int | None, messages: int | None) -> Credit | None:
        """Returns the credit of one kind; None where none is given."""
        if tokens is not None and messages is not None:
            raise TypeError("credit_tokens and credit_messages were both given; one is allowed")
        if tokens is not None:
            return cls("credit_tokens", tokens)
        return None if messages is None else cls("credit_messages", messages)

    def use(self, delta: Delta) -> None:
        """Notes that a delta came."""
        used = len(delta.token_ids) if self.field == "credit_tokens" else 1
        self.left = max(self.left - used, 0)


class Lane:
    """A generation of a session.

    Args:
        course: what it is asked for, and what came.
        credit: how much may come; None: everything.
        surroundings: metadata of the trace that the session belongs to.
    """

    def __init__(
        self, course: Course, credit: Credit | None, surroundings: tuple[tuple[str, str], ...]
    ) -> None:
        self.progress = course.progress
        self.deltas: deque[Delta] = deque()
        """What is not read yet."""
        self._course = course
        self._credit = credit
        self._surroundings = surroundings
        self._link: Link | None = None
        self._number = 0
        self._parent: Context | None = None
        self._span: RpcSpan | None = None
        self._news = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.progress.ended

    @property
    def is_detached(self) -> bool:
        """Whether it outlives the session."""
        accepted = self.progress.accepted
        return accepted is not None and bool(accepted.resume_token)

    async def wait(self) -> None:
        """Returns when something has happened."""
        self._news.clear()
        await self._news.wait()

    def open_on(self, link: Link) -> None:
        """Opens it on a stream, for all that has not come yet."""
        try:
            request = self._course.next_request()
        except TokenwireError:
            self._news.set()
            return
        self._begin_span(link)
        number = self._number = link.add(self)
        self._link = link
        if isinstance(request, generation_pb2.AttachRequest):
            attach = generation_pb2.Attach(id=number, generation=request)
            self._allow(attach)
            link.send(generation_pb2.SessionRequest(attaches=[attach]))
            if self.progress.cancelled:
                self._send_cancel()
            return
        opening = generation_pb2.Open(id=number, generation=request, stream=self._course.stream)
        if self._span is not None and self._span.headers:
            context = generation_pb2.TraceContext(**self._span.headers)
            opening.trace_context.CopyFrom(context)
        self._allow(opening)
        link.send(generation_pb2.SessionRequest(open=opening))

    def _allow(self, beginning: generation_pb2.Open | generation_pb2.Attach) -> None:
        if self._credit is not None:
            setattr(beginning, self._credit.field, self._credit.left)

    def receive(self, event: generation_pb2.SessionEvent) -> TokenwireError | None:
        """Takes an event; returns what the stream's part of the generation failed with."""
        self._news.set()
        progress = self.progress
        if event.HasField("error"):
            self._close()
            return from_status(event.error, progress.trace_id)
        try:
            if event.HasField("delta"):
                if not progress.ended:  # else nobody wants it, and the cancel is on its way
                    delta = progress.take_delta(event.delta)
                    self.deltas.append(delta)
                    if self._credit is not None:
                        self._credit.use(delta)
                return None
            progress.take(event)
        except InternalError as error:
            self._end_span(error.code)
            self._send_cancel()
            return None
        self._course.hear()
        if event.HasField("completed"):
            self._end_span(grpc.StatusCode.OK)
            self._close()
            progress.ended = True
        return None

    def recover(self, error: TokenwireError, *, elsewhere: bool) -> float | None:
        """Returns how long to wait before it is opened again; None where it has ended."""
        self._link = None
        self._end_span(error.code)
        self._news.set()
        if self.progress.ended or (self.progress.cancelled and not self.is_detached):
            self.progress.ended = True
            return None
        try:
            delay_s = self._course.recover(error, elsewhere=elsewhere)
        except TokenwireError:
            return None  # noted for whoever reads it
        if delay_s is None:
            self.deltas.extend(self.progress.unsaid)
        return delay_s

    def break_off(self, error: TokenwireError) -> None:
        """Ends it because the session has ended."""
        self._link = None
        self._end_span(error.code)
        if self.progress.cancelled:
            self.progress.ended = True
        elif not self.progress.ended:
            self.progress.fail(error)
        self._news.set()

    def cancel(self) -> None:
        """Stops it; what came and the end still come.

        What outlives its streams goes on between two of them: it is told with the next one.
        """
        self.progress.cancelled = True
        if self._link is not None:
            self._send_cancel()
        elif not self.is_detached:
            self.progress.ended = True
            self._news.set()

    def let_go(self) -> None:
        """Takes no more of it, and stops it unless it is to go on without a caller."""
        if not self.progress.ended:
            if not self.is_detached:
                self.cancel()
            self.progress.cancelled = self.progress.ended = True

    def grant(self, amount: int) -> None:
        """Allows more; raises as `SessionGeneration.grant`."""
        credit = self._credit
        if credit is None:
            raise ValueError("the generation was opened without credit")
        if not 0 < amount < 2**32:
            raise ValueError(f"amount={amount}: not from 1 to {2**32 - 1}")
        credit.left = min(credit.left + amount, 2**32 - 1)
        if self._link is not None:
            more = generation_pb2.Credit(id=self._number, amount=amount)
            self._link.send(generation_pb2.SessionRequest(credits=[more]))

    def _send_cancel(self) -> None:
        if self._link is not None:
            command = generation_pb2.Cancel(id=self._number)
            self._link.send(generation_pb2.SessionRequest(cancel=command))

    def _close(self) -> None:
        """Notes that its number on the stream is free again."""
        if self._link is not None:
            self._link.remove(self._number)
            self._link = None

    def _begin_span(self, link: Link) -> None:
        """Begins the span of one attempt; the server goes on in it."""
        tracing = link.frontend.tracing
        if tracing is None:
            return
        if self._parent is None:
            self._parent = tracing.parent_in(self._surroundings)
        self._span = tracing.start(_METHOD, self._parent)
        self._parent = self._span.siblings
        if self._span.headers:
            self.progress.trace = Trace(self._span.headers[TRACEPARENT])

    def _end_span(self, code: grpc.StatusCode) -> None:
        """Ends the span, if there is one that has not ended."""
        if self._span is not None:
            cancelled = self.progress.cancelled
            self._span.end(grpc.StatusCode.CANCELLED if cancelled else code)
